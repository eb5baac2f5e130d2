//! What can go wrong with a log, by what the caller should do.
//!
//! Corruption is never repaired here and never hidden: it names the file, the place and what a
//! person should do. A refusal always means that nothing was appended.

use std::{fmt, io};

use holdfast_base::{Epoch, ErrorKind, Lsn};

/// Stored bytes that must be right and are not. Nothing was changed on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Corruption {
    /// Path of the file below the disk's root.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Corruption { file, offset, what } = self;
        write!(
            f,
            "log damaged: {file} at byte {offset}: {what}. Acknowledged records may be in it: keep \
             the folder, put the missing or damaged file back, or restore from a backup"
        )
    }
}

impl std::error::Error for Corruption {}

/// A log could not be opened, continued or trimmed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A person must act.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// There is no log, and none was to be made.
    #[error("no log in {0}: start with a new data folder, or correct the path")]
    Missing(String),
    /// Not enough space for another segment.
    #[error("no space for the log: {0}")]
    Full(io::Error),
    /// The disk or the log servers failed.
    #[error("log: {0}")]
    Io(#[from] io::Error),
    /// Somebody else has taken the shard over.
    #[error("another owner has taken the shard over in epoch {0}")]
    NotOwner(Epoch),
    /// An option is out of its bounds.
    #[error("log: {0}")]
    Invalid(String),
}

impl LogError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            LogError::Corrupt(_) => ErrorKind::Corrupt,
            LogError::Full(_) => ErrorKind::Full,
            LogError::Invalid(_) => ErrorKind::Invalid,
            LogError::NotOwner(_) => ErrorKind::NotOwner,
            LogError::Missing(_) | LogError::Io(_) => ErrorKind::Unavailable,
        }
    }

    pub(crate) fn from_disk(error: io::Error) -> LogError {
        if is_full(&error) { LogError::Full(error) } else { LogError::Io(error) }
    }
}

/// Whether the disk had no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The position is gone; this is the first one left.
    #[error("trimmed: the log starts at {0}")]
    Trimmed(Lsn),
    /// The position is not there yet, and this is the next one: a cursor of another log.
    #[error("beyond the end: the log continues at {0}")]
    Beyond(Lsn),
    /// A person must act.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The disk failed.
    #[error("log: {0}")]
    Io(#[from] io::Error),
}

/// Why batches were not accepted. None of them is appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No space for another segment; smaller calls may still fit.
    Full(String),
    /// As many calls in flight as are allowed: complete one first.
    Busy,
    /// A session of this epoch took over.
    Fenced(Epoch),
    /// An earlier call failed; open a new session.
    Poisoned(String),
    /// The batches do not continue the log here.
    Stale {
        /// Where the log continues.
        expected: Lsn,
        /// Where the batch begins.
        found: Lsn,
    },
    /// More than one call may hold.
    TooLarge {
        /// Bytes of the call.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// Not what this session may append; the text says why.
    Invalid(String),
}

impl Refused {
    /// Whether the session accepts nothing more.
    pub fn ends_session(&self) -> bool {
        matches!(self, Refused::Fenced(_) | Refused::Poisoned(_))
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Refused::Full(_) => ErrorKind::Full,
            Refused::Busy => ErrorKind::Overloaded,
            Refused::Fenced(_) => ErrorKind::NotOwner,
            Refused::Poisoned(_) => ErrorKind::Unavailable,
            Refused::TooLarge { .. } => ErrorKind::Invalid,
            Refused::Stale { .. } | Refused::Invalid(_) => ErrorKind::Internal,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Full(why) => write!(f, "no space for the log: {why}"),
            Refused::Busy => f.write_str("too many appends in flight"),
            Refused::Fenced(epoch) => write!(f, "epoch {epoch} took over"),
            Refused::Poisoned(why) => write!(f, "an earlier append failed: {why}"),
            Refused::Stale { expected, found } => {
                write!(f, "the log continues at {expected}, the batch at {found} does not")
            }
            Refused::TooLarge { bytes, bytes_max } => {
                write!(f, "{bytes} bytes in one append, {bytes_max} are allowed")
            }
            Refused::Invalid(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refused {}
