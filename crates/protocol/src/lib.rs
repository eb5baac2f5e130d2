//! Wire protocols: bytes to requests, replies to bytes. No sockets, no clocks, no shards.
//!
//! `resp` is the Redis protocol (RESP2 and RESP3), both ends of it. `number` is how Redis
//! reads and prints numbers, which clients compare byte by byte. Nothing here decides what a
//! request means: the session does that.

pub mod number;
pub mod resp;
