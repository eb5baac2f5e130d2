//! The pace of removal: expired keys, and the rows of what was dropped or flushed.
//!
//! Neither is urgent, because readers see nothing of either. So the pace is set by what the node can
//! do besides serving. Expiry is slow at first and faster the longer keys are overdue; while staged
//! records wait for the engine it takes one step a second. At its pace a million keys that expire at
//! once are gone within a minute.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use holdfast_shard::{ExpireAt, ExpiryStep, SweepAt};

use crate::{background::ROUND, node::Node};

/// Keys that one step of expiry looks at: some milliseconds of work.
const EXPIRE_KEYS: usize = 256;
/// Keys that expire in a second at least, while there are any, and at most.
const EXPIRE_PER_SECOND: std::ops::RangeInclusive<u64> = 20_000..=60_000;
/// Keys a second more for each second that the oldest is overdue.
const EXPIRE_PER_SECOND_OVERDUE: u64 = 500;
/// Staged bytes above which expiry waits for the applier: what clients stage goes first. With little memory it is
/// half of what makes sockets wait.
const STAGED_BYTES_MAX: u64 = 4 << 20;
/// However much is staged, a step is taken as often as this: expiry does not starve, and how late it is
/// shows.
const STEP_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// How often expiry begins at the first deadline again, for rows that reached the engine late. It does so
/// too once the log is open again after a failure, which has undone deletions.
const EXPIRE_ALL_EVERY: Duration = Duration::from_secs(60);
/// Dropped collections that one sweep removes.
const SWEEP_COLLECTIONS: usize = 64;
/// Pause between full sweeps: at most 6,400 collections a second.
const SWEEP_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause between sweeps that found nothing: each walks over the traces of earlier ones.
const SWEEP_ROUND_MAX: Duration = Duration::from_secs(5);

/// Deletes what is past its deadline.
pub(crate) struct Expiry {
    at: ExpireAt,
    from_beginning: Instant,
    /// How often the log had been opened again by then.
    reopened: u64,
    last_step: Instant,
    /// No step before this.
    due: Instant,
}

impl Default for Expiry {
    fn default() -> Self {
        let now = Instant::now();
        Expiry {
            at: ExpireAt::default(),
            from_beginning: now,
            reopened: 0,
            last_step: now,
            due: now,
        }
    }
}

impl Expiry {
    /// Does a step if it is time; says when the next one is.
    pub(crate) fn step(&mut self, node: &Node) -> Duration {
        let now = Instant::now();
        if now < self.due {
            return self.due - now;
        }
        let staged_max = STAGED_BYTES_MAX.min(node.config.memory_plan().staged / 4);
        let is_crowded = node.shard.staged_bytes() as u64 > staged_max;
        if is_crowded && now.duration_since(self.last_step) < STEP_AT_LEAST_EVERY {
            return ROUND / 10;
        }
        self.last_step = now;
        let reopened = node.metrics.reopened.load(Ordering::Relaxed);
        if now.duration_since(self.from_beginning) > EXPIRE_ALL_EVERY || reopened != self.reopened {
            (self.from_beginning, self.at) = (now, ExpireAt::default());
            self.reopened = reopened;
        }
        let pause = match node.shard.expire_step(&self.at, EXPIRE_KEYS) {
            Ok(step) => {
                let metrics = &node.metrics;
                metrics.expired.fetch_add(step.expired as u64, Ordering::Relaxed);
                metrics.expiry_overdue_ms.store(step.overdue_ms, Ordering::Relaxed);
                let pause = pause_after(&step);
                self.at = step.next;
                pause
            }
            Err(error) => {
                tracing::debug!(?error, "expiry waits");
                ROUND
            }
        };
        self.due = now + pause;
        self.due.saturating_duration_since(Instant::now())
    }
}

/// From the beginning of this step to the next one.
fn pause_after(step: &ExpiryStep) -> Duration {
    if step.handled < EXPIRE_KEYS {
        return ROUND;
    }
    let faster = step.overdue_ms / 1_000 * EXPIRE_PER_SECOND_OVERDUE;
    let per_second = (EXPIRE_PER_SECOND.start() + faster).min(*EXPIRE_PER_SECOND.end());
    Duration::from_secs(1) * EXPIRE_KEYS as u32 / per_second as u32
}

/// Removes rows that nothing leads to any more.
pub(crate) struct Sweep {
    at: Option<SweepAt>,
    due: Instant,
    /// Pause after the last step, which grows while nothing is found.
    pause: Duration,
    /// The last step failed: that was told.
    failing: bool,
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep { at: None, due: Instant::now(), pause: ROUND, failing: false }
    }
}

impl Sweep {
    /// Does a step if it is time; says when the next one is.
    pub(crate) fn step(&mut self, node: &Node) -> Duration {
        let now = Instant::now();
        if now < self.due {
            return self.due - now;
        }
        let mut swept = 0;
        let mut failure = None;
        match node.shard.sweep_collections(SWEEP_COLLECTIONS) {
            Ok(collections) => swept = collections,
            Err(error) => failure = Some(error),
        }
        match node.shard.sweep_generation(self.at) {
            Ok(next) => self.at = next,
            Err(error) => failure = Some(error),
        }
        let failed = failure.is_some();
        if let Some(error) = failure.filter(|_| !self.failing) {
            tracing::warn!(?error, "sweeping waits");
        }
        self.failing = failed;
        let metrics = &node.metrics;
        metrics.swept_collections.fetch_add(swept as u64, Ordering::Relaxed);
        let full = swept == SWEEP_COLLECTIONS || self.at.is_some();
        metrics.sweep_behind.store(u64::from(full), Ordering::Relaxed);
        self.pause = match swept {
            _ if failed => ROUND,
            _ if full => SWEEP_PAUSE,
            0 => (self.pause * 2).min(SWEEP_ROUND_MAX),
            _ => ROUND,
        };
        self.due = now + self.pause;
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(handled: usize, overdue_ms: u64) -> ExpiryStep {
        ExpiryStep { handled, expired: handled, overdue_ms, next: ExpireAt::default() }
    }

    #[test]
    fn expiry_is_faster_the_longer_keys_are_overdue_and_bounded() {
        let per_second = |overdue_ms| {
            (EXPIRE_KEYS as f64 / pause_after(&step(EXPIRE_KEYS, overdue_ms)).as_secs_f64()) as u64
        };
        assert!((19_900..=20_100).contains(&per_second(0)), "{}", per_second(0));
        assert!(per_second(30_000) > 34_000);
        assert!((59_000..=60_100).contains(&per_second(u64::MAX / 1_000)));
        assert_eq!(pause_after(&step(EXPIRE_KEYS - 1, 5_000)), ROUND);
    }

    #[test]
    fn at_its_pace_expiry_looks_at_a_million_keys_within_a_minute() {
        let (mut elapsed, mut left) = (Duration::ZERO, 1_000_000usize);
        while left > 0 {
            elapsed += pause_after(&step(EXPIRE_KEYS.min(left), elapsed.as_millis() as u64));
            left = left.saturating_sub(EXPIRE_KEYS);
        }
        assert!(elapsed < Duration::from_secs(60), "{elapsed:?}");
    }
}
