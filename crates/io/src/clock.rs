//! Time as an argument: wall time for deadlines that people see, monotonic time for durations.
//! Wall time may jump in either direction; monotonic time never goes back and, on the real clock,
//! goes on counting while the machine sleeps.
//! Ordering between nodes is not this file's business: the hybrid logical clock stands on top.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// A source of time.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch. May jump forwards and backwards.
    fn wall_ms(&self) -> u64;

    /// Nanoseconds since an arbitrary start. Never goes back.
    fn monotonic_ns(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        let now = clock_gettime(ClockId::Realtime);
        // Before 1970 only if the clock is unset; zero is the honest nearest value.
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        seconds * 1_000 + nanoseconds(&now) / 1_000_000
    }

    fn monotonic_ns(&self) -> u64 {
        // CLOCK_MONOTONIC stands still during suspend, and a lease must not outlive a nap.
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        seconds * 1_000_000_000 + nanoseconds(&now)
    }
}

fn nanoseconds(time: &Timespec) -> u64 {
    u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct SimClock {
    wall_ms: AtomicU64,
    monotonic_ns: AtomicU64,
}

impl SimClock {
    /// A clock that shows `wall_ms`, with its monotonic time at zero.
    pub fn new(wall_ms: u64) -> Self {
        Self { wall_ms: AtomicU64::new(wall_ms), monotonic_ns: AtomicU64::new(0) }
    }

    /// Lets `ms` milliseconds pass, on both times.
    pub fn advance(&self, ms: u64) {
        self.monotonic_ns.fetch_add(ms.saturating_mul(1_000_000), Ordering::SeqCst);
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Sets the wall time forwards or back, as an operator or NTP would; monotonic time stays.
    /// Stops at zero.
    pub fn jump_wall(&self, delta_ms: i64) {
        let _previous = self.wall_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
            Some(now.saturating_add_signed(delta_ms))
        });
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic_ns.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_moves_both_times_and_jumping_moves_the_wall_alone() {
        let clock = SimClock::new(5_000);
        clock.advance(20);
        assert_eq!((clock.wall_ms(), clock.monotonic_ns()), (5_020, 20_000_000));
        clock.jump_wall(-1_020);
        assert_eq!((clock.wall_ms(), clock.monotonic_ns()), (4_000, 20_000_000));
        clock.jump_wall(500);
        assert_eq!((clock.wall_ms(), clock.monotonic_ns()), (4_500, 20_000_000));
    }

    #[test]
    fn jumping_back_past_the_epoch_stops_at_zero() {
        let clock = SimClock::new(10);
        clock.jump_wall(-11);
        assert_eq!(clock.wall_ms(), 0);
    }

    #[test]
    fn the_system_clock_shows_this_century_and_moves_forwards() {
        let clock = SystemClock;
        assert!(clock.wall_ms() > 946_684_800_000, "before the year 2000");
        let start = clock.monotonic_ns();
        let mut reads = 0_u32;
        let mut last = start;
        while last == start {
            let now = clock.monotonic_ns();
            assert!(now >= last);
            last = now;
            reads += 1;
            assert!(reads < 100_000_000, "monotonic time stands still");
        }
    }
}
