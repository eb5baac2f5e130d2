//! The model engine with a way to let other things happen in the middle of a call.
//!
//! Between a lookup and what its caller does with it, or around a write, an armed action runs: what
//! another thread would do at that moment. It must not need a lock that the caller holds, so the
//! simulator arms reads without the shard lock and the applier only.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use holdfast_base::{Head, key::Family};

use holdfast_engine::{
    Batch, BatchOp, Engine, EngineError, EngineStats, Lookup, ModelEngine, Snapshot, Tier,
    VerifyReport,
};
use parking_lot::Mutex;

/// At which call the action runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum During {
    /// After a lookup, before its caller sees the answer.
    Lookup,
    /// Before a write.
    BeforeWrite,
    /// After a write, before its caller goes on.
    AfterWrite,
}

struct Armed {
    during: During,
    /// Calls of that kind that pass before.
    skip: u64,
    action: Box<dyn FnOnce() + Send>,
}

/// See the module's head. A handle: clones share one state.
#[derive(Clone, Default)]
pub(super) struct SimEngine {
    pub model: ModelEngine,
    // Guards the armed action; not held while it runs.
    armed: Arc<Mutex<Option<Armed>>>,
    /// Planted: heads are written without their deadlines.
    pub lose_deadlines: Arc<AtomicBool>,
}

impl SimEngine {
    /// Lets `action` run once, at the call of that kind after `skip` others.
    pub fn arm(&self, during: During, skip: u64, action: impl FnOnce() + Send + 'static) {
        *self.armed.lock() = Some(Armed { during, skip, action: Box::new(action) });
    }

    /// Forgets the action if it has not run.
    pub fn disarm(&self) {
        *self.armed.lock() = None;
    }

    fn at(&self, during: During) {
        let due = {
            let mut armed = self.armed.lock();
            match armed.as_mut() {
                Some(waiting) if waiting.during == during && waiting.skip > 0 => {
                    waiting.skip -= 1;
                    None
                }
                Some(waiting) if waiting.during == during => armed.take(),
                _ => None,
            }
        };
        if let Some(due) = due {
            (due.action)();
        }
    }

    /// Every row that reads see.
    pub fn rows(&self) -> Result<super::archive::Rows, EngineError> {
        let mut rows = super::archive::Rows::new();
        self.model.snapshot()?.scan(&[], &[], false, Tier::Any, &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(rows)
    }
}

impl Engine for SimEngine {
    fn get(&self, key: &[u8], tier: Tier) -> Result<Lookup, EngineError> {
        let found = self.model.get(key, tier);
        self.at(During::Lookup);
        found
    }

    fn multi_get(&self, keys: &[&[u8]], tier: Tier) -> Result<Vec<Lookup>, EngineError> {
        let found = self.model.multi_get(keys, tier);
        self.at(During::Lookup);
        found
    }

    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        self.at(During::BeforeWrite);
        let written = if self.lose_deadlines.load(Ordering::Relaxed) {
            self.model.write(&without_deadlines(batch))
        } else {
            self.model.write(batch)
        };
        self.at(During::AfterWrite);
        written
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.model.flush()
    }

    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError> {
        self.model.snapshot()
    }

    fn checkpoint(&self, dir: &std::path::Path) -> Result<(), EngineError> {
        self.model.checkpoint(dir)
    }

    fn verify(&self) -> Result<VerifyReport, EngineError> {
        self.model.verify()
    }

    fn stats(&self) -> EngineStats {
        self.model.stats()
    }
}

/// The batch as a bug would make it that forgets deadlines.
fn without_deadlines(batch: &Batch) -> Batch {
    let mut changed = Batch::new();
    for op in batch {
        match op {
            BatchOp::Put { key, value } if key.first() == Some(&(Family::Head as u8)) => {
                let mut stored = Vec::new();
                match Head::decode(value) {
                    Some(head) => Head { deadline_ms: None, ..head }.encode(&mut stored),
                    None => stored.extend_from_slice(value),
                }
                changed.put(key, &stored);
            }
            BatchOp::Put { key, .. } if key.first() == Some(&(Family::Deadline as u8)) => {}
            BatchOp::Put { key, value } => changed.put(key, value),
            BatchOp::Delete { key } => changed.delete(key),
            BatchOp::DeleteRange { from, to } => changed.delete_range(from, to),
        }
    }
    changed
}
