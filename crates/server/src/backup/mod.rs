//! The node's backups: one thread, one backup at a time, never on the way of a request.
//!
//! BACKUP START and PRUNE leave a wish, the thread takes it; STATUS reads what it says of itself.
//! So the two never run side by side, which pruning needs. The thread keeps to
//! `backup.bytes_per_second` and gives up when the node stops. A failure is told and counted, and
//! leaves the node as it was.

mod schedule;
mod store;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_backup::{BackupId, Location, Manifest, Pruned, Source, Step, prune, take};
use holdfast_base::{Error, ErrorKind, Lsn};
use holdfast_io::{Clock as _, RealDisk, SystemClock};
use parking_lot::{Condvar, Mutex};

use crate::{
    Config,
    data::{SHARD, io_error, must_hold_data, open_data},
    node::Node,
};

use schedule::Schedule;
pub use store::{StoreUse, open_store};

/// How long the thread sleeps without a wish; only to notice a stop that was not signalled.
const IDLE: Duration = Duration::from_millis(500);
/// How long a backup waits for the applier, which is milliseconds behind, and between two looks.
const APPLY_WAIT_MAX: Duration = Duration::from_secs(30);
const APPLY_POLL: Duration = Duration::from_millis(2);
/// The wish for a backup, in a word.
const BACKUP: &str = "backup";
/// What a pace may make good after it was held up, so that a stalled store is not followed by a
/// burst.
const BURST: Duration = Duration::from_millis(100);

/// What the thread can be asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// A backup to this place.
    Backup(Location),
    /// The backups there removed, but for so many.
    Prune(Location, usize),
}

/// How it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Phase {
    /// None was asked for since the start.
    #[default]
    Idle,
    Running,
    Done,
    Failed,
}

impl Phase {
    /// Its word in BACKUP STATUS.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Running => "running",
            Phase::Done => "done",
            Phase::Failed => "failed",
        }
    }
}

/// The last wish.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    /// Counts the wishes.
    pub run: u64,
    /// What it was, in a word.
    pub what: &'static str,
    pub phase: Phase,
    pub url: String,
    pub files: u64,
    pub files_done: u64,
    pub bytes: u64,
    pub bytes_uploaded: u64,
    pub bytes_reused: u64,
    pub id: Option<BackupId>,
    pub lsn: Lsn,
    /// What was removed.
    pub pruned: Pruned,
    /// Why it failed.
    pub error: String,
    begun: Option<Instant>,
    took: Duration,
}

impl Status {
    /// Whether a backup is being taken now.
    pub(crate) fn is_backup_running(&self) -> bool {
        self.phase == Phase::Running && self.what == BACKUP
    }

    /// How long it has run, or ran.
    pub(crate) fn seconds(&self) -> f64 {
        let running = self.phase == Phase::Running;
        self.begun.filter(|_| running).map_or(self.took, |begun| begun.elapsed()).as_secs_f64()
    }
}

/// Figures over all backups of this process.
#[derive(Default)]
pub(crate) struct BackupMetrics {
    /// Milliseconds since 1970 of the last one that succeeded; 0: none.
    pub last_success_ms: AtomicU64,
    /// How long that one took.
    pub last_duration_ms: AtomicU64,
    pub succeeded: AtomicU64,
    pub failed: AtomicU64,
    pub bytes_uploaded: AtomicU64,
    pub bytes_reused: AtomicU64,
}

/// What commands and the backup thread share.
#[derive(Default)]
pub(crate) struct Backups {
    /// The wish and how the last one stands. A leaf in the lock order.
    desk: Mutex<Desk>,
    asked: Condvar,
    /// The last record in the newest backup at `backup.url`; 0: none, or not known.
    covered: AtomicU64,
    pub metrics: BackupMetrics,
}

#[derive(Default)]
struct Desk {
    wish: Option<Wish>,
    status: Status,
}

impl Backups {
    /// Asks for something; gives its number among the wishes.
    pub(crate) fn start(&self, wish: Wish) -> Result<u64, Error> {
        let mut desk = self.desk.lock();
        if desk.status.phase == Phase::Running {
            let text = "a backup is running, or old ones are removed: see BACKUP STATUS";
            return Err(Error::new(ErrorKind::Overloaded, text));
        }
        let run = desk.status.run + 1;
        let (what, location) = match &wish {
            Wish::Backup(location) => (BACKUP, location),
            Wish::Prune(location, _) => ("prune", location),
        };
        desk.status = Status {
            run,
            what,
            phase: Phase::Running,
            url: location.to_string(),
            begun: Some(Instant::now()),
            ..Status::default()
        };
        desk.wish = Some(wish);
        self.asked.notify_all();
        Ok(run)
    }

    /// A backup at `backup.url` holds everything up to here.
    fn cover(&self, lsn: Lsn) {
        self.covered.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// What the newest one there holds, as far as it is known; zero: nothing.
    pub(crate) fn covered(&self) -> Lsn {
        Lsn(self.covered.load(Ordering::Acquire))
    }

    pub(crate) fn status(&self) -> Status {
        self.desk.lock().status.clone()
    }

    /// Ends the thread's sleep.
    pub(crate) fn wake(&self) {
        drop(self.desk.lock());
        self.asked.notify_all();
    }

    fn wish(&self) -> Option<Wish> {
        let mut desk = self.desk.lock();
        if desk.wish.is_none() {
            self.asked.wait_for(&mut desk, IDLE);
        }
        desk.wish.take()
    }

    fn note(&self, step: Step) {
        let status = &mut self.desk.lock().status;
        match step {
            Step::Planned { files, bytes } => (status.files, status.bytes) = (files, bytes),
            Step::Transferred(bytes) => {
                status.files_done += 1;
                status.bytes_uploaded += bytes;
                self.metrics.bytes_uploaded.fetch_add(bytes, Ordering::Relaxed);
            }
            Step::Reused(bytes) => {
                status.files_done += 1;
                status.bytes_reused += bytes;
                self.metrics.bytes_reused.fetch_add(bytes, Ordering::Relaxed);
            }
            Step::Moved(_) | Step::Replayed(_) => {}
        }
    }

    fn end(&self, result: Result<Outcome, Error>) {
        let mut desk = self.desk.lock();
        let status = &mut desk.status;
        status.took = status.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
        let (what, url) = (status.what, &status.url);
        match result {
            Ok(Outcome::Taken(manifest)) => {
                let (uploaded, reused) = (status.bytes_uploaded, status.bytes_reused);
                tracing::info!(id = %manifest.id, %url, uploaded, reused, "a backup was taken");
                let metrics = &self.metrics;
                metrics.last_success_ms.store(manifest.taken_at_ms, Ordering::Relaxed);
                let took_ms = status.took.as_millis() as u64;
                metrics.last_duration_ms.store(took_ms, Ordering::Relaxed);
                metrics.succeeded.fetch_add(1, Ordering::Relaxed);
                status.phase = Phase::Done;
                status.lsn = manifest.lsn;
                status.id = Some(manifest.id);
            }
            Ok(Outcome::Pruned(pruned)) => {
                tracing::info!(?pruned, %url, "old backups were removed");
                status.phase = Phase::Done;
                status.pruned = pruned;
            }
            Err(error) => {
                tracing::error!(%error, what, %url, "it failed: the node goes on without it");
                if what == BACKUP {
                    self.metrics.failed.fetch_add(1, Ordering::Relaxed);
                }
                status.phase = Phase::Failed;
                status.error = error.to_string();
            }
        }
    }
}

/// How a wish ended well.
enum Outcome {
    Taken(Manifest),
    Pruned(Pruned),
}

/// The loop of the backup thread.
pub(crate) fn run(node: &Arc<Node>) {
    let mut schedule = Schedule::new(node);
    while !node.is_stopping() {
        // One node of a cluster takes them by itself; each may be asked for one.
        schedule.iter_mut().filter(|_| is_owner(node)).for_each(|schedule| schedule.step(node));
        let Some(wish) = node.backups.wish() else { continue };
        node.backups.end(match wish {
            Wish::Backup(location) => back_up(node, &location).map(|manifest| {
                schedule.iter().for_each(|schedule| schedule.note(node, &location, manifest.lsn));
                Outcome::Taken(manifest)
            }),
            Wish::Prune(location, keep) => remove_old(node, &location, keep).map(Outcome::Pruned),
        });
    }
}

/// Whether this node owns the data, and knows that it still does: one that was cut off does not.
fn is_owner(node: &Node) -> bool {
    node.owns() && (node.config.log_servers.is_empty() || node.holds_lease())
}

/// The log is trimmed by what is at `backup.url`, so one node at a time writes there: pruning takes files for
/// nobody's that another node's backup has stored, or counts on, and does not name yet.
fn must_go_on(node: &Node, location: &Location) -> Result<(), Error> {
    if node.is_stopping() {
        return Err(Error::new(ErrorKind::Unavailable, "the node is stopping"));
    }
    if Location::parse(&node.config.backup_url).is_ok_and(|own| own == *location) && !is_owner(node)
    {
        let text = "only the node that owns the data writes to backup.url: ask that one, or name another URL";
        return Err(Error::new(ErrorKind::Unavailable, text));
    }
    Ok(())
}

fn remove_old(node: &Node, location: &Location, keep: usize) -> Result<Pruned, Error> {
    let store = open_store(location, StoreUse::Reading)?;
    must_go_on(node, location)?;
    let life = node.log.bounds(SHARD).incarnation;
    prune(&*store, keep, life, &mut |_| must_go_on(node, location))
}

fn back_up(node: &Arc<Node>, location: &Location) -> Result<Manifest, Error> {
    let store = open_store(location, StoreUse::Storing(&node.config.data))?;
    must_go_on(node, location)?;
    wait_applied(node)?;
    let source = Source {
        engine: &node.engine,
        disk: &*node.disk,
        data: &node.config.data,
        shard: node.shard.id(),
        node: &node.config.node_name,
        now_ms: node.wall_us() / 1_000,
    };
    let mut pace = Pace::new(node.config.backup_bytes_per_second.0);
    take(&*store, &source, &mut |step| {
        must_go_on(node, location)?;
        node.backups.note(step);
        if let Step::Moved(bytes) = step {
            pace.moved(bytes, |pause| node.park_background(pause));
        }
        Ok(())
    })
}

/// Backs up the data of a stopped node: whatever its engine lacks of the log is replayed first, as
/// a start does.
pub fn back_up_stopped(
    config: &Config,
    location: &Location,
    progress: &mut dyn FnMut(Step),
) -> Result<Manifest, Error> {
    let store = open_store(location, StoreUse::Storing(&config.data))?;
    let disk = RealDisk::new(&config.data).map_err(io_error(&config.data))?;
    must_hold_data(&disk, &config.data)?;
    let opened = open_data(config, &Arc::default(), &mut |_| {})?;
    let source = Source {
        engine: &opened.engine,
        disk: &*opened.disk,
        data: &config.data,
        shard: SHARD,
        node: &config.node_name,
        now_ms: SystemClock.wall_ms(),
    };
    take(&*store, &source, &mut |step| {
        progress(step);
        Ok(())
    })
}

/// Waits until the engine has everything that was durable when this was called: what a client was
/// told before it asked for the backup is in it.
fn wait_applied(node: &Node) -> Result<(), Error> {
    // A node just made has no state to read before its first record.
    let durable = node.shard.durable().max(Lsn(1));
    let deadline = Instant::now() + APPLY_WAIT_MAX;
    while node.shard.stats().applied_lsn < durable {
        if node.is_stopping() || Instant::now() > deadline {
            let text = "the engine lacks records that are durable: try again";
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        node.park_background(APPLY_POLL);
    }
    Ok(())
}

/// Keeps to a rate.
pub(crate) struct Pace {
    bytes_per_second: u64,
    /// When what was moved so far is paid for.
    due: Instant,
}

impl Pace {
    /// So many bytes a second; 0: no limit.
    pub(crate) fn new(bytes_per_second: u64) -> Pace {
        Pace { bytes_per_second, due: Instant::now() }
    }

    /// Takes account of bytes and pauses for them. A wait that is cut short is made up later.
    pub(crate) fn moved(&mut self, bytes: u64, pause: impl FnOnce(Duration)) {
        if self.bytes_per_second == 0 {
            return;
        }
        let now = Instant::now();
        let floor = now.checked_sub(BURST).unwrap_or(now);
        self.due = self.due.max(floor)
            + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        if let Some(wait) = self.due.checked_duration_since(now) {
            pause(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_holds_its_rate_and_saves_up_no_burst() {
        let mut pace = Pace::new(1 << 20);
        let mut waited = Duration::ZERO;
        for _ in 0..8 {
            pace.moved(1 << 20, |pause| waited = pause);
        }
        // Nothing really waited, so the eighth second is owed in full.
        assert!((7.5..=8.0).contains(&waited.as_secs_f64()), "{waited:?}");
        let mut free = Pace::new(0);
        free.moved(u64::MAX, |_| panic!("no limit, no pause"));
    }

    #[test]
    fn a_second_backup_waits_for_the_first_to_end() {
        let backups = Backups::default();
        let location = Location::Folder("/nowhere".into());
        assert_eq!(backups.start(Wish::Backup(location.clone())), Ok(1));
        let refused = backups.start(Wish::Prune(location.clone(), 1)).expect_err("one at a time");
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
        backups.end(Err(Error::new(ErrorKind::Unavailable, "no such folder")));
        let status = backups.status();
        assert_eq!((status.phase, status.error.as_str()), (Phase::Failed, "no such folder"));
        assert_eq!(backups.start(Wish::Backup(location)), Ok(2));
    }
}
