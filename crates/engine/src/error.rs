//! What can go wrong in an engine, by what the caller should do about it.
//!
//! RocksDB reports its status as text; [`classify`] is the one table that turns that text into a
//! kind. The text itself is always kept. An absent key and an `Incomplete` lookup are not errors.

use holdfast_base::ErrorKind;
use thiserror::Error;

/// A failed engine call. After an error from `write` nothing of the batch is visible.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("engine: {kind:?}: {message}")]
pub struct EngineError {
    /// What the caller should do about it.
    pub kind: EngineErrorKind,
    /// The engine's own words, with file names where it gave them.
    pub message: String,
}

/// The kinds of [`EngineError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// Stored bytes fail their checksum or contradict each other: rebuild from a snapshot or log.
    Corrupt,
    /// The disk is full. Reads go on; writes may be retried once there is room.
    NoSpace,
    /// Any other failure of the operating system's files.
    Io,
    /// In use by another process or engine, or asked to try again.
    Busy,
    /// There is no engine in this directory (`OpenMode::Existing`).
    Missing,
    /// The call itself is wrong: an option out of range, an unsupported tier, an existing target.
    Invalid,
    /// The engine is shutting down.
    Closed,
    /// None of the above; the message says what is known.
    Internal,
}

impl EngineError {
    /// An error of a kind with a message.
    pub fn new(kind: EngineErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<rocksdb::Error> for EngineError {
    fn from(error: rocksdb::Error) -> Self {
        let message = error.into_string();
        Self { kind: classify(&message), message }
    }
}

/// For the layers above, which know one error type.
impl From<EngineError> for holdfast_base::Error {
    fn from(error: EngineError) -> Self {
        let kind = match error.kind {
            EngineErrorKind::Corrupt => ErrorKind::Corrupt,
            EngineErrorKind::NoSpace => ErrorKind::Full,
            EngineErrorKind::Busy | EngineErrorKind::Closed | EngineErrorKind::Io => {
                ErrorKind::Unavailable
            }
            EngineErrorKind::Missing | EngineErrorKind::Invalid => ErrorKind::Invalid,
            EngineErrorKind::Internal => ErrorKind::Internal,
        };
        holdfast_base::Error::new(kind, error.message)
    }
}

/// The kind behind the text of a RocksDB status: `<code>: [<subcode>: ]<message>`.
pub(crate) fn classify(status: &str) -> EngineErrorKind {
    let code = status.split(':').next().unwrap_or("");
    match code {
        "Corruption" => EngineErrorKind::Corrupt,
        "IO error" if status.contains("No space left on device") => EngineErrorKind::NoSpace,
        "IO error" if status.contains("lock hold by") || status.contains("While lock file") => {
            EngineErrorKind::Busy
        }
        "IO error" => EngineErrorKind::Io,
        "Invalid argument" | "Not implemented" => EngineErrorKind::Invalid,
        "Shutdown in progress" => EngineErrorKind::Closed,
        "Resource busy" | "Operation timed out" | "Operation aborted" => EngineErrorKind::Busy,
        "Operation failed. Try again." => EngineErrorKind::Busy,
        _ => EngineErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_texts_map_to_kinds() {
        let cases = [
            ("Corruption: block checksum mismatch", EngineErrorKind::Corrupt),
            ("IO error: No space left on device: While appending", EngineErrorKind::NoSpace),
            ("IO error: While lock file: /x/LOCK: busy", EngineErrorKind::Busy),
            ("IO error: lock hold by current process", EngineErrorKind::Busy),
            ("IO error: While fsync: /x: Input/output error", EngineErrorKind::Io),
            ("Invalid argument: bad", EngineErrorKind::Invalid),
            ("Shutdown in progress: ", EngineErrorKind::Closed),
            ("Operation failed. Try again.: ", EngineErrorKind::Busy),
            ("something new", EngineErrorKind::Internal),
        ];
        for (text, kind) in cases {
            assert_eq!(classify(text), kind, "{text}");
        }
    }
}
