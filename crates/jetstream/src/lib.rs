//! The replicated log: the contract of `holdfast_log` on streams of NATS JetStream, one for each shard.
//!
//! Guarantees what the contract says, as far as the servers sync before they acknowledge
//! (`sync_interval: always`) and only nodes may publish to the subjects. What a server accepts is not
//! yet the log: a session that was replaced may still append behind its successor's barrier, and
//! `tail`, which every reader goes through, drops that. Beside the streams there are `entries`, which nodes
//! tell each other of themselves with. Stored form: docs/formats.md, "Replicated log".

mod connection;
mod entries;
#[cfg(test)]
mod fuzz;
mod log;
mod message;
mod options;
mod patience;
#[cfg(test)]
mod race;
mod session;
mod stream;
mod tail;

/// What a simulator puts together in place of servers and their client: messages, and the reader of a stream.
#[cfg(feature = "simulation")]
pub mod parts {
    pub use crate::{
        message::{Content, Message, Part},
        tail::{Damage, Entry, Tail, Taken},
    };
}

pub use entries::{ENTRY_BYTES_MAX, Entries, Entry};
pub use log::JetStreamLog;
pub use options::{JetStreamOptions, TlsFiles};
