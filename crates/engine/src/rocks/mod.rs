//! The engine on RocksDB: one column family, no write-ahead log, the shard's log stands in for it.
//!
//! Without a WAL a crash loses what is in memtables; memtables are flushed oldest first and a batch
//! never straddles two, so what survives is a prefix of the batches. `Tier::Persisted` is RocksDB's
//! read tier of that name: it skips memtables and sees a flushed file only once it is installed,
//! after the file and the manifest that names it are synced. Files are RocksDB's own business here.

mod manifest;
mod raw;
mod snapshot;
mod stats;
mod tuning;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    Cache, ColumnFamilyDescriptor, DB, DBPinnableSlice, DEFAULT_COLUMN_FAMILY_NAME, FlushOptions,
    Options, ReadOptions, ReadTier, WriteBatch, WriteOptions,
};

use crate::traits::{Engine, EngineStats, Lookup, Snapshot, Tier, VerifyReport};
use crate::{Batch, BatchOp, EngineError, EngineErrorKind, EngineOptions, OpenMode};

/// An open RocksDB. A handle: clones share it. The last handle or snapshot to go closes it, which
/// flushes as a courtesy; only [`Engine::flush`] tells whether that worked.
#[derive(Clone)]
pub struct RocksEngine {
    shared: Arc<Shared>,
}

struct Shared {
    db: Arc<DB>,
    /// The options that RocksDB was opened with: its counters are read through them.
    options: Options,
    block_cache: Cache,
    block_cache_bytes: usize,
    /// Read options by tier, built once: building them costs an allocation in C++.
    cached: ReadOptions,
    any: ReadOptions,
    persisted: ReadOptions,
    without_wal: WriteOptions,
    /// The last failed write or flush not yet made good by a flush. A leaf lock.
    background_error: Mutex<Option<String>>,
}

impl RocksEngine {
    /// Opens the engine in `dir`. Fails with `Missing` if there is none and `mode` does not allow
    /// to make one, with `Busy` if another process or handle has it open, and with `Corrupt` if
    /// its files contradict each other.
    pub fn open(dir: &Path, mode: OpenMode, options: &EngineOptions) -> Result<Self, EngineError> {
        options.check()?;
        check_directory(dir, mode)?;
        let block_cache = Cache::new_hyper_clock_cache(options.block_cache_bytes, 0);
        let mut tuned = tuning::database_options(options, &block_cache)?;
        tuned.create_if_missing(mode == OpenMode::Create);
        // The column family is named so that its handle can be had: batched reads ask for one.
        let families = [ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, tuned.clone())];
        let db = DB::open_cf_descriptors(&tuned, dir, families)
            .map_err(|error| named(dir, at(dir, error)))?;
        let mut without_wal = WriteOptions::default();
        without_wal.disable_wal(true);
        let shared = Shared {
            db: Arc::new(db),
            options: tuned,
            block_cache,
            block_cache_bytes: options.block_cache_bytes,
            cached: read_options(Tier::Cached),
            any: read_options(Tier::Any),
            persisted: read_options(Tier::Persisted),
            without_wal,
            background_error: Mutex::new(None),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads one key of the closed engine in `dir`, a checkpoint for example, and changes nothing
    /// there but RocksDB's own text log.
    pub fn read_closed(dir: &Path, key: &[u8]) -> Result<Lookup, EngineError> {
        check_directory(dir, OpenMode::Existing)?;
        let db = DB::open_for_read_only(&options_to_look(), dir, false).map_err(|e| at(dir, e))?;
        lookup(db.get_pinned_opt(key, &read_options(Tier::Any)))
    }

    fn read_options(&self, tier: Tier) -> &ReadOptions {
        match tier {
            Tier::Cached => &self.shared.cached,
            Tier::Any => &self.shared.any,
            Tier::Persisted => &self.shared.persisted,
        }
    }

    /// Keeps the text of a failed write or flush for the statistics.
    fn noted(&self, error: rocksdb::Error) -> EngineError {
        let error = EngineError::from(error);
        *self.shared.background_error.lock() = Some(error.message.clone());
        error
    }
}

/// Refuses to create over the remains of an engine: RocksDB takes a directory without the file
/// `CURRENT` for empty and would delete the tables in it.
fn check_directory(dir: &Path, mode: OpenMode) -> Result<(), EngineError> {
    let io = |e: std::io::Error| {
        EngineError::new(EngineErrorKind::Io, format!("{}: {e}", dir.display()))
    };
    if dir.join("CURRENT").try_exists().map_err(io)? {
        return manifest::check(dir);
    }
    if mode == OpenMode::Existing {
        let message = format!("there is no engine in {}", dir.display());
        return Err(EngineError::new(EngineErrorKind::Missing, message));
    }
    if !dir.try_exists().map_err(io)? {
        return Ok(());
    }
    for entry in dir.read_dir().map_err(io)? {
        let path: PathBuf = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let message = format!("{} holds tables but no CURRENT file", dir.display());
            return Err(EngineError::new(EngineErrorKind::Corrupt, message));
        }
    }
    Ok(())
}

/// For what nobody has open, to read a little: neither is every table opened nor are statistics gathered.
fn options_to_look() -> Options {
    let mut options = Options::default();
    options.set_max_open_files(64);
    options.set_skip_stats_update_on_db_open(true);
    options
}

/// The error of opening damaged files, with the first damaged table: when a table cannot be opened, RocksDB may
/// name the MANIFEST that lists it. That is found by reading the tables, so the error is told before.
fn named(dir: &Path, mut error: EngineError) -> EngineError {
    if error.kind == EngineErrorKind::Corrupt && !error.message.contains(".sst") {
        let mut options = options_to_look();
        raw::enable_file_checksums(&mut options);
        // Opens although some tables do not.
        options.set_paranoid_checks(false);
        if let Ok(db) = DB::open_for_read_only(&options, dir, false) {
            tracing::error!(%error, "the tables are read to find the damaged one");
            if let Err(damage) = raw::verify_files(&db) {
                error.message += &format!("; {damage}");
            }
        }
    }
    error
}

fn at(dir: &Path, error: rocksdb::Error) -> EngineError {
    let EngineError { kind, message } = error.into();
    let what = match kind {
        EngineErrorKind::Busy => "is in use by another engine or process",
        _ => "cannot be opened",
    };
    EngineError::new(kind, format!("{} {what}: {message}", dir.display()))
}

/// Read options of a tier. Checksums are verified on every read of a block from a file.
fn read_options(tier: Tier) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options.set_read_tier(match tier {
        Tier::Cached => ReadTier::BlockCache,
        Tier::Any => ReadTier::All,
        Tier::Persisted => ReadTier::Persisted,
    });
    options
}

fn lookup(
    found: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>,
) -> Result<Lookup, EngineError> {
    match found {
        Ok(Some(value)) => Ok(Lookup::Found(value.to_vec())),
        Ok(None) => Ok(Lookup::Absent),
        Err(error) if is_incomplete(&error) => Ok(Lookup::Incomplete),
        Err(error) => Err(error.into()),
    }
}

fn is_incomplete(error: &rocksdb::Error) -> bool {
    error.kind() == rocksdb::ErrorKind::Incomplete
}

fn multi_get(db: &DB, keys: &[&[u8]], options: &ReadOptions) -> Result<Vec<Lookup>, EngineError> {
    let Some(family) = db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME) else {
        return Err(EngineError::new(EngineErrorKind::Internal, "no default column family"));
    };
    let found = db.batched_multi_get_cf_opt(family, keys.iter().copied(), false, options);
    found.into_iter().map(lookup).collect()
}

fn encode(batch: &Batch) -> WriteBatch {
    // A record is a tag and two lengths around its bytes; the header is 12 bytes.
    let mut encoded = WriteBatch::with_capacity_bytes(12 + batch.bytes() + 8 * batch.len());
    for op in batch {
        match op {
            BatchOp::Put { key, value } => encoded.put(key, value),
            BatchOp::Delete { key } => encoded.delete(key),
            BatchOp::DeleteRange { from, to } => encoded.delete_range(from, to),
        }
    }
    encoded
}

impl Engine for RocksEngine {
    fn get(&self, key: &[u8], tier: Tier) -> Result<Lookup, EngineError> {
        lookup(self.shared.db.get_pinned_opt(key, self.read_options(tier)))
    }

    fn multi_get(&self, keys: &[&[u8]], tier: Tier) -> Result<Vec<Lookup>, EngineError> {
        multi_get(&self.shared.db, keys, self.read_options(tier))
    }

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let shared = &self.shared;
        shared.db.write_opt(encode(batch), &shared.without_wal).map_err(|e| self.noted(e))
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.shared.db.flush_opt(&options).map_err(|e| self.noted(e))?;
        *self.shared.background_error.lock() = None;
        Ok(())
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        Ok(Box::new(snapshot::RocksSnapshot::new(self.shared.db.clone())))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError> {
        if dir.exists() {
            let message = format!("{} exists already", dir.display());
            return Err(EngineError::new(EngineErrorKind::Invalid, message));
        }
        self.flush()?;
        Checkpoint::new(&self.shared.db)?.create_checkpoint(dir).map_err(|e| at(dir, e))
    }

    fn verify(&self) -> Result<VerifyReport, EngineError> {
        let files = self.shared.db.live_files()?;
        let damage = raw::verify(&self.shared.db)?;
        Ok(VerifyReport {
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.size as u64).sum(),
            damage,
        })
    }

    fn stats(&self) -> EngineStats {
        self.shared.stats()
    }
}
