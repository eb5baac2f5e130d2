//! The engine as a model: two ordered maps in memory, one durable and one visible, and the batches
//! in between. Deterministic: nothing here asks a clock, a thread or an unseeded random source.
//!
//! [`ModelEngine::crash`] keeps a prefix of the unflushed batches, which is exactly what the real
//! engine may do. Cached reads can be told to answer `Incomplete`, writes and flushes to fail once.
//! Not fast: a write copies all rows while a snapshot of them lives.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::traits::{Engine, EngineStats, Lookup, ScanEnd, Snapshot, Tier, VerifyReport, Visit};
use crate::{Batch, BatchOp, EngineError, EngineErrorKind};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The model engine. A handle: clones share one state, as a restarted node shares its disk.
#[derive(Clone, Default)]
pub struct ModelEngine {
    /// Guards everything; no other lock is taken under it but that of `Policy` (its own field).
    state: Arc<Mutex<State>>,
    policy: Arc<Mutex<Policy>>,
}

#[derive(Default)]
struct State {
    /// What a crash leaves at the least.
    durable: Rows,
    /// What reads see: `durable` with `unflushed` applied.
    visible: Arc<Rows>,
    unflushed: Vec<Batch>,
    checkpoints: BTreeMap<PathBuf, Rows>,
    fail_write: Option<EngineError>,
    fail_flush: Option<EngineError>,
    background_error: Option<String>,
}

/// How often a cached read is told to be incomplete, and the state of its random sequence.
#[derive(Default)]
struct Policy {
    sequence: u64,
    /// One in so many; 0 never.
    one_in: u64,
}

impl ModelEngine {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of batches that a crash could lose now.
    pub fn unflushed(&self) -> usize {
        self.state.lock().unflushed.len()
    }

    /// A crash and restart: of the `n` unflushed batches the first `keep(n)` survive (at most `n`).
    /// Snapshots taken before belong to the process that died; drop them.
    pub fn crash(&self, keep: impl FnOnce(usize) -> usize) {
        let mut state = self.state.lock();
        let count = state.unflushed.len();
        let kept = keep(count).min(count);
        state.make_durable(kept);
        state.unflushed.clear();
        state.visible = Arc::new(state.durable.clone());
        state.fail_write = None;
        state.fail_flush = None;
        state.background_error = None;
    }

    /// Makes the oldest `count` unflushed batches durable, as a background flush may at any time.
    pub fn flush_oldest(&self, count: usize) {
        let mut state = self.state.lock();
        let count = count.min(state.unflushed.len());
        state.make_durable(count);
    }

    /// From now on about one in `one_in` reads with [`Tier::Cached`] answers `Incomplete`, by a
    /// sequence that `seed` alone decides. 0 switches it off.
    pub fn set_incomplete(&self, seed: u64, one_in: u64) {
        *self.policy.lock() = Policy { sequence: seed, one_in };
    }

    /// The next write fails with this error and changes nothing.
    pub fn fail_next_write(&self, error: EngineError) {
        self.state.lock().fail_write = Some(error);
    }

    /// The next flush fails with this error and makes nothing durable.
    pub fn fail_next_flush(&self, error: EngineError) {
        self.state.lock().fail_flush = Some(error);
    }

    /// A new engine with the rows of a checkpoint that this one made.
    pub fn open_checkpoint(&self, dir: &Path) -> Result<ModelEngine, EngineError> {
        let state = self.state.lock();
        let Some(rows) = state.checkpoints.get(dir) else {
            let message = format!("no checkpoint in {}", dir.display());
            return Err(EngineError::new(EngineErrorKind::Missing, message));
        };
        let fresh =
            State { durable: rows.clone(), visible: Arc::new(rows.clone()), ..State::default() };
        Ok(ModelEngine { state: Arc::new(Mutex::new(fresh)), policy: Arc::default() })
    }
}

impl State {
    fn make_durable(&mut self, count: usize) {
        for batch in self.unflushed.drain(..count) {
            apply(&mut self.durable, &batch);
        }
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        if let Some(error) = self.fail_flush.take() {
            self.background_error = Some(error.message.clone());
            return Err(error);
        }
        self.make_durable(self.unflushed.len());
        self.background_error = None;
        Ok(())
    }
}

impl Policy {
    /// Whether this read is to be incomplete. SplitMix64, one step per cached read.
    fn incomplete(&mut self, tier: Tier) -> bool {
        if tier != Tier::Cached || self.one_in == 0 {
            return false;
        }
        self.sequence = self.sequence.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.sequence;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).is_multiple_of(self.one_in)
    }
}

fn apply(rows: &mut Rows, batch: &Batch) {
    for op in batch {
        match op {
            BatchOp::Put { key, value } => {
                rows.insert(key.to_vec(), value.to_vec());
            }
            BatchOp::Delete { key } => {
                rows.remove(key);
            }
            BatchOp::DeleteRange { from, to } => {
                let doomed: Vec<Vec<u8>> = range(rows, from, to).map(|(k, _)| k.clone()).collect();
                for key in doomed {
                    rows.remove(&key);
                }
            }
        }
    }
}

/// The rows of `from..to`, `to` empty for no end. The range must not be inverted.
fn range<'a>(
    rows: &'a Rows,
    from: &[u8],
    to: &[u8],
) -> std::collections::btree_map::Range<'a, Vec<u8>, Vec<u8>> {
    let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
    rows.range::<[u8], _>((Bound::Included(from), end))
}

fn look_up(rows: &Rows, key: &[u8]) -> Lookup {
    rows.get(key).map_or(Lookup::Absent, |value| Lookup::Found(value.clone()))
}

impl Engine for ModelEngine {
    fn get(&self, key: &[u8], tier: Tier) -> Result<Lookup, EngineError> {
        if self.policy.lock().incomplete(tier) {
            return Ok(Lookup::Incomplete);
        }
        let state = self.state.lock();
        let rows = if tier == Tier::Persisted { &state.durable } else { &*state.visible };
        Ok(look_up(rows, key))
    }

    fn multi_get(&self, keys: &[&[u8]], tier: Tier) -> Result<Vec<Lookup>, EngineError> {
        let state = self.state.lock();
        let mut policy = self.policy.lock();
        let rows = if tier == Tier::Persisted { &state.durable } else { &*state.visible };
        let one = |key: &&[u8]| match policy.incomplete(tier) {
            true => Lookup::Incomplete,
            false => look_up(rows, key),
        };
        Ok(keys.iter().map(one).collect())
    }

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        if let Some(error) = state.fail_write.take() {
            state.background_error = Some(error.message.clone());
            return Err(error);
        }
        if batch.is_empty() {
            return Ok(());
        }
        apply(Arc::make_mut(&mut state.visible), batch);
        state.unflushed.push(batch.clone());
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.state.lock().flush()
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        let rows = self.state.lock().visible.clone();
        Ok(Box::new(ModelSnapshot { rows, policy: self.policy.clone() }))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        if state.checkpoints.contains_key(dir) {
            let message = format!("{} exists already", dir.display());
            return Err(EngineError::new(EngineErrorKind::Invalid, message));
        }
        state.flush()?;
        let rows = state.durable.clone();
        state.checkpoints.insert(dir.to_path_buf(), rows);
        Ok(())
    }

    fn verify(&self) -> Result<VerifyReport, EngineError> {
        let state = self.state.lock();
        Ok(VerifyReport { files: 1, bytes: bytes_of(&state.durable), damage: Vec::new() })
    }

    fn stats(&self) -> EngineStats {
        let state = self.state.lock();
        EngineStats {
            memtable_bytes: state.unflushed.iter().map(|batch| batch.bytes() as u64).sum(),
            keys_estimated: state.visible.len() as u64,
            table_bytes: bytes_of(&state.durable),
            background_errors: u64::from(state.background_error.is_some()),
            background_error: state.background_error.clone(),
            ..EngineStats::default()
        }
    }
}

fn bytes_of(rows: &Rows) -> u64 {
    rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
}

struct ModelSnapshot {
    rows: Arc<Rows>,
    policy: Arc<Mutex<Policy>>,
}

impl Snapshot for ModelSnapshot {
    fn get(&self, key: &[u8], tier: Tier) -> Result<Lookup, EngineError> {
        tier.check_for_snapshot()?;
        if self.policy.lock().incomplete(tier) {
            return Ok(Lookup::Incomplete);
        }
        Ok(look_up(&self.rows, key))
    }

    fn multi_get(&self, keys: &[&[u8]], tier: Tier) -> Result<Vec<Lookup>, EngineError> {
        keys.iter().map(|key| self.get(key, tier)).collect()
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        tier: Tier,
        visit: &mut Visit<'_>,
    ) -> Result<ScanEnd, EngineError> {
        tier.check_for_snapshot()?;
        if !to.is_empty() && from >= to {
            return Ok(ScanEnd::Finished);
        }
        let mut rows = range(&self.rows, from, to);
        while let Some((key, value)) = if reverse { rows.next_back() } else { rows.next() } {
            if self.policy.lock().incomplete(tier) {
                return Ok(ScanEnd::Incomplete);
            }
            if visit(key, value).is_break() {
                return Ok(ScanEnd::Stopped);
            }
        }
        Ok(ScanEnd::Finished)
    }
}
