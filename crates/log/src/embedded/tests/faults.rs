//! Failing syncs, full disks and processes that die in between.

use std::sync::Arc;

use holdfast_base::{Lsn, ShardId};
use holdfast_io::{Disk, Random, SeededRandom, SimDisk};

use super::{KIB, SHARD, TestResult, append, open, open_with, options, verify};
use crate::{Log, LogError, OpenMode, Outcome, Refused, suite::Owner};

/// Submits one call and gives its outcome.
fn outcome(owner: &mut Owner, body_bytes: usize) -> Result<Outcome, Refused> {
    let batch = owner.batch(1, body_bytes);
    owner.session.submit(vec![batch])?;
    Ok(owner.session.complete().expect("a call is in flight").outcome)
}

#[test]
fn after_a_failed_sync_the_log_goes_on_in_a_fresh_segment() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    let (mut owner, mut other) = (Owner::open(&log, SHARD)?, Owner::open(&log, ShardId(1))?);
    append(&mut owner, 1, 100)?;
    append(&mut other, 1, 100)?;
    disk.fail_sync(".seg", 1);
    let next = log.bounds(SHARD).next;
    assert!(matches!(outcome(&mut owner, 100), Ok(Outcome::Unknown(_))));
    assert_eq!(log.bounds(SHARD).next, next, "readers see nothing of it");
    assert!(matches!(outcome(&mut owner, 100), Err(Refused::Poisoned(_))));
    assert!(matches!(outcome(&mut other, 100), Err(Refused::Poisoned(_))), "they share the file");
    let syncs = disk.counters().syncs;
    assert!(other.session.watermark().is_ok(), "nothing is to be said of a failed file");
    assert_eq!(disk.counters().syncs, syncs, "and it is never synced again");
    let mut owner = Owner::open(&log, SHARD)?;
    assert_eq!(owner.next_lsn(), next);
    assert_eq!(disk.list("log")?.iter().filter(|name| name.ends_with(".seg")).count(), 2);
    append(&mut owner, 1, 100)?;
    drop((owner, other, log));
    disk.crash(&mut SeededRandom::new(1));
    let log = open(&disk)?;
    assert_eq!(log.bounds(SHARD).next, next.next());
    assert_eq!(log.read(SHARD, Lsn(1), 1 << 20)?.next(), next.next());
    Ok(())
}

#[test]
fn what_a_failed_sync_left_in_the_page_cache_alone_is_written_again() -> TestResult {
    for (seed, watermark) in (0..40).map(|seed| (seed, seed % 2 == 0)) {
        let disk = SimDisk::new();
        let log = open(&disk)?;
        let mut owner = Owner::open(&log, SHARD)?;
        append(&mut owner, 1, 900)?;
        disk.fail_sync(".seg", 1);
        if watermark {
            assert!(owner.session.watermark().is_err());
        } else {
            assert!(matches!(outcome(&mut owner, 900), Ok(Outcome::Unknown(_))));
        }
        drop((owner, log));
        disk.kill_process();
        // The next process sees what the medium lacks; from then on it must be there.
        let log = open(&disk)?;
        let next = log.bounds(SHARD).next;
        assert_eq!(next, if watermark { Lsn(2) } else { Lsn(3) });
        let mut owner = Owner::open(&log, SHARD)?;
        append(&mut owner, 1, 10)?;
        drop((owner, log));
        disk.crash(&mut SeededRandom::new(seed));
        let log = open(&disk)?;
        assert_eq!(log.bounds(SHARD).next, next.next(), "seed {seed}");
        assert_eq!(log.read(SHARD, Lsn(1), 1 << 20)?.next(), next.next(), "seed {seed}");
    }
    Ok(())
}

#[test]
fn a_reserve_whose_sync_failed_is_given_up() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    let mut owner = Owner::open(&log, SHARD)?;
    append(&mut owner, 1, 100)?;
    disk.fail_sync("reserve", 1);
    assert!(matches!(log.prepare_reserve(), Err(LogError::Io(_))));
    assert_eq!(disk.list("log")?, ["0000000000000001.seg", "identity"]);
    append(&mut owner, 1, 100)?;
    log.prepare_reserve()?;
    // The header of the next segment cannot be synced: nothing of the call was written.
    disk.fail_sync("reserve", 1);
    append(&mut owner, 1, 20 << 10)?;
    assert!(matches!(outcome(&mut owner, 20 << 10), Err(Refused::Poisoned(_))));
    let next = log.bounds(SHARD).next;
    let mut owner = Owner::open(&log, SHARD)?;
    assert_eq!(owner.next_lsn(), next);
    append(&mut owner, 1, 20 << 10)?;
    drop((owner, log));
    disk.crash(&mut SeededRandom::new(1));
    assert_eq!(open(&disk)?.bounds(SHARD).next, next.next());
    Ok(())
}

#[test]
fn after_a_failed_sync_of_the_folder_only_opening_again_helps() -> TestResult {
    for seed in 0..20 {
        let disk = SimDisk::new();
        let log = open(&disk)?;
        let mut owner = Owner::open(&log, SHARD)?;
        append(&mut owner, 1, 20 << 10)?;
        log.prepare_reserve()?;
        // The second sync with this in its path is the folder's, behind that of the header.
        disk.fail_sync("log", 2);
        assert!(matches!(outcome(&mut owner, 20 << 10), Err(Refused::Poisoned(_))));
        assert!(Owner::open(&log, SHARD).is_err_and(|error| error.contains("restart")));
        assert!(log.prepare_reserve().is_err());
        assert_eq!(log.read(SHARD, Lsn(1), 100)?.next(), Lsn(2), "reads go on");
        drop((owner, log));
        disk.kill_process();
        let log = open(&disk)?;
        let mut owner = Owner::open(&log, SHARD)?;
        append(&mut owner, 1, 100)?;
        drop((owner, log));
        disk.crash(&mut SeededRandom::new(seed));
        assert_eq!(open(&disk)?.bounds(SHARD).next, Lsn(3), "seed {seed}");
    }
    Ok(())
}

/// Appends what fills a segment of these tests by more than half.
fn fill_segments(owner: &mut Owner, count: usize) -> TestResult {
    (0..count).try_for_each(|_| append(owner, 1, 20 << 10).map(|_| ()))?;
    Ok(())
}

#[test]
fn a_segment_trimmed_while_the_folder_could_not_be_synced_stays_away() -> TestResult {
    // The first trimmed segment is kept to be used again, the next one is removed.
    for (seed, kept) in (0..40).map(|seed| (seed, seed % 2)) {
        let disk = SimDisk::new();
        let log = open(&disk)?;
        let mut owner = Owner::open(&log, SHARD)?;
        fill_segments(&mut owner, 6)?;
        log.trim(SHARD, Lsn(1 + kept))?;
        assert_eq!(disk.exists("log/trimmed")?, kept == 1);
        disk.fail_sync("log", 1);
        assert!(log.trim(SHARD, Lsn(2 + kept)).is_err(), "the sync of the folder fails");
        let again = log.trim(SHARD, Lsn(3 + kept));
        assert!(again.is_err_and(|error| error.to_string().contains("restart")));
        drop((owner, log));
        disk.kill_process();
        let log = open(&disk)?;
        let mut owner = Owner::open(&log, SHARD)?;
        assert!(log.trim(SHARD, Lsn(4 + kept))? > Lsn(2 + kept));
        append(&mut owner, 1, 100)?;
        let next = owner.next_lsn();
        drop((owner, log));
        disk.crash(&mut SeededRandom::new(seed));
        let log = open(&disk).map_err(|error| format!("seed {seed}: {error}"))?;
        assert_eq!(log.bounds(SHARD).next, next, "seed {seed}");
        assert_eq!(log.read(SHARD, Lsn(4 + kept), 1 << 20)?.next(), next, "seed {seed}");
    }
    Ok(())
}

#[test]
fn a_reserve_that_could_not_be_made_larger_serves_as_it_was() -> TestResult {
    for seed in 0..40 {
        let disk = SimDisk::new();
        let log = open(&disk)?;
        let mut owner = Owner::open(&log, SHARD)?;
        append(&mut owner, 1, 100)?;
        log.prepare_reserve()?;
        disk.fail_sync("reserve", 1);
        assert!(matches!(outcome(&mut owner, 300 << 10), Err(Refused::Poisoned(_))));
        drop((owner, log));
        disk.kill_process();
        let log = open(&disk)?;
        let mut owner = Owner::open(&log, SHARD)?;
        fill_segments(&mut owner, 4)?;
        let next = owner.next_lsn();
        drop((owner, log));
        disk.crash(&mut SeededRandom::new(seed));
        let log = open(&disk).map_err(|error| format!("seed {seed}: {error}"))?;
        assert_eq!(log.bounds(SHARD).next, next, "seed {seed}");
        assert_eq!(log.read(SHARD, Lsn(1), 1 << 20)?.next(), next, "seed {seed}");
    }
    Ok(())
}

#[test]
fn a_log_whose_own_name_could_not_be_synced_keeps_what_is_acknowledged_later() -> TestResult {
    for seed in 0..20 {
        let disk = SimDisk::new();
        // Behind identity, segment and the folder in the making: the folder that holds the log.
        disk.fail_sync("", 4);
        assert!(matches!(open(&disk), Err(LogError::Io(_))));
        disk.kill_process();
        let log = open(&disk)?;
        append(&mut Owner::open(&log, SHARD)?, 1, 100)?;
        drop(log);
        disk.crash(&mut SeededRandom::new(seed));
        let log = open_with(&disk, options(OpenMode::Existing))
            .map_err(|error| format!("seed {seed}: {error}"))?;
        assert_eq!(log.bounds(SHARD).next, Lsn(2), "seed {seed}");
    }
    Ok(())
}

#[test]
fn an_empty_log_stays_the_same_whenever_an_opening_is_cut_short() -> TestResult {
    let mut moved = 0;
    for (moment, seed) in (0..16).flat_map(|moment| (0..8).map(move |seed| (moment, seed))) {
        let disk = SimDisk::new();
        let id = open(&disk)?.id();
        disk.kill_process();
        disk.power_off_after(moment);
        let _cut_short = open(&disk);
        disk.crash(&mut SeededRandom::new(seed));
        moved += u64::from(!disk.exists("log")?);
        let log = open_with(&disk, options(OpenMode::Existing))
            .map_err(|error| format!("moment {moment}, seed {seed}: {error}"))?;
        assert_eq!(log.id(), id, "moment {moment}, seed {seed}");
    }
    assert!(moved > 0, "no cut fell between the two names of the folder");
    Ok(())
}

#[test]
fn an_interrupted_renewal_of_a_name_is_finished() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    append(&mut Owner::open(&log, SHARD)?, 1, 100)?;
    drop(log);
    disk.rename("log/0000000000000001.seg", "log/0000000000000001.seg.again")?;
    let report = verify(&disk, "log")?;
    assert!(report.start_cut_short && report.is_sound() && report.records == 1, "{report:?}");
    assert_eq!(open(&disk)?.bounds(SHARD).next, Lsn(2));
    assert!(disk.exists("log/0000000000000001.seg")?);
    assert!(!verify(&disk, "log")?.start_cut_short);
    Ok(())
}

#[test]
fn every_moment_of_a_power_cut_while_opening_leaves_a_log_that_opens() -> TestResult {
    let mut displaced = 0;
    for (moment, seed) in (0..40).flat_map(|moment| [(moment, moment), (moment, 1000 + moment)]) {
        let disk = SimDisk::new();
        let log = open(&disk)?;
        let mut owner = Owner::open(&log, SHARD)?;
        fill_segments(&mut owner, 4)?;
        log.trim(SHARD, Lsn(3))?;
        let (first, next) = (log.bounds(SHARD).first, owner.next_lsn());
        drop((owner, log));
        disk.kill_process();
        disk.power_off_after(moment);
        let _cut_short = open(&disk);
        disk.crash(&mut SeededRandom::new(seed));
        let names = disk.list("log")?;
        if names.first().is_some_and(|name| name == "0000000000000002.seg") {
            displaced += 1;
            let report = verify(&disk, "log")?;
            assert!(report.start_cut_short && report.is_sound(), "moment {moment}: {report:?}");
            assert_eq!(report.shards[&SHARD].next, next, "moment {moment}");
        }
        let log = open(&disk).map_err(|error| format!("moment {moment}, {names:?}: {error}"))?;
        assert_eq!((log.bounds(SHARD).first, log.bounds(SHARD).next), (first, next));
        assert_eq!(log.read(SHARD, first, 1 << 20)?.next(), next);
    }
    assert!(displaced > 0, "no cut fell between the two names of the first segment");
    Ok(())
}

#[test]
fn whatever_stops_one_opening_after_another_the_log_opens_in_the_end() -> TestResult {
    let (mut stopped, mut cut_short) = (0, 0);
    for seed in 0..3_000 {
        let mut random = SeededRandom::new(seed);
        let disk = SimDisk::new();
        let log = open(&disk)?;
        let mut owner = Owner::open(&log, SHARD)?;
        fill_segments(&mut owner, 3)?;
        log.trim(SHARD, Lsn(2))?;
        disk.fail_sync("log", 1);
        let _unsynced = log.trim(SHARD, Lsn(3));
        let next = owner.next_lsn();
        drop((owner, log));
        disk.kill_process();
        for _ in 0..6 {
            match random.below(3) {
                0 => disk.fail_sync("log", 1 + random.below(5)),
                1 => disk.power_off_after(random.below(12)),
                _ => {}
            }
            stopped += u64::from(open(&disk).is_err());
            if random.chance(0.5) {
                disk.crash(&mut random);
                disk.clear_faults();
            } else if random.chance(0.5) {
                disk.clear_faults();
                disk.kill_process();
            } else {
                disk.kill_process();
            }
            cut_short += u64::from(verify(&disk, "log").is_ok_and(|it| it.start_cut_short));
        }
        disk.crash(&mut random);
        disk.clear_faults();
        let found = verify(&disk, "log").map_err(|error| format!("seed {seed}: {error}"))?;
        assert!(found.is_sound(), "seed {seed}: {found:?}");
        let log = open(&disk).map_err(|error| format!("seed {seed}: {error}"))?;
        assert_eq!(log.bounds(SHARD).next, next, "seed {seed}");
        let first = log.bounds(SHARD).first;
        assert!(first <= Lsn(3), "seed {seed}: begins at {first}");
        assert_eq!(log.read(SHARD, first, 1 << 20)?.next(), next, "seed {seed}");
    }
    assert!(stopped > 1_000 && cut_short > 100, "{stopped} stopped, {cut_short} between two names");
    Ok(())
}

#[test]
fn a_full_disk_refuses_exactly_and_the_session_stays_healthy() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    let mut owner = Owner::open(&log, SHARD)?;
    log.prepare_reserve()?;
    assert!(!log.space().below_reserve);
    disk.set_free_bytes(0);
    // The reserve is taken without new space; then growth is to be refused by the caller.
    let mut appended = 0;
    while !log.space().below_reserve {
        append(&mut owner, 1, 6 << 10)?;
        appended += 1;
        assert!(appended < 10, "the reserve is never spent");
    }
    assert!(log.space().free_bytes > 20 * KIB, "room for deletes: {:?}", log.space());
    assert!(matches!(log.prepare_reserve(), Err(LogError::Full(_))));
    let (next, place) = (owner.next_lsn(), owner.clone_position());
    let mut refused = outcome(&mut owner, 28 << 10);
    assert!(matches!(refused, Err(Refused::Full(_))), "{refused:?}");
    assert_eq!(log.bounds(SHARD).next, next);
    owner.set_position(place);
    append(&mut owner, 1, 100)?;
    // Trimming gives a segment back, and the log goes on.
    let first = log.trim(SHARD, log.bounds(SHARD).next)?;
    assert!(first > Lsn(1));
    assert!(!log.space().below_reserve, "the trimmed segment is ready");
    refused = outcome(&mut owner, 26 << 10);
    assert_eq!(refused, Ok(Outcome::Durable));
    drop((owner, log));
    disk.crash(&mut SeededRandom::new(3));
    let log = open(&disk)?;
    assert_eq!(log.bounds(SHARD).next, Lsn(next.0 + 2));
    assert_eq!(log.bounds(SHARD).first, first);
    Ok(())
}

#[test]
fn a_log_that_cannot_be_made_for_lack_of_space_can_be_made_later() -> TestResult {
    let disk = SimDisk::new();
    disk.set_free_bytes(10 * KIB);
    assert!(matches!(open(&disk), Err(LogError::Full(_))));
    disk.set_free_bytes(100 * KIB);
    append(&mut Owner::open(&open(&disk)?, SHARD)?, 1, 10)?;
    Ok(())
}

#[test]
fn a_group_larger_than_a_segment_gets_one_of_its_own_size() -> TestResult {
    let disk = SimDisk::new();
    let log = open(&disk)?;
    log.prepare_reserve()?;
    let mut owner = Owner::open(&log, SHARD)?;
    append(&mut owner, 1, 100)?;
    append(&mut owner, 1, 300 << 10)?;
    append(&mut owner, 1, 100)?;
    append(&mut owner, 1, 28 << 10)?;
    assert_eq!(log.read(SHARD, Lsn(1), 1 << 20)?.next(), Lsn(5));
    assert!(disk.open_read("log/0000000000000002.seg")?.len()? > 300 * KIB);
    log.trim(SHARD, Lsn(5))?;
    // Too large to be used again: the space goes back to the disk.
    assert!(!disk.exists("log/0000000000000002.seg")?);
    assert_eq!(disk.open_read("log/trimmed")?.len()?, 32 * KIB);
    drop((owner, log));
    disk.crash(&mut SeededRandom::new(1));
    assert_eq!(open(&disk)?.bounds(SHARD).next, Lsn(5));
    Ok(())
}

#[test]
fn a_torn_write_behind_the_last_group_is_cut_off_in_a_fresh_segment() -> TestResult {
    let (mut torn, mut whole) = (0, 0);
    for seed in 0..60 {
        let disk = SimDisk::new();
        let log = open(&disk)?;
        let mut owner = Owner::open(&log, SHARD)?;
        append(&mut owner, 1, 100)?;
        // The write goes through, then the power goes before the sync.
        let batch = owner.batch(1, 3000);
        owner.session.submit(vec![batch])?;
        disk.power_off_after(1);
        assert!(matches!(owner.session.complete().map(|c| c.outcome), Some(Outcome::Unknown(_))));
        drop((owner, log));
        disk.crash(&mut SeededRandom::new(seed));
        let log = open(&disk)?;
        let next = log.bounds(SHARD).next;
        let _owner = Owner::open(&log, SHARD)?;
        let files = disk.list("log")?.iter().filter(|name| name.ends_with(".seg")).count();
        match (next, files) {
            (Lsn(2), 2) => torn += 1,
            (Lsn(3), 1) => whole += 1,
            // Nothing of it reached the medium.
            (Lsn(2), 1) => {}
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(torn > 10 && whole > 0, "{torn} torn, {whole} whole");
    Ok(())
}

#[test]
fn bad_options_are_refused() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    for (segment_bytes, group_bytes_max) in [(4096, 1000), (10_000, 1000), (1 << 20, 2 << 30)] {
        let options =
            super::EmbeddedOptions { segment_bytes, group_bytes_max, ..options(OpenMode::Create) };
        let refused =
            super::EmbeddedLog::open(Arc::clone(&disk), options, &mut SeededRandom::new(1));
        assert!(matches!(refused, Err(LogError::Invalid(_))));
    }
    assert!(open_with(&SimDisk::new(), options(OpenMode::Create)).is_ok());
}
