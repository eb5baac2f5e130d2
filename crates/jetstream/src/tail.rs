//! The shared reader of one shard: takes the stream's messages in order and knows which of them are
//! the log.
//!
//! - A barrier with an epoch above all before it opens that epoch; what an older session still sends
//!   behind it is dead, even if the server accepted it.
//! - A call is in the log if all its parts are there in order and it is the next of its epoch.
//! - A sign of life counts if it is of the epoch that is open.
//! - What is in the log continues it: position, epoch, place and chained checksum must fit, and the
//!   stream's sequence has no gap. Anything else is damage, and said so.
//!
//! Pure: fed by whoever reads the stream, and by sessions with what the server has acknowledged.

use std::collections::VecDeque;

use holdfast_base::{
    Epoch, LogId, Lsn, ShardId,
    record::{BatchHeader, BatchView},
};
use holdfast_log::{
    EpochFilter, Owner, Sign,
    place::{Point, Step},
};

use crate::message::{Content, Message, Part};

/// A call or a barrier that is in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Sequence of its first message.
    pub first_sequence: u64,
    /// Sequence of its last message; dead ones may stand between.
    pub last_sequence: u64,
    /// Position of its first record; of the next record for a barrier.
    pub first_lsn: Lsn,
    /// Position behind its last record.
    pub next_lsn: Lsn,
    /// Epoch of its records.
    pub epoch: Epoch,
    /// Place of the first one in that epoch.
    pub first_n: u64,
    /// Bytes of its batches; 0 for a barrier.
    pub bytes: usize,
}

/// What a message turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// The last one of a call, a barrier, or a sign of life.
    Whole,
    /// A part, and more of its call are due.
    Part,
    /// Not in the log: its session was over, or an earlier call of it is missing.
    Dead,
    /// Taken before.
    Known,
}

/// What the stream holds is not what was put into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Of the message at which it shows.
    pub sequence: u64,
    /// What is wrong.
    pub what: String,
}

/// A call of which parts have come.
struct Partial {
    first_sequence: u64,
    first_n: u64,
    next_index: u32,
    count: u32,
    bytes: Vec<u8>,
}

/// See the module's head.
pub struct Tail {
    log: LogId,
    shard: ShardId,
    /// Behind the last call in the log; not known before the first message of a trimmed stream.
    point: Option<Point>,
    /// Epoch of the last session that began.
    opened: Epoch,
    filter: EpochFilter,
    last_sequence: u64,
    /// Sequence of the last message that was not dead.
    last_sign: u64,
    /// The session that is open was given up by its owner.
    given_up: bool,
    partial: Option<Partial>,
    entries: VecDeque<Entry>,
    /// The last calls with their bytes, for a follower that reads behind the end.
    recent: VecDeque<(Entry, Vec<u8>)>,
    recent_bytes: usize,
    recent_bytes_max: usize,
}

impl Tail {
    /// Of a stream whose first message has this sequence. Above 1 the stream was trimmed, to the
    /// beginning of something in the log, which is trusted to be so.
    pub fn new(log: LogId, shard: ShardId, first_sequence: u64) -> Tail {
        Tail {
            log,
            shard,
            point: (first_sequence <= 1).then(|| Point::start(log, shard)),
            opened: Epoch(0),
            filter: EpochFilter::new(),
            last_sequence: first_sequence.saturating_sub(1),
            last_sign: 0,
            given_up: false,
            partial: None,
            entries: VecDeque::new(),
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_bytes_max: 0,
        }
    }

    /// Goes on at the first message of a stream that was trimmed further than this had read.
    pub fn begin_anew(&mut self, first_sequence: u64) {
        let recent_bytes_max = self.recent_bytes_max;
        *self = Tail { recent_bytes_max, ..Tail::new(self.log, self.shard, first_sequence) };
    }

    /// Behind the last call in the log.
    pub fn point(&self) -> Point {
        self.point.unwrap_or_else(|| Point::start(self.log, self.shard))
    }

    /// The highest epoch that a session opened.
    pub fn opened(&self) -> Epoch {
        self.opened
    }

    /// The last sign of life.
    pub fn sign(&self) -> Sign {
        let is_owned = self.opened > Epoch(0) && !self.given_up;
        let owner = if is_owned { Owner::Session(self.opened) } else { Owner::Nobody };
        Sign { number: self.last_sign, owner }
    }

    /// Sequence of the last message that was taken.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// First position that is kept.
    pub fn first_lsn(&self) -> Lsn {
        self.entries.front().map_or(self.point().next_lsn, |entry| entry.first_lsn)
    }

    /// The calls from the one that holds `from` on.
    pub fn entries_from(&self, from: Lsn) -> impl Iterator<Item = &Entry> {
        let at = self.entries.partition_point(|entry| entry.next_lsn <= from);
        self.entries.range(at..).filter(|entry| entry.next_lsn > entry.first_lsn)
    }

    /// Keeps so many bytes of the last calls that are taken.
    pub fn keep_recent(&mut self, bytes_max: usize) {
        self.recent_bytes_max = bytes_max;
        self.bound_recent();
    }

    /// The bytes of these entries, which follow each other, if all of them are kept.
    pub fn recent(&self, entries: &[Entry]) -> Option<Vec<u8>> {
        let first = entries.first()?;
        let at = self.recent.partition_point(|(entry, _)| entry.next_lsn <= first.first_lsn);
        let kept = self.recent.range(at..).take(entries.len());
        let mut bytes = Vec::with_capacity(entries.iter().map(|entry| entry.bytes).sum());
        let mut wanted = entries.iter();
        for (entry, call) in kept {
            if wanted.next() != Some(entry) {
                return None;
            }
            bytes.extend_from_slice(call);
        }
        wanted.next().is_none().then_some(bytes)
    }

    fn bound_recent(&mut self) {
        while self.recent_bytes > self.recent_bytes_max
            && let Some((_, bytes)) = self.recent.pop_front()
        {
            self.recent_bytes -= bytes.len();
        }
    }

    /// Forgets what ends at or below `below`, and gives the sequence of the first message left. Never
    /// the last entry: from it a reader learns where the log stands.
    pub fn trim(&mut self, below: Lsn) -> u64 {
        while let (Some(first), true) = (self.entries.front(), self.entries.len() > 1) {
            if first.next_lsn > below {
                break;
            }
            self.entries.pop_front();
        }
        self.entries.front().map_or(1, |entry| entry.first_sequence)
    }

    /// Forgets entries of which messages before this sequence were trimmed; never the last one.
    pub fn forget_before(&mut self, first_sequence: u64) {
        while let (Some(first), true) = (self.entries.front(), self.entries.len() > 1) {
            if first.first_sequence >= first_sequence {
                break;
            }
            self.entries.pop_front();
        }
    }

    /// Takes the next message.
    pub fn take(&mut self, sequence: u64, bytes: &[u8]) -> Result<Taken, Damage> {
        if sequence <= self.last_sequence {
            return Ok(Taken::Known);
        }
        let damage = |what: String| Damage { sequence, what };
        if sequence != self.last_sequence + 1 {
            let what = format!("messages from {} on are missing before it", self.last_sequence + 1);
            return Err(damage(what));
        }
        let message = Message::decode(bytes).map_err(|wrong| damage(wrong.to_owned()))?;
        if message.shard != self.shard || message.incarnation != self.point().incarnation {
            return Err(damage("of another shard, or of another life of this one".to_owned()));
        }
        let taken = match message.content {
            Content::Barrier(point) => self.take_barrier(sequence, message.epoch, point),
            Content::Part(part) => self.take_part(sequence, message.epoch, part),
            Content::Renewal => self.take_sign(message.epoch, false),
            Content::Parting => self.take_sign(message.epoch, true),
        };
        let taken = taken.map_err(damage)?;
        if taken != Taken::Dead {
            self.last_sign = sequence;
        }
        self.last_sequence = sequence;
        Ok(taken)
    }

    fn take_barrier(&mut self, sequence: u64, epoch: Epoch, at: Point) -> Result<Taken, String> {
        if epoch <= self.opened {
            return Ok(Taken::Dead);
        }
        let point = *self.point.get_or_insert(at);
        if point != at {
            return Err(format!(
                "a session began behind {}, where the log is at {}",
                at.next_lsn, point.next_lsn
            ));
        }
        self.opened = epoch;
        self.given_up = false;
        self.filter = EpochFilter::opened(epoch);
        self.partial = None;
        self.entries.push_back(Entry {
            first_sequence: sequence,
            last_sequence: sequence,
            first_lsn: point.next_lsn,
            next_lsn: point.next_lsn,
            epoch,
            first_n: 0,
            bytes: 0,
        });
        Ok(Taken::Whole)
    }

    fn take_sign(&mut self, epoch: Epoch, parting: bool) -> Result<Taken, String> {
        if epoch > self.opened {
            return Err(beginning_missing(epoch));
        }
        if epoch < self.opened {
            return Ok(Taken::Dead);
        }
        self.given_up |= parting;
        Ok(Taken::Whole)
    }

    fn take_part(&mut self, sequence: u64, epoch: Epoch, part: Part<'_>) -> Result<Taken, String> {
        if self.point.is_none() {
            self.trust(epoch, part)?;
        }
        if epoch > self.opened {
            return Err(beginning_missing(epoch));
        }
        // Asked of a copy: a call is admitted when it is whole.
        if epoch < self.opened || !{ self.filter }.admit(epoch, part.first_n, 0) {
            return Ok(Taken::Dead);
        }
        if part.index == 0 {
            self.partial = Some(Partial {
                first_sequence: sequence,
                first_n: part.first_n,
                next_index: 0,
                count: part.count,
                bytes: Vec::new(),
            });
        }
        let fits = |partial: &&mut Partial| {
            (partial.first_n, partial.next_index, partial.count)
                == (part.first_n, part.index, part.count)
        };
        let Some(partial) = self.partial.as_mut().filter(fits) else { return Ok(Taken::Dead) };
        partial.bytes.extend_from_slice(part.bytes);
        partial.next_index += 1;
        if partial.next_index < partial.count {
            return Ok(Taken::Part);
        }
        let Some(call) = self.partial.take() else { return Ok(Taken::Dead) };
        self.take_call(sequence, epoch, call)
    }

    fn take_call(&mut self, sequence: u64, epoch: Epoch, call: Partial) -> Result<Taken, String> {
        let before = self.point();
        let mut point = before;
        let mut rest = call.bytes.as_slice();
        while !rest.is_empty() {
            let step = next_step(&mut rest)?;
            if step.epoch != epoch {
                return Err(format!(
                    "a batch of epoch {} in a message of epoch {epoch}",
                    step.epoch
                ));
            }
            point = point.advance(&step).filter(|_| step.shard == self.shard).ok_or_else(|| {
                format!(
                    "a batch at {} does not continue the log at {}",
                    step.first_lsn, point.next_lsn
                )
            })?;
        }
        let records = point.next_lsn.0 - before.next_lsn.0;
        let records = u32::try_from(records).map_err(|_| "too many records".to_owned())?;
        if !self.filter.admit(epoch, call.first_n, records)
            || point.next_n != call.first_n + u64::from(records)
        {
            return Err(format!(
                "records of place {} in a message of {}",
                before.next_n, call.first_n
            ));
        }
        self.point = Some(point);
        let entry = Entry {
            first_sequence: call.first_sequence,
            last_sequence: sequence,
            first_lsn: before.next_lsn,
            next_lsn: point.next_lsn,
            epoch,
            first_n: call.first_n,
            bytes: call.bytes.len(),
        };
        self.entries.push_back(entry);
        if self.recent_bytes_max > 0 {
            self.recent_bytes += call.bytes.len();
            self.recent.push_back((entry, call.bytes));
            self.bound_recent();
        }
        Ok(Taken::Whole)
    }

    /// Begins at the first message of a trimmed stream.
    fn trust(&mut self, epoch: Epoch, part: Part<'_>) -> Result<(), String> {
        if part.index != 0 {
            return Err("the stream begins within a call".to_owned());
        }
        let header = BatchHeader::decode(part.bytes).map_err(|damage| damage.to_string())?;
        self.point = Some(Point {
            next_lsn: header.first_lsn,
            epoch,
            next_n: header.first_n,
            chain: header.chain_before,
            ..Point::start(self.log, self.shard)
        });
        self.opened = epoch;
        self.filter = match header.first_n {
            0 => EpochFilter::opened(epoch),
            n => EpochFilter::after(epoch, n - 1),
        };
        Ok(())
    }
}

fn beginning_missing(epoch: Epoch) -> String {
    format!("of epoch {epoch}, of which the beginning is missing")
}

/// Takes a batch off the front and verifies it.
fn next_step(rest: &mut &[u8]) -> Result<Step, String> {
    let bytes = *rest;
    let view = BatchView::decode(rest).map_err(|damage| format!("a batch: {damage}"))?;
    Ok(Step::of(&view, bytes.get(..bytes.len() - rest.len()).unwrap_or_default()))
}
