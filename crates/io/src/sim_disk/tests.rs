//! Power cuts, killed processes, ordered faults and determinism of the simulated disk.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};

use super::{SECTOR_BYTES, SimDisk};
use crate::disk::{Disk, DiskError, File, create_dir_durably, write_file_durably};
use crate::random::{Random, SeededRandom};

const SEEDS: u64 = 300;

fn content(disk: &SimDisk, path: &str) -> Vec<u8> {
    let file = disk.open_read(path).expect("the file exists");
    let mut bytes = vec![0; file.len().expect("it is open") as usize];
    file.read_exact_at(&mut bytes, 0).expect("its bytes are readable");
    bytes
}

/// Makes a file whose name and bytes are durable.
fn durable_file(disk: &SimDisk, path: &str, bytes: &[u8]) -> io::Result<()> {
    write_file_durably(disk, path, bytes)
}

/// What a run leaves after a crash, for each of many seeds.
fn outcomes<T: Ord>(prepare: fn() -> io::Result<SimDisk>, read: fn(&SimDisk) -> T) -> BTreeSet<T> {
    let after = |seed| {
        let disk = prepare().expect("nothing fails before the crash");
        disk.crash(&mut SeededRandom::new(seed));
        read(&disk)
    };
    (0..SEEDS).map(after).collect()
}

fn errno(error: &io::Error) -> Option<i32> {
    let inner = error.get_ref()?.downcast_ref::<DiskError>()?;
    inner.source.raw_os_error()
}

#[test]
fn synced_bytes_under_a_synced_name_survive_every_crash() {
    let prepare = || {
        let disk = SimDisk::new();
        create_dir_durably(&disk, "d/e")?;
        let file = disk.create("d/e/a")?;
        file.write_at(&[7; 2_000], 0)?;
        file.sync_data()?;
        disk.sync_dir("d/e")?;
        Ok(disk)
    };
    assert_eq!(outcomes(prepare, |disk| content(disk, "d/e/a")), BTreeSet::from([vec![7; 2_000]]));
}

#[test]
fn a_synced_file_without_a_synced_name_may_vanish() {
    let prepare = || {
        let disk = SimDisk::new();
        let file = disk.create("a")?;
        file.write_at(b"synced", 0)?;
        file.sync_all()?;
        Ok(disk)
    };
    let found = outcomes(prepare, |disk| {
        disk.exists("a").expect("the power is on").then(|| content(disk, "a"))
    });
    assert_eq!(found, BTreeSet::from([None, Some(b"synced".to_vec())]));
}

#[test]
fn a_directory_without_a_synced_name_takes_its_files_with_it() {
    let prepare = || {
        let disk = SimDisk::new();
        disk.create_dir("d")?;
        disk.create("d/a")?;
        disk.sync_dir("d")?;
        Ok(disk)
    };
    let found = outcomes(prepare, |disk| {
        (disk.exists("d").expect("the power is on"), disk.exists("d/a").expect("as above"))
    });
    assert_eq!(found, BTreeSet::from([(false, false), (true, true)]));
}

#[test]
fn unsynced_names_survive_as_a_prefix_in_their_order() {
    let prepare = || {
        let disk = SimDisk::new();
        durable_file(&disk, "a", b"")?;
        disk.create("b")?;
        disk.rename("a", "c")?;
        disk.remove("b")?;
        Ok(disk)
    };
    let found = outcomes(prepare, |disk| disk.list("").expect("the power is on").join(" "));
    let expected = ["a", "a b", "b c", "c"].map(str::to_owned);
    assert_eq!(found, BTreeSet::from(expected));
}

#[test]
fn unsynced_sectors_survive_in_any_combination_and_never_torn() {
    let prepare = || {
        let disk = SimDisk::new();
        durable_file(&disk, "a", &[1; 3 * SECTOR_BYTES])?;
        // Begins and ends within a sector: three pieces.
        disk.open("a")?.write_at(&[2; 2 * SECTOR_BYTES], 256)?;
        Ok(disk)
    };
    let found = outcomes(prepare, |disk| {
        let bytes = content(disk, "a");
        let pieces = [&bytes[256..512], &bytes[512..1024], &bytes[1024..1280]];
        assert!(bytes[..256].iter().chain(&bytes[1280..]).all(|byte| *byte == 1));
        pieces.map(|piece| {
            assert!(piece.iter().all(|byte| *byte == piece[0]), "a torn sector");
            piece[0]
        })
    });
    assert_eq!(found.len(), 8, "every subset of three sectors: {found:?}");
}

#[test]
fn an_unsynced_append_leaves_a_shorter_file_or_zeros_or_its_bytes() {
    let prepare = || {
        let disk = SimDisk::new();
        durable_file(&disk, "a", &[1; SECTOR_BYTES])?;
        disk.open("a")?.write_at(&[2; SECTOR_BYTES], SECTOR_BYTES as u64)?;
        Ok(disk)
    };
    let found = outcomes(prepare, |disk| {
        let bytes = content(disk, "a");
        (bytes.len(), bytes.last().copied())
    });
    let old = (SECTOR_BYTES, Some(1));
    let zeros = (2 * SECTOR_BYTES, Some(0));
    let new = (2 * SECTOR_BYTES, Some(2));
    assert_eq!(found, BTreeSet::from([old, zeros, new]));
}

#[test]
fn unsynced_cuts_and_allocations_may_be_lost() {
    let prepare = || {
        let disk = SimDisk::new();
        durable_file(&disk, "cut", &[1; 10])?;
        durable_file(&disk, "grown", &[1; 10])?;
        disk.open("cut")?.truncate(4)?;
        disk.open("grown")?.allocate(20)?;
        Ok(disk)
    };
    let found =
        outcomes(prepare, |disk| (content(disk, "cut").len(), content(disk, "grown").len()));
    assert_eq!(found, BTreeSet::from([(4, 10), (4, 20), (10, 10), (10, 20)]));
}

/// One sector per slot: after any crash each holds a value written since its last sync, or that
/// which was synced; and both kinds of outcome occur.
#[test]
fn random_writes_and_syncs_leave_only_values_that_are_allowed() {
    const SLOTS: usize = 8;
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..SEEDS {
        let mut random = SeededRandom::new(seed);
        let disk = SimDisk::new();
        durable_file(&disk, "a", &[0; SLOTS * SECTOR_BYTES]).expect("nothing fails yet");
        let mut allowed = vec![vec![0_u8]; SLOTS];
        for _round in 0..4 {
            let file = disk.open("a").expect("the file survives");
            for value in 1..=20 {
                if random.chance(0.1) {
                    file.sync_data().expect("no fault is ordered");
                    allowed
                        .iter_mut()
                        .for_each(|values| *values = values.split_off(values.len() - 1));
                }
                let slot = random.below(SLOTS as u64) as usize;
                file.write_at(&[value; SECTOR_BYTES], (slot * SECTOR_BYTES) as u64)
                    .expect("as above");
                allowed[slot].push(value);
            }
            disk.crash(&mut random);
            let bytes = content(&disk, "a");
            for (sector, values) in bytes.chunks(SECTOR_BYTES).zip(&mut allowed) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "seed {seed}: torn");
                assert!(values.contains(&sector[0]), "seed {seed}: {} of {values:?}", sector[0]);
                if values.len() > 1 {
                    let newest = values.last() == Some(&sector[0]);
                    (kept, lost) = (kept + u32::from(newest), lost + u32::from(!newest));
                }
                *values = vec![sector[0]];
            }
        }
    }
    assert!(kept > 1_000 && lost > 1_000, "kept {kept}, lost {lost}");
}

#[test]
fn a_durable_replacement_shows_old_or_new_at_every_moment_of_a_power_cut() {
    let new = vec![b'n'; 1_500];
    let run = |cut: Option<u64>, seed| {
        let disk = SimDisk::new();
        durable_file(&disk, "a", b"old").expect("the power is on");
        let before = disk.counters().operations;
        if let Some(cut) = cut {
            disk.power_off_after(cut);
        }
        let result = write_file_durably(&disk, "a", &new);
        disk.crash(&mut SeededRandom::new(seed));
        (disk.counters().operations - before, result.is_ok(), content(&disk, "a"))
    };
    let (operations, done, bytes) = run(None, 0);
    assert!(done && bytes == new);
    let mut seen = BTreeSet::new();
    for cut in 0..operations {
        for seed in 0..50 {
            let (_, done, bytes) = run(Some(cut), seed);
            assert!(!done, "cut {cut}: a sync came after the power cut");
            assert!(bytes == b"old" || bytes == new, "cut {cut}, seed {seed}: {bytes:?}");
            seen.insert(bytes);
        }
    }
    assert_eq!(seen.len(), 2, "both contents are possible");
}

/// The planted mistake: replacing without syncing the new bytes must be caught by the same means.
#[test]
fn a_replacement_without_a_sync_is_caught() {
    let prepare = || {
        let disk = SimDisk::new();
        durable_file(&disk, "a", b"old")?;
        disk.create("b")?.write_at(b"new", 0)?;
        disk.rename("b", "a")?;
        disk.sync_dir("")?;
        Ok(disk)
    };
    assert!(outcomes(prepare, |disk| content(disk, "a")).contains(b"".as_slice()));
}

#[test]
fn after_a_crash_old_handles_are_stale_and_locks_are_free() -> io::Result<()> {
    let disk = SimDisk::new();
    durable_file(&disk, "a", b"bytes")?;
    let file = disk.open("a")?;
    let lock = disk.lock("a")?;
    disk.crash(&mut SeededRandom::new(1));
    let results = [
        file.read_at(&mut [0; 5], 0).map(|_| ()),
        file.write_at(b"x", 0),
        file.allocate(100),
        file.truncate(0),
        file.len().map(|_| ()),
        file.sync_data(),
        file.sync_all(),
    ];
    for result in results {
        let message = result.expect_err("the handle is stale").to_string();
        assert!(message.contains("stale"), "{message}");
    }
    let again = disk.lock("a")?;
    drop((lock, file));
    let refused = disk.lock("a").expect_err("dropping a stale lock gives nothing back");
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    drop(again);
    disk.open("a")?.write_at(b"fine", 0)
}

#[test]
fn a_killed_process_loses_its_handles_but_no_bytes() -> io::Result<()> {
    let disk = SimDisk::new();
    let file = disk.create("a")?;
    let _lock = disk.lock("LOCK")?;
    file.write_at(b"unsynced", 0)?;
    disk.kill_process();
    assert!(file.sync_all().is_err());
    assert_eq!(content(&disk, "a"), b"unsynced");
    disk.lock("LOCK").map(|_| ())
}

#[test]
fn without_power_everything_fails_until_the_crash_is_over() -> io::Result<()> {
    let disk = SimDisk::new();
    let file = disk.create("a")?;
    disk.power_off_after(1);
    file.write_at(b"last", 0)?;
    assert!(file.write_at(b"lost", 0).is_err());
    assert!(file.sync_all().is_err());
    assert!(file.read_at(&mut [0; 4], 0).is_err());
    assert!(disk.create("b").is_err() && disk.exists("a").is_err() && disk.lock("c").is_err());
    disk.crash(&mut SeededRandom::new(1));
    disk.create("b").map(|_| ())
}

#[test]
fn after_a_failed_sync_a_later_one_succeeds_and_saves_nothing() {
    let prepare = || {
        let disk = SimDisk::new();
        durable_file(&disk, "a", &[1; 2 * SECTOR_BYTES])?;
        let file = disk.open("a")?;
        file.write_at(&[2; SECTOR_BYTES], 0)?;
        disk.fail_sync("a", 1);
        let failed = file.sync_data().expect_err("the fault is ordered");
        assert_eq!(errno(&failed), Some(5), "{failed}");
        file.write_at(&[3; SECTOR_BYTES], SECTOR_BYTES as u64)?;
        file.sync_data()?;
        assert_eq!(content(&disk, "a")[0], 2, "the page cache still shows it");
        Ok(disk)
    };
    let found = outcomes(prepare, |disk| {
        let bytes = content(disk, "a");
        (bytes[0], bytes[SECTOR_BYTES])
    });
    assert_eq!(found, BTreeSet::from([(1, 3), (2, 3)]));
}

#[test]
fn bytes_rewritten_and_synced_after_a_failed_sync_are_durable() {
    let prepare = || {
        let disk = SimDisk::new();
        durable_file(&disk, "a", &[1; SECTOR_BYTES])?;
        let file = disk.open("a")?;
        file.write_at(&[2; SECTOR_BYTES], 0)?;
        disk.fail_sync("a", 1);
        assert!(file.sync_data().is_err());
        file.write_at(&[3; SECTOR_BYTES], 0)?;
        file.sync_data()?;
        Ok(disk)
    };
    assert_eq!(outcomes(prepare, |disk| content(disk, "a")[0]), BTreeSet::from([3]));
}

#[test]
fn a_name_covered_by_a_failed_directory_sync_is_not_saved_by_a_later_one() {
    let prepare = || {
        let disk = SimDisk::new();
        create_dir_durably(&disk, "d")?;
        disk.create("d/a")?;
        disk.fail_sync("d", 1);
        assert!(disk.sync_dir("d").is_err());
        disk.create("d/b")?;
        disk.sync_dir("d")?;
        Ok(disk)
    };
    let found = outcomes(prepare, |disk| disk.list("d").expect("the power is on").join(" "));
    assert_eq!(found, BTreeSet::from(["a b", "b"].map(str::to_owned)));
}

#[test]
fn sync_faults_strike_the_ordered_path_and_count() -> io::Result<()> {
    let disk = SimDisk::new();
    let (log, other) = (disk.create("log-1")?, disk.create("other")?);
    let results = |file: &dyn File| [(); 4].map(|()| file.sync_all().is_ok());

    disk.fail_sync("log", 3);
    assert_eq!(results(&*other), [true; 4]);
    assert_eq!(results(&*log), [true, true, false, true]);

    disk.fail_syncs_from("log", 2);
    assert_eq!(results(&*log), [true, false, false, false]);
    assert_eq!(results(&*other), [true; 4]);
    disk.crash(&mut SeededRandom::new(1));
    let log = if disk.exists("log-1")? { disk.open("log-1")? } else { disk.create("log-1")? };
    assert_eq!(results(&*log), [false; 4], "a broken medium stays broken");
    disk.clear_faults();
    assert_eq!(results(&*log), [true; 4]);
    Ok(())
}

#[test]
fn reads_fail_where_they_touch_the_broken_range() -> io::Result<()> {
    let disk = SimDisk::new();
    let file = disk.create("a")?;
    file.write_at(&[1; 100], 0)?;
    disk.fail_reads("a", 40..50);
    for (start, len, fine) in [(0, 40, true), (0, 41, false), (49, 1, false), (50, 50, true)] {
        let result = file.read_at(&mut vec![0; len], start);
        assert_eq!(result.is_ok(), fine, "{start}, {len}");
        assert!(result.is_ok() || errno(&result.expect_err("checked")) == Some(5));
    }
    Ok(())
}

#[test]
fn a_full_disk_cuts_a_write_short_and_removing_makes_room() -> io::Result<()> {
    let disk = SimDisk::new();
    let old = disk.create("old")?;
    old.write_at(&[1; 50], 0)?;
    disk.set_free_bytes(100);
    let file = disk.create("a")?;
    file.write_at(&[2; 90], 0)?;
    assert_eq!(disk.free_bytes()?, 10);
    let full = file.write_at(&[3; 20], 90).expect_err("ten bytes are free");
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(file.len()?, 100, "what fits is written");
    file.write_at(&[4; 100], 0)?;
    assert_eq!(file.allocate(101).map_err(|error| error.kind()), Err(ErrorKind::StorageFull));
    assert_eq!(file.len()?, 100, "an allocation is whole or refused");
    assert!(file.write_at(b"far", 1_000).is_err());

    disk.remove("old")?;
    assert_eq!(disk.free_bytes()?, 0, "an open file keeps its space");
    drop(old);
    assert_eq!(disk.free_bytes()?, 50);
    file.write_at(&[5; 50], 100)
}

#[test]
fn a_wild_offset_is_a_full_disk_or_refused() -> io::Result<()> {
    let disk = SimDisk::new();
    let file = disk.create("a")?;
    let kind = |result: io::Result<()>| result.expect_err("no disk is that large").kind();
    assert_eq!(kind(file.write_at(b"x", 1 << 50)), ErrorKind::StorageFull);
    assert_eq!(kind(file.write_at(b"x", u64::MAX)), ErrorKind::InvalidInput);
    assert_eq!(kind(file.truncate(u64::MAX)), ErrorKind::StorageFull);
    Ok(())
}

#[test]
fn a_flipped_bit_is_read_at_once_and_after_a_crash() -> io::Result<()> {
    let disk = SimDisk::new();
    durable_file(&disk, "a", &[0; 10])?;
    disk.flip_bit("a", 3, 6)?;
    assert_eq!(content(&disk, "a")[3], 64);
    disk.crash(&mut SeededRandom::new(1));
    assert_eq!(content(&disk, "a"), [0, 0, 0, 64, 0, 0, 0, 0, 0, 0]);
    assert!(disk.flip_bit("a", 10, 0).is_err() && disk.flip_bit("b", 0, 0).is_err());
    Ok(())
}

#[test]
fn counters_count_what_was_asked() -> io::Result<()> {
    let disk = SimDisk::new();
    let file = disk.create("a")?;
    file.write_at(b"onethree", 0)?;
    file.write_at(b"four", 0)?;
    file.sync_data()?;
    file.sync_all()?;
    disk.sync_dir("")?;
    let counters = disk.counters();
    assert_eq!((counters.writes, counters.bytes_written), (2, 12));
    assert_eq!((counters.syncs, counters.dir_syncs, counters.operations), (2, 1, 6));
    Ok(())
}

/// Many random operations with crashes and faults; the errors are part of the run.
fn eventful_run(seed: u64, steps: u32) -> SimDisk {
    let mut random = SeededRandom::new(seed);
    let disk = SimDisk::new();
    for _ in 0..steps {
        let path = format!("{}", random.below(5));
        let _outcome = match random.below(9) {
            0 => disk.create(&path).map(|_| ()),
            1 => disk.rename(&path, "0"),
            2 => disk.remove(&path),
            3 => disk.sync_dir(""),
            4 => {
                disk.fail_sync(&path, random.below(3));
                Ok(())
            }
            5 if random.chance(0.2) => {
                disk.crash(&mut random);
                Ok(())
            }
            6 => disk.open(&path).and_then(|file| file.sync_all()),
            _ => {
                let mut bytes = vec![0; random.below(2_000) as usize];
                random.fill(&mut bytes);
                let offset = random.below(3_000);
                disk.open(&path).and_then(|file| file.write_at(&bytes, offset))
            }
        };
    }
    disk.crash(&mut random);
    disk
}

#[test]
fn the_same_seed_leaves_the_same_state_and_others_do_not() -> io::Result<()> {
    let (mut digests, mut runs_with_files) = (BTreeSet::new(), 0);
    for seed in 0..50 {
        let disk = eventful_run(seed, 300);
        assert_eq!(disk.digest(), eventful_run(seed, 300).digest(), "seed {seed}");
        // A run whose every name was lost leaves an empty disk, like any other such run.
        if !disk.list("")?.is_empty() {
            runs_with_files += 1;
            digests.insert(disk.digest());
        }
    }
    assert!(runs_with_files > 40, "{runs_with_files} runs left files");
    assert_eq!(digests.len(), runs_with_files);
    Ok(())
}

#[test]
fn a_second_crash_at_once_changes_nothing() {
    for seed in 0..50 {
        let disk = eventful_run(seed, 300);
        let digest = disk.digest();
        disk.crash(&mut SeededRandom::new(seed + 1_000));
        assert_eq!(disk.digest(), digest, "seed {seed}");
    }
}

#[test]
fn the_digest_sees_what_is_not_yet_durable() -> io::Result<()> {
    let disk = SimDisk::new();
    let file = disk.create("a")?;
    file.write_at(b"x", 0)?;
    let dirty = disk.digest();
    file.sync_all()?;
    assert_ne!(disk.digest(), dirty);
    Ok(())
}

#[test]
fn synced_changes_leave_no_history_behind() -> io::Result<()> {
    let after = |rewrites: u8| {
        let disk = SimDisk::new();
        durable_file(&disk, "a", &[0; 10])?;
        let file = disk.open("a")?;
        for value in 1..=rewrites {
            file.write_at(&[value], 0)?;
            file.sync_data()?;
        }
        file.write_at(&[0], 0)?;
        file.sync_data()?;
        Ok::<_, io::Error>(disk.digest())
    };
    assert_eq!(after(100)?, after(0)?);
    Ok(())
}

#[test]
fn threads_share_a_file() {
    let disk = SimDisk::new();
    let file = disk.create("a").expect("the disk is empty");
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let file = &file;
            scope.spawn(move || {
                for index in 0..100 {
                    let offset = u64::from(thread) * 100 + index;
                    file.write_at(&[thread], offset).expect("there is room");
                }
            });
        }
    });
    let expected: Vec<u8> = (0..4).flat_map(|thread| [thread; 100]).collect();
    assert_eq!(content(&disk, "a"), expected);
}
