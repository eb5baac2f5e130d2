//! One bench from options to report: connect, fill, warm up, drive, watch, sum up.
//!
//! The threads report back over a channel; meanwhile the calling thread watches the server's
//! process and prints progress. A failure of one thread stops the others and is the result.

use super::args::BenchArgs;
use super::connection::Connection;
use super::mix::Family;
use super::process::{self, Usage};
use super::random::{Keys, Rng};
use super::report::{FillReport, ProcessReport, Report};
use super::schedule::Schedule;
use super::source::Source;
use super::stats::Stats;
use super::value::Values;
use super::wire::{Encoder, Login, Shape};
use super::worker::{Shared, Task, Worker};
use crate::transport::Trust;
use rustix::process::{Resource, Rlimit};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that filling keeps on the way per connection, at most.
const FILL_BYTES: u64 = 256 * 1024;
const FILL_PIPELINE_MAX: u64 = 64;
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Runs the bench that `args` describe.
pub fn measure(args: &BenchArgs) -> Result<Report, String> {
    args.check()?;
    // Fails early for a process that is not there.
    usages(args)?;
    raise_file_limit();
    let address = resolve(&args.addr)?;
    let fill = if args.preload { fill(args, address)? } else { None };
    let run = Run { args, address, filling: false };
    let outcome = run.drive()?;
    Ok(Report::new(args, fill, &outcome.stats, outcome.processes))
}

fn fill(args: &BenchArgs, address: SocketAddr) -> Result<Option<FillReport>, String> {
    let total = Source::fill(&args.mix, args.keys, 0, 1).remaining().unwrap_or(0);
    if total == 0 {
        return Ok(None);
    }
    let stats = Run { args, address, filling: true }.drive()?.stats;
    let counted = stats.total();
    if counted.errors > 0 {
        let first = stats.first_error.unwrap_or_default();
        return Err(format!("preload: {} errors, the first: {first}", counted.errors));
    }
    Ok(Some(FillReport::new(&stats)))
}

/// One pass over the server: filling it, or the load itself.
struct Run<'a> {
    args: &'a BenchArgs,
    address: SocketAddr,
    filling: bool,
}

struct Outcome {
    stats: Stats,
    processes: Vec<ProcessReport>,
}

impl Run<'_> {
    fn drive(&self) -> Result<Outcome, String> {
        let connections = self.connect()?;
        let shared = Shared {
            origin: Instant::now(),
            stop: AtomicBool::new(false),
            replies: AtomicU64::new(0),
        };
        let (sender, results) = mpsc::channel();
        thread::scope(|scope| {
            for (thread, connections) in connections.into_iter().enumerate() {
                let (sender, shared) = (sender.clone(), &shared);
                scope.spawn(move || {
                    let result = self.work(thread as u64, connections, shared);
                    if result.is_err() {
                        shared.stop.store(true, Ordering::Relaxed);
                    }
                    // The receiver goes only after every sender.
                    let _ = sender.send(result);
                });
            }
            drop(sender);
            self.watch(&shared, &results)
        })
    }

    fn work(
        &self,
        thread: u64,
        connections: Vec<Connection>,
        shared: &Shared,
    ) -> Result<Stats, String> {
        let args = self.args;
        if let Some(cpu) = args.pin.get(thread as usize % args.pin.len().max(1)) {
            let mut set = rustix::thread::CpuSet::new();
            set.set(*cpu);
            rustix::thread::sched_setaffinity(None, &set)
                .map_err(|error| format!("--pin {cpu}: {error}"))?;
        }
        let keys = Keys::new(args.keys, args.zipf);
        let share = connections.len() as f64 / args.connections as f64;
        let source = if self.filling {
            Source::fill(&args.mix, args.keys, thread, args.threads)
        } else {
            Source::mix(args.mix.clone(), keys.clone(), args.members, args.seed, thread)
        };
        let schedule = args.rate.filter(|_| !self.filling).map(|rate| {
            let phase = thread as f64 / args.threads as f64;
            let rng = Rng::new(args.seed ^ 0x6172_7269_7661_6c73, thread);
            Schedule::new(args.arrivals, rate * share, phase, rng)
        });
        let encoder = Encoder::new(shape(args, keys), values(args));
        let task = self.task(thread);
        Worker::new(task, shared, connections, encoder, source, schedule)?.run()
    }

    fn task(&self, thread: u64) -> Task {
        let args = self.args;
        let mut task = Task {
            pipeline: args.pipeline as usize,
            warmup_until_ns: nanoseconds(args.warmup_seconds),
            deadline_ns: None,
            requests: None,
            backlog_max: args.backlog_max as usize,
            timeout_ns: nanoseconds(args.timeout_seconds),
            verify: args.verify,
        };
        if self.filling {
            let each = (args.value_bytes + 64) * values_per_fill(args);
            task.pipeline = (FILL_BYTES / each).clamp(1, FILL_PIPELINE_MAX) as usize;
            task.warmup_until_ns = 0;
        } else if let Some(requests) = args.requests {
            let bound = |thread| requests * thread / args.threads;
            task.requests = Some(bound(thread + 1) - bound(thread));
        } else {
            let seconds = args.warmup_seconds + args.seconds.unwrap_or(10.0);
            task.deadline_ns = Some(nanoseconds(seconds));
        }
        task
    }

    /// The connections of each thread.
    fn connect(&self) -> Result<Vec<Vec<Connection>>, String> {
        let args = self.args;
        let login =
            args.password.clone().map(|password| Login { user: args.user.clone(), password });
        let timeout = Duration::from_secs_f64(args.timeout_seconds);
        let trust = args.tls.as_ref().map(|file| Trust::load(file, &args.addr)).transpose()?;
        let mut threads: Vec<Vec<Connection>> = Vec::new();
        threads.resize_with(args.threads as usize, Vec::new);
        for (_, thread) in (0..args.connections).zip((0..threads.len()).cycle()) {
            let connection = Connection::open(
                self.address,
                args.protocol,
                login.as_ref(),
                trust.as_ref(),
                timeout,
            )?;
            threads[thread].push(connection);
        }
        Ok(threads)
    }

    /// Collects what the threads counted; samples processes from the end of the warm-up to the end.
    fn watch(
        &self,
        shared: &Shared,
        results: &Receiver<Result<Stats, String>>,
    ) -> Result<Outcome, String> {
        let warmup = if self.filling { 0.0 } else { self.args.warmup_seconds };
        let counting_from = shared.origin + Duration::from_secs_f64(warmup);
        let mut before = None;
        let mut merged: Option<Stats> = None;
        loop {
            let now = Instant::now();
            if before.is_none() && now >= counting_from {
                before = Some((now, usages(self.args)?));
            }
            let patience = if before.is_none() { counting_from - now } else { PROGRESS_EVERY };
            match results.recv_timeout(patience.min(PROGRESS_EVERY)) {
                Ok(Ok(stats)) => match &mut merged {
                    Some(merged) => merged.merge(stats),
                    None => merged = Some(stats),
                },
                Ok(Err(why)) => return Err(format!("{}: {why}", self.address)),
                Err(RecvTimeoutError::Timeout) => self.progress(shared),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let stats = merged.ok_or("a thread of the generator ended without a result")?;
        let processes = match before {
            None => Vec::new(),
            Some((since, before)) => {
                let seconds = since.elapsed().as_secs_f64();
                self.compare(seconds, &before, &usages(self.args)?, stats.total().count())
            }
        };
        Ok(Outcome { stats, processes })
    }

    fn compare(
        &self,
        seconds: f64,
        before: &[Usage],
        after: &[Usage],
        requests: u64,
    ) -> Vec<ProcessReport> {
        let labels = self.args.server_pid.iter().map(|watched| watched.label.as_str());
        let pairs = before.iter().zip(after);
        let labelled = labels.chain(["generator"]).zip(pairs);
        labelled
            .map(|(label, (from, to))| ProcessReport::new(label, from, to, seconds, requests))
            .collect()
    }

    fn progress(&self, shared: &Shared) {
        if self.filling {
            let done = shared.replies.load(Ordering::Relaxed);
            let total = Source::fill(&self.args.mix, self.args.keys, 0, 1).remaining().unwrap_or(0);
            let percent = done as f64 * 100.0 / total as f64;
            eprintln!("preload: {done} of {total} keys ({percent:.0} %)");
        }
    }
}

/// Usage of the watched processes, then of this one.
fn usages(args: &BenchArgs) -> Result<Vec<Usage>, String> {
    let watched = args.server_pid.iter().map(|watched| watched.pid);
    watched.chain([std::process::id()]).map(process::usage).collect()
}

fn shape(args: &BenchArgs, keys: Keys) -> Shape {
    Shape {
        key_prefix: args.key_prefix.clone(),
        keys,
        members: args.members,
        range_count: args.range_count,
        mget_keys: args.mget_keys,
        expire_seconds: args.expire_seconds,
        wait: args.wait,
    }
}

/// Values in the largest request that fills a key.
fn values_per_fill(args: &BenchArgs) -> u64 {
    let single = |family| matches!(family, Family::None | Family::Text | Family::Counter);
    if args.mix.commands().all(|command| single(command.family())) { 1 } else { args.members }
}

fn values(args: &BenchArgs) -> Values {
    Values::new(args.value_bytes as usize, args.verify)
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let found = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
    // "localhost" may name ::1 first, where few servers listen by default.
    let mut found: Vec<_> = found.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.first().copied().ok_or_else(|| format!("{address}: no such address"))
}

/// Thousands of connections need more descriptors than the soft limit usually grants.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // If it is refused, opening a connection too many says so.
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
