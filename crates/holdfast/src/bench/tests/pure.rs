//! Tests of the parts that need no socket.

use super::super::mix::{Command, Mix};
use super::super::process;
use super::super::random::{Keys, Rng, Zipf};
use super::super::resp::{Kind, Scanner};
use super::super::schedule::{Arrivals, Schedule};
use super::super::source::Source;
use super::super::value::Values;
use super::super::wire::{Encoder, Login, Member, Protocol, Request, Shape};
use std::collections::HashSet;

const SEED: u64 = 20_260_501;

#[test]
fn zipf_ranks_have_the_shares_that_the_law_gives() {
    println!("seed {SEED}");
    for (n, s) in [(1, 0.99), (2, 0.99), (1000, 0.5), (1000, 0.99), (1000, 1.0), (100_000, 1.3)] {
        let sum: f64 = (1..=n).map(|rank| (rank as f64).powf(-s)).sum();
        let zipf = Zipf::new(n, s);
        let mut rng = Rng::new(SEED, n);
        let draws = 400_000;
        let mut counts = vec![0u64; n as usize + 1];
        for _ in 0..draws {
            counts[zipf.rank(&mut rng) as usize] += 1;
        }
        for rank in [1, 2, 3, 10, 100, 1000].into_iter().filter(|rank| *rank <= n) {
            let share = (rank as f64).powf(-s) / sum;
            let expected = share * draws as f64;
            let deviation = (expected * (1.0 - share)).sqrt();
            let off = (counts[rank as usize] as f64 - expected).abs();
            let got = counts[rank as usize];
            assert!(off <= 5.0 * deviation + 1e-6, "n {n} s {s} rank {rank}: {got} of {expected}");
        }
    }
}

#[test]
fn spreading_ranks_reaches_every_key_once() {
    for n in [1, 2, 3, 4, 5, 10, 97, 1000, 4096, 99_999] {
        let keys = Keys::new(n, Some(0.99));
        let reached: HashSet<_> = (1..=n).map(|rank| keys.spread(rank)).collect();
        assert_eq!(reached.len() as u64, n);
        assert!(reached.into_iter().all(|key| key < n));
    }
}

#[test]
fn the_same_seed_gives_the_same_keys_and_another_gives_others() {
    let draw = |seed| {
        let (keys, mut rng) = (Keys::new(1000, Some(0.99)), Rng::new(seed, 0));
        (0..50).map(|_| keys.pick(&mut rng)).collect::<Vec<_>>()
    };
    assert_eq!(draw(SEED), draw(SEED));
    assert_ne!(draw(SEED), draw(SEED + 1));
}

const REPLIES: [(&str, Kind); 24] = [
    ("+OK\r\n", Kind::Value),
    ("-ERR no\r\n", Kind::Error),
    (":-42\r\n", Kind::Value),
    ("$5\r\nab\r\nc\r\n", Kind::Value),
    ("$0\r\n\r\n", Kind::Value),
    ("$-1\r\n", Kind::Null),
    ("*0\r\n", Kind::Value),
    ("*-1\r\n", Kind::Null),
    ("*2\r\n$1\r\na\r\n$-1\r\n", Kind::Value),
    ("*2\r\n*2\r\n:1\r\n*0\r\n+x\r\n", Kind::Value),
    ("*1\r\n-ERR inside\r\n", Kind::Value),
    ("*1\r\n*1\r\n*1\r\n$-1\r\n", Kind::Value),
    ("_\r\n", Kind::Null),
    (",3.25\r\n", Kind::Value),
    ("#t\r\n", Kind::Value),
    ("(3492890328409238509324850943850943825024385\r\n", Kind::Value),
    ("%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n", Kind::Value),
    ("~3\r\n:1\r\n:2\r\n:3\r\n", Kind::Value),
    ("%0\r\n", Kind::Value),
    ("=7\r\ntxt:abc\r\n", Kind::Value),
    ("!9\r\nSYNTAX no\r\n", Kind::Error),
    (">2\r\n+message\r\n+x\r\n", Kind::Push),
    ("|1\r\n+ttl\r\n:3600\r\n-ERR behind an attribute\r\n", Kind::Error),
    ("|1\r\n+a\r\n*1\r\n:1\r\n*2\r\n:1\r\n_\r\n", Kind::Value),
];

/// What the scanner finds when `stream` arrives in these pieces.
fn scan_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<(usize, Kind)> {
    let (mut scanner, mut input, mut found) = (Scanner::new(), Vec::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        while let Some(reply) = scanner.scan(&input).expect("the stream is well formed") {
            found.push((reply.len, reply.kind));
            input.drain(..reply.len);
        }
    }
    assert!(input.is_empty(), "left over: {input:?}");
    found
}

#[test]
fn replies_are_found_wherever_the_stream_is_split() {
    let stream: Vec<u8> = REPLIES.iter().flat_map(|(text, _)| text.bytes()).collect();
    let expected: Vec<_> = REPLIES.iter().map(|(text, kind)| (text.len(), *kind)).collect();
    for split in 0..=stream.len() {
        let (head, tail) = stream.split_at(split);
        assert_eq!(scan_pieces([head, tail].into_iter()), expected, "split at {split}");
    }
    for size in [1, 2, 3, 7] {
        assert_eq!(scan_pieces(stream.chunks(size)), expected, "pieces of {size}");
    }
}

#[test]
fn what_is_not_resp_is_refused() {
    let bad = [
        "hello\r\n",
        "+OK\n",
        "$3\r\nabcd\r\n",
        "$x\r\n",
        "$-2\r\n",
        "$\r\n",
        "*99999999999\r\n",
        "%4294967295\r\n",
        "*2\r\n:1\r\n?\r\n",
    ];
    for text in bad {
        assert!(Scanner::new().scan(text.as_bytes()).is_err(), "{text:?}");
    }
    let endless = vec![b'+'; 70_000];
    assert!(Scanner::new().scan(&endless).is_err());
}

#[test]
fn fixed_arrivals_keep_the_rate_without_drift() {
    let mut schedule = Schedule::new(Arrivals::Fixed, 30_000.0, 0.5, Rng::new(SEED, 0));
    let mut last = 0;
    for second in 1..=20u64 {
        let mut count = 0;
        while schedule.due_ns() < second * 1_000_000_000 {
            assert!(schedule.due_ns() >= last);
            last = schedule.due_ns();
            schedule.advance();
            count += 1;
        }
        assert_eq!(count, 30_000, "second {second}");
    }
}

#[test]
fn poisson_arrivals_have_the_mean_and_the_spread_of_exponential_gaps() {
    println!("seed {SEED}");
    let mut schedule = Schedule::new(Arrivals::Poisson, 10_000.0, 0.0, Rng::new(SEED, 0));
    let (mut last, mut gaps) = (0, Vec::new());
    for _ in 0..200_000 {
        gaps.push((schedule.due_ns() - last) as f64);
        last = schedule.due_ns();
        schedule.advance();
    }
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    assert!((mean - 100_000.0).abs() < 2_000.0, "mean gap {mean} ns");
    assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "deviation {} ns", variance.sqrt());
}

#[test]
fn a_mix_is_drawn_by_its_weights_and_bad_ones_are_refused() {
    let mix: Mix = "get:90,SET:10".parse().expect("a good mix");
    assert_eq!(mix.to_string(), "get:90,set:10");
    let mut rng = Rng::new(SEED, 0);
    let sets = (0..100_000).filter(|_| mix.pick(&mut rng) == Command::Set).count();
    assert!((9_500..10_500).contains(&sets), "seed {SEED}: {sets} of 100000");
    for bad in ["", "get:0", "get:-1", "get:x", "fly:1", "get:1,get:2", "get:1,"] {
        assert!(bad.parse::<Mix>().is_err(), "{bad:?}");
    }
}

fn encoder(value_bytes: usize, stamped: bool, expire_seconds: Option<u64>) -> Encoder {
    let shape = Shape {
        key_prefix: "k:".to_owned(),
        keys: Keys::new(1, None),
        members: 2,
        range_count: 10,
        mget_keys: 2,
        expire_seconds,
        wait: None,
    };
    Encoder::new(shape, Values::new(value_bytes, stamped))
}

fn encoded(encoder: &Encoder, command: Command, member: Member) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.encode(&Request { command, key: 7, member, sequence: 1 }, &mut out);
    out
}

#[test]
fn requests_have_the_bytes_of_the_protocol() {
    let encoder = encoder(0, false, Some(60));
    let one = [
        (Command::Ping, "*1|$4|PING|"),
        (Command::Get, "*2|$3|GET|$14|k:000000000007|"),
        (Command::Set, "*5|$3|SET|$14|k:000000000007|$0||$2|EX|$2|60|"),
        (Command::Mget, "*3|$4|MGET|$14|k:000000000000|$14|k:000000000000|"),
        (Command::Del, "*2|$3|DEL|$14|k:000000000007|"),
        (Command::Incr, "*2|$4|INCR|$22|k:counter:000000000007|"),
        (Command::Hset, "*4|$4|HSET|$19|k:hash:000000000007|$7|m000001|$0||"),
        (Command::Hget, "*3|$4|HGET|$19|k:hash:000000000007|$7|m000001|"),
        (Command::Lpush, "*3|$5|LPUSH|$19|k:list:000000000007|$0||"),
        (Command::Rpop, "*2|$4|RPOP|$19|k:list:000000000007|"),
        (Command::Sadd, "*3|$4|SADD|$18|k:set:000000000007|$7|m000001|"),
        (Command::Zadd, "*4|$4|ZADD|$19|k:zset:000000000007|$6|SCORE1|$7|m000001|"),
        (Command::Zrange, "*4|$6|ZRANGE|$19|k:zset:000000000007|$1|0|$1|9|"),
    ];
    let all = [
        (Command::Hset, "*6|$4|HSET|$19|k:hash:000000000007|$7|m000000|$0||$7|m000001|$0||"),
        (Command::Lpush, "*4|$5|LPUSH|$19|k:list:000000000007|$0||$0||"),
        (Command::Sadd, "*4|$4|SADD|$18|k:set:000000000007|$7|m000000|$7|m000001|"),
        (
            Command::Zadd,
            "*6|$4|ZADD|$19|k:zset:000000000007|$6|SCORE1|$7|m000000|$6|SCORE2|$7|m000001|",
        ),
    ];
    let score = |n| format!("{:06}", super::super::random::mix(n) % 1_000_000);
    let one = one.map(|(command, text)| (command, Member::One(1), text));
    let all = all.map(|(command, text)| (command, Member::All, text));
    for (command, member, text) in one.into_iter().chain(all) {
        let text = text.replace('|', "\r\n").replace("SCORE1", &score(1));
        let text = text.replace("SCORE2", &score(2));
        let bytes = encoded(&encoder, command, member);
        assert_eq!(String::from_utf8_lossy(&bytes), text, "{command:?} {member:?}");
    }
}

#[test]
fn greetings_log_in_before_they_change_the_version() {
    let login = Login { user: Some("me".to_owned()), password: "pw".to_owned() };
    let (bytes, replies) = Protocol::Resp3.greeting(Some(&login));
    let text = "*3|$4|AUTH|$2|me|$2|pw|*2|$5|HELLO|$1|3|".replace('|', "\r\n");
    assert_eq!((String::from_utf8_lossy(&bytes).as_ref(), replies), (text.as_str(), 2));
    assert_eq!(Protocol::Resp2.greeting(None), (Vec::new(), 0));
}

#[test]
fn stamped_values_show_a_wrong_key_a_wrong_length_and_damage() {
    for len in [64, 65, 100, 70_000, 200_000] {
        let values = Values::new(len, true);
        let mut value = Vec::new();
        values.write(5, 1, 99, &mut value);
        assert_eq!(value.len(), len);
        assert_eq!(values.check(5, 1, &value), Ok(()));
        assert!(values.check(6, 1, &value).is_err());
        assert!(values.check(5, 2, &value).is_err());
        for cut in [0, 10, 51, len - 1] {
            assert!(values.check(5, 1, &value[..cut]).is_err(), "cut at {cut}");
        }
        for at in [0, 20, 40, 50, 51, len / 2, len - 1] {
            let mut damaged = value.clone();
            damaged[at] ^= 1;
            assert!(values.check(5, 1, &damaged).is_err(), "damaged at {at} of {len}");
        }
    }
}

#[test]
fn a_reply_to_mget_is_checked_value_by_value() {
    let encoder = encoder(64, true, None);
    let request = Request { command: Command::Mget, key: 1, member: Member::One(0), sequence: 0 };
    let bulk = |key| {
        let mut bytes = b"$64\r\n".to_vec();
        Values::new(64, true).write(key, 0, 3, &mut bytes);
        bytes.extend_from_slice(b"\r\n");
        bytes
    };
    // With a single key in the keyspace both keys asked for are number 0.
    let right = [b"*2\r\n".as_slice(), &bulk(0), b"$-1\r\n"].concat();
    assert_eq!(encoder.verify(&request, &right), Ok(1));
    let wrong = [b"*2\r\n".as_slice(), &bulk(0), &bulk(1)].concat();
    assert!(encoder.verify(&request, &wrong).is_err());
    let short = [b"*1\r\n".as_slice(), &bulk(0)].concat();
    assert!(encoder.verify(&request, &short).is_err());
}

#[test]
fn filling_writes_each_key_once_per_family_over_all_threads() {
    let mix: Mix = "get,set,hget,ping".parse().expect("a good mix");
    let mut seen = HashSet::new();
    for thread in 0..3 {
        let mut source = Source::fill(&mix, 100, thread, 3);
        while let Some(request) = source.next() {
            assert!(seen.insert((request.command as usize, request.key)));
        }
    }
    let written = |command| (0..100).all(|key| seen.contains(&(command as usize, key)));
    assert!(seen.len() == 200 && written(Command::Set) && written(Command::Hset));
}

#[test]
fn process_usage_is_read_behind_an_odd_name() {
    let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 99 1000 30 18446";
    let usage = process::parse(text, 100.0, 4096).expect("a good line");
    assert_eq!((usage.user_seconds, usage.system_seconds), (2.5, 0.5));
    assert_eq!(usage.rss_bytes, 30 * 4096);
    assert_eq!(process::parse("7 (a) S 1 7", 100.0, 4096), None);
    assert!(process::usage(std::process::id()).expect("own usage").rss_bytes > 0);
}
