//! The commands of each family, with how often and how a random request of each is written.

mod hash;
mod keys;
mod list;
mod server;
mod set;
mod sorted_set;
mod string;
mod transactions;

use crate::{pen::Pen, request::Request};

/// How one command is written.
pub struct Entry {
    /// In lower case; must be known to the server for the entry to be used.
    pub command: &'static str,
    /// How often, in proportion to the others.
    pub weight: usize,
    pub write: fn(&mut Pen) -> Request,
}

/// Commands that are tested together.
pub struct Family {
    pub name: &'static str,
    pub entries: &'static [&'static [Entry]],
    /// Connections of one sequence.
    pub connections: usize,
    /// Databases that its requests may reach.
    pub databases: usize,
}

const fn family(name: &'static str, entries: &'static [&'static [Entry]]) -> Family {
    Family { name, entries, connections: 1, databases: 1 }
}

pub const SERVER: Family = Family { databases: 3, ..family("server", &[server::ENTRIES, MIXED]) };
pub const KEYS: Family = family("keys", &[keys::ENTRIES, MIXED]);
pub const STRING: Family = family("string", &[string::ENTRIES, MIXED]);
pub const HASH: Family = family("hash", &[hash::ENTRIES, MIXED]);
pub const SET: Family = family("set", &[set::ENTRIES, MIXED]);
pub const LIST: Family = family("list", &[list::ENTRIES, MIXED]);
pub const SORTED_SET: Family = family("sorted-set", &[sorted_set::ENTRIES, MIXED]);
pub const TRANSACTIONS: Family = Family {
    connections: 2,
    databases: 2,
    ..family("transactions", &[transactions::ENTRIES, MIXED])
};

/// All of them.
pub const ALL: [&Family; 8] =
    [&SERVER, &KEYS, &STRING, &HASH, &SET, &LIST, &SORTED_SET, &TRANSACTIONS];

/// A little of everything, so that every command meets keys of every type, deadlines and gaps.
const MIXED: &[Entry] = &[
    Entry { command: "set", weight: 2, write: |p| Request::new("set").arg(p.key()).arg(p.value()) },
    Entry {
        command: "rpush",
        weight: 2,
        write: |p| Request::new("rpush").arg(p.key()).args(p.members(1)),
    },
    Entry {
        command: "hset",
        weight: 2,
        write: |p| Request::new("hset").arg(p.key()).arg(p.member()).arg(p.value()),
    },
    Entry {
        command: "sadd",
        weight: 2,
        write: |p| Request::new("sadd").arg(p.key()).args(p.members(1)),
    },
    Entry {
        command: "zadd",
        weight: 2,
        write: |p| Request::new("zadd").arg(p.key()).arg(p.double()).arg(p.member()),
    },
    Entry { command: "del", weight: 4, write: |p| Request::new("del").args(p.keys(1)) },
    Entry {
        command: "expire",
        weight: 2,
        write: |p| Request::new("expire").arg(p.key()).arg(p.lifetime(1_000, false)),
    },
    Entry { command: "pttl", weight: 1, write: |p| Request::new("pttl").arg(p.key()) },
];

/// A command and one key.
fn on_key(p: &mut Pen, name: &str) -> Request {
    Request::new(name).arg(p.key())
}
