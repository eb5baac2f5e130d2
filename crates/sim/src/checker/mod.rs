//! Judges recorded histories: are the replies explained by one order of the operations?
//!
//! `check` decides linearizability against a `Model`, key by key, within a budget of steps; what it
//! calls a violation is one (the search is exact), what it cannot finish it says is undecided.
//! `volume` has the linear-time checks for runs too large for a search. Nothing here runs a store,
//! and the same history always gives the same verdict, in the same number of steps.

use std::fmt::{self, Debug, Display};
use std::hash::Hash;

use crate::history::History;

mod explain;
mod memo;
mod partition;
mod register;
mod transaction;
pub mod volume;
mod wgl;

#[cfg(test)]
mod tests;

pub use register::{Key, KeyedOp, ParseError, Register, RegisterOp, RegisterReply};
pub use transaction::{Transaction, TransactionReply, Transactions};

/// The sequential behaviour that a history is compared with.
pub trait Model {
    /// What the operations act on.
    type State: Clone + Eq + Hash + Debug;
    /// What clients ask.
    type Input: Clone + Eq + Display;
    /// What clients are told.
    type Output: Clone + Display;
    /// Operations that share no key are independent of each other.
    type Key: Clone + Ord + Debug + Display;

    /// The state before the first operation.
    fn init(&self) -> Self::State;

    /// The state after `input`, or none when it cannot have been answered with `output` here.
    /// Without output the reply is unknown; none then says that the operation has no effect here.
    fn step(
        &self,
        state: &Self::State,
        input: &Self::Input,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;

    /// The keys that `input` reads or writes; none at all means: every key.
    fn keys(&self, input: &Self::Input) -> Vec<Self::Key>;

    /// Whether `input`, when answered with `output`, changes no state whatever. Such operations
    /// are taken at the first chance, which makes the search much shorter. `false` is always safe.
    fn keeps_state(&self, _input: &Self::Input, _output: &Self::Output) -> bool {
        false
    }

    /// Whether `later`, right after `earlier`, both without output, leads from every state to the
    /// state that it leads to alone. Saves the search from chains of unknown writes of which only
    /// the last could be noticed. `false` is always safe.
    fn overwrites(&self, _earlier: &Self::Input, _later: &Self::Input) -> bool {
        false
    }
}

/// A history of the operations of a model.
pub type HistoryOf<M> = History<<M as Model>::Input, <M as Model>::Output>;

/// How many calls of `Model::step` and configurations one partition may cost, and again the search
/// for its shortest failing prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepBudget(pub u64);

impl Default for StepBudget {
    /// A few seconds, and at most a few hundred megabytes of memo.
    fn default() -> Self {
        StepBudget(10_000_000)
    }
}

/// What `check` found.
pub enum Verdict<M: Model> {
    /// Some order of the operations explains every reply.
    Linearizable,
    /// No order does.
    NotLinearizable(Box<Violation<M>>),
    /// The budget ran out in some partitions and no other failed. To be counted, never ignored.
    Undecided {
        /// The steps spent in all partitions together.
        steps: u64,
        /// The keys of each partition that was given up; an empty list means every key.
        partitions: Vec<Vec<M::Key>>,
    },
}

/// A proof that a history is not linearizable.
pub struct Violation<M: Model> {
    /// The keys whose operations contradict each other; empty: operations on every key.
    pub partition: Vec<M::Key>,
    /// The operations up to the first return that cannot be explained; those that were still on
    /// their way then have unknown outcomes here. Fails the check by itself.
    pub failing: HistoryOf<M>,
    /// Whether every shorter prefix (by return time) was shown to be linearizable.
    pub shortest: bool,
    /// What to show a person: the impossible operation, the possible states, the last operations.
    pub report: String,
}

impl<M: Model> Debug for Verdict<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Linearizable => f.write_str("linearizable"),
            Verdict::NotLinearizable(violation) => f.write_str(&violation.report),
            Verdict::Undecided { steps, partitions } => {
                write!(f, "undecided after {steps} steps on {partitions:?}")
            }
        }
    }
}

/// Decides whether `history` is linearizable. The first failing partition, by smallest key, is
/// reported. Operations of one client are ordered by time alone, as those of different clients.
pub fn check<M: Model>(model: &M, history: &HistoryOf<M>, budget: StepBudget) -> Verdict<M> {
    let mut steps = 0;
    let mut undecided = Vec::new();
    for partition in partition::split(model, history) {
        let found = wgl::search(model, &partition.calls, budget.0);
        steps += found.steps;
        match found.end {
            wgl::End::Explained => {}
            wgl::End::OutOfSteps => undecided.push(partition.keys),
            wgl::End::Contradiction => {
                let violation = explain::violation(model, history, partition, found, budget.0);
                return Verdict::NotLinearizable(Box::new(violation));
            }
        }
    }
    if undecided.is_empty() {
        Verdict::Linearizable
    } else {
        Verdict::Undecided { steps, partitions: undecided }
    }
}
