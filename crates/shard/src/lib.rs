//! The shard: a deterministic state machine over one log and one engine, and the ops on it.
//!
//! A write is validated and staged under the shard lock, becomes durable in the log, then visible
//! to everybody in the engine and the row cache; its reply leaves once it is durable. Reads of hot
//! rows take no lock. Nothing here starts a thread, opens a file or reads a clock: the server's
//! threads and the simulator drive the same calls.

mod bucket;
mod core;
mod digest;
mod expire;
mod key_order;
mod op_error;
pub mod ops;
mod overlay;
#[cfg(feature = "planted-bugs")]
pub mod planted;
mod replay;
mod row_cache;
mod shard;
mod sweep;
#[cfg(test)]
mod testing;
mod txn;
mod view;
mod visible;
mod written;

pub use bucket::{BucketState, Buckets};
pub use core::{KeyspaceQuota, Limits};
pub use digest::{Digest, DigestJob, PARTS};
pub use expire::{ExpireAt, ExpiryStep};
pub use op_error::OpError;
pub use replay::{ReplayProgress, apply_batches, read_failed, replay, store_state, stored_state};
pub use row_cache::RowCache;
pub use shard::{
    CommitStep, Done, Gate, GateState, LogState, Pressure, Shard, ShardParts, ShardStats,
    WatchedKey,
};
pub use sweep::SweepAt;
pub use txn::{KeyRef, StoredHead, Txn};
