//! One thread of load: an epoll loop over its connections.
//!
//! Closed loop: a connection sends a full pipeline and sends the next when every reply is in.
//! Open loop: requests fall due by a schedule, go round-robin over the connections and wait in a
//! bounded backlog while a connection's pipeline is full; latency counts from the due time, so a
//! stalled server is charged for every request that it kept waiting (no coordinated omission).
//! Per turn a connection gets one read and one write. A bench is a client at the edge: it owns its
//! sockets and clock and is no part of the simulated server.

use super::connection::{Answer, Connection, first_line};
use super::resp::Kind;
use super::schedule::Schedule;
use super::source::Source;
use super::stats::Stats;
use super::wire::Encoder;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::time::{self, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Connections served between two looks at the clock and the schedule.
const EVENTS_MAX: usize = 256;
/// Arrivals taken between two looks at the sockets.
const ARRIVALS_MAX: usize = 256;
/// A sleep shorter than this would end late (a wake-up takes some 10 to 50 µs), so spin instead.
const SPIN_NS: u64 = 20_000;
/// How often an idle thread looks at the stop flag and the time limits.
const IDLE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// The epoll token of the timer; those of connections are their indices.
const TIMER: u64 = u64::MAX;

/// What a thread is to do; times in ns since the run's origin.
#[derive(Clone, Debug)]
pub struct Task {
    /// Most requests that await a reply on one connection.
    pub pipeline: usize,
    /// Counting begins here.
    pub warmup_until_ns: u64,
    /// No new request from here on.
    pub deadline_ns: Option<u64>,
    /// No more requests than these (after the warm-up).
    pub requests: Option<u64>,
    /// Longest backlog of a connection in an open loop.
    pub backlog_max: usize,
    /// Give up when nothing came for so long, or when the rest takes longer than this.
    pub timeout_ns: u64,
    /// Check every value read.
    pub verify: bool,
}

/// What the threads of a run share.
#[derive(Debug)]
pub struct Shared {
    /// The zero of all times.
    pub origin: Instant,
    /// Set when one of them failed.
    pub stop: AtomicBool,
    /// Replies so far, for progress.
    pub replies: AtomicU64,
}

/// See the head of the file.
#[derive(Debug)]
pub struct Worker<'a> {
    task: Task,
    shared: &'a Shared,
    connections: Vec<Connection>,
    encoder: Encoder,
    source: Source,
    schedule: Option<Schedule>,
    epoll: OwnedFd,
    timer: OwnedFd,
    stats: Stats,
    now_ns: u64,
    last_reply_ns: u64,
    measuring: bool,
    /// Requests that may still be issued.
    left: u64,
    outstanding: u64,
    queued: u64,
    turn_of: usize,
    touched: Vec<usize>,
}

impl<'a> Worker<'a> {
    /// Takes over `connections`; a schedule makes it an open loop.
    pub fn new(
        task: Task,
        shared: &'a Shared,
        connections: Vec<Connection>,
        encoder: Encoder,
        source: Source,
        schedule: Option<Schedule>,
    ) -> Result<Worker<'a>, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("epoll_create"))?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = time::timerfd_create(TimerfdClockId::Monotonic, flags)
            .map_err(system("timerfd_create"))?;
        let readable = epoll::EventFlags::IN;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), readable)
            .map_err(system("epoll_ctl"))?;
        for (index, connection) in connections.iter().enumerate() {
            let token = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, connection, token, readable).map_err(system("epoll_ctl"))?;
        }
        Ok(Worker {
            task,
            shared,
            connections,
            encoder,
            source,
            schedule,
            epoll,
            timer,
            stats: Stats::new(0),
            now_ns: 0,
            last_reply_ns: 0,
            measuring: false,
            left: u64::MAX,
            outstanding: 0,
            queued: 0,
            turn_of: 0,
            touched: Vec::with_capacity(ARRIVALS_MAX),
        })
    }

    /// Drives the load to its end.
    pub fn run(mut self) -> Result<Stats, String> {
        let ended = self.drive();
        ended.map_err(|why| match &self.stats.first_error {
            Some(error) => format!("{why}; its first error reply was {error:?}"),
            None => why,
        })?;
        Ok(self.stats)
    }

    fn drive(&mut self) -> Result<(), String> {
        let none =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [none; EVENTS_MAX];
        self.look_at_clock();
        if self.schedule.is_none() {
            (0..self.connections.len()).try_for_each(|index| self.issue(index))?;
        }
        while !self.finished()? {
            self.admit()?;
            let count = self.wait(&mut events)?;
            for event in events.iter().take(count) {
                self.turn(event.data.u64(), event.flags)?;
            }
            self.look_at_clock();
        }
        Ok(())
    }

    /// Reads the clock and starts counting when the warm-up is over.
    fn look_at_clock(&mut self) {
        self.now_ns = self.shared.origin.elapsed().as_nanos() as u64;
        if !self.measuring && self.now_ns >= self.task.warmup_until_ns {
            self.measuring = true;
            self.stats = Stats::new(self.now_ns);
            self.left = self.task.requests.unwrap_or(u64::MAX);
        }
    }

    fn finished(&mut self) -> Result<bool, String> {
        let deadline_ns = self.task.deadline_ns.unwrap_or(u64::MAX);
        let due_ns = self.schedule.as_ref().map_or(self.now_ns, Schedule::due_ns);
        let exhausted = self.left == 0 || due_ns >= deadline_ns;
        if exhausted && self.outstanding == 0 && self.queued == 0 {
            return Ok(true);
        }
        if self.shared.stop.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let timeout_ns = self.task.timeout_ns;
        if self.now_ns > deadline_ns.saturating_add(timeout_ns) {
            self.stats.unanswered = self.outstanding + self.queued;
            return Ok(true);
        }
        if self.outstanding > 0 && self.now_ns > self.last_reply_ns.saturating_add(timeout_ns) {
            let seconds = timeout_ns as f64 / 1e9;
            let waiting = self.outstanding;
            return Err(format!("no reply for {seconds} s with {waiting} requests unanswered"));
        }
        Ok(false)
    }

    /// Hands the requests that fell due to the connections.
    fn admit(&mut self) -> Result<(), String> {
        let Some(schedule) = &mut self.schedule else { return Ok(()) };
        let until_ns = self.task.deadline_ns.unwrap_or(u64::MAX).min(self.now_ns + 1);
        while schedule.due_ns() < until_ns && self.left > 0 && self.touched.len() < ARRIVALS_MAX {
            self.left -= 1;
            self.turn_of = (self.turn_of + 1) % self.connections.len();
            let backlog = &mut self.connections[self.turn_of].backlog;
            if backlog.len() < self.task.backlog_max {
                backlog.push_back(schedule.due_ns());
                self.queued += 1;
            } else {
                self.stats.dropped += 1;
            }
            self.touched.push(self.turn_of);
            schedule.advance();
        }
        while let Some(index) = self.touched.pop() {
            self.issue(index)?;
            let waiting = self.connections[index].backlog.len() as u64;
            self.stats.backlog_longest = self.stats.backlog_longest.max(waiting);
        }
        Ok(())
    }

    /// Waits for sockets, or until the next request falls due.
    fn wait(&mut self, events: &mut [epoll::Event; EVENTS_MAX]) -> Result<usize, String> {
        let mut limit = IDLE;
        if let Some(schedule) = self.schedule.as_ref().filter(|_| self.left > 0) {
            let due_ns = schedule.due_ns();
            if due_ns < self.task.deadline_ns.unwrap_or(u64::MAX) {
                let sleep_ns = due_ns.saturating_sub(self.now_ns);
                if sleep_ns < SPIN_NS {
                    limit = AT_ONCE;
                } else {
                    // epoll_pwait counts in milliseconds, a timer in nanoseconds.
                    self.arm_timer(sleep_ns)?;
                }
            }
        }
        match epoll::wait(&self.epoll, &mut events[..], Some(&limit)) {
            Ok(count) => Ok(count),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(system("epoll_wait")(error)),
        }
    }

    fn arm_timer(&self, sleep_ns: u64) -> Result<(), String> {
        let value = Timespec {
            tv_sec: (sleep_ns / 1_000_000_000) as i64,
            tv_nsec: (sleep_ns % 1_000_000_000) as i64,
        };
        let once = Itimerspec { it_interval: AT_ONCE, it_value: value };
        time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
            .map_err(system("timerfd_settime"))?;
        Ok(())
    }

    fn turn(&mut self, token: u64, flags: epoll::EventFlags) -> Result<(), String> {
        if token == TIMER {
            // Only clears it; that it fired is all there is to know.
            let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
            return Ok(());
        }
        let index = token as usize;
        if flags == epoll::EventFlags::OUT {
            return self.flush(index);
        }
        if self.connections[index].fill()? {
            self.look_at_clock();
            self.take_answers(index)?;
            self.issue(index)?;
        }
        Ok(())
    }

    fn take_answers(&mut self, index: usize) -> Result<(), String> {
        let mut count = 0;
        while let Some(answer) = self.connections[index].next_answer()? {
            count += 1;
            let Answer { asked, kind, reply } = answer;
            let stats = &mut self.stats.commands[asked.request.command as usize];
            let latency_ns = self.now_ns.saturating_sub(asked.start_ns);
            stats.latency.saturating_record(latency_ns);
            stats.bytes_sent += u64::from(asked.bytes);
            stats.bytes_received += reply.len() as u64;
            match kind {
                Kind::Null => stats.misses += 1,
                Kind::Error => {
                    stats.errors += 1;
                    self.stats.first_error.get_or_insert_with(|| first_line(reply));
                }
                _ if !self.encoder.is_confirmed(&asked.request, reply) => {
                    stats.errors += 1;
                    self.stats.first_error.get_or_insert_with(|| first_line(reply));
                }
                _ if self.task.verify => match self.encoder.verify(&asked.request, reply) {
                    Ok(values) => self.stats.verified += values,
                    Err(why) => {
                        self.stats.mismatches += 1;
                        self.stats.first_mismatch.get_or_insert(why);
                    }
                },
                _ => {}
            }
        }
        if count > 0 {
            self.outstanding -= count;
            self.last_reply_ns = self.now_ns;
            self.stats.until_ns = self.now_ns;
            self.shared.replies.fetch_add(count, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sends what the connection may send now.
    fn issue(&mut self, index: usize) -> Result<(), String> {
        let connection = &mut self.connections[index];
        let before = connection.inflight();
        if self.schedule.is_some() {
            while connection.inflight() < self.task.pipeline
                && let Some(due_ns) = connection.backlog.pop_front()
                && let Some(request) = self.source.next()
            {
                self.queued -= 1;
                self.stats.lag.saturating_record(self.now_ns.saturating_sub(due_ns));
                connection.push(&self.encoder, request, due_ns);
            }
        } else if before == 0 && self.now_ns < self.task.deadline_ns.unwrap_or(u64::MAX) {
            while connection.inflight() < self.task.pipeline && self.left > 0 {
                match self.source.next() {
                    Some(request) => connection.push(&self.encoder, request, self.now_ns),
                    None => self.left = 1,
                }
                self.left -= 1;
            }
        }
        if self.outstanding == 0 {
            self.last_reply_ns = self.now_ns;
        }
        self.outstanding += (connection.inflight() - before) as u64;
        self.flush(index)
    }

    fn flush(&mut self, index: usize) -> Result<(), String> {
        let connection = &mut self.connections[index];
        let armed = !connection.flush()?;
        if armed != connection.write_armed {
            connection.write_armed = armed;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, armed);
            let token = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &*connection, token, flags).map_err(system("epoll_ctl"))?;
        }
        Ok(())
    }
}

fn system(call: &'static str) -> impl Fn(rustix::io::Errno) -> String {
    move |error| format!("{call}: {error}")
}
