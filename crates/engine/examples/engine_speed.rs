//! Measures the RocksDB engine: `cargo run --release -p holdfast-engine --example engine_speed`.
//!
//! One million rows of 16-byte keys and 100-byte values, half of each value compressible, loaded in
//! batches of 100 in random key order; then point reads, absent keys and a full scan with a cache
//! that holds everything, and point reads with one that holds an eighth (the page cache serves the
//! rest). Once per block size given as argument (default 4, 8 and 16 KiB) and index layout, one
//! thread.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_engine::{
    Batch, Engine, EngineOptions, Lookup, OpenMode, RocksEngine, Snapshot, Tier,
};

const ROWS: u64 = 1_000_000;
const READS: u64 = 500_000;
const BATCH: u64 = 100;

struct Figures {
    load_rows_per_s: f64,
    worst_batch_ms: f64,
    cached_read_us: f64,
    cached_read_p99_us: f64,
    absent_read_us: f64,
    small_cache_read_us: f64,
    multi_get_us_per_key: f64,
    scan_rows_per_s: f64,
    disk_per_user_byte: f64,
}

fn mix(mut number: u64) -> u64 {
    number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn key(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(number).to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn value(number: u64) -> [u8; 100] {
    let mut value = [b'v'; 100];
    for (place, chunk) in value[..48].chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(number ^ ((place as u64) << 40)).to_be_bytes());
    }
    value
}

fn load(engine: &dyn Engine) -> (Duration, Duration) {
    let mut batch = Batch::new();
    let mut worst = Duration::ZERO;
    let start = Instant::now();
    for first in (0..ROWS).step_by(BATCH as usize) {
        batch.clear();
        for number in first..first + BATCH {
            batch.put(&key(number), &value(number));
        }
        let before = Instant::now();
        engine.write(&batch).expect("write");
        worst = worst.max(before.elapsed());
    }
    engine.flush().expect("flush");
    (start.elapsed(), worst)
}

/// Uniform reads with a cache of an eighth of the rows: mostly a file read, a checksum and LZ4.
fn small_cache_reads(dir: &Path, options: &EngineOptions) -> f64 {
    let options = EngineOptions { block_cache_bytes: 14 << 20, ..options.clone() };
    let engine = RocksEngine::open(dir, OpenMode::Existing, &options).expect("opens");
    let start = Instant::now();
    for number in 0..READS {
        let lookup = engine.get(&key(mix(number) % ROWS), Tier::Any).expect("get");
        assert!(matches!(lookup, Lookup::Found(_)), "{lookup:?}");
    }
    start.elapsed().as_secs_f64() * 1e6 / READS as f64
}

/// Waits until compaction is done, so that reads are measured on a settled tree.
fn settle(engine: &dyn Engine) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = engine.stats();
        if stats.running_compactions == 0 && stats.pending_compaction_bytes == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "compaction does not settle: {stats:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn cached_reads(engine: &dyn Engine) -> (f64, f64) {
    let mut times: Vec<u64> = Vec::with_capacity(READS as usize);
    let start = Instant::now();
    for number in 0..READS {
        let before = Instant::now();
        let lookup = engine.get(&key(mix(number) % ROWS), Tier::Cached).expect("get");
        times.push(before.elapsed().as_nanos() as u64);
        assert!(matches!(lookup, Lookup::Found(_)), "{lookup:?}");
    }
    let mean = start.elapsed().as_secs_f64() * 1e6 / READS as f64;
    times.sort_unstable();
    (mean, times[times.len() * 99 / 100] as f64 / 1e3)
}

fn absent_reads(engine: &dyn Engine) -> f64 {
    let start = Instant::now();
    for number in 0..READS {
        let lookup = engine.get(&key(ROWS + number), Tier::Any).expect("get");
        assert_eq!(lookup, Lookup::Absent);
    }
    start.elapsed().as_secs_f64() * 1e6 / READS as f64
}

fn multi_gets(engine: &dyn Engine) -> f64 {
    let start = Instant::now();
    for number in (0..READS).step_by(10) {
        let keys: Vec<[u8; 16]> = (number..number + 10).map(|n| key(mix(n) % ROWS)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let lookups = engine.multi_get(&keys, Tier::Cached).expect("multi_get");
        assert!(lookups.iter().all(|lookup| matches!(lookup, Lookup::Found(_))));
    }
    start.elapsed().as_secs_f64() * 1e6 / READS as f64
}

fn scan(snapshot: &dyn Snapshot) -> f64 {
    let mut rows = 0u64;
    let start = Instant::now();
    snapshot
        .scan(b"", b"", false, Tier::Any, &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        })
        .expect("scan");
    assert_eq!(rows, ROWS);
    rows as f64 / start.elapsed().as_secs_f64()
}

fn measure(block_bytes: usize, partitioned_indexes: bool) -> Figures {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let options = EngineOptions {
        block_bytes,
        partitioned_indexes,
        block_cache_bytes: 512 << 20,
        ..Default::default()
    };
    let engine = RocksEngine::open(dir.path(), OpenMode::Create, &options).expect("opens");
    let (load, worst_batch) = load(&engine);
    settle(&engine);
    let snapshot = engine.snapshot().expect("snapshot");
    scan(&*snapshot);
    let scan_rows_per_s = scan(&*snapshot);
    // Filters come into the cache by point reads, not by scans.
    for number in 0..ROWS {
        engine.get(&key(number), Tier::Any).expect("get");
    }
    let (cached_read_us, cached_read_p99_us) = cached_reads(&engine);
    let absent_read_us = absent_reads(&engine);
    let multi_get_us_per_key = multi_gets(&engine);
    let table_bytes = engine.stats().table_bytes;
    drop((snapshot, engine));
    Figures {
        load_rows_per_s: ROWS as f64 / load.as_secs_f64(),
        worst_batch_ms: worst_batch.as_secs_f64() * 1e3,
        cached_read_us,
        cached_read_p99_us,
        absent_read_us,
        small_cache_read_us: small_cache_reads(dir.path(), &options),
        multi_get_us_per_key,
        scan_rows_per_s,
        disk_per_user_byte: table_bytes as f64 / (ROWS * 116) as f64,
    }
}

const COLUMNS: [&str; 11] = [
    "block",
    "index",
    "load rows/s",
    "worst batch ms",
    "cached get us",
    "p99 us",
    "absent get us",
    "small cache get us",
    "multi_get us/key",
    "scan rows/s",
    "disk/user byte",
];

fn main() {
    let given: Vec<usize> =
        std::env::args().skip(1).map(|arg| arg.parse().expect("block sizes in bytes")).collect();
    let sizes = if given.is_empty() { vec![4096, 8192, 16384] } else { given };
    println!("| {} |", COLUMNS.join(" | "));
    println!("|{}", "---|".repeat(COLUMNS.len()));
    for (block_bytes, partitioned) in sizes.iter().flat_map(|size| [(*size, true), (*size, false)])
    {
        let figures = measure(block_bytes, partitioned);
        let row = [
            block_bytes.to_string(),
            if partitioned { "partitioned" } else { "whole" }.to_owned(),
            format!("{:.0}", figures.load_rows_per_s),
            format!("{:.1}", figures.worst_batch_ms),
            format!("{:.2}", figures.cached_read_us),
            format!("{:.2}", figures.cached_read_p99_us),
            format!("{:.2}", figures.absent_read_us),
            format!("{:.2}", figures.small_cache_read_us),
            format!("{:.2}", figures.multi_get_us_per_key),
            format!("{:.0}", figures.scan_rows_per_s),
            format!("{:.2}", figures.disk_per_user_byte),
        ];
        println!("| {} |", row.join(" | "));
    }
}
