//! Kinds of catalog entries. Bodies are JSON objects, described in docs/formats.md, "Catalog".

/// A keyspace: number, name, kind, quotas.
pub const KEYSPACE: u8 = 1;
/// A user: password hashes, categories, key patterns.
pub const USER: u8 = 2;
