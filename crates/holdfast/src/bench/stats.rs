//! What a thread counts while it drives load: per command and for its open loop.
//!
//! Latencies are in nanoseconds, kept to three digits up to an hour; longer ones count as an hour.

use super::mix::Command;
use hdrhistogram::Histogram;

/// Counts of one command.
#[derive(Clone, Debug)]
pub struct CommandStats {
    /// Latency of each answered request, ns.
    pub latency: Histogram<u64>,
    /// Error replies.
    pub errors: u64,
    /// Null replies: the key, field or element was not there.
    pub misses: u64,
    /// Request bytes of the answered requests.
    pub bytes_sent: u64,
    /// Reply bytes.
    pub bytes_received: u64,
}

/// Counts of one thread, or of all after merging.
#[derive(Clone, Debug)]
pub struct Stats {
    /// By command number.
    pub commands: Vec<CommandStats>,
    /// The first error reply.
    pub first_error: Option<String>,
    /// Values that did not belong to their key, and the first of them.
    pub mismatches: u64,
    /// The first mismatch.
    pub first_mismatch: Option<String>,
    /// Values checked.
    pub verified: u64,
    /// How long after its due time each request of an open loop was sent, ns.
    pub lag: Histogram<u64>,
    /// Longest backlog that one connection had.
    pub backlog_longest: u64,
    /// Requests not sent because a backlog was full.
    pub dropped: u64,
    /// Requests without a reply when the run gave up.
    pub unanswered: u64,
    /// When counting began and when the last reply came, ns since the run's origin.
    pub from_ns: u64,
    /// See `from_ns`.
    pub until_ns: u64,
}

impl Stats {
    /// Nothing counted, beginning at `from_ns`.
    pub fn new(from_ns: u64) -> Stats {
        let command = CommandStats {
            latency: histogram(),
            errors: 0,
            misses: 0,
            bytes_sent: 0,
            bytes_received: 0,
        };
        Stats {
            commands: vec![command; Command::ALL.len()],
            first_error: None,
            mismatches: 0,
            first_mismatch: None,
            verified: 0,
            lag: histogram(),
            backlog_longest: 0,
            dropped: 0,
            unanswered: 0,
            from_ns,
            until_ns: from_ns,
        }
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: Stats) {
        for (mine, theirs) in self.commands.iter_mut().zip(&other.commands) {
            mine.merge(theirs);
        }
        add(&mut self.lag, &other.lag);
        self.first_error = self.first_error.take().or(other.first_error);
        self.first_mismatch = self.first_mismatch.take().or(other.first_mismatch);
        self.mismatches += other.mismatches;
        self.verified += other.verified;
        self.backlog_longest = self.backlog_longest.max(other.backlog_longest);
        self.dropped += other.dropped;
        self.unanswered += other.unanswered;
        self.from_ns = self.from_ns.min(other.from_ns);
        self.until_ns = self.until_ns.max(other.until_ns);
    }

    /// All commands taken together.
    pub fn total(&self) -> CommandStats {
        let mut commands = self.commands.iter();
        let mut total = commands.next().expect("there is one entry per command").clone();
        commands.for_each(|command| total.merge(command));
        total
    }

    /// Seconds from the start of counting to the last reply.
    pub fn seconds(&self) -> f64 {
        (self.until_ns - self.from_ns) as f64 / 1e9
    }
}

impl CommandStats {
    /// Requests answered, errors included.
    pub fn count(&self) -> u64 {
        self.latency.len()
    }

    fn merge(&mut self, other: &CommandStats) {
        add(&mut self.latency, &other.latency);
        self.errors += other.errors;
        self.misses += other.misses;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
    }
}

fn histogram() -> Histogram<u64> {
    // 128 ns is the finest step; a round trip through the kernel takes some 10 µs.
    Histogram::new_with_bounds(128, 3_600_000_000_000, 3).expect("the bounds are valid")
}

fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    to.add(from).expect("both have the same bounds");
}
