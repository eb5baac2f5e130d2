//! The row cache: hot rows in memory, absent ones included, in front of the engine.
//!
//! Guarantees: it never holds a row older than the engine's applied one, because fills are refused
//! after a change (see [`crate::Buckets`]) and the applier updates rows in place. It is bounded in
//! bytes. It may forget any row at any time.

use holdfast_base::{SharedBytes, key::Family};
use quick_cache::{
    Weighter,
    sync::{Cache, DefaultLifecycle},
};
use rustc_hash::FxBuildHasher;

use crate::{BucketState, Buckets};

/// A row's value, or that there is none.
type Row = Option<SharedBytes>;

#[derive(Clone)]
struct RowBytes;

/// What an entry costs besides its bytes: two reference-counted allocations and the cache's own
/// slot (measured 113 bytes for 80 of payload with inline values; two allocations more here).
const ENTRY_BYTES: u64 = 96;

impl Weighter<SharedBytes, Row> for RowBytes {
    fn weight(&self, key: &SharedBytes, row: &Row) -> u64 {
        ENTRY_BYTES + key.len() as u64 + row.as_ref().map_or(0, |value| value.len() as u64)
    }
}

/// Hot rows by row key. Keys of heads and of members by hash carry a hash under a secret seed, so a fast
/// hasher without a seed of its own cannot be aimed at through them; positions of list elements and of
/// chunks do not, and can make a few lookups slower.
pub struct RowCache {
    rows: Cache<SharedBytes, Row, RowBytes, FxBuildHasher>,
    row_bytes_max: usize,
}

impl RowCache {
    /// A cache of at most `bytes_max`; larger rows than a 64th of it are not kept.
    pub fn new(bytes_max: u64) -> RowCache {
        let items = usize::try_from(bytes_max / 256).unwrap_or(usize::MAX).max(64);
        let row_bytes_max = usize::try_from(bytes_max / 64).unwrap_or(usize::MAX);
        let lifecycle = DefaultLifecycle::default();
        let rows = Cache::with(items, bytes_max, RowBytes, FxBuildHasher, lifecycle);
        RowCache { rows, row_bytes_max }
    }

    /// The row if it is known: its value, or that it does not exist.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<Row> {
        self.rows.get(key)
    }

    /// Keeps a row that was read from the engine while the bucket was in state `seen`, unless a
    /// write has touched the bucket since.
    pub fn fill(
        &self,
        buckets: &Buckets,
        bucket: u16,
        seen: BucketState,
        key: SharedBytes,
        row: &Row,
    ) {
        if !seen.is_quiet() || row.as_ref().is_some_and(|value| value.len() > self.row_bytes_max) {
            return;
        }
        let _ordered = buckets.lock(bucket);
        #[cfg(feature = "planted-bugs")]
        if crate::planted::is_planted(crate::planted::Bug::StaleFill) {
            return self.rows.insert(key, row.clone());
        }
        if buckets.state(bucket) == seen {
            self.rows.insert(key, row.clone());
        }
    }

    /// Takes in an applied row; called by the applier, under the bucket's lock. Heads are kept even
    /// if they were not cached: the next write to the key needs its head first of all. Other rows
    /// are only replaced, so that a large collection being written does not crowd out hot rows.
    pub(crate) fn update(&self, key: &SharedBytes, row: &Row) {
        if row.as_ref().is_some_and(|value| value.len() > self.row_bytes_max) {
            self.rows.remove(key);
        } else if key.first() == Some(&(Family::Head as u8)) {
            self.rows.insert(key.clone(), row.clone());
        } else {
            // An error says that the row is not cached: then there is nothing to replace.
            let _ = self.rows.replace(key.clone(), row.clone(), false);
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.rows.clear();
    }

    /// Bytes held, by our own count.
    pub fn bytes(&self) -> u64 {
        self.rows.weight()
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fill_read_before_a_write_is_refused_after_it() {
        let (cache, buckets) = (RowCache::new(1 << 20), Buckets::default());
        let key = SharedBytes::from(&b"row"[..]);
        let seen = buckets.state(1);
        buckets.staged(1);
        buckets.applied(1);
        cache.fill(&buckets, 1, seen, key.clone(), &None);
        assert_eq!(cache.get(b"row"), None);
        cache.fill(&buckets, 1, buckets.state(1), key, &None);
        assert_eq!(cache.get(b"row"), Some(None));
    }

    #[test]
    fn the_bound_in_bytes_holds() {
        let (cache, buckets) = (RowCache::new(1 << 20), Buckets::default());
        for i in 0..100_000u32 {
            let row = Some(SharedBytes::from(vec![7; 100]));
            let key = SharedBytes::from(&i.to_be_bytes()[..]);
            cache.fill(&buckets, 0, buckets.state(0), key, &row);
        }
        assert!(cache.bytes() <= 1 << 20, "{} bytes", cache.bytes());
        assert!(cache.len() > 1_000);
    }
}
