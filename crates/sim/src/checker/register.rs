//! One integer register per key, as a Redis string that holds a number: SET, GET, GETSET, DEL,
//! INCRBY, SET NX and compare-and-set. No expiry, and no value that is not a number.
//!
//! `RegisterOp::apply` is the whole meaning; the `Register` model compares replies with it.

use std::fmt::{self, Display};
use std::str::FromStr;

use super::Model;

/// Names a register; `k7` in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u32);

/// What can be asked of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegisterOp {
    /// GET: replies `Value`.
    Get,
    /// SET: replies `Done`.
    Set(i64),
    /// SET with GET: replies `Value`, the value before.
    GetSet(i64),
    /// DEL: replies `Applied`, whether there was a value.
    Del,
    /// INCRBY, from 0 where there is no value: replies `Number`, or `Overflow` without effect.
    IncrBy(i64),
    /// SET NX: replies `Applied`.
    SetIfAbsent(i64),
    /// Sets `new` if the value is `expected`: replies `Applied`.
    CompareAndSet {
        /// The value that must be there.
        expected: i64,
        /// The value that takes its place.
        new: i64,
    },
}

/// What a register replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegisterReply {
    /// OK.
    Done,
    /// The value, or nil.
    Value(Option<i64>),
    /// The value after an increment.
    Number(i64),
    /// Whether the condition held.
    Applied(bool),
    /// The increment would overflow.
    Overflow,
}

impl RegisterOp {
    /// The value and the reply after this operation on `value`.
    pub fn apply(&self, value: Option<i64>) -> (Option<i64>, RegisterReply) {
        use RegisterReply::{Applied, Done, Number, Overflow, Value};
        match *self {
            RegisterOp::Get => (value, Value(value)),
            RegisterOp::Set(new) => (Some(new), Done),
            RegisterOp::GetSet(new) => (Some(new), Value(value)),
            RegisterOp::Del => (None, Applied(value.is_some())),
            RegisterOp::IncrBy(by) => match value.unwrap_or(0).checked_add(by) {
                Some(sum) => (Some(sum), Number(sum)),
                None => (value, Overflow),
            },
            RegisterOp::SetIfAbsent(new) => (value.or(Some(new)), Applied(value.is_none())),
            RegisterOp::CompareAndSet { expected, new } if value == Some(expected) => {
                (Some(new), Applied(true))
            }
            RegisterOp::CompareAndSet { .. } => (value, Applied(false)),
        }
    }

    /// Whether this operation, answered with `reply`, changes no value whatever.
    pub fn keeps_value(&self, reply: &RegisterReply) -> bool {
        use RegisterReply::{Applied, Overflow};
        matches!(self, RegisterOp::Get) || matches!(reply, Applied(false) | Overflow)
    }

    /// Whether the value after this does not depend on the value before.
    pub fn is_blind(&self) -> bool {
        matches!(self, RegisterOp::Set(_) | RegisterOp::GetSet(_) | RegisterOp::Del)
    }
}

/// An operation on one of many registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyedOp {
    /// Which register.
    pub key: Key,
    /// What is asked of it.
    pub op: RegisterOp,
}

/// Independent registers, all without value at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

impl Model for Register {
    type State = Option<i64>;
    type Input = KeyedOp;
    type Output = RegisterReply;
    type Key = Key;

    fn init(&self) -> Self::State {
        None
    }

    fn step(
        &self,
        state: &Self::State,
        input: &KeyedOp,
        output: Option<&RegisterReply>,
    ) -> Option<Self::State> {
        let (after, reply) = input.op.apply(*state);
        output.is_none_or(|output| *output == reply).then_some(after)
    }

    fn keys(&self, input: &KeyedOp) -> Vec<Key> {
        vec![input.key]
    }

    fn keeps_state(&self, input: &KeyedOp, output: &RegisterReply) -> bool {
        input.op.keeps_value(output)
    }

    fn overwrites(&self, _: &KeyedOp, later: &KeyedOp) -> bool {
        later.op.is_blind()
    }
}

/// A text that is not the operation or reply it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(pub String);

impl Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not understood: {:?}", self.0)
    }
}

impl std::error::Error for ParseError {}

/// A value or `nil`, in text.
pub(super) struct MaybeValue(pub Option<i64>);

impl Display for MaybeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "{value}"),
            None => f.write_str("nil"),
        }
    }
}

impl FromStr for MaybeValue {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "nil" => Ok(MaybeValue(None)),
            text => Ok(MaybeValue(Some(number(text)?))),
        }
    }
}

fn number(text: &str) -> Result<i64, ParseError> {
    text.parse().map_err(|_| ParseError(text.into()))
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{}", self.0)
    }
}

impl FromStr for Key {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = text.strip_prefix('k').and_then(|number| number.parse().ok());
        number.map(Key).ok_or_else(|| ParseError(text.into()))
    }
}

impl Display for KeyedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.key)?;
        match self.op {
            RegisterOp::Get => write!(f, "get"),
            RegisterOp::Set(value) => write!(f, "set {value}"),
            RegisterOp::GetSet(value) => write!(f, "getset {value}"),
            RegisterOp::Del => write!(f, "del"),
            RegisterOp::IncrBy(by) => write!(f, "incrby {by}"),
            RegisterOp::SetIfAbsent(value) => write!(f, "setnx {value}"),
            RegisterOp::CompareAndSet { expected, new } => write!(f, "cas {expected} {new}"),
        }
    }
}

impl FromStr for KeyedOp {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [key, words @ ..] = words.as_slice() else { return Err(ParseError(text.into())) };
        let op = match words {
            ["get"] => RegisterOp::Get,
            ["set", value] => RegisterOp::Set(number(value)?),
            ["getset", value] => RegisterOp::GetSet(number(value)?),
            ["del"] => RegisterOp::Del,
            ["incrby", by] => RegisterOp::IncrBy(number(by)?),
            ["setnx", value] => RegisterOp::SetIfAbsent(number(value)?),
            ["cas", expected, new] => {
                RegisterOp::CompareAndSet { expected: number(expected)?, new: number(new)? }
            }
            _ => return Err(ParseError(text.into())),
        };
        Ok(KeyedOp { key: key.parse()?, op })
    }
}

impl Display for RegisterReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegisterReply::Done => write!(f, "ok"),
            RegisterReply::Value(value) => write!(f, "value {}", MaybeValue(*value)),
            RegisterReply::Number(number) => write!(f, "number {number}"),
            RegisterReply::Applied(applied) => write!(f, "applied {applied}"),
            RegisterReply::Overflow => write!(f, "overflow"),
        }
    }
}

impl FromStr for RegisterReply {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["ok"] => Ok(RegisterReply::Done),
            ["value", value] => Ok(RegisterReply::Value(value.parse::<MaybeValue>()?.0)),
            ["number", value] => Ok(RegisterReply::Number(number(value)?)),
            ["applied", "true"] => Ok(RegisterReply::Applied(true)),
            ["applied", "false"] => Ok(RegisterReply::Applied(false)),
            ["overflow"] => Ok(RegisterReply::Overflow),
            _ => Err(ParseError(text.into())),
        }
    }
}
