//! Continuous archiving: one thread follows the log and stores what is durable.
//!
//! Off without `archive.url`. Trimming the log waits for it up to `archive.lag_bytes_max`; beyond
//! that the log goes first: archiving is broken off, the gap is told, and it goes on behind. Where
//! it goes on after a start is read from the store. A failing store is tried again and never
//! touches a request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use holdfast_backup::{Archived, Archiver, Location};
use holdfast_base::{Error, ErrorKind, Lsn};
use holdfast_io::ObjectStore;
use parking_lot::Mutex;

use crate::{
    backup::{StoreUse, open_store},
    node::Node,
};

/// Between two looks at the log.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// New records of so many bytes are stored at once.
const BYTES_DUE: u64 = 1 << 20;
/// Between two tries of a store that fails.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What the archiving thread tells the others.
pub(crate) struct ArchiveState {
    /// The first record that is not archived; 0: not known yet.
    next: AtomicU64,
    /// Trimming does not wait at the moment: the archive is too far behind.
    broken_off: AtomicBool,
    /// When everything durable was archived last. A leaf in the lock order.
    caught_up: Mutex<Instant>,
    pub stored_bytes: AtomicU64,
    pub failures: AtomicU64,
    pub gaps: AtomicU64,
}

impl Default for ArchiveState {
    fn default() -> Self {
        ArchiveState {
            next: AtomicU64::new(0),
            broken_off: AtomicBool::new(false),
            caught_up: Mutex::new(Instant::now()),
            stored_bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
        }
    }
}

/// How far the archive is behind.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Lag {
    pub records: u64,
    /// Of the log's whole segments that hold them.
    pub bytes: u64,
    pub seconds: f64,
}

/// How far the archive is behind; nothing if it is off.
pub(crate) fn lag(node: &Node) -> Lag {
    if node.config.archive_url.is_empty() {
        return Lag::default();
    }
    let bounds = node.log.bounds(node.shard.id());
    let next = Lsn(node.archive.next.load(Relaxed)).max(bounds.first);
    let records = bounds.next.0.saturating_sub(next.0);
    if records == 0 {
        return Lag::default();
    }
    let bytes = node.log.bytes_from(node.shard.id(), next);
    Lag { records, bytes, seconds: node.archive.caught_up.lock().elapsed().as_secs_f64() }
}

/// Up to where the log may be trimmed that could be trimmed below `wanted`.
pub(crate) fn hold_back(node: &Node, wanted: Lsn) -> Lsn {
    let archived = Lsn(node.archive.next.load(Relaxed));
    if node.config.archive_url.is_empty() || archived >= wanted {
        return wanted;
    }
    let behind = lag(node).bytes > node.config.archive_lag_bytes_max.0;
    if node.archive.broken_off.swap(behind, Relaxed) != behind {
        if behind {
            tracing::error!(
                next = archived.0,
                "the archive is too far behind: the log is trimmed, a gap will follow"
            );
        } else {
            tracing::info!("the log waits for the archive again");
        }
    }
    if behind { wanted } else { archived }
}

/// The loop of the archiving thread.
pub(crate) fn run(node: &Arc<Node>) {
    while !node.is_stopping() {
        if let Err(error) = follow(node) {
            wait_after(node, &error);
        }
    }
}

fn wait_after(node: &Node, error: &Error) {
    node.archive.failures.fetch_add(1, Relaxed);
    tracing::warn!(%error, "archiving waits: it is tried again");
    node.park_background(RETRY_AFTER);
}

/// Archives until the node stops or something fails.
fn follow(node: &Arc<Node>) -> Result<(), Error> {
    let location = Location::parse(&node.config.archive_url)?;
    let store = open_store(&location, StoreUse::Storing(&node.config.data))?;
    let shard = node.shard.id();
    let mut archiver = Archiver::open(&*store, &*node.log, shard)?;
    node.archive.next.store(archiver.next().0, Relaxed);
    tracing::info!(next = archiver.next().0, %location, "archiving");
    let interval = Duration::from_secs(node.config.archive_seconds_max);
    let mut stored = (node.shard.staged_bytes_total(), Instant::now());
    let mut due = true;
    while !node.is_stopping() {
        let staged = node.shard.staged_bytes_total();
        if due || staged - stored.0 >= BYTES_DUE || stored.1.elapsed() >= interval {
            stored = (staged, Instant::now());
            let drained = drain(node, &*store, &mut archiver);
            due = drained.is_err();
            match drained {
                Ok(()) => {}
                // Nothing has changed: the same step is tried again, without listing the archive anew.
                Err(error) if error.kind() == ErrorKind::Unavailable => wait_after(node, &error),
                Err(error) => return Err(error),
            }
        }
        node.park_background(LOOK_EVERY);
    }
    Ok(())
}

/// Archives all that is durable by now.
fn drain(node: &Node, store: &dyn ObjectStore, archiver: &mut Archiver) -> Result<(), Error> {
    while !node.is_stopping() {
        match archiver.step(store, &*node.log, node.shard.id())? {
            Archived::Nothing => {
                *node.archive.caught_up.lock() = Instant::now();
                return Ok(());
            }
            Archived::Stored { bytes, .. } => {
                node.archive.stored_bytes.fetch_add(bytes, Relaxed);
            }
            Archived::Gap { first, last } => {
                node.archive.gaps.fetch_add(1, Relaxed);
                let text = "the archive has a gap: take a backup, no restore crosses it";
                tracing::error!(first = first.0, last = last.0, "{text}");
            }
        }
        node.archive.next.store(archiver.next().0, Relaxed);
    }
    Ok(())
}
