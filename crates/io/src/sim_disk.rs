//! A disk in memory that loses power, fails syncs, fills up and rots, as a test orders.
//! Guarantees the contract of [`Disk`] and nothing more: after [`SimDisk::crash`] a file keeps
//! what was synced and any subset of the sectors written since; a directory keeps the names that
//! were synced and a prefix of its changes since. A synced file under a name that was not synced
//! vanishes. The same calls with the same seed leave the same bytes.
//! It does not model time, nor sectors that are torn within.

mod content;
mod faults;
mod journal;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskError, DiskLock, File, check_dir, check_path, check_rename};
use crate::random::Random;
use content::{FileChange, NodeId};
use faults::Faults;
use tree::Tree;

/// The unit that the medium writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Enough for any test, small enough that a wild offset is a full disk and not an abort.
const CAPACITY_BYTES: u64 = 4 << 30;

/// What was asked of a simulated disk since it was made, failed attempts included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operations that change something or sync it: the unit of [`SimDisk::power_off_after`].
    pub operations: u64,
    /// Writes to files.
    pub writes: u64,
    /// Bytes in those writes.
    pub bytes_written: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub dir_syncs: u64,
}

/// A simulated disk; clones are handles on the same one.
#[derive(Clone)]
pub struct SimDisk {
    // Guards the whole disk; taken by every operation, never together with another lock.
    machine: Arc<Mutex<Machine>>,
}

struct Machine {
    tree: Tree,
    faults: Faults,
    counters: Counters,
    locked: BTreeSet<NodeId>,
    /// Counts the processes that have used the disk; handles of an earlier one are stale.
    process: u64,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk with room for 4 GiB.
    pub fn new() -> Self {
        let machine = Machine {
            tree: Tree::new(CAPACITY_BYTES),
            faults: Faults::default(),
            counters: Counters::default(),
            locked: BTreeSet::new(),
            process: 1,
        };
        Self { machine: Arc::new(Mutex::new(machine)) }
    }

    /// Cuts the power and restores it: what was not synced is lost, in part or whole, as `random`
    /// decides. Open files become stale, locks are free, ordered faults remain.
    pub fn crash(&self, random: &mut dyn Random) {
        let mut machine = self.machine();
        machine.tree.cut(random);
        machine.end_process();
        machine.faults.set_power_left(None);
    }

    /// Kills the process alone: open files become stale and locks free, but everything written
    /// is still in the page cache, synced or not.
    pub fn kill_process(&self) {
        self.machine().end_process();
    }

    /// Lets this many changing operations succeed; then everything fails until
    /// [`SimDisk::crash`]. For running a test once per possible moment of a power cut.
    pub fn power_off_after(&self, operations: u64) {
        self.machine().faults.set_power_left(Some(operations));
    }

    /// The `nth` sync (1 is the next) of a file or directory whose path contains `path_part`
    /// fails with EIO. What it covered will not become durable by any later sync of that file,
    /// although that reports success: so does Linux.
    pub fn fail_sync(&self, path_part: &str, nth: u64) {
        self.machine().faults.add_sync(path_part, nth, true);
    }

    /// As [`SimDisk::fail_sync`], but from the `nth` on every such sync fails.
    pub fn fail_syncs_from(&self, path_part: &str, nth: u64) {
        self.machine().faults.add_sync(path_part, nth, false);
    }

    /// Reads that touch these bytes of files whose path contains `path_part` fail with EIO.
    pub fn fail_reads(&self, path_part: &str, range: Range<u64>) {
        self.machine().faults.add_read(path_part, range);
    }

    /// Withdraws all ordered faults of syncs, reads and power.
    pub fn clear_faults(&self) {
        self.machine().faults.clear();
    }

    /// Sets the space that is free now; removing files gives more, growing them takes it. A write
    /// that does not fit is cut short and fails with `StorageFull`.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.machine().tree.set_free_bytes(bytes);
    }

    /// Flips one bit of a file on the medium; reads show it at once and a crash does not undo it.
    pub fn flip_bit(&self, path: &str, byte: u64, bit: u8) -> io::Result<()> {
        let mut machine = self.machine();
        let flip = |machine: &mut Machine| {
            let node = machine.tree.find_existing(path)?;
            let file = machine.tree.file_mut(node)?;
            if bit > 7 || byte >= file.live().0.len() as u64 {
                return Err(ErrorKind::InvalidInput.into());
            }
            file.change_medium(FileChange::FlipBit { byte: byte as usize, bit });
            Ok(())
        };
        flip(&mut machine).map_err(|error| DiskError::wrap("flip a bit of", path, error))
    }

    /// What was asked of the disk so far.
    pub fn counters(&self) -> Counters {
        self.machine().counters
    }

    /// A digest of everything in memory and on the medium: equal after equal runs of one build.
    /// Not to be stored, since it may differ between compilers.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.machine().tree.hash(&mut hasher);
        hasher.finish()
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        // A test that panicked elsewhere must not hide its own message behind a second panic.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation on names: with power, under the lock, its error naming the path.
    fn look<T>(
        &self,
        action: &'static str,
        path: &str,
        look: impl FnOnce(&mut Machine) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut machine = self.machine();
        let found = machine.faults.check_power().and_then(|()| look(&mut machine));
        found.map_err(|error| DiskError::wrap(action, path, error))
    }

    /// As `look`, counted as a change.
    fn change<T>(
        &self,
        action: &'static str,
        path: &str,
        change: impl FnOnce(&mut Machine) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut machine = self.machine();
        let changed = machine.begin_change().and_then(|()| change(&mut machine));
        changed.map_err(|error| DiskError::wrap(action, path, error))
    }

    fn handle(&self, machine: &mut Machine, path: &str, node: NodeId, writable: bool) -> SimFile {
        machine.tree.add_handle(node);
        SimFile {
            disk: self.clone(),
            path: path.to_owned(),
            node,
            process: machine.process,
            writable,
        }
    }

    fn open_with(&self, path: &str, writable: bool) -> io::Result<Arc<dyn File>> {
        check_path(path)?;
        self.look("open", path, |machine| {
            let node = machine.tree.find_existing(path)?;
            machine.tree.file(node)?;
            Ok(Arc::new(self.handle(machine, path, node, writable)) as Arc<dyn File>)
        })
    }
}

impl Machine {
    fn begin_change(&mut self) -> io::Result<()> {
        self.faults.use_power()?;
        self.counters.operations += 1;
        Ok(())
    }

    fn end_process(&mut self) {
        self.process += 1;
        self.locked.clear();
        self.tree.drop_all_handles();
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        check_path(path)?;
        self.change("create", path, |machine| {
            let node = machine.tree.create_file(path)?;
            Ok(Arc::new(self.handle(machine, path, node, true)) as Arc<dyn File>)
        })
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.open_with(path, true)
    }

    fn open_read(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.open_with(path, false)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        check_dir(path)?;
        self.look("look up", path, |machine| Ok(machine.tree.find(path)?.is_some()))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        check_dir(dir)?;
        self.look("list", dir, |machine| {
            let node = machine.tree.find_existing(dir)?;
            Ok(machine.tree.names(node)?.live().0.keys().cloned().collect())
        })
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        check_dir(dir)?;
        self.change("create directory", dir, |machine| machine.tree.create_dir(dir))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_rename(from, to)?;
        self.change("rename", from, |machine| machine.tree.rename(from, to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        check_path(path)?;
        self.change("remove", path, |machine| machine.tree.remove(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        check_dir(dir)?;
        self.change("sync directory", dir, |machine| {
            machine.counters.dir_syncs += 1;
            let node = machine.tree.find_existing(dir)?;
            let outcome = machine.faults.sync(dir);
            machine.tree.sync_dir(node, outcome.is_ok())?;
            outcome
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.look("read free space of", "", |machine| Ok(machine.tree.free_bytes()))
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        check_path(path)?;
        self.change("lock", path, |machine| {
            let node = match machine.tree.find(path)? {
                Some(existing) => existing,
                None => machine.tree.create_file(path)?,
            };
            machine.tree.file(node)?;
            let process = machine.process;
            if machine.locked.contains(&node) {
                let message = format!("held by process {process}");
                return Err(io::Error::new(ErrorKind::WouldBlock, message));
            }
            machine.tree.resize(node, 0)?;
            machine.tree.write(node, 0, format!("{process}\n").as_bytes())?;
            machine.locked.insert(node);
            Ok(DiskLock::new(SimLock { file: self.handle(machine, path, node, false) }))
        })
    }
}

/// A lock is on the file, not on its path, as with `flock`.
struct SimLock {
    file: SimFile,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut machine = self.file.disk.machine();
        if machine.process == self.file.process {
            machine.locked.remove(&self.file.node);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    /// The path when it was opened: faults go by it.
    path: String,
    node: NodeId,
    process: u64,
    writable: bool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut machine = self.disk.machine();
        if machine.process == self.process {
            machine.tree.drop_handle(self.node);
        }
    }
}

impl SimFile {
    fn check_current(&self, machine: &Machine) -> io::Result<()> {
        if machine.process == self.process {
            return Ok(());
        }
        Err(io::Error::other("stale handle: the process that opened it has ended"))
    }

    fn look<T>(
        &self,
        action: &'static str,
        look: impl FnOnce(&mut Machine) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.look(action, &self.path, |machine| {
            self.check_current(machine)?;
            look(machine)
        })
    }

    fn change<T>(
        &self,
        action: &'static str,
        change: impl FnOnce(&mut Machine) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.change(action, &self.path, |machine| {
            self.check_current(machine)?;
            if !self.writable {
                return Err(ErrorKind::PermissionDenied.into());
            }
            change(machine)
        })
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.look("read", |machine| {
            let bytes = &machine.tree.file(self.node)?.live().0;
            let rest = usize::try_from(offset).ok().and_then(|start| bytes.get(start..));
            let rest = rest.unwrap_or_default();
            let count = rest.len().min(buffer.len());
            machine.faults.read(&self.path, &(offset..offset.saturating_add(count as u64)))?;
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change("write", |machine| {
            machine.counters.writes += 1;
            machine.counters.bytes_written += bytes.len() as u64;
            machine.tree.write(self.node, offset, bytes)
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.change("allocate", |machine| {
            let old = machine.tree.file(self.node)?.live().0.len() as u64;
            if len > old { machine.tree.resize(self.node, len) } else { Ok(()) }
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.look("read length of", |machine| {
            Ok(machine.tree.file(self.node)?.live().0.len() as u64)
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change("truncate", |machine| machine.tree.resize(self.node, len))
    }

    fn sync_data(&self) -> io::Result<()> {
        // A sync needs no right to write, so it is checked and counted apart from the changes.
        self.disk.change("sync", &self.path, |machine| {
            self.check_current(machine)?;
            machine.counters.syncs += 1;
            let outcome = machine.faults.sync(&self.path);
            let file = machine.tree.file_mut(self.node)?;
            if outcome.is_ok() {
                file.sync()
            } else {
                file.fail_sync()
            }
            outcome
        })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
