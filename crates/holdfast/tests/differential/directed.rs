//! What random requests do not reach: deadlines that pass, scans in many steps, the bytes of the
//! protocol, the command table, and that every intended difference is still one.

use std::time::{Duration, Instant};

use crate::{
    compare::Slack,
    connection::Connection,
    families,
    known::KNOWN,
    play::{self, Sequence},
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
        for (reply, part) in [(&redis, known.redis), (&ours, known.ours)] {
            let found = reply.windows(part.len()).any(|window| window == part.as_bytes());
            let (requests, reason, reply) = (known.requests, known.reason, shown(reply));
            assert!(found, "{requests:?} ({reason}): {reply} without {part:?}");
        }
        assert_ne!(redis, ours, "{:?} is no difference any more", known.requests);
    }
    pair.stop();
}

#[test]
fn a_planted_difference_is_found_and_shortened() {
    let mut pair = Pair::start();
    let harmless = |n: usize| Request::new("set").arg(format!("k{n}")).arg("v");
    // An intended difference in the midst of requests that are answered alike.
    let mut requests: Vec<_> = (0..60).map(harmless).collect();
    requests.insert(37, Request::of("zincrby z -0 m"));
    let sequence = Sequence { protocol: 3, databases: 1, requests };
    let found = play::play(&mut pair, &sequence).expect("the replies differ");
    assert_eq!(found.0, 37);
    let (short, difference) = play::shrink(&mut pair, sequence, found);
    assert_eq!(short.requests.len(), 1);
    assert_eq!(difference.request.name(), "zincrby");
    pair.stop();
}

#[test]
fn a_planted_difference_of_the_state_is_found() {
    let pair = Pair::start();
    let changes = [
        ("set a v", None),
        ("expire a 1000", Some("pttl")),
        ("persist a", None),
        ("append a v", Some("get")),
        ("rpush b v", Some("(all")),
    ];
    for (line, shown_by) in changes {
        let [mut redis, mut ours] = connections(&pair);
        ours.ask(Request::of(line));
        if let Some(name) = shown_by {
            let found = state::difference(&pair, 1, Slack(50)).expect("only one server has it");
            assert_eq!(found.request.name(), name, "{line}");
        }
        redis.ask(Request::of(line));
        assert!(state::difference(&pair, 1, Slack(1_000)).is_none(), "{line}");
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

/// Raw bytes, followed by QUIT; everything that comes until the server closes is compared.
///
/// One limit is another than in Redis: a request has at most 1,048,576 arguments.
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
    b"*2147483648\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$4\r\nquit\r\n*1\r\n$4\r\nping\r\n",
    b"quit\r\nping\r\n",
    b"*1\r\n$0\r\n\r\nping\r\n",
    b"get\r\n",
    // What a browser can be made to send: both close without a word.
    b"POST / HTTP/1.1\r\n\r\nping\r\n",
    b"Host: x\r\n\r\nping\r\n",
];

#[test]
fn the_bytes_of_the_protocol_are_answered_as_redis_does() {
    let pair = Pair::start();
    let mut different = Vec::new();
    for bytes in RAW {
        let [redis, ours] = connections(&pair).map(|mut connection| {
            connection.send_bytes(&[bytes, &b"quit\r\n"[..]].concat());
            connection.rest()
        });
        if redis != ours {
            different.push(format!("{}: {} and {}", shown(bytes), shown(&redis), shown(&ours)));
        }
    }
    assert!(different.is_empty(), "redis and holdfast:\n{}", different.join("\n"));
    pair.stop();
}

/// As `printf … | nc` does it: the replies of writes, which wait for the disk, come as well.
#[test]
fn a_client_that_has_stopped_sending_still_gets_its_replies() {
    let pair = Pair::start();
    for (at, mut connection) in connections(&pair).into_iter().enumerate() {
        for n in 0..20 {
            connection.send_bytes(format!("set k {n}\r\nget k\r\nincr k\r\n").as_bytes());
            connection.finish_sending();
            let len = n.to_string().len();
            let expected = format!("+OK\r\n${len}\r\n{n}\r\n:{}\r\n", n + 1);
            assert_eq!(shown(&connection.rest()), shown(expected.as_bytes()), "server {at}");
            connection = Connection::open([pair.redis.address, pair.ours.address][at]);
        }
    }
    pair.stop();
}

/// Commands that no family writes: QUIT is among the raw bytes above, the others are not of Redis.
const NOT_IN_A_FAMILY: &[&str] = &["quit", "keyspace", "backup", "handover", "token", "readafter"];

#[test]
fn every_command_of_the_server_is_compared() {
    let pair = Pair::start();
    let [_, mut ours] = connections(&pair);
    let reply = ours.ask(Request::of("command list"));
    let missing: Vec<_> = elements(&reply)
        .expect("COMMAND LIST answers with an array")
        .into_iter()
        .map(|name| String::from_utf8_lossy(text(name).unwrap_or_default()).into_owned())
        .filter(|name| !NOT_IN_A_FAMILY.contains(&name.as_str()))
        .filter(|name| {
            let entries = families::ALL.iter().flat_map(|family| family.entries.iter());
            !entries.copied().flatten().any(|entry| entry.command == name)
        })
        .collect();
    assert!(missing.is_empty(), "no family writes {missing:?}");
    pair.stop();
}

/// Entries of COMMAND that differ on purpose: what a sub-command needs stands with its container
/// here, as in Redis before 7.0, since this table has no entries for sub-commands; BACKUP, HANDOVER,
/// KEYSPACE, READAFTER and TOKEN are not of Redis.
const OWN_ENTRIES: &[&str] =
    &["acl", "backup", "client", "config", "handover", "keyspace", "object", "readafter", "token"];

/// Clients and proxies route by this table.
#[test]
fn the_command_table_agrees_with_redis() {
    let pair = Pair::start();
    let [mut redis, mut ours] = connections(&pair);
    let table = ours.ask(Request::of("command"));
    let commands = elements(&table).expect("COMMAND answers with an array");
    assert!(commands.len() > 50, "the table has {} entries", commands.len());
    let mut different = Vec::new();
    for own in commands {
        let own = elements(own).expect("an entry is an array");
        let name = String::from_utf8_lossy(text(own[0]).unwrap_or_default()).into_owned();
        let reply = redis.ask(Request::of("command info").arg(&name));
        let told = elements(&reply).and_then(|entries| entries.first().copied()).and_then(elements);
        match told {
            _ if OWN_ENTRIES.contains(&name.as_str()) => {}
            Some(theirs) => compare_entries(&name, &theirs, &own, &mut different),
            None => different.push(format!("{name} is no command of Redis")),
        }
    }
    assert!(different.is_empty(), "redis and holdfast:\n{}", different.join("\n"));
    pair.stop();
}

fn compare_entries(name: &str, redis: &[&[u8]], ours: &[&[u8]], different: &mut Vec<String>) {
    for (at, what) in [(1, "arity"), (3, "first key"), (4, "last key"), (5, "step")] {
        if ours[at] != redis[at] {
            let (redis, ours) = (integer(redis[at]), integer(ours[at]));
            different.push(format!("{name}, {what}: {redis:?} and {ours:?}"));
        }
    }
    for flag in ["write", "readonly", "denyoom", "admin", "noscript", "fast", "no_auth"] {
        let is_set = |entry: &[&[u8]]| {
            let status = format!("+{flag}\r\n");
            elements(entry[2]).is_some_and(|flags| flags.contains(&status.as_bytes()))
        };
        if is_set(redis) != is_set(ours) {
            different.push(format!("{name}, {flag}: {} and {}", is_set(redis), is_set(ours)));
        }
    }
}
