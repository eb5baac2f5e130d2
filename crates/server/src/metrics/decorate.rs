//! A session of the log and a disk that measure what goes through them.
//!
//! They change nothing: results, errors and order are those of what they wrap. Measuring here leaves
//! log and disk free of clocks, which the simulator brings otherwise.

use std::{io, sync::Arc, time::Instant};

use holdfast_base::{Epoch, record::Batch};
use holdfast_io::{Disk, DiskLock, File};
use holdfast_log::{Completion, LogError, Outcome, Refused, Session};

use super::LogMetrics;

/// A session that counts its groups.
pub(crate) struct MeasuredSession {
    session: Box<dyn Session>,
    metrics: Arc<LogMetrics>,
}

impl MeasuredSession {
    pub(crate) fn wrap(session: Box<dyn Session>, metrics: Arc<LogMetrics>) -> Box<dyn Session> {
        Box::new(MeasuredSession { session, metrics })
    }
}

impl Session for MeasuredSession {
    fn epoch(&self) -> Epoch {
        self.session.epoch()
    }

    fn submit(&mut self, batches: Vec<Batch>) -> Result<(), Refused> {
        let records = batches.iter().map(|batch| u64::from(batch.header.count)).sum();
        let bytes = batches.iter().map(|batch| batch.bytes.len() as u64).sum();
        self.session.submit(batches)?;
        self.metrics.group_records.add(records, 1);
        self.metrics.group_bytes.add(bytes, 1);
        Ok(())
    }

    fn complete(&mut self) -> Option<Completion> {
        let start = Instant::now();
        let completion = self.session.complete();
        if completion.as_ref().is_some_and(|completion| completion.outcome == Outcome::Durable) {
            self.metrics.commit.add(start.elapsed().as_micros() as u64, 1);
        }
        completion
    }

    fn watermark(&mut self) -> Result<(), LogError> {
        self.session.watermark()
    }

    fn renew(&mut self, parting: bool) -> Result<(), Refused> {
        self.session.renew(parting)
    }
}

/// A disk that times the syncs of its files.
pub(crate) struct MeasuredDisk {
    disk: Arc<dyn Disk>,
    metrics: Arc<LogMetrics>,
}

impl MeasuredDisk {
    pub(crate) fn wrap(disk: Arc<dyn Disk>, metrics: Arc<LogMetrics>) -> Arc<dyn Disk> {
        Arc::new(MeasuredDisk { disk, metrics })
    }

    fn measured(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(MeasuredFile { file, metrics: self.metrics.clone() })
    }
}

impl Disk for MeasuredDisk {
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.disk.create(path).map(|file| self.measured(file))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.disk.open(path).map(|file| self.measured(file))
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

struct MeasuredFile {
    file: Arc<dyn File>,
    metrics: Arc<LogMetrics>,
}

impl File for MeasuredFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let start = Instant::now();
        let synced = self.file.sync_data();
        self.metrics.sync.add(start.elapsed().as_micros() as u64, 1);
        synced
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn write_direct_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_direct_at(bytes, offset)
    }
}
