//! The contract of `Engine`, checked on both implementations by the same code.
//!
//! Every check takes a `World`, which can open an engine and, after that one is gone, open it
//! again. The oracle is a plain map kept by the test, not the model engine. What only one
//! implementation can show (kill -9, damaged files, simulated crashes) is in files of its own.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;

use holdfast_engine::{
    Batch, BatchOp, Engine, EngineErrorKind, EngineOptions, Lookup, ModelEngine, OpenMode,
    RocksEngine, ScanEnd, Snapshot, Tier,
};
use proptest::prelude::*;
use tempfile::TempDir;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A place that an engine lives in; it survives the engine's handles.
trait World {
    fn new() -> Self;
    fn open(&self) -> Box<dyn Engine>;
    /// A path for a checkpoint, and the engine opened from one.
    fn checkpoint_path(&self) -> PathBuf;
    fn open_checkpoint(&self) -> Box<dyn Engine>;
}

struct RocksWorld {
    dir: TempDir,
}

fn small() -> EngineOptions {
    // Whole indexes here, as the crash and damage tests run with partitioned ones.
    EngineOptions {
        block_cache_bytes: 8 << 20,
        memtable_bytes_total: 8 << 20,
        partitioned_indexes: false,
        ..Default::default()
    }
}

impl World for RocksWorld {
    fn new() -> Self {
        Self { dir: TempDir::new().expect("a temporary folder can be made") }
    }

    fn open(&self) -> Box<dyn Engine> {
        let dir = self.dir.path().join("engine");
        Box::new(RocksEngine::open(&dir, OpenMode::Create, &small()).expect("engine opens"))
    }

    fn checkpoint_path(&self) -> PathBuf {
        self.dir.path().join("checkpoint")
    }

    fn open_checkpoint(&self) -> Box<dyn Engine> {
        let dir = self.checkpoint_path();
        Box::new(RocksEngine::open(&dir, OpenMode::Existing, &small()).expect("copy opens"))
    }
}

struct ModelWorld {
    engine: ModelEngine,
}

impl World for ModelWorld {
    fn new() -> Self {
        let engine = ModelEngine::new();
        engine.set_incomplete(7, 3);
        Self { engine }
    }

    fn open(&self) -> Box<dyn Engine> {
        Box::new(self.engine.clone())
    }

    fn checkpoint_path(&self) -> PathBuf {
        PathBuf::from("/checkpoint")
    }

    fn open_checkpoint(&self) -> Box<dyn Engine> {
        Box::new(self.engine.open_checkpoint(&self.checkpoint_path()).expect("copy opens"))
    }
}

// A macro because a test function cannot be generic: each check becomes one test per engine.
macro_rules! conformance {
    ($($check:ident),* $(,)?) => {
        mod rocks { $(#[test] fn $check() { super::$check::<super::RocksWorld>(); })* }
        mod model { $(#[test] fn $check() { super::$check::<super::ModelWorld>(); })* }
    };
}

conformance!(
    random_operations_match_an_ordered_map,
    a_batch_applies_in_order,
    snapshots_do_not_see_later_writes,
    a_snapshot_outlives_the_engine_handle_and_its_thread,
    scans_keep_to_their_bounds_in_both_directions,
    flushed_rows_are_there_after_reopening,
    the_persisted_tier_sees_flushed_rows_only,
    a_snapshot_refuses_the_persisted_tier,
    a_checkpoint_is_a_complete_separate_copy,
    an_undamaged_engine_verifies_clean,
    statistics_follow_the_rows,
);

// ---- helpers ----

fn batch(ops: &[BatchOp<'_>]) -> Batch {
    let mut batch = Batch::new();
    for op in ops {
        match *op {
            BatchOp::Put { key, value } => batch.put(key, value),
            BatchOp::Delete { key } => batch.delete(key),
            BatchOp::DeleteRange { from, to } => batch.delete_range(from, to),
        }
    }
    batch
}

fn put(engine: &dyn Engine, key: &[u8], value: &[u8]) {
    engine.write(&batch(&[BatchOp::Put { key, value }])).expect("write");
}

fn found(value: &[u8]) -> Lookup {
    Lookup::Found(value.to_vec())
}

fn expected(rows: &Rows, key: &[u8]) -> Lookup {
    rows.get(key).map_or(Lookup::Absent, |value| found(value))
}

fn collect(
    snapshot: &dyn Snapshot,
    from: &[u8],
    to: &[u8],
    reverse: bool,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let end = snapshot
        .scan(from, to, reverse, Tier::Any, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("scan");
    assert_eq!(end, ScanEnd::Finished);
    rows
}

fn oracle(rows: &Rows, from: &[u8], to: &[u8], reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    if !to.is_empty() && from >= to {
        return Vec::new();
    }
    let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
    let range = rows.range::<[u8], _>((Bound::Included(from), end));
    let mut rows: Vec<_> = range.map(|(key, value)| (key.clone(), value.clone())).collect();
    if reverse {
        rows.reverse();
    }
    rows
}

/// A cached scan visits a prefix of the true rows, and all of them if it says so.
fn check_cached_scan(snapshot: &dyn Snapshot, from: &[u8], to: &[u8], reverse: bool, truth: &Rows) {
    let mut rows = Vec::new();
    let end = snapshot.scan(from, to, reverse, Tier::Cached, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    });
    let truth = oracle(truth, from, to, reverse);
    assert!(truth.starts_with(&rows), "a cached scan strayed from the rows");
    match end.expect("scan") {
        ScanEnd::Finished => assert_eq!(rows.len(), truth.len()),
        ScanEnd::Incomplete => {}
        ScanEnd::Stopped => panic!("nobody stopped the scan"),
    }
}

// ---- random operations ----

#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Vec<u8>),
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Change>),
    Flush,
    Reopen,
    Snapshot,
    Get(Vec<u8>),
    MultiGet(Vec<Vec<u8>>),
    Scan(Vec<u8>, Vec<u8>, bool),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', b'b', 0xff]), 0..4)
}

fn change() -> impl Strategy<Value = Change> {
    let value = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        6 => (key(), value).prop_map(|(key, value)| Change::Put(key, value)),
        2 => key().prop_map(Change::Delete),
        1 => (key(), key()).prop_map(|(from, to)| Change::DeleteRange(from, to)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => prop::collection::vec(change(), 0..6).prop_map(Step::Write),
        3 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        3 => Just(Step::Snapshot),
        12 => key().prop_map(Step::Get),
        4 => prop::collection::vec(key(), 0..5).prop_map(Step::MultiGet),
        8 => (key(), key(), any::<bool>()).prop_map(|(from, to, back)| Step::Scan(from, to, back)),
    ]
}

fn change_rows(rows: &mut Rows, change: &Change) {
    match change {
        Change::Put(key, value) => drop(rows.insert(key.clone(), value.clone())),
        Change::Delete(key) => drop(rows.remove(key)),
        Change::DeleteRange(from, to) => rows.retain(|key, _| key < from || key >= to),
    }
}

/// One run: an engine, the rows that it ought to have, and the snapshots taken so far.
struct Run<W: World> {
    engine: Option<Box<dyn Engine>>,
    visible: Rows,
    flushed: Rows,
    snapshots: Vec<(Box<dyn Snapshot>, Rows)>,
    // The last field, as the world must outlive the handles.
    world: W,
}

impl<W: World> Run<W> {
    fn new() -> Self {
        let world = W::new();
        let engine = Some(world.open());
        let (visible, flushed) = (Rows::new(), Rows::new());
        Self { engine, visible, flushed, snapshots: Vec::new(), world }
    }

    fn engine(&self) -> &dyn Engine {
        self.engine.as_deref().expect("only reopening takes it, and puts it back")
    }

    fn write(&mut self, changes: &[Change]) {
        let mut batch = Batch::new();
        for change in changes {
            match change {
                Change::Put(key, value) => batch.put(key, value),
                Change::Delete(key) => batch.delete(key),
                Change::DeleteRange(from, to) => batch.delete_range(from, to),
            }
            change_rows(&mut self.visible, change);
        }
        self.engine().write(&batch).expect("write");
    }

    fn flush(&mut self) {
        self.engine().flush().expect("flush");
        self.flushed = self.visible.clone();
    }

    fn get(&self, key: &[u8]) {
        let get = |tier| self.engine().get(key, tier).expect("get");
        assert_eq!(get(Tier::Any), expected(&self.visible, key));
        assert_eq!(get(Tier::Persisted), expected(&self.flushed, key));
        let cached = get(Tier::Cached);
        assert!(cached == Lookup::Incomplete || cached == expected(&self.visible, key));
    }

    fn multi_get(&self, keys: &[Vec<u8>]) {
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        for (tier, rows) in [(Tier::Any, &self.visible), (Tier::Persisted, &self.flushed)] {
            let truth: Vec<Lookup> = keys.iter().map(|key| expected(rows, key)).collect();
            assert_eq!(self.engine().multi_get(&keys, tier).expect("multi_get"), truth);
        }
        let cached = self.engine().multi_get(&keys, Tier::Cached).expect("multi_get");
        assert_eq!(cached.len(), keys.len());
        for (key, lookup) in keys.iter().zip(cached) {
            assert!(lookup == Lookup::Incomplete || lookup == expected(&self.visible, key));
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool) {
        let now = self.engine().snapshot().expect("snapshot");
        assert_eq!(collect(&*now, from, to, reverse), oracle(&self.visible, from, to, reverse));
        check_cached_scan(&*now, from, to, reverse, &self.visible);
    }

    /// Every snapshot still shows the rows of its moment.
    fn check_snapshots(&self) {
        for (snapshot, rows) in &self.snapshots {
            assert_eq!(collect(&**snapshot, b"", b"", false), oracle(rows, b"", b"", false));
            for key in self.visible.keys().chain(rows.keys()) {
                assert_eq!(snapshot.get(key, Tier::Any).expect("get"), expected(rows, key));
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(changes) => self.write(changes),
            Step::Flush => self.flush(),
            Step::Reopen => {
                self.flush();
                self.check_snapshots();
                self.snapshots.clear();
                self.engine = None;
                self.engine = Some(self.world.open());
            }
            Step::Snapshot => {
                let snapshot = self.engine().snapshot().expect("snapshot");
                self.snapshots.push((snapshot, self.visible.clone()));
            }
            Step::Get(key) => self.get(key),
            Step::MultiGet(keys) => self.multi_get(keys),
            Step::Scan(from, to, reverse) => self.scan(from, to, *reverse),
        }
    }
}

fn random_operations_match_an_ordered_map<W: World>() {
    // A failing case prints its shortest steps; they are the seed.
    let config = ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() };
    let steps = prop::collection::vec(step(), 1..80);
    proptest!(config, |(steps in steps)| {
        let mut run = Run::<W>::new();
        for step in &steps {
            run.step(step);
        }
        run.check_snapshots();
        run.scan(b"", b"", false);
        run.scan(b"", b"", true);
    });
}

// ---- single checks ----

fn a_batch_applies_in_order<W: World>() {
    let world = W::new();
    let engine = world.open();
    engine
        .write(&batch(&[
            BatchOp::Put { key: b"a", value: b"1" },
            BatchOp::Put { key: b"b", value: b"1" },
            BatchOp::Put { key: b"c", value: b"1" },
            BatchOp::DeleteRange { from: b"a", to: b"c" },
            BatchOp::Put { key: b"b", value: b"2" },
            BatchOp::Delete { key: b"never" },
        ]))
        .expect("write");
    let keys: [&[u8]; 3] = [b"a", b"b", b"c"];
    let want = vec![Lookup::Absent, found(b"2"), found(b"1")];
    assert_eq!(engine.multi_get(&keys, Tier::Any).expect("multi_get"), want);
    engine.write(&Batch::new()).expect("an empty batch is fine");
}

fn snapshots_do_not_see_later_writes<W: World>() {
    let world = W::new();
    let engine = world.open();
    put(&*engine, b"k", b"old");
    let snapshot = engine.snapshot().expect("snapshot");
    let change =
        [BatchOp::Put { key: b"k", value: b"new" }, BatchOp::Put { key: b"l", value: b"new" }];
    engine.write(&batch(&change)).expect("write");
    engine.flush().expect("flush");
    engine.write(&batch(&[BatchOp::DeleteRange { from: b"a", to: b"z" }])).expect("write");
    assert_eq!(snapshot.get(b"k", Tier::Any).expect("get"), found(b"old"));
    let both = snapshot.multi_get(&[b"l", b"k"], Tier::Any).expect("multi_get");
    assert_eq!(both, [Lookup::Absent, found(b"old")]);
    assert_eq!(collect(&*snapshot, b"", b"", true), [(b"k".to_vec(), b"old".to_vec())]);
    assert_eq!(engine.get(b"k", Tier::Any).expect("get"), Lookup::Absent);
}

fn a_snapshot_outlives_the_engine_handle_and_its_thread<W: World>() {
    let world = W::new();
    let engine = world.open();
    put(&*engine, b"k", b"v");
    let snapshot = engine.snapshot().expect("snapshot");
    drop(engine);
    let reader = std::thread::spawn(move || snapshot.get(b"k", Tier::Any));
    let lookup = reader.join().expect("the reader does not panic");
    assert_eq!(lookup.expect("get"), found(b"v"));
}

fn scans_keep_to_their_bounds_in_both_directions<W: World>() {
    let world = W::new();
    let engine = world.open();
    for key in [&b"a"[..], b"b", b"ba", b"c", b"\xff\xff"] {
        put(&*engine, key, key);
    }
    engine.flush().expect("flush");
    let snapshot = engine.snapshot().expect("snapshot");
    let keys = |from: &[u8], to: &[u8], reverse| -> Vec<Vec<u8>> {
        collect(&*snapshot, from, to, reverse).into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(b"b", b"c", false), [b"b".to_vec(), b"ba".to_vec()]);
    assert_eq!(keys(b"b", b"c", true), [b"ba".to_vec(), b"b".to_vec()]);
    assert_eq!(keys(b"c", b"", true), [b"\xff\xff".to_vec(), b"c".to_vec()]);
    assert_eq!(keys(b"", b"", false).len(), 5);
    assert!(keys(b"c", b"b", false).is_empty() && keys(b"c", b"b", true).is_empty());
    assert!(keys(b"b", b"b", false).is_empty());

    let mut seen = 0;
    let end = snapshot.scan(b"", b"", false, Tier::Any, &mut |_, _| {
        seen += 1;
        if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((end.expect("scan"), seen), (ScanEnd::Stopped, 2));
}

fn flushed_rows_are_there_after_reopening<W: World>() {
    let world = W::new();
    let engine = world.open();
    for index in 0..1000u32 {
        put(&*engine, &index.to_be_bytes(), &[7; 100]);
    }
    let middle = [BatchOp::DeleteRange { from: &100u32.to_be_bytes(), to: &200u32.to_be_bytes() }];
    engine.write(&batch(&middle)).expect("write");
    engine.flush().expect("flush");
    drop(engine);
    let engine = world.open();
    let snapshot = engine.snapshot().expect("snapshot");
    assert_eq!(collect(&*snapshot, b"", b"", false).len(), 900);
    for (key, there) in [(99u32, true), (100, false), (199, false), (200, true)] {
        let lookup = engine.get(&key.to_be_bytes(), Tier::Persisted).expect("get");
        assert_eq!(lookup != Lookup::Absent, there, "row {key}");
    }
}

fn the_persisted_tier_sees_flushed_rows_only<W: World>() {
    let world = W::new();
    let engine = world.open();
    let persisted = || engine.get(b"k", Tier::Persisted).expect("get");
    put(&*engine, b"k", b"1");
    assert_eq!(persisted(), Lookup::Absent);
    engine.flush().expect("flush");
    assert_eq!(persisted(), found(b"1"));
    put(&*engine, b"k", b"2");
    assert_eq!(persisted(), found(b"1"));
    engine.write(&batch(&[BatchOp::DeleteRange { from: b"a", to: b"z" }])).expect("write");
    assert_eq!(persisted(), found(b"1"));
    assert_eq!(engine.multi_get(&[b"k"], Tier::Persisted).expect("multi_get"), [found(b"1")]);
    engine.flush().expect("flush");
    assert_eq!(persisted(), Lookup::Absent);
}

fn a_snapshot_refuses_the_persisted_tier<W: World>() {
    let world = W::new();
    let engine = world.open();
    let snapshot = engine.snapshot().expect("snapshot");
    let kinds = [
        snapshot.get(b"k", Tier::Persisted).map(drop),
        snapshot.multi_get(&[b"k"], Tier::Persisted).map(drop),
        snapshot
            .scan(b"", b"", false, Tier::Persisted, &mut |_, _| ControlFlow::Continue(()))
            .map(drop),
    ]
    .map(|outcome| outcome.expect_err("refused").kind);
    assert_eq!(kinds, [EngineErrorKind::Invalid; 3]);
}

fn a_checkpoint_is_a_complete_separate_copy<W: World>() {
    let world = W::new();
    let engine = world.open();
    put(&*engine, b"flushed", b"1");
    engine.flush().expect("flush");
    put(&*engine, b"unflushed", b"2");
    engine.checkpoint(&world.checkpoint_path()).expect("checkpoint");
    let again = engine.checkpoint(&world.checkpoint_path()).expect_err("the folder exists");
    assert_eq!(again.kind, EngineErrorKind::Invalid);
    put(&*engine, b"later", b"3");

    let copy = world.open_checkpoint();
    let keys: [&[u8]; 3] = [b"flushed", b"unflushed", b"later"];
    let want = [found(b"1"), found(b"2"), Lookup::Absent];
    assert_eq!(copy.multi_get(&keys, Tier::Any).expect("multi_get"), want);
    put(&*copy, b"flushed", b"changed");
    copy.flush().expect("flush");
    assert_eq!(engine.get(b"flushed", Tier::Any).expect("get"), found(b"1"));
    assert!(copy.verify().expect("verify").damage.is_empty());
}

fn an_undamaged_engine_verifies_clean<W: World>() {
    let world = W::new();
    let engine = world.open();
    put(&*engine, b"k", b"v");
    engine.flush().expect("flush");
    let report = engine.verify().expect("verify");
    assert!(report.files > 0 && report.bytes > 0 && report.damage.is_empty(), "{report:?}");
}

fn statistics_follow_the_rows<W: World>() {
    let world = W::new();
    let engine = world.open();
    for index in 0..500u32 {
        put(&*engine, &index.to_be_bytes(), &[1; 100]);
    }
    let before = engine.stats();
    assert!(before.memtable_bytes >= 50_000 && before.keys_estimated == 500, "{before:?}");
    engine.flush().expect("flush");
    let after = engine.stats();
    assert!(after.table_bytes > 0 && after.memtable_bytes < before.memtable_bytes, "{after:?}");
    assert_eq!(after.background_error, None);
}
