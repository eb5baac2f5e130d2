//! The content of files: open, read, write, resize, allocate, sync.
//! A method holds the file's body from reading what a page was until the page is changed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuser::Errno;
use rustix::fs::FallocateFlags;

use super::{Disk, Outcome, modified};
use crate::faults::{Counters, Op};
use crate::inode::{Body, Kind};
use crate::names::Ino;
use crate::tree;

impl Disk {
    /// Opens a file once more.
    pub fn open_file(&self, ino: Ino) -> Outcome<()> {
        let _power = self.power()?;
        let inode = self.table().inode(ino)?;
        let mut body = inode.body();
        let object = self.object(ino, &mut body)?;
        body.object = Some(object);
        body.opens += 1;
        Ok(())
    }

    /// Closes a file once.
    pub fn close_file(&self, ino: Ino) {
        let Ok(_power) = self.power() else { return };
        let mut table = self.table();
        let Ok(inode) = table.inode(ino) else { return };
        let mut body = inode.body();
        body.opens = body.opens.saturating_sub(1);
        if body.opens == 0 {
            body.object = None;
        }
        drop(body);
        self.name_lost(&mut table, ino);
    }

    /// Reads up to `length` bytes; fewer only at the end.
    pub fn read(&self, ino: Ino, offset: u64, length: usize) -> Outcome<Vec<u8>> {
        let _power = self.power()?;
        let inode = self.table().inode(ino)?;
        self.strike(Op::Read, ino)?;
        let object = {
            let mut body = inode.body();
            self.object(ino, &mut body)?
        };
        let mut bytes = vec![0; length];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match object.read_at(rest, offset + done as u64)? {
                0 => break,
                count => done += count,
            }
        }
        bytes.truncate(done);
        Counters::add(&self.counters.reads, 1);
        Counters::add(&self.counters.read_bytes, done as u64);
        Ok(bytes)
    }

    /// Writes, fewer bytes if the disk gets full on the way.
    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8]) -> Outcome<usize> {
        let _power = self.power()?;
        let inode = self.table().inode(ino)?;
        self.strike(Op::Write, ino)?;
        let mut body = inode.body();
        let object = self.object(ino, &mut body)?;
        let end = offset + bytes.len() as u64;
        let charged_to = self.charge(&body, end);
        if charged_to <= offset && !bytes.is_empty() {
            self.space.give_back(charged_to - body.charged_to);
            return Err(self.no_space());
        }
        let bytes =
            bytes.get(..charged_to.min(end).saturating_sub(offset) as usize).unwrap_or(bytes);
        body.charged_to = charged_to;
        self.tracking(&mut body, |body| {
            body.pages.before_change(&object, offset, bytes.len() as u64)?;
            object.write_all_at(bytes, offset)?;
            body.pages.grown_to(offset + bytes.len() as u64);
            Ok(())
        })?;
        modified(&mut body);
        Counters::add(&self.counters.writes, 1);
        Counters::add(&self.counters.write_bytes, bytes.len() as u64);
        Ok(bytes.len())
    }

    /// Preallocates, zeroes or punches out a range.
    pub fn allocate(&self, ino: Ino, offset: u64, length: u64, mode: u32) -> Outcome<()> {
        let _power = self.power()?;
        let flags = FallocateFlags::from_bits_retain(mode);
        let known =
            FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !(flags - known).is_empty() {
            return Err(Errno::EOPNOTSUPP);
        }
        let inode = self.table().inode(ino)?;
        let mut body = inode.body();
        let object = self.object(ino, &mut body)?;
        let end = offset + length;
        let clears = flags.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE);
        if !flags.contains(FallocateFlags::PUNCH_HOLE) {
            let charged_to = self.charge(&body, end);
            if charged_to < end {
                self.space.give_back(charged_to - body.charged_to);
                return Err(self.no_space());
            }
            body.charged_to = charged_to;
        }
        self.tracking(&mut body, |body| {
            if clears {
                let reach = end.min(body.pages.size()).saturating_sub(offset);
                body.pages.before_change(&object, offset, reach)?;
            }
            rustix::fs::fallocate(&*object, flags, offset, length)?;
            if !flags.contains(FallocateFlags::KEEP_SIZE) {
                body.pages.grown_to(end);
            }
            Ok(())
        })?;
        Counters::add(&self.counters.fallocates, 1);
        Ok(())
    }

    /// Changes the size of a file.
    pub fn resize(&self, ino: Ino, size: u64) -> Outcome<()> {
        let _power = self.power()?;
        let inode = self.table().inode(ino)?;
        if inode.kind != Kind::File {
            return Err(Errno::EINVAL);
        }
        self.strike(Op::Write, ino)?;
        let mut body = inode.body();
        let object = self.object(ino, &mut body)?;
        self.tracking(&mut body, |body| {
            body.pages.before_resize(&object, size)?;
            object.set_len(size)
        })?;
        if size < body.charged_to {
            self.space.give_back(body.charged_to - size);
            body.charged_to = size;
        }
        modified(&mut body);
        Counters::add(&self.counters.truncates, 1);
        Ok(())
    }

    /// How long a sync has to wait, and whether it then fails. Asked once per sync, before it.
    pub fn sync_fault(&self, ino: Ino) -> (Duration, Outcome<()>) {
        if !self.faults.any() {
            return (Duration::ZERO, Ok(()));
        }
        let paths = self.table().names.paths(ino);
        self.faults.strike(Op::Fsync, &paths)
    }

    /// Makes a file's content and attributes durable, or with a fault loses them.
    pub fn sync_file(&self, ino: Ino, fault: Outcome<()>) -> Outcome<()> {
        let _power = self.power()?;
        Counters::add(&self.counters.fsyncs, 1);
        let inode = self.table().inode(ino)?;
        let mut body = inode.body();
        if let Err(error) = fault {
            Counters::add(&self.counters.errors_injected, 1);
            body.pages.sync_failed();
            return Err(error);
        }
        self.tracking(&mut body, |body| {
            body.pages.synced();
            Ok(())
        })?;
        body.durable_attributes = body.attributes;
        drop(body);
        if self.settings.fsync_names {
            let mut table = self.table();
            table.names.sync_names_of(ino);
            self.sweep_unmentioned(&mut table);
        }
        Ok(())
    }

    /// Makes a directory's operations durable, unless a fault strikes; they then go on waiting.
    pub fn sync_directory(&self, ino: Ino, fault: Outcome<()>) -> Outcome<()> {
        let _power = self.power()?;
        Counters::add(&self.counters.directory_fsyncs, 1);
        if let Err(error) = fault {
            Counters::add(&self.counters.errors_injected, 1);
            return Err(error);
        }
        let mut table = self.table();
        let inode = table.inode(ino)?;
        table.names.sync(ino);
        let mut body = inode.body();
        body.durable_attributes = body.attributes;
        drop(body);
        self.sweep_unmentioned(&mut table);
        Ok(())
    }

    /// The object of a file: the open one, or one opened for this use.
    pub(super) fn object(&self, ino: Ino, body: &mut Body) -> io::Result<Arc<File>> {
        match &body.object {
            Some(object) => Ok(object.clone()),
            None => {
                let path = tree::object(&self.settings.backing, ino);
                Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
            }
        }
    }

    fn strike(&self, op: Op, ino: Ino) -> Outcome<()> {
        if !self.faults.any() {
            return Ok(());
        }
        let paths = self.table().names.paths(ino);
        let (_, outcome) = self.faults.strike(op, &paths);
        outcome.inspect_err(|_| Counters::add(&self.counters.errors_injected, 1))
    }

    /// Takes space so that the file may reach `end`; returns how far it may.
    fn charge(&self, body: &Body, end: u64) -> u64 {
        body.charged_to + self.space.take(end.saturating_sub(body.charged_to))
    }

    /// Runs a change of the content and keeps the count of un-synced pages.
    fn tracking(
        &self,
        body: &mut Body,
        change: impl FnOnce(&mut Body) -> io::Result<()>,
    ) -> Outcome<()> {
        let before = body.pages.unsynced();
        let outcome = change(body);
        let after = body.pages.unsynced();
        let total = if after >= before {
            self.unsynced_pages.fetch_add(after - before, Ordering::Relaxed) + (after - before)
        } else {
            self.unsynced_pages.fetch_sub(before - after, Ordering::Relaxed) - (before - after)
        };
        outcome?;
        // Checked after the fact: the bound may be passed by one request, which then failed.
        if after > before && total > self.settings.unsynced_pages_max {
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }
}
