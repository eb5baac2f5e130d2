//! Damaged and missing files: reported with their place, never served, never shortened silently.

use std::collections::BTreeMap;

use holdfast_base::{ErrorKind, Lsn, ShardId};
use holdfast_io::{DIRECT_ALIGN, Disk, Random, SeededRandom, SimDisk};

use super::{EmbeddedLog, SHARD, TestResult, append, open, open_with, options};
use crate::{
    Corruption, Log, LogError, OpenMode, ReadError,
    embedded::{Report, verify},
    suite::Owner,
};

/// A log of several segments on a fresh disk, its bytes by shard, and the files' names.
struct Built {
    disk: SimDisk,
    written: BTreeMap<ShardId, Vec<u8>>,
    next: Lsn,
}

fn build(watermark: bool) -> Result<Built, Box<dyn std::error::Error>> {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    let mut written = BTreeMap::new();
    let mut owners = [Owner::open(&log, SHARD)?, Owner::open(&log, ShardId(4))?];
    for call in 0..40 {
        for owner in &mut owners {
            let batch = append(owner, 1 + call % 3, 200 + 37 * call)?;
            written.entry(owner.shard()).or_insert_with(Vec::new).extend(batch.bytes);
        }
    }
    if watermark {
        owners[0].session.watermark()?;
    }
    let next = owners[0].next_lsn();
    drop((owners, log));
    disk.kill_process();
    Ok(Built { disk, written, next })
}

/// Everything in the log, from its first position on.
fn read_all(log: &EmbeddedLog) -> Result<BTreeMap<ShardId, Vec<u8>>, ReadError> {
    let mut all = BTreeMap::new();
    for shard in log.shards() {
        let bounds = log.bounds(shard);
        let mut next = bounds.first;
        let bytes = all.entry(shard).or_insert_with(Vec::new);
        while next < bounds.next {
            let read = log.read(shard, next, 3000)?;
            next = read.next();
            bytes.extend_from_slice(read.as_bytes());
        }
    }
    Ok(all)
}

fn segments(disk: &SimDisk) -> Vec<String> {
    let names = disk.list("log").expect("the log's folder is there");
    let segments = names.into_iter().filter(|name| name.ends_with(".seg"));
    segments.map(|name| format!("log/{name}")).collect()
}

/// What opening and reading everything gives; damage found on either way.
fn open_and_read(disk: &SimDisk) -> Result<BTreeMap<ShardId, Vec<u8>>, Corruption> {
    match open(disk).map(|log| read_all(&log)) {
        Ok(Ok(all)) => Ok(all),
        Err(LogError::Corrupt(corruption)) | Ok(Err(ReadError::Corrupt(corruption))) => {
            Err(corruption)
        }
        Err(other) => panic!("{other}"),
        Ok(Err(other)) => panic!("{other}"),
    }
}

#[test]
fn every_flipped_bit_is_reported_or_harmless() -> TestResult {
    let seed = 11;
    let mut random = SeededRandom::new(seed);
    let (mut reported, mut harmless) = (0, 0);
    for round in 0..1500 {
        let Built { disk, written, .. } = build(true)?;
        let mut files = segments(&disk);
        files.push("log/identity".to_owned());
        let path = random.pick(&files).expect("a log has files").clone();
        let byte = random.below(disk.open_read(&path)?.len()?);
        disk.flip_bit(&path, byte, random.below(8) as u8)?;
        let context = format!("seed {seed}, round {round}: {path} byte {byte}");
        let before = disk.digest();
        let report = verify(&disk, "log")?;
        assert_eq!(disk.digest(), before, "{context}: the check changed something");
        match open_and_read(&disk) {
            Ok(all) => {
                assert_eq!(all, written, "{context}: silently changed");
                assert!(report.is_sound(), "{context}: {:?}", report.problems);
                harmless += 1;
            }
            Err(corruption) => {
                assert_eq!(corruption.file, path, "{context}");
                assert!(!report.is_sound(), "{context}: the check saw nothing");
                reported += 1;
            }
        }
    }
    // The four segments are mostly full: most places matter, the last one's rest does not.
    assert!(reported > 800 && harmless > 50, "{reported} reported, {harmless} harmless");
    Ok(())
}

#[test]
fn a_refused_open_changes_nothing_on_the_disk() -> TestResult {
    let Built { disk, .. } = build(true)?;
    let last = segments(&disk).pop().expect("a log has a segment");
    disk.flip_bit(&last, 4096 + 40, 3)?;
    let before = disk.digest();
    let refused = open(&disk).err().expect("damage before a valid group is no torn write");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.to_string().contains(&format!("{last} at byte 4096")), "{refused}");
    assert_eq!(disk.digest(), before);
    Ok(())
}

/// The published residual: without a watermark, damage to the last group looks like a torn write.
#[test]
fn damage_to_the_last_group_is_taken_for_torn_only_without_a_watermark() -> TestResult {
    for watermark in [false, true] {
        let Built { disk, next, .. } = build(watermark)?;
        let sound = verify(&disk, "log")?;
        let last = segments(&disk).pop().expect("a log has a segment");
        // The last batch is of the other shard, written just before the end.
        let len = disk.open_read(&last)?.len()?;
        let mut bytes = vec![0; len as usize];
        disk.open_read(&last)?.read_exact_at(&mut bytes, 0)?;
        if watermark {
            // It stands alone in the last sector that holds anything.
            let last = bytes.iter().rposition(|byte| *byte != 0).expect("it has groups");
            bytes.truncate(last - last % DIRECT_ALIGN);
        }
        let end = bytes.iter().rposition(|byte| *byte != 0).expect("it has groups");
        let byte = end - 100;
        disk.flip_bit(&last, byte as u64, 0)?;
        let report = verify(&disk, "log")?;
        let opened = open(&disk);
        if watermark {
            assert!(!report.is_sound());
            assert!(matches!(opened, Err(LogError::Corrupt(_))));
            continue;
        }
        assert!(report.is_sound() && report.torn.is_some_and(|(path, _)| path == last));
        assert_eq!(report.groups, sound.groups - 1);
        let log = opened?;
        assert_eq!(log.bounds(SHARD).next, next);
        let other = sound.shards.get(&ShardId(4)).expect("it was written to");
        assert!(log.bounds(ShardId(4)).next < other.next);
        // With the engine's claim even this is seen.
        drop(log);
        disk.kill_process();
        let mut claiming = options(OpenMode::Existing);
        claiming.engine_claims.insert(ShardId(4), Lsn(other.next.0 - 1));
        assert!(matches!(open_with(&disk, claiming), Err(LogError::Corrupt(_))));
    }
    Ok(())
}

#[test]
fn missing_files_are_reported_by_name() -> TestResult {
    let Built { disk, .. } = build(true)?;
    let all = segments(&disk);
    assert!(all.len() >= 4, "{all:?}");
    disk.remove(&all[1])?;
    let gap = open(&disk).err().expect("a gap is no log").to_string();
    assert!(gap.contains("segment 2 is missing"), "{gap}");
    assert!(!verify(&disk, "log")?.is_sound());

    let Built { disk, .. } = build(true)?;
    disk.remove("log/identity")?;
    let refused = open(&disk).err().expect("nobody knows whose segments these are");
    assert!(refused.to_string().contains("log/identity"), "{refused}");
    assert!(!verify(&disk, "log")?.is_sound());

    let Built { disk, .. } = build(true)?;
    for path in segments(&disk) {
        disk.remove(&path)?;
    }
    assert!(matches!(open(&disk), Err(LogError::Corrupt(_))));
    assert!(!verify(&disk, "log")?.is_sound());
    Ok(())
}

#[test]
fn a_missing_end_is_seen_by_what_the_engine_claims() -> TestResult {
    let Built { disk, next, .. } = build(true)?;
    let last = segments(&disk).pop().expect("a log has a segment");
    disk.remove(&last)?;
    let mut claiming = options(OpenMode::Existing);
    claiming.engine_claims.insert(SHARD, Lsn(next.0 - 1));
    let refused = open_with(&disk, claiming.clone()).err().expect("the engine has more");
    assert!(matches!(&refused, LogError::Corrupt(_)), "{refused}");

    let Built { disk, .. } = build(true)?;
    open_with(&disk, claiming.clone())?;
    let empty = SimDisk::new();
    claiming.mode = OpenMode::Create;
    assert!(matches!(open_with(&empty, claiming), Err(LogError::Corrupt(_))));
    assert!(matches!(open_with(&empty, options(OpenMode::Existing)), Err(LogError::Missing(_))));
    assert_eq!(empty.list("")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_segment_of_another_log_is_refused() -> TestResult {
    let Built { disk, .. } = build(true)?;
    let last = segments(&disk).pop().expect("a log has a segment");
    // The same history under another identity.
    let other = SimDisk::new();
    EmbeddedLog::open(
        std::sync::Arc::new(other.clone()),
        options(OpenMode::Create),
        &mut SeededRandom::new(78),
    )?;
    let mut header = vec![0; 4096];
    other.open_read("log/0000000000000001.seg")?.read_exact_at(&mut header, 0)?;
    disk.open(&last)?.write_at(&header, 0)?;
    let refused = open(&disk).err().expect("it is not of this log").to_string();
    assert!(refused.contains("it is segment 1 of log"), "{refused}");
    Ok(())
}

#[test]
fn a_check_counts_what_is_there() -> TestResult {
    let Built { disk, written, next } = build(true)?;
    let Report { segments: files, groups, watermarks, batches, records, shards, torn, .. } =
        verify(&disk, "log")?;
    assert_eq!((groups, watermarks, batches, torn), (81, 1, 80, None));
    assert_eq!(files, segments(&disk).len() as u64);
    assert_eq!(shards.keys().copied().collect::<Vec<_>>(), written.into_keys().collect::<Vec<_>>());
    let held: u64 = shards.values().map(|shard| shard.next.0 - shard.first.0).sum();
    assert_eq!(held, records);
    assert_eq!(shards.get(&SHARD).map(|shard| shard.next), Some(next));
    Ok(())
}
