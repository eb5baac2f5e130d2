//! When a server that is reached, and takes nothing, is to be left for another one.
//!
//! A server that is cut off from the others keeps its connections: it answers their pings, reads from its
//! copy, and refuses by what it believes. Only what needs the others shows it: what was acknowledged, or
//! carried out. Pure: the times come in.

use std::time::{Duration, Instant};

/// How long one server may carry nothing out before another one is asked. An election takes 4 to 9 seconds,
/// whichever server is asked; going to another one meanwhile costs little.
const LEAVE_AFTER: Duration = Duration::from_secs(4);

/// The requests of one kind.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// When the first one was sent that failed since the last that did not, and when the last one failed.
    failing: Option<(Instant, Instant)>,
}

impl Patience {
    /// A request was carried out.
    pub fn done(&mut self) {
        self.failing = None;
    }

    /// What was sent at `sent` was refused, or has no answer by `now`. True: it is time to leave, and counting
    /// begins anew.
    pub fn is_over(&mut self, sent: Instant, now: Instant) -> bool {
        let since = match self.failing {
            // Nothing was asked for in the meantime, so nothing is known of it.
            Some((_, last)) if sent.saturating_duration_since(last) >= LEAVE_AFTER => sent,
            Some((since, _)) => since,
            None => sent,
        };
        let over = now.saturating_duration_since(since) >= LEAVE_AFTER;
        self.failing = (!over).then_some((since, now));
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `is_over` says of requests that failed, by when they were sent and failed, in milliseconds.
    fn told(patience: &mut Patience, start: Instant, requests: &[(u64, u64)]) -> Vec<bool> {
        let at = |ms| start + Duration::from_millis(ms);
        requests.iter().map(|(sent, failed)| patience.is_over(at(*sent), at(*failed))).collect()
    }

    #[test]
    fn a_server_is_left_once_nothing_was_done_for_four_seconds() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        assert_eq!(told(&mut patience, start, &[(0, 2_000)]), [false]);
        patience.done();
        let requests = [(3_000, 5_000), (5_000, 6_999), (6_999, 7_000)];
        assert_eq!(told(&mut patience, start, &requests), [false, false, true]);
        assert_eq!(
            told(&mut patience, start, &[(7_100, 9_100)]),
            [false],
            "the next one has four seconds"
        );
    }

    #[test]
    fn refusals_count_like_silence_and_a_long_silence_for_itself() {
        let start = Instant::now();
        let refusals: Vec<_> = (0..=40).map(|n| (n * 100, n * 100)).collect();
        let said = told(&mut Patience::default(), start, &refusals);
        assert_eq!(said.iter().position(|over| *over), Some(40));
        assert_eq!(told(&mut Patience::default(), start, &[(0, 4_000)]), [true]);
    }

    #[test]
    fn what_failed_long_ago_counts_no_more() {
        let start = Instant::now();
        let requests = [(0, 100), (60_000, 60_100), (60_200, 62_200), (62_300, 64_300)];
        assert_eq!(told(&mut Patience::default(), start, &requests), [false, false, false, true]);
    }
}
