//! The log's folder: which files there are, how a segment comes to be and how it goes.
//!
//! A segment is prepared under the name `reserve` or, if it was one before, `trimmed`; its header is
//! written and synced, and only then is it given its number: a file named as a segment always has a
//! valid header. A file named `reserve` was synced at its whole length. Names change one at a time, each made durable before the next.
//! After a failed sync of the folder no name may be trusted any more, and nothing is changed until
//! the log is opened again. Opening then makes every name certain that the one uncertain change
//! can have touched: `renew_folder`, `renew_first`, `renew_last`.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use holdfast_base::LogId;
use holdfast_io::{Disk, File, create_dir_durably, parent};

use super::{
    format::{BLOCK_BYTES, Points, Salt, SegmentHeader, encode_identity},
    walk::Index,
};

/// A segment that the log can read, and perhaps append to.
pub(super) struct Segment {
    pub header: SegmentHeader,
    pub path: String,
    pub file: Arc<dyn File>,
    pub salt: Salt,
    pub index: Index,
    /// Where its durable groups end. Stored after the sync, so readers never see more.
    end: AtomicU64,
    /// A write or sync failed: never synced again, nor used again after trimming.
    failed: AtomicBool,
}

impl Segment {
    pub fn new(header: SegmentHeader, path: String, file: Arc<dyn File>, end: u64) -> Segment {
        let salt = Salt::new(header.log, header.number);
        Segment {
            header,
            path,
            file,
            salt,
            index: Index::default(),
            end: AtomicU64::new(end),
            failed: AtomicBool::new(false),
        }
    }

    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    pub fn set_failed(&self) {
        self.failed.store(true, Ordering::Release);
    }
}

const IDENTITY: &str = "identity";
const RESERVE: &str = "reserve";
const RESERVE_MAKING: &str = "reserve.tmp";
/// A trimmed segment that is to become the next one.
const TRIMMED: &str = "trimmed";
const SEGMENT_SUFFIX: &str = ".seg";
/// A segment whose name is being renewed: see [`Files::renew_last`].
const RENEWED_SUFFIX: &str = ".seg.again";

/// What a log's folder holds.
#[derive(Default, Debug)]
pub(super) struct Listing {
    pub anything: bool,
    pub identity: bool,
    pub reserve: bool,
    pub trimmed: bool,
    /// Numbers of the segments, ascending.
    pub segments: Vec<u64>,
    /// Segments that a crash left under the name of a renewal.
    pub renewed: Vec<u64>,
}

pub(super) fn identity_path(dir: &str) -> String {
    format!("{dir}/{IDENTITY}")
}

pub(super) fn segment_path(dir: &str, number: u64) -> String {
    format!("{dir}/{number:016x}{SEGMENT_SUFFIX}")
}

/// Where the last segment is while its name is renewed.
pub(super) fn renewed_path(dir: &str, number: u64) -> String {
    format!("{dir}/{number:016x}{RENEWED_SUFFIX}")
}

/// Where a new log is made.
pub(super) fn making_dir(dir: &str) -> String {
    format!("{dir}.new")
}

pub(super) fn list(disk: &dyn Disk, dir: &str) -> io::Result<Listing> {
    let mut listing = Listing::default();
    if !disk.exists(dir)? {
        return Ok(listing);
    }
    for name in disk.list(dir)? {
        listing.anything = true;
        let number = |suffix| {
            let digits = name.strip_suffix(suffix).filter(|digits| digits.len() == 16)?;
            u64::from_str_radix(digits, 16).ok()
        };
        if let Some(number) = number(SEGMENT_SUFFIX) {
            listing.segments.push(number);
        } else if let Some(number) = number(RENEWED_SUFFIX) {
            listing.renewed.push(number);
        } else if name == IDENTITY {
            listing.identity = true;
        } else if name == RESERVE {
            listing.reserve = true;
        } else if name == TRIMMED {
            listing.trimmed = true;
        }
    }
    // Sixteen digits sort as their numbers do, but the disk may not promise an order.
    listing.segments.sort_unstable();
    Ok(listing)
}

/// Makes a new log beside its place and moves it there whole, so that a log with an identity
/// always has a segment. Shards that are to begin elsewhere than at lsn 1 stand in `points`.
pub(super) fn create(
    disk: &dyn Disk,
    dir: &str,
    log: LogId,
    segment_bytes: u64,
    points: Points,
) -> io::Result<()> {
    let making = making_dir(dir);
    if disk.exists(&making)? {
        for name in disk.list(&making)? {
            disk.remove(&format!("{making}/{name}"))?;
        }
        disk.remove(&making)?;
    }
    create_dir_durably(disk, parent(dir))?;
    disk.create_dir(&making)?;
    let identity = disk.create(&identity_path(&making))?;
    identity.write_at(&encode_identity(log), 0)?;
    identity.sync_all()?;
    let header = SegmentHeader {
        log,
        number: 1,
        bytes: segment_bytes,
        zeroed: true,
        first_sequence: 1,
        previous_end: 0,
        points,
    };
    let segment = disk.create(&segment_path(&making, 1))?;
    segment.allocate(segment_bytes)?;
    segment.write_at(&header.encode(), 0)?;
    segment.sync_all()?;
    disk.sync_dir(&making)?;
    move_in(disk, dir)
}

/// Moves a log that is whole to its place.
pub(super) fn move_in(disk: &dyn Disk, dir: &str) -> io::Result<()> {
    disk.rename(&making_dir(dir), dir)?;
    disk.sync_dir(parent(dir))
}

/// What is ready for the next segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ReserveState {
    pub bytes: u64,
    /// There is none, and no room for one.
    pub spent: bool,
}

/// A file that waits to become a segment.
struct Reserve {
    file: Arc<dyn File>,
    bytes: u64,
}

/// Makes, names and removes segment files, one change at a time.
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    dir: String,
    segment_bytes: u64,
    /// Filled with zeros.
    reserve: Option<Reserve>,
    /// Was a segment. It is taken before the reserve: a log that is trimmed as fast as it grows then
    /// writes its bytes once, not zeros before them.
    trimmed: Option<Reserve>,
    /// Trimmed, to be removed in this order: the names left must stay without a gap.
    doomed: VecDeque<Arc<Segment>>,
    /// The folder's sync failed: which names are durable is not known.
    broken: bool,
    /// The disk had no room for a reserve when it was last asked.
    shortage: bool,
}

impl Files {
    pub fn new(disk: Arc<dyn Disk>, dir: &str, segment_bytes: u64) -> Files {
        Files {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            reserve: None,
            trimmed: None,
            doomed: VecDeque::new(),
            broken: false,
            shortage: false,
        }
    }

    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// How the reserve stands, asking the disk for room if there is none.
    pub fn reserve_state(&self) -> ReserveState {
        let has_room = || self.disk.free_bytes().is_ok_and(|free| free >= self.segment_bytes);
        let ready = self.trimmed.iter().chain(&self.reserve);
        let bytes = ready.map(|reserve| reserve.bytes).sum();
        ReserveState { bytes, spent: bytes == 0 && (self.shortage || !has_room()) }
    }

    /// Adopts the reserve that an earlier process left if it was never used, else removes it.
    pub fn adopt_reserve(&mut self) -> io::Result<()> {
        let path = self.path(RESERVE);
        let file = self.disk.open(&path)?;
        let bytes = file.len()?;
        let mut block = vec![1; BLOCK_BYTES];
        let read = file.read_at(&mut block, 0)?;
        // A reserve is filled with zeros, and what becomes a segment gets its header first.
        if bytes >= self.segment_bytes && read > 0 && block.iter().all(|byte| *byte == 0) {
            self.reserve = Some(Reserve { file, bytes });
            return Ok(());
        }
        self.change(|disk| disk.remove(&path))
    }

    /// Removes the trimmed segment that an earlier process kept: it may be named so in memory only,
    /// if the folder's sync failed then.
    pub fn remove_trimmed(&mut self) -> io::Result<()> {
        let path = self.path(TRIMMED);
        self.change(|disk| disk.remove(&path))
    }

    /// Makes sure that a file of at least so many bytes is ready for the next segment.
    pub fn prepare_reserve(&mut self, bytes_min: u64) -> io::Result<()> {
        self.check()?;
        let bytes = bytes_min.max(self.segment_bytes).next_multiple_of(BLOCK_BYTES as u64);
        let is_ready = self.trimmed.iter().chain(&self.reserve).any(|ready| ready.bytes >= bytes);
        // A larger reserve takes the place of a smaller when it is whole. Growing the one that waits
        // would leave a length under this name that no sync has confirmed.
        let result = if is_ready { Ok(()) } else { self.make_reserve(bytes) };
        self.shortage = result.as_ref().is_err_and(crate::error::is_full);
        result
    }

    fn make_reserve(&mut self, bytes: u64) -> io::Result<()> {
        let making = self.path(RESERVE_MAKING);
        let reserve = self.path(RESERVE);
        if self.disk.exists(&making)? {
            self.disk.remove(&making)?;
        }
        let file = self.disk.create(&making)?;
        let made = file.allocate(bytes).and_then(|()| file.sync_all());
        if let Err(error) = made {
            drop(file);
            // The space must not stay taken; the error to report is the first one.
            let _removed = self.disk.remove(&making);
            return Err(error);
        }
        self.change(|disk| disk.rename(&making, &reserve))?;
        self.reserve = Some(Reserve { file, bytes });
        Ok(())
    }

    /// Takes what is ready and holds so many bytes, and the name that it has.
    fn take_ready(&mut self, bytes: u64) -> Option<(Reserve, &'static str)> {
        let large_enough = |ready: &mut Reserve| ready.bytes >= bytes;
        let trimmed = self.trimmed.take_if(large_enough).map(|ready| (ready, TRIMMED));
        trimmed.or_else(|| Some((self.reserve.take_if(large_enough)?, RESERVE)))
    }

    /// Turns the reserve or the trimmed segment into the segment of this header, which must be able to hold so many
    /// bytes behind its header. On an error there is no such segment, or the files are broken.
    pub fn make_segment(
        &mut self,
        mut header: SegmentHeader,
        content_bytes: u64,
    ) -> io::Result<Segment> {
        let bytes = header.header_bytes() + content_bytes;
        self.prepare_reserve(bytes)?;
        let (ready, name) = self.take_ready(bytes).ok_or(io::ErrorKind::NotFound)?;
        header.bytes = ready.bytes;
        header.zeroed = name == RESERVE;
        // On an error the file is given up: one whose sync failed is never used again.
        ready.file.write_at(&header.encode(), 0)?;
        ready.file.sync_data()?;
        let (from, path) = (self.path(name), segment_path(&self.dir, header.number));
        self.change(|disk| disk.rename(&from, &path))?;
        // Opened by its own name, which errors then show.
        let file = self.disk.open(&path)?;
        let end = header.header_bytes();
        Ok(Segment::new(header, path, file, end))
    }

    /// Removes trimmed segments, or keeps one to be used again.
    pub fn discard(&mut self, segments: impl IntoIterator<Item = Arc<Segment>>) -> io::Result<()> {
        self.doomed.extend(segments);
        while let Some(segment) = self.doomed.front() {
            self.check()?;
            let path = segment.path.clone();
            let trimmed = self.path(TRIMMED);
            // A reader that still holds the file must not see it overwritten: removed instead,
            // it stays readable.
            let reusable = self.trimmed.is_none()
                && Arc::strong_count(segment) == 1
                && segment.header.bytes == self.segment_bytes
                && !segment.failed.load(Ordering::Acquire);
            if reusable {
                let file = Arc::clone(&segment.file);
                let bytes = segment.header.bytes;
                self.change(|disk| disk.rename(&path, &trimmed))?;
                self.trimmed = Some(Reserve { file, bytes });
                self.shortage = false;
            } else {
                self.change(|disk| disk.remove(&path))?;
            }
            self.doomed.pop_front();
        }
        Ok(())
    }

    /// Gives the last segment's name anew and makes it durable. The process that made the segment
    /// may have stopped because the folder's sync failed; then a later sync alone promises nothing.
    pub fn renew_last(&mut self, number: u64) -> io::Result<()> {
        self.renew(number, &renewed_path(&self.dir, number))
    }

    /// Finishes a renewal that a crash interrupted: the segment stands under `between`. Gives its
    /// number if it did not stand under its own name as well.
    pub fn take_back(&mut self, between: &str, number: u64) -> io::Result<Option<u64>> {
        let name = segment_path(&self.dir, number);
        // Two names of one file: renaming one to the other would do nothing.
        let has_both = self.disk.exists(&name)?;
        self.change(
            |disk| {
                if has_both { disk.remove(between) } else { disk.rename(between, &name) }
            },
        )?;
        Ok((!has_both).then_some(number))
    }

    /// Gives the first segment the name before its own, and its own back. The segment before was
    /// trimmed, perhaps by a process that stopped because the folder's sync failed: its name would
    /// come back with a power cut, in front of a gap as soon as more is trimmed.
    pub fn renew_first(&mut self, number: u64) -> io::Result<()> {
        match number {
            0 | 1 => Ok(()),
            _ => self.renew(number, &segment_path(&self.dir, number - 1)),
        }
    }

    /// Gives the folder's name anew, while there is nothing in its log yet: the process that made
    /// it may have stopped because this name could not be synced. A crash in between leaves a whole
    /// log where one is made, and opening moves it in.
    pub fn renew_folder(&mut self) -> io::Result<()> {
        self.disk.rename(&self.dir, &making_dir(&self.dir))?;
        move_in(&*self.disk, &self.dir)
    }

    fn renew(&mut self, number: u64, between: &str) -> io::Result<()> {
        let name = segment_path(&self.dir, number);
        self.change(|disk| {
            disk.rename(&name, between)?;
            disk.rename(between, &name)
        })
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    fn check(&self) -> io::Result<()> {
        if self.broken {
            let message = "the log's folder could not be synced: restart after mending the disk";
            return Err(io::Error::other(message));
        }
        Ok(())
    }

    /// One change of names, durable afterwards.
    fn change(&mut self, change: impl FnOnce(&dyn Disk) -> io::Result<()>) -> io::Result<()> {
        self.check()?;
        let changed = change(&*self.disk).and_then(|()| self.disk.sync_dir(&self.dir));
        self.broken = changed.is_err();
        changed
    }
}
