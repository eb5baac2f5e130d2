//! RocksDB held to the crash model: a child process that writes numbered batches is killed with
//! SIGKILL, and what is left must be a prefix of its batches that holds every flushed one.
//!
//! The kill leaves the page cache, so this tests the order in which RocksDB makes rows durable and
//! the truth of `flush` and `Tier::Persisted` about it, not the disk's own honesty.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use holdfast_engine::{Batch, Engine, EngineOptions, Lookup, OpenMode, RocksEngine, Tier};

const CHILD_DIR: &str = "HOLDFAST_ENGINE_CRASH_DIR";
const ROUNDS: u64 = 5;
/// Each batch also overwrites one of so many rows.
const SLOTS: u64 = 1000;

fn open(dir: &Path) -> RocksEngine {
    // Memtables of 256 KiB, so that background flushes and compactions are always under way.
    let options = EngineOptions {
        memtable_bytes_total: 1 << 20,
        block_cache_bytes: 8 << 20,
        file_bytes_target: 1 << 20,
        ..Default::default()
    };
    RocksEngine::open(dir, OpenMode::Create, &options).expect("engine opens")
}

fn count(engine: &RocksEngine, tier: Tier) -> u64 {
    match engine.get(b"count", tier).expect("get") {
        Lookup::Found(bytes) => u64::from_be_bytes(bytes.try_into().expect("eight bytes")),
        Lookup::Absent => 0,
        Lookup::Incomplete => panic!("only the cached tier is incomplete"),
    }
}

fn row(number: u64) -> Vec<u8> {
    // Scattered, so that files overlap and compactions have work.
    format!("row{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()
}

fn value(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(16)
}

fn write(engine: &RocksEngine, batch: &mut Batch, number: u64) {
    batch.clear();
    batch.put(b"count", &number.to_be_bytes());
    batch.put(&row(number), &value(number));
    batch.put(format!("slot{}", number % SLOTS).as_bytes(), &number.to_be_bytes());
    engine.write(batch).expect("write");
}

/// The child: writes until it is killed, says after each flush and now and then what is durable.
#[test]
#[ignore = "run as a child process by the test below"]
fn child_writes_numbered_batches() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let engine = open(Path::new(&dir));
    let mut batch = Batch::new();
    for number in count(&engine, Tier::Any) + 1.. {
        write(&engine, &mut batch, number);
        if number % 1733 == 0 {
            engine.flush().expect("flush");
            println!("\ndurable {number}");
        } else if number % 97 == 0 {
            println!("\ndurable {}", count(&engine, Tier::Persisted));
        }
        std::io::stdout().flush().expect("the parent reads");
    }
}

/// Runs the child until it has named so many durable numbers, kills it, returns the highest.
fn run_and_kill(dir: &Path, reports: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("the test binary has a path"))
        .args(["--exact", "child_writes_numbered_batches", "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("child starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut durable = 0;
    let mut seen = 0;
    // The loop ends at the end of the dead child's output: reports in flight count as well.
    for line in lines {
        let line = line.expect("output is text");
        let Some(number) = line.strip_prefix("durable ") else { continue };
        // The last line may be cut off by the kill; a shorter number is a smaller claim.
        durable = durable.max(number.parse().unwrap_or(0));
        seen += 1;
        if seen == reports {
            child.kill().expect("child is killed");
        }
    }
    let status = child.wait().expect("child ends");
    assert!(!status.success() && seen >= reports, "child ended by itself: {status}");
    durable
}

fn check_prefix(engine: &RocksEngine, durable: u64) -> u64 {
    let survived = count(engine, Tier::Any);
    assert!(survived >= durable, "{durable} were durable, {survived} survived");
    for number in 1..=survived {
        let lookup = engine.get(&row(number), Tier::Any).expect("get");
        assert_eq!(lookup, Lookup::Found(value(number)), "batch {number} of {survived}");
    }
    for slot in 0..SLOTS.min(survived) {
        let last = survived - (survived - slot) % SLOTS;
        let lookup = engine.get(format!("slot{slot}").as_bytes(), Tier::Any).expect("get");
        let want =
            if last == 0 { Lookup::Absent } else { Lookup::Found(last.to_be_bytes().to_vec()) };
        assert_eq!(lookup, want, "slot {slot} of {survived}");
    }
    for number in survived + 1..survived + 20_000 {
        let lookup = engine.get(&row(number), Tier::Any).expect("get");
        assert_eq!(lookup, Lookup::Absent, "half of batch {number} survived");
    }
    survived
}

#[test]
fn a_killed_process_leaves_a_prefix_that_holds_every_durable_batch() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = dir.path().join("engine");
    let mut survived = 0;
    for round in 0..ROUNDS {
        let durable = run_and_kill(&path, 60 + 97 * round);
        assert!(durable > survived, "round {round} made nothing durable");
        let engine = open(&path);
        survived = check_prefix(&engine, durable);
        assert_eq!(count(&engine, Tier::Persisted), survived, "all that survived is durable");
        assert!(engine.verify().expect("verify").damage.is_empty());
    }
}
