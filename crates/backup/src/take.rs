//! Taking a backup of a running node.
//!
//! A checkpoint (hard links) fixes the files; position, epoch and time are read *in it*, because
//! the live node goes on. Files that the last backup of this life names are not even read again;
//! others are stored unless their content is. The manifest comes last. Whatever happens, the
//! checkpoint goes, and the node is as it was.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use holdfast_base::{Error, ErrorKind, ShardId, key, row::AppliedState};
use holdfast_engine::{Engine, Lookup, RocksEngine};
use holdfast_io::{Disk, File, ObjectStore};

use crate::{
    BackupFile, BackupId, Manifest, Step, Watch, corrupt, files, list_backups, read_manifest,
    store_error,
};

/// Folder of the checkpoint below the data folder, where hard links reach.
pub const CHECKPOINT_DIR: &str = "checkpoint";
/// How far back a backup of the same life is looked for.
const LOOK_BACK: usize = 16;

/// The node that is backed up.
pub struct Source<'a> {
    /// Its engine.
    pub engine: &'a dyn Engine,
    /// Its data folder.
    pub disk: &'a dyn Disk,
    /// The same as a path, for the engine.
    pub data: &'a Path,
    /// Its shard.
    pub shard: ShardId,
    /// Its name.
    pub node: &'a str,
    /// Wall clock, milliseconds since 1970.
    pub now_ms: u64,
}

/// Takes one backup; it exists when this returns Ok. Only one at a time.
pub fn take(
    store: &dyn ObjectStore,
    source: &Source<'_>,
    watch: &mut Watch<'_>,
) -> Result<Manifest, Error> {
    take_reading(store, source, &|dir| stored_state(dir, source.shard), watch)
}

/// As [`take`], with the way to read the position left open for a test of the tests.
pub(crate) fn take_reading(
    store: &dyn ObjectStore,
    source: &Source<'_>,
    state_of: &dyn Fn(&Path) -> Result<AppliedState, Error>,
    watch: &mut Watch<'_>,
) -> Result<Manifest, Error> {
    remove_checkpoint(source.disk)?;
    let dir = source.data.join(CHECKPOINT_DIR);
    let taken = source
        .engine
        .checkpoint(&dir)
        .map_err(Error::from)
        .and_then(|()| store_checkpoint(store, source, &state_of(&dir)?, watch));
    let removed = remove_checkpoint(source.disk);
    let manifest = taken?;
    // The backup is whole either way; the node's next one or its next start tries again.
    if let Err(error) = removed {
        tracing::warn!(%error, "the checkpoint of the backup could not be removed");
    }
    Ok(manifest)
}

/// Removes the checkpoint that a backup, or one that was killed, has left.
pub fn remove_checkpoint(disk: &dyn Disk) -> Result<(), Error> {
    let failed = || store_error("removing an old checkpoint");
    // RocksDB makes a checkpoint under the second name.
    for dir in [CHECKPOINT_DIR.to_owned(), format!("{CHECKPOINT_DIR}.tmp")] {
        if !disk.exists(&dir).map_err(failed())? {
            continue;
        }
        for name in disk.list(&dir).map_err(failed())? {
            disk.remove(&format!("{dir}/{name}")).map_err(failed())?;
        }
        disk.remove(&dir).map_err(failed())?;
    }
    Ok(())
}

/// The applied state in a checkpoint.
fn stored_state(dir: &Path, shard: ShardId) -> Result<AppliedState, Error> {
    let mut row = Vec::new();
    key::applied(&mut row, shard);
    match RocksEngine::read_closed(dir, &row)? {
        Lookup::Found(stored) => AppliedState::decode(&stored)
            .ok_or_else(|| corrupt("the checkpoint's applied state does not decode")),
        _ => Err(Error::new(ErrorKind::Unavailable, "nothing has been applied yet: try again")),
    }
}

fn store_checkpoint(
    store: &dyn ObjectStore,
    source: &Source<'_>,
    state: &AppliedState,
    watch: &mut Watch<'_>,
) -> Result<Manifest, Error> {
    let names = engine_files(source.disk)?;
    let known = files_of_last(store, state)?;
    let stored: BTreeMap<String, u64> = store
        .list(files::FOLDER)
        .map_err(store_error("listing the stored files"))?
        .into_iter()
        .map(|entry| (entry.name, entry.bytes))
        .collect();
    let open = |name: &str| {
        let file = source.disk.open_read(&format!("{CHECKPOINT_DIR}/{name}"));
        file.map_err(store_error("opening the checkpoint"))
    };
    let bytes_of = |file: &dyn File| file.len().map_err(store_error("reading the checkpoint"));
    let mut planned = 0;
    for name in &names {
        planned += bytes_of(&*open(name)?)?;
    }
    watch(Step::Planned { files: names.len() as u64, bytes: planned })?;
    let mut kept = Vec::with_capacity(names.len());
    for name in names {
        let file = open(&name)?;
        let bytes = bytes_of(&*file)?;
        let tail = files::tail_checksum(&*file).map_err(store_error("reading the checkpoint"))?;
        let unchanged = known.get(&name).filter(|known| (known.bytes, known.tail) == (bytes, tail));
        let what = match unchanged {
            Some(known) => known.clone(),
            None => files::describe(&name, &*file, watch)?,
        };
        if stored.get(&what.sha256) == Some(&what.bytes) {
            watch(Step::Reused(what.bytes))?;
        } else {
            files::upload(store, &what, &*file, watch)?;
            watch(Step::Transferred(what.bytes))?;
        }
        kept.push(what);
    }
    let manifest = Manifest {
        id: BackupId::new(source.now_ms, state.lsn, state.incarnation),
        taken_at_ms: source.now_ms,
        node: source.node.to_owned(),
        incarnation: state.incarnation,
        lsn: state.lsn,
        epoch: state.epoch,
        n: state.n,
        time: state.time,
        chain: state.chain,
        files: kept,
    };
    // Whoever may no longer write here must not name what another one may have removed by now.
    watch(Step::Moved(0))?;
    manifest.store(store)?;
    Ok(manifest)
}

/// What an engine consists of; its text logs and its lock are left out.
fn engine_files(disk: &dyn Disk) -> Result<Vec<String>, Error> {
    let names = disk.list(CHECKPOINT_DIR).map_err(store_error("listing the checkpoint"))?;
    let wanted = |name: &String| *name != "LOCK" && !name.starts_with("LOG");
    Ok(names.into_iter().filter(wanted).collect())
}

/// The files of the newest backup of the same life: table files never change within one.
fn files_of_last(
    store: &dyn ObjectStore,
    state: &AppliedState,
) -> Result<HashMap<String, BackupFile>, Error> {
    for id in list_backups(store)?.iter().rev().take(LOOK_BACK) {
        match read_manifest(store, id) {
            Ok(last) if last.incarnation == state.incarnation && last.lsn <= state.lsn => {
                return Ok(last.files.into_iter().map(|file| (file.name.clone(), file)).collect());
            }
            Ok(_) => {}
            // Nothing can be reused of it, and more is stored instead.
            Err(error) => tracing::warn!(%error, "an earlier backup cannot be read"),
        }
    }
    Ok(HashMap::new())
}
