//! How far back the log is kept.
//!
//! An embedded log serves this node's replay and its archive. A replicated one serves every node: it is given
//! up as far as this node, the owner, has flushed; a backup that a new node can begin with covers; every
//! other node has flushed that is there, or was within `log.keep_seconds`; and the archive has taken it.
//! An owner that was replaced and does not know it yet can do no harm: all of this only grows.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use holdfast_base::{Error, Lsn};

use crate::{
    archive,
    data::{SHARD, log_error},
    node::Node,
};

/// Between two requests of a replicated log to be trimmed.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// Trims the log behind what is flushed here.
pub(crate) fn trim(node: &Node, flushed: Lsn, last: &mut Option<Instant>) -> Result<(), Error> {
    let mut keep_from = flushed.next();
    if !node.config.log_servers.is_empty() {
        if last.is_some_and(|at| at.elapsed() < TRIM_EVERY) {
            return Ok(());
        }
        *last = Some(Instant::now());
        if !node.holds_lease() {
            return node.log.forget_trimmed(SHARD).map_err(log_error);
        }
        match needed_by_others(node) {
            Some(needed) => keep_from = keep_from.min(needed),
            None => return Ok(()),
        }
        if keep_from <= node.log.bounds(SHARD).first {
            return Ok(());
        }
    }
    let keep_from = archive::hold_back(node, keep_from);
    node.log.trim(SHARD, keep_from).map(|_| ()).map_err(log_error)
}

/// The first record that another node, here or to come, may need; `None` if all of them may be.
fn needed_by_others(node: &Node) -> Option<Lsn> {
    let covered = Some(node.backups.covered()).filter(|lsn| *lsn > Lsn::ZERO)?;
    // Whom it does not hear it must not take for silent.
    let members =
        node.members.as_ref().filter(|_| !node.metrics.members_fail.load(Ordering::Relaxed))?;
    let kept_for = Duration::from_secs(node.config.log_keep_seconds);
    let view = members.view();
    let others = view.members.iter().filter(|other| other.name != members.name);
    let flushed =
        others.filter(|other| other.silent_for() < kept_for).map(|other| other.entry.flushed);
    Some(flushed.map(Lsn).fold(covered, Lsn::min).next())
}
