//! The write path, opened by its invariants.
//!
//! - Durable, then visible, then acknowledged: `commit` below has the three lines in this order.
//! - One unsynced group at a time: whoever holds the writer has resolved every group before.
//! - A group is written where nothing was written before in this life of the segment.
//! - After a failed write or sync the file is never synced again: the next session cuts the log
//!   at the last durable group, in a fresh segment.
//!
//! A call is checked and queued by `submit`; the first `complete` writes and syncs the queues of
//! all sessions as one group. So a refusal is exact: nothing was written.

use std::{collections::VecDeque, io, sync::Arc};

use holdfast_base::{Epoch, Lsn, ShardId, record::Batch};

use super::{
    EmbeddedLog, SyncPolicy,
    files::Segment,
    format::{GROUP_ALIGN, GroupHeader, SegmentHeader, group_bytes},
    state::{Call, SessionId},
};
use crate::{
    Completion, LogError, Outcome, Refused, Session,
    error::is_full,
    place::{Point, Step, steps_of},
};

/// Calls of one session in flight. They join one group, so few suffice.
pub(super) const IN_FLIGHT_MAX: usize = 16;

/// Where the next group goes.
pub(super) struct Writer {
    pub segment: Arc<Segment>,
    pub end: u64,
    /// Sequence of the next group.
    pub sequence: u64,
    /// The last group is no watermark: damage to it could not be told from a torn write.
    pub unconfirmed: bool,
    /// Something not durable may stand at the end: go on in a fresh segment only.
    pub needs_cut: bool,
    /// Where groups are put together.
    pub buffer: GroupBuffer,
}

/// A buffer in which a group begins at a multiple of [`GROUP_ALIGN`] in memory.
#[derive(Default)]
pub(super) struct GroupBuffer(Vec<u8>);

impl GroupBuffer {
    /// A larger buffer is given back before the next group: groups are a few MiB at most, save for rare
    /// ones, and a watermark follows within milliseconds.
    const KEPT_BYTES: usize = 4 << 20;

    /// The parts one behind the other and zeros up to `len`, a multiple of the alignment.
    fn fill<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>, len: usize) -> &[u8] {
        self.0.clear();
        self.0.shrink_to(Self::KEPT_BYTES);
        self.0.reserve(GROUP_ALIGN + len);
        let start = self.0.as_ptr().align_offset(GROUP_ALIGN);
        self.0.resize(start, 0);
        parts.for_each(|part| self.0.extend_from_slice(part));
        self.0.resize(start + len, 0);
        self.0.get(start..).unwrap_or_default()
    }
}

impl EmbeddedLog {
    /// Writes and syncs what is queued, as one group.
    fn commit(&self, writer: &mut Writer) {
        let taken = self.state.lock().take_group();
        let Some((calls, bytes)) = taken else { return };
        let all = calls.iter().flat_map(|call| &call.batches);
        let batches: Vec<&[u8]> = all.map(|batch| batch.bytes.as_slice()).collect();
        match self.write_group(writer, &batches, bytes) {
            Ok((offset, end)) => {
                writer.unconfirmed = true;
                self.state.lock().publish(&calls, offset, end);
            }
            Err(error) => self.fail(writer, &calls, &error),
        }
    }

    /// Writes one group behind the last and syncs it. Gives where it stands.
    fn write_group(
        &self,
        writer: &mut Writer,
        batches: &[&[u8]],
        payload_bytes: usize,
    ) -> io::Result<(u64, u64)> {
        let offset = writer.end;
        let end = offset + group_bytes(payload_bytes as u64);
        let group = GroupHeader {
            // `fits` keeps payloads within a segment and below the option's bound of 4 GiB.
            payload_bytes: payload_bytes as u32,
            sequence: writer.sequence,
            durable_before: writer.sequence - 1,
            batches: batches.len() as u32,
        };
        let header = group.encode(writer.segment.salt, batches.iter().copied());
        let parts = [header.as_slice()].into_iter().chain(batches.iter().copied());
        let group = writer.buffer.fill(parts, (end - offset) as usize);
        let file = &writer.segment.file;
        match self.options.sync {
            // What is synced at once need not lie in the page cache before.
            SyncPolicy::Always => {
                file.write_direct_at(group, offset)?;
                file.sync_data()?;
            }
            SyncPolicy::Never => file.write_at(group, offset)?,
        }
        writer.end = end;
        writer.sequence += 1;
        Ok((offset, end))
    }

    fn fail(&self, writer: &mut Writer, calls: &[Call], error: &io::Error) {
        writer.needs_cut = true;
        writer.segment.set_failed();
        self.state.lock().fail(calls, &error.to_string());
    }

    /// Goes on in a fresh segment with room for so many bytes of batches.
    fn roll(&self, writer: &mut Writer, payload_bytes: usize) -> io::Result<()> {
        let (log, points) = {
            let state = self.state.lock();
            (state.log, state.points())
        };
        let header = SegmentHeader {
            log,
            number: writer.segment.header.number + 1,
            bytes: 0,
            zeroed: false,
            first_sequence: writer.sequence,
            previous_end: writer.end,
            points,
        };
        let content = group_bytes(payload_bytes as u64) + group_bytes(0);
        let segment = {
            let mut files = self.files.lock();
            let made = files.make_segment(header, content);
            self.state.lock().reserve = files.reserve_state();
            Arc::new(made?)
        };
        writer.end = segment.end();
        writer.segment = Arc::clone(&segment);
        writer.unconfirmed = false;
        let mut state = self.state.lock();
        state.room = segment.header.bytes - segment.end();
        state.segments.push_back(segment);
        Ok(())
    }

    /// Makes room for a call of so many bytes: commits what is queued, then rolls if need be.
    fn make_room(&self, bytes: usize) -> Result<(), Refused> {
        let mut writer = self.writer.lock();
        self.commit(&mut writer);
        let (room, queued) = {
            let mut state = self.state.lock();
            if writer.needs_cut || state.fits(bytes) {
                return Ok(());
            }
            // Without room nobody queues for this segment while the next one is made.
            (std::mem::take(&mut state.room), state.pending_bytes)
        };
        let Err(error) = self.roll(&mut writer, queued + bytes) else { return Ok(()) };
        if is_full(&error) {
            self.state.lock().room = room;
            return Err(Refused::Full(error.to_string()));
        }
        self.fail(&mut writer, &[], &error);
        Err(Refused::Poisoned(error.to_string()))
    }

    /// The embedded half of `Log::open_session`.
    pub(super) fn take_over(&self, shard: ShardId) -> Result<(EmbeddedSession, Point), LogError> {
        // Held throughout: no group of the older session is in writing while it is fenced.
        let mut writer = self.writer.lock();
        if writer.needs_cut {
            self.roll(&mut writer, 0).map_err(LogError::from_disk)?;
            writer.needs_cut = false;
        }
        let (id, epoch, point) = self.state.lock().open_session(shard);
        drop(writer);
        let session = EmbeddedSession {
            log: self.clone(),
            shard,
            id,
            epoch,
            in_flight: VecDeque::new(),
            took_over: false,
        };
        Ok((session, point))
    }
}

/// A session of the embedded log.
pub(super) struct EmbeddedSession {
    log: EmbeddedLog,
    shard: ShardId,
    id: SessionId,
    epoch: Epoch,
    /// Last positions of the calls in flight.
    in_flight: VecDeque<Vec<Lsn>>,
    /// The batch with the take-over record was accepted.
    took_over: bool,
}

impl Session for EmbeddedSession {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn submit(&mut self, batches: Vec<Batch>) -> Result<(), Refused> {
        let bytes = batches.iter().map(|batch| batch.bytes.len()).sum();
        let bytes_max = self.log.options.group_bytes_max;
        if bytes > bytes_max {
            return Err(Refused::TooLarge { bytes, bytes_max });
        }
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return Err(Refused::Busy);
        }
        let steps = steps_of(&batches, self.shard, self.epoch, self.took_over)?;
        loop {
            let mut state = self.log.state.lock();
            let after = state.check(self.id, self.shard, &steps)?;
            if state.fits(bytes) {
                let firsts = steps.iter().map(|step| step.first_lsn).collect();
                let (session, shard) = (self.id, self.shard);
                state.queue(Call { session, shard, batches, bytes, firsts, after });
                break;
            }
            drop(state);
            self.log.make_room(bytes)?;
        }
        self.in_flight.push_back(steps.iter().map(Step::last_lsn).collect());
        self.took_over = true;
        Ok(())
    }

    fn complete(&mut self) -> Option<Completion> {
        let last_lsns = self.in_flight.pop_front()?;
        let outcome = self.outcome().or_else(|| {
            let mut writer = self.log.writer.lock();
            // Another session may have committed this call while we waited for the writer; then
            // what is queued now can wait for its own owner.
            self.outcome().or_else(|| {
                self.log.commit(&mut writer);
                self.outcome()
            })
        });
        let lost = || Outcome::Unknown("the session was closed".to_owned());
        Some(Completion { last_lsns, outcome: outcome.unwrap_or_else(lost) })
    }

    fn watermark(&mut self) -> Result<(), LogError> {
        let mut writer = self.log.writer.lock();
        {
            let mut state = self.log.state.lock();
            let idle = state.pending.is_empty() && !writer.needs_cut;
            if !idle || !writer.unconfirmed || state.room < group_bytes(0) {
                return Ok(());
            }
            state.room -= group_bytes(0);
        }
        match self.log.write_group(&mut writer, &[], 0) {
            Ok((offset, end)) => {
                writer.unconfirmed = false;
                self.log.state.lock().publish(&[], offset, end);
                Ok(())
            }
            Err(error) => {
                self.log.fail(&mut writer, &[], &error);
                Err(LogError::from_disk(error))
            }
        }
    }
}

impl EmbeddedSession {
    fn outcome(&self) -> Option<Outcome> {
        let mut state = self.log.state.lock();
        state.sittings.get_mut(&self.id).and_then(|sitting| sitting.outcomes.pop_front())
    }
}

impl Drop for EmbeddedSession {
    fn drop(&mut self) {
        // Not while one of its calls is in writing: its outcome would find no owner.
        let _writer = self.log.writer.lock();
        self.log.state.lock().close_session(self.id);
    }
}
