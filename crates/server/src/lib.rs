//! The server: puts log, engine and shard together, gives them threads, and speaks the protocols.
//!
//! This crate alone reads configuration, starts threads and knows both protocol and shard. The way
//! of a request: `worker` (socket) → `session` (words) → `holdfast_shard` (op) → back.

mod archive;
mod background;
mod backup;
mod bootstrap;
mod catalog;
mod clients;
mod commit;
mod config;
mod connection;
mod data;
mod digests;
mod ending;
mod farewell;
mod fetch;
mod follow;
mod forward;
mod freed;
#[cfg(test)]
mod fuzz;
mod glob;
mod http;
mod inbox;
mod info;
mod listeners;
mod log_servers;
mod members;
mod metrics;
mod node;
mod ownership;
mod ports;
mod removal;
mod restore;
mod retention;
mod scheduling;
mod session;
mod startup;
mod tls;
mod users;
mod wire;
mod worker;

pub use backup::{StoreUse, back_up_stopped, open_store};
pub use config::{
    ClientCertificates, Config, MemoryPlan, SETTINGS, Setting, Sync, TakeOver, distance,
};
pub use data::check;
pub use freed::give_back_freed_memory_by;
pub use listeners::Addresses;
pub use metrics::reference as metrics_reference;
pub use node::{Node, OpenProgress};
pub use ports::PortPolicy;
pub use restore::{RestoreRequest, restore};
pub use session::command_reference;

/// What HELLO and INFO call this server's version, for clients that look at it: the Redis version
/// whose behaviour the tests compare with.
pub(crate) const REDIS_VERSION: &str = "7.0.15";

/// Keyspaces that SELECT reaches by number.
pub(crate) const DATABASES: u16 = 16;
