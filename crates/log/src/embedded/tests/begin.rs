//! A log that begins in the middle is a whole log: it goes on, survives crashes and verifies.

use holdfast_base::{Epoch, Hlc, Incarnation};

use super::*;
use crate::embedded::{Begin, begin_after};

const BEGIN: Begin =
    Begin { after: Lsn(700), epoch: Epoch(9), n: 41, time: Hlc(5 << 16), chain: 0xabcd };

fn begun(disk: &SimDisk, seed: u64) -> Result<Incarnation, LogError> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let options = options(OpenMode::Create);
    begin_after(&shared, &options, SHARD, BEGIN, &mut SeededRandom::new(seed))
}

#[test]
fn it_goes_on_behind_the_position_that_it_was_given() -> TestResult {
    let disk = SimDisk::new();
    let incarnation = begun(&disk, 1)?;
    assert_eq!(verify(&disk, "log")?.problems, []);
    // All that was promised before the first record stands although the power fails.
    disk.crash(&mut SeededRandom::new(2));
    let mut claims = options(OpenMode::Existing);
    claims.engine_claims = [(SHARD, BEGIN.after)].into();
    let log = open_with(&disk, claims)?;
    let bounds = log.bounds(SHARD);
    assert_eq!((bounds.first, bounds.next), (Lsn(701), Lsn(701)));
    assert_eq!(bounds.incarnation, incarnation);
    assert!(matches!(log.read(SHARD, Lsn(700), 1), Err(ReadError::Trimmed(Lsn(701)))));
    assert!(log.read(SHARD, Lsn(701), 1)?.is_empty());
    let (_session, position) = log.open_session(SHARD)?;
    assert_eq!((position.next_lsn, position.chain), (Lsn(701), BEGIN.chain));
    assert!(position.epoch > BEGIN.epoch && position.last_time == BEGIN.time);

    let shared: Arc<dyn Log> = Arc::new(log);
    let mut owner = Owner::open(&*shared, SHARD)?;
    let batch = append(&mut owner, 3, 100)?;
    assert_eq!(batch.header.first_lsn, Lsn(701));
    drop((owner, _session, shared));
    disk.crash(&mut SeededRandom::new(3));
    let log = open_with(&disk, options(OpenMode::Existing))?;
    let read = log.read(SHARD, Lsn(701), 1 << 20)?;
    assert_eq!(read.as_bytes(), batch.bytes);
    assert_eq!(verify(&disk, "log")?.problems, []);
    Ok(())
}

#[test]
fn each_beginning_is_another_life() -> TestResult {
    let lives = [begun(&SimDisk::new(), 1)?, begun(&SimDisk::new(), 2)?];
    assert_ne!(lives[0], lives[1]);
    Ok(())
}

#[test]
fn it_never_begins_over_another_log() -> TestResult {
    let disk = SimDisk::new();
    drop(open(&disk)?);
    assert!(matches!(begun(&disk, 1), Err(LogError::Invalid(_))));
    Ok(())
}

#[test]
fn the_bytes_from_a_position_are_those_of_the_segments_that_hold_it() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    let shared: Arc<dyn Log> = Arc::new(log.clone());
    let mut owner = Owner::open(&*shared, SHARD)?;
    let mut lsns = Vec::new();
    for _ in 0..30 {
        lsns.push(append(&mut owner, 1, 5_000)?.header.first_lsn);
    }
    let left: Vec<u64> = lsns.iter().map(|lsn| log.bytes_from(SHARD, *lsn)).collect();
    assert!(left.is_sorted_by(|a, b| a >= b), "{left:?}");
    assert!(left[0] >= 30 * 5_000, "{left:?}");
    assert!(left[29] < 32 * KIB, "{left:?}");
    Ok(())
}

#[test]
fn a_power_cut_at_any_moment_leaves_a_whole_log_or_none() -> TestResult {
    let (mut whole, mut none) = (0, 0);
    for operations in 0.. {
        let disk = SimDisk::new();
        disk.power_off_after(operations);
        let finished = begun(&disk, 1).is_ok();
        disk.crash(&mut SeededRandom::new(operations));
        match open_with(&disk, options(OpenMode::Existing)) {
            Ok(log) => {
                assert_eq!(log.bounds(SHARD).next, Lsn(701), "after {operations} operations");
                whole += 1;
            }
            Err(LogError::Missing(_)) if !finished => none += 1,
            Err(error) => return Err(format!("after {operations} operations: {error}").into()),
        }
        if finished {
            break;
        }
    }
    assert!(whole > 0 && none > 0, "{whole} whole, {none} none");
    Ok(())
}
