//! The vocabulary that every other crate speaks: identifiers, keys, records and their effects,
//! the hybrid clock, error kinds and units.
//!
//! Guarantees: everything here is pure; the same input gives the same bytes on every machine.
//! It opens no file, reads no clock and knows no engine, log or protocol.

mod bytes;
pub mod catalog;
pub mod effect;
mod error;
mod head;
mod hybrid_clock;
mod ids;
pub mod key;
pub mod limits;
pub mod record;
pub mod row;
mod slot;
mod units;
pub mod varint;

pub use bytes::SharedBytes;
pub use effect::{DeleteReason, Effect};
pub use error::{Error, ErrorKind};
pub use head::{Head, Kind, Payload};
pub use hybrid_clock::{ClockJump, Hlc, HybridClock};
pub use ids::{
    CollectionId, Epoch, Generation, Incarnation, KeyspaceId, LogId, Lsn, ShardId, SlotRange,
};
pub use key::KeyHasher;
pub use slot::{SLOTS, Slot};
pub use units::ByteSize;
