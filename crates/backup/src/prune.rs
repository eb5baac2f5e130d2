//! Removing old backups: the archive that leads to them, their manifests, then what no manifest names.
//!
//! Everything that stays is read before anything goes: a manifest that cannot be read may name any
//! file. Only files named by a digest are taken, and none where there is no backup: a wrong place is
//! left as it is. Broken off in between, the next time takes the rest: a life is known by its
//! manifests, so these go after its archive, and files that nobody names are found by themselves.
//! Must not run beside a backup into the same store: a node runs one of both at a time, and of the nodes of a
//! cluster only the owner writes where its log is trimmed by.

use std::collections::{BTreeMap, HashSet};

use holdfast_base::{Error, ErrorKind, Incarnation, Lsn};
use holdfast_io::ObjectStore;

use crate::{
    Manifest, Step, Watch,
    archive::{archive_folder, spans},
    files, invalid, list_backups,
    manifest::is_digest,
    read_manifest, store_error,
};

/// What was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pruned {
    /// Backups.
    pub backups: u64,
    /// Files that none of those left names.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects of the archive behind which no backup is left.
    pub archived: u64,
}

/// Keeps the newest `keep` backups, and of the archive what leads on from them. Newest is by the clocks of those who
/// took them, which need not agree; so the furthest backup of `life` stays as well: its log may be trimmed up to that.
pub fn prune(
    store: &dyn ObjectStore,
    keep: usize,
    life: Incarnation,
    watch: &mut Watch<'_>,
) -> Result<Pruned, Error> {
    if keep == 0 {
        return Err(invalid("at least one backup is kept"));
    }
    let ids = list_backups(store)?;
    if ids.is_empty() {
        return Err(invalid("there is no backup here, so nothing is removed"));
    }
    let (old, kept) = ids.split_at(ids.len().saturating_sub(keep));
    let mut kept: Vec<Manifest> =
        kept.iter().map(|id| read_manifest(store, id)).collect::<Result<_, _>>()?;
    // Of a damaged manifest nothing is known but its name.
    let mut read = Vec::new();
    for id in old {
        match read_manifest(store, id) {
            Ok(manifest) => read.push(manifest),
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(_) => {}
        }
    }
    let of_life = |manifests: &[Manifest]| {
        let of_life = manifests.iter().filter(|manifest| manifest.incarnation == life);
        of_life.map(|manifest| manifest.lsn).max()
    };
    if let Some(furthest) = of_life(&read).filter(|lsn| Some(*lsn) > of_life(&kept)) {
        let is_it = |manifest: &Manifest| (manifest.incarnation, manifest.lsn) == (life, furthest);
        kept.extend(read.extract_if(.., |manifest| is_it(manifest)));
    }
    let lives = read.iter().map(|manifest| manifest.incarnation).collect();
    let old: Vec<_> =
        old.iter().filter(|id| kept.iter().all(|manifest| manifest.id != **id)).collect();
    let mut pruned = Pruned::default();
    prune_archive(store, &kept, lives, &mut pruned, watch)?;
    for id in old {
        watch(Step::Moved(0))?;
        store.remove(&id.object()).map_err(store_error(id))?;
        pruned.backups += 1;
    }
    prune_files(store, &kept, &mut pruned, watch)?;
    Ok(pruned)
}

fn prune_files(
    store: &dyn ObjectStore,
    kept: &[Manifest],
    pruned: &mut Pruned,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let files = kept.iter().flat_map(|manifest| &manifest.files);
    let named: HashSet<&str> = files.map(|file| file.sha256.as_str()).collect();
    for entry in store.list(files::FOLDER).map_err(store_error("listing the stored files"))? {
        if !is_digest(&entry.name) || named.contains(entry.name.as_str()) {
            continue;
        }
        watch(Step::Moved(0))?;
        let name = format!("{}/{}", files::FOLDER, entry.name);
        store.remove(&name).map_err(store_error(&name))?;
        pruned.files += 1;
        pruned.bytes += entry.bytes;
    }
    Ok(())
}

/// Removes the records that stand before the oldest kept backup of their life, and all those of
/// lives that none is kept of. Of a life with a backup the last object stays: it says where archiving
/// goes on.
fn prune_archive(
    store: &dyn ObjectStore,
    kept: &[Manifest],
    lives: HashSet<Incarnation>,
    pruned: &mut Pruned,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let mut needed_after: BTreeMap<Incarnation, Lsn> =
        lives.into_iter().map(|life| (life, Lsn(u64::MAX))).collect();
    for manifest in kept {
        let after = needed_after.entry(manifest.incarnation).or_insert(manifest.lsn);
        *after = manifest.lsn.min(*after);
    }
    for (life, after) in needed_after {
        let mut spans = spans(store, life)?;
        if after < Lsn(u64::MAX) {
            spans.pop();
        }
        for span in spans.into_iter().filter(|span| span.last <= after) {
            watch(Step::Moved(0))?;
            let name = format!("{}/{}", archive_folder(life), span.name());
            store.remove(&name).map_err(store_error(&name))?;
            pruned.archived += 1;
        }
    }
    Ok(())
}
