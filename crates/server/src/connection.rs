//! One client connection: its wire, its session, and the gates that hold replies back.
//!
//! Guarantees: replies leave in request order; a reply leaves only when every record that it
//! observed is durable; input and output are bounded. An idle connection holds no buffers.

use std::{collections::VecDeque, time::Instant};

use holdfast_shard::{Gate, GateState};

use crate::{
    metrics::Family,
    session::Session,
    wire::{Flushed, Wire},
    worker::READ_BYTES,
};

/// Output that has been written and stays before what is owed; more, if more than four times as much is owed:
/// what is moved to the front is at most four times what was written.
const WRITTEN_BYTES_MAX: usize = 4 << 10;
/// More than this is owed for large replies alone. Nothing is gained by moving them; they stay counted whole.
const MOVED_BYTES_MAX: usize = 2 << 20;

/// Replies from here on wait until the gate opens.
#[derive(Clone, Copy, Debug)]
struct HeldReply {
    gate: Gate,
    /// Where the reply begins in the output.
    start: usize,
    family: Family,
    since: Instant,
}

/// See the module's head.
pub(crate) struct Connection {
    pub wire: Wire,
    pub session: Session,
    /// When it was accepted.
    pub began: Instant,
    held: VecDeque<HeldReply>,
    /// Waits for a fetch, with the number of fetches so far for the same request.
    pub fetching: bool,
    pub fetches: u32,
    /// Close once the output is written.
    pub closing: bool,
    /// Closing for the client's own fault: what it does not take at once is dropped.
    pub at_fault: bool,
    /// When to close at the latest, once closing.
    pub close_by: Option<Instant>,
    /// Some deadline is looked at.
    pub is_watched: bool,
    pub wants_write: bool,
    pub reading: bool,
    /// The client sends no more.
    pub half_closed: bool,
    /// Not read because too much is staged.
    pub paused: bool,
    /// Requests wait in `input` until some of what is owed has been taken.
    pub has_backlog: bool,
    /// Bytes that the node counts for this connection.
    pub counted_bytes: u64,
    pub is_dirty: bool,
    pub is_gated: bool,
    /// Something in the output was answered under the node's lease, and may leave only while it holds.
    pub is_under_lease: bool,
}

impl Connection {
    pub(crate) fn new(wire: Wire, session: Session, now: Instant) -> Connection {
        Connection {
            wire,
            session,
            began: now,
            held: VecDeque::new(),
            fetching: false,
            fetches: 0,
            closing: false,
            at_fault: false,
            close_by: None,
            is_watched: false,
            wants_write: false,
            reading: true,
            half_closed: false,
            paused: false,
            has_backlog: false,
            counted_bytes: 0,
            is_dirty: false,
            is_gated: false,
            is_under_lease: false,
        }
    }

    /// Holds back the reply that begins at `start` until the gate opens.
    pub(crate) fn hold(&mut self, gate: Gate, start: usize, family: Family, since: Instant) {
        self.held.push_back(HeldReply { gate, start, family, since });
    }

    /// Lets go what has become durable; `released` is told of each. True if the log failed before
    /// the oldest reply that waits was durable.
    pub(crate) fn release(
        &mut self,
        state: impl Fn(Gate) -> GateState,
        mut released: impl FnMut(Family, Instant),
    ) -> bool {
        while let Some(front) = self.held.front() {
            match state(front.gate) {
                GateState::Waiting => return false,
                GateState::Lost => return true,
                GateState::Durable => {
                    released(front.family, front.since);
                    self.held.pop_front();
                }
            }
        }
        false
    }

    /// Whether replies wait for durability.
    pub(crate) fn holds_replies(&self) -> bool {
        !self.held.is_empty()
    }

    /// Writes of unknown outcome: the replies that wait are dropped, one error takes their place,
    /// and the connection closes, because later replies could not be told apart.
    pub(crate) fn fail_held(&mut self, error: &str) {
        if let Some(first) = self.held.front() {
            self.wire.output.truncate(first.start);
            self.held.clear();
            self.wire.put_error(error);
            self.closing = true;
        }
    }

    /// Whether more input is wanted: not while it could only pile up.
    pub(crate) fn may_read(&self, owed_bytes_max: usize) -> bool {
        let piles_up = self.fetching && self.wire.input.len() >= READ_BYTES;
        let stays = !self.closing && !self.half_closed && !self.paused;
        stays && !piles_up && self.owed() < owed_bytes_max
    }

    /// Memory that the connection holds: buffers and queued commands.
    pub(crate) fn held_bytes(&self) -> u64 {
        (self.wire.held_bytes() + self.session.transaction.queued_bytes()) as u64
    }

    /// Ends the connection with this error as its last reply; what it has sent is dropped.
    pub(crate) fn cut_off(&mut self, error: &str) {
        self.wire.input = Vec::new();
        // Behind a large reply that stays: no second one's room for one line more.
        self.wire.output.reserve_exact(error.len() + b"-\r\n".len());
        self.wire.put_error(error);
        self.closing = true;
        self.at_fault = true;
    }

    /// Bytes that wait to be written, held ones included.
    pub(crate) fn owed(&self) -> usize {
        self.wire.owed()
    }

    /// Writes what may leave.
    pub(crate) fn flush(&mut self, bytes_out: &mut u64) -> Flushed {
        let end = self.held.front().map_or(self.wire.output.len(), |held| held.start);
        let flushed = self.wire.flush(end, bytes_out);
        if flushed == Flushed::Done && self.held.is_empty() {
            self.wire.output.clear();
            self.wire.written = 0;
        } else if self.wire.written > WRITTEN_BYTES_MAX.max(self.owed() / 4)
            && self.owed() <= MOVED_BYTES_MAX
        {
            // Keep what is owed from growing behind an ever longer written part.
            let written = std::mem::take(&mut self.wire.written);
            let output = &mut self.wire.output;
            output.drain(..written);
            // What was written to stays resident, so room beyond the double would be held and not counted.
            output.shrink_to(2 * output.len());
            self.held.iter_mut().for_each(|held| held.start -= written);
        }
        flushed
    }

    /// Over TLS: says that nothing more will come, so that the end cannot be taken for a cut cable.
    pub(crate) fn say_goodbye(&mut self, bytes_out: &mut u64) -> Flushed {
        if let Some(tls) = &mut self.wire.tls {
            tls.say_goodbye();
        }
        self.flush(bytes_out)
    }
}
