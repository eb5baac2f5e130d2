//! What can go wrong, by what the caller should do about it.
//!
//! Each protocol maps kinds to its own words in one table; the text adds what the caller cannot
//! know. An expected outcome (a missing key, a wrong type) is a reply, not an `Error`.

use std::fmt;

/// What the caller should do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The request is wrong: change it.
    Invalid,
    /// Another node owns the shard: ask that one.
    NotOwner,
    /// Too much at once: retry later.
    Overloaded,
    /// Cannot serve now (starting, stopping, writes stopped): retry later or elsewhere.
    Unavailable,
    /// The write may or may not have happened: read before deciding.
    UnknownOutcome,
    /// Somebody else was first: read and try again.
    Conflict,
    /// Stored bytes fail their checks: a person must act.
    Corrupt,
    /// Not built in, or not for this keyspace.
    Unsupported,
    /// No space left: free some.
    Full,
    /// Our own fault.
    Internal,
}

/// An operating failure with its kind and the context that the caller lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    kind: ErrorKind,
    text: String,
}

impl Error {
    /// An error of this kind; `text` says what happened and what to do.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Error {
        Error { kind, text: text.into() }
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message alone.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds what the caller did not know, in front.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Error {
        self.text = format!("{what}: {}", self.text);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
