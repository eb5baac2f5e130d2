//! One client connection: its socket, its bytes in and out, and the gates that hold replies back.
//!
//! Guarantees: replies leave in request order; a reply leaves only when every record that it
//! observed is durable; input and output are bounded. An idle connection holds no buffers.

use std::{collections::VecDeque, net::TcpStream, time::Instant};

use holdfast_protocol::resp::RequestParser;
use holdfast_shard::{Gate, GateState};
use rustix::{
    io::Errno,
    net::{SendFlags, send},
};

use crate::{
    metrics::Family,
    session::Session,
    worker::{OWED_BYTES_PAUSE, READ_BYTES},
};

/// Replies from here on wait until the gate opens.
#[derive(Clone, Copy, Debug)]
struct HeldReply {
    gate: Gate,
    /// Where the reply begins in the output.
    start: usize,
    family: Family,
    since: Instant,
}

/// What a flush left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flushed {
    /// Everything that may leave has left.
    Done,
    /// The socket takes no more at the moment.
    Blocked,
    /// The client is gone.
    Closed,
}

/// See the module's head.
pub(crate) struct Connection {
    pub socket: TcpStream,
    pub session: Session,
    pub parser: RequestParser,
    /// Bytes received and not yet consumed; empty while requests arrive whole.
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    written: usize,
    held: VecDeque<HeldReply>,
    /// Waits for a fetch, with the number of fetches so far for the same request.
    pub fetching: bool,
    pub fetches: u32,
    /// Close once the output is written.
    pub closing: bool,
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
}

impl Connection {
    pub(crate) fn new(socket: TcpStream, session: Session) -> Connection {
        Connection {
            socket,
            session,
            parser: RequestParser::new(),
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            held: VecDeque::new(),
            fetching: false,
            fetches: 0,
            closing: false,
            wants_write: false,
            reading: true,
            half_closed: false,
            paused: false,
            has_backlog: false,
            counted_bytes: 0,
            is_dirty: false,
            is_gated: false,
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
            self.output.truncate(first.start);
            self.held.clear();
            self.output.extend_from_slice(b"-");
            self.output.extend_from_slice(error.as_bytes());
            self.output.extend_from_slice(b"\r\n");
            self.closing = true;
        }
    }

    /// Whether more input is wanted: not while it could only pile up.
    pub(crate) fn may_read(&self) -> bool {
        let piles_up = self.fetching && self.input.len() >= READ_BYTES;
        let stays = !self.closing && !self.half_closed && !self.paused;
        stays && !piles_up && self.owed() < OWED_BYTES_PAUSE
    }

    /// Memory that the connection holds: buffers and queued commands.
    pub(crate) fn held_bytes(&self) -> u64 {
        // Room that was reserved and not yet written to costs no memory.
        let buffers = self.input.len() + self.output.len();
        (buffers + self.session.transaction.queued_bytes()) as u64
    }

    /// Ends the connection with this error as its last reply; what it has sent is dropped.
    pub(crate) fn cut_off(&mut self, error: &str) {
        self.input = Vec::new();
        self.output.extend_from_slice(b"-");
        self.output.extend_from_slice(error.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.closing = true;
    }

    /// Bytes that wait to be written, held ones included.
    pub(crate) fn owed(&self) -> usize {
        self.output.len() - self.written
    }

    /// Writes what may leave.
    pub(crate) fn flush(&mut self, bytes_out: &mut u64) -> Flushed {
        let end = self.held.front().map_or(self.output.len(), |held| held.start);
        while self.written < end {
            let ready = self.output.get(self.written..end).unwrap_or_default();
            match send(&self.socket, ready, SendFlags::NOSIGNAL) {
                Ok(0) => return Flushed::Closed,
                Ok(sent) => {
                    self.written += sent;
                    *bytes_out += sent as u64;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Flushed::Blocked,
                Err(_) => return Flushed::Closed,
            }
        }
        if self.held.is_empty() {
            self.output.clear();
            self.written = 0;
        } else if self.written > 64 << 10 {
            // Keep what is held from growing behind an ever longer written part.
            let written = std::mem::take(&mut self.written);
            self.output.drain(..written);
            self.held.iter_mut().for_each(|held| held.start -= written);
        }
        Flushed::Done
    }
}
