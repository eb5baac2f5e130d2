//! Commands on connection, server and cluster.
//!
//! QUIT is not here: it ends the sequence's connection (see `directed.rs`).

use super::{Entry, on_key};
use crate::{pen::Pen, request::Request};

pub const ENTRIES: &[Entry] = &[
    Entry { command: "ping", weight: 4, write: ping },
    Entry { command: "echo", weight: 4, write: |p| Request::new("echo").arg(p.value()) },
    Entry { command: "select", weight: 6, write: select },
    Entry { command: "hello", weight: 8, write: hello },
    Entry { command: "auth", weight: 3, write: auth },
    Entry { command: "client", weight: 8, write: client },
    Entry { command: "reset", weight: 2, write: |_| Request::new("reset") },
    Entry { command: "command", weight: 8, write: command },
    Entry { command: "info", weight: 2, write: info },
    Entry { command: "config", weight: 3, write: config },
    Entry { command: "time", weight: 1, write: |_| Request::new("time") },
    Entry { command: "dbsize", weight: 6, write: |_| Request::new("dbsize") },
    Entry { command: "flushdb", weight: 2, write: |p| flush(p, "flushdb") },
    Entry { command: "flushall", weight: 1, write: |p| flush(p, "flushall") },
    Entry { command: "cluster", weight: 3, write: cluster },
    Entry { command: "asking", weight: 1, write: |_| Request::new("asking") },
    Entry { command: "readonly", weight: 1, write: |_| Request::new("readonly") },
    Entry { command: "readwrite", weight: 1, write: |_| Request::new("readwrite") },
    Entry { command: "acl", weight: 3, write: acl },
    Entry { command: "get", weight: 4, write: |p| on_key(p, "get") },
    Entry { command: "ping", weight: 3, write: unknown },
];

fn ping(p: &mut Pen) -> Request {
    let request = Request::new("ping");
    if p.random.chance(50) { request.arg(p.value()) } else { request }
}

fn select(p: &mut Pen) -> Request {
    let database = match p.random.below(5) {
        0 => p.random.pick(&["16", "-1", "x", "", "01", "9223372036854775808", "4294967296"]),
        _ => p.random.pick(&["0", "1", "2"]),
    };
    Request::new("select").arg(database)
}

/// A name only where nothing wrong follows it: Redis keeps the name of a HELLO that it refuses.
fn hello(p: &mut Pen) -> Request {
    let version = p.random.pick(&["2", "3", "2", "3", "1", "4", "x", "", "03"]);
    let mut request = Request::new("hello");
    if p.random.chance(90) {
        request = request.arg(version);
    }
    if p.random.chance(20) {
        request = request.arg(p.any_case("auth")).arg("default").arg(p.member());
    }
    match p.random.below(6) {
        0 => request.arg(p.any_case("setname")).arg(client_name(p)),
        1 => request.arg(p.any_case("setname")),
        2 => request.arg("nonsense"),
        _ => request,
    }
    .intact()
}

fn client_name(p: &mut Pen) -> &'static str {
    p.random.pick(&["worker-1", "a", "", "with space", "line\nbreak", "ümlaut", "~!"])
}

fn auth(p: &mut Pen) -> Request {
    let request = Request::new("auth");
    match p.random.below(5) {
        0 => request.arg("default").arg(p.member()),
        1 => request.arg("nobody").arg("secret"),
        2 => request.arg("a").arg("b").arg("c"),
        _ => request.arg(p.member()),
    }
}

fn client(p: &mut Pen) -> Request {
    let request = Request::new("client");
    let sub = match p.random.below(8) {
        0 | 1 => return request.arg(p.any_case("setname")).arg(client_name(p)),
        2 | 3 => "getname",
        4 => "id",
        5 if p.random.chance(50) => {
            let filter = p.random.pick(&["list", "list type normal", "list type x", "list id x"]);
            return request.args(filter.split(' '));
        }
        5 => "info",
        6 => {
            let word = p.random.pick(&["on", "OFF", "maybe"]);
            return request.arg(p.any_case("no-evict")).arg(word);
        }
        _ => "nonsense",
    };
    request.arg(p.any_case(sub))
}

fn command(p: &mut Pen) -> Request {
    let request = Request::new("command");
    match p.random.below(8) {
        0 => request.arg(p.any_case("count")),
        1 => request.arg(p.any_case("docs")).arg("get"),
        2 => request.arg("nonsense"),
        3 => {
            let name = p.random.pick(&["get", "SET", "nonsense", "zadd", "mset", "object"]);
            request.arg(p.any_case("info")).arg(name)
        }
        _ => {
            let line = p.random.pick(&[
                "get k",
                "MSET a 1 b 2 c 3",
                "mget a b c",
                "set k v EX 10",
                "del a b",
                "ping",
                "get",
                "nonsense a",
                "watch a b",
                "multi",
                "hset h f v",
                "zadd z 1 m",
                "mset a",
            ]);
            request.arg(p.any_case("getkeys")).args(line.split(' '))
        }
    }
}

fn info(p: &mut Pen) -> Request {
    let section = p.random.pick(&["server", "Keyspace", "nonsense", "all", "default"]);
    Request::new("info").arg(section)
}

fn config(p: &mut Pen) -> Request {
    let request = Request::new("config");
    match p.random.below(4) {
        0 => request.arg(p.any_case("get")).arg("nonsense"),
        1 => {
            request.arg(p.any_case("get")).arg(p.random.pick(&["save", "databases", "appendonly"]))
        }
        2 => request.arg(p.any_case("get")).arg("maxmemory").arg("data*"),
        _ => request.arg("nonsense"),
    }
}

fn flush(p: &mut Pen, name: &str) -> Request {
    let request = Request::new(name);
    let mode = match p.random.below(4) {
        0 => return request,
        1 => "async",
        2 => "sync",
        _ => "nonsense",
    };
    request.arg(p.any_case(mode))
}

/// Who this is; users and their permissions have tests of their own.
fn acl(p: &mut Pen) -> Request {
    let request = Request::new("acl");
    match p.random.below(5) {
        0 => request.arg("nonsense"),
        1 => request.arg(p.any_case("deluser")).arg("default"),
        2 => request.arg(p.any_case("users")),
        _ => request.arg(p.any_case("whoami")),
    }
}

fn cluster(p: &mut Pen) -> Request {
    let request = Request::new("cluster");
    let sub = match p.random.below(5) {
        0 => "myid",
        1 => "info",
        2 => "slots",
        3 => "shards",
        _ => "nodes",
    };
    request.arg(p.any_case(sub))
}

fn unknown(p: &mut Pen) -> Request {
    let name = p.random.pick(&["nonsense", "", "get ", "NoSuch", "g\r\net"]);
    let long = vec![b'x'; 200];
    let mut request = Request::new(name).args(words(p));
    if p.random.chance(20) {
        request = request.arg(&long);
    }
    if p.random.chance(10) { Request::new(&long).args(words(p)) } else { request }
}

fn words(p: &mut Pen) -> &'static [&'static str] {
    p.random.pick::<&[&str]>(&[&[], &["a"], &["it's", "", "two words"], &["line\r\nbreak", "ü"]])
}
