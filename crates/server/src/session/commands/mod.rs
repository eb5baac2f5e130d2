//! The commands, one file a group: each an entry of the table and a function.

pub(super) mod acl;
pub(super) mod backup;
pub(super) mod cluster;
pub(super) mod connection;
pub(super) mod hash;
pub(super) mod keys;
pub(super) mod keyspace;
pub(super) mod list;
pub(super) mod server;
pub(super) mod set;
pub(super) mod sorted_set;
pub(super) mod string;
pub(super) mod transactions;
