//! Three nodes by seed on a simulated replicated log that has JetStream's weaknesses.
//!
//! Real: the shard with its overlay and row cache, the messages, the reader with its epoch filter, leases and
//! watches. Simulated: log servers (`servers`), the engine (in memory, with crashes), clocks that differ in speed, and the
//! node around all of it (`node`), which does in steps what the server's threads do. Clients (`world`) write and
//! read through whichever node answers; their history must be linearizable, and whoever replays the log in
//! the end must find what they were told. One seed gives one run.

mod node;
mod servers;
mod world;

use std::fmt;

/// What is done wrong, for the tests to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// An owner goes on after an answer that was not due, as if nobody could have replaced it.
    NoFencing,
    /// A write is answered before it is in the log.
    AckBeforeCommit,
    /// The lease is counted on a clock that is set back now and then.
    WallClockLease,
    /// A successor does not wait for silence.
    NoWait,
    /// A node follows everything that the server has stored.
    NoEpochFilter,
    /// The log is trimmed behind what the owner has flushed, whatever the others need.
    TrimPastCursor,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 6] = [
        Planted::NoFencing,
        Planted::AckBeforeCommit,
        Planted::WallClockLease,
        Planted::NoWait,
        Planted::NoEpochFilter,
        Planted::TrimPastCursor,
    ];
}

/// Situations that a run came through, and how often.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Reached {
    pub take_overs: u64,
    pub hand_overs: u64,
    pub refused_barriers: u64,
    pub late_appends: u64,
    pub unknown_outcomes: u64,
    pub adopted: u64,
    pub stale_looks: u64,
    pub cuts: u64,
    pub partitions: u64,
    pub pauses: u64,
    pub crashes: u64,
    pub trims: u64,
    pub lapsed_reads: u64,
    pub replica_reads: u64,
    pub acknowledged_writes: u64,
    pub reads: u64,
}

impl Reached {
    /// Each with its name.
    pub fn all(&self) -> [(&'static str, u64); 16] {
        [
            ("take-overs", self.take_overs),
            ("hand-overs", self.hand_overs),
            ("refused barriers", self.refused_barriers),
            ("late appends", self.late_appends),
            ("unknown outcomes", self.unknown_outcomes),
            ("adopted records", self.adopted),
            ("stale looks", self.stale_looks),
            ("cuts", self.cuts),
            ("partitions", self.partitions),
            ("pauses", self.pauses),
            ("crashes", self.crashes),
            ("trims", self.trims),
            ("lapsed reads", self.lapsed_reads),
            ("replica reads", self.replica_reads),
            ("acknowledged writes", self.acknowledged_writes),
            ("reads", self.reads),
        ]
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Reached) {
        let mine = [
            &mut self.take_overs,
            &mut self.hand_overs,
            &mut self.refused_barriers,
            &mut self.late_appends,
            &mut self.unknown_outcomes,
            &mut self.adopted,
            &mut self.stale_looks,
            &mut self.cuts,
            &mut self.partitions,
            &mut self.pauses,
            &mut self.crashes,
            &mut self.trims,
            &mut self.lapsed_reads,
            &mut self.replica_reads,
            &mut self.acknowledged_writes,
            &mut self.reads,
        ];
        mine.into_iter().zip(other.all()).for_each(|(mine, (_, more))| *mine += more);
    }
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which run.
    pub seed: u64,
    /// With which bug.
    pub planted: Option<Planted>,
    /// What is wrong.
    pub what: String,
    /// The last events, oldest first.
    pub events: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "{event}")?;
        }
        writeln!(f, "seed {}, planted {:?}: {}", self.seed, self.planted, self.what)?;
        write!(f, "again: HOLDFAST_SIM_FROM={} HOLDFAST_SIM_SEEDS=1 ", self.seed)?;
        write!(f, "cargo test --release -p holdfast-sim --test cluster three_nodes")
    }
}

/// Runs a seed in which the log servers lose the end of the log once, though it was acknowledged. Nobody can serve
/// what is lost; the error says who noticed.
pub fn run_with_loss(seed: u64) -> Result<Reached, Box<Broken>> {
    world::World::new(seed, None).losing().run()
}

/// Runs a seed; gives what it came through, or the first promise that it saw broken.
pub fn run(seed: u64, planted: Option<Planted>) -> Result<Reached, Box<Broken>> {
    world::World::new(seed, planted).run()
}
