//! What an op reads: staged rows over cached rows over the engine, as one ordered map.
//!
//! The three kinds of reading differ only in what they put together: under the shard lock (overlay,
//! cache, engine), optimistic without a lock (cache, engine), pinned (a copy of the overlay's rows
//! for the op's keys, and an engine snapshot). Each remembers the latest record that it saw, so that
//! the reply can wait until that record is durable.

use std::{cmp::Ordering, iter::Peekable, ops::ControlFlow};

use holdfast_base::{Lsn, SharedBytes};
use holdfast_engine::{Engine, EngineError, Lookup, ScanEnd, Snapshot, Tier, Visit};
use smallvec::SmallVec;

use crate::{
    BucketState, Buckets, OpError, RowCache,
    core::{Core, is_head},
    overlay::{StagedRow, StagedRows, range_of},
    written::Written,
};

/// Where rows below the overlay come from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// The engine as it is now, with the row cache, which holds staged heads too, in front.
    Live { engine: &'a dyn Engine, cache: &'a RowCache, buckets: &'a Buckets },
    /// The engine as it was.
    Pinned(&'a dyn Snapshot),
}

/// One consistent way of reading rows.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub staged: Staged<'a>,
    pub source: Source<'a>,
    pub tier: Tier,
}

/// A staged row: its key, its value, the record.
type StagedEntry<'a> = (&'a SharedBytes, &'a Option<SharedBytes>, Lsn);

/// Where staged rows come from.
#[derive(Clone, Copy)]
pub(crate) enum Staged<'a> {
    /// Nowhere: the reader makes sure that none concern it.
    None,
    /// From nowhere but the head in the row cache. Other rows, which may be staged, are refused as
    /// not in memory: the reader then pins.
    OneHead,
    /// All of them, under the shard lock.
    All(&'a Core),
    /// A copy of those that concern the reader.
    Copied(&'a StagedRows),
}

impl<'a> Staged<'a> {
    fn get(self, row: &[u8]) -> Option<&'a StagedRow> {
        match self {
            Staged::None | Staged::OneHead => None,
            Staged::All(core) => core.overlay.get(row),
            Staged::Copied(rows) => rows.get(row),
        }
    }

    fn range(
        self,
        from: &[u8],
        to: &[u8],
    ) -> Box<dyn DoubleEndedIterator<Item = StagedEntry<'a>> + 'a> {
        match self {
            Staged::None | Staged::OneHead => Box::new(std::iter::empty()),
            Staged::All(core) if is_head(from) => {
                let heads = core.staged_heads(from, to, usize::MAX).into_iter();
                Box::new(heads.map(|(key, (row, lsn))| (key, row, lsn)))
            }
            Staged::All(core) => Box::new(core.overlay.range(from, to).map(entry)),
            Staged::Copied(rows) => Box::new(range_of(rows, from, to).map(entry)),
        }
    }
}

fn entry<'a>((key, row): (&'a SharedBytes, &'a StagedRow)) -> StagedEntry<'a> {
    (key, &row.value, row.lsn)
}

impl View<'_> {
    /// One row. `bucket` is the one of the key that the row belongs to.
    pub(crate) fn get(
        &self,
        row: &[u8],
        bucket: u16,
        observed: &mut Lsn,
    ) -> Result<Option<SharedBytes>, OpError> {
        match self.source {
            Source::Live { engine, cache, buckets } => {
                if matches!(self.staged, Staged::OneHead) && !is_head(row) {
                    return Err(OpError::ColdRange);
                }
                let seen = buckets.state(bucket);
                if !seen.is_quiet()
                    && !is_head(row)
                    && let Some(staged) = self.staged.get(row)
                {
                    *observed = (*observed).max(staged.lsn);
                    return Ok(staged.value.clone());
                }
                if let Some((row, lsn)) = cache.get(row) {
                    *observed = (*observed).max(lsn);
                    return Ok(row);
                }
                let found = known(engine.get(row, self.tier)?, row)?;
                cache.fill(buckets, bucket, seen, row, &found);
                Ok(found)
            }
            Source::Pinned(snapshot) => {
                if let Some(staged) = self.staged.get(row) {
                    *observed = (*observed).max(staged.lsn);
                    return Ok(staged.value.clone());
                }
                known(snapshot.get(row, self.tier)?, row)
            }
        }
    }

    /// Visits the rows of `from..to` in order, staged and written ones included.
    pub(crate) fn scan(
        &self,
        written: &Written,
        range: (&[u8], &[u8]),
        reverse: bool,
        observed: &mut Lsn,
        visit: &mut Visit<'_>,
    ) -> Result<(), OpError> {
        if matches!(self.staged, Staged::OneHead) {
            return Err(OpError::ColdRange);
        }
        let mut patch = Patch::new(self.staged, written, range, reverse);
        let mut stopped = false;
        let mut merged = |key: &[u8], value: &[u8]| {
            let mut replaced = false;
            while let Some((patched, row)) = patch.next(Some(key), observed) {
                replaced = patched[..] == *key;
                if let Some(row) = row
                    && visit(patched, row).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            if replaced {
                return ControlFlow::Continue(());
            }
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        };
        let end = self.scan_source(range, reverse, &mut merged)?;
        if end == ScanEnd::Incomplete {
            return Err(OpError::ColdRange);
        }
        while !stopped && let Some((patched, row)) = patch.next(None, observed) {
            if let Some(row) = row {
                stopped = visit(patched, row).is_break();
            }
        }
        Ok(())
    }

    fn scan_source(
        &self,
        (from, to): (&[u8], &[u8]),
        reverse: bool,
        visit: &mut Visit<'_>,
    ) -> Result<ScanEnd, EngineError> {
        match self.source {
            Source::Live { engine, .. } => {
                engine.snapshot()?.scan(from, to, reverse, self.tier, visit)
            }
            Source::Pinned(snapshot) => snapshot.scan(from, to, reverse, self.tier, visit),
        }
    }
}

/// A row's key, its value, and the record that staged it if it is not this one's.
type PatchRow<'a> = (&'a SharedBytes, Option<&'a SharedBytes>, Option<Lsn>);
/// Such rows in one direction.
type PatchRows<'a> = Peekable<Box<dyn Iterator<Item = PatchRow<'a>> + 'a>>;

/// Staged and written rows of a range, merged as they are asked for; written ones win.
struct Patch<'a> {
    staged: PatchRows<'a>,
    written: PatchRows<'a>,
    reverse: bool,
}

impl<'a> Patch<'a> {
    fn new(
        staged: Staged<'a>,
        written: &'a Written,
        (from, to): (&[u8], &[u8]),
        reverse: bool,
    ) -> Patch<'a> {
        let staged = staged.range(from, to).map(|(key, row, lsn)| (key, row.as_ref(), Some(lsn)));
        let written = written.range(from, to).map(|row| (&row.key, row.value.as_ref(), None));
        let directed: [Box<dyn Iterator<Item = PatchRow<'a>>>; 2] = if reverse {
            [Box::new(staged.rev()), Box::new(written.rev())]
        } else {
            [Box::new(staged), Box::new(written)]
        };
        let [staged, written] = directed.map(Iterator::peekable);
        Patch { staged, written, reverse }
    }

    /// The next row, if it comes no later than `until`.
    fn next(
        &mut self,
        until: Option<&[u8]>,
        observed: &mut Lsn,
    ) -> Option<(&'a SharedBytes, Option<&'a SharedBytes>)> {
        let order = |a: &[u8], b: &[u8]| if self.reverse { b.cmp(a) } else { a.cmp(b) };
        let first = match (self.staged.peek(), self.written.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((staged, ..)), Some((written, ..))) => order(staged, written),
        };
        let side = if first.is_lt() { &mut self.staged } else { &mut self.written };
        let due = side.peek().is_some_and(|(key, ..)| {
            until.is_none_or(|until| order(key, until) != Ordering::Greater)
        });
        if !due {
            return None;
        }
        let (key, row, lsn) = side.next()?;
        if first.is_eq() {
            self.staged.next();
        }
        *observed = (*observed).max(lsn.unwrap_or_default());
        Some((key, row))
    }
}

fn known(lookup: Lookup, row: &[u8]) -> Result<Option<SharedBytes>, OpError> {
    match lookup {
        Lookup::Found(value) => Ok(Some(value.into())),
        Lookup::Absent => Ok(None),
        Lookup::Incomplete => Err(OpError::Miss(vec![row.into()])),
    }
}

/// A pinned reader's own copy of what it needs, taken under the shard lock and read without it.
pub(crate) struct Pin {
    pub staged: StagedRows,
    pub snapshot: Box<dyn Snapshot>,
}

impl Pin {
    pub(crate) fn view(&self, tier: Tier) -> View<'_> {
        View { staged: Staged::Copied(&self.staged), source: Source::Pinned(&*self.snapshot), tier }
    }
}

/// The states of an op's buckets, to see afterwards whether anything happened in between.
pub(crate) struct Witness(SmallVec<[(u16, BucketState); 4]>);

impl Witness {
    /// `None` if a staged record touches one of them.
    pub(crate) fn of(buckets: &Buckets, op: impl Iterator<Item = u16>) -> Option<Witness> {
        op.map(|bucket| {
            let state = buckets.state(bucket);
            state.is_quiet().then_some((bucket, state))
        })
        .collect::<Option<_>>()
        .map(Witness)
    }

    pub(crate) fn unchanged(&self, buckets: &Buckets) -> bool {
        self.0.iter().all(|&(bucket, seen)| buckets.state(bucket) == seen)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use holdfast_base::key::Family;
    use holdfast_engine::Tier;

    use crate::{
        ops::string::{self, Expiry, SetCondition},
        testing,
    };

    #[test]
    fn a_scan_of_heads_under_the_lock_sees_each_staged_one_once_as_it_is_now() {
        let shard = testing::open();
        let set = |name: &str, value: &str| {
            let (always, never) = (SetCondition::Always, Expiry::None);
            testing::write(&shard, name, |txn, key| {
                string::set(txn, key, value.as_bytes(), never, always, false)
            })
            .expect("nothing refuses a small string");
        };
        set("applied", "1");
        set("both", "old");
        testing::settle(&shard);
        set("both", "new");
        testing::commit(&shard);
        set("staged", "1");
        set("both", "newest");
        let mut values = Vec::new();
        let done = shard.write(Tier::Any, |txn| {
            let (from, to) = ([Family::Head as u8], [Family::Head as u8 + 1]);
            txn.scan((&from, &to), false, |_, value| {
                values.push(String::from_utf8_lossy(&value[1..]).into_owned());
                ControlFlow::Continue(())
            })
        });
        assert!(done.is_ok());
        values.sort();
        assert_eq!(values, ["1", "1", "newest"]);
    }
}
