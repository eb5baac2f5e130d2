//! Commands on strings.

use super::{Entry, on_key};
use crate::{pen::Pen, request::Request};

pub const ENTRIES: &[Entry] = &[
    Entry { command: "get", weight: 6, write: |p| on_key(p, "get") },
    Entry { command: "set", weight: 20, write: set },
    Entry { command: "setnx", weight: 3, write: |p| on_key(p, "setnx").arg(p.value()) },
    Entry {
        command: "setex",
        weight: 3,
        write: |p| on_key(p, "setex").arg(p.lifetime(1_000, false)).arg(p.value()),
    },
    Entry {
        command: "psetex",
        weight: 3,
        write: |p| on_key(p, "psetex").arg(p.lifetime(1, false)).arg(p.value()),
    },
    Entry { command: "getex", weight: 8, write: getex },
    Entry { command: "getdel", weight: 3, write: |p| on_key(p, "getdel") },
    Entry { command: "getset", weight: 3, write: |p| on_key(p, "getset").arg(p.value()) },
    Entry { command: "mget", weight: 3, write: |p| Request::new("mget").args(p.keys(1)) },
    Entry { command: "mset", weight: 4, write: mset },
    Entry { command: "incr", weight: 4, write: |p| on_key(p, "incr") },
    Entry { command: "decr", weight: 4, write: |p| on_key(p, "decr") },
    Entry { command: "incrby", weight: 5, write: |p| on_key(p, "incrby").arg(p.integer()) },
    Entry { command: "decrby", weight: 5, write: |p| on_key(p, "decrby").arg(p.integer()) },
    Entry { command: "append", weight: 5, write: |p| on_key(p, "append").arg(p.value()) },
    Entry { command: "strlen", weight: 3, write: |p| on_key(p, "strlen") },
];

fn set(p: &mut Pen) -> Request {
    let mut request = on_key(p, "set").arg(p.value());
    for _ in 0..p.random.pick(&[0, 0, 1, 1, 1, 2, 2, 3, 4]) {
        request = match p.random.below(8) {
            0..4 => request.args(p.expiry()),
            4 => request.arg(p.any_case("nx")),
            5 => request.arg(p.any_case("xx")),
            6 => request.arg(p.any_case("get")),
            _ => request.arg(p.any_case("keepttl")),
        };
    }
    request
}

fn getex(p: &mut Pen) -> Request {
    let request = on_key(p, "getex");
    match p.random.below(8) {
        0 => request,
        1 | 2 => request.arg(p.any_case("persist")),
        3 => request.args(p.expiry()).arg(p.any_case("persist")),
        _ => request.args(p.expiry()),
    }
}

fn mset(p: &mut Pen) -> Request {
    let mut request = Request::new("mset");
    for key in p.keys(1) {
        request = request.arg(key).arg(p.value());
    }
    request
}
