//! The ordered log of a shard: the contract, the embedded backend and the shared reader.
//!
//! Guarantees (each held by the contract suite): positions are dense and never reused; what is
//! acknowledged is durable; readers see only what is durable; after a take-over nothing of the
//! older owner is acknowledged. It starts no thread, reads no clock and knows no effect but the
//! take-over record.

mod contract;
pub mod embedded;
mod error;
pub mod lease;
pub mod place;
mod reader;
#[cfg(any(test, feature = "contract-suite"))]
pub mod suite;

pub use contract::{Bounds, Caps, Completion, Log, Outcome, Owner, Position, Session, Sign, Space};
pub use embedded::{EmbeddedLog, EmbeddedOptions, OpenMode, SyncPolicy};
pub use error::{Corruption, LogError, ReadError, Refused};
pub use reader::{EpochFilter, ReadBatches};
