//! The object store as an argument: whole, named, immutable-by-convention objects.
//!
//! Guarantee of every implementation: once `put` or `finish` returned Ok the object is there whole
//! and durable; before that, and after a crash in between, it is not there at all. Names are paths
//! as a [`Disk`](crate::Disk) takes them. Calls block: for background threads.

mod folder;
#[cfg(feature = "s3")]
mod s3;

pub use folder::FolderStore;
#[cfg(feature = "s3")]
pub use s3::{S3Options, S3Store};

use std::io;

/// An object's name, without its folder, and its length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ObjectEntry {
    /// The part of the name behind the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// Named objects. See the module's head.
pub trait ObjectStore: Send + Sync {
    /// Stores a small object, replacing one of that name.
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Begins an object that comes in pieces, replacing one of that name when finished.
    fn begin<'a>(&'a self, name: &str) -> io::Result<Box<dyn ObjectWriter + 'a>>;

    /// Reads up to `len` bytes from `offset` on; fewer only at the object's end. `NotFound` if
    /// there is no such object.
    fn read(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// The objects directly in a folder, sorted by name; none if there is no such folder.
    fn list(&self, folder: &str) -> io::Result<Vec<ObjectEntry>>;

    /// Removes an object. Fine if there is none.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// An object in the making. Dropped before `finish`, it never existed.
pub trait ObjectWriter {
    /// Adds to its end. Memory is bounded by the piece and 5 MiB.
    fn write(&mut self, piece: &[u8]) -> io::Result<()>;

    /// Makes it visible and durable.
    fn finish(self: Box<Self>) -> io::Result<()>;
}
