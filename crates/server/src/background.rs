//! Background work, one thread: expiry, sweeping, bounded replay, trim, the log's reserve.
//!
//! Each has a name, a rate and a step that is bounded, so that the thread can stop between steps
//! and never holds the shard lock for long. What a step costs shows in the metrics.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use holdfast_engine::Engine;
use holdfast_log::Log;

use crate::{archive, node::Node};

/// Between two rounds without work.
const ROUND: Duration = Duration::from_millis(100);
/// Keys that expiry deletes in one step.
const EXPIRE_KEYS: usize = 200;
/// Pause after a full expiry step: at most 20,000 keys a second, so that a storm of a million
/// expiring keys does not crowd out the writes of clients.
const EXPIRE_PAUSE: Duration = Duration::from_millis(10);
/// Dropped collections that one sweep removes.
const SWEEP_COLLECTIONS: usize = 256;
/// Most time between two flushes while something is unflushed.
const FLUSH_EVERY: Duration = Duration::from_secs(300);

/// Pause after a failed flush: the engine's own recovery needs to be left alone for some seconds.
const FLUSH_RETRY_AFTER: Duration = Duration::from_secs(15);

/// The loop of the background thread.
pub(crate) fn run(node: &Arc<Node>) {
    let mut sweep_at = None;
    let mut last_flush = Instant::now();
    let mut last_flush_failed = None;
    while !node.is_stopping() {
        let mut more = false;
        match node.shard.expire_step(EXPIRE_KEYS) {
            Ok(expired) => {
                node.metrics.expired.fetch_add(expired as u64, Ordering::Relaxed);
                more |= expired == EXPIRE_KEYS;
            }
            Err(error) => tracing::debug!(?error, "expiry waits"),
        }
        match node.shard.sweep_collections(SWEEP_COLLECTIONS) {
            Ok(swept) => more |= swept == SWEEP_COLLECTIONS,
            Err(error) => tracing::warn!(?error, "sweeping waits"),
        }
        match node.shard.sweep_generation(sweep_at) {
            Ok(next) => {
                more |= next.is_some();
                sweep_at = next;
            }
            Err(error) => tracing::warn!(?error, "sweeping waits"),
        }
        if let Err(error) = bound_replay(node, &mut last_flush, &mut last_flush_failed) {
            tracing::warn!(%error, "flush or trim failed: it is tried again");
        }
        admit_growth(node);
        if let Err(error) = node.log.prepare_reserve() {
            tracing::warn!(%error, "the log has no reserve segment");
        }
        node.park_background(if more { EXPIRE_PAUSE } else { ROUND });
    }
}

/// Refuses writes that grow the data while the disk has no room for the log's next segments and one
/// flush of the engine; lets them in again when it has.
fn admit_growth(node: &Node) {
    let free = match node.disk.free_bytes() {
        Ok(free) => free,
        Err(error) => return tracing::warn!(%error, "the disk's free space is not known"),
    };
    let space = node.log.space();
    let needed = 2 * node.config.log_segment_bytes.0 + node.config.memory_plan().memtables;
    let short = space.below_reserve || free < needed;
    node.shard.admit_growth(!short);
    if node.metrics.disk_short.swap(u64::from(short), Ordering::Relaxed) != u64::from(short) {
        if short {
            tracing::error!(free, needed, "the disk is nearly full: growing writes are refused");
        } else {
            tracing::info!(free, needed, "the disk has room again");
        }
    }
}

/// Flushes the engine when replay would become long, then trims the log up to what is flushed.
fn bound_replay(
    node: &Node,
    last_flush: &mut Instant,
    last_flush_failed: &mut Option<Instant>,
) -> Result<(), holdfast_base::Error> {
    let flushed = node.shard.flushed()?;
    let applied = node.shard.stats().applied_lsn;
    let unflushed_bytes = node.unflushed_log_bytes(flushed);
    let due = unflushed_bytes > node.config.engine_replay_bytes_max.0
        || flushed < node.opened_at
        || (last_flush.elapsed() > FLUSH_EVERY && flushed < applied);
    if due && last_flush_failed.is_none_or(|failed| failed.elapsed() > FLUSH_RETRY_AFTER) {
        *last_flush_failed = Some(Instant::now());
        node.engine.flush()?;
        *last_flush_failed = None;
        node.metrics.flushes.fetch_add(1, Ordering::Relaxed);
        *last_flush = Instant::now();
    }
    let flushed = node.shard.flushed()?;
    node.note_flushed(flushed);
    let keep_from = archive::hold_back(node, flushed.next());
    node.log
        .trim(node.shard.id(), keep_from)
        .map(|_| ())
        .map_err(|error| holdfast_base::Error::new(error.kind(), error.to_string()))
}
