//! Whole benches against a tiny server in the same process, which can stall, fail, lie and close.

mod pure;
mod server;

use super::args::BenchArgs;
use super::report::{CommandReport, Report};
use super::run::measure;
use clap::Parser;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    bench: BenchArgs,
}

fn parse(line: &str) -> Result<BenchArgs, String> {
    let words = ["bench"].into_iter().chain(line.split_whitespace());
    Line::try_parse_from(words).map(|line| line.bench).map_err(|error| error.to_string())
}

fn bench(address: &str, line: &str) -> Result<Report, String> {
    measure(&parse(&format!("--addr {address} {line}")).expect("the options are good"))
}

fn ok(_: &[&[u8]]) -> Option<Vec<u8>> {
    Some(b"+OK\r\n".to_vec())
}

/// Answers OK, but request number `at` only after `stall`.
fn stalling(at: u64, stall: Duration) -> String {
    let mut count = 0;
    server::start(move |words| {
        count += 1;
        if count == at {
            // The stall is the fault under test, not a wait for something to happen.
            let until = Instant::now() + stall;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                thread::park_timeout(left);
            }
        }
        ok(words)
    })
}

type Strings = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

/// Keeps strings, as a real server does; `key_read` chooses the key that a GET looks at.
fn store(key_read: fn(&[u8]) -> Vec<u8>) -> (String, Strings) {
    // Guards the strings; taken inside the server's own lock.
    let strings = Arc::new(Mutex::new(HashMap::new()));
    let held = strings.clone();
    let address = server::start(move |words| {
        let mut strings = held.lock().expect("no test panics in here");
        match words {
            [b"SET", key, value] => {
                strings.insert(key.to_vec(), value.to_vec());
                Some(b"+OK\r\n".to_vec())
            }
            [b"GET", key] => Some(match strings.get(&key_read(key)) {
                Some(value) => {
                    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
                }
                None => b"$-1\r\n".to_vec(),
            }),
            _ => Some(b"-ERR unknown command\r\n".to_vec()),
        }
    });
    (address, strings)
}

#[test]
fn an_open_loop_charges_a_stall_to_every_request_that_it_kept_waiting() {
    let address = stalling(8_000, Duration::from_millis(500));
    let report = bench(&address, "--mix ping --rate 20000 --seconds 1.5 -c 8").expect("a result");
    let CommandReport { requests, per_second, p90_ms, max_ms, .. } = report.total;
    assert_eq!(requests, 30_000, "every request that fell due is counted");
    // 20,000 on a quiet machine; a loaded one answers the last of them late.
    assert!(per_second > 10_000.0, "{per_second} per second");
    // A third of the requests falls due during the stall and waits 250 ms on average, so the
    // slowest tenth waited more than about 350 ms.
    assert!(max_ms >= 499.0 && p90_ms > 250.0, "max {max_ms}, p90 {p90_ms}");
    let open_loop = report.open_loop.expect("asked for");
    assert!(open_loop.backlog_longest >= 1_000, "backlog {}", open_loop.backlog_longest);
    assert_eq!(open_loop.dropped, 0);
}

#[test]
fn a_closed_loop_counts_the_same_stall_once_per_connection() {
    let address = stalling(8_000, Duration::from_millis(500));
    let report = bench(&address, "--mix ping --requests 30000 -c 8").expect("a result");
    let CommandReport { requests, p99_ms, max_ms, .. } = report.total;
    assert_eq!(requests, 30_000);
    assert!(max_ms >= 499.0 && p99_ms < 250.0, "max {max_ms}, p99 {p99_ms}");
}

#[test]
fn a_full_backlog_drops_requests_and_says_how_many() {
    let address = stalling(100, Duration::from_millis(300));
    let line = "--mix ping --rate 5000 --seconds 0.6 -c 2 --backlog-max 20 --arrivals poisson";
    let report = bench(&address, line).expect("a result");
    let open_loop = report.open_loop.expect("asked for");
    assert_eq!(open_loop.backlog_longest, 20);
    assert!(open_loop.dropped > 500, "dropped {}", open_loop.dropped);
    assert!(report.total.requests + open_loop.dropped > 2_500);
}

#[test]
fn requests_are_split_over_threads_and_none_is_lost() {
    let address = server::start(ok);
    let line = "--mix ping:1,set:3 -n 10007 --threads 3 -c 7 -P 5 --zipf 0.99 --pin 0";
    let report = bench(&address, line).expect("a result");
    assert_eq!(report.total.requests, 10_007);
    assert_eq!(report.commands.iter().map(|row| row.requests).sum::<u64>(), 10_007);
    assert_eq!(report.total.bytes_received, 10_007 * 5);
    assert!(report.verdict().is_ok() && report.total.p50_ms > 0.0);
}

#[test]
fn nothing_from_the_warm_up_is_counted() {
    let address = server::start(ok);
    let line = "--mix ping --rate 2000 --warmup-seconds 0.5 --seconds 0.5 -c 4";
    let report = bench(&address, line).expect("a result");
    let requests = report.total.requests;
    assert!((700..=1_300).contains(&requests), "{requests} of 1000");
}

#[test]
fn error_replies_are_counted_and_the_first_is_shown() {
    let mut count = 0;
    let address = server::start(move |words| {
        count += 1;
        if count % 10 == 0 { Some(b"-ERR tenth\r\n".to_vec()) } else { ok(words) }
    });
    let report = bench(&address, "--mix incr -n 1000 -c 3 -P 4").expect("a result");
    assert_eq!((report.total.requests, report.total.errors), (1_000, 100));
    assert_eq!(report.first_error.as_deref(), Some("-ERR tenth"));
}

#[test]
fn a_server_that_closes_ends_the_bench_with_a_clear_message() {
    let mut count = 0;
    let address = server::start(move |words| {
        count += 1;
        if count <= 100 { ok(words) } else { None }
    });
    let error = bench(&address, "--mix ping -n 1000 -c 2 --threads 2").expect_err("it closed");
    assert!(
        error.contains("the server closed a connection") && error.contains(&address),
        "{error}"
    );
}

#[test]
fn a_silent_server_ends_the_bench_after_the_time_limit() {
    let address = server::start(|_| Some(Vec::new()));
    for line in ["-n 1000", "--seconds 60", "--rate 1000 --seconds 60"] {
        let line = format!("--mix ping --timeout-seconds 0.2 -c 2 {line}");
        let error = bench(&address, &line).expect_err("it is silent");
        assert!(error.contains("no reply for 0.2 s"), "{error}");
    }
}

#[test]
fn what_is_not_answered_in_time_after_the_end_fails_the_run() {
    // A server that needs a millisecond per request and is asked five times as much.
    let address = server::start(|words| {
        let until = Instant::now() + Duration::from_millis(1);
        while Instant::now() < until {
            thread::yield_now();
        }
        ok(words)
    });
    let line = "--mix ping --rate 5000 --seconds 0.4 --timeout-seconds 0.3 -c 2";
    let report = bench(&address, line).expect("a result");
    let (answered, unanswered) = (report.total.requests, report.unanswered);
    assert_eq!(answered + unanswered, 2_000);
    let error = report.verdict().expect_err("replies are missing");
    assert_eq!(error, format!("{unanswered} requests were never answered"));
}

#[test]
fn preloading_writes_every_key_and_reads_then_miss_nothing() {
    let (address, strings) = store(<[u8]>::to_vec);
    let line = "--mix get --keys 3000 --preload -n 5000 --threads 2 -c 4 -P 8 --verify";
    let report = bench(&address, line).expect("a result");
    assert_eq!(strings.lock().expect("the server did not panic").len(), 3_000);
    assert_eq!(report.preload.as_ref().map(|fill| fill.keys), Some(3_000));
    assert_eq!((report.total.misses, report.total.errors), (0, 0));
    assert_eq!(report.verify.as_ref().map(|verify| verify.verified), Some(5_000));
    assert!(report.verdict().is_ok());
}

#[test]
fn reads_of_absent_keys_are_misses() {
    let (address, _) = store(<[u8]>::to_vec);
    let report = bench(&address, "--mix get -n 500 --verify").expect("a result");
    assert_eq!((report.total.misses, report.total.errors), (500, 0));
}

#[test]
fn a_store_that_returns_the_value_of_another_key_is_caught() {
    // Reads of keys that end in 3 find what was written under 4.
    let (address, _) = store(|key| match key.strip_suffix(b"3") {
        Some(start) => [start, b"4"].concat(),
        None => key.to_vec(),
    });
    let line = "--mix get:1,set:1 --keys 100 --preload -n 5000 --verify";
    let report = bench(&address, line).expect("a result");
    let verify = report.verify.as_ref().expect("asked for");
    assert!(verify.mismatches > 0 && verify.verified > verify.mismatches);
    let error = report.verdict().expect_err("values were wrong");
    assert!(error.contains("value of another key"), "{error}");
}

#[test]
fn a_preload_that_meets_errors_stops_the_bench() {
    let address = server::start(|_| Some(b"-OOM full\r\n".to_vec()));
    let error = bench(&address, "--mix get --keys 10 --preload -n 1").expect_err("it is full");
    assert!(error.contains("preload: 10 errors") && error.contains("-OOM full"), "{error}");
}

#[test]
fn a_refused_login_and_a_missing_server_are_clear_errors() {
    let address = server::start(|words| match words {
        [b"AUTH", b"me", b"right"] => Some(b"+OK\r\n".to_vec()),
        [b"AUTH", ..] => Some(b"-WRONGPASS no\r\n".to_vec()),
        _ => Some(b"+PONG\r\n".to_vec()),
    });
    let error = bench(&address, "--user me --password wrong -n 1").expect_err("refused");
    assert!(error.contains("login refused: -WRONGPASS no"), "{error}");
    assert!(bench(&address, "--mix ping --user me --password right -n 1").is_ok());
    let error = bench("127.0.0.1:1", "-n 1").expect_err("nobody listens");
    assert!(error.contains("connecting to 127.0.0.1:1"), "{error}");
}

#[test]
fn a_server_that_breaks_the_protocol_is_named_so() {
    let address = server::start(|_| Some(b"what?\r\n".to_vec()));
    let error = bench(&address, "--mix ping -n 1").expect_err("not RESP");
    assert!(error.contains("malformed reply: unknown type byte"), "{error}");
    let address = server::start(|_| Some(b"+OK\r\n+OK\r\n".to_vec()));
    let error = bench(&address, "--mix ping -n 1000 -c 1").expect_err("one reply too many");
    assert!(error.contains("reply to no request"), "{error}");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let bad = [
        "-n 1 --seconds 1",
        "-n 0",
        "--rate 0",
        "--seconds inf",
        "--keys 0",
        "--mix fly",
        "--user me",
        "--server-pid x",
    ];
    for line in bad {
        assert!(parse(line).is_err(), "{line}");
    }
    for line in ["--threads 3 -c 2", "--verify -d 10", "--pin 99999"] {
        assert!(parse(line).expect("each option alone is good").check().is_err(), "{line}");
    }
    let gone = bench("127.0.0.1:1", "--server-pid 4194304").expect_err("no such process");
    assert!(gone.contains("/proc/4194304/stat"), "{gone}");
}

#[test]
fn the_report_holds_settings_rows_and_processes_but_no_password() {
    let address = server::start(ok);
    let pid = std::process::id();
    let line = format!("--mix ping:1,set:1 -n 1000 --server-pid me={pid} --password hushhush");
    let report = bench(&address, &line).expect("a result");
    let json = serde_json::to_value(&report).expect("it is plain data");
    assert_eq!(json["settings"]["mix"], "ping:1,set:1");
    assert_eq!(json["total"]["requests"], 1_000);
    assert_eq!(json["commands"][1]["command"], "set");
    assert_eq!(json["processes"][0]["label"], "me");
    assert_eq!(json["processes"][1]["label"], "generator");
    let table = report.to_string();
    assert!(table.contains("p99.9 ms") && table.contains("me: "), "{table}");
    assert!(!table.contains("hushhush") && !json.to_string().contains("hushhush"));
}

#[test]
fn a_write_is_done_when_enough_replicas_have_it() {
    let replicas = |has: &'static str| {
        let answer = move |words: &[&[u8]]| match words {
            [b"WAIT", b"2", _] => Some(has.as_bytes().to_vec()),
            [b"WAIT", ..] => None,
            words => ok(words),
        };
        let address = server::start(answer);
        bench(&address, "--mix set --wait 2 --connections 3 --pipeline 4 --requests 300")
    };
    let report = replicas(":2\r\n").expect("it runs");
    assert_eq!((report.total.requests, report.total.errors), (300, 0));
    let report = replicas(":1\r\n").expect("it runs");
    assert_eq!(report.total.errors, 300, "one replica is not two");
}
