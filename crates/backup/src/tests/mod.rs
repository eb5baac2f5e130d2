//! Backups and restores of a small node on a real disk: log, engine and a memory of every state.

mod archiving;
mod pruning;
mod restoring;
mod taking;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use holdfast_base::{
    Effect, Error, Generation, Head, Hlc, KeyspaceId, Lsn, Payload, ShardId, key,
    record::BatchBuilder, row::AppliedState,
};
use holdfast_engine::{Engine, EngineOptions, OpenMode, RocksEngine, Tier};
use holdfast_io::{Disk, FolderStore, ObjectStore, RealDisk, SeededRandom};
use holdfast_log::{EmbeddedLog, EmbeddedOptions, Log, OpenMode as LogMode, Position, Session};
use holdfast_shard::{apply_batches, stored_state};
use tempfile::TempDir;

use crate::{BackupId, Destination, Manifest, Restored, Source, Step, Target, restore, take};

const SHARD: ShardId = ShardId(0);
/// A wall clock that moves by a millisecond a look: backups are named by it.
static NOW_MS: AtomicU64 = AtomicU64::new(1_800_000_000_000);
/// Every record is a second after the one before.
const FIRST_MS: u64 = 1_764_110_701_000;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type TestResult = Result<(), Error>;

/// Where backups go.
struct Place {
    folder: TempDir,
    store: FolderStore,
}

impl Place {
    fn new() -> Place {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let disk = RealDisk::new(folder.path()).expect("it is there");
        Place { folder, store: FolderStore::new(Arc::new(disk)) }
    }

    /// All stored objects.
    fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let entries = self.store.list(folder).expect("the folder can be listed");
        entries.iter().map(|entry| self.folder.path().join(folder).join(&entry.name)).collect()
    }
}

/// A node without its server.
struct Life {
    folder: TempDir,
    disk: Arc<dyn Disk>,
    engine: RocksEngine,
    log: EmbeddedLog,
    session: Box<dyn Session>,
    position: Position,
    state: AppliedState,
    /// The rows after each record.
    history: BTreeMap<Lsn, Rows>,
}

fn log_options(mode: LogMode) -> EmbeddedOptions {
    EmbeddedOptions { segment_bytes: 64 << 10, ..EmbeddedOptions::new("log", mode) }
}

impl Life {
    /// A node that nobody has written to.
    fn new(seed: u64) -> Life {
        let folder = TempDir::new().expect("a temporary folder can be made");
        Life::open(folder, seed)
    }

    /// Opens what is in the folder, or makes it.
    fn open(folder: TempDir, seed: u64) -> Life {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()).expect("it is there"));
        let options = EngineOptions {
            block_cache_bytes: 2 << 20,
            memtable_bytes_total: 2 << 20,
            ..EngineOptions::default()
        };
        let dir = folder.path().join("engine");
        let engine = RocksEngine::open(&dir, OpenMode::Create, &options).expect("engine opens");
        let random = &mut SeededRandom::new(seed);
        let log = EmbeddedLog::open(disk.clone(), log_options(LogMode::Create), random);
        let log = log.expect("log opens");
        let state = stored_state(&engine, SHARD).expect("it decodes").unwrap_or_default();
        let (session, position) = log.open_session(SHARD).expect("the log is sound");
        assert_eq!(position.next_lsn, state.lsn.next());
        let history = BTreeMap::from([(state.lsn, rows(&engine))]);
        let mut life = Life { folder, disk, engine, log, session, position, state, history };
        let epoch = life.position.epoch;
        life.append(&[Effect::TakeOver { epoch, owner: b"test" }]);
        life
    }

    /// SET, durable and applied.
    fn put(&mut self, key: &str, value: &[u8]) -> Lsn {
        let head = Head { deadline_ms: None, payload: Payload::Inline(value) };
        let subject =
            Effect::Key { keyspace: KeyspaceId(0), generation: Generation(0), key: key.as_bytes() };
        self.append(&[subject, Effect::PutHead { head, old_deadline_ms: None }])
    }

    fn append(&mut self, effects: &[Effect<'_>]) -> Lsn {
        let mut builder = BatchBuilder::new(self.position.header(SHARD), Vec::new());
        let time = Hlc::from_ms(FIRST_MS + 1_000 * self.position.next_lsn.0);
        builder.begin(time, None);
        effects.iter().for_each(|effect| builder.push(effect));
        let lsn = builder.finish().expect("it was begun");
        let batch = builder.seal();
        self.position.next_lsn = lsn.next();
        self.position.next_n += 1;
        self.position.chain = batch.chain_after;
        self.session.submit(vec![batch]).expect("the session is open");
        self.session.complete().expect("one call is in flight");
        let read = self.log.read(SHARD, lsn, 1).expect("it is durable");
        apply_batches(SHARD, &self.engine, &mut self.state, read.batches(), |_| true)
            .expect("it continues the engine");
        self.history.insert(lsn, rows(&self.engine));
        lsn
    }

    fn source<'a>(&'a self, engine: &'a RocksEngine) -> Source<'a> {
        Source {
            engine,
            disk: &*self.disk,
            data: self.folder.path(),
            shard: SHARD,
            node: "test",
            now_ms: NOW_MS.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn back_up(&self, place: &Place) -> Result<Manifest, Error> {
        take(&place.store, &self.source(&self.engine), &mut |_| Ok(()))
    }
}

/// All rows but the applied state.
fn rows(engine: &RocksEngine) -> Rows {
    let mut state = Vec::new();
    key::applied(&mut state, SHARD);
    let mut rows = Rows::new();
    let snapshot = engine.snapshot().expect("the engine is open");
    let end = snapshot.scan(b"", b"", false, Tier::Any, &mut |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    });
    end.expect("the engine is sound");
    rows.remove(&state);
    rows
}

/// Restores into a new folder, which it gives.
fn bring_back(
    place: &Place,
    backup: Option<&BackupId>,
    target: Target,
) -> (TempDir, Result<Restored, Error>) {
    let folder = TempDir::new().expect("a temporary folder can be made");
    let restored = bring_back_into(&folder, place, backup, target);
    (folder, restored)
}

fn bring_back_into(
    folder: &TempDir,
    place: &Place,
    backup: Option<&BackupId>,
    target: Target,
) -> Result<Restored, Error> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()).expect("it is there"));
    let destination = Destination {
        disk: &disk,
        data: folder.path(),
        ignore: &["lock"],
        engine_dir: "engine",
        log: &log_options(LogMode::Create),
        shard: SHARD,
    };
    let random = &mut SeededRandom::new(99);
    restore(&place.store, backup, target, &destination, random, &mut |_| Ok(()))
}

/// The rows of a restored folder.
fn restored_rows(folder: &TempDir) -> Rows {
    let dir = folder.path().join("engine");
    let engine = RocksEngine::open(&dir, OpenMode::Existing, &EngineOptions::default());
    rows(&engine.expect("it was restored"))
}
