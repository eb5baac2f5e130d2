//! Commands on sorted sets.
//!
//! Ranges by member mean something only where all scores are equal: the keys `lex0` and `lex1`
//! get score 0 alone, and only they are asked BYLEX.

use super::{Entry, keys::scan, on_key};
use crate::{pen::Pen, request::Request};

pub const ENTRIES: &[Entry] = &[
    Entry { command: "zadd", weight: 18, write: zadd },
    Entry { command: "zadd", weight: 4, write: zadd_lex },
    Entry { command: "zrem", weight: 6, write: zrem },
    Entry { command: "zscore", weight: 5, write: |p| on_key(p, "zscore").arg(p.member()) },
    Entry { command: "zcard", weight: 3, write: |p| on_key(p, "zcard") },
    Entry { command: "zrange", weight: 8, write: zrange_by_rank },
    Entry { command: "zrange", weight: 8, write: zrange_by_score },
    Entry { command: "zrange", weight: 8, write: zrange_by_lex },
    Entry { command: "zrangebyscore", weight: 8, write: zrangebyscore },
    Entry { command: "zrevrange", weight: 6, write: zrevrange },
    Entry {
        command: "zincrby",
        weight: 7,
        write: |p| on_key(p, "zincrby").arg(p.double()).arg(p.member()),
    },
    Entry { command: "zmscore", weight: 4, write: |p| on_key(p, "zmscore").args(p.members(1)) },
    Entry { command: "zrevrank", weight: 4, write: |p| on_key(p, "zrevrank").arg(p.member()) },
    Entry {
        command: "zrevrangebyscore",
        weight: 6,
        write: |p| {
            let request = on_key(p, "zrevrangebyscore").args(bounds(p));
            with_options(p, request, &["limit", "withscores"])
        },
    },
    Entry {
        command: "zremrangebyrank",
        weight: 4,
        write: |p| on_key(p, "zremrangebyrank").arg(p.index()).arg(p.index()),
    },
    Entry { command: "zpopmin", weight: 3, write: |p| pop(p, "zpopmin") },
    Entry { command: "zpopmax", weight: 3, write: |p| pop(p, "zpopmax") },
    Entry { command: "zrank", weight: 5, write: |p| on_key(p, "zrank").arg(p.member()) },
    Entry { command: "zcount", weight: 5, write: |p| on_key(p, "zcount").args(bounds(p)) },
    Entry {
        command: "zremrangebyscore",
        weight: 4,
        write: |p| on_key(p, "zremrangebyscore").args(bounds(p)),
    },
    Entry {
        command: "zscan",
        weight: 4,
        write: |p| {
            let key = p.key();
            scan(p, "zscan", Some(key))
        },
    },
];

fn zadd(p: &mut Pen) -> Request {
    let mut request = on_key(p, "zadd");
    for _ in 0..p.random.pick(&[0, 0, 0, 1, 1, 2, 3]) {
        let option = p.random.pick(&["nx", "xx", "gt", "lt", "ch", "ch", "incr"]);
        request = request.arg(p.any_case(option));
    }
    let many = p.random.chance(6);
    let members = if many { p.many_members() } else { p.members(1) };
    for member in members {
        let score = if many { (p.random.below(40) as i64 - 20).to_string() } else { p.double() };
        request = request.arg(score).arg(member);
    }
    request
}

fn lex_key(p: &mut Pen) -> &'static str {
    p.random.pick(&["lex0", "lex1"])
}

fn zadd_lex(p: &mut Pen) -> Request {
    let mut request = Request::new("zadd").arg(lex_key(p));
    let members = if p.random.chance(10) { p.many_members() } else { p.members(1) };
    for member in members {
        request = request.arg("0").arg(member);
    }
    request.intact()
}

fn zrem(p: &mut Pen) -> Request {
    let request =
        if p.random.chance(25) { Request::new("zrem").arg(lex_key(p)) } else { on_key(p, "zrem") };
    request.args(if p.random.chance(10) { p.many_members() } else { p.members(1) })
}

fn pop(p: &mut Pen, name: &str) -> Request {
    let request = on_key(p, name);
    match p.random.below(3) {
        0 => request,
        1 => request.arg(p.random.pick(&["1", "2", "5", "200"])),
        _ => request.arg(p.integer()),
    }
}

/// A bound of scores; never a text that `strtod` reads only a part of (see [`crate::known`]).
fn bound(p: &mut Pen) -> String {
    match p.random.below(8) {
        0 => "-inf".into(),
        1 => "+inf".into(),
        2 | 3 => format!("({}", whole_double(p)),
        4 => p.random.pick(&["((1", "x", "(nan", "inf", "(inf", "[1", "(1x"]).into(),
        _ => whole_double(p),
    }
}

fn whole_double(p: &mut Pen) -> String {
    Some(p.double()).filter(|text| !text.is_empty() && !text.contains(' ')).unwrap_or("1".into())
}

fn bounds(p: &mut Pen) -> [String; 2] {
    [bound(p), bound(p)]
}

/// A bound of members.
fn lex_bound(p: &mut Pen) -> Vec<u8> {
    match p.random.below(10) {
        0 | 1 => b"-".to_vec(),
        2 | 3 => b"+".to_vec(),
        4 => p.random.pick::<&[u8]>(&[b"", b"m1", b"[", b"(", b"--", b"inf"]).to_vec(),
        mark => [if mark < 7 { &b"["[..] } else { b"(" }, &p.member()].concat(),
    }
}

fn with_options(p: &mut Pen, mut request: Request, options: &[&str]) -> Request {
    for option in options {
        if p.random.chance(35) {
            request = request.arg(p.any_case(option));
            if *option == "limit" {
                request = request.arg(p.index()).arg(p.index());
            }
        }
    }
    request
}

fn zrange_by_rank(p: &mut Pen) -> Request {
    let request = on_key(p, "zrange").arg(p.index()).arg(p.index());
    let limit = if p.random.chance(10) { "limit" } else { "withscores" };
    with_options(p, request, &["rev", limit])
}

fn zrange_by_score(p: &mut Pen) -> Request {
    let request = on_key(p, "zrange").args(bounds(p));
    let request =
        with_options(p, request, &["rev", "withscores", "limit"]).arg(p.any_case("byscore"));
    with_options(p, request, &["limit", "withscores"])
}

fn zrange_by_lex(p: &mut Pen) -> Request {
    let request = Request::new("zrange").arg(lex_key(p)).arg(lex_bound(p)).arg(lex_bound(p));
    let request = with_options(p, request, &["rev", "limit"]).arg(p.any_case("bylex"));
    if p.random.chance(5) { request.arg("withscores") } else { request }
}

fn zrangebyscore(p: &mut Pen) -> Request {
    let request = on_key(p, "zrangebyscore").args(bounds(p));
    with_options(p, request, &["withscores", "limit", "withscores"])
}

fn zrevrange(p: &mut Pen) -> Request {
    let request = on_key(p, "zrevrange").arg(p.index()).arg(p.index());
    with_options(p, request, &["withscores"])
}
