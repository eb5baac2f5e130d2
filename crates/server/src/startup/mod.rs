//! The time between binding the ports and being ready, most of which is replay.
//!
//! Ports that are bound and silent make probes and clients hang, so everybody is answered from the
//! first moment on: HTTP says how far it is, the Redis protocol says LOADING (`greeter`). Whoever is
//! connected when the node becomes ready stays connected and is handed to the data threads.

mod greeter;
mod replies;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use holdfast_base::{Epoch, Error, ErrorKind};
use parking_lot::Mutex;

pub(crate) use greeter::Early;

use crate::{
    Config, OpenProgress,
    clients::Clients,
    data::Opened,
    http,
    listeners::{Addresses, Listeners},
    members::{self, Members},
    metrics::NodeMetrics,
    node::Node,
    tls::Certificates,
    users::digest,
};

/// What the threads of the start share, and what the node takes over from it.
pub(crate) struct Startup {
    pub config: Config,
    pub clients: Arc<Clients>,
    pub certificates: Option<Arc<Certificates>>,
    pub metrics: Arc<NodeMetrics>,
    pub addresses: Addresses,
    /// The cluster's nodes, with a replicated log.
    pub members: OnceLock<Arc<Members>>,
    /// Digest of `redis.password`, if there is one.
    password: Option<String>,
    replayed: AtomicU64,
    to_replay: AtomicU64,
    /// Bytes of a backup that this node begins with.
    fetched: AtomicU64,
    to_fetch: AtomicU64,
    /// Set once the node is ready.
    node: OnceLock<Arc<Node>>,
    /// The data threads take over from the greeter.
    greeted: AtomicBool,
    /// The start has ended. If well, `node` is set before.
    over: AtomicBool,
    greeter: Mutex<Option<JoinHandle<Vec<Early>>>>,
    http: Mutex<Option<JoinHandle<()>>>,
}

/// Ends the threads of a start that fails.
pub(crate) struct Starting(Arc<Startup>);

impl std::ops::Deref for Starting {
    type Target = Startup;

    fn deref(&self) -> &Startup {
        &self.0
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let failed = |error| Error::new(ErrorKind::Unavailable, format!("thread {name}: {error}"));
    std::thread::Builder::new().name(name.into()).spawn(run).map_err(failed)
}

impl Startup {
    /// Answers from now on.
    pub(crate) fn begin(
        config: &Config,
        certificates: Option<Arc<Certificates>>,
        listeners: &Listeners,
    ) -> Result<Starting, Error> {
        let password = &config.redis_password;
        let startup = Starting(Arc::new(Startup {
            config: config.clone(),
            clients: Arc::default(),
            certificates,
            metrics: Arc::default(),
            addresses: listeners.addresses,
            members: OnceLock::new(),
            password: (!password.is_empty()).then(|| digest(password.as_bytes())),
            replayed: AtomicU64::new(0),
            to_replay: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            to_fetch: AtomicU64::new(0),
            node: OnceLock::new(),
            greeted: AtomicBool::new(false),
            over: AtomicBool::new(false),
            greeter: Mutex::new(None),
            http: Mutex::new(None),
        }));
        let failed = |error| Error::new(ErrorKind::Unavailable, format!("listening: {error}"));
        let greeter = greeter::Greeter::new(startup.0.clone(), &listeners.redis).map_err(failed)?;
        *startup.greeter.lock() = Some(spawn("greeter", move || greeter.run())?);
        let doors: std::io::Result<Vec<_>> = listeners.http.iter().map(|d| d.try_clone()).collect();
        let (doors, shared) = (doors.map_err(failed)?, startup.0.clone());
        *startup.http.lock() = Some(spawn("http", move || http::run(&shared, doors))?);
        Ok(startup)
    }

    /// This node has the data, and is about to serve it.
    pub(crate) fn note_taking_over(&self, epoch: Epoch) {
        self.members.get().iter().for_each(|members| members.note_taking_over(epoch.0));
    }

    /// Takes in how far the start is.
    pub(crate) fn note(&self, progress: OpenProgress) {
        match progress {
            OpenProgress::Replaying { done, total } => {
                self.replayed.store(done, Ordering::Relaxed);
                self.to_replay.store(total, Ordering::Relaxed);
            }
            OpenProgress::Fetching { done, total } => {
                self.fetched.store(done, Ordering::Relaxed);
                self.to_fetch.store(total, Ordering::Relaxed);
            }
            OpenProgress::StandingBy { epoch, applied } => {
                self.members.get().iter().for_each(|members| members.note_standing_by(applied));
                self.metrics.stands_by.store(epoch, Ordering::Relaxed);
            }
        }
    }

    /// Records applied again, and records to apply.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.replayed.load(Ordering::Relaxed), self.to_replay.load(Ordering::Relaxed))
    }

    /// How far the start is, in words.
    pub(crate) fn tell(&self) -> String {
        let percent = |done: u64, total: u64| (done * 100).checked_div(total).unwrap_or(0);
        let (fetched, to_fetch) =
            (self.fetched.load(Ordering::Relaxed), self.to_fetch.load(Ordering::Relaxed));
        if fetched < to_fetch {
            return format!("Holdfast is fetching a backup: {} %", percent(fetched, to_fetch));
        }
        let (done, total) = self.progress();
        let percent = percent(done, total);
        format!("Holdfast is replaying its log: {percent} %")
    }

    /// The node, once it is ready.
    pub(crate) fn node(&self) -> Option<&Arc<Node>> {
        self.node.get()
    }

    /// Whether the start has failed, or the node that came of it stops.
    pub(crate) fn is_over(&self) -> bool {
        match self.node.get() {
            Some(node) => node.is_stopping(),
            None => self.over.load(Ordering::Acquire),
        }
    }

    /// Whether nobody is greeted any more.
    fn is_greeted(&self) -> bool {
        self.greeted.load(Ordering::Acquire) || self.is_over()
    }

    /// Ends the greeting; gives who is connected.
    pub(crate) fn take_connections(&self) -> Vec<Early> {
        self.greeted.store(true, Ordering::Release);
        let greeter = self.greeter.lock().take();
        greeter.and_then(|greeter| greeter.join().ok()).unwrap_or_default()
    }
}

impl Starting {
    /// Tells the other nodes of this one from now on, if there is a cluster.
    pub(crate) fn join_cluster(
        &self,
        opened: &mut Opened,
    ) -> Result<Option<JoinHandle<()>>, Error> {
        let Some(entries) = opened.entries.take() else { return Ok(None) };
        let members = Members::new(&self.config, entries, self.addresses, opened.seed);
        let members = self.members.get_or_init(|| Arc::new(members)).clone();
        let startup = self.0.clone();
        spawn("members", move || members::run(&startup, &members)).map(Some)
    }

    /// The node serves: HTTP speaks for it, and ends with it.
    pub(crate) fn end(&self, node: &Arc<Node>) -> Option<JoinHandle<()>> {
        let _ = self.node.set(node.clone());
        self.http.lock().take()
    }
}
