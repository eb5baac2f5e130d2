//! The Redis ports before the node is ready: one thread, one event loop, the bounds of later.
//!
//! It keeps no state of the shard and needs none. Connections are counted, held to the memory for
//! connections, to the limits of strangers before they log in, and to the same deadlines.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use holdfast_protocol::resp::{Limits, Parse};
use rustix::{
    event::{Timespec, epoll},
    fd::OwnedFd,
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::{
    Startup,
    replies::{Manners, Then, answer},
};
use crate::{
    clients::ClientInfo,
    farewell::Farewells,
    tls::{Failure, HANDSHAKE, Opened, TlsStream},
    wire::{Flushed, Wire},
    worker::{Door, OWED_BYTES_PAUSE, READ_BYTES, TOO_MANY},
};

/// How long the loop sleeps without events; also how soon it sees that the start is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a connection that closes may take for its last replies.
const CLOSING_WAIT: Duration = Duration::from_secs(2);
const EVENTS: usize = 256;
/// How long accepting rests after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections accepted in one turn.
const ACCEPTS: usize = 64;
/// Tokens: doors, connections, farewells.
const CONNECTIONS: u64 = 1 << 32;
const FAREWELLS: u64 = 1 << 63;

/// A connection that came before the node was ready.
pub(crate) struct Early {
    pub wire: Wire,
    pub client: Arc<ClientInfo>,
    pub manners: Manners,
    pub began: Instant,
    closing_since: Option<Instant>,
    half_closed: bool,
    interest: epoll::EventFlags,
}

/// See the module's head.
pub(super) struct Greeter {
    startup: Arc<Startup>,
    epoll: OwnedFd,
    doors: Vec<Door>,
    connections: HashMap<u64, Early>,
    next: u64,
    farewells: Farewells,
    scratch: Vec<u8>,
    plain: Vec<u8>,
    limits: Limits,
    looked_at: Instant,
}

impl Greeter {
    /// Listens at the doors of all data threads.
    pub(super) fn new(startup: Arc<Startup>, doors: &[Vec<Door>]) -> io::Result<Greeter> {
        let doors: io::Result<Vec<Door>> = doors.iter().flatten().map(Door::try_clone).collect();
        let (epoll, doors) = (epoll::create(epoll::CreateFlags::CLOEXEC)?, doors?);
        for (door, token) in doors.iter().zip(0..) {
            let data = epoll::EventData::new_u64(token);
            epoll::add(&epoll, &door.listener, data, epoll::EventFlags::IN)?;
        }
        Ok(Greeter {
            startup,
            epoll,
            doors,
            connections: HashMap::new(),
            next: CONNECTIONS,
            farewells: Farewells::new(FAREWELLS),
            scratch: vec![0; READ_BYTES],
            plain: Vec::new(),
            limits: Limits::default(),
            looked_at: Instant::now(),
        })
    }

    /// The loop. Ends when the start is over; gives the connections that stay.
    pub(super) fn run(mut self) -> Vec<Early> {
        let mut events = Vec::with_capacity(EVENTS);
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.as_nanos() as i64 };
        while !self.startup.is_greeted() {
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => tracing::error!(%error, "epoll"),
            }
            let now = Instant::now();
            for event in events.drain(..) {
                match event.data.u64() {
                    token if token >= FAREWELLS => {
                        self.farewells.on_event(token, &mut self.scratch);
                    }
                    token if token >= CONNECTIONS => self.on_event(token, event.flags, now),
                    door => self.accept(door as usize, now),
                }
            }
            self.hold_to_deadlines(now);
        }
        let staying = |early: &Early| early.closing_since.is_none() && !early.half_closed;
        let (stay, go) = self.connections.into_values().partition::<Vec<_>, _>(staying);
        go.iter().for_each(|early| self.startup.clients.disconnect(early.client.id));
        for early in &stay {
            // The same socket is watched by a data thread from now on.
            let _ = epoll::delete(&self.epoll, &early.wire.socket);
        }
        stay
    }

    fn accept(&mut self, door: usize, now: Instant) {
        for _ in 0..ACCEPTS {
            let Some(door) = self.doors.get(door) else { return };
            let (socket, addr) = match door.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // Out of descriptors, most likely. The listener stays readable: without a pause this
                // thread would take a core from the replay.
                Err(_) => return std::thread::park_timeout(ACCEPT_PAUSE),
            };
            let tls = door.tls;
            self.welcome(socket, addr, tls, now);
        }
    }

    fn welcome(&mut self, socket: TcpStream, addr: SocketAddr, tls: bool, now: Instant) {
        if socket.set_nonblocking(true).is_err() || socket.set_nodelay(true).is_err() {
            return;
        }
        if self.startup.clients.count() >= self.startup.config.redis_clients_max {
            if !tls && send(&socket, TOO_MANY, SendFlags::NOSIGNAL).is_ok() {
                self.farewells.begin(&self.epoll, socket, now, &mut self.scratch);
            }
            return;
        }
        let stream = match &self.startup.certificates {
            Some(certificates) if tls => match TlsStream::new(certificates.current(), now) {
                Ok(stream) => Some(Box::new(stream)),
                Err(error) => return tracing::error!(%error, "TLS cannot begin"),
            },
            _ => None,
        };
        let (token, interest) = (self.next, epoll::EventFlags::IN);
        self.next += 1;
        let data = epoll::EventData::new_u64(token);
        if epoll::add(&self.epoll, &socket, data, interest).is_err() {
            return;
        }
        let early = Early {
            wire: Wire::new(socket, stream),
            client: self.startup.clients.connect(addr, 0, tls),
            manners: Manners::new(),
            began: now,
            closing_since: None,
            half_closed: false,
            interest,
        };
        self.connections.insert(token, early);
    }

    fn on_event(&mut self, token: u64, flags: epoll::EventFlags, now: Instant) {
        let Some(mut early) = self.connections.remove(&token) else { return };
        let gone = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        let mut alive = true;
        if flags.contains(epoll::EventFlags::IN) && early.interest.contains(epoll::EventFlags::IN) {
            alive = self.receive(&mut early, now);
        } else if flags.intersects(gone) {
            alive = false;
        }
        if alive {
            self.hold_to_budget(&mut early, now);
            self.settle(token, early, now);
        } else {
            self.forget(early);
        }
    }

    /// Writes, goes on with requests that waited for that, and decides how the connection goes on.
    fn settle(&mut self, token: u64, mut early: Early, now: Instant) {
        let flushed = loop {
            let flushed = flush(&mut early);
            let waits = !early.wire.input.is_empty() && early.closing_since.is_none();
            if flushed != Flushed::Done || !waits {
                break flushed;
            }
            self.answer_input(&mut early, now);
            if early.wire.owed() == 0 {
                break flushed;
            }
        };
        let is_last = early.is_last();
        match flushed {
            Flushed::Closed => drop(self.forget(early)),
            Flushed::Done if is_last => {
                let heard_out = early.half_closed;
                let socket = self.forget(early);
                if !heard_out {
                    self.farewells.begin(&self.epoll, socket, now, &mut self.scratch);
                }
            }
            _ => {
                let reads = !is_last && early.wire.owed() < OWED_BYTES_PAUSE;
                if self.listen_for(token, &mut early, reads, flushed == Flushed::Blocked) {
                    self.connections.insert(token, early);
                } else {
                    self.forget(early);
                }
            }
        }
    }

    fn listen_for(&self, token: u64, early: &mut Early, reads: bool, writes: bool) -> bool {
        let mut interest = epoll::EventFlags::empty();
        interest.set(epoll::EventFlags::IN, reads);
        interest.set(epoll::EventFlags::OUT, writes);
        let changed = std::mem::replace(&mut early.interest, interest) != interest;
        let data = epoll::EventData::new_u64(token);
        !changed || epoll::modify(&self.epoll, &early.wire.socket, data, interest).is_ok()
    }

    fn forget(&self, early: Early) -> TcpStream {
        self.startup.clients.disconnect(early.client.id);
        early.wire.socket
    }

    /// Reads what is there and answers it. False: the client is gone.
    fn receive(&mut self, early: &mut Early, now: Instant) -> bool {
        let mut scratch = std::mem::take(&mut self.scratch);
        let received = recv(&early.wire.socket, scratch.as_mut_slice(), RecvFlags::empty());
        let alive = match received {
            Ok((_, 0)) => {
                early.half_closed = true;
                early.wire.owed() > 0
            }
            Ok((_, len)) => {
                let bytes = scratch.get_mut(..len).unwrap_or_default();
                self.open(early, bytes, now);
                self.answer_input(early, now);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        };
        self.scratch = scratch;
        alive
    }

    /// Appends what was received to the input, opened if it is sealed.
    fn open(&mut self, early: &mut Early, bytes: &mut [u8], now: Instant) {
        let tls_metrics = &self.startup.metrics.tls;
        let Some(tls) = &mut early.wire.tls else {
            if early.wire.input.is_empty() && bytes.first() == Some(&HANDSHAKE) {
                tls_metrics.fail(Failure::TlsOnPlainPort);
                return end(early, "ERR this port does not speak TLS", now);
            }
            return early.wire.input.extend_from_slice(bytes);
        };
        let opened = tls.open(bytes, &mut self.plain);
        match opened {
            Ok(Opened::Established) => {
                tls_metrics.handshakes.add(tls.began.elapsed().as_micros() as u64, 1);
            }
            Ok(Opened::Ended) => early.half_closed = true,
            Ok(Opened::GoesOn) => {}
            Err(failure) => {
                tls_metrics.fail(failure);
                early.closing_since = Some(now);
            }
        }
        early.wire.input.append(&mut self.plain);
        self.plain = Vec::new();
    }

    /// Answers the whole requests in the input.
    fn answer_input(&mut self, early: &mut Early, now: Instant) {
        let mut input = std::mem::take(&mut early.wire.input);
        let mut used = 0;
        while early.closing_since.is_none() && early.wire.owed() < OWED_BYTES_PAUSE {
            let logged_in = early.manners.is_logged_in(&self.startup);
            let limits = if logged_in { &self.limits } else { &Limits::UNAUTHENTICATED };
            let rest = input.get(used..).unwrap_or_default();
            match early.wire.parser.parse(rest, limits) {
                Ok(Parse::Complete { consumed }) => {
                    let args = early.wire.parser.args(rest);
                    let output = &mut early.wire.output;
                    let manners = &mut early.manners;
                    if answer(&self.startup, &early.client, manners, args, output) == Then::Close {
                        early.closing_since = Some(now);
                    }
                    used += consumed;
                }
                Ok(Parse::Empty { consumed }) => used += consumed,
                Ok(Parse::Incomplete { .. }) => break,
                Err(error) => end(early, &format!("ERR {error}"), now),
            }
        }
        if early.closing_since.is_none() {
            input.drain(..used);
            early.wire.input = input;
        }
    }

    /// Whoever holds more than an equal part of the memory for connections is cut off.
    fn hold_to_budget(&self, early: &mut Early, now: Instant) {
        let held = early.wire.held_bytes() as u64;
        let budget = self.startup.config.memory_plan().connections;
        let part = budget / (self.connections.len() as u64 + 1);
        // Nobody is counted exactly here: each may hold its part, whatever the others hold.
        if held > part && early.closing_since.is_none() {
            let error =
                "OOM the memory for connections is used up: send, or let wait, less at once";
            end(early, error, now);
        }
    }

    fn hold_to_deadlines(&mut self, now: Instant) {
        self.farewells.expire(now);
        if now.duration_since(self.looked_at) < LOOK_EVERY * 10 {
            return;
        }
        self.looked_at = now;
        let startup = &self.startup;
        let past = |since: Instant, wait: Duration| now.duration_since(since) >= wait;
        let handshake = Duration::from_secs(startup.config.tls_handshake_seconds_max);
        let login = match startup.config.redis_login_seconds_max {
            0 => Duration::MAX,
            seconds => Duration::from_secs(seconds),
        };
        self.connections.retain(|_, early| {
            let shakes_hands = !early.wire.is_established();
            let late = early.closing_since.is_some_and(|since| past(since, CLOSING_WAIT))
                || (shakes_hands && past(early.began, handshake))
                || (!early.manners.is_logged_in(startup) && past(early.began, login));
            if late {
                if shakes_hands {
                    startup.metrics.tls.fail(Failure::TimedOut);
                }
                startup.clients.disconnect(early.client.id);
            }
            !late
        });
    }
}

impl Early {
    /// Whether nothing more is asked.
    fn is_last(&self) -> bool {
        self.closing_since.is_some() || self.half_closed
    }
}

/// Writes what is to be written, over TLS also that nothing more will come.
fn flush(early: &mut Early) -> Flushed {
    let (end, mut bytes_out) = (early.wire.output.len(), 0);
    let flushed = early.wire.flush(end, &mut bytes_out);
    if flushed != Flushed::Done {
        return flushed;
    }
    early.wire.output = Vec::new();
    early.wire.written = 0;
    if !early.is_last() {
        return flushed;
    }
    early.wire.tls.iter_mut().for_each(|tls| tls.say_goodbye());
    early.wire.flush(0, &mut bytes_out)
}

/// The connection ends with this error.
fn end(early: &mut Early, error: &str, now: Instant) {
    early.wire.input = Vec::new();
    early.wire.put_error(error);
    early.closing_since = Some(now);
}
