//! Commands on sets.

use super::{Entry, keys::scan, on_key};
use crate::{pen::Pen, request::Request};

pub const ENTRIES: &[Entry] = &[
    Entry { command: "sadd", weight: 12, write: |p| change(p, "sadd") },
    Entry { command: "srem", weight: 8, write: |p| change(p, "srem") },
    Entry { command: "smembers", weight: 5, write: |p| on_key(p, "smembers") },
    Entry { command: "sismember", weight: 6, write: |p| on_key(p, "sismember").arg(p.member()) },
    Entry { command: "scard", weight: 5, write: |p| on_key(p, "scard") },
    Entry {
        command: "smismember",
        weight: 4,
        write: |p| on_key(p, "smismember").args(p.members(1)),
    },
    Entry { command: "srandmember", weight: 5, write: srandmember },
    Entry { command: "spop", weight: 6, write: spop },
    Entry {
        command: "sscan",
        weight: 5,
        write: |p| {
            let key = p.key();
            scan(p, "sscan", Some(key))
        },
    },
];

fn change(p: &mut Pen, name: &str) -> Request {
    let request = on_key(p, name);
    request.args(if p.random.chance(6) { p.many_members() } else { p.members(1) })
}

fn spop(p: &mut Pen) -> Request {
    let request = on_key(p, "spop");
    match p.random.below(4) {
        0 => request,
        1 => request.arg(p.random.pick(&["0", "-1", "x", "", "1.0", "-9223372036854775808"])),
        // A count of i64::MAX takes what there is.
        _ => request.arg(p.random.pick(&["1", "2", "3", "5", "40", "1000", "9223372036854775807"])),
    }
}

fn srandmember(p: &mut Pen) -> Request {
    let request = on_key(p, "srandmember");
    match p.random.below(4) {
        0 => request,
        1 => request.arg(p.random.pick(&[
            "0",
            "x",
            "",
            "1.0",
            "9223372036854775807",
            "-9223372036854775808",
        ])),
        _ => request.arg(p.random.pick(&["1", "2", "5", "-5", "-1", "40", "-40", "1000"])),
    }
}
