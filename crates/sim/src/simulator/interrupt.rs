//! What other threads do in the middle of a read or of the applier's write.
//!
//! The action runs inside the engine's call, on the same shard; what came of it is taken in by the
//! world afterwards, before anything else happens.

use std::sync::Arc;

use holdfast_base::{Error, Head, KeyHasher, Slot, key};
use holdfast_engine::{Engine, Lookup, Tier};
use holdfast_io::Random;
use holdfast_shard::{Done, OpError};
use parking_lot::Mutex;

use super::{
    Case, Checked, Planted,
    ask::{Answer, Ask, cell},
    cells::{CellOp, KeepUntil},
    engine::During,
    life::{Commit, Life},
    world::World,
};

/// What one of the other threads does.
enum Act {
    Ask(usize, Ask),
    HandOver,
    Resolve,
    Apply,
}

/// What came of it.
pub(super) enum Came {
    Asked(usize, Ask, u64, Result<Done<Answer>, OpError>),
    Committed(Commit),
    Applied(Result<usize, Error>),
}

/// What came of an armed action, once it has run.
pub(super) type Outcomes = Arc<Mutex<Vec<Came>>>;

fn perform(life: &Life, acts: Vec<Act>, outcomes: &Outcomes) {
    for act in acts {
        let came = match act {
            Act::Ask(client, ask) => {
                let result = ask.execute(&life.shard, &[], Tier::Any);
                vec![Came::Asked(client, ask, life.shard.now_ms(), result)]
            }
            Act::HandOver => life.hand_over().into_iter().map(Came::Committed).collect(),
            Act::Resolve => vec![Came::Committed(life.resolve())],
            Act::Apply => vec![Came::Applied(life.shard.apply_step(1 << 20))],
        };
        outcomes.lock().extend(came);
    }
}

impl World {
    /// A client other than this one that can send a command.
    fn other_client(&mut self, client: usize) -> Option<usize> {
        let free = |c: &usize| *c != client && self.clients.is_free(*c);
        let clients: Vec<_> = (0..self.clients.count()).filter(free).collect();
        self.random.pick(&clients).copied()
    }

    /// Now and then, lets a write overtake a read between its lookup and what it does with it.
    pub fn arm_lookup(&mut self, client: usize, ask: &Ask) -> bool {
        if self.failed || !self.random.chance(self.weights.interrupt) {
            return false;
        }
        let Some(other) = self.other_client(client) else { return false };
        let mut lookups = 1;
        let over = match ask {
            Ask::Cells(ops) => {
                lookups = ops.len() as u64;
                let value = CellOp::Set(self.clients.unique() as i64, KeepUntil::Forever);
                Ask::Cells(ops.iter().take(1).map(|(key, _)| (*key, value)).collect())
            }
            Ask::Balances => Ask::Transfer(0, 1, 1),
            _ => return false,
        };
        let acts = [Act::Ask(other, over), Act::HandOver, Act::Resolve, Act::Apply];
        // Half the time all of it: a stale fill does harm only if the write has been applied.
        let count = if self.random.chance(0.5) { 4 } else { 1 + self.random.below(3) as usize };
        let skip = self.random.below(lookups);
        self.arm(During::Lookup, skip, acts.into_iter().take(count).collect());
        true
    }

    /// Now and then, lets things happen around the applier's write.
    pub fn arm_apply(&mut self) -> bool {
        if self.failed || !self.random.chance(self.weights.interrupt) {
            return false;
        }
        let mut acts = Vec::new();
        for client in 0..self.clients.count().min(2) {
            acts.push(Act::HandOver);
            acts.push(Act::Resolve);
            if self.clients.is_free(client) && self.clients.watching(client).is_none() {
                let ask = self.clients.next_ask(client, &mut self.random, self.now_ms);
                acts.push(Act::Ask(client, ask));
            }
        }
        let count = 1 + self.random.below(acts.len() as u64) as usize;
        acts.truncate(count);
        let during = if self.random.chance(0.5) { During::BeforeWrite } else { During::AfterWrite };
        self.arm(during, 0, acts);
        true
    }

    fn arm(&mut self, during: During, skip: u64, acts: Vec<Act>) {
        let (life, outcomes) = (self.life(), Outcomes::default());
        self.outcomes = Arc::clone(&outcomes);
        self.engine.arm(during, skip, move || perform(&life, acts, &outcomes));
    }

    /// Takes in what the armed action did, if it ran: during this read, or during an apply.
    pub fn disarm(&mut self, read: Option<&Ask>) -> Checked<()> {
        self.engine.disarm();
        let outcomes = std::mem::take(&mut *self.outcomes.lock());
        if !outcomes.is_empty() {
            self.trace.note("meanwhile:");
        }
        for came in outcomes {
            match came {
                Came::Asked(client, ask, now_ms, result) => {
                    let overtaken = read.is_some() && result.is_ok();
                    self.reached.hit_if(overtaken, Case::FillRefused);
                    self.reached.hit_if(ask == Ask::Flush, Case::KeyspaceFlushed);
                    self.clients.send(client, ask);
                    let (reached, trace) = (&mut self.reached, &mut self.trace);
                    self.clients.executed(client, now_ms, result, reached, trace)?;
                    self.release();
                }
                Came::Committed(commit) => {
                    let failed = matches!(commit, Commit::Failed(..)) && read.is_none();
                    self.reached.hit_if(failed, Case::FailureDuringApply);
                    self.committed(commit)?;
                }
                Came::Applied(Ok(count)) => self.trace.note(format_args!("applied {count}")),
                Came::Applied(Err(error)) => self.excuse("apply", &error)?,
            }
        }
        Ok(())
    }

    /// Whether the read is about a cell that is stored in the engine and past its deadline.
    pub fn hides_expired(&self, ask: &Ask) -> bool {
        let Ask::Cells(ops) = ask else { return false };
        let Some((cell_key, CellOp::Get)) = ops.first() else { return false };
        let (keyspace, name) = cell(*cell_key);
        let hash = KeyHasher::new(self.archive.state().hash_seed).hash48(&name);
        let mut row = Vec::new();
        let generation = self.archive.generation(keyspace);
        key::head(&mut row, generation, Slot::of(&name), hash, &name);
        match self.engine.model.get(&row, Tier::Any) {
            Ok(Lookup::Found(head)) => Head::decode(&head).is_some_and(|h| h.expired(self.now_ms)),
            _ => false,
        }
    }

    /// With the planted bug: the first half of a transfer, as a record of its own, and a look at
    /// all accounts by somebody else.
    pub fn split_transfer(&mut self, client: usize, ask: &Ask) -> Checked<()> {
        if self.plan.planted != Some(Planted::HalfExecVisible) {
            return Ok(());
        }
        let Ask::Transfer(from, _, amount) = *ask else { return Ok(()) };
        // The client is told of the second half only.
        let half = Ask::Deposit(from, -amount).execute(&self.life().shard, &[], Tier::Any);
        self.trace.note(format_args!("half a transfer: {half:?}"));
        if let Some(other) = self.other_client(client) {
            self.ask(other, Ask::Balances, Tier::Any)?;
        }
        Ok(())
    }

    /// With the planted bug: the second half of a transfer.
    pub fn half_of(&self, ask: &Ask) -> Option<Ask> {
        match *ask {
            Ask::Transfer(_, to, amount) if self.plan.planted == Some(Planted::HalfExecVisible) => {
                Some(Ask::Deposit(to, amount))
            }
            _ => None,
        }
    }
}
