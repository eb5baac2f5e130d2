//! How long and how many bytes a follower of the log is behind, from positions noted now and then.
//!
//! The committer notes what has become durable and when; the applier's and the flush's lag is the age
//! of the first note that lies after their position. Exact to the time between two notes. Bounded:
//! when full, every second note goes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use holdfast_base::Lsn;
use parking_lot::Mutex;

/// Notes at most: some 400 seconds at first, more than lies between two flushes.
const NOTES_MAX: usize = 8192;
/// Between two notes.
const NOTE_EVERY: Duration = Duration::from_millis(50);

/// Everything up to this position was durable at that time.
#[derive(Clone, Copy)]
struct Note {
    lsn: Lsn,
    at: Instant,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Lag {
    /// A leaf in the lock order.
    notes: Mutex<VecDeque<Note>>,
}

impl Lag {
    /// Everything up to `lsn` is durable.
    pub(crate) fn note(&self, lsn: Lsn, now: Instant) {
        let mut notes = self.notes.lock();
        // The last note moves on in position until the next one is due, and keeps its time: so a
        // follower is never said to be less behind than it is.
        if let Some(last) = notes.back_mut()
            && now.saturating_duration_since(last.at) < NOTE_EVERY
        {
            last.lsn = lsn;
            return;
        }
        if notes.len() >= NOTES_MAX {
            let mut at = 0;
            notes.retain(|_| {
                at += 1;
                at % 2 == 0
            });
        }
        notes.push_back(Note { lsn, at: now });
    }

    /// No follower lacks anything up to `lsn` any more.
    pub(crate) fn forget_before(&self, lsn: Lsn) {
        let mut notes = self.notes.lock();
        let done = notes.partition_point(|note| note.lsn <= lsn);
        notes.drain(..done);
    }

    /// How long a follower that has everything up to `lsn` is behind.
    pub(crate) fn behind(&self, lsn: Lsn, now: Instant) -> Duration {
        let notes = self.notes.lock();
        let first = notes.get(notes.partition_point(|note| note.lsn <= lsn));
        first.map_or(Duration::ZERO, |note| now.saturating_duration_since(note.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_is_behind_since_the_first_position_that_it_lacks() {
        let (lag, start) = (Lag::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(lag.behind(Lsn(0), start), Duration::ZERO);
        for at in 1..=10u32 {
            lag.note(Lsn(u64::from(at) * 100), start + second * at);
        }
        let now = start + second * 11;
        assert_eq!(lag.behind(Lsn(1000), now), Duration::ZERO);
        assert_eq!(lag.behind(Lsn(999), now), second);
        assert_eq!(lag.behind(Lsn(500), now), second * 5);
        lag.forget_before(Lsn(800));
        assert_eq!(lag.behind(Lsn(0), now), second * 2);
    }

    #[test]
    fn notes_are_bounded_and_a_lag_that_outlasts_them_is_still_told_nearly_right() {
        let (lag, start) = (Lag::default(), Instant::now());
        let notes = 5 * NOTES_MAX as u32;
        for at in 1..=notes {
            lag.note(Lsn(u64::from(at)), start + NOTE_EVERY * at);
        }
        assert!(lag.notes.lock().len() <= NOTES_MAX);
        let (whole, now) = (NOTE_EVERY * notes, start + NOTE_EVERY * notes);
        let told = lag.behind(Lsn(0), now);
        assert!(told > whole * 99 / 100 && told <= whole, "{told:?} of {whole:?}");
    }
}
