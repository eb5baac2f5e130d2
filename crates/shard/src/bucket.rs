//! Buckets: for each of 65,536 key positions, how many staged records touch it and a version.
//!
//! Guarantees: a reader that finds a count of zero may skip the overlay; a reader that finds the
//! same state before and after saw no write in between; a cache fill that was read under an older
//! version is refused. Collisions cost time, never correctness.

use std::sync::atomic::{AtomicU64, Ordering};

/// Count of buckets; a power of two. 512 KiB of counters in all.
const BUCKETS: usize = 1 << 16;

/// One staged record more, and a new version.
const STAGED: u64 = (1 << 32) | 1;

/// What a bucket looked like: version in the upper half, staged records in the lower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BucketState(u64);

impl BucketState {
    /// Whether no staged record touches the bucket.
    #[inline]
    pub fn is_quiet(self) -> bool {
        self.0 as u32 == 0
    }
}

/// All buckets of a shard.
#[derive(Debug)]
pub struct Buckets {
    states: Box<[AtomicU64]>,
}

impl Default for Buckets {
    fn default() -> Self {
        Buckets { states: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Buckets {
    /// The bucket of a key hash.
    #[inline]
    pub fn of(hash: u64) -> u16 {
        hash as u16
    }

    /// The state now.
    #[inline]
    pub fn state(&self, bucket: u16) -> BucketState {
        BucketState(self.word(bucket).load(Ordering::Acquire))
    }

    /// A record that touches the bucket was staged. Called under the shard lock.
    pub(crate) fn staged(&self, bucket: u16) {
        self.word(bucket).fetch_add(STAGED, Ordering::AcqRel);
    }

    /// A record that touches the bucket is out of the overlay: in the engine, or dropped.
    pub(crate) fn applied(&self, bucket: u16) {
        // Count down and version up in one step, so that nobody sees one without the other.
        self.word(bucket).fetch_add(STAGED - 2, Ordering::AcqRel);
    }

    #[inline]
    fn word(&self, bucket: u16) -> &AtomicU64 {
        // A u16 cannot pass 65,536 buckets.
        &self.states[usize::from(bucket)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_leaves_the_count_as_it_was_and_the_version_changed() {
        let buckets = Buckets::default();
        let before = buckets.state(7);
        buckets.staged(7);
        assert!(!buckets.state(7).is_quiet());
        assert!(buckets.state(8).is_quiet());
        buckets.applied(7);
        assert!(buckets.state(7).is_quiet());
        assert_ne!(buckets.state(7), before);
    }
}
