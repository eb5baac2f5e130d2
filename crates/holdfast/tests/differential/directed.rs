//! What random requests do not reach: deadlines that pass, scans in many steps, the bytes of the
//! protocol, the command table, and that every intended difference is still one.

use std::time::{Duration, Instant};

use crate::{
    compare::sorted,
    connection::Connection,
    known::KNOWN,
    request::{Request, elements, integer, shown, text},
    servers::Pair,
    state,
};

fn connections(pair: &Pair) -> [Connection; 2] {
    [Connection::open(pair.redis.address), Connection::open(pair.ours.address)]
}

#[test]
fn every_intended_difference_still_is_one() {
    assert!(KNOWN.len() <= 25, "the list of intended differences stays short");
    let pair = Pair::start();
    for known in KNOWN {
        let [redis, ours] = connections(&pair).map(|mut connection| {
            connection.ask(Request::of("flushall"));
            let replies = known.requests.iter().map(|line| connection.ask(Request::of(line)));
            replies.last().expect("an entry has a request")
        });
        for (reply, start) in [(&redis, known.redis), (&ours, known.ours)] {
            let reply_shown = shown(reply);
            let requests = format!("{:?} ({})", known.requests, known.reason);
            assert!(
                reply.starts_with(start.as_bytes()),
                "{requests}: {reply_shown} not {start:?}"
            );
        }
        assert_ne!(redis, ours, "{:?} is no difference any more", known.requests);
    }
    pair.stop();
}

#[test]
fn a_key_is_gone_on_both_when_its_deadline_passes() {
    let pair = Pair::start();
    let mut both = connections(&pair);
    for connection in &mut both {
        for (at, line) in [
            "set a v px 40",
            "psetex b 40 v",
            "rpush c v",
            "sadd d v",
            "zadd e 1 v",
            "hset f f v",
            "set g v",
        ]
        .iter()
        .enumerate()
        {
            connection.ask(Request::of(line));
            if at >= 2 {
                let key = &line.split(' ').nth(1).expect("each line names a key");
                connection.ask(Request::new("pexpire").arg(key).arg("40"));
            }
        }
        let all = Request::of("exists a b c d e f g");
        let deadline = Instant::now() + Duration::from_secs(20);
        while connection.ask(all.clone()) != b":0\r\n" {
            assert!(Instant::now() < deadline, "keys outlive their deadline");
        }
        // Nothing is left to collide with: every type is free again.
        for (line, reply) in [
            ("ttl a", ":-2\r\n"),
            ("incr a", ":1\r\n"),
            ("incr c", ":1\r\n"),
            ("llen b", ":0\r\n"),
            ("ttl c", ":-1\r\n"),
            ("scan 0 match [d-g] count 1000", "*2\r\n$1\r\n0\r\n*0\r\n"),
        ] {
            assert_eq!(
                shown(&connection.ask(Request::of(line))),
                shown(reply.as_bytes()),
                "{line}"
            );
        }
    }
    pair.stop();
}

#[test]
fn scans_in_many_steps_return_every_element() {
    const ELEMENTS: usize = 1_500;
    let pair = Pair::start();
    let mut both = connections(&pair);
    for connection in &mut both {
        let numbers: Vec<_> = (0..ELEMENTS).map(|n| n.to_string()).collect();
        for batch in numbers.chunks(100) {
            let pairs = || batch.iter().flat_map(|n| [n.clone(), n.clone()]);
            connection.ask(Request::of("sadd {t}set").args(batch));
            connection.ask(Request::of("hset {t}hash").args(pairs()));
            connection.ask(Request::of("zadd {t}zset").args(pairs()));
            connection.ask(Request::of("mset").args(pairs()));
        }
    }
    let [redis, ours] = &mut both;
    for (command, key) in [
        ("scan", None),
        ("sscan", Some(&b"{t}set"[..])),
        ("hscan", Some(b"{t}hash")),
        ("zscan", Some(b"{t}zset")),
    ] {
        let expected = state::all(redis, command, key, 1_000);
        assert!(expected.len() >= ELEMENTS, "{command} of Redis: {} elements", expected.len());
        for count in [1, 7, 100, 10_000] {
            let found = state::all(ours, command, key, count);
            assert!(found == expected, "{command} count {count}: {} elements", found.len());
        }
    }
    pair.stop();
}

/// Raw bytes, sent and then the sending side closed; everything that comes back is compared.
const RAW: &[&[u8]] = &[
    b"PING\r\n",
    b"ping\n",
    b"  ping   hello  \r\n",
    b"set k \"a b\\x41\\n\"\r\nget k\r\n",
    b"set k 'it\\'s'\r\nget k\r\n",
    b"set k \"open\r\nping\r\n",
    b"set k \"a\"b\r\nping\r\n",
    b"\r\n\r\nping\r\n",
    b"*0\r\n*-1\r\n*1\r\n$4\r\nping\r\n",
    b"*1\r\n$-1\r\nping\r\n",
    b"*1\r\n$x\r\n",
    b"*x\r\nping\r\n",
    b"*1\r\nping\r\n",
    b"*2\r\n$4\r\necho\r\n:1\r\n",
    b"*1048577\r\n",
    b"*2147483648\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$4\r\nquit\r\n*1\r\n$4\r\nping\r\n",
    b"quit\r\nping\r\n",
    b"*1\r\n$0\r\n\r\nping\r\n",
    b"get\r\n",
    b"POST / HTTP/1.1\r\n\r\nping\r\n",
    b"Host: x\r\n\r\nping\r\n",
];

#[test]
fn the_bytes_of_the_protocol_are_answered_as_redis_does() {
    let pair = Pair::start();
    let mut different = Vec::new();
    for bytes in RAW {
        let [redis, ours] = connections(&pair).map(|mut connection| {
            connection.send_bytes(bytes);
            connection.finish_sending();
            connection.rest()
        });
        if redis != ours {
            different.push(format!("{}: {} and {}", shown(bytes), shown(&redis), shown(&ours)));
        }
    }
    assert!(different.is_empty(), "redis and holdfast:\n{}", different.join("\n"));
}

/// Clients and proxies route by this table: name, arity, first and last key and step of every
/// command are as in Redis, and whether it writes.
#[test]
fn the_command_table_agrees_with_redis() {
    let pair = Pair::start();
    let [mut redis, mut ours] = connections(&pair);
    let table = ours.ask(Request::of("command"));
    let mut different = Vec::new();
    let commands = elements(&table).expect("COMMAND answers with an array");
    assert!(commands.len() > 50, "the table has {} entries", commands.len());
    for own in commands {
        let own = elements(own).expect("an entry is an array");
        let name = text(own[0]).expect("its first element is the name");
        let reply = redis.ask(Request::of("command info").arg(name));
        let theirs = elements(&reply).and_then(|entries| elements(entries[0]));
        let Some(theirs) = theirs else {
            different.push(format!("{} is no command of Redis", shown(name)));
            continue;
        };
        for (at, what) in [(1, "arity"), (3, "first key"), (4, "last key"), (5, "step")] {
            if own[at] != theirs[at] {
                let (redis, ours) = (integer(theirs[at]), integer(own[at]));
                different.push(format!("{} {what}: {redis:?} and {ours:?}", shown(name)));
            }
        }
        let writes = |flags: &[u8], flag: &str| {
            let flag = format!("+{flag}\r\n").into_bytes();
            sorted(flags, 1).is_some_and(|flags| flags.contains(&vec![&flag[..]]))
        };
        for flag in ["write", "readonly", "denyoom", "admin", "noscript", "fast", "no_auth"] {
            let (redis, ours) = (writes(theirs[2], flag), writes(own[2], flag));
            if redis != ours {
                different.push(format!("{} flag {flag}: {redis} and {ours}", shown(name)));
            }
        }
    }
    assert!(different.is_empty(), "redis and holdfast:\n{}", different.join("\n"));
    pair.stop();
}
