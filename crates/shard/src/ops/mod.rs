//! What can be done with keys of each type. One file a type; each function is one op on a `Txn`.
//!
//! Ops check before they change: an op that returns an error has had no effect. They know types,
//! limits and shard time, and nothing of any protocol.

pub mod hash;
pub mod keys;
pub mod list;
pub mod set;
pub mod sorted_set;
pub mod string;
