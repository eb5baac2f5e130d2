//! Why an op gave no result: an expected refusal, a row that must be fetched first, or a failure.
//!
//! The protocol's words for each are one table in the server; nothing here knows a protocol.

use holdfast_base::{Error, ErrorKind, SharedBytes};

/// Why an op gave no result. Nothing was staged.
#[derive(Clone, PartialEq, Debug)]
pub enum OpError {
    /// The key holds another type.
    WrongType,
    /// The stored value or argument is no integer of 64 bits.
    NotInteger,
    /// The stored value or argument is no number.
    NotFloat,
    /// A hash field is no integer of 64 bits.
    FieldNotInteger,
    /// The result would pass the end of 64 bits.
    Overflow,
    /// The result would not be a number (inf - inf).
    ResultNotANumber,
    /// No such key.
    NoSuchKey,
    /// Over a stated limit; the text names it.
    TooLarge(&'static str),
    /// The keyspace's quota is used up; the text says which.
    QuotaExceeded(String),
    /// A row is not in memory: fetch these and try again.
    Miss(Vec<SharedBytes>),
    /// A range is not wholly in memory: try again with the disk allowed.
    ColdRange,
    /// An operating failure.
    Fault(Error),
}

impl From<Error> for OpError {
    fn from(error: Error) -> Self {
        OpError::Fault(error)
    }
}

impl From<holdfast_engine::EngineError> for OpError {
    fn from(error: holdfast_engine::EngineError) -> Self {
        OpError::Fault(error.into())
    }
}

/// A stored row does not decode.
pub(crate) fn corrupt_row(row: &[u8], what: &str) -> OpError {
    let text =
        format!("{what} of row {} does not decode: run `holdfast check`", row.escape_ascii());
    OpError::Fault(Error::new(ErrorKind::Corrupt, text))
}
