//! The archive: every position and time behind a backup can be reached, and no gap is crossed.

use std::fs;

use holdfast_base::{Epoch, ErrorKind};

use super::*;
use crate::{
    Archived, Archiver,
    archive::{Header, Span, spans},
};

/// A backup at `backup`, records archived in several objects behind it.
fn archived() -> Result<(Place, Life, Manifest), Error> {
    let place = Place::new();
    let mut life = Life::new(1);
    life.put("a", b"0");
    let manifest = life.back_up(&place)?;
    let mut archiver = Archiver::open(&place.store, &life.log, SHARD)?;
    for at in 0..12u8 {
        life.put(["a", "b", "c"][usize::from(at % 3)], &[at; 100]);
        if at % 4 == 3 {
            drain(&mut archiver, &place, &life)?;
        }
    }
    Ok((place, life, manifest))
}

fn drain(archiver: &mut Archiver, place: &Place, life: &Life) -> Result<u64, Error> {
    let mut stored = 0;
    loop {
        match archiver.step(&place.store, &life.log, SHARD)? {
            Archived::Nothing => return Ok(stored),
            Archived::Stored { records, .. } => stored += records,
            Archived::Gap { first, last } => panic!("a gap from {first} to {last}"),
        }
    }
}

fn time_of(lsn: Lsn) -> u64 {
    FIRST_MS + 1_000 * lsn.0
}

#[test]
fn every_position_and_every_time_behind_a_backup_is_restored_exactly() -> TestResult {
    let (place, life, manifest) = archived()?;
    for (&lsn, rows) in life.history.range(manifest.lsn..) {
        let (folder, restored) = bring_back(&place, None, Target::Lsn(lsn));
        assert_eq!(restored?.lsn, lsn);
        assert_eq!(&restored_rows(&folder), rows, "lsn {lsn}");
        if lsn == life.state.lsn {
            continue;
        }
        for ms in [time_of(lsn), time_of(lsn) + 999] {
            let (folder, restored) = bring_back(&place, None, Target::Time(ms));
            assert_eq!(restored?.lsn, lsn, "time {ms}");
            assert_eq!(&restored_rows(&folder), rows, "time {ms}");
        }
    }
    let (folder, restored) = bring_back(&place, None, Target::End);
    assert_eq!(restored?.lsn, life.state.lsn);
    // The new life is archived beside the old one, from its first record on.
    let again = Life::open(folder, 3);
    let mut archiver = Archiver::open(&place.store, &again.log, SHARD)?;
    assert_eq!(archiver.next(), life.state.lsn.next());
    assert_eq!(drain(&mut archiver, &place, &again)?, 1);
    Ok(())
}

#[test]
fn a_target_out_of_reach_is_refused_before_anything_is_made() -> TestResult {
    let (place, life, manifest) = archived()?;
    let end = life.state.lsn;
    let older = Lsn(manifest.lsn.0 - 1);
    for (target, backup, text) in [
        (Target::Lsn(end.next()), None, "the archive ends at record"),
        (Target::Time(time_of(end)), None, "the archive ends at record"),
        (Target::Lsn(older), None, "none of the 1 backups is as old"),
        (Target::Lsn(older), Some(&manifest.id), "choose an older one"),
        (Target::Time(time_of(older)), Some(&manifest.id), "choose an older one"),
    ] {
        let (folder, restored) = bring_back(&place, backup, target);
        let error = restored.expect_err(text);
        assert!(error.text().contains(text), "{error}");
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
    }
    Ok(())
}

#[test]
fn a_missing_object_is_a_gap_and_is_not_crossed() -> TestResult {
    let (place, life, manifest) = archived()?;
    let objects = place.objects(&crate::archive_folder(manifest.incarnation));
    let middle = &objects[objects.len() / 2];
    let lost = Span::parse(&middle.file_name().expect("it has one").to_string_lossy());
    let lost = lost.expect("it is named as an object is");
    fs::remove_file(middle).expect("it can be removed");
    for target in [Target::End, Target::Lsn(life.state.lsn), Target::Time(time_of(lost.last))] {
        let error = bring_back(&place, None, target).1.expect_err("there is a gap");
        let text = format!("records {} to {} are missing", lost.first, lost.last);
        assert!(error.text().contains(&text), "{error}");
    }
    // Up to the gap all is well.
    let before = Lsn(lost.first.0 - 1);
    let (folder, restored) = bring_back(&place, None, Target::Lsn(before));
    restored?;
    assert_eq!(Some(&restored_rows(&folder)), life.history.get(&before));
    Ok(())
}

#[test]
fn a_flipped_bit_anywhere_in_the_archive_is_found() -> TestResult {
    let (place, _life, manifest) = archived()?;
    let objects = place.objects(&crate::archive_folder(manifest.incarnation));
    let object = &objects[1];
    let sound = fs::read(object).expect("it is stored");
    let step = 1 + sound.len() * 8 / 40;
    for bit in (0..sound.len() * 8).step_by(step) {
        let mut damaged = sound.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(object, &damaged).expect("it can be written");
        let error = bring_back(&place, None, Target::End).1.expect_err("a flipped bit");
        assert!(error.text().contains("the archive is damaged"), "bit {bit}: {error}");
    }
    Ok(())
}

#[test]
fn records_trimmed_before_they_were_archived_are_told_as_a_gap() -> TestResult {
    let place = Place::new();
    let mut life = Life::new(1);
    let mut archiver = Archiver::open(&place.store, &life.log, SHARD)?;
    drain(&mut archiver, &place, &life)?;
    let first = archiver.next();
    for at in 0..80u8 {
        life.put("a", &[at; 5_000]);
    }
    let kept = life.log.trim(SHARD, life.state.lsn).expect("it is flushed as far as this knows");
    assert!(kept > first);
    let gap = archiver.step(&place.store, &life.log, SHARD)?;
    assert_eq!(gap, Archived::Gap { first, last: Lsn(kept.0 - 1) });
    assert!(drain(&mut archiver, &place, &life)? > 0, "it goes on behind the gap");
    // A process that starts later sees the same from the store.
    let again = Archiver::open(&place.store, &life.log, SHARD)?;
    assert_eq!(again.next(), archiver.next());
    Ok(())
}

#[test]
fn an_older_copy_of_the_data_is_not_archived_over_the_newer() -> TestResult {
    let (place, life, _) = archived()?;
    let incarnation = life.state.incarnation;
    let ahead = Span { first: life.state.lsn.next(), last: Lsn(life.state.lsn.0 + 5) };
    let name = format!("{}/{}", crate::archive_folder(incarnation), ahead.name());
    place.store.put(&name, b"records that this log has lost").expect("it can be stored");
    assert!(spans(&place.store, incarnation)?.contains(&ahead));
    let refused = Archiver::open(&place.store, &life.log, SHARD).err().expect("it is ahead");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert!(refused.text().contains("an older copy"), "{refused}");
    Ok(())
}

#[test]
fn other_records_at_the_archived_positions_are_noticed() -> TestResult {
    let (place, mut life, _) = archived()?;
    let copy = TempDir::new().expect("a temporary folder can be made");
    life.engine.flush()?;
    copy_folder(life.folder.path(), copy.path());
    let mut archiver = Archiver::open(&place.store, &life.log, SHARD)?;
    life.put("a", b"archived");
    drain(&mut archiver, &place, &life)?;
    // The copy is as long as what is archived, with another record at the end.
    let mut copy = Life::open(copy, 1);
    assert_eq!(copy.state.lsn, life.state.lsn);
    copy.put("a", b"not continued");
    let mut archiver = Archiver::open(&place.store, &copy.log, SHARD)?;
    let refused = archiver.step(&place.store, &copy.log, SHARD).expect_err("another history");
    assert!(refused.text().contains("an older copy"), "{refused}");
    Ok(())
}

/// A copy of a folder and what is in it, as an operator makes one.
fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it can be listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("it has a type").is_dir() {
            fs::create_dir(&target).expect("it is new");
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}

#[test]
fn names_and_heads_read_back() -> TestResult {
    for span in
        [Span { first: Lsn(1), last: Lsn(1) }, Span { first: Lsn(7), last: Lsn(u64::MAX - 1) }]
    {
        assert_eq!(Span::parse(&span.name()), Some(span));
    }
    let beyond = Span { first: Lsn(7), last: Lsn(u64::MAX) };
    assert_eq!(Span::parse(&beyond.name()), None, "what follows it could not be told");
    let wrong =
        ["", "1-2", "0000000000000000-0000000000000001", "x", "0000000000000002-0000000000000001"];
    assert!(wrong.into_iter().all(|name| Span::parse(name).is_none()));
    let life = Life::new(1);
    let read = life.log.read(SHARD, Lsn(1), 1 << 20).expect("it is durable");
    let header = Header::of(read.as_bytes())?;
    assert_eq!(header.span, Span { first: Lsn(1), last: Lsn(1) });
    assert_eq!(Header::decode(&header.encode()), Ok(header));
    assert_eq!(life.position.epoch, Epoch(1));
    Ok(())
}
