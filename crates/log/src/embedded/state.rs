//! What the embedded log knows in memory: shards, segments, sessions and the queue of calls.
//!
//! One lock guards it all and is never held over I/O. Queued calls of all sessions form the next
//! group; whoever completes first writes and syncs it for everybody. Pure: no file is touched here.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use holdfast_base::{Epoch, LogId, Lsn, ShardId, record::Batch};

use super::{
    files::{ReserveState, Segment},
    format::{Points, group_bytes},
};
use crate::{
    Outcome, Refused,
    place::{Point, Step},
};

/// Names a session within this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SessionId(pub u64);

/// One shard.
pub(super) struct Shard {
    /// Behind the last durable batch.
    pub committed: Point,
    /// Behind the last queued or written batch.
    pub staged: Point,
    /// The highest epoch that was given out.
    pub epoch_given: Epoch,
    /// The session that may append.
    pub session: Option<SessionId>,
    /// Records below are given up.
    pub trim_below: Lsn,
}

/// One call of `submit`, not written yet.
pub(super) struct Call {
    pub session: SessionId,
    pub shard: ShardId,
    pub batches: Vec<Batch>,
    /// Bytes of the batches.
    pub bytes: usize,
    /// First position of each batch, for the index.
    pub firsts: Vec<Lsn>,
    /// Where the shard stands behind it.
    pub after: Point,
}

/// One open session.
pub(super) struct Sitting {
    pub shard: ShardId,
    /// Outcomes that were not asked for yet, oldest first.
    pub outcomes: VecDeque<Outcome>,
    /// Why it accepts nothing more.
    pub closed: Option<Refused>,
}

/// Everything in memory.
pub(super) struct State {
    pub log: LogId,
    pub shards: BTreeMap<ShardId, Shard>,
    /// Oldest first; the last one is appended to. Never empty.
    pub segments: VecDeque<Arc<Segment>>,
    pub pending: Vec<Call>,
    pub pending_bytes: usize,
    /// Bytes left in the last segment behind everything written or being written.
    pub room: u64,
    pub sittings: BTreeMap<SessionId, Sitting>,
    /// As it was when the files were last changed: nobody waits for the files to ask.
    pub reserve: ReserveState,
    last_session: u64,
    /// Largest payload of a group.
    group_bytes_max: usize,
}

impl State {
    pub fn new(
        log: LogId,
        points: &Points,
        segments: VecDeque<Arc<Segment>>,
        room: u64,
        group_bytes_max: usize,
    ) -> State {
        let shards = points.iter().map(|(&shard, &point)| (shard, Shard::at(point))).collect();
        State {
            log,
            shards,
            segments,
            pending: Vec::new(),
            pending_bytes: 0,
            room,
            sittings: BTreeMap::new(),
            reserve: ReserveState::default(),
            last_session: 0,
            group_bytes_max,
        }
    }

    /// The table of a segment that begins behind what is durable.
    pub fn points(&self) -> Points {
        let written = self.shards.iter().filter(|(_, shard)| shard.committed.next_lsn > Lsn(1));
        written.map(|(&id, shard)| (id, shard.committed)).collect()
    }

    /// Where a shard stands before the first group of this segment.
    pub fn start_of(&self, segment: &Segment, shard: ShardId) -> Lsn {
        segment.header.points.get(&shard).map_or(Lsn(1), |point| point.next_lsn)
    }

    /// The first position that is kept.
    pub fn first_lsn(&self, shard: ShardId) -> Lsn {
        self.segments.front().map_or(Lsn(1), |segment| self.start_of(segment, shard))
    }

    /// Gives the shard a new session, in a higher epoch; the older one is fenced.
    pub fn open_session(&mut self, shard: ShardId) -> (SessionId, Epoch, Point) {
        self.last_session += 1;
        let id = SessionId(self.last_session);
        let start = Point::start(self.log, shard);
        let entry = self.shards.entry(shard).or_insert_with(|| Shard::at(start));
        let epoch = Epoch(entry.epoch_given.max(entry.committed.epoch).0 + 1);
        entry.epoch_given = epoch;
        let old = entry.session.replace(id);
        if let Some(old) = old {
            self.fence(old, epoch);
        }
        let sitting = Sitting { shard, outcomes: VecDeque::new(), closed: None };
        self.sittings.insert(id, sitting);
        (id, epoch, self.withdraw(shard))
    }

    /// Ends a session that a newer epoch has replaced.
    fn fence(&mut self, id: SessionId, epoch: Epoch) {
        let Some(sitting) = self.sittings.get_mut(&id) else { return };
        sitting.closed.get_or_insert(Refused::Fenced(epoch));
        // True as it was, but nothing of an older owner is acknowledged after a take-over.
        for outcome in sitting.outcomes.iter_mut().filter(|o| **o == Outcome::Durable) {
            *outcome = Outcome::Unknown(format!("durable before epoch {epoch} took over"));
        }
        let withdrawn = self.pending.iter().filter(|call| call.session == id);
        sitting.outcomes.extend(withdrawn.map(|_| Outcome::Fenced(epoch)));
    }

    /// Forgets a session and what it had queued.
    pub fn close_session(&mut self, id: SessionId) {
        let Some(sitting) = self.sittings.remove(&id) else { return };
        let current = self.shards.get_mut(&sitting.shard).filter(|s| s.session == Some(id));
        if let Some(shard) = current {
            shard.session = None;
            self.withdraw(sitting.shard);
        }
    }

    /// Takes a shard's queued calls back. No call of it may be in writing.
    fn withdraw(&mut self, shard: ShardId) -> Point {
        self.pending.retain(|call| call.shard != shard);
        self.pending_bytes = self.pending.iter().map(|call| call.bytes).sum();
        let start = Point::start(self.log, shard);
        let entry = self.shards.entry(shard).or_insert_with(|| Shard::at(start));
        entry.staged = entry.committed;
        entry.committed
    }

    /// Where the shard will stand behind these batches, if the session may append them here.
    pub fn check(&self, id: SessionId, shard: ShardId, steps: &[Step]) -> Result<Point, Refused> {
        if let Some(closed) = self.sittings.get(&id).and_then(|sitting| sitting.closed.clone()) {
            return Err(closed);
        }
        let entry = self.shards.get(&shard).filter(|entry| entry.session == Some(id));
        let Some(entry) = entry else {
            return Err(Refused::Invalid(format!("not a session of shard {shard}")));
        };
        steps.iter().try_fold(entry.staged, |point, step| {
            let stale = Refused::Stale { expected: point.next_lsn, found: step.first_lsn };
            point.advance(step).ok_or(stale)
        })
    }

    /// Whether a call of so many bytes can join the next group within the last segment. Room for
    /// a watermark always stays behind it.
    pub fn fits(&self, bytes: usize) -> bool {
        let payload = self.pending_bytes + bytes;
        let group_fits = payload <= self.group_bytes_max || self.pending.is_empty();
        let watermark = group_bytes(0);
        group_fits && group_bytes(payload as u64) + watermark <= self.room
    }

    /// Queues a checked call that fits.
    pub fn queue(&mut self, call: Call) {
        if let Some(shard) = self.shards.get_mut(&call.shard) {
            shard.staged = call.after;
        }
        self.pending_bytes += call.bytes;
        self.pending.push(call);
    }

    /// Takes the queue as the next group; its room is spent. `None` if nothing is queued.
    pub fn take_group(&mut self) -> Option<(Vec<Call>, usize)> {
        if self.pending.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.pending_bytes);
        self.room = self.room.saturating_sub(group_bytes(bytes as u64));
        Some((std::mem::take(&mut self.pending), bytes))
    }

    /// A group is durable up to `end` of the last segment.
    pub fn publish(&mut self, calls: &[Call], offset: u64, end: u64) {
        let Some(segment) = self.segments.back() else { return };
        for call in calls {
            for &first in &call.firsts {
                segment.index.note(call.shard, first, offset);
            }
            if let Some(shard) = self.shards.get_mut(&call.shard) {
                shard.committed = call.after;
            }
            if let Some(sitting) = self.sittings.get_mut(&call.session) {
                sitting.outcomes.push_back(Outcome::Durable);
            }
        }
        segment.set_end(end);
    }

    /// A write failed: every call in it or behind it is unknown, every session is poisoned.
    pub fn fail(&mut self, calls: &[Call], why: &str) {
        let behind = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        for call in calls.iter().chain(&behind) {
            if let Some(sitting) = self.sittings.get_mut(&call.session) {
                sitting.outcomes.push_back(Outcome::Unknown(why.to_owned()));
            }
        }
        for sitting in self.sittings.values_mut() {
            sitting.closed.get_or_insert_with(|| Refused::Poisoned(why.to_owned()));
        }
        for shard in self.shards.values_mut() {
            shard.staged = shard.committed;
        }
    }

    /// Takes the segments out of sight that every shard has given up; never the last one.
    pub fn take_trimmed(&mut self) -> Vec<Arc<Segment>> {
        let mut trimmed = Vec::new();
        while let Some(next) = self.segments.get(1) {
            let given_up = |(id, shard): (&ShardId, &Shard)| {
                let end = self.start_of(next, *id);
                end <= shard.trim_below || end == self.first_lsn(*id)
            };
            if !self.shards.iter().all(given_up) {
                break;
            }
            trimmed.extend(self.segments.pop_front());
        }
        trimmed
    }
}

impl Shard {
    fn at(point: Point) -> Shard {
        Shard {
            committed: point,
            staged: point,
            epoch_given: point.epoch,
            session: None,
            trim_below: Lsn::ZERO,
        }
    }
}
