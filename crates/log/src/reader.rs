//! What every consumer of a log shares: the epoch filter and the result of a read.
//!
//! The filter drops what an old owner appended after a take-over, whatever the backend let in. It
//! is pure, and it must stand between the backend and every consumer: replicas, the engine, the
//! cache, columns and other regions.

use holdfast_base::{
    Epoch, Lsn,
    record::{BatchView, Record},
};

/// Drops records of an older epoch and records that are not the next of theirs.
///
/// Fed in the order of the log, it admits for each epoch a run n = 0, 1, 2 … that ends when a
/// higher epoch begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochFilter {
    /// Epoch of the last admitted record, and the place that the next one has.
    last: Option<(Epoch, u64)>,
}

impl EpochFilter {
    /// At the start of a log: the first record admitted opens its epoch.
    pub fn new() -> EpochFilter {
        EpochFilter { last: Some((Epoch(0), 0)) }
    }

    /// Behind the last record that a cursor has seen.
    pub fn after(epoch: Epoch, n: u64) -> EpochFilter {
        EpochFilter { last: Some((epoch, n.saturating_add(1))) }
    }

    /// Where a session of this epoch begins: its first record is the next.
    pub fn opened(epoch: Epoch) -> EpochFilter {
        EpochFilter { last: Some((epoch, 0)) }
    }

    /// In the middle of a log whose records are known to have passed the filter before, as those
    /// of the embedded log have: trusts the first one.
    pub fn trusting_first() -> EpochFilter {
        EpochFilter { last: None }
    }

    /// Whether `count` consecutive records of this epoch, from place `first_n`, are to be seen.
    pub fn admit(&mut self, epoch: Epoch, first_n: u64, count: u32) -> bool {
        let next = match self.last {
            None => true,
            Some((last, _)) if epoch > last => first_n == 0,
            Some((last, next_n)) => epoch == last && first_n == next_n,
        };
        if next {
            self.last = Some((epoch, first_n.saturating_add(count.into())));
        }
        next
    }
}

impl Default for EpochFilter {
    fn default() -> Self {
        EpochFilter::new()
    }
}

/// Whole, verified batches of one shard in their stored form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadBatches {
    pub(crate) from: Lsn,
    pub(crate) next: Lsn,
    pub(crate) bytes: Vec<u8>,
}

impl ReadBatches {
    /// What a read from `from` gave: whole batches that were verified, the first of them holding
    /// `from`, the last ending before `next`.
    pub fn new(from: Lsn, next: Lsn, bytes: Vec<u8>) -> ReadBatches {
        ReadBatches { from, next, bytes }
    }

    /// The position to read from next.
    pub fn next(&self) -> Lsn {
        self.next
    }

    /// Whether nothing was there.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The batches in their stored form, one behind the other. The first may begin before the
    /// position that was asked for.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The batches in order. The first may begin before the position that was asked for.
    pub fn batches(&self) -> impl Iterator<Item = BatchView<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || BatchView::decode(&mut rest).ok())
    }

    /// The records in order, from exactly the position that was asked for.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let from = self.from;
        self.batches().flat_map(|batch| batch.records()).filter(move |record| record.lsn >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(filter: EpochFilter, records: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut filter = filter;
        let seen = |&&(epoch, n): &&(u64, u64)| filter.admit(Epoch(epoch), n, 1);
        records.iter().filter(seen).copied().collect()
    }

    #[test]
    fn late_appends_of_an_old_owner_are_dropped() {
        // The old owner lost one place to the take-over and its queue went on behind it.
        let log = [(1, 0), (1, 1), (2, 0), (1, 3), (1, 4), (2, 1), (1, 5), (2, 2)];
        let seen = admitted(EpochFilter::new(), &log);
        assert_eq!(seen, [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]);
    }

    #[test]
    fn a_gap_within_an_epoch_ends_that_epoch() {
        let log = [(1, 0), (1, 2), (1, 3), (2, 1), (2, 0), (2, 1)];
        assert_eq!(admitted(EpochFilter::new(), &log), [(1, 0), (2, 0), (2, 1)]);
    }

    #[test]
    fn a_writers_own_late_appends_behind_its_barrier_are_dropped() {
        let log = [(3, 7), (4, 0), (3, 8), (4, 1)];
        assert_eq!(admitted(EpochFilter::after(Epoch(3), 6), &log), [(3, 7), (4, 0), (4, 1)]);
    }

    #[test]
    fn a_duplicate_is_dropped_and_a_trusted_start_is_not() {
        assert_eq!(admitted(EpochFilter::new(), &[(1, 0), (1, 0), (1, 1)]), [(1, 0), (1, 1)]);
        let seen = admitted(EpochFilter::trusting_first(), &[(5, 9), (4, 0), (5, 10), (5, 12)]);
        assert_eq!(seen, [(5, 9), (5, 10)]);
    }

    #[test]
    fn a_batch_counts_as_its_records() {
        let mut filter = EpochFilter::new();
        assert!(filter.admit(Epoch(1), 0, 5));
        assert!(!filter.admit(Epoch(1), 4, 2));
        assert!(filter.admit(Epoch(1), 5, 2));
        assert!(!filter.admit(Epoch(2), 7, 1));
    }
}
