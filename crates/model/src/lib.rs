//! A model of who owns a shard on a replicated log, for an exhaustive checker.
//!
//! It holds what `holdfast_jetstream` (barrier, session, epoch filter), `holdfast_log::lease` and the server's
//! `ownership` do, and nothing else: a log server that stores a message if its sender expects the right
//! sequence, whoever it is; connections that keep order, are late by any time, and break; looks that a lagging
//! copy answers; nodes that stand still between any two steps; clocks of which one may lose a tick. Every order of
//! events within a [`Scope`] is tried. A [`Bug`] leaves out one of the rules, and must be found.
//!
//! `state`: what there is. `steps`: what can happen. `rules`: what must hold, and what must have happened.

mod rules;
mod state;
mod steps;

pub use rules::{ALWAYS, REACHED};
pub use state::{Cluster, State};
pub use steps::Step;

/// How far is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scope {
    /// Nodes.
    pub nodes: u8,
    /// Ticks of time. A lease lasts two, silence is three.
    pub ticks: u8,
    /// Writes of all clients.
    pub writes: u8,
    /// Messages that the log holds at most.
    pub messages: u8,
    /// Connections that break.
    pub cuts: u8,
    /// The second node takes the shard without waiting for silence.
    pub at_start: bool,
}

/// What is done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Readers take whatever the server has stored.
    NoFilter,
    /// An owner goes on after an answer that was not due.
    NotPoisoned,
    /// A successor begins without a message that ends the session before.
    NoBarrier,
    /// The barrier is stored wherever the log ends, so what stands before it may not be known.
    BarrierAnywhere,
    /// A write is acknowledged when it is sent.
    AckBeforeCommit,
    /// The lease is counted from when the answer came.
    LeaseFromAnswer,
    /// The lease is counted on a clock that may be set back.
    WallClock,
    /// The lease is counted on a clock that stops while the machine sleeps.
    ClockStops,
    /// A successor does not wait for silence.
    NoWait,
    /// It waits no longer than the lease, as if all clocks were the same.
    NoAllowance,
    /// It takes the shard although a sign came after the one that it had seen.
    NoCheckOfSign,
    /// It takes the shard without waiting for silence, and answers at once.
    AtStartNoWait,
    /// A read leaves although the lease has run out meanwhile.
    CheckedAtBeginOnly,
    /// The shard is given up before the last answers have left.
    PartingEarly,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 14] = [
        Bug::NoFilter,
        Bug::NotPoisoned,
        Bug::NoBarrier,
        Bug::BarrierAnywhere,
        Bug::AckBeforeCommit,
        Bug::LeaseFromAnswer,
        Bug::WallClock,
        Bug::ClockStops,
        Bug::NoWait,
        Bug::NoAllowance,
        Bug::NoCheckOfSign,
        Bug::AtStartNoWait,
        Bug::CheckedAtBeginOnly,
        Bug::PartingEarly,
    ];
}
