//! Leases: how long an owner may answer from memory, and when who stands by may take its place.
//!
//! The log is the judge of whose a shard is; clocks decide nothing but how long to wait. Every sign of life
//! that became durable allows its owner to answer for [`LEASE`] from before it was *sent*, on the owner's
//! clock. Whoever takes over lets [`SILENCE`] pass from when it *saw* the last sign, which is later, on its
//! own. So only the rates of the two clocks matter: they may differ by a twentieth.
//!
//! Readings are nanoseconds of a clock that never goes back and goes on while its machine sleeps
//! (`CLOCK_BOOTTIME`): an owner that wakes up finds its lease run out. Whoever stops a virtual machine stops
//! its clock too, and must give it the time back, or keep it stopped for no longer than [`SILENCE`].

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{Owner, Sign};

/// How long a sign of life is good for.
pub const LEASE: Duration = Duration::from_secs(2);
/// When others take it for run out.
pub const SILENCE: Duration = Duration::from_millis(2_100);
/// Between two signs of an owner that writes nothing.
pub const RENEW_EVERY: Duration = Duration::from_millis(500);

const fn ns(duration: Duration) -> u64 {
    // Each of the three is far below 2^64 ns, some 584 years.
    duration.as_nanos() as u64
}

/// An owner's right to answer from what it holds.
#[derive(Debug)]
pub struct Lease {
    end_ns: AtomicU64,
}

impl Lease {
    /// One that has not begun.
    pub fn new() -> Lease {
        Lease { end_ns: AtomicU64::new(0) }
    }

    /// It never ends: nobody else can own the data.
    pub fn never_ends(&self) {
        self.extend(u64::MAX);
    }

    /// Whether it never ends, so that nobody has to read the clock.
    pub fn is_endless(&self) -> bool {
        self.end_ns.load(Ordering::Relaxed) == u64::MAX
    }

    /// A sign that was sent then, or later, is durable.
    pub fn extend(&self, sent_ns: u64) {
        self.end_ns.fetch_max(sent_ns.saturating_add(ns(LEASE)), Ordering::AcqRel);
    }

    /// Whether it holds now.
    pub fn holds(&self, now_ns: u64) -> bool {
        now_ns < self.end_ns.load(Ordering::Acquire)
    }
}

impl Default for Lease {
    fn default() -> Lease {
        Lease::new()
    }
}

/// What a node that stands by has seen of the owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    sign: Sign,
    seen_ns: u64,
}

impl Watch {
    /// After the first look.
    pub fn new(sign: Sign, now_ns: u64) -> Watch {
        Watch { sign, seen_ns: now_ns }
    }

    /// The last sign that was seen.
    pub fn sign(&self) -> Sign {
        self.sign
    }

    /// A look has ended now.
    pub fn saw(&mut self, sign: Sign, now_ns: u64) {
        if sign != self.sign {
            *self = Watch { sign, seen_ns: now_ns };
        }
    }

    /// The log could not be reached: an owner that could not either gets the time to say so.
    pub fn lost_sight(&mut self, now_ns: u64) {
        self.seen_ns = self.seen_ns.max(now_ns);
    }

    /// Whether nobody has the shard, or who has it was silent for long enough that its lease has run out.
    pub fn is_free(&self, now_ns: u64) -> bool {
        self.sign.owner == Owner::Nobody || now_ns.saturating_sub(self.seen_ns) >= ns(SILENCE)
    }

    /// Until when others may still answer, once a session has been opened, by now at the latest. Signs that
    /// came before it, and were not seen, are no later than that; if the shard `was_free` there are none.
    pub fn others_until(was_free: bool, sent_ns: u64, opened_ns: u64) -> u64 {
        if was_free { sent_ns } else { opened_ns + ns(SILENCE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_base::Epoch;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_lease_holds_for_two_seconds_from_when_its_sign_was_sent() {
        let lease = Lease::new();
        assert!(!lease.holds(0), "before the first sign");
        lease.extend(SECOND);
        assert!(lease.holds(3 * SECOND - 1) && !lease.holds(3 * SECOND));
        lease.extend(SECOND / 2);
        assert!(lease.holds(3 * SECOND - 1), "an older sign takes nothing away");
        lease.extend(2 * SECOND);
        assert!(lease.holds(4 * SECOND - 1));
        assert!(!lease.is_endless());
        lease.never_ends();
        lease.extend(SECOND);
        assert!(lease.holds(u64::MAX - 1) && lease.is_endless());
    }

    #[test]
    fn who_is_silent_is_left_its_lease_and_a_twentieth() {
        let sign = |number| Sign { number, owner: Owner::Session(Epoch(3)) };
        let mut watch = Watch::new(sign(1), SECOND);
        assert!(!watch.is_free(SECOND + ns(SILENCE) - 1) && watch.is_free(SECOND + ns(SILENCE)));
        watch.saw(sign(1), 2 * SECOND);
        assert!(watch.is_free(SECOND + ns(SILENCE)), "the same sign is no sign of life");
        watch.saw(sign(2), 2 * SECOND);
        assert!(!watch.is_free(SECOND + ns(SILENCE)) && watch.sign() == sign(2));
        watch.lost_sight(5 * SECOND);
        watch.lost_sight(4 * SECOND);
        assert!(!watch.is_free(5 * SECOND + ns(SILENCE) - 1));
        watch.saw(Sign { number: 3, owner: Owner::Nobody }, 5 * SECOND);
        assert!(watch.is_free(5 * SECOND), "it was given up");
    }

    #[test]
    fn the_two_clocks_may_differ_by_a_twentieth() {
        // The successor's clock runs fast, the owner's slow.
        assert!(ns(SILENCE) >= ns(LEASE) / 20 * 21);
        assert!(ns(RENEW_EVERY) * 3 < ns(LEASE), "two signs may be lost");
        assert_eq!(Watch::others_until(true, SECOND, 2 * SECOND), SECOND);
        assert_eq!(Watch::others_until(false, SECOND, 2 * SECOND), 2 * SECOND + ns(SILENCE));
    }
}
