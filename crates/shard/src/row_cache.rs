//! The row cache: rows in memory, absent ones included, in front of the engine; staged heads too.
//!
//! Guarantees: a staged head stays until its newest version is applied; a clean row is never older
//! than the engine's applied one, because a fill is refused after a change (see [`crate::Buckets`])
//! and the applier updates rows in place. Clean rows are bounded in bytes, and any of them may be
//! forgotten at any time; staged ones are bounded by the shard. Rows lie in parts under a lock each,
//! held for one lookup; what leaves is chosen by a clock hand that spares rows read since it passed.
//! Which rows those are depends on the calls alone, so a simulator's run repeats.

use std::hash::Hasher as _;

use hashbrown::HashTable;
use holdfast_base::{Lsn, SharedBytes};
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHasher;

use crate::{BucketState, Buckets, overlay::StagedRow};

/// A row's value, or that there is none.
type Row = Option<SharedBytes>;

/// Locks, at most. A small cache has fewer parts, so that each holds a useful number of rows.
const PARTS_MAX: usize = 64;
/// Fewest bytes in a part.
const PART_BYTES_MIN: u64 = 256 << 10;
/// Larger rows than this fraction of a part are not kept.
const ROW_FRACTION: usize = 4;
/// What an entry costs besides its bytes: its slot (56), its place in the index (5 to 10), and two
/// reference-counted allocations (16 each, rounded up by the allocator).
const ENTRY_BYTES: usize = 112;

/// See the module's head. The hash is not seeded: keys of heads and of members by hash carry a hash
/// under a secret seed, so that nobody can aim at a position through them; positions of list elements
/// and of chunks do not, and can make a few lookups slower.
pub struct RowCache {
    parts: Box<[Mutex<Part>]>,
}

/// One row.
struct Slot {
    hash: u64,
    key: SharedBytes,
    row: Row,
    /// The record that staged it, or zero: it is as in the engine.
    staged: Lsn,
    /// Read since the hand passed.
    read: bool,
}

impl Slot {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.key.len() + self.row.as_ref().map_or(0, |row| row.len())
    }
}

struct Part {
    index: HashTable<u32>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    hand: usize,
    clean_bytes: usize,
    clean_bytes_max: usize,
    staged: usize,
}

fn hash_of(key: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(key);
    hasher.finish()
}

impl RowCache {
    /// A cache of at most `bytes_max` of clean rows.
    pub fn new(bytes_max: u64) -> RowCache {
        let parts = usize::try_from(bytes_max / PART_BYTES_MIN).unwrap_or(PARTS_MAX);
        let parts = parts.clamp(1, PARTS_MAX).next_power_of_two();
        let part_bytes = usize::try_from(bytes_max).unwrap_or(usize::MAX) / parts;
        RowCache { parts: (0..parts).map(|_| Mutex::new(Part::new(part_bytes))).collect() }
    }

    /// The row if it is known: its value or that it does not exist, and the record that staged it
    /// if that is not applied yet.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<(Row, Lsn)> {
        let hash = hash_of(key);
        let mut part = self.part(hash);
        let at = part.find(hash, key)?;
        let slot = part.slots[at].as_mut()?;
        slot.read = true;
        Some((slot.row.clone(), slot.staged))
    }

    /// The row if it is staged.
    pub(crate) fn staged(&self, key: &[u8]) -> Option<StagedRow> {
        let (value, lsn) = self.get(key)?;
        (lsn != Lsn::ZERO).then_some(StagedRow { lsn, value })
    }

    /// Stages a row; a later version replaces an earlier one. Called under the shard lock, after the
    /// bucket was told.
    pub(crate) fn stage(&self, key: &SharedBytes, row: &Row, lsn: Lsn) {
        let hash = hash_of(key);
        self.part(hash).put(hash, key, row, lsn);
    }

    /// The record has been applied to the engine: its row is clean unless a later one changed it.
    pub(crate) fn applied(&self, key: &[u8], lsn: Lsn) {
        let hash = hash_of(key);
        self.part(hash).clean(hash, lsn);
    }

    /// Forgets a row, staged or clean: the record that staged it is lost.
    pub(crate) fn forget(&self, key: &[u8]) {
        let hash = hash_of(key);
        let mut part = self.part(hash);
        if let Some(at) = part.find(hash, key) {
            part.remove(at);
        }
    }

    /// Keeps a row that was read from the engine while the bucket was in state `seen`, unless a
    /// write has touched the bucket since.
    pub(crate) fn fill(
        &self,
        buckets: &Buckets,
        bucket: u16,
        seen: BucketState,
        key: &[u8],
        row: &Row,
    ) {
        if !seen.is_quiet() {
            return;
        }
        let hash = hash_of(key);
        let mut part = self.part(hash);
        #[cfg(feature = "planted-bugs")]
        if crate::planted::is_planted(crate::planted::Bug::StaleFill) {
            return part.put(hash, &key.into(), row, Lsn::ZERO);
        }
        // Under the part's lock, which whoever stages or replaces the row takes too: either the
        // bucket's change is seen here, or the row that is put here is overwritten there.
        if buckets.state(bucket) == seen && part.find(hash, key).is_none() {
            part.put(hash, &key.into(), row, Lsn::ZERO);
        }
    }

    /// Takes in an applied row that is not a head, if it is held: so that a large collection being
    /// written does not crowd out hot rows.
    pub(crate) fn replace(&self, key: &SharedBytes, row: &Row) {
        let hash = hash_of(key);
        let mut part = self.part(hash);
        if part.find(hash, key).is_some() {
            part.put(hash, key, row, Lsn::ZERO);
        }
    }

    /// Forgets every clean row.
    pub fn clear(&self) {
        for part in &self.parts {
            let mut part = part.lock();
            for at in 0..part.slots.len() {
                if part.slots[at].as_ref().is_some_and(|slot| slot.staged == Lsn::ZERO) {
                    part.remove(at);
                }
            }
        }
    }

    /// Bytes of clean rows held, by our own count.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.lock().clean_bytes as u64).sum()
    }

    /// Rows held, and how many of them are staged.
    pub fn len(&self) -> (usize, usize) {
        let count = |part: &Mutex<Part>| {
            let part = part.lock();
            (part.index.len(), part.staged)
        };
        self.parts.iter().map(count).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    }

    fn part(&self, hash: u64) -> MutexGuard<'_, Part> {
        // Bits that the index uses neither for its groups nor for its tags.
        self.parts[(hash >> 44) as usize & (self.parts.len() - 1)].lock()
    }
}

impl Part {
    fn new(clean_bytes_max: usize) -> Part {
        Part {
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            clean_bytes: 0,
            clean_bytes_max,
            staged: 0,
        }
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        let is_it = |at: &u32| {
            let slot = self.slots[*at as usize].as_ref();
            slot.is_some_and(|slot| slot.hash == hash && *slot.key == *key)
        };
        self.index.find(hash, is_it).map(|at| *at as usize)
    }

    /// Adds or replaces a row.
    fn put(&mut self, hash: u64, key: &SharedBytes, row: &Row, staged: Lsn) {
        let at = match self.find(hash, key) {
            Some(at) => {
                self.count_out(at);
                if let Some(slot) = self.slots[at].as_mut() {
                    slot.row.clone_from(row);
                    slot.staged = staged;
                }
                at
            }
            None => {
                let (key, row) = (key.clone(), row.clone());
                self.insert(Slot { hash, key, row, staged, read: false })
            }
        };
        self.count_in(at);
    }

    fn insert(&mut self, slot: Slot) -> usize {
        let hash = slot.hash;
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[at as usize] = Some(slot);
        let slots = &self.slots;
        let rehash = |at: &u32| slots[*at as usize].as_ref().map_or(0, |slot| slot.hash);
        self.index.insert_unique(hash, at, rehash);
        at as usize
    }

    /// Cleans a slot of this hash. The key is not looked at, which would mostly have to be fetched from memory:
    /// whatever was staged up to `lsn` is applied, and each of its rows asks once.
    fn clean(&mut self, hash: u64, lsn: Lsn) {
        #[cfg(feature = "planted-bugs")]
        let lsn = match crate::planted::is_planted(crate::planted::Bug::CleanedTooEarly) {
            true => Lsn(u64::MAX),
            false => lsn,
        };
        let is_due = |at: &u32| {
            let slot = self.slots[*at as usize].as_ref();
            slot.is_some_and(|slot| {
                slot.hash == hash && slot.staged != Lsn::ZERO && slot.staged <= lsn
            })
        };
        let Some(at) = self.index.find(hash, is_due).map(|at| *at as usize) else { return };
        if let Some(slot) = self.slots[at].as_mut() {
            slot.staged = Lsn::ZERO;
            self.staged -= 1;
            self.count_in(at);
        }
    }

    fn remove(&mut self, at: usize) {
        self.count_out(at);
        let Some(slot) = self.slots[at].take() else { return };
        if let Ok(entry) = self.index.find_entry(slot.hash, |other| *other as usize == at) {
            entry.remove();
        }
        self.free.push(at as u32);
    }

    /// The slot is about to change or to go.
    fn count_out(&mut self, at: usize) {
        match &self.slots[at] {
            Some(slot) if slot.staged == Lsn::ZERO => self.clean_bytes -= slot.bytes(),
            Some(_) => self.staged -= 1,
            None => {}
        }
    }

    /// The slot has changed or come. Clean ones make room for it, or it goes itself.
    fn count_in(&mut self, at: usize) {
        let bytes = match &self.slots[at] {
            Some(slot) if slot.staged == Lsn::ZERO => slot.bytes(),
            Some(_) => return self.staged += 1,
            None => return,
        };
        self.clean_bytes += bytes;
        if bytes > self.clean_bytes_max / ROW_FRACTION {
            return self.remove(at);
        }
        while self.clean_bytes > self.clean_bytes_max {
            let victim = self.next_victim(at);
            self.remove(victim);
        }
    }

    /// The next clean row that was not read since the hand passed last; `spared` has just come.
    /// There is one: the clean bytes exceed what one row may have.
    fn next_victim(&mut self, spared: usize) -> usize {
        loop {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            if let Some(slot) = &mut self.slots[at]
                && slot.staged == Lsn::ZERO
                && at != spared
                && !std::mem::take(&mut slot.read)
            {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn row(bytes: usize) -> Row {
        Some(SharedBytes::from(vec![7; bytes]))
    }

    #[test]
    fn rows_of_one_hash_are_cleaned_each() {
        let mut part = Part::new(1 << 20);
        let lsn = |at: usize| Lsn(at as u64 + 1);
        let keys: Vec<SharedBytes> = [b"a", b"b", b"c"].map(|key| key[..].into()).to_vec();
        for (at, key) in keys.iter().enumerate() {
            part.put(7, key, &row(1), lsn(at));
        }
        // The first was staged again since.
        part.put(7, &keys[0], &row(2), Lsn(9));
        for at in 0..keys.len() {
            part.clean(7, lsn(at));
        }
        assert_eq!(part.staged, 1);
        let at = part.find(7, &keys[0]).expect("it is staged");
        assert_eq!(part.slots[at].as_ref().map(|slot| slot.staged), Some(Lsn(9)));
        part.clean(7, Lsn(9));
        assert_eq!(part.staged, 0);
    }

    fn filled(cache: &RowCache, buckets: &Buckets, key: &[u8], row: &Row) {
        cache.fill(buckets, 0, buckets.state(0), key, row);
    }

    #[test]
    fn a_fill_read_before_a_write_is_refused_after_it() {
        let (cache, buckets) = (RowCache::new(1 << 20), Buckets::default());
        let seen = buckets.state(1);
        buckets.staged(1);
        buckets.applied(1);
        cache.fill(&buckets, 1, seen, b"row", &None);
        assert_eq!(cache.get(b"row"), None);
        cache.fill(&buckets, 1, buckets.state(1), b"row", &None);
        assert_eq!(cache.get(b"row"), Some((None, Lsn::ZERO)));
    }

    #[test]
    fn a_fill_never_replaces_what_is_held() {
        let (cache, buckets) = (RowCache::new(1 << 20), Buckets::default());
        cache.stage(&b"row"[..].into(), &row(1), Lsn(5));
        filled(&cache, &buckets, b"row", &None);
        assert_eq!(cache.get(b"row"), Some((row(1), Lsn(5))));
    }

    #[test]
    fn the_bound_in_bytes_holds_for_clean_rows_and_staged_ones_stay() {
        let (cache, buckets) = (RowCache::new(1 << 20), Buckets::default());
        for i in 0..5_000u32 {
            cache.stage(&i.to_be_bytes()[..].into(), &row(100), Lsn(1));
        }
        for i in 10_000..100_000u32 {
            filled(&cache, &buckets, &i.to_be_bytes(), &row(100));
        }
        assert!(cache.bytes() <= 1 << 20, "{} bytes", cache.bytes());
        let (rows, staged) = cache.len();
        assert_eq!(staged, 5_000);
        assert!(rows > staged + 3_000, "{rows} rows");
        (0..5_000u32).for_each(|i| cache.applied(&i.to_be_bytes(), Lsn(1)));
        assert!(cache.bytes() <= 1 << 20, "{} bytes", cache.bytes());
        assert_eq!(cache.len().1, 0);
    }

    #[test]
    fn rows_that_are_read_outlive_a_scan_of_others() {
        let (cache, buckets) = (RowCache::new(1 << 20), Buckets::default());
        let hot = |i: u32| [b"hot", &i.to_be_bytes()[..]].concat();
        (0..500).for_each(|i| filled(&cache, &buckets, &hot(i), &row(100)));
        for i in 0..50_000u32 {
            let _ = cache.get(&hot(i % 500));
            filled(&cache, &buckets, &i.to_be_bytes(), &row(100));
        }
        let kept = (0..500).filter(|i| cache.get(&hot(*i)).is_some()).count();
        assert!(kept > 490, "{kept} of 500 hot rows are left");
    }

    #[test]
    fn a_row_too_large_for_its_part_goes_and_takes_its_older_version_with_it() {
        let (cache, buckets) = (RowCache::new(1 << 20), Buckets::default());
        filled(&cache, &buckets, b"row", &row(10));
        cache.replace(&b"row"[..].into(), &row(1 << 19));
        assert_eq!(cache.get(b"row"), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Stage(u8, u8),
        Applied(u8, u64),
        Forget(u8),
        Fill(u8),
        Replace(u8, u8),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<u8>(), any::<u8>()).prop_map(|(key, value)| Step::Stage(key, value)),
            (any::<u8>(), 0..40u64).prop_map(|(key, back)| Step::Applied(key, back)),
            any::<u8>().prop_map(Step::Forget),
            any::<u8>().prop_map(Step::Fill),
            (any::<u8>(), any::<u8>()).prop_map(|(key, value)| Step::Replace(key, value)),
            Just(Step::Clear),
        ]
    }

    proptest! {
        /// Staged rows are as in a map; a clean row is the last one put there, or not held.
        #[test]
        fn it_is_a_map_that_may_forget_clean_rows(steps in prop::collection::vec(step(), 1..400)) {
            // One part of four kilobytes: about thirty clean rows.
            let cache = RowCache { parts: Box::new([Mutex::new(Part::new(4 << 10))]) };
            let buckets = Buckets::default();
            let mut model: HashMap<u8, (Row, Lsn)> = HashMap::new();
            let mut lsn = Lsn::ZERO;
            for step in steps {
                lsn = lsn.next();
                match step {
                    Step::Stage(key, value) => {
                        let staged = row(value.into());
                        cache.stage(&[key][..].into(), &staged, lsn);
                        model.insert(key, (staged, lsn));
                    }
                    Step::Applied(key, back) => {
                        let until = Lsn(lsn.0.saturating_sub(back));
                        cache.applied(&[key], until);
                        if let Some((_, staged)) = model.get_mut(&key).filter(|m| m.1 <= until) {
                            *staged = Lsn::ZERO;
                        }
                    }
                    Step::Forget(key) => {
                        cache.forget(&[key]);
                        model.remove(&key);
                    }
                    Step::Fill(key) => {
                        let held = cache.get(&[key]).is_some();
                        filled(&cache, &buckets, &[key], &None);
                        if !held {
                            model.insert(key, (None, Lsn::ZERO));
                        }
                    }
                    Step::Replace(key, value) if cache.staged(&[key]).is_none() => {
                        let held = cache.get(&[key]).is_some();
                        cache.replace(&[key][..].into(), &row(value.into()));
                        if held {
                            model.insert(key, (row(value.into()), Lsn::ZERO));
                        }
                    }
                    Step::Replace(..) => {}
                    Step::Clear => cache.clear(),
                }
                for (key, (expected, staged)) in &model {
                    match cache.get(&[*key]) {
                        Some(held) => prop_assert_eq!(&held, &(expected.clone(), *staged)),
                        None => prop_assert_eq!(*staged, Lsn::ZERO, "a staged row is gone"),
                    }
                }
                prop_assert!(cache.bytes() <= 4 << 10);
            }
        }
    }
}
