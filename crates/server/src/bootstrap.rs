//! Beginning with a backup: the engine of a node whose own cannot follow the replicated log.
//!
//! A folder that is new would have to replay the whole log; one that was away for longer than the log is kept
//! (`retention`) cannot go on; and one whose rows came from other records than the log's must not. Each
//! begins with the newest backup of this life of the log at `backup.url`, every file verified, and follows from
//! there. An engine that is replaced is kept beside, as `engine.replaced`, until the next time.

use std::sync::Arc;

use holdfast_backup::{Location, Manifest, Step, agrees, bring_engine, newest_of};
use holdfast_base::{Error, ErrorKind, Lsn, row::AppliedState};
use holdfast_engine::{EngineOptions, OpenMode, RocksEngine};
use holdfast_io::Disk;
use holdfast_log::{Bounds, Log};
use holdfast_shard::{read_failed, stored_state};

use crate::{
    Config,
    backup::{Pace, StoreUse, open_store},
    data::{ENGINE_DIR, SHARD, io_error},
    digests::DIVERGED_FILE,
    node::OpenProgress,
};

/// Where a backup's engine stands until all of it is there.
const COMING_DIR: &str = "engine.coming";
/// Where the engine that it replaces stays.
const REPLACED_DIR: &str = "engine.replaced";

/// What a node has, and how the log stands to it.
enum Standing {
    /// The log goes on from there.
    GoesOn,
    /// It has nothing, and the log is whole: it may replay all of it, or begin with a backup.
    New,
    /// It cannot go on, for this reason.
    CutOff(String),
}

/// The engine that the log is followed with: the one that is here, or a backup's.
pub(crate) fn engine_for_log(
    config: &Config,
    disk: &Arc<dyn Disk>,
    log: &dyn Log,
    engine: RocksEngine,
    options: &EngineOptions,
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<RocksEngine, Error> {
    let state = stored_state(&engine, SHARD)?;
    let bounds = log.bounds(SHARD);
    let standing = match disk.exists(DIVERGED_FILE).map_err(io_error(&config.data))? {
        true => Standing::CutOff("this node's rows were not the owner's".to_owned()),
        false => standing(log, &bounds, state.as_ref())?,
    };
    let why = match &standing {
        Standing::GoesOn => return Ok(engine),
        Standing::New => "this node is new",
        Standing::CutOff(why) => why,
    };
    let is_new = matches!(standing, Standing::New);
    if config.backup_url.is_empty() {
        return if is_new { Ok(engine) } else { Err(no_way(why)) };
    }
    let location = Location::parse(&config.backup_url)?;
    let found = open_store(&location, StoreUse::Storing(&config.data)).and_then(|store| {
        let manifest = newest_of(&*store, bounds.incarnation, (bounds.first, bounds.next))?;
        Ok((store, manifest))
    });
    let (store, manifest) = match found {
        Ok((store, Some(manifest))) => (store, manifest),
        Ok((_, None)) if is_new => return Ok(engine),
        Ok((_, None)) => return Err(no_way(why)),
        Err(error) if is_new => {
            tracing::warn!(%error, %location, "no backup to begin with: the whole log is replayed");
            return Ok(engine);
        }
        Err(error) => return Err(error.context(format!("{why}, and {location} does not help"))),
    };
    let (id, lsn) = (&manifest.id, manifest.lsn.0);
    // One that has nothing loses nothing.
    let was_empty = state.is_none();
    if was_empty {
        tracing::info!(why, %id, lsn, %location, "beginning with a backup");
    } else {
        tracing::warn!(why, %id, lsn, %location, "beginning with a backup");
    }
    drop(engine);
    let failed = || io_error(&config.data);
    remove_dir(&**disk, COMING_DIR).map_err(failed())?;
    let mut pace = Pace::new(config.backup_bytes_per_second.0);
    let (mut done, total) = (0, manifest.bytes());
    bring_engine(&*store, &manifest, &**disk, COMING_DIR, &mut |step| {
        if let Step::Moved(bytes) = step {
            done += bytes;
            progress(OpenProgress::Fetching { done, total });
            pace.moved(bytes, std::thread::sleep);
        }
        Ok(())
    })?;
    remove_dir(&**disk, REPLACED_DIR).map_err(failed())?;
    disk.rename(ENGINE_DIR, REPLACED_DIR).map_err(failed())?;
    disk.rename(COMING_DIR, ENGINE_DIR).map_err(failed())?;
    disk.sync_dir("").map_err(failed())?;
    if disk.exists(DIVERGED_FILE).map_err(failed())? {
        disk.remove(DIVERGED_FILE).map_err(failed())?;
        disk.sync_dir("").map_err(failed())?;
    }
    if was_empty {
        remove_dir(&**disk, REPLACED_DIR).map_err(failed())?;
    }
    opened(config, &manifest, options)
}

fn opened(
    config: &Config,
    manifest: &Manifest,
    options: &EngineOptions,
) -> Result<RocksEngine, Error> {
    let engine = RocksEngine::open(&config.data.join(ENGINE_DIR), OpenMode::Existing, options)?;
    let state = stored_state(&engine, SHARD)?.unwrap_or_default();
    agrees(&state, manifest)?;
    Ok(engine)
}

fn no_way(why: &str) -> Error {
    let text = format!(
        "{why}: set backup.url to where the owner takes backups by itself, and have one taken; then this node \
         begins with that"
    );
    Error::new(ErrorKind::Corrupt, text)
}

fn standing(
    log: &dyn Log,
    bounds: &Bounds,
    state: Option<&AppliedState>,
) -> Result<Standing, Error> {
    let known = state.map_or(Lsn::ZERO, |state| state.lsn);
    let needed = known.next();
    if needed < bounds.first {
        let what = if known == Lsn::ZERO { "this node is new" } else { "this node was away" };
        let text = format!(
            "{what}: it needs record {needed} next, and the log begins at {}",
            bounds.first
        );
        return Ok(Standing::CutOff(text));
    }
    let Some(state) = state else { return Ok(Standing::New) };
    if needed >= bounds.next || state.incarnation != bounds.incarnation {
        // What does not fit then is told by the replay.
        return Ok(Standing::GoesOn);
    }
    let read = log.read(SHARD, needed, 1).map_err(|error| read_failed(needed, error))?;
    let mut records = read.batches().flat_map(|batch| batch.records());
    match records.find(|record| record.lsn == needed) {
        Some(record) if record.chain_before != state.chain => Ok(Standing::CutOff(format!(
            "the engine's rows up to {known} came from other records than the log's: they are not served"
        ))),
        _ => Ok(Standing::GoesOn),
    }
}

/// Removes a folder of files, if it is there.
fn remove_dir(disk: &dyn Disk, dir: &str) -> std::io::Result<()> {
    if !disk.exists(dir)? {
        return Ok(());
    }
    for name in disk.list(dir)? {
        disk.remove(&format!("{dir}/{name}"))?;
    }
    disk.remove(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_base::{
        Effect,
        record::{Batch, BatchBuilder},
    };
    use holdfast_io::{RealDisk, SeededRandom};
    use holdfast_log::{EmbeddedLog, EmbeddedOptions, Outcome};

    /// A log of three records, and what an engine holds that has applied the first two.
    fn log_of_three(dir: &std::path::Path) -> Result<(EmbeddedLog, AppliedState), Error> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir).map_err(io_error(dir))?);
        let options = EmbeddedOptions::new("log", holdfast_log::OpenMode::Create);
        let mut random = SeededRandom::new(1);
        let failed = |error: holdfast_log::LogError| Error::new(error.kind(), error.to_string());
        let log = EmbeddedLog::open(disk, options, &mut random).map_err(failed)?;
        let (mut session, position) = log.open_session(SHARD).map_err(failed)?;
        let mut header = position.header(SHARD);
        let mut state = AppliedState { incarnation: position.incarnation, ..Default::default() };
        for _ in 0..3 {
            let mut builder = BatchBuilder::new(header, Vec::new());
            builder.begin(holdfast_base::Hlc(header.first_lsn.0), None);
            builder.push(&Effect::TakeOver { epoch: position.epoch, owner: b"somebody" });
            builder.finish();
            let batch: Batch = builder.seal();
            header.first_lsn = header.first_lsn.next();
            header.first_n += 1;
            header.chain_before = batch.chain_after;
            if header.first_lsn <= Lsn(3) {
                (state.lsn, state.chain) = (batch.last_lsn(), batch.chain_after);
            }
            session.submit(vec![batch]).expect("an open session takes it");
            let outcome = session.complete().map(|completion| completion.outcome);
            assert_eq!(outcome, Some(Outcome::Durable));
        }
        Ok((log, state))
    }

    #[test]
    fn an_engine_goes_on_only_with_the_log_that_its_rows_came_from() -> Result<(), Error> {
        let dir = tempfile::tempdir().map_err(io_error(std::path::Path::new("a folder")))?;
        let (log, state) = log_of_three(dir.path())?;
        let bounds = log.bounds(SHARD);
        let stands = |bounds: &Bounds, state: Option<&AppliedState>| standing(&log, bounds, state);
        assert_eq!(state.lsn, Lsn(2));
        assert!(matches!(stands(&bounds, Some(&state))?, Standing::GoesOn));
        assert!(matches!(stands(&bounds, None)?, Standing::New));
        let others = AppliedState { chain: !state.chain, ..state.clone() };
        let Standing::CutOff(why) = stands(&bounds, Some(&others))? else {
            panic!("rows of other records were taken for the log's");
        };
        assert!(why.contains("other records"), "{why}");
        let trimmed = Bounds { first: Lsn(4), ..bounds };
        assert!(matches!(stands(&trimmed, Some(&state))?, Standing::CutOff(_)));
        assert!(matches!(stands(&trimmed, None)?, Standing::CutOff(_)));
        Ok(())
    }
}
