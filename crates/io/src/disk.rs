//! The disk as an argument: files below one root directory, addressed by relative paths.
//! Guarantees of the contract: a file's bytes survive a power cut once `sync_data` or `sync_all`
//! returned Ok; a name (made, renamed or removed) once `sync_dir` of its directory did. Nothing
//! else does, and after a failed sync nothing written before it may be counted on, whatever a
//! later sync says.
//! No caching and no locking of ranges: callers own their offsets.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;

/// A directory tree. Paths are relative to its root, separated by `/`, without `.` or `..`;
/// the root itself is the empty path, allowed where a directory is asked for.
pub trait Disk: Send + Sync {
    /// Makes a file that must not exist and opens it for reading and writing.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading; writing to it fails.
    fn open_read(&self, path: &str) -> io::Result<Arc<dyn File>>;

    /// Whether a file or a directory has this path.
    fn exists(&self, path: &str) -> io::Result<bool>;

    /// The names in a directory, sorted.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Makes a directory and its parents; fine if it exists. Not durable before each parent is
    /// synced: see [`create_dir_durably`].
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// Gives a file or directory another name in the same directory, replacing what had it.
    /// Refused across directories: there no single `sync_dir` could make it durable.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file or an empty directory. Open files stay readable.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes the names in this directory durable (not those below its subdirectories).
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// Bytes that this process may still write.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Takes an exclusive lock, held until the result is dropped or the process ends. The file is
    /// made if absent and holds the process id. When another holds it: `WouldBlock`, with
    /// "held by process N".
    fn lock(&self, path: &str) -> io::Result<DiskLock>;
}

/// What [`File::write_direct_at`] wants multiples of: the sector that nearly all disks address.
pub const DIRECT_ALIGN: usize = 512;

/// An open file, shared between threads.
pub trait File: Send + Sync {
    /// Reads up to the buffer's length; fewer only at the end of the file, where it gives 0.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all the bytes, growing the file as needed; a gap reads as zeros.
    /// After an error any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// As [`Self::write_at`], but past the operating system's cache where the disk can and address,
    /// length and offset are multiples of [`DIRECT_ALIGN`]. Nothing is durable before a sync either.
    fn write_direct_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)
    }

    /// Makes the file at least `len` bytes long and writes zeros over the new part, so that
    /// overwriting it later changes no metadata. Existing bytes stay; nothing is durable yet.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file, or grows it with zeros, to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes the bytes and the length durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the bytes and all metadata durable (not the name: see [`Disk::sync_dir`]).
    fn sync_all(&self) -> io::Result<()>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills the whole buffer, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut rest = buffer;
        let mut offset = offset;
        while !rest.is_empty() {
            let count = self.read_at(rest, offset)?;
            if count == 0 {
                let message = format!("{} bytes missing at offset {offset}", rest.len());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            rest = &mut rest[count..];
            offset += count as u64;
        }
        Ok(())
    }
}

/// An exclusive lock, given back when dropped.
#[must_use = "the lock is given back when this is dropped"]
pub struct DiskLock {
    _guard: Box<dyn Any + Send + Sync>,
}

impl DiskLock {
    /// A lock that is held for as long as `guard` lives.
    pub(crate) fn new(guard: impl Any + Send + Sync) -> Self {
        Self { _guard: Box::new(guard) }
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}

/// What a disk's `io::Error` carries: the action, the path and the system's error. The outer
/// error has the same kind.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub struct DiskError {
    /// The operation that failed, for example `sync`.
    pub action: &'static str,
    /// The path below the disk's root.
    pub path: String,
    /// The system's error, with its number where it has one.
    pub source: io::Error,
}

impl DiskError {
    /// Adds the action and the path to a system error.
    pub(crate) fn wrap(action: &'static str, path: &str, source: io::Error) -> io::Error {
        io::Error::new(source.kind(), Self { action, path: path.to_owned(), source })
    }
}

/// Replaces the file at `path` by these bytes: after Ok the new content is durable, and at every
/// moment the path shows the whole old or the whole new content. Leaves at most a stale
/// `<path>.tmp` behind, which the next call replaces. One writer per path at a time.
pub fn write_file_durably(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.tmp");
    if disk.exists(&temporary)? {
        disk.remove(&temporary)?;
    }
    let file = disk.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync_all()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(parent(path))
}

/// Makes a directory with its parents and makes all of their names durable.
pub fn create_dir_durably(disk: &dyn Disk, dir: &str) -> io::Result<()> {
    disk.create_dir(dir)?;
    let mut below = dir;
    // Every ancestor, even if the directory existed: whoever made it may not have synced it.
    while !below.is_empty() {
        below = parent(below);
        disk.sync_dir(below)?;
    }
    Ok(())
}

/// The directory part of a path: `a/b` for `a/b/c`, empty (the root) for `a`.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// Refuses a path that is absolute, empty, or has an empty, `.` or `..` component.
pub fn check_path(path: &str) -> io::Result<()> {
    let bad = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0');
    if path.split('/').any(bad) {
        let message = format!("{path:?} is not a path below the disk's root");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

/// As [`check_path`], but the empty path, the root, is fine.
pub(crate) fn check_dir(dir: &str) -> io::Result<()> {
    if dir.is_empty() { Ok(()) } else { check_path(dir) }
}

/// Refuses a rename that leaves its directory.
pub(crate) fn check_rename(from: &str, to: &str) -> io::Result<()> {
    check_path(from)?;
    check_path(to)?;
    if parent(from) != parent(to) {
        let message = format!("rename {from} to {to}: not in the same directory");
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    Ok(())
}
