//! One node: opens its data, starts its threads, and stops them in order.
//!
//! Start: log, engine, replay, take-over, threads, listeners; only then is it ready. Stop: no more
//! requests, everything staged made durable and applied, engine flushed, within a bound.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use holdfast_backup::{RESTORING_FILE, remove_checkpoint};
use holdfast_base::{Error, ErrorKind, Lsn, ShardId, row::AppliedState};
use holdfast_engine::{Engine, EngineError, EngineErrorKind, EngineOptions, RocksEngine};
use holdfast_io::{Clock, Disk, DiskLock, OsRandom, Random, RealDisk, SeededRandom, SystemClock};
use holdfast_jetstream::{Entries, JetStreamLog, JetStreamOptions, TlsFiles};
use holdfast_log::{EmbeddedLog, EmbeddedOptions, Log, Session, SyncPolicy};
use holdfast_shard::{Limits, Shard, ShardParts, replay};
use parking_lot::{Condvar, Mutex};

use crate::{
    Config, PortPolicy, Sync,
    archive::{self, ArchiveState},
    background,
    backup::{self, Backups},
    catalog::Catalog,
    clients::Clients,
    commit,
    fetch::{self, FetchQueue},
    freed::Freed,
    inbox::Inbox,
    listeners::{Addresses, Listeners},
    members::Members,
    metrics::{Lag, LogMetrics, MeasuredDisk, NodeMetrics, WorkerMetrics},
    ownership::{self, Lease},
    scheduling,
    startup::Startup,
    tls::{self, Certificates, Failure},
    worker::{Door, Worker},
};

/// Folder of the log below the data folder.
pub(crate) const LOG_DIR: &str = "log";
/// Where a log stands while it is made, or moved in (docs/formats.md, "Data folder").
const LOG_MAKING_DIR: &str = "log.new";
/// Folder of the engine below the data folder.
pub(crate) const ENGINE_DIR: &str = "engine";
/// File that keeps a second process out of the data folder.
pub(crate) const LOCK_FILE: &str = "lock";
/// The only shard of a single node.
pub(crate) const SHARD: ShardId = ShardId(0);
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
    /// When positions became durable.
    pub(crate) lag: Lag,
    pub(crate) lease: Lease,
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

pub(crate) fn log_error(error: holdfast_log::LogError) -> Error {
    Error::new(error.kind(), error.to_string())
}

pub(crate) fn io_error(what: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| Error::new(ErrorKind::Unavailable, format!("{}: {error}", what.display()))
}

/// Log and engine of a data folder, opened and in agreement, and the state that they hold.
pub(crate) struct Opened {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: Arc<dyn Log>,
    /// Beside a replicated log: what its nodes tell each other.
    pub(crate) entries: Option<Entries>,
    pub(crate) engine: RocksEngine,
    applied: AppliedState,
    pub(crate) seed: u64,
    lock: DiskLock,
}

pub(crate) fn open_data(
    config: &Config,
    log_metrics: &Arc<LogMetrics>,
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<Opened, Error> {
    make_durable(&config.data)?;
    let disk: Arc<dyn Disk> =
        Arc::new(RealDisk::new(&config.data).map_err(io_error(&config.data))?);
    let lock = disk.lock(LOCK_FILE).map_err(io_error(&config.data))?;
    refuse_half_restored(&*disk, &config.data)?;
    remove_checkpoint(&*disk)?;
    // What is made last: a folder without it was never a node's.
    let made_last = if config.log_servers.is_empty() { LOG_DIR } else { ENGINE_DIR };
    let fresh = !disk.exists(made_last).map_err(io_error(&config.data))?;
    let engine_mode =
        if fresh { holdfast_engine::OpenMode::Create } else { holdfast_engine::OpenMode::Existing };
    let plan = config.memory_plan();
    let options = EngineOptions {
        block_cache_bytes: usize::try_from(plan.block_cache).unwrap_or(usize::MAX),
        memtable_bytes_total: usize::try_from(plan.memtables).unwrap_or(usize::MAX),
        background_bytes_per_second: config.engine_background_bytes_per_second.0,
        ..EngineOptions::default()
    };
    let engine = RocksEngine::open(&config.data.join(ENGINE_DIR), engine_mode, &options)?;
    let stored = holdfast_shard::stored_state(&engine, SHARD)?;
    let mut random = OsRandom::new().map_err(io_error(Path::new("/dev/urandom")))?;
    let claims = stored.iter().map(|state| (SHARD, state.lsn)).collect();
    let (log, entries): (Arc<dyn Log>, _) = if config.log_servers.is_empty() {
        (embedded_log(config, disk.clone(), log_metrics, fresh, claims, &mut random)?, None)
    } else {
        let log = replicated_log(config, claims, &mut random)?;
        let entries = log.entries();
        (Arc::new(log), Some(entries))
    };
    let first = stored.map_or(Lsn::ZERO, |state| state.lsn);
    let replayed = replay(SHARD, &*log, &engine, |at| {
        progress(OpenProgress::Replaying {
            done: at.applied.0 - first.0,
            total: at.end.0 - first.0,
        });
    })?;
    let applied = replayed.unwrap_or_else(|| {
        let mut hash_seed = [0; 16];
        random.fill(&mut hash_seed);
        AppliedState { hash_seed, ..AppliedState::default() }
    });
    Ok(Opened { disk, log, entries, engine, applied, seed: random.next_u64(), lock })
}

impl Opened {
    /// The last position that the engine has.
    pub(crate) fn applied(&self) -> Lsn {
        self.applied.lsn
    }

    /// Bytes of the log that are known and not applied.
    pub(crate) fn behind_bytes(&self) -> u64 {
        self.log.bytes_from(SHARD, self.applied.lsn.next())
    }

    /// Replays what has come into the log since it was opened.
    pub(crate) fn replay_rest(&mut self) -> Result<(), Error> {
        if let Some(applied) = replay(SHARD, &*self.log, &self.engine, |_| {})? {
            self.applied = applied;
        }
        Ok(())
    }
}

fn embedded_log(
    config: &Config,
    disk: Arc<dyn Disk>,
    metrics: &Arc<LogMetrics>,
    fresh: bool,
    engine_claims: BTreeMap<ShardId, Lsn>,
    random: &mut dyn Random,
) -> Result<Arc<dyn Log>, Error> {
    let mode =
        if fresh { holdfast_log::OpenMode::Create } else { holdfast_log::OpenMode::Existing };
    let options = EmbeddedOptions {
        segment_bytes: config.log_segment_bytes.0,
        sync: match config.log_sync {
            Sync::Always => SyncPolicy::Always,
            Sync::Never => SyncPolicy::Never,
        },
        engine_claims,
        ..EmbeddedOptions::new(LOG_DIR, mode)
    };
    let disk = MeasuredDisk::wrap(disk, metrics.clone());
    Ok(Arc::new(EmbeddedLog::open(disk, options, random).map_err(log_error)?))
}

/// The log on log servers. It may be made at any start: it then has another identity than what the
/// engine holds, and is refused.
fn replicated_log(
    config: &Config,
    claims: BTreeMap<ShardId, Lsn>,
    random: &mut dyn Random,
) -> Result<JetStreamLog, Error> {
    let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
    let options = JetStreamOptions {
        replicas: config.log_replicas,
        claims,
        nkey_seed_file: given(&config.log_nkey_seed_file),
        tls: given(&config.log_ca_file).map(|ca| TlsFiles { ca, identity: None }),
        ..JetStreamOptions::new(config.log_servers.clone(), &config.log_name, vec![SHARD])
    };
    JetStreamLog::open(options, random).map_err(log_error)
}

/// A folder in which a restore was broken off looks like a node's and is none.
fn refuse_half_restored(disk: &dyn Disk, data: &Path) -> Result<(), Error> {
    if !disk.exists(RESTORING_FILE).map_err(io_error(data))? {
        return Ok(());
    }
    let text = "a restore was broken off here: empty the folder and restore again";
    Err(Error::new(ErrorKind::Corrupt, format!("{}: {text}", data.display())))
}

/// Makes a folder if need be. Its own name, and those of parents that are made with it, survive a
/// power cut only if the folders in which they stand were synced.
pub(crate) fn make_durable(path: &Path) -> Result<(), Error> {
    let absolute = std::path::absolute(path).map_err(io_error(path))?;
    let made = absolute.ancestors().take_while(|folder| !folder.exists()).count();
    std::fs::create_dir_all(&absolute).map_err(io_error(path))?;
    let absolute = absolute.canonicalize().map_err(io_error(path))?;
    for folder in absolute.ancestors().take(2.max(made + 1)) {
        let folder_file = std::fs::File::open(folder).map_err(io_error(folder))?;
        folder_file.sync_all().map_err(io_error(folder))?;
    }
    Ok(())
}

impl Node {
    /// Listens, opens the data folder, replays what the engine lacks, and starts all threads. While
    /// it replays or stands by, it answers that it does (`startup`). `progress` may say that it is to
    /// stop: then it does so while it stands by, and there is no node.
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
        let Some(taken) = ownership::take(&mut opened, config.log_take_over, &mut tell)? else {
            return Ok(None);
        };
        startup.note_taking_over(taken.epoch());
        // Nobody else appends any more: what an earlier owner had under way is in the log by now, or never.
        opened.replay_rest()?;
        let node = Node::assemble(config, opened, data_threads, &startup, listeners.addresses)?;
        let node = Arc::new(node);
        let epoch = taken.epoch().0;
        let (session, position) = taken.wait_for_others(&node.lease)?;
        node.advance_time();
        let session = commit::begin_session(&node, session, &position)?;
        node.start_threads(session, listeners, &startup)?;
        node.ready.store(true, Ordering::Release);
        node.threads.lock().extend(startup.end(&node).into_iter().chain(members));
        node.members.iter().for_each(|members| members.note_owner(epoch));
        Ok(Some(node))
    }

    fn assemble(
        config: Config,
        opened: Opened,
        data_threads: usize,
        startup: &Startup,
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
        let inboxes: Result<Vec<_>, _> =
            (0..data_threads).map(|_| Inbox::new().map(Arc::new)).collect();
        let inboxes = inboxes
            .map_err(|errno| Error::new(ErrorKind::Unavailable, format!("eventfd: {errno}")))?;
        Ok(Node {
            lease: Lease::new(!config.log_servers.is_empty()),
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

    fn start_threads(
        self: &Arc<Node>,
        session: Box<dyn Session>,
        listeners: Listeners,
        startup: &Startup,
    ) -> Result<(), Error> {
        self.spawn("log", move |node| commit::run_committer(node, session))?;
        self.spawn("apply", commit::run_applier)?;
        self.spawn("background", background::run)?;
        self.spawn("backup", backup::run)?;
        if !self.config.archive_url.is_empty() {
            self.spawn("archive", archive::run)?;
        }
        for at in 0..self.config.threads_fetch {
            self.spawn(&format!("fetch-{at}"), fetch::run)?;
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
        match self.shard.failure() {
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
        for thread in ["fetch", "background", "tls", "http", "members"] {
            self.join(thread);
        }
        self.shard.stop();
        self.join("log");
        ownership::wait_for_successor(self);
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

/// Verifies every checksum of a stopped node's data, and that log and engine agree. Gives the
/// report's lines; an error if something is wrong.
pub fn check(data: &Path) -> Result<Vec<String>, Error> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(data).map_err(io_error(data))?);
    refuse_half_restored(&*disk, data)?;
    must_hold_data(&*disk, data)?;
    let _lock = disk.lock(LOCK_FILE).map_err(io_error(data))?;
    verify_data(&disk, data)
}

/// Refuses a folder in which no node has ever been.
pub(crate) fn must_hold_data(disk: &dyn Disk, data: &Path) -> Result<(), Error> {
    if disk.exists(LOG_DIR).map_err(io_error(data))? {
        return Ok(());
    }
    let here = data.display();
    if disk.exists(LOG_MAKING_DIR).map_err(io_error(data))? {
        let text = format!("{here}: a start was cut short; start the node once, then try again");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    if disk.exists(ENGINE_DIR).map_err(io_error(data))? {
        return Err(damaged(&format!("{here}: there is an engine, but no log beside it")));
    }
    Err(Error::new(ErrorKind::Invalid, format!("{here}: no data of a node here")))
}

/// As [`check`], of a folder that is locked already.
pub(crate) fn verify_data(disk: &Arc<dyn Disk>, data: &Path) -> Result<Vec<String>, Error> {
    let report = holdfast_log::embedded::verify(&**disk, LOG_DIR).map_err(log_error)?;
    let mut lines = vec![format!(
        "log: {} segments, {} groups, {} records",
        report.segments, report.groups, report.records
    )];
    if let Some((file, offset)) = &report.torn {
        lines.push(format!("log: the last write, {file} at {offset}, is torn and will be cut off"));
    }
    if report.start_cut_short {
        lines.push("log: a start was cut short; the next one finishes it".to_owned());
    }
    if let Some(problem) = report.problems.first() {
        return Err(Error::new(ErrorKind::Corrupt, problem.to_string()));
    }
    let options = EngineOptions::default();
    let engine =
        RocksEngine::open(&data.join(ENGINE_DIR), holdfast_engine::OpenMode::Existing, &options)
            .map_err(engine_error)?;
    let verified = engine.verify().map_err(engine_error)?;
    lines.push(format!("engine: {} files, {} bytes", verified.files, verified.bytes));
    if let Some(damage) = verified.damage.first() {
        return Err(damaged(&format!("engine: {damage}")));
    }
    let state = holdfast_shard::stored_state(&engine, SHARD)?.unwrap_or_default();
    let ends = report.shards.get(&SHARD);
    let (first, next) = ends.map_or((Lsn(1), Lsn(1)), |shard| (shard.first, shard.next));
    lines.push(format!(
        "agreement: the engine has applied {}, the log holds {first} to {}",
        state.lsn,
        Lsn(next.0.saturating_sub(1))
    ));
    if state.lsn >= next || state.lsn.next() < first {
        let text = format!(
            "log and engine are not of one time: the engine has applied {}, but the log holds {first} \
             to before {next}",
            state.lsn
        );
        return Err(damaged(&text));
    }
    Ok(lines)
}

/// What keeps the engine of a stopped node from being read. A missing file is an I/O error.
fn engine_error(error: EngineError) -> Error {
    match error.kind {
        EngineErrorKind::Corrupt | EngineErrorKind::Missing | EngineErrorKind::Io => {
            damaged(&error.to_string())
        }
        _ => error.into(),
    }
}

/// What is damaged, with what to do about it.
fn damaged(what: &str) -> Error {
    let advice = "keep the folder, put the missing or damaged file back, or restore from a backup";
    Error::new(ErrorKind::Corrupt, format!("{what}. Acknowledged records may be lost: {advice}"))
}
