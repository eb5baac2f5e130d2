//! Plain RocksDB, without the node and without our engine: the peer of a node whose data is larger than memory.
//!
//! `raw_reads DIR KEYS VALUE_BYTES MEMORY_BYTES SECONDS THREADS...` fills an empty folder with rows
//! shaped like the node's (hashed key in front, values that hardly compress), waits until compaction
//! has caught up, then reads evenly at random, once for each number of threads. The whole memory goes to
//! RocksDB: an eighth to memtables, the rest to the block cache. Set up as RocksDB's own guide for point
//! reads says, not as `rocks/tuning.rs` does, so that a mistake there would show.
//! Progress goes to standard error, one JSON line with all figures to standard output.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WriteBatch,
    WriteOptions, properties,
};

const BATCH_ROWS: u64 = 100;
const RING_BYTES: usize = 64 << 10;
const SETTLE: Duration = Duration::from_secs(900);

struct Plan {
    keys: u64,
    value_bytes: usize,
    memory_bytes: usize,
    seconds: f64,
}

/// What the threads of one run measured together.
struct Reads {
    threads: usize,
    seconds: f64,
    /// Nanoseconds of each read, in order of length.
    latencies_ns: Vec<u32>,
    device: Device,
}

/// What a device gave.
struct Device {
    /// Bytes that this process made the kernel fetch.
    bytes: u64,
    /// Reads that the device served, for whomever; none if the file system is not on one device.
    reads: Option<u64>,
}

/// SplitMix64's finaliser: spreads numbers evenly, the same way in every run.
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// As a head row of the node: family, shard, slot and keyspace, a hash, then the client's key.
fn key(number: u64) -> Vec<u8> {
    let mut key = vec![1, 0, 0, 0, 0, 0, 0];
    key.extend_from_slice(&mix(number).to_be_bytes());
    key.extend_from_slice(format!("key:{number:012}").as_bytes());
    key
}

/// Letters and digits, as `holdfast bench` writes them: a store that compresses gains little.
fn ring() -> Vec<u8> {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..RING_BYTES as u64).map(|at| letters[(mix(at) >> 58) as usize]).collect()
}

fn options(plan: &Plan) -> Options {
    let memtables = plan.memory_bytes / 8;
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_hyper_clock_cache(plan.memory_bytes - memtables, 0));
    table.set_block_size(8 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_format_version(6);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_error_if_exists(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(memtables / 4);
    options.set_max_write_buffer_number(4);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

fn fill(db: &DB, plan: &Plan) -> Result<(), rocksdb::Error> {
    let ring = ring();
    let mut without_wal = WriteOptions::default();
    without_wal.disable_wal(true);
    for first in (0..plan.keys).step_by(BATCH_ROWS as usize) {
        let mut batch = WriteBatch::default();
        for number in first..plan.keys.min(first + BATCH_ROWS) {
            let at = mix(!number) as usize % (RING_BYTES - plan.value_bytes);
            batch.put(key(number), &ring[at..at + plan.value_bytes]);
        }
        db.write_opt(batch, &without_wal)?;
    }
    db.flush()
}

fn settle(db: &DB) -> Result<(), rocksdb::Error> {
    let until = Instant::now() + SETTLE;
    let busy = [
        properties::COMPACTION_PENDING,
        properties::NUM_RUNNING_COMPACTIONS,
        properties::NUM_RUNNING_FLUSHES,
    ];
    while busy.iter().try_fold(0, |sum, what| {
        db.property_int_value(*what).map(|value| sum + value.unwrap_or(0))
    })? > 0
    {
        assert!(Instant::now() < until, "compaction has not caught up within {SETTLE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

impl Device {
    /// All so far, on the device under `dir`.
    fn now(dir: &Path) -> Device {
        let io = std::fs::read_to_string("/proc/self/io").expect("/proc is mounted");
        let bytes = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
        let bytes = bytes.and_then(|number| number.parse().ok()).expect("as proc_pid_io(5) says");
        let number = std::fs::metadata(dir).expect("the folder is ours").dev();
        let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
        let counts = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"));
        let reads = counts.ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
        Device { bytes, reads }
    }

    fn since(self, before: Device) -> Device {
        let reads = self.reads.zip(before.reads).map(|(now, before)| now - before);
        Device { bytes: self.bytes - before.bytes, reads }
    }
}

/// Reads for a quarter of the time without counting, then counts.
fn read(db: &DB, plan: &Plan, threads: usize) -> Reads {
    let (counting, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn({
                    let (counting, ended) = (&counting, &ended);
                    move || reader(db, plan, thread as u64, counting, ended)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs_f64(plan.seconds / 4.0));
        let (before, began) = (Device::now(db.path()), Instant::now());
        counting.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs_f64(plan.seconds));
        ended.store(true, Ordering::Relaxed);
        let seconds = began.elapsed().as_secs_f64();
        let device = Device::now(db.path()).since(before);
        let joined = readers.into_iter().map(|reader| reader.join().expect("no reader panics"));
        let mut latencies_ns: Vec<u32> = joined.flatten().collect();
        latencies_ns.sort_unstable();
        Reads { threads, seconds, latencies_ns, device }
    })
}

fn reader(
    db: &DB,
    plan: &Plan,
    thread: u64,
    counting: &AtomicBool,
    ended: &AtomicBool,
) -> Vec<u32> {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    let mut latencies_ns = Vec::new();
    for count in 0.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let number = mix(mix(thread + 1) ^ count) % plan.keys;
        let before = Instant::now();
        let found = db.get_pinned_opt(key(number), &options).expect("the read works");
        assert!(found.is_some_and(|value| value.len() == plan.value_bytes), "key {number} is lost");
        if counting.load(Ordering::Relaxed) {
            latencies_ns.push(u32::try_from(before.elapsed().as_nanos()).unwrap_or(u32::MAX));
        }
    }
    latencies_ns
}

impl Reads {
    fn json(&self) -> String {
        let gets = self.latencies_ns.len().max(1);
        let at = |share: f64| {
            let place = ((gets - 1) as f64 * share) as usize;
            f64::from(self.latencies_ns.get(place).copied().unwrap_or(0)) / 1e6
        };
        let reads = self
            .device
            .reads
            .map_or("null".to_owned(), |reads| format!("{:.3}", reads as f64 / gets as f64));
        format!(
            "{{\"threads\": {}, \"per_second\": {:.0}, \"p50_ms\": {:.4}, \"p99_ms\": {:.4}, \
             \"max_ms\": {:.3}, \"device_bytes_per_get\": {}, \"device_reads_per_get\": {}}}",
            self.threads,
            gets as f64 / self.seconds,
            at(0.5),
            at(0.99),
            at(1.0),
            self.device.bytes / gets as u64,
            reads
        )
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [dir, keys, value_bytes, memory_bytes, seconds, threads @ ..] = words.as_slice() else {
        return Err("raw_reads DIR KEYS VALUE_BYTES MEMORY_BYTES SECONDS THREADS...".into());
    };
    let plan = Plan {
        keys: keys.parse()?,
        value_bytes: value_bytes.parse()?,
        memory_bytes: memory_bytes.parse()?,
        seconds: seconds.parse()?,
    };
    if plan.value_bytes >= RING_BYTES {
        return Err(format!("VALUE_BYTES must be below {RING_BYTES}").into());
    }
    let db = DB::open(&options(&plan), Path::new(dir))?;
    let began = Instant::now();
    fill(&db, &plan)?;
    let fill_seconds = began.elapsed().as_secs_f64();
    eprintln!("raw RocksDB: {} rows in {fill_seconds:.0} s", plan.keys);
    settle(&db)?;
    let settle_seconds = began.elapsed().as_secs_f64() - fill_seconds;
    let mut reads = Vec::new();
    for count in threads {
        let run = read(&db, &plan, count.parse()?).json();
        eprintln!("raw RocksDB: {run}");
        reads.push(run);
    }
    let table_bytes = db.property_int_value(properties::TOTAL_SST_FILES_SIZE)?.unwrap_or(0);
    println!(
        "{{\"fill_seconds\": {fill_seconds:.1}, \"settle_seconds\": {settle_seconds:.1}, \
         \"table_bytes\": {table_bytes}, \"reads\": [{}]}}",
        reads.join(", ")
    );
    Ok(())
}
