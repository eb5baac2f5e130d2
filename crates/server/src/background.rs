//! Background work, one thread: expiry, sweeping, bounded replay, trim, the log's reserve.
//!
//! Each has a name, a rate and a step that is bounded, so that the thread can stop between steps
//! and never holds the shard lock for long. What a step costs shows in the metrics.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use holdfast_engine::Engine;

use crate::{
    node::Node,
    removal::{Expiry, Sweep},
    retention, scheduling,
};

/// Between two rounds without work.
pub(crate) const ROUND: Duration = Duration::from_millis(100);
/// How often new threads of the engine and the allocator are given their place on the processor.
const SCHEDULE_EVERY: Duration = Duration::from_secs(10);
/// Most time between two flushes while something is unflushed.
const FLUSH_EVERY: Duration = Duration::from_secs(300);

/// Pause after a failed flush: the engine's own recovery needs to be left alone for some seconds.
const FLUSH_RETRY_AFTER: Duration = Duration::from_secs(15);

/// The loop of the background thread.
pub(crate) fn run(node: &Arc<Node>) {
    let mut expiry = Expiry::default();
    let mut sweep = Sweep::default();
    let mut last_flush = Instant::now();
    let (mut last_flush_failed, mut last_trim) = (None, None);
    let mut last_scheduled = Instant::now();
    let mut kept_house: Option<Instant> = None;
    while !node.is_stopping() {
        // Expiry writes records, which only the owner does.
        let pause = if node.owns() { expiry.step(node) } else { ROUND };
        let pause = pause.min(sweep.step(node));
        // Not at the pace of removal, which may be a few milliseconds.
        if kept_house.is_none_or(|at| at.elapsed() >= ROUND) {
            kept_house = Some(Instant::now());
            if let Err(error) =
                bound_replay(node, &mut last_flush, &mut last_flush_failed, &mut last_trim)
            {
                tracing::warn!(%error, "flush or trim failed: it is tried again");
            }
            admit_growth(node);
            if let Err(error) = node.log.prepare_reserve() {
                tracing::warn!(%error, "the log has no reserve segment");
            }
        }
        if last_scheduled.elapsed() > SCHEDULE_EVERY {
            last_scheduled = Instant::now();
            // A refusal was told at the start.
            let _ = scheduling::schedule_threads();
        }
        node.park_background(pause);
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
    last_trim: &mut Option<Instant>,
) -> Result<(), holdfast_base::Error> {
    let flushed = node.shard.flushed()?;
    let applied = node.shard.stats().applied_lsn;
    node.note_flushed(flushed);
    let unflushed_bytes = node.unflushed_log_bytes();
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
    retention::trim(node, flushed, last_trim)
}
