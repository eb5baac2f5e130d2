//! Whether this node still owns its data. With an embedded log it always does.
//!
//! On a replicated log another node may take over at any time. The next append then fails, and a thread
//! looks every half second, so that a node without writes learns of it too. Until it has learned of it, up to
//! a second later, it may serve reads that are older than what the other one has acknowledged.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use holdfast_base::{Error, ErrorKind};

use crate::{
    ending,
    node::{Node, log_error},
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The loop of the thread that looks.
pub(crate) fn watch(node: &Arc<Node>) {
    while !node.is_stopping() {
        match node.log.replaced_by(node.shard.id()).map_err(log_error) {
            Ok(None) => {}
            Ok(Some(epoch)) => {
                let text = format!("another owner has taken the shard over in epoch {epoch}");
                step_down(node, &Error::new(ErrorKind::NotOwner, text));
            }
            Err(error) => {
                node.metrics.log_watch_failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "whether this node still owns its data is not known");
            }
        }
        node.park_background(LOOK_EVERY);
    }
}

/// Another node has taken over: this one ends. What it acknowledged is in the log, and the other one has it.
pub(crate) fn step_down(node: &Node, error: &Error) -> ! {
    tracing::error!(%error, "this node no longer owns its data: it ends");
    ending::end(node)
}
