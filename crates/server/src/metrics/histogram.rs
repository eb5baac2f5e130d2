//! Histograms of whole numbers: microseconds, records, bytes.
//!
//! Four buckets for each power of two: at most 19 % error. Adding is two relaxed atomic increments;
//! nothing allocates.

use std::sync::atomic::{AtomicU64, Ordering};

/// Sub-buckets for each power of two.
const FINE: u64 = 4;
/// Buckets up to 2^32: more than an hour of microseconds, 4 GiB of bytes.
const BUCKETS: usize = (32 * FINE) as usize;

/// See the module's head.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Histogram { buckets, sum: AtomicU64::new(0) }
    }
}

fn bucket_of(value: u64) -> usize {
    if value < FINE {
        return value as usize;
    }
    let power = u64::from(value.ilog2());
    let fine = (value >> (power - 2)) & (FINE - 1);
    (((power - 1) * FINE + fine) as usize).min(BUCKETS - 1)
}

/// The first value that lies above the bucket.
fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < FINE {
        return bucket + 1;
    }
    let (power, fine) = (bucket / FINE + 1, bucket % FINE);
    (FINE + fine + 1) << (power - 2)
}

impl Histogram {
    /// Counts `value`, `count` times.
    #[inline]
    pub fn add(&self, value: u64, count: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(value)) {
            bucket.fetch_add(count, Ordering::Relaxed);
            self.sum.fetch_add(value.saturating_mul(count), Ordering::Relaxed);
        }
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

/// Several histograms of the same thing, one a thread, as one.
pub(super) struct Sum {
    /// Values below each power of two from 1 on, cumulated.
    pub below: Vec<(u64, u64)>,
    /// Values.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl Sum {
    pub(super) fn of(parts: &[&Histogram]) -> Sum {
        let mut below = Vec::new();
        let mut count = 0;
        for bucket in 0..BUCKETS {
            let here = parts.iter().filter_map(|part| part.buckets.get(bucket));
            count += here.map(|bucket| bucket.load(Ordering::Relaxed)).sum::<u64>();
            let edge = upper_bound(bucket);
            if edge.is_power_of_two() {
                below.push((edge, count));
            }
        }
        let sum = parts.iter().map(|part| part.sum.load(Ordering::Relaxed)).sum();
        Sum { below, count, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_below_its_bucket_and_within_19_percent() {
        for value in (0..2_000).chain((1..32).flat_map(|p| [(1u64 << p) - 1, 1 << p, (1 << p) + 1]))
        {
            let bucket = bucket_of(value);
            let upper = upper_bound(bucket);
            assert!(value < upper, "{value} in bucket {bucket} below {upper}");
            assert!(bucket == 0 || value >= upper_bound(bucket - 1), "{value}");
        }
    }

    #[test]
    fn a_sum_counts_everything_once() {
        let (a, b) = (Histogram::default(), Histogram::default());
        a.add(10, 3);
        b.add(1_000_000, 1);
        let Sum { below, count, sum } = Sum::of(&[&a, &b]);
        assert_eq!((count, sum), (4, 1_000_030));
        assert!(below.contains(&(8, 0)) && below.contains(&(16, 3)), "{below:?}");
        assert!(below.contains(&(1 << 19, 3)) && below.contains(&(1 << 20, 4)), "{below:?}");
    }
}
