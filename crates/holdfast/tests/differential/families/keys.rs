//! Commands on keys of any type.

use super::{Entry, on_key};
use crate::{pen::Pen, request::Request};

pub const ENTRIES: &[Entry] = &[
    Entry { command: "del", weight: 3, write: |p| Request::new("del").args(p.keys(1)) },
    Entry { command: "unlink", weight: 3, write: |p| Request::new("unlink").args(p.keys(1)) },
    Entry { command: "exists", weight: 4, write: |p| Request::new("exists").args(p.keys(1)) },
    Entry { command: "touch", weight: 2, write: |p| Request::new("touch").args(p.keys(1)) },
    Entry { command: "type", weight: 4, write: |p| on_key(p, "type") },
    Entry { command: "ttl", weight: 4, write: |p| on_key(p, "ttl") },
    Entry { command: "pttl", weight: 4, write: |p| on_key(p, "pttl") },
    Entry { command: "expiretime", weight: 4, write: |p| on_key(p, "expiretime") },
    Entry { command: "pexpiretime", weight: 4, write: |p| on_key(p, "pexpiretime") },
    Entry { command: "expire", weight: 6, write: |p| expire(p, "expire", 1_000, false) },
    Entry { command: "pexpire", weight: 6, write: |p| expire(p, "pexpire", 1, false) },
    Entry { command: "expireat", weight: 6, write: |p| expire(p, "expireat", 1_000, true) },
    Entry { command: "pexpireat", weight: 6, write: |p| expire(p, "pexpireat", 1, true) },
    Entry { command: "persist", weight: 4, write: |p| on_key(p, "persist") },
    Entry { command: "scan", weight: 8, write: |p| scan(p, "scan", None) },
    Entry { command: "object", weight: 3, write: object },
    Entry {
        command: "wait",
        weight: 1,
        write: |p| {
            let replicas = p.random.pick(&["0", "-1", "x", ""]);
            let timeout = p.random.pick(&["0", "1", "-1", "x", ""]);
            Request::new("wait").arg(replicas).arg(timeout)
        },
    },
    Entry { command: "dbsize", weight: 2, write: |_| Request::new("dbsize") },
];

fn expire(p: &mut Pen, name: &str, unit_ms: u64, absolute: bool) -> Request {
    let mut request = on_key(p, name).arg(p.lifetime(unit_ms, absolute));
    for _ in 0..p.random.pick(&[0, 0, 1, 1, 2]) {
        let option = p.random.pick(&["nx", "xx", "gt", "lt", "ab"]);
        request = request.arg(p.any_case(option));
    }
    request
}

/// SCAN, or one of its relatives on `key`, over all that there is or with a small COUNT.
pub fn scan(p: &mut Pen, name: &str, key: Option<Vec<u8>>) -> Request {
    let types = key.is_none();
    let cursor = match p.random.below(12) {
        0 => p.random.pick(&["x", "-1", "18446744073709551616", "01", "", "1.5", " 0"]),
        _ => "0",
    };
    let mut request = Request::new(name).args(key).arg(cursor);
    for _ in 0..p.random.pick(&[0, 1, 1, 2, 3]) {
        let (option, value) = match p.random.below(if types { 8 } else { 6 }) {
            0..3 => ("match", p.pattern()),
            3..5 => ("count", p.random.pick::<&[u8]>(&[b"1000", b"5000"])),
            5 => ("count", p.random.pick::<&[u8]>(&[b"0", b"-1", b"x", b"1", b"3", b""])),
            _ => {
                let kinds: &[&[u8]] =
                    &[b"string", b"LIST", b"set", b"zset", b"hash", b"stream", b"none", b""];
                ("type", p.random.pick(kinds))
            }
        };
        request = request.arg(p.any_case(option)).arg(value);
    }
    request
}

fn object(p: &mut Pen) -> Request {
    let sub = p.random.pick(&["encoding", "refcount", "idletime", "freq", "nonsense"]);
    Request::new("object").arg(p.any_case(sub)).arg(p.key())
}
