//! The stated limits of values, keys, collections and records, each with its reason.
//!
//! They are part of the contract: going over one is a clear error before anything is staged.

/// Longest key. Keys stand in every row, in the row cache and in records.
pub const KEY_BYTES_MAX: usize = 64 << 10;

/// Longest value of a string, and longest member or field value. Half of the record limit, so that
/// one write of one maximal value always fits a record.
pub const VALUE_BYTES_MAX: usize = 32 << 20;

/// Longest field of a hash or member of a set or sorted set: it is part of a row's key.
pub const MEMBER_BYTES_MAX: usize = 64 << 10;

/// Largest record: one op, one transaction or one script. Bounds what the log, replicas and
/// followers hold in memory at once.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

/// Strings above this are stored in chunks of this size, so that a change in the middle does not
/// rewrite the whole value in the engine.
pub const STRING_CHUNK_BYTES: usize = 16 << 10;

/// Members that one collection may hold.
pub const COLLECTION_COUNT_MAX: u64 = u32::MAX as u64;

/// Deadlines beyond this (milliseconds since 1970, about the year 10,889) are refused: they keep
/// 48 bits, as the hybrid clock does.
pub const DEADLINE_MS_MAX: u64 = (1 << 48) - 1;

/// Keyspaces of one node. Their generations stand in a table of fixed size that every read looks at.
pub const KEYSPACES_MAX: u16 = 1024;
