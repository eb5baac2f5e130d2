//! Counters and latency histograms of the data path, and their Prometheus text.
//!
//! A histogram has four buckets for each power of two of microseconds: at most 19 % error. Adding
//! is one relaxed atomic increment on memory that one thread writes; nothing allocates.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::tls::TlsMetrics;

/// Sub-buckets for each power of two.
const FINE: u64 = 4;
/// Buckets up to 2^32 microseconds, more than an hour.
const BUCKETS: usize = (32 * FINE) as usize;

/// Durations in microseconds.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Histogram { buckets, sum_us: AtomicU64::new(0) }
    }
}

fn bucket_of(us: u64) -> usize {
    if us < FINE {
        return us as usize;
    }
    let power = u64::from(us.ilog2());
    let fine = (us >> (power - 2)) & (FINE - 1);
    (((power - 1) * FINE + fine) as usize).min(BUCKETS - 1)
}

/// The first value that lies above the bucket.
fn upper_bound_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < FINE {
        return bucket + 1;
    }
    let (power, fine) = (bucket / FINE + 1, bucket % FINE);
    (FINE + fine + 1) << (power - 2)
}

impl Histogram {
    /// Counts `count` durations of `us` microseconds each.
    #[inline]
    pub fn add(&self, us: u64, count: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(us)) {
            bucket.fetch_add(count, Ordering::Relaxed);
            self.sum_us.fetch_add(us.saturating_mul(count), Ordering::Relaxed);
        }
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

/// Several histograms of the same thing (one a thread) as one Prometheus histogram.
pub fn write_histogram(out: &mut String, name: &str, labels: &str, parts: &[&Histogram]) {
    let mut cumulative = 0;
    for bucket in 0..BUCKETS {
        let here: u64 = parts
            .iter()
            .filter_map(|part| part.buckets.get(bucket))
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .sum();
        cumulative += here;
        // Powers of two from 16 us to 16 s are enough to read quantiles from.
        let edge = upper_bound_us(bucket);
        if edge.is_power_of_two() && (16..=1 << 24).contains(&edge) {
            let seconds = edge as f64 / 1e6;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{seconds}\"}} {cumulative}");
        }
    }
    let sum: u64 = parts.iter().map(|part| part.sum_us.load(Ordering::Relaxed)).sum();
    let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {cumulative}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", sum as f64 / 1e6);
    let _ = writeln!(out, "{name}_count{{{labels}}} {cumulative}");
}

/// Kinds of commands whose latency is told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Reads of keys.
    Read,
    /// Writes; their latency includes durability.
    Write,
    /// EXEC.
    Transaction,
    /// Everything about connection and server.
    Other,
}

/// All families with their label.
pub const FAMILIES: [(Family, &str); 4] = [
    (Family::Read, "read"),
    (Family::Write, "write"),
    (Family::Transaction, "transaction"),
    (Family::Other, "other"),
];

/// What one data thread counts. Only that thread writes.
#[derive(Default)]
pub struct WorkerMetrics {
    /// Latency by family, from the end of reading the request to the hand-over of its reply.
    pub latency: [Histogram; 4],
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections open.
    pub open: AtomicU64,
    /// Connections refused because there were too many.
    pub refused: AtomicU64,
    /// Connections cut off for their own fault (protocol, output limit).
    pub cut_off: AtomicU64,
    /// Bytes read.
    pub bytes_in: AtomicU64,
    /// Bytes written.
    pub bytes_out: AtomicU64,
    /// Error replies.
    pub errors: AtomicU64,
    /// Commands that had to wait for a row from the disk.
    pub fetched: AtomicU64,
    /// Times that reading stopped because too much was staged.
    pub paused: AtomicU64,
}

/// What the committer, applier and background count.
#[derive(Default)]
pub struct NodeMetrics {
    /// Duration of the log's write and sync, by group.
    pub commit: Histogram,
    /// Records committed.
    pub records: AtomicU64,
    /// Groups committed.
    pub groups: AtomicU64,
    /// Duration of applying a step.
    pub apply: Histogram,
    /// Engine flushes forced.
    pub flushes: AtomicU64,
    /// Keys deleted by active expiry.
    pub expired: AtomicU64,
    /// Times that the log failed and was reopened.
    pub reopened: AtomicU64,
    /// 1 while growing writes are refused because the disk is nearly full.
    pub disk_short: AtomicU64,
    /// Times that the wall clock jumped too far ahead.
    pub clock_jumps: AtomicU64,
    /// What is counted of TLS.
    pub(crate) tls: TlsMetrics,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_below_its_bucket_and_within_19_percent() {
        for us in (0..2_000).chain((1..32).flat_map(|p| [(1u64 << p) - 1, 1 << p, (1 << p) + 1])) {
            let bucket = bucket_of(us);
            let upper = upper_bound_us(bucket);
            assert!(us < upper, "{us} in bucket {bucket} below {upper}");
            assert!(bucket == 0 || us >= upper_bound_us(bucket - 1), "{us}");
        }
    }

    #[test]
    fn the_text_counts_everything_once() {
        let (a, b) = (Histogram::default(), Histogram::default());
        a.add(10, 3);
        b.add(1_000_000, 1);
        let mut out = String::new();
        write_histogram(&mut out, "x_seconds", "family=\"read\"", &[&a, &b]);
        assert!(out.contains("x_seconds_bucket{family=\"read\",le=\"0.000016\"} 3\n"), "{out}");
        assert!(out.contains("x_seconds_count{family=\"read\"} 4\n"), "{out}");
        assert!(out.contains("x_seconds_sum{family=\"read\"} 1.00003\n"), "{out}");
    }
}
