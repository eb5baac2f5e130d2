//! Commands on lists.

use super::{Entry, on_key};
use crate::{pen::Pen, request::Request};

pub const ENTRIES: &[Entry] = &[
    Entry { command: "lpush", weight: 10, write: |p| push(p, "lpush") },
    Entry { command: "rpush", weight: 10, write: |p| push(p, "rpush") },
    Entry { command: "lpushx", weight: 3, write: |p| push(p, "lpushx") },
    Entry { command: "rpushx", weight: 3, write: |p| push(p, "rpushx") },
    Entry {
        command: "lset",
        weight: 6,
        write: |p| on_key(p, "lset").arg(p.index()).arg(p.value()),
    },
    Entry { command: "lpop", weight: 6, write: |p| pop(p, "lpop") },
    Entry { command: "rpop", weight: 6, write: |p| pop(p, "rpop") },
    Entry {
        command: "lrange",
        weight: 10,
        write: |p| on_key(p, "lrange").arg(p.index()).arg(p.index()),
    },
    Entry { command: "llen", weight: 5, write: |p| on_key(p, "llen") },
    Entry {
        command: "ltrim",
        weight: 6,
        write: |p| on_key(p, "ltrim").arg(p.index()).arg(p.index()),
    },
    Entry { command: "lindex", weight: 8, write: |p| on_key(p, "lindex").arg(p.index()) },
];

fn push(p: &mut Pen, name: &str) -> Request {
    let request = on_key(p, name);
    if p.random.chance(5) {
        return request.args(p.many_members());
    }
    let values: Vec<_> = (0..1 + p.random.below(4)).map(|_| p.value()).collect();
    request.args(values)
}

fn pop(p: &mut Pen, name: &str) -> Request {
    let request = on_key(p, name);
    match p.random.below(4) {
        0 | 1 => request,
        2 => request.arg(p.random.pick(&["1", "2", "5", "200"])),
        _ => request.arg(p.integer()),
    }
}
