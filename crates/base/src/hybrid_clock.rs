//! The hybrid logical clock of a shard: wall milliseconds that never go back, plus a counter.
//!
//! Source: Kulkarni et al., "Logical Physical Clocks" (2014). Shard time is carried in records and
//! persisted, so that a restart never goes back. A forward jump of the wall clock past a bound
//! (compared with the monotonic clock) is refused: time goes on at the monotonic pace instead.

/// 48 bits of milliseconds since 1970 and 16 bits of counter, in one ordered number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first time within this millisecond.
    pub const fn from_ms(ms: u64) -> Hlc {
        Hlc(ms << 16)
    }

    /// Milliseconds since 1970.
    pub const fn ms(self) -> u64 {
        self.0 >> 16
    }
}

/// The wall clock jumped ahead of the monotonic one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockJump {
    /// By so much, in milliseconds.
    pub ahead_ms: u64,
}

/// Gives out times that only grow. Pure: the caller brings both clocks' readings.
#[derive(Clone, Debug)]
pub struct HybridClock {
    last: Hlc,
    /// Wall and monotonic reading that later readings are compared with.
    anchor: Option<(u64, u64)>,
    jump_ms_max: u64,
}

impl HybridClock {
    /// Continues after `last` (as persisted); forward jumps above `jump_ms_max` are refused.
    pub fn new(last: Hlc, jump_ms_max: u64) -> HybridClock {
        HybridClock { last, anchor: None, jump_ms_max }
    }

    /// The last time given out or learnt.
    pub fn last(&self) -> Hlc {
        self.last
    }

    /// Moves to the clocks' readings and says whether the wall clock had jumped too far.
    /// Shard time in milliseconds is `last().ms()` afterwards.
    pub fn advance(&mut self, wall_ms: u64, monotonic_ms: u64) -> Result<(), ClockJump> {
        let (wall0, mono0) = *self.anchor.get_or_insert((wall_ms, monotonic_ms));
        // Time that was already given out is no jump: a clock set back may be set right again.
        let expected = wall0.saturating_add(monotonic_ms.saturating_sub(mono0)).max(self.last.ms());
        let ahead_ms = wall_ms.saturating_sub(expected);
        let (now, outcome) = if ahead_ms > self.jump_ms_max {
            (expected, Err(ClockJump { ahead_ms }))
        } else {
            self.anchor = Some((wall_ms, monotonic_ms));
            (wall_ms, Ok(()))
        };
        self.last = self.last.max(Hlc::from_ms(now));
        outcome
    }

    /// The next time: strictly after every earlier one.
    pub fn tick(&mut self) -> Hlc {
        self.last = Hlc(self.last.0 + 1);
        self.last
    }

    /// Learns a time from a record: later ticks come after it.
    pub fn learn(&mut self, seen: Hlc) {
        self.last = self.last.max(seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_when_the_wall_clock_does() {
        let mut clock = HybridClock::new(Hlc::from_ms(5_000), 1_000);
        assert_eq!(clock.advance(4_000, 0), Ok(()));
        assert_eq!(clock.last().ms(), 5_000);
        let first = clock.tick();
        assert_eq!(clock.advance(3_000, 10), Ok(()));
        assert!(clock.tick() > first);
    }

    #[test]
    fn a_clock_set_back_may_be_set_right_again() {
        let mut clock = HybridClock::new(Hlc::default(), 1_000);
        assert_eq!(clock.advance(9_000_000, 0), Ok(()));
        assert_eq!(clock.advance(1_000_000, 10), Ok(()));
        assert_eq!(clock.advance(9_000_020, 20), Ok(()));
        assert_eq!(clock.last().ms(), 9_000_020);
    }

    #[test]
    fn a_forward_jump_past_the_bound_is_refused_and_time_goes_on() {
        let mut clock = HybridClock::new(Hlc::default(), 1_000);
        assert_eq!(clock.advance(10_000, 0), Ok(()));
        assert_eq!(clock.advance(10_000_000, 100), Err(ClockJump { ahead_ms: 9_989_900 }));
        assert_eq!(clock.last().ms(), 10_100);
        assert_eq!(clock.advance(10_300, 300), Ok(()));
        assert_eq!(clock.last().ms(), 10_300);
    }
}
