//! Taking: the position is the checkpoint's, unchanged files stay, a failure leaves nothing behind.

use holdfast_base::ErrorKind;

use super::*;
use crate::{CHECKPOINT_DIR, list_backups, take::take_reading};

#[test]
fn the_position_is_that_of_the_checkpoint_although_writes_go_on() -> TestResult {
    let place = Place::new();
    let life = RefCell::new(Life::new(1));
    let before = life.borrow_mut().put("a", b"before");
    let engine = life.borrow().engine.clone();
    let (disk, data) = (life.borrow().disk.clone(), life.borrow().folder.path().to_owned());
    let source =
        Source { engine: &engine, disk: &*disk, data: &data, shard: SHARD, node: "n", now_ms: 1 };
    let mut watch = |step| {
        // The checkpoint is made, and the node goes on.
        if matches!(step, Step::Planned { .. }) {
            life.borrow_mut().put("a", b"after");
        }
        Ok(())
    };
    let manifest = take(&place.store, &source, &mut watch)?;
    assert_eq!(manifest.lsn, before);
    let (folder, restored) = bring_back(&place, None, Target::Backup);
    assert_eq!(restored?.lsn, before);
    assert_eq!(Some(&restored_rows(&folder)), life.borrow().history.get(&before));
    Ok(())
}

#[test]
fn a_position_read_from_the_live_node_is_found_out() -> TestResult {
    let place = Place::new();
    let life = RefCell::new(Life::new(1));
    life.borrow_mut().put("a", b"before");
    let engine = life.borrow().engine.clone();
    let (disk, data) = (life.borrow().disk.clone(), life.borrow().folder.path().to_owned());
    let source =
        Source { engine: &engine, disk: &*disk, data: &data, shard: SHARD, node: "n", now_ms: 1 };
    // The planted bug: by now the node has gone on, and its state is not the checkpoint's.
    let live = |_: &std::path::Path| {
        life.borrow_mut().put("a", b"after");
        Ok(life.borrow().state.clone())
    };
    take_reading(&place.store, &source, &live, &mut |_| Ok(()))?;
    let (folder, restored) = bring_back(&place, None, Target::Backup);
    let error = restored.expect_err("manifest and files are of two moments");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.text().contains("its manifest says record"), "{error}");
    assert!(folder.path().join(crate::RESTORING_FILE).exists(), "and it is marked");
    Ok(())
}

/// What a backup read or sent, stored, and found stored.
#[derive(Default, Debug)]
struct Told {
    moved: u64,
    transferred: u64,
    reused: u64,
}

fn take_telling(life: &Life, place: &Place) -> Result<(Manifest, Told), Error> {
    let mut told = Told::default();
    let manifest = take(&place.store, &life.source(&life.engine), &mut |step| {
        match step {
            Step::Moved(bytes) => told.moved += bytes,
            Step::Transferred(bytes) => told.transferred += bytes,
            Step::Reused(bytes) => told.reused += bytes,
            Step::Planned { .. } | Step::Replayed(_) => {}
        }
        Ok(())
    })?;
    Ok((manifest, told))
}

#[test]
fn a_second_backup_stores_only_what_is_new() -> TestResult {
    let place = Place::new();
    let mut life = Life::new(1);
    for at in 0..50 {
        life.put(&format!("key{at}"), &[at; 2_000]);
    }
    let (first, told) = take_telling(&life, &place)?;
    assert_eq!((told.transferred, told.reused), (first.bytes(), 0));
    let tables = first.files.iter().filter(|file| file.name.ends_with(".sst"));
    let table_bytes: u64 = tables.map(|file| file.bytes).sum();
    // Nothing was written: the tables are not even read.
    let (_, told) = take_telling(&life, &place)?;
    assert!(told.reused >= table_bytes && told.moved < table_bytes, "{told:?}");
    // Something was written. The engine may merge tables; what is left is not stored again.
    let stored = place.objects("files");
    life.put("one more", b"x");
    let (third, told) = take_telling(&life, &place)?;
    let is_new = |digest: &str| !stored.iter().any(|object| object.ends_with(digest));
    let new = third.files.iter().filter(|file| is_new(&file.sha256));
    assert_eq!(told.transferred, new.map(|file| file.bytes).sum::<u64>());
    assert_eq!(told.transferred + told.reused, third.bytes());
    let now = place.objects("files");
    assert!(stored.iter().all(|object| now.contains(object)), "and nothing was taken away");
    // The oldest can still be restored.
    assert_eq!(list_backups(&place.store)?.first(), Some(&first.id));
    let (folder, restored) = bring_back(&place, Some(&first.id), Target::Backup);
    restored?;
    assert_eq!(Some(&restored_rows(&folder)), life.history.get(&first.lsn));
    Ok(())
}

#[test]
fn a_backup_that_is_broken_off_leaves_no_manifest_and_no_checkpoint() -> TestResult {
    let place = Place::new();
    let mut life = Life::new(1);
    for at in 0..20 {
        life.put(&format!("key{at}"), &[at; 2_000]);
    }
    let mut transferred = 0;
    let stopped = take(&place.store, &life.source(&life.engine), &mut |step| {
        if let Step::Transferred(_) = step {
            transferred += 1;
            if transferred == 2 {
                return Err(Error::new(ErrorKind::Unavailable, "the node is stopping"));
            }
        }
        Ok(())
    });
    assert_eq!(stopped.expect_err("it was stopped").text(), "the node is stopping");
    assert_eq!(list_backups(&place.store)?, []);
    let checkpoint = life.folder.path().join(CHECKPOINT_DIR);
    assert!(!checkpoint.exists());
    // A killed process leaves one; the next backup does not mind.
    life.engine.checkpoint(&checkpoint)?;
    let mut reused = 0;
    let source = life.source(&life.engine);
    let manifest = take(&place.store, &source, &mut |step| {
        reused += u64::from(matches!(step, Step::Reused(_)));
        Ok(())
    })?;
    assert!(reused >= 1, "what was stored already is not stored again");
    assert_eq!(list_backups(&place.store)?, [manifest.id]);
    assert!(!checkpoint.exists());
    Ok(())
}
