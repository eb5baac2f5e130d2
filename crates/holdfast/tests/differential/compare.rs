//! When two replies count as the same: byte for byte, except where the command's own meaning
//! leaves room (order, clock, cursors, what a server says about itself).

use crate::request::{Request, elements, integer, text};

/// How far two clocks and two schedulings may lie apart, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Slack(pub i64);

enum Rule {
    Exact,
    /// The same elements in any order.
    Unordered,
    /// The same pairs in any order.
    Pairs,
    /// A cursor and elements: compared as sets where both went over all in one step.
    Cursor {
        pairs: bool,
    },
    /// A time of this many milliseconds a unit; negative answers are exact.
    Clock {
        unit_ms: i64,
    },
    /// Of the same type; only errors are compared.
    Shape,
    /// The map of HELLO, aside from version and number of the connection.
    Hello,
}

fn rule(request: &Request) -> Rule {
    match (request.name().as_str(), request.word(1).as_str()) {
        ("smembers" | "hkeys" | "hvals", _) => Rule::Unordered,
        ("hgetall", _) => Rule::Pairs,
        ("scan" | "sscan", _) => Rule::Cursor { pairs: false },
        ("hscan" | "zscan", _) => Rule::Cursor { pairs: true },
        ("ttl" | "expiretime", _) => Rule::Clock { unit_ms: 1_000 },
        ("pttl" | "pexpiretime", _) => Rule::Clock { unit_ms: 1 },
        ("hello", _) => Rule::Hello,
        ("info" | "time", _) => Rule::Shape,
        ("client", "id" | "info" | "list") => Rule::Shape,
        ("command", "" | "count" | "docs" | "info" | "list") => Rule::Shape,
        ("config", "get") => Rule::Shape,
        ("object", "encoding" | "refcount" | "idletime") => Rule::Shape,
        _ => Rule::Exact,
    }
}

/// Whether Redis and Holdfast answered the request alike.
pub fn same(request: &Request, redis: &[u8], ours: &[u8], slack: Slack) -> bool {
    if redis == ours {
        return true;
    }
    // Refusals are the same in every word or they differ.
    if redis.first() != ours.first() || redis.starts_with(b"-") {
        return false;
    }
    match rule(request) {
        Rule::Exact => false,
        Rule::Unordered => sorted(redis, 1) == sorted(ours, 1),
        Rule::Pairs => sorted(redis, 2) == sorted(ours, 2),
        Rule::Cursor { pairs } => same_step(request, redis, ours, if pairs { 2 } else { 1 }),
        Rule::Clock { unit_ms } => same_time(redis, ours, unit_ms, slack),
        Rule::Shape => true,
        Rule::Hello => greeting(redis) == greeting(ours),
    }
}

/// The replies of EXEC, each by the rule of the command that was queued.
pub fn same_transaction(queued: &[Request], redis: &[u8], ours: &[u8], slack: Slack) -> bool {
    let (Some(redis), Some(ours)) = (elements(redis), elements(ours)) else {
        return redis == ours;
    };
    redis.len() == ours.len()
        && redis.len() == queued.len()
        && queued
            .iter()
            .zip(redis)
            .zip(ours)
            .all(|((request, redis), ours)| same(request, redis, ours, slack))
}

/// A collection's elements, sorted in groups; `None` for anything else.
pub fn sorted(reply: &[u8], group: usize) -> Option<Vec<Vec<&[u8]>>> {
    let mut groups: Vec<_> = elements(reply)?.chunks(group).map(<[_]>::to_vec).collect();
    groups.sort();
    Some(groups)
}

fn same_step(request: &Request, redis: &[u8], ours: &[u8], group: usize) -> bool {
    let (Some(redis), Some(ours)) = (elements(redis), elements(ours)) else {
        return false;
    };
    let ([redis_cursor, redis], [our_cursor, ours]) = (&redis[..], &ours[..]) else {
        return false;
    };
    let from_start = request.words.iter().any(|word| word == b"0");
    let whole = |cursor: &[u8]| text(cursor) == Some(b"0");
    if !from_start || !whole(redis_cursor) || !whole(our_cursor) {
        return text(our_cursor).is_some_and(|cursor| cursor.iter().all(u8::is_ascii_digit));
    }
    sorted(redis, group) == sorted(ours, group)
}

fn same_time(redis: &[u8], ours: &[u8], unit_ms: i64, slack: Slack) -> bool {
    let (Some(redis), Some(ours)) = (integer(redis), integer(ours)) else {
        return false;
    };
    // What is negative says that there is no deadline or no key.
    redis >= 0 && ours >= 0 && redis.abs_diff(ours) <= (slack.0 / unit_ms + 1).unsigned_abs()
}

fn greeting(reply: &[u8]) -> Option<Vec<&[u8]>> {
    let mut own = false;
    let mut told = elements(reply)?;
    for element in &mut told {
        if own {
            *element = b"";
        }
        own = matches!(text(element), Some(b"version" | b"id"));
    }
    Some(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: Slack = Slack(50);

    #[test]
    fn replies_that_mean_something_else_are_told_apart() {
        for (line, redis, ours) in [
            ("get k", "$1\r\na\r\n", "$1\r\nb\r\n"),
            ("get k", "$-1\r\n", "_\r\n"),
            ("get k", "-ERR a\r\n", "-ERR b\r\n"),
            ("get k", "$1\r\na\r\n", "-ERR b\r\n"),
            ("smembers s", "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\na\r\n$1\r\na\r\n"),
            ("smembers s", "*1\r\n$1\r\na\r\n", "~1\r\n$1\r\na\r\n"),
            ("lrange l 0 1", "*2\r\n:1\r\n:2\r\n", "*2\r\n:2\r\n:1\r\n"),
            ("hgetall h", "*4\r\n+a\r\n+1\r\n+b\r\n+2\r\n", "*4\r\n+a\r\n+2\r\n+b\r\n+1\r\n"),
            ("pttl k", ":1000\r\n", ":1099\r\n"),
            ("pttl k", ":-1\r\n", ":10\r\n"),
            ("scan 0", "*2\r\n$1\r\n0\r\n*1\r\n+a\r\n", "*2\r\n$1\r\n0\r\n*0\r\n"),
            ("hello 3", "%1\r\n+proto\r\n:3\r\n", "%1\r\n+proto\r\n:2\r\n"),
        ] {
            let request = Request::of(line);
            assert!(!same(&request, redis.as_bytes(), ours.as_bytes(), SLACK), "{line} {redis:?}");
        }
    }

    #[test]
    fn order_clock_and_cursors_are_left_room() {
        for (line, redis, ours) in [
            ("smembers s", "*2\r\n+a\r\n+b\r\n", "*2\r\n+b\r\n+a\r\n"),
            ("hgetall h", "%2\r\n+a\r\n+1\r\n+b\r\n+2\r\n", "%2\r\n+b\r\n+2\r\n+a\r\n+1\r\n"),
            ("pttl k", ":1000\r\n", ":1050\r\n"),
            ("ttl k", ":10\r\n", ":11\r\n"),
            ("scan 0", "*2\r\n$1\r\n5\r\n*1\r\n+a\r\n", "*2\r\n$1\r\n0\r\n*1\r\n+b\r\n"),
            ("hello 3", "%1\r\n+id\r\n:3\r\n", "%1\r\n+id\r\n:2\r\n"),
        ] {
            let request = Request::of(line);
            assert!(same(&request, redis.as_bytes(), ours.as_bytes(), SLACK), "{line} {redis:?}");
        }
    }
}
