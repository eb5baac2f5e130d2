//! The FUSE side: takes the kernel's requests apart, calls `Disk`, puts the replies together.
//! Nothing is cached in the kernel but pages, so that names and attributes always ask the disk.
//! Locks (flock, fcntl) are the kernel's own; extended attributes do not exist.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use crate::disk::{Disk, Outcome, Stat};
use crate::inode::Kind;
use crate::names::Ino;

/// Large enough for any database's write, small enough for a buffer per thread.
const WRITE_BYTES_MAX: u32 = 1 << 20;
const UNCACHED: Duration = Duration::ZERO;
/// What stat(2) and statfs(2) say.
const BLOCK_BYTES: u32 = 4096;

type Listing = Arc<Vec<(Ino, Kind, OsString)>>;

/// The file system that the kernel talks to.
pub struct PowerCut {
    disk: Arc<Disk>,
    /// Guards what each open directory handle is listing. Nothing is locked under it.
    listings: Mutex<HashMap<u64, Listing>>,
    next_handle: AtomicU64,
}

impl PowerCut {
    /// Serves `disk`.
    pub fn new(disk: Arc<Disk>) -> Self {
        Self { disk, listings: Mutex::new(HashMap::new()), next_handle: AtomicU64::new(1) }
    }

    fn listing(&self, handle: u64, ino: Ino, offset: u64) -> Outcome<Listing> {
        let mut listings = self.listings.lock().expect("no holder panics");
        if let Some(listing) = listings.get(&handle).filter(|_| offset > 0) {
            return Ok(listing.clone());
        }
        // One listing per walk: entries removed meanwhile must not shift the others.
        let listing = Arc::new(self.disk.list(ino)?);
        listings.insert(handle, listing.clone());
        Ok(listing)
    }

    fn set(&self, ino: Ino, change: &Change) -> Outcome<Stat> {
        if let Some(size) = change.size {
            self.disk.resize(ino, size)?;
        }
        self.disk.change(ino, |attributes| {
            attributes.mode = change.mode.map_or(attributes.mode, |mode| mode & 0o7777);
            attributes.uid = change.uid.unwrap_or(attributes.uid);
            attributes.gid = change.gid.unwrap_or(attributes.gid);
            attributes.atime = change.atime.map_or(attributes.atime, moment);
            attributes.mtime = change.mtime.map_or(attributes.mtime, moment);
        })?;
        self.disk.stat(ino)
    }

    /// Runs a sync, on a thread of its own if a fault makes it wait.
    fn sync(&self, ino: Ino, reply: ReplyEmpty, run: fn(&Disk, Ino, Outcome<()>) -> Outcome<()>) {
        let (delay, fault) = self.disk.sync_fault(ino);
        if delay.is_zero() {
            return empty(reply, run(&self.disk, ino, fault));
        }
        let disk = self.disk.clone();
        std::thread::spawn(move || {
            std::thread::sleep(delay);
            empty(reply, run(&disk, ino, fault));
        });
    }
}

struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
}

fn moment(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

fn attr(stat: &Stat) -> FileAttr {
    let inode = &stat.inode;
    let body = inode.body();
    let size = match &inode.kind {
        Kind::File => body.pages.size(),
        Kind::Directory => u64::from(BLOCK_BYTES),
        Kind::Symlink(target) => target.as_os_str().len() as u64,
    };
    FileAttr {
        ino: INodeNo(inode.ino),
        size,
        blocks: body.charged_to.div_ceil(512),
        atime: body.attributes.atime,
        mtime: body.attributes.mtime,
        ctime: body.attributes.ctime,
        crtime: body.attributes.ctime,
        kind: inode.kind.file_type(),
        perm: (body.attributes.mode & 0o7777) as u16,
        nlink: u32::try_from(stat.links).unwrap_or(u32::MAX),
        uid: body.attributes.uid,
        gid: body.attributes.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn empty(reply: ReplyEmpty, outcome: Outcome<()>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, outcome: Outcome<Stat>) {
    match outcome {
        Ok(stat) => reply.entry(&UNCACHED, &attr(&stat), Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn attributes(reply: ReplyAttr, outcome: Outcome<Stat>) {
    match outcome {
        Ok(stat) => reply.attr(&UNCACHED, &attr(&stat)),
        Err(error) => reply.error(error),
    }
}

fn owner(request: &Request) -> (u32, u32) {
    (request.uid(), request.gid())
}

impl Filesystem for PowerCut {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |_| io::Error::other("the kernel refuses the size of writes");
        config.set_max_write(WRITE_BYTES_MAX).map_err(refused)?;
        // An older kernel does without: it then takes directory operations one by one.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.disk.look_up(parent.0, name));
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        self.disk.forget(ino.0, lookups);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(reply, self.disk.stat(ino.0));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { mode, uid, gid, size, atime, mtime };
        attributes(reply, self.set(ino.0, &change));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.disk.read_link(ino.0) {
            Ok(target) => reply.data(target.as_os_str().as_encoded_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let regular = rustix::fs::FileType::from_raw_mode(mode).is_file();
        let outcome = match regular {
            true => self.disk.make(parent.0, name, Kind::File, owner(request), mode, false),
            false => Err(Errno::EPERM),
        };
        entry(reply, outcome);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let kind = Kind::Directory;
        entry(reply, self.disk.make(parent.0, name, kind, owner(request), mode, false));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.disk.remove(parent.0, name, false));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.disk.remove(parent.0, name, true));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let kind = Kind::Symlink(target.to_owned());
        entry(reply, self.disk.make(parent.0, name, kind, owner(request), 0o777, false));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let keep_target = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let outcome = self.disk.rename((parent.0, name), (new_parent.0, new_name), keep_target);
        empty(reply, outcome);
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        entry(reply, self.disk.link(ino.0, new_parent.0, new_name));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disk.open_file(ino.0) {
            // All changes come through this mount, so pages cached at an earlier open are good.
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.disk.make(parent.0, name, Kind::File, owner(request), mode, true) {
            Ok(stat) => {
                let attr = attr(&stat);
                let flags = FopenFlags::empty();
                reply.created(&UNCACHED, &attr, Generation(0), FileHandle(0), flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk.read(ino.0, offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let disk = &self.disk;
        let outcome = disk.write(ino.0, offset, data).and_then(|written| {
            // O_SYNC contains the bit of O_DSYNC.
            let synced = OpenFlags(flags.0 & rustix::fs::OFlags::DSYNC.bits() as i32);
            if synced.0 != 0 {
                let (delay, fault) = disk.sync_fault(ino.0);
                std::thread::sleep(delay);
                disk.sync_file(ino.0, fault)?;
            }
            Ok(written)
        });
        match outcome {
            Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.disk.close_file(ino.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(ino.0, reply, Disk::sync_file);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(ino.0, reply, Disk::sync_directory);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.disk.allocate(ino.0, offset, length, mode as u32));
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = match self.listing(handle.0, ino.0, offset) {
            Ok(listing) => listing,
            Err(error) => return reply.error(error),
        };
        let rest = listing.iter().zip(1..).skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for ((ino, kind, name), next) in rest {
            if reply.add(INodeNo(*ino), next, kind.file_type(), name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.lock().expect("no holder panics").remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::statvfs(self.disk.backing()) {
            Ok(below) => {
                let block = u64::from(BLOCK_BYTES);
                let free = below.f_bavail * below.f_frsize;
                let free = self.disk.space.left().map_or(free, |left| left.min(free)) / block;
                let total = below.f_blocks * below.f_frsize / block;
                let (files, left) = (below.f_files, below.f_ffree);
                reply.statfs(total, free, free, files, left, BLOCK_BYTES, 255, BLOCK_BYTES);
            }
            Err(error) => reply.error(io::Error::from(error).into()),
        }
    }
}
