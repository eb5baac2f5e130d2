//! Commands on hashes.

use super::{Entry, keys::scan, on_key};
use crate::{pen::Pen, request::Request};

pub const ENTRIES: &[Entry] = &[
    Entry { command: "hset", weight: 14, write: hset },
    Entry { command: "hget", weight: 6, write: |p| on_key(p, "hget").arg(p.member()) },
    Entry { command: "hmget", weight: 5, write: |p| on_key(p, "hmget").args(p.members(1)) },
    Entry { command: "hgetall", weight: 4, write: |p| on_key(p, "hgetall") },
    Entry { command: "hdel", weight: 8, write: hdel },
    Entry { command: "hexists", weight: 4, write: |p| on_key(p, "hexists").arg(p.member()) },
    Entry { command: "hlen", weight: 4, write: |p| on_key(p, "hlen") },
    Entry { command: "hincrby", weight: 8, write: hincrby },
    Entry { command: "hmset", weight: 2, write: |p| on_key(p, "hmset").args(pairs(p)) },
    Entry { command: "hvals", weight: 3, write: |p| on_key(p, "hvals") },
    Entry { command: "hstrlen", weight: 3, write: |p| on_key(p, "hstrlen").arg(p.member()) },
    Entry {
        command: "hsetnx",
        weight: 5,
        write: |p| on_key(p, "hsetnx").arg(p.member()).arg(p.value()),
    },
    Entry { command: "hkeys", weight: 4, write: |p| on_key(p, "hkeys") },
    Entry {
        command: "hscan",
        weight: 5,
        write: |p| {
            let key = p.key();
            scan(p, "hscan", Some(key))
        },
    },
];

fn hset(p: &mut Pen) -> Request {
    on_key(p, "hset").args(pairs(p))
}

/// Fields and values.
fn pairs(p: &mut Pen) -> Vec<Vec<u8>> {
    let fields = if p.random.chance(5) { p.many_members() } else { p.members(1) };
    fields.into_iter().flat_map(|field| [field, p.value()]).collect()
}

fn hdel(p: &mut Pen) -> Request {
    let request = on_key(p, "hdel");
    request.args(if p.random.chance(10) { p.many_members() } else { p.members(1) })
}

/// Mostly on a few fields of their own, so that sums come up.
fn hincrby(p: &mut Pen) -> Request {
    let request = on_key(p, "hincrby");
    let field = if p.random.chance(60) { b"sum".to_vec() } else { p.member() };
    request.arg(field).arg(p.integer())
}
