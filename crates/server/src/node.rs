//! One node: opens its data, starts its threads, and stops them in order.
//!
//! Start: listeners, log, engine, replay; then it takes the data over, or serves as a replica until it may.
//! Ready is only who owns the data. Stop: no more
//! requests, everything staged made durable and applied, engine flushed, within a bound.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use holdfast_base::{Error, ErrorKind, Lsn};
use holdfast_engine::{Engine, RocksEngine};
use holdfast_io::{Clock, Disk, DiskLock, SeededRandom, SystemClock};
use holdfast_log::{Log, lease::Lease};
use holdfast_shard::{Limits, Shard, ShardParts};
use parking_lot::{Condvar, Mutex};

use crate::{
    Config, PortPolicy,
    archive::{self, ArchiveState},
    background,
    backup::{self, Backups},
    catalog::Catalog,
    clients::Clients,
    commit,
    data::{Opened, SHARD, io_error, open_data},
    digests::{self, Digests},
    fetch::{self, FetchQueue},
    forward::Forwarder,
    freed::Freed,
    inbox::Inbox,
    listeners::{Addresses, Listeners},
    log_servers::{self, LogServersHeard},
    members::Members,
    metrics::{Lag, NodeMetrics, WorkerMetrics},
    ownership, scheduling,
    startup::{Starting, Startup},
    tls::{self, Certificates, Failure},
    worker::{Door, Worker},
};

/// Forward jumps of the wall clock above this are refused.
const CLOCK_JUMP_MS_MAX: u64 = 60_000;

/// How long a stop waits for an object store to answer a request that is under way.
const OBJECT_STORE_PATIENCE: Duration = Duration::from_secs(2);

/// What opening a node tells while it takes long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenProgress {
    /// Records are applied again after a crash: so far, and in all.
    Replaying {
        /// Records applied.
        done: u64,
        /// Records to apply.
        total: u64,
    },
    /// The engine of a backup is fetched, to begin with.
    Fetching {
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Another node owns the data; this one follows the log, to take over.
    StandingBy {
        /// Epoch of the other one's session.
        epoch: u64,
        /// The last position that the engine here has.
        applied: Lsn,
    },
}

/// A running node.
pub struct Node {
    pub(crate) config: Config,
    pub(crate) shard: Shard,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) engine: RocksEngine,
    pub(crate) catalog: Catalog,
    pub(crate) clients: Arc<Clients>,
    /// There if anything is spoken over TLS.
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) fetches: FetchQueue,
    pub(crate) inboxes: Vec<Arc<Inbox>>,
    pub(crate) workers: Vec<Arc<WorkerMetrics>>,
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) backups: Backups,
    pub(crate) archive: ArchiveState,
    /// Digests of this node's rows, to be compared with the others'.
    pub(crate) digests: Digests,
    pub(crate) log_servers: LogServersHeard,
    /// When positions became durable.
    pub(crate) lag: Lag,
    pub(crate) lease: Lease,
    /// Whether the data is this node's: once it is, until the process ends.
    owns: AtomicBool,
    /// See [`Node::note_heard`].
    pub(crate) heard_ns: AtomicU64,
    /// Passes clients on to the owner, if that is wanted.
    pub(crate) forwarder: Option<Forwarder>,
    /// The cluster's nodes, with a replicated log.
    pub(crate) members: Option<Arc<Members>>,
    /// For ops that choose members; not for secrets. A leaf in the lock order.
    pub(crate) random: Mutex<SeededRandom>,
    /// Bytes in the buffers of all connections.
    pub(crate) connection_bytes: AtomicU64,
    /// What they have freed by force.
    pub(crate) freed: Freed,
    clock: SystemClock,
    started: Instant,
    addresses: Addresses,
    ready: AtomicBool,
    stopping: AtomicBool,
    /// Somebody asked for it: see [`Node::is_asked_to_hand_over`].
    pub(crate) hand_over: AtomicBool,
    /// The engine has failed for good: the process is about to end.
    ending: AtomicBool,
    /// The committer has ended: nothing more becomes durable.
    commits_ended: AtomicBool,
    apply_fails: AtomicBool,
    stop_deadline: Mutex<Option<Instant>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Where clients connect; open as long as the process runs.
    doors: Mutex<Vec<Door>>,
    /// Wakes the background thread at a stop.
    nap: (Mutex<()>, Condvar),
    /// Position at the start; what was replayed up to it is flushed first thing.
    pub(crate) opened_at: Lsn,
    flushed: AtomicU64,
    flushed_log_bytes: AtomicU64,
    _lock: DiskLock,
}

impl Node {
    /// Listens, opens the data folder, replays what the engine lacks, and takes the data over, or stands by
    /// until it may: then it serves what a replica does. `progress` may say that it is to stop: then it does so
    /// while it stands by, and there is no node.
    pub fn start(
        mut config: Config,
        ports: PortPolicy,
        mut progress: impl FnMut(OpenProgress) -> ControlFlow<()>,
    ) -> Result<Option<Arc<Node>>, Error> {
        config.check().map_err(|error| Error::new(ErrorKind::Invalid, error))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let data_threads = if config.threads_data == 0 { cores } else { config.threads_data };
        let certificates = config.speaks_tls().then(|| Certificates::load(&config).map(Arc::new));
        let certificates = certificates.transpose()?;
        let listeners = Listeners::open(&config, data_threads, ports)?;
        warn_of_open_http(&config, &listeners.addresses);
        config.name_node(&listeners.addresses);
        let startup = Startup::begin(&config, certificates, &listeners)?;
        let mut tell = |at| {
            startup.note(at);
            progress(at)
        };
        let mut opened = open_data(&config, &startup.metrics.log, &mut |at| {
            let _ = tell(at);
        })?;
        let members = startup.join_cluster(&mut opened)?;
        let node = Node::assemble(config, opened, data_threads, &startup, listeners.addresses)?;
        let node = Arc::new(node);
        node.threads.lock().extend(members);
        let owns = node.become_owner(listeners, &startup, &mut tell);
        if !matches!(owns, Ok(true))
            && let Err(error) = node.stop()
        {
            tracing::warn!(%error, "it did not stop in order");
        }
        owns.map(|owns| owns.then_some(node))
    }

    /// Takes the data over, when it may. Serves from then on, or already while it stands by.
    fn become_owner(
        self: &Arc<Node>,
        listeners: Listeners,
        startup: &Starting,
        tell: &mut dyn FnMut(OpenProgress) -> ControlFlow<()>,
    ) -> Result<bool, Error> {
        self.spawn("apply", commit::run_applier)?;
        let mut listeners = Some(listeners);
        let taken = ownership::take(self, &mut |at| {
            let listeners = listeners.take();
            listeners.map_or(Ok(()), |listeners| self.serve(listeners, startup))?;
            Ok(tell(at))
        })?;
        let Some(taken) = taken else { return Ok(false) };
        let epoch = taken.epoch();
        startup.note_taking_over(epoch);
        // Nobody else appends any more: what an earlier owner had under way is in the log by now, or never.
        self.follow_to_end()?;
        let (session, position, sent_ns) = taken.wait_for_others()?;
        self.advance_time();
        let session = commit::begin_session(self, session, &position)?;
        self.spawn("log", move |node| commit::run_committer(node, session))?;
        if !self.config.archive_url.is_empty() {
            self.spawn("archive", archive::run)?;
        }
        if self.config.log_servers.is_empty() {
            self.lease.never_ends();
        } else {
            self.lease.extend(sent_ns);
        }
        self.owns.store(true, Ordering::Release);
        self.metrics.stands_by.store(0, Ordering::Relaxed);
        listeners.map_or(Ok(()), |listeners| self.serve(listeners, startup))?;
        self.ready.store(true, Ordering::Release);
        self.members.iter().for_each(|members| members.note_owner(epoch.0));
        Ok(true)
    }

    fn assemble(
        config: Config,
        opened: Opened,
        data_threads: usize,
        startup: &Starting,
        addresses: Addresses,
    ) -> Result<Node, Error> {
        let plan = config.memory_plan();
        let applied_lsn = opened.applied.lsn;
        let shard = Shard::new(ShardParts {
            id: SHARD,
            engine: Arc::new(opened.engine.clone()),
            applied: opened.applied,
            row_cache_bytes: plan.row_cache,
            limits: Limits {
                staged_bytes_max: usize::try_from(plan.staged / 2).unwrap_or(usize::MAX),
                clock_jump_ms_max: CLOCK_JUMP_MS_MAX,
                scan_bytes_max: usize::try_from(plan.connections).unwrap_or(usize::MAX),
            },
        });
        let forwarder = config.redis_forward.then(|| {
            let (clients, open) = (startup.clients.clone(), startup.metrics.forwarded.clone());
            Forwarder::start(clients, open, plan.connections)
                .map_err(io_error(Path::new("the thread `forward`")))
        });
        let inboxes: Result<Vec<_>, _> =
            (0..data_threads).map(|_| Inbox::new().map(Arc::new)).collect();
        let inboxes = inboxes
            .map_err(|errno| Error::new(ErrorKind::Unavailable, format!("eventfd: {errno}")))?;
        Ok(Node {
            lease: Lease::new(),
            owns: AtomicBool::new(false),
            heard_ns: AtomicU64::new(0),
            forwarder: forwarder.transpose()?,
            members: startup.members.get().cloned(),
            catalog: Catalog::load(&opened.engine, &shard, &config.redis_password)?,
            config,
            shard,
            disk: opened.disk,
            log: opened.log,
            engine: opened.engine,
            clients: startup.clients.clone(),
            certificates: startup.certificates.clone(),
            fetches: FetchQueue::default(),
            inboxes,
            workers: (0..data_threads).map(|_| Arc::new(WorkerMetrics::default())).collect(),
            metrics: startup.metrics.clone(),
            backups: Backups::default(),
            archive: ArchiveState::default(),
            digests: Digests::default(),
            log_servers: LogServersHeard::default(),
            lag: Lag::default(),
            random: Mutex::new(SeededRandom::new(opened.seed)),
            connection_bytes: AtomicU64::new(0),
            freed: Freed::default(),
            clock: SystemClock,
            started: Instant::now(),
            addresses,
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            hand_over: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            commits_ended: AtomicBool::new(false),
            apply_fails: AtomicBool::new(false),
            stop_deadline: Mutex::new(None),
            threads: Mutex::new(Vec::new()),
            doors: Mutex::default(),
            nap: (Mutex::new(()), Condvar::new()),
            opened_at: applied_lsn,
            flushed: AtomicU64::new(0),
            flushed_log_bytes: AtomicU64::new(0),
            _lock: opened.lock,
        })
    }

    /// Starts what answers clients, and what keeps the engine in order.
    fn serve(self: &Arc<Node>, listeners: Listeners, startup: &Starting) -> Result<(), Error> {
        self.spawn("background", background::run)?;
        self.spawn("backup", backup::run)?;
        for at in 0..self.config.threads_fetch {
            self.spawn(&format!("fetch-{at}"), fetch::run)?;
        }
        if self.members.is_some() {
            self.spawn("digest", digests::run)?;
        }
        if !self.config.log_monitors.is_empty() {
            self.spawn("log-servers", log_servers::run)?;
        }
        if let Some(certificates) = self.certificates.clone() {
            self.spawn("tls", move |node| tls::run_watcher(node, &certificates))?;
        }
        let mut early = startup.take_connections();
        // Who connects while this node hands its data over waits until it has, and is not refused.
        let kept: std::io::Result<Vec<Door>> =
            listeners.redis.iter().flatten().map(Door::try_clone).collect();
        *self.doors.lock() = kept.map_err(io_error(Path::new("a listener")))?;
        for (at, doors) in listeners.redis.into_iter().enumerate() {
            let mut worker = Worker::new(self.clone(), at, doors)
                .map_err(|errno| Error::new(ErrorKind::Unavailable, format!("epoll: {errno}")))?;
            let its_part = early.len().div_ceil(self.workers.len() - at);
            early.drain(..its_part).for_each(|connection| worker.adopt(connection));
            self.spawn(&format!("data-{at}"), move |_| worker.run())?;
        }
        if let Err(error) = scheduling::schedule_threads() {
            tracing::info!(
                %error,
                "threads stay scheduled alike: reads may wait behind background work"
            );
        }
        self.threads.lock().extend(startup.end(self));
        Ok(())
    }

    fn spawn(
        self: &Arc<Node>,
        name: &str,
        run: impl FnOnce(&Arc<Node>) + Send + 'static,
    ) -> Result<(), Error> {
        let node = self.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(&node));
        let thread = thread.map_err(|error| {
            Error::new(ErrorKind::Unavailable, format!("thread {name}: {error}"))
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Where the node is reached.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Reads the certificates again, if any are used.
    pub fn reload_certificates(&self) {
        if let Some(certificates) = &self.certificates {
            tls::reload_and_tell(certificates);
        }
    }

    /// Whether this node is to stop so that another one takes its data over, and then to start again.
    pub fn is_asked_to_hand_over(&self) -> bool {
        self.hand_over.load(Ordering::Acquire)
    }

    /// Counts a TLS connection that did not come about.
    pub(crate) fn tls_failed(&self, failure: Failure) {
        self.metrics.tls.fail(failure);
    }

    /// Whether requests are served: writes too.
    pub(crate) fn is_ready(&self) -> bool {
        let failing = self.shard.stats().failed || self.apply_fails.load(Ordering::Acquire);
        self.ready.load(Ordering::Acquire) && !failing
    }

    /// Moves shard time to the clocks and gives it in milliseconds.
    pub(crate) fn advance_time(&self) -> u64 {
        let monotonic_ms = self.clock.monotonic_ns() / 1_000_000;
        let (now_ms, jumped) = self.shard.advance_time(self.clock.wall_ms(), monotonic_ms);
        if jumped {
            self.metrics.clock_jumps.fetch_add(1, Ordering::Relaxed);
        }
        now_ms
    }

    /// Microseconds since 1970 by the wall clock.
    pub(crate) fn wall_us(&self) -> u64 {
        self.clock.wall_ms() * 1_000 + self.clock.monotonic_ns() / 1_000 % 1_000
    }

    /// Seconds since the node was opened.
    pub(crate) fn uptime_seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Bytes of log that a crash now would have to replay, roughly.
    pub(crate) fn unflushed_log_bytes(&self) -> u64 {
        // Read before the total, which only grows: the other way round a flush between the two would
        // make the difference negative.
        let flushed = self.flushed_log_bytes.load(Ordering::Acquire);
        self.shard.staged_bytes_total() - flushed
    }

    /// Bytes that connections may still hold together.
    pub(crate) fn connection_bytes_free(&self) -> u64 {
        let held = self.connection_bytes.load(Ordering::Relaxed);
        self.config.memory_plan().connections.saturating_sub(held)
    }

    /// The engine has flushed up to here.
    pub(crate) fn note_flushed(&self, flushed: Lsn) {
        if self.flushed.swap(flushed.0, Ordering::AcqRel) != flushed.0 {
            let bytes = self.shard.staged_bytes_total();
            self.flushed_log_bytes.store(bytes, Ordering::Release);
            self.lag.forget_before(flushed);
        }
    }

    /// The last flushed position that was seen.
    pub(crate) fn flushed_seen(&self) -> Lsn {
        Lsn(self.flushed.load(Ordering::Acquire))
    }

    /// Lets the background thread sleep until a stop.
    pub(crate) fn park_background(&self, duration: Duration) {
        let mut guard = self.nap.0.lock();
        if !self.is_stopping() {
            self.nap.1.wait_for(&mut guard, duration);
        }
    }

    /// Whether a stop has used up its time.
    pub(crate) fn is_past_stop_deadline(&self) -> bool {
        self.stop_deadline.lock().is_some_and(|deadline| Instant::now() > deadline)
    }

    /// Whether the data is this node's, as far as it knows.
    pub(crate) fn owns(&self) -> bool {
        self.owns.load(Ordering::Acquire)
    }

    /// Whether this node may answer as the owner from what it holds.
    pub(crate) fn holds_lease(&self) -> bool {
        ownership::holds(&self.lease)
    }

    /// Whether a stop has begun: no more requests are taken.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Requests are answered that the process ends (`ending`).
    pub(crate) fn begin_ending(&self) {
        self.ending.store(true, Ordering::Release);
        self.inboxes.iter().for_each(|inbox| inbox.ring());
    }

    /// Whether the process is about to end because the engine has failed.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Whether nothing more will become durable and everything durable is applied, or a stop has
    /// used up its time.
    pub(crate) fn applier_may_end(&self) -> bool {
        let last = self.commits_ended.load(Ordering::Acquire) && self.shard.is_drained();
        last || self.is_past_stop_deadline()
    }

    /// Why reads and writes are not served, in words.
    pub(crate) fn why_not_ready(&self) -> String {
        let epoch = self.metrics.stands_by.load(Ordering::Relaxed);
        match self.shard.failure() {
            _ if epoch > 0 => {
                format!("Holdfast stands by: another node serves this data, since epoch {epoch}")
            }
            Some(error) => error.to_string(),
            None if self.apply_fails.load(Ordering::Acquire) => {
                "the engine refuses durable records".into()
            }
            None => "stopping".into(),
        }
    }

    /// Remembers whether the engine refuses durable records.
    pub(crate) fn apply_fails(&self, fails: bool) {
        self.apply_fails.store(fails, Ordering::Release);
    }

    /// Drains and flushes, thread after thread in the order in which work flows. An error says what
    /// was left undone; nothing acknowledged is lost either way, only replay is longer.
    pub fn stop(&self) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(self.config.shutdown_seconds_max);
        *self.stop_deadline.lock() = Some(deadline);
        self.ready.store(false, Ordering::Release);
        self.stopping.store(true, Ordering::Release);
        self.members.iter().for_each(|members| members.note_stopping());
        // Data threads take no more requests and let the replies go that wait for durability.
        self.inboxes.iter().for_each(|inbox| inbox.ring());
        self.join("data");
        self.fetches.stop();
        drop(self.nap.0.lock());
        self.nap.1.notify_all();
        self.backups.wake();
        for thread in ["fetch", "background", "digest", "tls", "http", "members"] {
            self.join(thread);
        }
        self.shard.stop();
        self.join("log");
        if self.owns() {
            ownership::wait_for_successor(self);
        }
        self.commits_ended.store(true, Ordering::Release);
        self.join("apply");
        if !self.shard.is_drained() {
            let text = "stopped with records not yet applied: they are replayed at the next start";
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        let flushed = self.engine.flush().map_err(Error::from);
        // Last: an object store that does not answer holds up nothing but these two.
        let patience = deadline.min(Instant::now() + OBJECT_STORE_PATIENCE);
        for thread in ["backup", "archive"] {
            self.join_until(thread, patience);
        }
        flushed
    }

    /// As [`Self::join`], but leaves a thread behind that waits for an object store.
    fn join_until(&self, name: &str, deadline: Instant) {
        let is_running =
            |thread: &JoinHandle<()>| thread.thread().name() == Some(name) && !thread.is_finished();
        while self.threads.lock().iter().any(is_running) {
            if Instant::now() > deadline {
                return tracing::warn!(name, "a thread still waits for an object store");
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        self.join(name);
    }

    /// Waits for the threads whose names begin so.
    fn join(&self, name: &str) {
        let mut threads = self.threads.lock();
        let (ending, rest) = std::mem::take(&mut *threads)
            .into_iter()
            .partition(|thread| thread.thread().name().is_some_and(|n| n.starts_with(name)));
        *threads = rest;
        drop(threads);
        let ending: Vec<JoinHandle<()>> = ending;
        for thread in ending {
            if thread.join().is_err() {
                tracing::error!(name, "a thread had panicked");
            }
        }
    }
}

/// Whoever protects the data with a password may not expect the names of keyspaces, and their sizes, to
/// be readable without one.
fn warn_of_open_http(config: &Config, addresses: &Addresses) {
    let is_open = config.http_token.is_empty() && !config.redis_password.is_empty();
    for addr in [addresses.http, addresses.http_tls].into_iter().flatten() {
        if is_open && !addr.ip().is_loopback() {
            tracing::warn!(
                %addr,
                "HTTP tells /metrics to everybody who reaches it, although the Redis port asks for a \
                 password: set http.token, or listen on loopback"
            );
        }
    }
}
