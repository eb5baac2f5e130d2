//! Restoring: a backup, and the archive behind it, into an empty folder and a new life.
//!
//! A marker is written before anything else and removed by [`finish_restore`] after all is
//! verified: a folder that holds it is refused by the node. The new log has an identity of its own
//! and begins behind the last restored record: positions of the old life are not given out again.

use std::{path::Path, sync::Arc};

use holdfast_base::{Error, Hlc, Incarnation, Lsn, ShardId, row::AppliedState};
use holdfast_engine::{Engine, EngineOptions, OpenMode, RocksEngine};
use holdfast_io::{Disk, ObjectStore, Random, create_dir_durably, write_file_durably};
use holdfast_log::{
    EmbeddedOptions,
    embedded::{Begin, begin_after},
};
use holdfast_shard::{store_state, stored_state};

use crate::{
    BackupId, Manifest, Step, Watch, corrupt, files, follow, invalid, list_backups, read_manifest,
    store_error,
};

/// Stands in a data folder that is being restored, or whose restore was broken off.
pub const RESTORING_FILE: &str = "restoring";

/// How far to restore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// What the backup holds.
    Backup,
    /// Up to this record, which is the last one.
    Lsn(Lsn),
    /// All records up to this time, milliseconds since 1970.
    Time(u64),
    /// Everything that was archived.
    End,
}

/// Where to.
pub struct Destination<'a> {
    /// The data folder.
    pub disk: &'a Arc<dyn Disk>,
    /// The same as a path, for the engine.
    pub data: &'a Path,
    /// Names that may be there already.
    pub ignore: &'a [&'a str],
    /// The engine's folder in it.
    pub engine_dir: &'a str,
    /// The log that is to be made.
    pub log: &'a EmbeddedOptions,
    /// The shard.
    pub shard: ShardId,
}

/// What was restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// From which backup.
    pub id: BackupId,
    /// The last record.
    pub lsn: Lsn,
    /// Its shard time.
    pub time: Hlc,
    /// The new life.
    pub incarnation: Incarnation,
    /// Records applied behind the backup.
    pub replayed: u64,
}

/// Restores `backup`, or the newest one from which the target can be reached. The folder stays
/// marked until [`finish_restore`].
pub fn restore(
    store: &dyn ObjectStore,
    backup: Option<&BackupId>,
    target: Target,
    destination: &Destination<'_>,
    random: &mut dyn Random,
    watch: &mut Watch<'_>,
) -> Result<Restored, Error> {
    let manifest = choose(store, backup, target)?;
    let plan = follow::plan(store, &manifest, target)?;
    let Destination { disk, shard, .. } = *destination;
    begin(destination, &manifest.id)?;
    bring_engine(store, &manifest, &**disk, destination.engine_dir, watch)?;
    let dir = destination.data.join(destination.engine_dir);
    let engine = RocksEngine::open(&dir, OpenMode::Existing, &EngineOptions::default())?;
    let mut state = stored_state(&engine, shard)?
        .ok_or_else(|| corrupt(format!("backup {} holds no applied state", manifest.id)))?;
    agrees(&state, &manifest)?;
    plan.apply(store, shard, &engine, &mut state, watch)?;
    let last = Begin {
        after: state.lsn,
        epoch: state.epoch,
        n: state.n,
        time: state.time,
        chain: state.chain,
    };
    state.incarnation = begin_after(disk, destination.log, shard, last, random)
        .map_err(|error| Error::new(error.kind(), error.to_string()))?;
    store_state(shard, &engine, &state)?;
    engine.flush()?;
    Ok(Restored {
        id: manifest.id,
        lsn: state.lsn,
        time: state.time,
        incarnation: state.incarnation,
        replayed: state.lsn.0 - manifest.lsn.0,
    })
}

/// Declares the folder whole: all that is in it has been verified.
pub fn finish_restore(disk: &dyn Disk) -> Result<(), Error> {
    disk.remove(RESTORING_FILE)
        .and_then(|()| disk.sync_dir(""))
        .map_err(store_error("finishing the restore"))
}

/// The backup that was named, or the newest one that is not behind the target.
fn choose(
    store: &dyn ObjectStore,
    backup: Option<&BackupId>,
    target: Target,
) -> Result<Manifest, Error> {
    if let Some(id) = backup {
        return read_manifest(store, id);
    }
    let ids = list_backups(store)?;
    for id in ids.iter().rev() {
        let manifest = read_manifest(store, id)?;
        let reaches = match target {
            Target::Backup | Target::End => true,
            Target::Lsn(lsn) => manifest.lsn <= lsn,
            Target::Time(ms) => manifest.time.ms() <= ms,
        };
        if reaches {
            return Ok(manifest);
        }
    }
    Err(invalid(match ids.len() {
        0 => "there is no backup here".to_owned(),
        count => format!("none of the {count} backups is as old as that"),
    }))
}

/// Makes sure that the folder is empty, and marks it.
fn begin(destination: &Destination<'_>, id: &BackupId) -> Result<(), Error> {
    let Destination { disk, data, ignore, .. } = destination;
    let names = disk.list("").map_err(store_error("looking into the data folder"))?;
    if names.iter().any(|name| name == RESTORING_FILE) {
        let text = "a restore was broken off here: empty the folder and restore again";
        return Err(invalid(format!("{}: {text}", data.display())));
    }
    if let Some(name) = names.iter().find(|name| !ignore.contains(&name.as_str())) {
        let text = format!("{} is not empty: {name} is in it", data.display());
        return Err(invalid(format!("{text}. A restore needs an empty folder")));
    }
    write_file_durably(&***disk, RESTORING_FILE, format!("{id}\n").as_bytes())
        .map_err(store_error("marking the data folder"))
}

/// Brings a backup's engine into a folder of the disk, which is made. Every file is verified against length and
/// SHA-256, and durable when this returns.
pub fn bring_engine(
    store: &dyn ObjectStore,
    manifest: &Manifest,
    disk: &dyn Disk,
    engine_dir: &str,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    watch(Step::Planned { files: manifest.files.len() as u64, bytes: manifest.bytes() })?;
    let failed = || store_error("restoring");
    create_dir_durably(disk, engine_dir).map_err(failed())?;
    for file in &manifest.files {
        let path = format!("{engine_dir}/{}", file.name);
        files::download(store, file, disk, &path, watch)?;
        watch(Step::Transferred(file.bytes))?;
    }
    disk.sync_dir(engine_dir).map_err(failed())
}

/// The newest backup of this life of the log from which its kept part goes on: `first` is the first record kept,
/// `next` the one after the last. A manifest that cannot be read is passed over.
pub fn newest_of(
    store: &dyn ObjectStore,
    incarnation: Incarnation,
    (first, next): (Lsn, Lsn),
) -> Result<Option<Manifest>, Error> {
    let mut problem = None;
    for id in list_backups(store)?.iter().rev() {
        match read_manifest(store, id) {
            Ok(found) if found.incarnation != incarnation => {}
            Ok(found) if found.lsn.next() >= first && found.lsn < next => return Ok(Some(found)),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%id, %error, "a backup cannot be read: an older one may do");
                problem.get_or_insert(error);
            }
        }
    }
    problem.map_or(Ok(None), Err)
}

/// The manifest and the engine's own state must be of one moment.
pub fn agrees(state: &AppliedState, manifest: &Manifest) -> Result<(), Error> {
    let engine = (state.lsn, state.incarnation, state.epoch, state.n, state.time, state.chain);
    let told = Manifest { files: Vec::new(), ..manifest.clone() };
    let manifest = (told.lsn, told.incarnation, told.epoch, told.n, told.time, told.chain);
    if engine != manifest {
        let text = format!(
            "backup {}: its manifest says record {}, its engine holds {}: refused",
            told.id, told.lsn, state.lsn
        );
        return Err(corrupt(text));
    }
    Ok(())
}
