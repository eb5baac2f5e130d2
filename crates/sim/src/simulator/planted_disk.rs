//! The disk that the log is given: the simulated one, or one that takes part in a planted bug.
//!
//! The bug stands where the log meets the disk, so the log's own code needs no switch for it: a
//! rename that is not done is a renewal of a name that the log has forgotten.

use std::{io, sync::Arc};

use holdfast_io::{Disk, DiskLock, File, SimDisk};

use super::Planted;

/// The disk for a log.
pub(super) fn disk_for_log(disk: &SimDisk, planted: Option<Planted>) -> Arc<dyn Disk> {
    let disk = Arc::new(disk.clone());
    match planted {
        Some(bug @ (Planted::FirstNameNotRenewed | Planted::ReserveSyncIgnored)) => {
            Arc::new(PlantedDisk { disk, bug })
        }
        _ => disk,
    }
}

struct PlantedDisk {
    disk: Arc<SimDisk>,
    bug: Planted,
}

impl PlantedDisk {
    fn file(&self, path: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        let blind = self.bug == Planted::ReserveSyncIgnored && path.ends_with("/reserve.tmp");
        if blind { Arc::new(BlindFile(file)) } else { file }
    }
}

impl Disk for PlantedDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(path, self.disk.create(path)?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.disk.open(path)
    }

    fn open_read(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.disk.open_read(path)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        // From a segment's name to another's: only the first name's renewal does that.
        let renews_first = from.ends_with(".seg") && to.ends_with(".seg");
        if self.bug == Planted::FirstNameNotRenewed && renews_first {
            return Ok(());
        }
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        self.disk.lock(path)
    }
}

/// A file whose failed syncs are not noticed.
struct BlindFile(Arc<dyn File>);

impl File for BlindFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let _unnoticed = self.0.sync_data();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
