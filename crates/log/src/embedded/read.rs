//! Retained reads: from the files, with memory bounded by what was asked for and one group.
//!
//! A reader takes a segment under the lock and reads it without; a segment that is trimmed
//! meanwhile stays readable. Every group is verified again: damage below the durable end is
//! reported, never skipped.

use std::sync::Arc;

use holdfast_base::{Lsn, ShardId};

use super::{
    EmbeddedLog,
    files::Segment,
    recover::corrupt,
    walk::{Window, read_group, take_batch},
};
use crate::{EpochFilter, ReadBatches, ReadError};

/// A read under way.
struct Reading {
    shard: ShardId,
    from: Lsn,
    /// The next position to take.
    next: Lsn,
    bytes_max: usize,
    filter: EpochFilter,
    bytes: Vec<u8>,
    full: bool,
}

impl EmbeddedLog {
    /// The embedded half of `Log::read`.
    pub(super) fn read_batches(
        &self,
        shard: ShardId,
        from: Lsn,
        bytes_max: usize,
    ) -> Result<ReadBatches, ReadError> {
        let mut reading = Reading {
            shard,
            from,
            next: from,
            bytes_max,
            filter: EpochFilter::trusting_first(),
            bytes: Vec::new(),
            full: false,
        };
        let mut before = None;
        while !reading.full {
            let Some(segment) = self.segment_behind(&reading, before.take())? else { break };
            let end = segment.end();
            reading.read_segment(&segment, end)?;
            before = Some((segment, end));
        }
        Ok(ReadBatches { from, next: reading.next, bytes: reading.bytes })
    }

    /// The segment in which to read on, behind the one that was read up to there; `None` at the
    /// end of the log.
    fn segment_behind(
        &self,
        reading: &Reading,
        before: Option<(Arc<Segment>, u64)>,
    ) -> Result<Option<Arc<Segment>>, ReadError> {
        let state = self.state.lock();
        let shard = state.shards.get(&reading.shard);
        let next = shard.map_or(Lsn(1), |shard| shard.committed.next_lsn);
        let first = state.first_lsn(reading.shard);
        if let Some((before, end)) = before {
            if before.end() > end {
                // It grew meanwhile.
                return Ok(Some(before));
            }
            let number = before.header.number + 1;
            // If the next one was trimmed meanwhile, what has been read is whole as it is.
            let behind = state.segments.iter().find(|segment| segment.header.number == number);
            let is_last = state.segments.back().is_some_and(|last| last.header.number < number);
            // A whole segment was read: that must have brought us to where the next begins.
            let reached = match behind {
                Some(behind) => Some(state.start_of(behind, reading.shard)),
                None => is_last.then_some(next),
            };
            if reached.is_some_and(|reached| reading.next < reached) {
                let what = format!("lsn {} is missing before the end", reading.next);
                return Err(corrupt(&before.path, end, what).into());
            }
            return Ok(behind.filter(|_| reading.next < next).cloned());
        }
        if reading.from < first {
            return Err(ReadError::Trimmed(first));
        }
        if reading.from > next {
            return Err(ReadError::Beyond(next));
        }
        if reading.from == next {
            return Ok(None);
        }
        let begins = |segment: &Arc<Segment>| state.start_of(segment, reading.shard);
        let count = state.segments.partition_point(|segment| begins(segment) <= reading.from);
        Ok(count.checked_sub(1).and_then(|index| state.segments.get(index)).cloned())
    }
}

impl Reading {
    /// Takes what the segment holds of the shard before `end`, until full.
    fn read_segment(&mut self, segment: &Segment, end: u64) -> Result<(), ReadError> {
        let mut window = Window::new(&*segment.file, end);
        let start = segment.index.look_up(self.shard, self.next);
        let mut offset = start.unwrap_or(segment.header.header_bytes());
        while offset < end && !self.full {
            let Some(group) = read_group(&mut window, segment.salt, offset)? else {
                let what = "the group here fails its checks";
                return Err(corrupt(&segment.path, offset, what).into());
            };
            let mut rest = group.payload;
            for _ in 0..group.header.batches {
                self.take(segment, offset, &mut rest)?;
            }
            offset = group.end;
        }
        Ok(())
    }

    fn take(&mut self, segment: &Segment, offset: u64, rest: &mut &[u8]) -> Result<(), ReadError> {
        let (step, bytes) = take_batch(rest)
            .map_err(|damage| corrupt(&segment.path, offset, format!("a batch: {damage}")))?;
        segment.index.note(step.shard, step.first_lsn, offset);
        if step.shard != self.shard || step.last_lsn() < self.next || self.full {
            return Ok(());
        }
        if !self.bytes.is_empty() && self.bytes.len() + bytes.len() > self.bytes_max {
            self.full = true;
            return Ok(());
        }
        // Only the first batch may begin before the position asked for.
        let begins_early = self.bytes.is_empty() && step.first_lsn < self.next;
        let admitted = self.filter.admit(step.epoch, step.first_n, step.count);
        if !admitted || (step.first_lsn != self.next && !begins_early) {
            let what = format!("lsn {} follows where {} must", step.first_lsn, self.next);
            return Err(corrupt(&segment.path, offset, what).into());
        }
        self.bytes.extend_from_slice(bytes);
        self.next = step.last_lsn().next();
        Ok(())
    }
}
