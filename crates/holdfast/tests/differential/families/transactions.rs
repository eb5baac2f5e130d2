//! MULTI, EXEC, DISCARD, WATCH and UNWATCH, over two connections that write the same keys.
//!
//! No FLUSHDB, no HELLO, and neither EXEC nor a sub-command with a wrong number of arguments:
//! their effect on transactions is another than in Redis, see [`crate::known`].

use super::{Entry, on_key};
use crate::{pen::Pen, request::Request};

pub const ENTRIES: &[Entry] = &[
    Entry { command: "multi", weight: 12, write: |p| either(p, Request::new("multi")) },
    Entry { command: "exec", weight: 12, write: |p| either(p, Request::new("exec").intact()) },
    Entry { command: "discard", weight: 2, write: |p| either(p, Request::new("discard")) },
    Entry {
        command: "watch",
        weight: 10,
        write: |p| {
            let keys = p.keys(1);
            either(p, Request::new("watch").args(keys))
        },
    },
    Entry { command: "unwatch", weight: 2, write: |p| either(p, Request::new("unwatch")) },
    // What changes a key, what only looks as if, and what fails.
    Entry { command: "set", weight: 6, write: |p| key_value(p, "set") },
    Entry {
        command: "append",
        weight: 4,
        write: |p| {
            // Something: an APPEND of nothing is no change here, but one in Redis.
            let request = on_key(p, "append").arg([b"+", &p.value()[..]].concat());
            either(p, request)
        },
    },
    Entry { command: "setnx", weight: 3, write: |p| key_value(p, "setnx") },
    Entry { command: "incr", weight: 5, write: |p| key_alone(p, "incr") },
    Entry { command: "get", weight: 5, write: |p| key_alone(p, "get") },
    Entry { command: "getex", weight: 3, write: |p| key_alone(p, "getex") },
    Entry { command: "getdel", weight: 3, write: |p| key_alone(p, "getdel") },
    Entry { command: "persist", weight: 3, write: |p| key_alone(p, "persist") },
    Entry { command: "lpop", weight: 3, write: |p| key_alone(p, "lpop") },
    Entry { command: "touch", weight: 2, write: |p| key_alone(p, "touch") },
    Entry { command: "ttl", weight: 2, write: |p| key_alone(p, "ttl") },
    Entry { command: "del", weight: 3, write: |p| key_alone(p, "del") },
    Entry { command: "hgetall", weight: 2, write: |p| key_alone(p, "hgetall") },
    Entry { command: "smembers", weight: 2, write: |p| key_alone(p, "smembers") },
    Entry {
        command: "zadd",
        weight: 3,
        write: |p| {
            let request = on_key(p, "zadd").arg("1").arg(p.member());
            either(p, request)
        },
    },
    Entry { command: "rpush", weight: 3, write: |p| key_value(p, "rpush") },
    Entry { command: "sadd", weight: 3, write: |p| key_value(p, "sadd") },
    Entry { command: "srem", weight: 3, write: |p| key_value(p, "srem") },
    Entry {
        command: "hset",
        weight: 3,
        write: |p| {
            let request = on_key(p, "hset").arg("f").arg(p.random.pick(&["1", "2"]));
            either(p, request)
        },
    },
    Entry {
        command: "ltrim",
        weight: 2,
        write: |p| {
            // Removes the first at least, for the same reason.
            let request = on_key(p, "ltrim").arg("1").arg(p.index());
            either(p, request)
        },
    },
    Entry {
        command: "expire",
        weight: 4,
        write: |p| {
            let request = on_key(p, "expire").arg(p.lifetime(1_000, false));
            either(p, request)
        },
    },
    Entry { command: "scan", weight: 1, write: |p| either(p, Request::of("scan 0 count 1000")) },
    Entry {
        command: "select",
        weight: 2,
        write: |p| {
            let database = p.random.pick(&["0", "1", "99"]);
            either(p, Request::new("select").arg(database))
        },
    },
    Entry { command: "info", weight: 1, write: |p| either(p, Request::new("info")) },
    Entry { command: "dbsize", weight: 1, write: |p| either(p, Request::new("dbsize")) },
    Entry {
        command: "command",
        weight: 1,
        write: |p| either(p, Request::of("command count").intact()),
    },
    Entry {
        command: "client",
        weight: 1,
        write: |p| either(p, Request::of("client list").intact()),
    },
    Entry {
        command: "config",
        weight: 1,
        write: |p| either(p, Request::of("config get save").intact()),
    },
    Entry { command: "reset", weight: 1, write: |p| either(p, Request::new("reset")) },
    Entry { command: "ping", weight: 1, write: |p| either(p, Request::of("nonsense a b")) },
];

/// On one of the two connections.
fn either(p: &mut Pen, request: Request) -> Request {
    let connection = p.random.below(2);
    request.on(connection)
}

fn key_alone(p: &mut Pen, name: &str) -> Request {
    let request = on_key(p, name);
    either(p, request)
}

fn key_value(p: &mut Pen, name: &str) -> Request {
    let request = on_key(p, name).arg(p.value());
    either(p, request)
}
