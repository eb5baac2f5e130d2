//! Restoring a node: brings the store, the folder and the check together.
//!
//! The folder's lock is held throughout, and the marker of a restore under way goes only after
//! everything was verified as `holdfast check` does.

use std::{path::Path, sync::Arc};

use holdfast_backup::{
    BackupId, Destination, Location, Restored, Step, Target, finish_restore, restore as bring_back,
};
use holdfast_base::{Error, ErrorKind};
use holdfast_io::{Disk, OsRandom, RealDisk};
use holdfast_log::{EmbeddedOptions, OpenMode};

use crate::{
    backup::{StoreUse, open_store},
    data::{ENGINE_DIR, LOCK_FILE, LOG_DIR, SHARD, io_error, make_durable, verify_data},
};

/// What may be in a folder that counts as empty: the lock, and what a file system puts there.
const IGNORED: [&str; 2] = [LOCK_FILE, "lost+found"];

/// What to restore.
pub struct RestoreRequest<'a> {
    /// Where the backups are.
    pub from: &'a Location,
    /// Which one; the newest that fits if not named.
    pub backup: Option<&'a BackupId>,
    /// How far.
    pub target: Target,
    /// The empty folder that becomes a node's.
    pub data: &'a Path,
}

/// Restores into an empty folder and verifies it; gives what was restored and the check's report.
pub fn restore(
    request: &RestoreRequest<'_>,
    progress: &mut dyn FnMut(Step),
) -> Result<(Restored, Vec<String>), Error> {
    let RestoreRequest { data, .. } = *request;
    let store = open_store(request.from, StoreUse::Reading)?;
    make_durable(data)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(data).map_err(io_error(data))?);
    let _lock = disk.lock(LOCK_FILE).map_err(io_error(data))?;
    let mut random = OsRandom::new()
        .map_err(|error| Error::new(ErrorKind::Unavailable, format!("/dev/urandom: {error}")))?;
    let destination = Destination {
        disk: &disk,
        data,
        ignore: &IGNORED,
        engine_dir: ENGINE_DIR,
        log: &EmbeddedOptions::new(LOG_DIR, OpenMode::Create),
        shard: SHARD,
    };
    let mut watch = |step| {
        progress(step);
        Ok(())
    };
    let restored =
        bring_back(&*store, request.backup, request.target, &destination, &mut random, &mut watch)?;
    let report = verify_data(&disk, data)?;
    finish_restore(&*disk)?;
    Ok((restored, report))
}
