//! The simulator and its judge: a shard under crashes and faults, and whether its replies can be
//! true.
//!
//! `simulator` runs the production code of shard, log and engine model from one seed; `history` is
//! what clients were told; `cluster` runs several nodes on a simulated replicated log; `checker` decides whether one order of operations explains it. Not
//! shipped.

pub mod checker;
pub mod cluster;
pub mod history;
pub mod simulator;
