//! A node's data folder: opening log and engine in agreement, and verifying them while it is stopped.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use holdfast_backup::{RESTORING_FILE, remove_checkpoint};
use holdfast_base::{Error, ErrorKind, Lsn, ShardId, row::AppliedState};
use holdfast_engine::{Engine as _, EngineError, EngineErrorKind, EngineOptions, RocksEngine};
use holdfast_io::{Disk, DiskLock, OsRandom, Random, RealDisk};
use holdfast_jetstream::{Entries, JetStreamLog, JetStreamOptions, TlsFiles};
use holdfast_log::{EmbeddedLog, EmbeddedOptions, Log, SyncPolicy};
use holdfast_shard::replay;

use crate::{
    Config, Sync,
    bootstrap::engine_for_log,
    log_servers,
    metrics::{LogMetrics, MeasuredDisk},
    node::OpenProgress,
};

/// Folder of the log below the data folder.
pub(crate) const LOG_DIR: &str = "log";
/// Where a log stands while it is made, or moved in (docs/formats.md, "Data folder").
const LOG_MAKING_DIR: &str = "log.new";
/// Folder of the engine below the data folder.
pub(crate) const ENGINE_DIR: &str = "engine";
/// File that keeps a second process out of the data folder.
pub(crate) const LOCK_FILE: &str = "lock";
/// The only shard of a single node.
pub(crate) const SHARD: ShardId = ShardId(0);

pub(crate) fn log_error(error: holdfast_log::LogError) -> Error {
    Error::new(error.kind(), error.to_string())
}

pub(crate) fn io_error(what: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| Error::new(ErrorKind::Unavailable, format!("{}: {error}", what.display()))
}

/// Log and engine of a data folder, opened and in agreement, and the state that they hold.
pub(crate) struct Opened {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) log: Arc<dyn Log>,
    /// Beside a replicated log: what its nodes tell each other.
    pub(crate) entries: Option<Entries>,
    pub(crate) engine: RocksEngine,
    pub(crate) applied: AppliedState,
    pub(crate) seed: u64,
    pub(crate) lock: DiskLock,
}

pub(crate) fn open_data(
    config: &Config,
    log_metrics: &Arc<LogMetrics>,
    progress: &mut dyn FnMut(OpenProgress),
) -> Result<Opened, Error> {
    make_durable(&config.data)?;
    let disk: Arc<dyn Disk> =
        Arc::new(RealDisk::new(&config.data).map_err(io_error(&config.data))?);
    let lock = disk.lock(LOCK_FILE).map_err(io_error(&config.data))?;
    refuse_half_restored(&*disk, &config.data)?;
    remove_checkpoint(&*disk)?;
    // What is made last: a folder without it was never a node's.
    let made_last = if config.log_servers.is_empty() { LOG_DIR } else { ENGINE_DIR };
    let fresh = !disk.exists(made_last).map_err(io_error(&config.data))?;
    let engine_mode =
        if fresh { holdfast_engine::OpenMode::Create } else { holdfast_engine::OpenMode::Existing };
    let plan = config.memory_plan();
    let options = EngineOptions {
        block_cache_bytes: usize::try_from(plan.block_cache).unwrap_or(usize::MAX),
        memtable_bytes_total: usize::try_from(plan.memtables).unwrap_or(usize::MAX),
        background_bytes_per_second: config.engine_background_bytes_per_second.0,
        ..EngineOptions::default()
    };
    let engine = RocksEngine::open(&config.data.join(ENGINE_DIR), engine_mode, &options)?;
    let stored = holdfast_shard::stored_state(&engine, SHARD)?;
    let mut random = OsRandom::new().map_err(io_error(Path::new("/dev/urandom")))?;
    let claims = stored.iter().map(|state| (SHARD, state.lsn)).collect();
    let (log, entries, engine): (Arc<dyn Log>, _, _) = if config.log_servers.is_empty() {
        let log = embedded_log(config, disk.clone(), log_metrics, fresh, claims, &mut random)?;
        (log, None, engine)
    } else {
        let log = replicated_log(config, claims, &mut random)?;
        let engine = engine_for_log(config, &disk, &log, engine, &options, progress)?;
        let entries = log.entries();
        (Arc::new(log), Some(entries), engine)
    };
    let stored = holdfast_shard::stored_state(&engine, SHARD)?;
    let first = stored.map_or(Lsn::ZERO, |state| state.lsn);
    let replayed = replay(SHARD, &*log, &engine, |at| {
        progress(OpenProgress::Replaying {
            done: at.applied.0 - first.0,
            total: at.end.0 - first.0,
        });
    })?;
    let applied = replayed.unwrap_or_else(|| {
        let mut hash_seed = [0; 16];
        random.fill(&mut hash_seed);
        AppliedState { hash_seed, ..AppliedState::default() }
    });
    Ok(Opened { disk, log, entries, engine, applied, seed: random.next_u64(), lock })
}

fn embedded_log(
    config: &Config,
    disk: Arc<dyn Disk>,
    metrics: &Arc<LogMetrics>,
    fresh: bool,
    engine_claims: BTreeMap<ShardId, Lsn>,
    random: &mut dyn Random,
) -> Result<Arc<dyn Log>, Error> {
    let mode =
        if fresh { holdfast_log::OpenMode::Create } else { holdfast_log::OpenMode::Existing };
    let options = EmbeddedOptions {
        segment_bytes: config.log_segment_bytes.0,
        sync: match config.log_sync {
            Sync::Always => SyncPolicy::Always,
            Sync::Never => SyncPolicy::Never,
        },
        engine_claims,
        ..EmbeddedOptions::new(LOG_DIR, mode)
    };
    let disk = MeasuredDisk::wrap(disk, metrics.clone());
    Ok(Arc::new(EmbeddedLog::open(disk, options, random).map_err(log_error)?))
}

/// The log on log servers. It may be made at any start: it then has another identity than what the
/// engine holds, and is refused.
fn replicated_log(
    config: &Config,
    claims: BTreeMap<ShardId, Lsn>,
    random: &mut dyn Random,
) -> Result<JetStreamLog, Error> {
    let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
    let identity = given(&config.log_certificate_file).zip(given(&config.log_key_file));
    let options = JetStreamOptions {
        replicas: config.log_replicas,
        claims,
        nkey_seed_file: given(&config.log_nkey_seed_file),
        tls: given(&config.log_ca_file).map(|ca| TlsFiles { ca, identity }),
        ..JetStreamOptions::new(config.log_servers.clone(), &config.log_name, vec![SHARD])
    };
    let log = JetStreamLog::open(options, random).map_err(log_error)?;
    // Now that the log answers, so do most of its servers.
    log_servers::must_sync(config)?;
    Ok(log)
}

/// A folder in which a restore was broken off looks like a node's and is none.
fn refuse_half_restored(disk: &dyn Disk, data: &Path) -> Result<(), Error> {
    if !disk.exists(RESTORING_FILE).map_err(io_error(data))? {
        return Ok(());
    }
    let text = "a restore was broken off here: empty the folder and restore again";
    Err(Error::new(ErrorKind::Corrupt, format!("{}: {text}", data.display())))
}

/// Makes a folder if need be. Its own name, and those of parents that are made with it, survive a
/// power cut only if the folders in which they stand were synced.
pub(crate) fn make_durable(path: &Path) -> Result<(), Error> {
    let absolute = std::path::absolute(path).map_err(io_error(path))?;
    let made = absolute.ancestors().take_while(|folder| !folder.exists()).count();
    std::fs::create_dir_all(&absolute).map_err(io_error(path))?;
    let absolute = absolute.canonicalize().map_err(io_error(path))?;
    for folder in absolute.ancestors().take(2.max(made + 1)) {
        let folder_file = std::fs::File::open(folder).map_err(io_error(folder))?;
        folder_file.sync_all().map_err(io_error(folder))?;
    }
    Ok(())
}

/// Verifies every checksum of a stopped node's data, and that log and engine agree. Gives the
/// report's lines; an error if something is wrong.
pub fn check(data: &Path) -> Result<Vec<String>, Error> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(data).map_err(io_error(data))?);
    refuse_half_restored(&*disk, data)?;
    must_hold_data(&*disk, data)?;
    let _lock = disk.lock(LOCK_FILE).map_err(io_error(data))?;
    verify_data(&disk, data)
}

/// Refuses a folder in which no node has ever been.
pub(crate) fn must_hold_data(disk: &dyn Disk, data: &Path) -> Result<(), Error> {
    if disk.exists(LOG_DIR).map_err(io_error(data))? {
        return Ok(());
    }
    let here = data.display();
    if disk.exists(LOG_MAKING_DIR).map_err(io_error(data))? {
        let text = format!("{here}: a start was cut short; start the node once, then try again");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    if disk.exists(ENGINE_DIR).map_err(io_error(data))? {
        return Err(damaged(&format!("{here}: there is an engine, but no log beside it")));
    }
    Err(Error::new(ErrorKind::Invalid, format!("{here}: no data of a node here")))
}

/// As [`check`], of a folder that is locked already.
pub(crate) fn verify_data(disk: &Arc<dyn Disk>, data: &Path) -> Result<Vec<String>, Error> {
    let report = holdfast_log::embedded::verify(&**disk, LOG_DIR).map_err(log_error)?;
    let mut lines = vec![format!(
        "log: {} segments, {} groups, {} records",
        report.segments, report.groups, report.records
    )];
    if let Some((file, offset)) = &report.torn {
        lines.push(format!("log: the last write, {file} at {offset}, is torn and will be cut off"));
    }
    if report.start_cut_short {
        lines.push("log: a start was cut short; the next one finishes it".to_owned());
    }
    if let Some(problem) = report.problems.first() {
        return Err(Error::new(ErrorKind::Corrupt, problem.to_string()));
    }
    let options = EngineOptions::default();
    let engine =
        RocksEngine::open(&data.join(ENGINE_DIR), holdfast_engine::OpenMode::Existing, &options)
            .map_err(engine_error)?;
    let verified = engine.verify().map_err(engine_error)?;
    lines.push(format!("engine: {} files, {} bytes", verified.files, verified.bytes));
    if let Some(damage) = verified.damage.first() {
        return Err(damaged(&format!("engine: {damage}")));
    }
    let state = holdfast_shard::stored_state(&engine, SHARD)?.unwrap_or_default();
    let ends = report.shards.get(&SHARD);
    let (first, next) = ends.map_or((Lsn(1), Lsn(1)), |shard| (shard.first, shard.next));
    lines.push(format!(
        "agreement: the engine has applied {}, the log holds {first} to {}",
        state.lsn,
        Lsn(next.0.saturating_sub(1))
    ));
    if state.lsn >= next || state.lsn.next() < first {
        let text = format!(
            "log and engine are not of one time: the engine has applied {}, but the log holds {first} \
             to before {next}",
            state.lsn
        );
        return Err(damaged(&text));
    }
    Ok(lines)
}

/// What keeps the engine of a stopped node from being read. A missing file is an I/O error.
fn engine_error(error: EngineError) -> Error {
    match error.kind {
        EngineErrorKind::Corrupt | EngineErrorKind::Missing | EngineErrorKind::Io => {
            damaged(&error.to_string())
        }
        _ => error.into(),
    }
}

/// What is damaged, with what to do about it.
fn damaged(what: &str) -> Error {
    let advice = "keep the folder, put the missing or damaged file back, or restore from a backup";
    Error::new(ErrorKind::Corrupt, format!("{what}. Acknowledged records may be lost: {advice}"))
}
