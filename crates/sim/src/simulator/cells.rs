//! The sequential meaning of the simulated clients' strings: numbers with deadlines, changed alone
//! or several in one record, under a watch or not.
//!
//! Each operation carries the shard time at which it was executed, so whether it sees a key past
//! its deadline is no matter of choice.

use std::{collections::BTreeMap, fmt};

use crate::checker::{Key, Model};

/// A stored number and when it goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cell {
    /// The number.
    pub value: i64,
    /// Milliseconds since 1970.
    pub deadline_ms: Option<u64>,
}

/// What becomes of the deadline when a number is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeepUntil {
    /// None.
    Forever,
    /// As it was.
    AsItWas,
    /// This one.
    Deadline(u64),
}

/// What can be asked of one cell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CellOp {
    /// GET: `Value`.
    Get,
    /// SET: `Done`.
    Set(i64, KeepUntil),
    /// SET NX or XX, by what must be so: `Applied`.
    SetIfPresent(i64, bool),
    /// SET with GET: `Value`, the one before.
    GetSet(i64),
    /// GETDEL: `Value`, the one before.
    Take,
    /// DEL: `Applied`.
    Del,
    /// INCRBY: `Value`, the one after.
    IncrBy(i64),
    /// Writes the second if the first is there; keeps the deadline: `Applied`.
    CompareAndSet(i64, i64),
    /// PEXPIREAT, or PERSIST: `Applied`.
    SetDeadline(Option<u64>),
    /// PEXPIRETIME: `Deadline`.
    GetDeadline,
    /// What FLUSHDB does to it: `Done`.
    Clear,
}

/// What a cell answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CellReply {
    /// OK.
    Done,
    /// The number, or nil.
    Value(Option<i64>),
    /// Whether something changed.
    Applied(bool),
    /// No such key, for ever, or until.
    Deadline(Option<Option<u64>>),
}

impl CellOp {
    /// The cell and the reply after this operation at shard time `now_ms`.
    pub fn apply(&self, cell: Option<Cell>, now_ms: u64) -> (Option<Cell>, CellReply) {
        use CellReply::{Applied, Deadline, Done, Value};
        let seen = cell.filter(|c| c.deadline_ms.is_none_or(|deadline| deadline > now_ms));
        let value = seen.map(|c| c.value);
        let kept = seen.and_then(|c| c.deadline_ms);
        let stored = |value, deadline_ms: Option<u64>| {
            let lives = deadline_ms.is_none_or(|deadline| deadline > now_ms);
            lives.then_some(Cell { value, deadline_ms })
        };
        match *self {
            CellOp::Get => (cell, Value(value)),
            CellOp::Set(new, KeepUntil::Forever) => (stored(new, None), Done),
            CellOp::Set(new, KeepUntil::AsItWas) => (stored(new, kept), Done),
            CellOp::Set(new, KeepUntil::Deadline(at)) => (stored(new, Some(at)), Done),
            CellOp::SetIfPresent(new, present) if present == seen.is_some() => {
                (stored(new, None), Applied(true))
            }
            CellOp::SetIfPresent(..) => (cell, Applied(false)),
            CellOp::GetSet(new) => (stored(new, None), Value(value)),
            CellOp::Take => (cell.filter(|_| seen.is_none()), Value(value)),
            CellOp::Del => (None, Applied(seen.is_some())),
            CellOp::IncrBy(by) => {
                let sum = value.unwrap_or(0).wrapping_add(by);
                (stored(sum, kept), Value(Some(sum)))
            }
            CellOp::CompareAndSet(old, new) if value == Some(old) => {
                (stored(new, kept), Applied(true))
            }
            CellOp::CompareAndSet(..) => (cell, Applied(false)),
            CellOp::SetDeadline(at) => match seen {
                Some(c) if at.is_some() || c.deadline_ms.is_some() => {
                    (stored(c.value, at), Applied(true))
                }
                _ => (cell, Applied(false)),
            },
            CellOp::GetDeadline => (cell, Deadline(seen.map(|c| c.deadline_ms))),
            CellOp::Clear => (None, Done),
        }
    }

    /// Whether it never changes anything.
    pub fn is_read(&self) -> bool {
        matches!(self, CellOp::Get | CellOp::GetDeadline)
    }

    fn keeps(&self, reply: &CellReply) -> bool {
        // A DEL of a key past its deadline removes what is stored and says that nothing was there.
        self.is_read() || (*reply == CellReply::Applied(false) && *self != CellOp::Del)
    }

    fn is_blind(&self) -> bool {
        matches!(self, CellOp::Set(_, KeepUntil::Forever | KeepUntil::Deadline(_)))
            || matches!(self, CellOp::GetSet(_) | CellOp::Del | CellOp::Clear)
    }
}

/// Operations that take effect at one moment, as one record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CellsAsked {
    /// Shard time at which they were executed.
    pub now_ms: u64,
    /// Watched cells and what was read of them after the watch began.
    pub watched: Vec<(Key, Option<i64>)>,
    /// What is executed, in order.
    pub ops: Vec<(Key, CellOp)>,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CellsAnswered {
    /// One reply for each operation.
    Executed(Vec<CellReply>),
    /// A watched key was written.
    Aborted,
}

impl fmt::Display for CellsAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} ", self.now_ms)?;
        for (key, value) in &self.watched {
            write!(f, "watch {key} {value:?}; ")?;
        }
        for (key, op) in &self.ops {
            write!(f, "{key} {op:?}; ")?;
        }
        Ok(())
    }
}

impl fmt::Display for CellsAnswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// All cells, none with a number at first.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cells;

impl Model for Cells {
    type State = BTreeMap<Key, Cell>;
    type Input = CellsAsked;
    type Output = CellsAnswered;
    type Key = Key;

    fn init(&self) -> Self::State {
        BTreeMap::new()
    }

    fn step(
        &self,
        state: &Self::State,
        input: &CellsAsked,
        output: Option<&CellsAnswered>,
    ) -> Option<Self::State> {
        let expected = match output {
            Some(CellsAnswered::Aborted) => return Some(state.clone()),
            Some(CellsAnswered::Executed(replies)) => Some(replies),
            None => None,
        };
        let visible = |key| CellOp::Get.apply(state.get(key).copied(), input.now_ms).1;
        if input.watched.iter().any(|(key, value)| visible(key) != CellReply::Value(*value)) {
            return None;
        }
        let mut after = state.clone();
        for (place, (key, op)) in input.ops.iter().enumerate() {
            let (cell, reply) = op.apply(after.get(key).copied(), input.now_ms);
            if expected.is_some_and(|replies| replies.get(place) != Some(&reply)) {
                return None;
            }
            match cell {
                Some(cell) => after.insert(*key, cell),
                None => after.remove(key),
            };
        }
        Some(after)
    }

    fn keys(&self, input: &CellsAsked) -> Vec<Key> {
        let watched = input.watched.iter().map(|(key, _)| *key);
        watched.chain(input.ops.iter().map(|(key, _)| *key)).collect()
    }

    fn keeps_state(&self, input: &CellsAsked, output: &CellsAnswered) -> bool {
        match output {
            CellsAnswered::Aborted => true,
            CellsAnswered::Executed(replies) => {
                input.ops.iter().zip(replies).all(|((_, op), reply)| op.keeps(reply))
            }
        }
    }

    fn overwrites(&self, earlier: &CellsAsked, later: &CellsAsked) -> bool {
        let blind = |key| later.ops.iter().find(|(k, _)| k == key).is_some_and(|o| o.1.is_blind());
        later.watched.is_empty() && earlier.ops.iter().all(|(key, _)| blind(key))
    }
}
