//! The embedded log under the contract suite, simulated power cuts, flipped bits, failing syncs
//! and full disks; and the suite under planted bugs.

mod begin;
mod damage;
mod faults;
mod fuzz;
mod planted;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use holdfast_base::{Lsn, ShardId, record::Batch};
use holdfast_io::{Disk, RealDisk, SeededRandom, SimDisk};

use super::{EmbeddedLog, EmbeddedOptions, OpenMode, SyncPolicy, verify};
use crate::{
    Log, LogError, ReadError,
    suite::{self, Owner, World, crash_property},
};

/// How a test opens a log, with or without a planted bug.
type OpenLog = fn(Arc<dyn Disk>) -> Result<Arc<dyn Log>, LogError>;

type TestResult = Result<(), Box<dyn std::error::Error>>;

const SHARD: ShardId = ShardId(0);
const KIB: u64 = 1024;

fn options(mode: OpenMode) -> EmbeddedOptions {
    EmbeddedOptions { segment_bytes: 32 * KIB, ..EmbeddedOptions::new("log", mode) }
}

fn open(disk: &SimDisk) -> Result<EmbeddedLog, LogError> {
    open_with(disk, options(OpenMode::Create))
}

fn open_with(disk: &SimDisk, options: EmbeddedOptions) -> Result<EmbeddedLog, LogError> {
    EmbeddedLog::open(Arc::new(disk.clone()), options, &mut SeededRandom::new(77))
}

/// Opens the log for any suite that brings its own disk.
fn open_any(disk: Arc<dyn Disk>) -> Result<Arc<dyn Log>, LogError> {
    let mut options = options(OpenMode::Create);
    options.group_bytes_max = 512 << 10;
    let log = EmbeddedLog::open(disk, options, &mut SeededRandom::new(5))?;
    Ok(Arc::new(log))
}

/// Appends one call of one batch.
fn append(owner: &mut Owner, records: usize, body_bytes: usize) -> Result<Batch, String> {
    let batch = owner.batch(records, body_bytes);
    owner.append(vec![batch.clone()])?;
    Ok(batch)
}

struct RealWorld {
    _folder: tempfile::TempDir,
    disk: Arc<RealDisk>,
    log: Arc<dyn Log>,
}

impl RealWorld {
    fn fresh() -> io::Result<RealWorld> {
        let folder = tempfile::tempdir()?;
        let disk = Arc::new(RealDisk::new(folder.path())?);
        let log = open_any(disk.clone()).map_err(io::Error::other)?;
        Ok(RealWorld { _folder: folder, disk, log })
    }
}

impl World for RealWorld {
    fn log(&self) -> &dyn Log {
        &*self.log
    }

    fn restart(&mut self) -> Result<(), String> {
        self.log = open_any(self.disk.clone()).map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// A log on a simulated disk, opened in a way that may have a planted bug.
struct SimWorld {
    disk: SimDisk,
    random: SeededRandom,
    open: OpenLog,
    log: Arc<dyn Log>,
}

impl SimWorld {
    fn fresh(seed: u64, open: OpenLog) -> Result<SimWorld, LogError> {
        let disk = SimDisk::new();
        let log = open(Arc::new(disk.clone()))?;
        Ok(SimWorld { disk, random: SeededRandom::new(seed), open, log })
    }
}

impl World for SimWorld {
    fn log(&self) -> &dyn Log {
        &*self.log
    }

    fn restart(&mut self) -> Result<(), String> {
        self.disk.crash(&mut self.random);
        self.log = (self.open)(Arc::new(self.disk.clone())).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn fail_next_append(&mut self) -> bool {
        self.disk.fail_sync(".seg", 1);
        true
    }
}

#[test]
fn the_contract_holds_on_a_real_disk() -> Result<(), String> {
    suite::run(&mut || Box::new(RealWorld::fresh().expect("a temporary folder can be made")))
}

#[test]
fn the_contract_holds_on_a_simulated_disk_that_loses_power() -> Result<(), String> {
    for seed in 0..10 {
        let mut fresh = || -> Box<dyn World> {
            Box::new(SimWorld::fresh(seed, open_any).expect("an empty disk takes a log"))
        };
        suite::run(&mut fresh).map_err(|broken| format!("seed {seed}: {broken}"))?;
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_in_3000_simulated_power_cuts() -> Result<(), String> {
    (0..3000).try_for_each(|seed| crash_property(seed, &open_any))
}

#[test]
fn shards_that_submit_together_share_one_write_and_one_sync() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    let mut owners =
        (0..3).map(|shard| Owner::open(&log, ShardId(shard))).collect::<Result<Vec<_>, _>>()?;
    for owner in &mut owners {
        let batch = owner.batch(1, 100);
        owner.session.submit(vec![batch])?;
    }
    let before = disk.counters();
    for owner in &mut owners {
        owner.complete_one()?;
    }
    let after = disk.counters();
    assert_eq!(after.syncs - before.syncs, 1);
    // One write of a header, three batches and padding.
    assert!(after.operations - before.operations <= 1 + 3 + 1 + 1);
    Ok(())
}

#[test]
fn one_append_costs_one_sync_and_whole_sectors() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    let mut owner = Owner::open(&log, SHARD)?;
    for body_bytes in 0..20 {
        let before = disk.counters();
        let batch = append(&mut owner, 1, body_bytes)?;
        let after = disk.counters();
        assert_eq!(after.syncs - before.syncs, 1);
        let overhead = after.bytes_written - before.bytes_written - batch.bytes.len() as u64;
        assert!((32..32 + 512).contains(&overhead), "{overhead}");
        assert_eq!((after.bytes_written - before.bytes_written) % 512, 0);
    }
    let before = disk.counters();
    owner.session.watermark()?;
    owner.session.watermark()?;
    let after = disk.counters();
    assert_eq!((after.syncs - before.syncs, after.bytes_written - before.bytes_written), (1, 512));
    Ok(())
}

#[test]
fn without_syncs_only_when_asked_for() -> TestResult {
    let disk = SimDisk::new();
    let log =
        open_with(&disk, EmbeddedOptions { sync: SyncPolicy::Never, ..options(OpenMode::Create) })?;
    let mut owner = Owner::open(&log, SHARD)?;
    let before = disk.counters().syncs;
    append(&mut owner, 1, 100)?;
    assert_eq!(disk.counters().syncs, before);
    Ok(())
}

#[test]
fn a_read_does_not_scan_a_segment_from_its_start() -> TestResult {
    let disk = SimDisk::new();
    let large = || EmbeddedOptions { segment_bytes: 1 << 20, ..options(OpenMode::Create) };
    let log = open_with(&disk, large())?;
    let mut owner = Owner::open(&log, SHARD)?;
    for _ in 0..200 {
        append(&mut owner, 1, 4000)?;
    }
    drop(owner);
    // The appends made the index; after a restart the walk over the last segment does.
    for _ in 0..2 {
        let log = open_with(&disk, large())?;
        disk.fail_reads(".seg", 4096..500_000);
        assert!(log.read(SHARD, Lsn(1), 100).is_err(), "the start cannot be read");
        for lsn in [160, 180, 200] {
            let read = log.read(SHARD, Lsn(lsn), 100)?;
            assert_eq!(read.records().map(|r| r.lsn).collect::<Vec<_>>(), [Lsn(lsn)]);
        }
        disk.clear_faults();
        disk.kill_process();
    }
    Ok(())
}

#[test]
fn a_trimmed_segment_is_used_again_unless_a_reader_holds_it() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    let mut owner = Owner::open(&log, SHARD)?;
    for _ in 0..4 {
        append(&mut owner, 1, 20 << 10)?;
    }
    let held = log.state.lock().segments.front().cloned().ok_or("no segment")?;
    log.trim(SHARD, Lsn(2))?;
    assert_eq!(log.space().free_bytes, log.state.lock().room, "not reused while it is read");
    assert_eq!(held.file.len()?, 32 * KIB, "still readable");
    log.trim(SHARD, Lsn(3))?;
    assert_eq!(log.space().free_bytes, log.state.lock().room + 32 * KIB);
    // What stands in it from its earlier life must not count, whatever happens.
    append(&mut owner, 1, 20 << 10)?;
    append(&mut owner, 1, 10)?;
    drop((owner, log, held));
    disk.crash(&mut SeededRandom::new(5));
    let log = open(&disk)?;
    assert_eq!((log.bounds(SHARD).first, log.bounds(SHARD).next), (Lsn(3), Lsn(7)));
    assert_eq!(log.read(SHARD, Lsn(3), 1 << 20)?.next(), Lsn(7));
    Ok(())
}

#[test]
fn a_log_trimmed_as_fast_as_it_grows_makes_no_further_reserve() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    let mut owner = Owner::open(&log, SHARD)?;
    for segment in 1..10 {
        log.prepare_reserve()?;
        append(&mut owner, 1, 20 << 10)?;
        log.prepare_reserve()?;
        log.trim(SHARD, owner.next_lsn())?;
        let last = log.state.lock().segments.back().cloned().ok_or("no segment")?;
        assert_eq!(last.header.number, segment);
        assert_eq!(last.header.zeroed, segment <= 2, "segment {segment}");
    }
    assert!(disk.exists("log/reserve")?, "it waits for the day when nothing was trimmed");
    Ok(())
}

#[test]
fn a_shard_that_keeps_its_records_keeps_those_of_others_in_the_same_file() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    let (mut one, mut two) = (Owner::open(&log, SHARD)?, Owner::open(&log, ShardId(1))?);
    for _ in 0..5 {
        append(&mut one, 1, 10 << 10)?;
        append(&mut two, 1, 10 << 10)?;
    }
    assert_eq!(log.trim(SHARD, Lsn(6))?, Lsn(1));
    assert!(log.trim(ShardId(1), Lsn(4))? > Lsn(1));
    assert!(log.bounds(ShardId(1)).first <= Lsn(4));
    assert!(log.bounds(SHARD).first > Lsn(1));
    Ok(())
}

#[test]
fn owners_readers_and_a_trimmer_work_at_the_same_time() -> TestResult {
    const CALLS: usize = 300;
    let folder = tempfile::tempdir()?;
    let disk = Arc::new(RealDisk::new(folder.path())?);
    let log = open_any(disk.clone())?;
    let done = AtomicBool::new(false);
    let (log_ref, done_ref) = (&*log, &done);
    let write = move |shard: u16| -> Result<Lsn, String> {
        let mut owner = Owner::open(log_ref, ShardId(shard))?;
        for call in 0..CALLS {
            append(&mut owner, 1 + call % 3, 300 + call)?;
        }
        Ok(owner.next_lsn())
    };
    let follow = move |shard: u16| -> Result<Lsn, String> {
        let mut next = Lsn(1);
        loop {
            let finished = done_ref.load(Ordering::Acquire);
            match log_ref.read(ShardId(shard), next, 5000) {
                Ok(read) if read.is_empty() && finished => return Ok(next),
                Ok(read) => next = read.next(),
                Err(ReadError::Trimmed(first)) if first > next => next = first,
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let tidy = move || -> Result<(), String> {
        while !done_ref.load(Ordering::Acquire) {
            log_ref.prepare_reserve().map_err(|error| error.to_string())?;
            for shard in 0..3 {
                let below = Lsn(log_ref.bounds(ShardId(shard)).next.0.saturating_sub(40));
                log_ref.trim(ShardId(shard), below).map_err(|error| error.to_string())?;
            }
            std::thread::yield_now();
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<(), String> {
        let writers: Vec<_> = (0..3).map(|shard| scope.spawn(move || write(shard))).collect();
        let readers: Vec<_> = (0..3).map(|shard| scope.spawn(move || follow(shard))).collect();
        let tidier = scope.spawn(tidy);
        let join = |result: std::thread::Result<Result<Lsn, String>>| {
            result.unwrap_or_else(|_| Err("a thread panicked".to_owned()))
        };
        let written: Vec<_> = writers.into_iter().map(|thread| join(thread.join())).collect();
        done.store(true, Ordering::Release);
        let followed: Vec<_> = readers.into_iter().map(|thread| join(thread.join())).collect();
        tidier.join().unwrap_or_else(|_| Err("a thread panicked".to_owned()))?;
        assert_eq!(followed, written);
        assert!(written.iter().all(|next| *next == Ok(Lsn(1 + 2 * CALLS as u64))));
        Ok(())
    })?;
    drop(log);
    assert_eq!(verify(&*disk, "log")?.problems, []);
    Ok(())
}
