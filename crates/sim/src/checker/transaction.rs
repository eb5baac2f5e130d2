//! Registers changed together: MULTI/EXEC as one atomic list of operations, with WATCH.
//!
//! A plain command is a transaction of one operation. WATCH is stated by value: what the client
//! read of the watched keys must still hold where EXEC takes effect. An aborted EXEC has no effect
//! and is always allowed, as a watched key may have been written with the same value.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::str::FromStr;

use super::Model;
use super::register::{Key, KeyedOp, MaybeValue, ParseError, RegisterReply};

/// Operations that take effect at one moment. One that names no key at all joins the operations on
/// every key into one search, so an empty EXEC is better not recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// Keys that were watched, with the values read after WATCH.
    pub watched: Vec<(Key, Option<i64>)>,
    /// What is executed, in order.
    pub ops: Vec<KeyedOp>,
}

impl Transaction {
    /// A command outside of MULTI.
    pub fn single(op: KeyedOp) -> Self {
        Transaction { watched: Vec::new(), ops: vec![op] }
    }
}

/// What EXEC replies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TransactionReply {
    /// One reply for each operation.
    Executed(Vec<RegisterReply>),
    /// Nil: a watched key was written.
    Aborted,
}

/// All registers of the keys that transactions join, none with a value at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transactions;

impl Model for Transactions {
    type State = BTreeMap<Key, i64>;
    type Input = Transaction;
    type Output = TransactionReply;
    type Key = Key;

    fn init(&self) -> Self::State {
        BTreeMap::new()
    }

    fn step(
        &self,
        state: &Self::State,
        input: &Transaction,
        output: Option<&TransactionReply>,
    ) -> Option<Self::State> {
        let expected = match output {
            Some(TransactionReply::Aborted) => return Some(state.clone()),
            Some(TransactionReply::Executed(replies)) => Some(replies),
            None => None,
        };
        if input.watched.iter().any(|(key, value)| state.get(key) != value.as_ref()) {
            return None;
        }
        if expected.is_some_and(|replies| replies.len() != input.ops.len()) {
            return None;
        }
        let mut after = state.clone();
        for (place, KeyedOp { key, op }) in input.ops.iter().enumerate() {
            let (value, reply) = op.apply(after.get(key).copied());
            if expected.is_some_and(|replies| replies.get(place) != Some(&reply)) {
                return None;
            }
            match value {
                Some(value) => after.insert(*key, value),
                None => after.remove(key),
            };
        }
        Some(after)
    }

    fn keys(&self, input: &Transaction) -> Vec<Key> {
        let watched = input.watched.iter().map(|(key, _)| *key);
        watched.chain(input.ops.iter().map(|op| op.key)).collect()
    }

    fn keeps_state(&self, input: &Transaction, output: &TransactionReply) -> bool {
        match output {
            TransactionReply::Aborted => true,
            TransactionReply::Executed(replies) => {
                input.ops.iter().zip(replies).all(|(op, reply)| op.op.keeps_value(reply))
            }
        }
    }

    fn overwrites(&self, earlier: &Transaction, later: &Transaction) -> bool {
        let overwritten =
            |key| later.ops.iter().find(|op| op.key == key).is_some_and(|op| op.op.is_blind());
        later.watched.is_empty() && earlier.ops.iter().all(|op| overwritten(op.key))
    }
}

/// Parts separated by `; `: `watch k1 5; watch k2 nil; k1 set 7; k2 incrby 1`.
impl Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watched = self.watched.iter().map(|(k, v)| format!("watch {k} {}", MaybeValue(*v)));
        let parts: Vec<_> = watched.chain(self.ops.iter().map(KeyedOp::to_string)).collect();
        f.write_str(&parts.join("; "))
    }
}

impl FromStr for Transaction {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut transaction = Transaction::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let words: Vec<&str> = part.split_whitespace().collect();
            if let ["watch", key, value] = words.as_slice() {
                transaction.watched.push((key.parse()?, value.parse::<MaybeValue>()?.0));
            } else {
                transaction.ops.push(part.parse()?);
            }
        }
        Ok(transaction)
    }
}

/// `aborted`, or `exec` and the replies separated by `; `.
impl Display for TransactionReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransactionReply::Aborted => f.write_str("aborted"),
            TransactionReply::Executed(replies) => {
                let replies: Vec<_> = replies.iter().map(RegisterReply::to_string).collect();
                write!(f, "exec {}", replies.join("; "))
            }
        }
    }
}

impl FromStr for TransactionReply {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text == "aborted" {
            return Ok(TransactionReply::Aborted);
        }
        let replies = text.strip_prefix("exec").ok_or_else(|| ParseError(text.into()))?;
        let parts = replies.split(';').map(str::trim).filter(|part| !part.is_empty());
        let replies: Result<Vec<_>, _> = parts.map(str::parse).collect();
        replies.map(TransactionReply::Executed)
    }
}
