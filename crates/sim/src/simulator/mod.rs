//! The simulator: one shard with its log, disk, engine, clients and crashes, from one seed, in one
//! thread, and with the same code as in production.
//!
//! A run takes random steps, heals, drains and checks everything: histories against their
//! sequential meaning, rows against the log, counts against rows. The same seed gives the same run,
//! event for event. What it does not simulate: several nodes, threads inside one call (except at
//! the points where an armed action stands for another thread), and RocksDB itself.

mod archive;
mod ask;
mod cells;
mod clients;
mod engine;
mod interrupt;
mod life;
mod planted;
mod planted_disk;
mod pushes;
mod reached;
mod restart;
mod steps;
mod trace;
mod world;

use std::fmt;

pub use planted::Planted;
pub use reached::{Case, Reached};
pub use trace::Trace;

/// What a run is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Random steps before the run heals and is judged.
    pub steps: u32,
    /// A bug to drive with.
    pub planted: Option<Planted>,
}

impl Plan {
    /// The plan of this seed, of the usual length.
    pub fn new(seed: u64) -> Plan {
        Plan { seed, steps: 600, planted: None }
    }
}

/// A run in which every check passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// A digest of every event and of everything that was left on the disk and in the engine.
    pub digest: u64,
    /// Events.
    pub events: u64,
    /// Answers that clients were given.
    pub answered: u64,
    /// What clients were told could not be judged within the budget; all other checks passed.
    pub undecided: bool,
    /// Situations that the run came through.
    pub reached: Reached,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The run.
    pub plan: Plan,
    /// What is wrong.
    pub what: String,
    /// The last events, oldest first.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "{event}")?;
        }
        let Plan { seed, steps, planted } = self.plan;
        writeln!(f, "seed {seed}, {steps} steps, planted {planted:?}: {}", self.what)?;
        write!(f, "again: cargo run --release -p holdfast-sim --example simulate -- ")?;
        write!(f, "--from {seed} --seeds 1 --steps {steps}")?;
        match planted {
            Some(planted) => write!(f, " --planted {planted:?}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// Runs the plan; gives what it came through, or the first promise that it saw broken.
pub fn run(plan: Plan) -> Result<Report, Box<Failure>> {
    let mut world = world::World::new(plan);
    Planted::switch(plan.planted);
    let outcome = world.run();
    Planted::switch(None);
    match outcome {
        Ok(()) => Ok(world.report()),
        Err(Violation(what)) => {
            let events = world.trace.last().map(str::to_owned).collect();
            Err(Box::new(Failure { plan, what, events }))
        }
    }
}

/// What broke, in words.
#[derive(Debug)]
struct Violation(String);

type Checked<T> = Result<T, Violation>;

fn violation<T>(what: impl Into<String>) -> Checked<T> {
    Err(Violation(what.into()))
}
