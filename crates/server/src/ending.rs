//! The way out when the engine does not recover, or another node has taken over: whoever asks is told,
//! then the process ends.
//!
//! What was acknowledged is in the log. Requests that still come get
//! an error that says so, in place of a connection that ends without a word; replies that wait for the
//! log still leave.

use std::time::Duration;

use crate::node::Node;

/// What requests that arrive meanwhile are told. Nothing of them is done.
pub(crate) const TOLD: &str = "TRYAGAIN this node ends: its engine failed, or another node has taken over; \
                               what was acknowledged is in the log";

/// How long requests are told.
const TOLD_FOR: Duration = Duration::from_secs(1);

/// Ends the process, with an exit code for its supervisor to start it again.
pub(crate) fn end(node: &Node) -> ! {
    node.begin_ending();
    std::thread::sleep(TOLD_FOR);
    std::process::exit(1);
}
