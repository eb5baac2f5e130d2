//! How other threads reach a data thread: a queue and an eventfd that its event loop watches.
//!
//! One wake-up per worker per group: the committer rings only if the worker says that it waits for
//! durability, and a worker that is awake looks by itself. Messages come from the fetch threads and
//! are bounded by the number of connections (a connection waits for one fetch at a time).

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
};

/// What other threads tell a data thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    /// The rows that this connection waited for are in memory, or could not be read.
    Fetched { token: u64 },
}

/// See the module's head.
pub(crate) struct Inbox {
    bell: OwnedFd,
    messages: Mutex<Vec<Message>>,
    awaits_durability: AtomicBool,
}

impl Inbox {
    pub(crate) fn new() -> Result<Inbox, Errno> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let awaits_durability = AtomicBool::new(false);
        Ok(Inbox { bell, messages: Mutex::new(Vec::new()), awaits_durability })
    }

    /// What the event loop watches.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Puts a message in and rings.
    pub(crate) fn send(&self, message: Message) {
        self.messages.lock().push(message);
        self.ring();
    }

    /// Wakes the worker.
    pub(crate) fn ring(&self) {
        // The counter is full only if the worker has not looked for 2^64 rings: it is awake then.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Wakes the worker if it waits for durability.
    pub(crate) fn ring_durable(&self) {
        if self.awaits_durability.swap(false, Ordering::AcqRel) {
            self.ring();
        }
    }

    /// The worker is about to sleep and waits for durability; it has to look once more afterwards.
    pub(crate) fn await_durability(&self) {
        self.awaits_durability.store(true, Ordering::SeqCst);
    }

    /// Silences the bell and takes the messages.
    pub(crate) fn take(&self, messages: &mut Vec<Message>) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.bell, &mut count);
        messages.append(&mut self.messages.lock());
    }
}
