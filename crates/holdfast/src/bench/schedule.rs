//! When the requests of an open loop are due, on a thread's own clock (ns since the run's origin).
//!
//! The times depend on the rate and the seed alone, never on how fast the server answers: that is
//! what keeps the latencies free of coordinated omission. Fixed times are computed from the count,
//! so rounding never adds up.

use super::random::Rng;

/// How the due times are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Evenly.
    Fixed,
    /// As independent users would come: exponential gaps.
    Poisson,
}

/// An endless sequence of due times.
#[derive(Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    interval_ns: f64,
    first_ns: f64,
    count: u64,
    due_ns: f64,
    rng: Rng,
}

impl Schedule {
    /// `rate` requests per second; `phase` in [0, 1) shifts fixed times by that share of a gap.
    pub fn new(arrivals: Arrivals, rate: f64, phase: f64, rng: Rng) -> Schedule {
        let interval_ns = 1e9 / rate;
        let first_ns = interval_ns * phase;
        let mut schedule =
            Schedule { arrivals, interval_ns, first_ns, count: 0, due_ns: first_ns, rng };
        if arrivals == Arrivals::Poisson {
            schedule.due_ns = schedule.gap_ns();
        }
        schedule
    }

    /// The next due time.
    pub fn due_ns(&self) -> u64 {
        self.due_ns as u64
    }

    /// Goes on to the one after it.
    pub fn advance(&mut self) {
        self.count += 1;
        self.due_ns = match self.arrivals {
            Arrivals::Fixed => self.first_ns + self.count as f64 * self.interval_ns,
            Arrivals::Poisson => self.due_ns + self.gap_ns(),
        };
    }

    fn gap_ns(&mut self) -> f64 {
        -self.interval_ns * (1.0 - self.rng.unit()).ln()
    }
}
