//! Freed memory that still lies in RAM, and how it is given back.
//!
//! The allocator keeps freed pages for about a second, in the hope that they are wanted again. A crowd
//! that fills the memory for connections, is cut off and comes again frees that memory several times
//! within the second: resident were the connections four times over (207 to 231 MiB in
//! `bulks that never end` of tests/hostile, 57 to 70 without the second; 2-core AMD EPYC virtual
//! machine, 2026-11-25). So after enough has been freed by force, the allocator is asked at once.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

static GIVE_BACK: OnceLock<fn()> = OnceLock::new();

/// Tells how freed memory is given back to the system; the program knows its allocator, the server does
/// not. Without it nothing is given back by force.
pub fn give_back_freed_memory_by(give_back: fn()) {
    let _ = GIVE_BACK.set(give_back);
}

/// Counts what connections have freed.
#[derive(Default)]
pub(crate) struct Freed {
    bytes: AtomicU64,
}

impl Freed {
    /// So much was freed; at `limit` it is given back. Takes a millisecond or so when it is.
    pub(crate) fn add(&self, bytes: u64, limit: u64) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes < limit {
            return;
        }
        self.bytes.store(0, Ordering::Relaxed);
        if let Some(give_back) = GIVE_BACK.get() {
            give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_enough_is_freed() {
        static TIMES: AtomicU64 = AtomicU64::new(0);
        give_back_freed_memory_by(|| {
            TIMES.fetch_add(1, Ordering::Relaxed);
        });
        let freed = Freed::default();
        for (bytes, times) in [(40, 0), (59, 0), (1, 1), (99, 1), (500, 2)] {
            freed.add(bytes, 100);
            assert_eq!(TIMES.load(Ordering::Relaxed), times, "after {bytes} more");
        }
    }
}
