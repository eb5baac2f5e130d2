//! A data thread: its own listener, event loop and connections; requests run where they arrive.
//!
//! One turn: wait, read every ready socket, run what arrived, write what may leave; once nothing more is at
//! hand, let the committer have what was staged. No hand-over on a hot read. A write's reply is held until its record is durable while
//! the loop goes on; a row on the disk is fetched by another thread while the session waits.
//! How connections come is in `accept`, TLS in `sealed`, what time bounds in `deadlines`.

mod accept;
mod deadlines;
mod sealed;

use std::{
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use holdfast_engine::Tier;
use holdfast_protocol::resp::{Limits, Parse};
use holdfast_shard::{LogState, Pressure};
use rustix::{
    event::{Timespec, epoll},
    fd::OwnedFd,
    io::Errno,
    net::{RecvFlags, recv},
};

pub(crate) use accept::{Door, TOO_MANY};

use crate::{
    connection::Connection,
    ending,
    farewell::Farewells,
    fetch::Fetch,
    inbox::{Inbox, Message},
    metrics::{FAMILIES, Family, WorkerMetrics},
    node::Node,
    session::{Executed, Flow, execute},
    tls::{Failure, HANDSHAKE},
    wire::Flushed,
};

/// Bytes read from a socket at once; also what a pipelined batch in one turn is bounded by.
pub(crate) const READ_BYTES: usize = 64 << 10;
/// Events taken at once.
const EVENTS: usize = 256;
/// A connection that owes this much is not read until it has taken some.
pub(crate) const OWED_BYTES_PAUSE: usize = 1 << 20;
/// The least that this comes down to when memory for connections becomes scarce.
const OWED_BYTES_PAUSE_MIN: usize = 16 << 10;
/// Tries with fetches in between before a command may read the disk on the data thread: rows were
/// thrown out again before they could be used.
const FETCHES_MAX: u32 = 8;
/// How long staged writes wait, about, for further requests that are at hand: then one write and one sync
/// serve all of them. Under a load that leaves the processor idle at times they do not wait at all.
const SUBMIT_AFTER: Duration = Duration::from_millis(2);
/// How long the loop sleeps without events.
const IDLE: Duration = Duration::from_millis(100);
/// How long it sleeps while too much is staged for the disk.
const PAUSED: Duration = Duration::from_millis(2);
/// How long sockets stay unread for that reason although the disk takes nothing. Then reads are served again,
/// and writes are refused by the shard until the disk has caught up. A disk that is merely slower than the clients
/// is no reason to refuse: their sockets wait.
const PAUSED_MAX: Duration = Duration::from_secs(3);
/// Between two looks at it: after a longer gap the process itself has stood still, and the disk's time
/// begins anew.
const LOOKS_APART_MAX: Duration = Duration::from_millis(250);
/// Largest output buffer that a connection without output keeps for the next reply.
const KEEP_OUTPUT_BYTES: usize = 64 << 10;

/// Less than this freed by one connection is what the allocator is good at.
const FREED_BYTES_NOTED: u64 = 256 << 10;

/// Tokens of connections lie below; those of farewells count up from here.
const FAREWELLS: u64 = 1 << 63;
/// Tokens of doors count up from here.
const DOORS: u64 = u64::MAX - 16;
const BELL: u64 = u64::MAX;

/// A place for a connection; its turn changes with each tenant, so old tokens find nobody.
#[derive(Default)]
struct Place {
    turn: u32,
    connection: Option<Box<Connection>>,
}

/// See the module's head.
pub(crate) struct Worker {
    node: Arc<Node>,
    inbox: Arc<Inbox>,
    metrics: Arc<WorkerMetrics>,
    epoll: OwnedFd,
    doors: Vec<Door>,
    places: Vec<Place>,
    free: Vec<u32>,
    limits: Limits,
    scratch: Vec<u8>,
    /// What was opened of the bytes in `scratch`.
    plain: Vec<u8>,
    /// TLS handshakes that may still be worked on in this turn.
    handshakes_left: u32,
    spare_outputs: Vec<Vec<u8>>,
    dirty: Vec<u64>,
    gated: Vec<u64>,
    /// The log's state when gated replies were looked at last: nothing opens before it changes.
    looked_at: Option<LogState>,
    /// Since when something may be staged that the committer was not told of.
    unsubmitted: Option<Instant>,
    /// Connections that were not read because too much was staged.
    paused: Vec<u64>,
    /// Connections whose next request waits until this node has followed the log further.
    behind: Vec<u64>,
    /// Connections that have a deadline, and when these are looked at again.
    watched: Vec<u64>,
    look_at: Instant,
    farewells: Farewells,
    /// When to listen again, after accepting failed.
    accept_again: Option<Instant>,
    /// Too much is staged.
    pressed: Option<Pressed>,
}

/// Too much is staged, and does not become less.
struct Pressed {
    since: Instant,
    /// Bytes staged at the last look, and when that was.
    staged: usize,
    looked: Instant,
}

/// What becomes of a connection after a flush.
enum Next {
    Stays,
    /// It has been sent everything, the last word as well.
    HasEnded,
    /// There is nobody to send anything to.
    IsLost,
}

fn token(place: u32, turn: u32) -> u64 {
    u64::from(turn) << 32 | u64::from(place)
}

impl Worker {
    pub(crate) fn new(node: Arc<Node>, at: usize, doors: Vec<Door>) -> Result<Worker, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (inbox, metrics) = (node.inboxes[at].clone(), node.workers[at].clone());
        let data = epoll::EventData::new_u64(BELL);
        epoll::add(&epoll, inbox.bell(), data, epoll::EventFlags::IN)?;
        let worker = Worker {
            node,
            inbox,
            metrics,
            epoll,
            doors,
            places: Vec::new(),
            free: Vec::new(),
            limits: Limits::default(),
            scratch: vec![0; READ_BYTES],
            plain: Vec::new(),
            handshakes_left: 0,
            spare_outputs: Vec::new(),
            dirty: Vec::new(),
            gated: Vec::new(),
            looked_at: None,
            unsubmitted: None,
            paused: Vec::new(),
            behind: Vec::new(),
            watched: Vec::new(),
            look_at: Instant::now(),
            farewells: Farewells::new(FAREWELLS),
            accept_again: None,
            pressed: None,
        };
        worker.open_doors()?;
        Ok(worker)
    }

    /// The loop. Ends at a stop, when replies that were held have left or the time is up.
    pub(crate) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        let mut messages = Vec::new();
        loop {
            self.wait(&mut events);
            self.node.advance_time();
            let now = Instant::now();
            self.resume_accepting(now);
            self.resume_paused(now);
            self.resume_behind(now);
            self.handshakes_left = sealed::HANDSHAKES;
            for event in events.drain(..) {
                match event.data.u64() {
                    token if token < FAREWELLS => self.on_event(token, event.flags, now),
                    BELL => self.inbox.take(&mut messages),
                    token if token >= DOORS => self.accept((token - DOORS) as usize, now),
                    token => self.farewells.on_event(token, &mut self.scratch),
                }
                self.submit_in_time();
            }
            for message in messages.drain(..) {
                let Message::Fetched { token } = message;
                self.on_fetched(token, now);
                self.submit_in_time();
            }
            self.submit_in_time();
            self.release();
            self.flush_dirty();
            self.hold_to_deadlines(now);
            if self.node.is_stopping() && self.may_end() {
                return;
            }
        }
    }

    /// Waits for events. What the turn has staged is submitted once nothing more is at hand.
    fn wait(&mut self, events: &mut Vec<epoll::Event>) {
        events.clear();
        if self.unsubmitted.is_some() {
            self.poll(events, Duration::ZERO);
            if !events.is_empty() {
                return;
            }
            self.submit();
        }
        if !self.gated.is_empty() || !self.behind.is_empty() {
            self.inbox.await_durability();
            // What became durable before the flag was set rang nobody: look once more.
            self.release();
            self.flush_dirty();
        }
        // Input that was run after the turn's replies had left is committed and written right away.
        self.submit();
        let timeout = if !self.dirty.is_empty() {
            Duration::ZERO
        } else if !self.paused.is_empty() || !self.behind.is_empty() || self.node.is_stopping() {
            PAUSED
        } else {
            IDLE
        };
        self.poll(events, timeout);
    }

    fn poll(&mut self, events: &mut Vec<epoll::Event>, timeout: Duration) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.as_nanos().min(999_999_999) as i64 };
        let spare = rustix::buffer::spare_capacity(events);
        match epoll::wait(&self.epoll, spare, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => tracing::error!(%error, "epoll"),
        }
    }

    /// Submits what is staged if it has been for long: one sync serves as many requests as are at hand.
    fn submit_in_time(&mut self) {
        if self.unsubmitted.is_some_and(|since| since.elapsed() > SUBMIT_AFTER) {
            self.submit();
        }
    }

    fn submit(&mut self) {
        if self.unsubmitted.take().is_some() {
            self.node.shard.submit();
        }
    }

    fn may_end(&self) -> bool {
        let owing = self.gated.iter().any(|token| self.find(*token).is_some());
        !owing || self.node.is_past_stop_deadline()
    }

    fn find(&self, token: u64) -> Option<&Connection> {
        let place = self.places.get(token as u32 as usize)?;
        let current = place.turn == (token >> 32) as u32;
        place.connection.as_deref().filter(|_| current)
    }

    /// Takes a connection out of its place for as long as it is worked on.
    fn take(&mut self, token: u64) -> Option<Box<Connection>> {
        let place = self.places.get_mut(token as u32 as usize)?;
        if place.turn != (token >> 32) as u32 {
            return None;
        }
        place.connection.take()
    }

    fn put_back(&mut self, token: u64, connection: Box<Connection>) {
        if let Some(place) = self.places.get_mut(token as u32 as usize) {
            place.connection = Some(connection);
        }
    }

    fn close(&mut self, token: u64, connection: Box<Connection>) {
        // Dropping it closes the socket, which takes it out of the event loop.
        drop(self.part_with(token, connection));
    }

    /// Closes a connection that has been sent its last word, so that the word arrives.
    fn close_in_order(&mut self, token: u64, connection: Box<Connection>) {
        let heard_out = connection.half_closed;
        let socket = self.part_with(token, connection);
        if !heard_out {
            self.farewells.begin(&self.epoll, socket, Instant::now(), &mut self.scratch);
        }
    }

    /// Frees everything that belongs to a connection but its socket.
    fn part_with(&mut self, token: u64, mut connection: Box<Connection>) -> TcpStream {
        connection.session.end(&self.node);
        let counted = connection.counted_bytes;
        self.node.connection_bytes.fetch_sub(counted, Ordering::Relaxed);
        self.note_freed(counted);
        self.node.clients.disconnect(connection.session.client.id);
        self.metrics.open.fetch_sub(1, Ordering::Relaxed);
        let place = token as u32;
        if let Some(entry) = self.places.get_mut(place as usize) {
            entry.turn = entry.turn.wrapping_add(1) & 0x7fff_ffff;
            self.free.push(place);
        }
        if !connection.wire.is_established() && !connection.closing {
            self.node.tls_failed(Failure::Left);
        }
        connection.wire.socket
    }

    fn on_event(&mut self, token: u64, flags: epoll::EventFlags, now: Instant) {
        let Some(mut connection) = self.take(token) else { return };
        if flags.contains(epoll::EventFlags::OUT) {
            self.mark_dirty(token, &mut connection);
        }
        let gone = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        if flags.intersects(epoll::EventFlags::IN | gone) {
            if connection.reading && !self.receive(token, &mut connection, now) {
                return self.close(token, connection);
            }
            if !connection.reading && flags.intersects(gone) {
                return self.close(token, connection);
            }
        }
        self.put_back(token, connection);
    }

    /// Reads what is there and runs it. False: the connection is over.
    fn receive(&mut self, token: u64, connection: &mut Connection, now: Instant) -> bool {
        if self.node.is_stopping() {
            self.set_reading(token, connection, false);
            return true;
        }
        if self.node.is_ending() {
            self.cut_off(token, connection, ending::TOLD);
            return true;
        }
        if self.is_under_pressure(now) {
            self.metrics.paused.fetch_add(1, Ordering::Relaxed);
            connection.paused = true;
            self.paused.push(token);
            self.set_reading(token, connection, false);
            return true;
        }
        if self.must_wait_with_handshake(connection) {
            return true;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let received = recv(&connection.wire.socket, scratch.as_mut_slice(), RecvFlags::empty());
        let alive = match received {
            Ok((_, 0)) => {
                // The client sends no more; what it has asked for is still answered.
                connection.half_closed = true;
                self.set_reading(token, connection, false);
                self.mark_dirty(token, connection);
                connection.owed() > 0 || connection.fetching
            }
            Ok((_, len)) => {
                self.metrics.bytes_in.fetch_add(len as u64, Ordering::Relaxed);
                let bytes = scratch.get_mut(..len).unwrap_or_default();
                if connection.wire.tls.is_none() {
                    self.take_in(token, connection, bytes, now);
                } else {
                    self.take_in_sealed(token, connection, bytes, now);
                }
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        };
        self.scratch = scratch;
        self.hold_to_budget(token, connection);
        alive
    }

    /// Runs the whole requests among received bytes and keeps the rest.
    fn take_in(&mut self, token: u64, connection: &mut Connection, bytes: &[u8], now: Instant) {
        if !connection.wire.input.is_empty() {
            connection.wire.input.extend_from_slice(bytes);
            return self.run_input(token, connection, now);
        }
        if bytes.first() == Some(&HANDSHAKE) && connection.wire.tls.is_none() {
            // No request begins so.
            self.node.tls_failed(Failure::TlsOnPlainPort);
            return self.cut_off(token, connection, "ERR this port does not speak TLS");
        }
        let used = self.run_requests(token, connection, bytes, now);
        connection.wire.input.extend_from_slice(bytes.get(used..).unwrap_or_default());
    }

    /// Large buffers were freed at once.
    fn note_freed(&self, bytes: u64) {
        if bytes >= FREED_BYTES_NOTED {
            let budget = self.node.config.memory_plan().connections;
            self.node.freed.add(bytes, budget / 4);
        }
    }

    /// Ends a connection with an error as its last reply, and frees what it has sent so far.
    fn cut_off(&mut self, token: u64, connection: &mut Connection, error: &str) {
        self.metrics.cut_off.fetch_add(1, Ordering::Relaxed);
        let held = connection.held_bytes();
        connection.cut_off(error);
        connection.session.end(&self.node);
        let freed = held.saturating_sub(connection.held_bytes()).min(connection.counted_bytes);
        connection.counted_bytes -= freed;
        self.node.connection_bytes.fetch_sub(freed, Ordering::Relaxed);
        self.note_freed(freed);
        self.mark_dirty(token, connection);
    }

    /// Counts what the connection holds. If all of them together hold more than their share of the
    /// memory setting, this one is cut off if it holds more than half of an equal part.
    fn hold_to_budget(&mut self, token: u64, connection: &mut Connection) {
        let held = connection.held_bytes();
        if held == connection.counted_bytes {
            return;
        }
        let node = self.node.clone();
        let more = held.wrapping_sub(connection.counted_bytes);
        connection.counted_bytes = held;
        let all = node.connection_bytes.fetch_add(more, Ordering::Relaxed).wrapping_add(more);
        let budget = node.config.memory_plan().connections;
        // Half of an equal part, but what one read brings is let be while that fits for all.
        let equal = budget / node.clients.count().max(1) as u64;
        let part = (equal / 2).max(equal.min(READ_BYTES as u64));
        if all > budget && held > part && !connection.closing {
            let error =
                "OOM the memory for connections is used up: send, or let wait, less at once";
            self.cut_off(token, connection, error);
        }
    }

    /// What a connection may owe and still be read. While connections together hold a quarter of their share of
    /// the memory setting, no more than half of an equal part: slow readers wait, and are not cut off for what
    /// the node itself piled up for them.
    fn owed_bytes_pause(&self) -> usize {
        let budget = self.node.config.memory_plan().connections;
        if self.node.connection_bytes.load(Ordering::Relaxed) <= budget / 4 {
            return OWED_BYTES_PAUSE;
        }
        let equal = budget / self.node.clients.count().max(1) as u64;
        OWED_BYTES_PAUSE
            .min(usize::try_from(equal / 2).unwrap_or(usize::MAX))
            .max(OWED_BYTES_PAUSE_MIN)
    }

    /// Runs what lies in the connection's own input buffer.
    fn run_input(&mut self, token: u64, connection: &mut Connection, now: Instant) {
        let mut input = std::mem::take(&mut connection.wire.input);
        let used = self.run_requests(token, connection, &input, now);
        if used == input.len() {
            // An idle connection holds no buffer.
            input = Vec::new();
        } else {
            input.drain(..used);
        }
        connection.wire.input = input;
    }

    /// Runs the whole requests at the front of `bytes`; gives how many bytes they were.
    fn run_requests(
        &mut self,
        token: u64,
        connection: &mut Connection,
        bytes: &[u8],
        now: Instant,
    ) -> usize {
        let mut used = 0;
        if connection.wire.output.capacity() == 0 {
            connection.wire.output = self.spare_outputs.pop().unwrap_or_default();
        }
        let mut answered = [0u64; FAMILIES.len()];
        let owed_max = self.owed_bytes_pause();
        while !connection.closing && !connection.fetching && connection.owed() < owed_max {
            let limits = if connection.session.authenticated {
                &self.limits
            } else {
                &Limits::UNAUTHENTICATED
            };
            let rest = bytes.get(used..).unwrap_or_default();
            match connection.wire.parser.parse(rest, limits) {
                Ok(Parse::Complete { consumed }) => {
                    match self.run_one(token, connection, rest, now) {
                        Some(family) => answered[family as usize] += 1,
                        None if connection.fetching => break,
                        None => {}
                    }
                    used += consumed;
                }
                Ok(Parse::Empty { consumed }) => used += consumed,
                Ok(Parse::Incomplete { .. }) => break,
                Err(error) => {
                    self.cut_off(token, connection, &format!("ERR {error}"));
                }
            }
        }
        if connection.closing {
            used = bytes.len();
        }
        connection.has_backlog = connection.owed() >= owed_max;
        let elapsed_us = now.elapsed().as_micros() as u64;
        for (latency, count) in self.metrics.latency.iter().zip(answered) {
            if count > 0 {
                latency.add(elapsed_us, count);
            }
        }
        self.mark_dirty(token, connection);
        used
    }

    /// Runs one request. `None`: its reply is held, or it has to be run again after a fetch.
    fn run_one(
        &mut self,
        token: u64,
        connection: &mut Connection,
        bytes: &[u8],
        now: Instant,
    ) -> Option<Family> {
        if connection.session.reading.waits(&self.node, now) {
            connection.fetching = true;
            self.behind.push(token);
            return None;
        }
        let start = connection.wire.output.len();
        connection.session.has_lease = self.node.holds_lease();
        connection.is_under_lease |= connection.session.has_lease;
        let args = connection.wire.parser.args(bytes);
        let tier = if connection.fetches < FETCHES_MAX { Tier::Cached } else { Tier::Any };
        let Executed { family, gate, flow } =
            execute(&self.node, &mut connection.session, args, &mut connection.wire.output, tier);
        match flow {
            Flow::Continue => {}
            Flow::Close => connection.closing = true,
            Flow::Fetch(commands) => {
                self.metrics.fetched.fetch_add(1, Ordering::Relaxed);
                connection.fetching = true;
                connection.fetches += 1;
                let (inbox, keyspace) = (self.inbox.clone(), connection.session.keyspace);
                self.node.fetches.push(Fetch { inbox, token, keyspace, commands });
                return None;
            }
        }
        connection.fetches = 0;
        if connection.wire.output.get(start) == Some(&b'-') {
            self.metrics.errors.fetch_add(1, Ordering::Relaxed);
        }
        let Some(gate) = gate else { return Some(family) };
        self.unsubmitted.get_or_insert(now);
        connection.hold(gate, start, family, now);
        if !connection.is_gated {
            connection.is_gated = true;
            self.gated.push(token);
        }
        None
    }

    fn on_fetched(&mut self, token: u64, now: Instant) {
        let Some(mut connection) = self.take(token) else { return };
        connection.fetching = false;
        self.run_input(token, &mut connection, now);
        self.put_back(token, connection);
    }

    /// Whether too much is staged and waiting helps: it becomes less, or has not stood still for long.
    fn is_under_pressure(&mut self, now: Instant) -> bool {
        if self.node.shard.pressure() == Pressure::None {
            self.pressed = None;
            return false;
        }
        let staged = self.node.shard.staged_bytes();
        let since = match &self.pressed {
            Some(last) if staged >= last.staged && now - last.looked < LOOKS_APART_MAX => {
                last.since
            }
            _ => now,
        };
        self.pressed = Some(Pressed { since, staged, looked: now });
        now.duration_since(since) < PAUSED_MAX
    }

    fn resume_paused(&mut self, now: Instant) {
        let ends = self.node.is_ending();
        // Looked at in every turn while it lasts: a gap then means that the process stood still.
        let pressed = self.pressed.is_some() && self.is_under_pressure(now);
        if self.paused.is_empty() || (!ends && pressed) {
            return;
        }
        for token in std::mem::take(&mut self.paused) {
            let Some(mut connection) = self.take(token) else { continue };
            connection.paused = false;
            if ends {
                self.cut_off(token, &mut connection, ending::TOLD);
            } else {
                self.run_input(token, &mut connection, now);
            }
            self.put_back(token, connection);
        }
    }

    fn resume_behind(&mut self, now: Instant) {
        for token in std::mem::take(&mut self.behind) {
            // The same request is run, or waits, once more.
            self.on_fetched(token, now);
        }
    }

    fn mark_dirty(&mut self, token: u64, connection: &mut Connection) {
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(token);
        }
    }

    /// Lets go the replies that have become durable, or fails them if the log has failed.
    fn release(&mut self) {
        let log = self.node.shard.log_state();
        if self.gated.is_empty() || self.looked_at.replace(log) == Some(log) {
            return;
        }
        let (node, metrics) = (self.node.clone(), self.metrics.clone());
        let mut gated = std::mem::take(&mut self.gated);
        gated.retain(|token| {
            let Some(mut connection) = self.take(*token) else { return false };
            let mut opened = false;
            let lost = connection.release(
                |gate| node.shard.gate_state(gate),
                |family, since| {
                    opened = true;
                    let latency = &metrics.latency[family as usize];
                    latency.add(since.elapsed().as_micros() as u64, 1);
                },
            );
            if lost {
                connection.fail_held(
                    "UNKNOWN the log failed: this write may or may not have happened, read \
                     before you repeat it",
                );
            }
            connection.is_gated = connection.holds_replies();
            let stays = connection.is_gated;
            if opened || lost {
                self.mark_dirty(*token, &mut connection);
            }
            self.put_back(*token, connection);
            stays
        });
        self.gated = gated;
    }

    fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for token in dirty.drain(..) {
            let Some(mut connection) = self.take(token) else { continue };
            connection.is_dirty = false;
            match self.flush(token, &mut connection) {
                Next::Stays => self.put_back(token, connection),
                Next::HasEnded => self.close_in_order(token, connection),
                Next::IsLost => self.close(token, connection),
            }
        }
        // Connections that went on reading may be dirty again; they keep their place.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// Writes what may leave.
    fn flush(&mut self, token: u64, connection: &mut Connection) -> Next {
        if connection.is_under_lease && !self.node.holds_lease() {
            // What is read may be old by now, and what waits for the log was not answered in time.
            self.node.metrics.lease_cut_off.fetch_add(1, Ordering::Relaxed);
            return Next::IsLost;
        }
        let mut bytes_out = 0;
        let mut flushed = connection.flush(&mut bytes_out);
        connection.is_under_lease &= connection.owed() > 0;
        let heard_out = connection.half_closed && !connection.fetching && !connection.has_backlog;
        let is_last = connection.closing || heard_out;
        if is_last && connection.owed() == 0 {
            flushed = connection.say_goodbye(&mut bytes_out);
        }
        self.metrics.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
        let blocked = match flushed {
            Flushed::Closed => return Next::IsLost,
            Flushed::Blocked => true,
            Flushed::Done => false,
        };
        if connection.owed() as u64 > self.node.config.redis_output_bytes_max.0 {
            self.metrics.cut_off.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(client = connection.session.client.id, "took too few of its replies");
            return Next::IsLost;
        }
        if is_last && connection.owed() == 0 {
            return Next::HasEnded;
        }
        if connection.closing {
            self.watch_closing(token, connection, bytes_out > 0);
        }
        self.hold_to_budget(token, connection);
        if connection.wire.output.is_empty() && connection.wire.output.capacity() > 0 {
            let output = std::mem::take(&mut connection.wire.output);
            if output.capacity() <= KEEP_OUTPUT_BYTES && self.spare_outputs.len() < EVENTS {
                self.spare_outputs.push(output);
            }
        }
        let owed_max = self.owed_bytes_pause();
        let reading = connection.may_read(owed_max) && !self.node.is_stopping();
        if blocked != connection.wants_write || reading != connection.reading {
            connection.wants_write = blocked;
            self.set_reading(token, connection, reading);
        }
        if connection.has_backlog && connection.owed() < owed_max && !connection.fetching {
            self.run_input(token, connection, Instant::now());
        }
        Next::Stays
    }

    fn set_reading(&mut self, token: u64, connection: &mut Connection, reading: bool) {
        connection.reading = reading;
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, reading);
        flags.set(epoll::EventFlags::OUT, connection.wants_write);
        let data = epoll::EventData::new_u64(token);
        if let Err(error) = epoll::modify(&self.epoll, &connection.wire.socket, data, flags) {
            tracing::warn!(%error, "epoll");
            connection.closing = true;
        }
    }
}
