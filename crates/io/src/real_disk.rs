//! The machine's disk: a directory of the local file system.
//! Guarantees what the file system guarantees: errors pass through, with action and path added,
//! and nothing is retried except interrupted calls.
//! A failed sync is reported once and never repeated here: the kernel forgets it after that.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock, statvfs};
use rustix::io::{Errno, retry_on_intr};

use crate::disk::{
    DIRECT_ALIGN, Disk, DiskError, DiskLock, File, check_dir, check_path, check_rename,
};

/// Zeros are written and synced in pieces of this size: a few milliseconds of a slow disk.
const ZEROS: &[u8] = &[0; 1 << 20];

/// A directory tree of the local file system.
#[derive(Debug, Clone)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The tree below `root`, which is made with its parents if absent.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)
            .map_err(|error| DiskError::wrap("create", &root.display().to_string(), error))?;
        Ok(Self { root })
    }

    /// Where the tree is: for engines that open their own files.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn open_with(
        &self,
        action: &'static str,
        path: &str,
        options: &fs::OpenOptions,
        writable: bool,
    ) -> io::Result<Arc<dyn File>> {
        check_path(path)?;
        let add = |error| DiskError::wrap(action, path, error);
        let file = options.open(self.root.join(path)).map_err(add)?;
        // Opening a directory for reading succeeds, and only the first read would fail.
        if file.metadata().map_err(add)?.is_dir() {
            return Err(add(io::ErrorKind::IsADirectory.into()));
        }
        let direct = if writable { OnceLock::new() } else { OnceLock::from(None) };
        let refused = AtomicBool::new(false);
        Ok(Arc::new(RealFile { file, path: path.to_owned(), direct, refused }))
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        self.open_with("create", path, options.read(true).write(true).create_new(true), true)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.open_with("open", path, fs::OpenOptions::new().read(true).write(true), true)
    }

    fn open_read(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.open_with("open", path, fs::OpenOptions::new().read(true), false)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        check_dir(path)?;
        self.root.join(path).try_exists().map_err(|error| DiskError::wrap("look up", path, error))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        check_dir(dir)?;
        let add = |error| DiskError::wrap("list", dir, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(dir)).map_err(add)? {
            let name = entry.map_err(add)?.file_name().into_string();
            names.push(name.map_err(|name| {
                let message = format!("the name {name:?} is not UTF-8");
                add(io::Error::new(io::ErrorKind::InvalidData, message))
            })?);
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        check_dir(dir)?;
        fs::create_dir_all(self.root.join(dir))
            .map_err(|error| DiskError::wrap("create directory", dir, error))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_rename(from, to)?;
        fs::rename(self.root.join(from), self.root.join(to))
            .map_err(|error| DiskError::wrap("rename", from, error))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        let full = self.root.join(path);
        match fs::remove_file(&full) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(&full),
            result => result,
        }
        .map_err(|error| DiskError::wrap("remove", path, error))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        check_dir(dir)?;
        let full = self.root.join(dir);
        let mut options = fs::OpenOptions::new();
        options.read(true);
        options
            .custom_flags(OFlags::DIRECTORY.bits() as i32)
            .open(full)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| DiskError::wrap("sync directory", dir, error))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let status = statvfs(&self.root)
            .map_err(|errno| DiskError::wrap("read free space of", "", errno.into()))?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        check_path(path)?;
        let add = |error| DiskError::wrap("lock", path, error);
        // Not truncated on opening: the process id in it may be that of the holder.
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(self.root.join(path)).map_err(add)?;
        match retry_on_intr(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(add(held_by(&mut file))),
            Err(errno) => return Err(add(errno.into())),
        }
        file.set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .map_err(add)?;
        Ok(DiskLock::new(file))
    }
}

/// The refusal of a lock, naming its holder as far as the file tells.
fn held_by(file: &mut fs::File) -> io::Error {
    let mut text = String::new();
    let holder = match file.take(32).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim(),
        // The holder may be between taking the lock and writing its id.
        _ => "unknown",
    };
    io::Error::new(io::ErrorKind::WouldBlock, format!("held by process {holder}"))
}

struct RealFile {
    file: fs::File,
    path: String,
    /// The same file past the page cache, opened when it is first wanted; `None` if it cannot be.
    direct: OnceLock<Option<fs::File>>,
    /// A direct write was refused: the disk's sectors are larger.
    refused: AtomicBool,
}

impl RealFile {
    fn add<T>(&self, action: &'static str, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| DiskError::wrap(action, &self.path, error))
    }

    /// The descriptor for direct writes, if this one can go there.
    fn direct_for(&self, bytes: &[u8], offset: u64) -> Option<&fs::File> {
        let aligned = bytes.as_ptr().addr().is_multiple_of(DIRECT_ALIGN)
            && bytes.len().is_multiple_of(DIRECT_ALIGN)
            && offset.is_multiple_of(DIRECT_ALIGN as u64);
        let open = || {
            // By descriptor: the file may have another name by now.
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let flags = OFlags::DIRECT.bits() as i32;
            fs::OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
        };
        let possible = aligned && !self.refused.load(Ordering::Relaxed);
        possible.then(|| self.direct.get_or_init(open).as_ref()).flatten()
    }

    fn write_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        let mut offset = from;
        while offset < to {
            let count = (to - offset).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..count as usize], offset)?;
            // Handed to the disk piece by piece: one sync of all of it would hold up those of others.
            self.file.sync_data()?;
            offset += count;
        }
        Ok(())
    }

    fn grow_with_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        // Reserving first gives few extents, and a full disk shows before anything is written.
        match retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), from, to - from)) {
            // Some file systems cannot reserve: the zeros do it.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
        // A reserved extent is "unwritten" until its first write, which changes metadata and
        // makes that write's sync slow: write it now.
        self.write_zeros(from, to)
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.add("read", Err(error)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.add("write", self.file.write_all_at(bytes, offset))
    }

    fn write_direct_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let direct = self.direct_for(bytes, offset);
        match direct.map(|file| file.write_all_at(bytes, offset)) {
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                self.refused.store(true, Ordering::Relaxed);
            }
            Some(written) => return self.add("write", written),
            None => {}
        }
        self.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let old = self.len()?;
        if old >= len {
            return Ok(());
        }
        let grown = self.grow_with_zeros(old, len);
        if grown.is_err() {
            // Give a half-made reservation back; the error to report is the first one.
            let _given_back = self.file.set_len(old);
        }
        self.add("allocate", grown)
    }

    fn len(&self) -> io::Result<u64> {
        self.add("read length of", self.file.metadata()).map(|metadata| metadata.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.add("truncate", self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.add("sync", self.file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.add("sync", self.file.sync_all())
    }
}
