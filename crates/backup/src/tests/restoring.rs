//! Restoring: a new life behind the old one, and nothing damaged passes for restored.

use std::fs;

use holdfast_base::ErrorKind;

use super::*;
use crate::{RESTORING_FILE, finish_restore};

/// A backup of a few keys.
fn backed_up() -> Result<(Place, Life, Manifest), Error> {
    let place = Place::new();
    let mut life = Life::new(1);
    for at in 0..30 {
        life.put(&format!("key{at}"), &[at; 3_000]);
    }
    let manifest = life.back_up(&place)?;
    Ok((place, life, manifest))
}

#[test]
fn a_restore_begins_a_new_life_behind_the_last_record() -> TestResult {
    let (place, life, manifest) = backed_up()?;
    let (folder, restored) = bring_back(&place, None, Target::Backup);
    let restored = restored?;
    assert_eq!((restored.lsn, restored.time), (manifest.lsn, manifest.time));
    assert_ne!(restored.incarnation, manifest.incarnation);
    assert!(folder.path().join(RESTORING_FILE).exists());
    let disk = RealDisk::new(folder.path()).expect("it is there");
    finish_restore(&disk)?;
    assert!(!folder.path().join(RESTORING_FILE).exists());
    assert_eq!(Some(&restored_rows(&folder)), life.history.get(&manifest.lsn));
    // It opens as any node does, goes on behind the last position, and can be backed up again.
    let mut again = Life::open(folder, 7);
    assert_eq!(again.log.bounds(SHARD).first, manifest.lsn.next());
    assert!(again.position.epoch > manifest.epoch);
    let lsn = again.put("key1", b"in the new life");
    assert_eq!(lsn, Lsn(manifest.lsn.0 + 2), "behind the take-over record");
    let next = again.back_up(&place)?;
    assert_eq!((next.lsn, next.incarnation), (lsn, restored.incarnation));
    let (folder, restored) = bring_back(&place, Some(&next.id), Target::Backup);
    restored?;
    assert_eq!(Some(&restored_rows(&folder)), again.history.get(&lsn));
    Ok(())
}

#[test]
fn damaged_or_missing_objects_are_refused_by_name() -> TestResult {
    let (place, _life, manifest) = backed_up()?;
    let refused = |what: &str| {
        let (folder, restored) = bring_back(&place, None, Target::Backup);
        let error = restored.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        let marked = folder.path().join(RESTORING_FILE).exists();
        assert!(marked || !folder.path().join("engine").exists(), "{what}: it is not marked");
        error
    };
    for object in place.objects("files") {
        let sound = fs::read(&object).expect("it is stored");
        // RocksDB keeps an empty log of its own, of which nothing can be cut.
        if let Some((_, shorter)) = sound.split_last() {
            let mut flipped = sound.clone();
            flipped[sound.len() / 2] ^= 1;
            fs::write(&object, &flipped).expect("it can be written");
            assert!(refused("a flipped bit").text().contains("does not match its checksum"));
            fs::write(&object, shorter).expect("it can be written");
            assert!(refused("cut off").text().contains("bytes that it should have"));
        }
        fs::write(&object, [&sound[..], b"x"].concat()).expect("it can be written");
        assert!(refused("longer").text().contains("bytes that it should have"));
        fs::remove_file(&object).expect("it can be removed");
        assert!(refused("missing").text().contains("is missing"));
        fs::write(&object, &sound).expect("it can be written");
    }
    for object in place.objects("backups") {
        let sound = fs::read(&object).expect("it is stored");
        for at in [0, 20, sound.len() / 2, sound.len() - 2] {
            let mut flipped = sound.clone();
            flipped[at] ^= 1;
            fs::write(&object, &flipped).expect("it can be written");
            refused("a damaged manifest");
        }
        fs::write(&object, &sound).expect("it can be written");
    }
    bring_back(&place, Some(&manifest.id), Target::Backup).1.map(|_| ())
}

#[test]
fn only_an_empty_folder_is_restored_into() -> TestResult {
    let (place, _life, _) = backed_up()?;
    let folder = TempDir::new().expect("a temporary folder can be made");
    fs::write(folder.path().join("lock"), b"1\n").expect("it can be written");
    fs::write(folder.path().join("mine"), b"precious").expect("it can be written");
    let restored = bring_back_into(&folder, &place, None, Target::Backup);
    let error = restored.expect_err("there is something");
    assert!(error.text().contains("mine is in it"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 2, "nothing was added");
    // One that was broken off is told apart.
    fs::remove_file(folder.path().join("mine")).expect("it can be removed");
    fs::write(folder.path().join(RESTORING_FILE), b"x\n").expect("it can be written");
    let restored = bring_back_into(&folder, &place, None, Target::Backup);
    assert!(restored.expect_err("half restored").text().contains("broken off here"));
    Ok(())
}

#[test]
fn without_a_backup_nothing_is_made() {
    let (folder, restored) = bring_back(&Place::new(), None, Target::Backup);
    assert!(restored.expect_err("none").text().contains("there is no backup here"));
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
}
