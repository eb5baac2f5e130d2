//! What happened in a run, as lines: a digest over all of them and the last ones in full.
//!
//! Two runs of one seed must have the same digest; that is what makes a failure repeatable.

use std::{collections::VecDeque, fmt::Display};

/// Lines that are kept for a failure's report.
const LINES_KEPT: usize = 2_000;

/// The events of a run, in order.
#[derive(Clone, Debug)]
pub struct Trace {
    digest: u64,
    events: u64,
    last: VecDeque<String>,
}

impl Default for Trace {
    fn default() -> Self {
        // FNV-1a's offset basis.
        Trace { digest: 0xcbf2_9ce4_8422_2325, events: 0, last: VecDeque::new() }
    }
}

impl Trace {
    /// Adds an event.
    pub fn note(&mut self, event: impl Display) {
        let line = format!("{:>6} {event}", self.events);
        for byte in line.bytes().chain([b'\n']) {
            // FNV-1a (Fowler, Noll, Vo), 64 bits.
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.events += 1;
        if self.last.len() == LINES_KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// A digest of every event so far.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last events, oldest first.
    pub fn last(&self) -> impl Iterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }
}
