//! Opening: what the files say is durable, and what of it may be doubted.
//!
//! An invalid group counts as torn only in the last segment, only if no valid group stands behind
//! it and nobody claims what it may have held; everything else is corruption, and then nothing is
//! changed on the disk. The last group is written and synced again: a process may have died between
//! a failed sync and its report, and the page cache shows such bytes although the medium lacks
//! them.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};

use holdfast_base::{LogId, Lsn, ShardId};
use holdfast_io::{Disk, File, Random};

use super::{
    EmbeddedOptions, OpenMode, SyncPolicy,
    commit::{GroupBuffer, Writer},
    files::{self, Files, Listing, Segment, identity_path, renewed_path, segment_path},
    format::{
        BLOCK_BYTES, GROUP_ALIGN, GroupHeader, IDENTITY_BYTES, Points, Salt, SegmentHeader,
        decode_identity,
    },
    state::State,
    walk::{Counts, Walk, WalkError, Window, find_later_group},
};
use crate::{Corruption, LogError, place::Point};

/// What opening found.
pub(super) struct Recovered {
    pub files: Files,
    pub state: State,
    pub writer: Writer,
}

pub(super) fn corrupt(file: &str, offset: u64, what: impl Into<String>) -> Corruption {
    Corruption { file: file.to_owned(), offset, what: what.into() }
}

/// Opens the log of the options' folder, or makes it if that is allowed.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    options: &EmbeddedOptions,
    random: &mut dyn Random,
) -> Result<Recovered, LogError> {
    let dir = options.dir.as_str();
    let mut listing = files::list(&**disk, dir)?;
    let is_named_now = !listing.anything;
    if is_named_now && is_whole(&**disk, &files::making_dir(dir))? {
        files::move_in(&**disk, dir)?;
        listing = files::list(&**disk, dir)?;
    }
    if !listing.anything {
        if let Some((shard, lsn)) = options.engine_claims.iter().find(|(_, lsn)| lsn.0 > 0) {
            let what = format!("there is no log, but the engine holds shard {shard} up to {lsn}");
            return Err(corrupt(dir, 0, what).into());
        }
        if options.mode == OpenMode::Existing {
            return Err(LogError::Missing(dir.to_owned()));
        }
        let log = LogId(random.next_u64());
        files::create(&**disk, dir, log, options.segment_bytes, Points::new())
            .map_err(LogError::from_disk)?;
        listing = files::list(&**disk, dir)?;
    }
    let mut files = Files::new(Arc::clone(disk), dir, options.segment_bytes);
    finish_renewals(&**disk, &mut files, &mut listing)?;
    let log = read_identity(&**disk, dir, &listing)?;
    let mut segments = open_segments(&**disk, dir, log, &listing)?;
    let last = segments.pop_back().ok_or_else(|| corrupt(dir, 0, "no segment"))?;
    let tail = read_tail(&last, &options.engine_claims)?;
    // From here on the log is sound, and the disk may be changed.
    if last.header.number == 1 && tail.walk.last.is_none() && !is_named_now {
        files.renew_folder()?;
    }
    files.renew_first(segments.front().unwrap_or(&last).header.number)?;
    files.renew_last(last.header.number)?;
    if listing.reserve {
        files.adopt_reserve()?;
    }
    if listing.trimmed {
        files.remove_trimmed()?;
    }
    if let Some((offset, _)) = tail.walk.last.filter(|_| options.sync == SyncPolicy::Always) {
        rewrite(&*last.file, offset, tail.walk.offset)?;
    }
    if tail.torn {
        let (file, offset) = (last.path.as_str(), tail.walk.offset);
        tracing::warn!(file, offset, "the log's last write was torn; it is cut off there");
    }
    last.set_end(tail.walk.offset);
    let last = Arc::new(last);
    let mut segments: VecDeque<_> = segments.into_iter().map(Arc::new).collect();
    segments.push_back(Arc::clone(&last));
    let writer = Writer {
        segment: Arc::clone(&last),
        end: tail.walk.offset,
        sequence: tail.walk.sequence,
        unconfirmed: tail.walk.last.is_some_and(|(_, watermark)| !watermark),
        needs_cut: tail.torn,
        buffer: GroupBuffer::default(),
    };
    let room = last.header.bytes - writer.end;
    let mut state = State::new(log, &tail.walk.points, segments, room, options.group_bytes_max);
    state.reserve = files.reserve_state();
    Ok(Recovered { files, state, writer })
}

/// Whether an empty log in this folder lacks nothing but its place.
fn is_whole(disk: &dyn Disk, dir: &str) -> Result<bool, LogError> {
    let listing = files::list(disk, dir)?;
    let opened = read_identity(disk, dir, &listing)
        .and_then(|log| open_segments(disk, dir, log, &listing))
        .map(|segments| !segments.is_empty());
    match opened {
        Err(LogError::Corrupt(_)) => Ok(false),
        other => other,
    }
}

/// Gives the segments their names back that a crash left between two, or under both.
fn finish_renewals(
    disk: &dyn Disk,
    files: &mut Files,
    listing: &mut Listing,
) -> Result<(), LogError> {
    for number in std::mem::take(&mut listing.renewed) {
        let own = files.take_back(&renewed_path(files.dir(), number), number)?;
        listing.segments.extend(own);
        listing.segments.sort_unstable();
    }
    if let Some(number) = displaced_first(disk, files.dir(), listing)? {
        listing.segments.remove(0);
        let own = files.take_back(&segment_path(files.dir(), number - 1), number)?;
        listing.segments.extend(own);
        listing.segments.sort_unstable();
    }
    Ok(())
}

/// The number of the first segment, if it stands under the name before its own: see
/// [`Files::renew_first`].
pub(super) fn displaced_first(
    disk: &dyn Disk,
    dir: &str,
    listing: &Listing,
) -> Result<Option<u64>, LogError> {
    let header = |number| -> io::Result<_> {
        let file = disk.open_read(&segment_path(dir, number))?;
        Ok(SegmentHeader::decode(&read_header(&*file)?).ok())
    };
    let Some(&first) = listing.segments.first() else { return Ok(None) };
    let Some(found) = header(first)?.filter(|found| found.number == first + 1) else {
        return Ok(None);
    };
    // Under both names it must be the same segment; else something was copied over another.
    let own = listing.segments.get(1).filter(|next| **next == found.number);
    let is_alone = own.is_none_or(|own| header(*own).is_ok_and(|it| it.as_ref() == Some(&found)));
    Ok(is_alone.then_some(found.number))
}

/// Reads the log's identity.
pub(super) fn read_identity(
    disk: &dyn Disk,
    dir: &str,
    listing: &Listing,
) -> Result<LogId, LogError> {
    let path = identity_path(dir);
    if !listing.identity {
        return Err(corrupt(&path, 0, "the log's identity is missing").into());
    }
    let file = disk.open_read(&path)?;
    // One byte more than it must have, so that a longer file is seen.
    let mut stored = vec![0; IDENTITY_BYTES + 1];
    let len = file.read_at(&mut stored, 0)?;
    stored.truncate(len);
    decode_identity(&stored).map_err(|what| corrupt(&path, 0, what).into())
}

/// Opens all segments by their headers and checks that these follow each other without a gap.
fn open_segments(
    disk: &dyn Disk,
    dir: &str,
    log: LogId,
    listing: &Listing,
) -> Result<VecDeque<Segment>, LogError> {
    let mut segments: VecDeque<Segment> = VecDeque::with_capacity(listing.segments.len() + 1);
    for &number in &listing.segments {
        let path = segment_path(dir, number);
        let segment = open_segment(disk.open(&path)?, path, log, number)?;
        if let Some(previous) = segments.back() {
            check_follows(&previous.header, &segment.header)
                .map_err(|what| corrupt(&segment.path, 0, what))?;
            previous.set_end(segment.header.previous_end);
        }
        segments.push_back(segment);
    }
    Ok(segments)
}

/// Reads a segment's header and checks that the file is the segment of this number.
pub(super) fn open_segment(
    file: Arc<dyn File>,
    path: String,
    log: LogId,
    number: u64,
) -> Result<Segment, LogError> {
    let stored = read_header(&*file)?;
    let header = SegmentHeader::decode(&stored).map_err(|what| corrupt(&path, 0, what))?;
    if header.log != log || header.number != number {
        let what = format!("it is segment {} of log {:016x}", header.number, header.log.0);
        return Err(corrupt(&path, 0, what).into());
    }
    let len = file.len()?;
    if len < header.bytes {
        let what = format!("the file ends here, {} bytes early", header.bytes - len);
        return Err(corrupt(&path, len, what).into());
    }
    let end = header.header_bytes();
    Ok(Segment::new(header, path, file, end))
}

/// The bytes at the front of a segment that say they are its header.
fn read_header(file: &dyn File) -> io::Result<Vec<u8>> {
    let mut stored = vec![0; BLOCK_BYTES];
    let read = file.read_at(&mut stored, 0)?;
    stored.truncate(read);
    if let Some(bytes) = SegmentHeader::claimed_bytes(&stored).filter(|bytes| *bytes > read) {
        stored.resize(bytes, 0);
        let read = file.read_at(&mut stored, 0)?;
        stored.truncate(read);
    }
    Ok(stored)
}

/// Whether a segment's header can follow the one before.
pub(super) fn check_follows(previous: &SegmentHeader, next: &SegmentHeader) -> Result<(), String> {
    if next.number != previous.number + 1 {
        return Err(format!("segment {} is missing before this one", next.number - 1));
    }
    let ends = previous.header_bytes()..=previous.bytes;
    if !ends.contains(&next.previous_end) || next.first_sequence < previous.first_sequence {
        return Err("it does not follow the segment before".to_owned());
    }
    let goes_on = |(shard, point): (&ShardId, &Point)| {
        next.points.get(shard).is_some_and(|later| {
            later.next_lsn >= point.next_lsn
                && later.epoch >= point.epoch
                && later.incarnation == point.incarnation
        })
    };
    if !previous.points.iter().all(goes_on) {
        return Err("its positions are before those of the segment before".to_owned());
    }
    Ok(())
}

impl Segment {
    /// A walk from its first group.
    pub fn walk(&self) -> Walk {
        Walk {
            log: self.header.log,
            salt: Salt::new(self.header.log, self.header.number),
            offset: self.header.header_bytes(),
            sequence: self.header.first_sequence,
            points: self.header.points.clone(),
            last: None,
            counts: Counts::default(),
        }
    }
}

/// Translates what stopped a walk.
pub(super) fn walk_error(path: &str, error: WalkError) -> LogError {
    match error {
        WalkError::Io(error) => LogError::Io(error),
        WalkError::Impossible { offset, what } => corrupt(path, offset, what).into(),
    }
}

/// How the last segment ends.
pub(super) struct Tail {
    /// Behind its last valid group.
    pub walk: Walk,
    /// Something was written behind the last valid group that is no group.
    pub torn: bool,
}

/// Walks the last segment, changing nothing.
pub(super) fn read_tail(
    segment: &Segment,
    claims: &BTreeMap<ShardId, Lsn>,
) -> Result<Tail, LogError> {
    let mut window = Window::new(&*segment.file, segment.header.bytes);
    let mut walk = segment.walk();
    while walk.step(&mut window, &segment.index).map_err(|e| walk_error(&segment.path, e))? {}
    let behind = walk.offset.saturating_add(GROUP_ALIGN as u64);
    let later = find_later_group(&mut window, walk.salt, behind, walk.sequence)?;
    if let Some(later) = later {
        let what = format!("no valid group here, but one at byte {later}: this was durable once");
        return Err(corrupt(&segment.path, walk.offset, what).into());
    }
    check_claims(segment, &walk, claims)?;
    let torn = is_torn(&mut window, &walk, segment.header.zeroed)?;
    Ok(Tail { walk, torn })
}

fn check_claims(
    segment: &Segment,
    walk: &Walk,
    claims: &BTreeMap<ShardId, Lsn>,
) -> Result<(), Corruption> {
    for (&shard, &claimed) in claims {
        let next = next_lsn(&walk.points, shard);
        if next <= claimed {
            let what = format!(
                "the log of shard {shard} ends before lsn {next}, but the engine holds it up to \
                 {claimed}"
            );
            return Err(corrupt(&segment.path, walk.offset, what));
        }
    }
    Ok(())
}

pub(super) fn next_lsn(points: &Points, shard: ShardId) -> Lsn {
    points.get(&shard).map_or(Lsn(1), |point| point.next_lsn)
}

/// Whether a write is visible behind the last valid group. In a zeroed segment every byte tells;
/// in a recycled one, whose earlier life stands there, only the beginning of the next group does.
fn is_torn(window: &mut Window<'_>, walk: &Walk, zeroed: bool) -> io::Result<bool> {
    const PIECE_BYTES: u64 = 64 << 10;
    let mut at = walk.offset;
    while at < window.limit() {
        let len = (window.limit() - at).min(PIECE_BYTES);
        let Some(bytes) = window.get(at, len as usize)? else { return Ok(true) };
        if !zeroed {
            let claimed = GroupHeader::claimed(bytes);
            return Ok(claimed.is_some_and(|header| header.sequence >= walk.sequence));
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        at += len;
    }
    Ok(false)
}

/// Writes a part of a file over itself and syncs it.
fn rewrite(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, from)?;
    file.write_at(&bytes, from)?;
    file.sync_data()
}
