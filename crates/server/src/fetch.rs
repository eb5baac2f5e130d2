//! Fetch threads: bring rows from the disk into memory so that a data thread never waits for it.
//!
//! A command that missed is run here once as a read with the disk allowed, and its result thrown
//! away: what it read is then in the row cache and the block cache, and the data thread runs it
//! again. So every command, reads, writes and transactions alike, takes the same way.

use std::sync::Arc;

use holdfast_base::KeyspaceId;
use holdfast_engine::Tier;
use holdfast_protocol::resp::{Protocol, ReplyWriter};
use parking_lot::{Condvar, Mutex};

use crate::{
    inbox::{Inbox, Message},
    node::Node,
    session::{Command, OwnedArgs, rehearse},
};

/// One connection's wish.
pub(crate) struct Fetch {
    pub inbox: Arc<Inbox>,
    pub token: u64,
    pub keyspace: KeyspaceId,
    pub commands: Vec<(&'static Command, OwnedArgs)>,
}

/// The queue between data threads and fetch threads; bounded by the number of connections, since
/// each has at most one wish in it.
#[derive(Default)]
pub(crate) struct FetchQueue {
    state: Mutex<(std::collections::VecDeque<Fetch>, bool)>,
    ready: Condvar,
}

impl FetchQueue {
    pub(crate) fn push(&self, fetch: Fetch) {
        self.state.lock().0.push_back(fetch);
        self.ready.notify_one();
    }

    /// Ends the waits; what is queued is dropped.
    pub(crate) fn stop(&self) {
        self.state.lock().1 = true;
        self.ready.notify_all();
    }

    fn pop(&self) -> Option<Fetch> {
        let mut state = self.state.lock();
        loop {
            if state.1 {
                return None;
            }
            if let Some(fetch) = state.0.pop_front() {
                return Some(fetch);
            }
            self.ready.wait(&mut state);
        }
    }
}

/// The loop of one fetch thread.
pub(crate) fn run(node: &Arc<Node>) {
    let mut scratch = Vec::new();
    while let Some(fetch) = node.fetches.pop() {
        for (command, args) in &fetch.commands {
            scratch.clear();
            let out = ReplyWriter::new(&mut scratch, Protocol::Resp3);
            // An error shows again when the data thread runs the command: it is told there.
            let _ = rehearse(node, command, args.view(), fetch.keyspace, Tier::Any, out);
        }
        fetch.inbox.send(Message::Fetched { token: fetch.token });
    }
}
