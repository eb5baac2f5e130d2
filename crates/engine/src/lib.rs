//! The local storage engine: an ordered map from bytes to bytes behind the trait [`Engine`].
//!
//! Two implementations: [`RocksEngine`] (RocksDB, no write-ahead log of its own), [`ModelEngine`]
//! (in memory, with simulated crashes and faults). Both promise the same: a [`Batch`] is atomic and
//! visible when `write` returns, and after a crash a prefix of the batches survives that holds at
//! least everything before the last `flush`. The engine knows no logs, shards or row layouts.

mod batch;
mod error;
mod model;
mod options;
mod rocks;
mod traits;

pub use batch::{Batch, BatchIter, BatchOp};
pub use error::{EngineError, EngineErrorKind};
pub use model::ModelEngine;
pub use options::{EngineOptions, OpenMode};
pub use rocks::RocksEngine;
pub use traits::{
    Engine, EngineStats, Lookup, ScanEnd, Snapshot, Tier, VerifyReport, Visit, WriteStall,
};
