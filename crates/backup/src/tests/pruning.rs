//! Pruning: what stays can be restored whole, what goes is what nobody needs.

use holdfast_base::ErrorKind;

use super::*;
use crate::{Archived, Archiver, archive::spans, archive_folder, list_backups, prune};

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
    let pruned = prune(&place.store, 2, &mut |_| Ok(()))?;
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
    assert_eq!(prune(&place.store, 2, &mut |_| Ok(()))?, crate::Pruned::default(), "all is done");
    Ok(())
}

#[test]
fn broken_off_it_leaves_only_what_the_next_one_takes() -> TestResult {
    let (place, _life, manifests) = four()?;
    let mut left = 2;
    let stopped = prune(&place.store, 1, &mut |_| {
        left -= 1;
        let stopping = Error::new(ErrorKind::Unavailable, "stopping");
        if left == 0 { Err(stopping) } else { Ok(()) }
    });
    stopped.expect_err("it was stopped");
    prune(&place.store, 1, &mut |_| Ok(()))?;
    let last = manifests.last().expect("four were taken");
    assert_eq!(list_backups(&place.store)?, std::slice::from_ref(&last.id));
    bring_back(&place, None, Target::End).1?;
    // Records before the last backup are of no use.
    assert!(spans(&place.store, last.incarnation)?.iter().all(|span| span.last > last.lsn));
    Ok(())
}

#[test]
fn nothing_goes_while_a_kept_manifest_cannot_be_read() -> TestResult {
    let (place, _life, manifests) = four()?;
    let damaged = place.objects("backups").pop().expect("four were taken");
    std::fs::write(&damaged, b"damaged").expect("it can be written");
    let files = place.objects("files");
    prune(&place.store, 2, &mut |_| Ok(())).expect_err("the last manifest is damaged");
    prune(&place.store, 0, &mut |_| Ok(())).expect_err("one stays");
    assert_eq!(list_backups(&place.store)?.len(), 4);
    assert_eq!(place.objects("files"), files);
    bring_back(&place, Some(&manifests[0].id), Target::Backup).1?;
    Ok(())
}

#[test]
fn a_life_without_a_backup_left_takes_its_archive_along() -> TestResult {
    let (place, life, manifests) = four()?;
    let old = life.state.incarnation;
    let (folder, restored) = bring_back(&place, None, Target::Backup);
    restored?;
    let mut again = Life::open(folder, 5);
    again.put("new", b"life");
    again.back_up(&place)?;
    prune(&place.store, 1, &mut |_| Ok(()))?;
    assert_eq!(place.objects(&archive_folder(old)), Vec::<PathBuf>::new());
    assert_eq!(list_backups(&place.store)?.len(), 1);
    assert!(manifests.iter().all(|m| m.incarnation == old));
    bring_back(&place, None, Target::Backup).1.map(|_| ())
}
