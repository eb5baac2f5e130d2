//! Backup, restore and archiving: a node's data in an object store, and back in a new life.
//!
//! A backup is an engine checkpoint whose position is read inside it, stored as files named by
//! their content, and a manifest that is written last. The archive is the log's durable records in
//! objects behind it. Restoring verifies every byte and begins a new incarnation. Nothing here
//! starts a thread, reads the environment or decides when.

mod archive;
mod files;
mod follow;
#[cfg(test)]
mod fuzz;
mod location;
mod manifest;
mod moment;
mod prune;
mod restore;
mod take;
#[cfg(test)]
mod tests;

pub use archive::{Archived, Archiver, archive_folder};
pub use location::Location;
pub use manifest::{BackupFile, BackupId, Manifest, list_backups, read_manifest};
pub use moment::{parse_time, show_time};
pub use prune::{Pruned, prune};
pub use restore::{
    Destination, RESTORING_FILE, Restored, Target, agrees, bring_engine, finish_restore, newest_of,
    restore,
};
pub use take::{CHECKPOINT_DIR, Source, remove_checkpoint, take};

use holdfast_base::{Error, ErrorKind};

/// What moved, told to whoever watches; an error from there ends the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// So much there is to do.
    Planned {
        /// Files.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Bytes were read or sent: the place to keep to a rate.
    Moved(u64),
    /// A file was transferred, of so many bytes.
    Transferred(u64),
    /// A file was in the store already, of so many bytes.
    Reused(u64),
    /// Records were applied up to here.
    Replayed(holdfast_base::Lsn),
}

/// Watches the work; an error ends it.
pub type Watch<'a> = dyn FnMut(Step) -> Result<(), Error> + 'a;

fn store_error(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::new(ErrorKind::Unavailable, format!("{what}: {error}"))
}

fn corrupt(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, text)
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, text)
}
