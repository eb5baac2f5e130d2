//! Pruning: what stays can be restored whole, what goes is what nobody needs.

use holdfast_base::{ErrorKind, Incarnation};

use super::*;
use crate::{Archived, Archiver, archive_folder, list_backups, prune, read_manifest};

fn drain(archiver: &mut Archiver, place: &Place, life: &Life) -> Result<(), Error> {
    while archiver.step(&place.store, &life.log, SHARD)? != Archived::Nothing {}
    Ok(())
}

/// Four backups in a row, archived all along.
fn four() -> Result<(Place, Life, Vec<Manifest>), Error> {
    let place = Place::new();
    let mut life = Life::new(1);
    let mut archiver = Archiver::open(&place.store, &life.log, SHARD)?;
    let mut manifests = Vec::new();
    for round in 0..4u8 {
        for at in 0..5 {
            life.put(&format!("{round}:{at}"), &[round; 500]);
        }
        drain(&mut archiver, &place, &life)?;
        manifests.push(life.back_up(&place)?);
    }
    life.put("last", b"x");
    drain(&mut archiver, &place, &life)?;
    Ok((place, life, manifests))
}

#[test]
fn the_newest_stay_whole_with_the_archive_behind_them() -> TestResult {
    let (place, life, manifests) = four()?;
    let pruned = prune(&place.store, 2, life.state.incarnation, &mut |_| Ok(()))?;
    assert_eq!(pruned.backups, 2);
    let kept = &manifests[2..];
    let ids: Vec<_> = kept.iter().map(|manifest| manifest.id.clone()).collect();
    assert_eq!(list_backups(&place.store)?, ids);
    let mut named: Vec<_> = kept.iter().flat_map(|m| &m.files).map(|f| f.sha256.clone()).collect();
    named.sort_unstable();
    named.dedup();
    let stored: Vec<_> = place.store.list("files").expect("listed").into_iter().collect();
    assert_eq!(stored.into_iter().map(|entry| entry.name).collect::<Vec<_>>(), named);
    assert!(pruned.files > 0 && pruned.archived > 0, "{pruned:?}");
    for (&lsn, rows) in life.history.range(kept[0].lsn..) {
        let (folder, restored) = bring_back(&place, Some(&kept[0].id), Target::Lsn(lsn));
        restored?;
        assert_eq!(&restored_rows(&folder), rows, "lsn {lsn}");
    }
    assert_eq!(
        prune(&place.store, 2, life.state.incarnation, &mut |_| Ok(()))?,
        crate::Pruned::default(),
        "all is done"
    );
    Ok(())
}

/// Two lives, stopped before the second thing that is removed, again and again.
#[test]
fn broken_off_at_any_point_it_leaves_only_what_the_next_one_takes() -> TestResult {
    let (place, life, old) = two_lives()?;
    let mut times = 0;
    loop {
        let mut calls = 0;
        let done = prune(&place.store, 1, life.state.incarnation, &mut |_| {
            calls += 1;
            let stopping = Error::new(ErrorKind::Unavailable, "stopping");
            if calls == 2 { Err(stopping) } else { Ok(()) }
        });
        times += 1;
        if done.is_ok() {
            break;
        }
    }
    assert!(times > 5, "{times} times");
    assert_eq!(place.objects(&archive_folder(old)), Vec::<PathBuf>::new());
    let ids = list_backups(&place.store)?;
    assert_eq!(ids.len(), 1);
    let files = read_manifest(&place.store, &ids[0])?.files.len();
    assert_eq!(place.objects("files").len(), files);
    bring_back(&place, None, Target::Backup).1.map(|_| ())
}

#[test]
fn where_archiving_goes_on_is_still_known_although_all_of_it_is_backed_up() -> TestResult {
    let (place, life, _) = four()?;
    life.back_up(&place)?;
    let next = Archiver::open(&place.store, &life.log, SHARD)?.next();
    prune(&place.store, 1, life.state.incarnation, &mut |_| Ok(()))?;
    assert_eq!(Archiver::open(&place.store, &life.log, SHARD)?.next(), next);
    Ok(())
}

#[test]
fn a_place_without_a_backup_is_left_as_it_is() -> TestResult {
    let (place, life, _) = four()?;
    std::fs::write(place.objects("files")[0].with_file_name("letter"), b"mine").expect("written");
    prune(&place.store, 1, life.state.incarnation, &mut |_| Ok(()))?;
    let of_others = |path: &PathBuf| path.ends_with("letter");
    assert!(place.objects("files").iter().any(of_others), "a file that is no digest stays");
    for manifest in place.objects("backups") {
        std::fs::remove_file(manifest).expect("it is there");
    }
    let before = place.objects("files");
    prune(&place.store, 1, life.state.incarnation, &mut |_| Ok(()))
        .expect_err("no backup is there");
    assert_eq!(place.objects("files"), before);
    Ok(())
}

#[test]
fn nothing_goes_while_a_kept_manifest_cannot_be_read() -> TestResult {
    let (place, life, manifests) = four()?;
    let damaged = place.objects("backups").pop().expect("four were taken");
    std::fs::write(&damaged, b"damaged").expect("it can be written");
    let files = place.objects("files");
    prune(&place.store, 2, life.state.incarnation, &mut |_| Ok(()))
        .expect_err("the last manifest is damaged");
    prune(&place.store, 0, life.state.incarnation, &mut |_| Ok(())).expect_err("one stays");
    assert_eq!(list_backups(&place.store)?.len(), 4);
    assert_eq!(place.objects("files"), files);
    bring_back(&place, Some(&manifests[0].id), Target::Backup).1?;
    Ok(())
}

/// As [`four`], then a restore, its own life and a backup of it. Gives the old life.
fn two_lives() -> Result<(Place, Life, Incarnation), Error> {
    let (place, life, _) = four()?;
    let (folder, restored) = bring_back(&place, None, Target::Backup);
    restored?;
    let mut again = Life::open(folder, 5);
    again.put("new", b"life");
    again.back_up(&place)?;
    Ok((place, again, life.state.incarnation))
}

#[test]
fn a_life_without_a_backup_left_takes_its_archive_along() -> TestResult {
    let (place, life, old) = two_lives()?;
    prune(&place.store, 1, life.state.incarnation, &mut |_| Ok(()))?;
    assert_eq!(place.objects(&archive_folder(old)), Vec::<PathBuf>::new());
    assert_eq!(list_backups(&place.store)?.len(), 1);
    bring_back(&place, None, Target::Backup).1.map(|_| ())
}

/// It is taken by a clock that is behind by a day.
#[test]
fn the_furthest_of_this_life_stays_although_clocks_put_others_behind_it() -> TestResult {
    let (place, mut life, manifests) = four()?;
    life.put("furthest", b"x");
    let source = life.source(&life.engine);
    let behind = Source { now_ms: manifests[0].taken_at_ms - 86_400_000, ..source };
    let furthest = take(&place.store, &behind, &mut |_| Ok(()))?;
    assert_eq!(list_backups(&place.store)?[0], furthest.id, "it is the oldest by its name");
    prune(&place.store, 2, life.state.incarnation, &mut |_| Ok(()))?;
    let kept = [&furthest.id, &manifests[2].id, &manifests[3].id].map(Clone::clone);
    assert_eq!(list_backups(&place.store)?, kept);
    let (folder, restored) = bring_back(&place, Some(&furthest.id), Target::Backup);
    restored?;
    assert_eq!(restored_rows(&folder), life.history[&furthest.lsn]);
    Ok(())
}

#[test]
fn the_last_of_an_older_life_stays_for_whose_log_goes_on_from_it() -> TestResult {
    let (place, _life, old) = two_lives()?;
    prune(&place.store, 1, old, &mut |_| Ok(()))?;
    assert_eq!(list_backups(&place.store)?.len(), 2, "the old life's last one and the newest");
    Ok(())
}
