//! Reading groups from a segment: one after another, or searching for any.
//!
//! Memory is bounded by a window that grows to the largest group. A group counts only if its
//! checksum, salted for this segment, holds over header and batches. Nothing here writes.

use std::{collections::BTreeMap, io};

use holdfast_base::{LogId, Lsn, ShardId, record::BatchView};
use holdfast_io::File;
use parking_lot::Mutex;

use super::format::{
    GROUP_ALIGN, GROUP_HEADER_BYTES, GroupHeader, Points, Salt, group_bytes, has_group_magic,
};
use crate::place::{Point, Step};

/// Read ahead: few system calls on a walk, little waste on a single read.
const WINDOW_BYTES: usize = 256 << 10;

/// A read must not scan more than this to find a position.
const INDEX_STRIDE_BYTES: u64 = 64 << 10;

/// A part of a file in memory.
pub(super) struct Window<'f> {
    file: &'f dyn File,
    /// Reads stop here.
    limit: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'f> Window<'f> {
    /// Nothing at or behind `limit` will be read.
    pub fn new(file: &'f dyn File, limit: u64) -> Window<'f> {
        Window { file, limit, start: 0, bytes: Vec::new() }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// So many bytes from `offset`; `None` if they reach beyond the limit or the file's end.
    pub fn get(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let end = offset.saturating_add(len as u64);
        if end > self.limit {
            return Ok(None);
        }
        if offset < self.start || end > self.start + self.bytes.len() as u64 {
            let room = usize::try_from(self.limit - offset).unwrap_or(usize::MAX);
            self.bytes.resize(len.max(WINDOW_BYTES).min(room), 0);
            self.start = offset;
            let read = self.file.read_at(&mut self.bytes, offset);
            // What a failed read left behind must not be taken for the file's content.
            self.bytes.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        let skip = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(skip..).and_then(|rest| rest.get(..len)))
    }
}

/// A group whose checksum holds.
pub(super) struct Group<'w> {
    pub header: GroupHeader,
    pub payload: &'w [u8],
    /// Where the next group begins.
    pub end: u64,
}

/// Reads the group at `offset`; `None` if there is no valid one.
pub(super) fn read_group<'w>(
    window: &'w mut Window<'_>,
    salt: Salt,
    offset: u64,
) -> io::Result<Option<Group<'w>>> {
    let claimed = window.get(offset, GROUP_HEADER_BYTES)?.and_then(GroupHeader::claimed);
    let Some(header) = claimed else { return Ok(None) };
    let end = offset.saturating_add(group_bytes(header.payload_bytes.into()));
    let len = GROUP_HEADER_BYTES + header.payload_bytes as usize;
    if end > window.limit() {
        return Ok(None);
    }
    let Some((head, payload)) =
        window.get(offset, len)?.and_then(|group| group.split_at_checked(GROUP_HEADER_BYTES))
    else {
        return Ok(None);
    };
    let valid = GroupHeader::verify(head, payload, salt);
    Ok(valid.then_some(Group { header, payload, end }))
}

/// Where the first valid group of a later sequence is, at or behind `from`: proof that what stands
/// before it was durable once.
pub(super) fn find_later_group(
    window: &mut Window<'_>,
    salt: Salt,
    from: u64,
    sequence_min: u64,
) -> io::Result<Option<u64>> {
    let mut offset = from.next_multiple_of(GROUP_ALIGN as u64);
    while offset + (GROUP_HEADER_BYTES as u64) <= window.limit() {
        let len = (window.limit() - offset).min(WINDOW_BYTES as u64) as usize;
        let Some(bytes) = window.get(offset, len)? else { return Ok(None) };
        let candidate = bytes.chunks(GROUP_ALIGN).position(has_group_magic);
        let Some(steps) = candidate else {
            offset += (len as u64).next_multiple_of(GROUP_ALIGN as u64);
            continue;
        };
        offset += (steps * GROUP_ALIGN) as u64;
        let claimed = window.get(offset, GROUP_HEADER_BYTES)?.and_then(GroupHeader::claimed);
        // Groups of an earlier life have lower sequences: no need to sum them.
        let later = claimed.is_some_and(|header| header.sequence >= sequence_min);
        if later && read_group(window, salt, offset)?.is_some() {
            return Ok(Some(offset));
        }
        offset += GROUP_ALIGN as u64;
    }
    Ok(None)
}

/// For some positions of each shard, where their group begins. Filled as groups are written or
/// walked over; one entry per shard and stride, so about 0.03 % of the log.
#[derive(Default)]
pub(super) struct Index {
    // Guards the entries; a leaf: nothing else is taken while it is held.
    entries: Mutex<BTreeMap<ShardId, Vec<(Lsn, u64)>>>,
}

impl Index {
    /// A batch that begins with this position is in the group at `offset`.
    pub fn note(&self, shard: ShardId, first: Lsn, offset: u64) {
        let mut entries = self.entries.lock();
        let entries = entries.entry(shard).or_default();
        let far = entries.last().is_none_or(|&(last, last_offset)| {
            first > last && offset >= last_offset + INDEX_STRIDE_BYTES
        });
        if far {
            entries.push((first, offset));
        }
    }

    /// A group from which walking on finds the position; `None`: from the segment's first.
    pub fn look_up(&self, shard: ShardId, lsn: Lsn) -> Option<u64> {
        let entries = self.entries.lock();
        let entries = entries.get(&shard)?;
        let behind = entries.partition_point(|&(first, _)| first <= lsn);
        entries.get(behind.checked_sub(1)?).map(|&(_, offset)| offset)
    }
}

/// What was walked over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub groups: u64,
    pub watermarks: u64,
    pub batches: u64,
    pub records: u64,
}

/// A walk stopped.
#[derive(Debug)]
pub(super) enum WalkError {
    Io(io::Error),
    /// A group whose checksum holds has impossible content.
    Impossible {
        offset: u64,
        what: String,
    },
}

impl From<io::Error> for WalkError {
    fn from(error: io::Error) -> Self {
        WalkError::Io(error)
    }
}

/// Walks a segment's groups in order and checks that each continues the log.
pub(super) struct Walk {
    pub log: LogId,
    pub salt: Salt,
    /// Where the next group begins.
    pub offset: u64,
    /// Sequence that it has.
    pub sequence: u64,
    /// Where every shard stands before it.
    pub points: Points,
    /// Where the last group began, and whether it is a watermark.
    pub last: Option<(u64, bool)>,
    pub counts: Counts,
}

impl Walk {
    /// Goes over one group; false if there is no valid one.
    pub fn step(&mut self, window: &mut Window<'_>, index: &Index) -> Result<bool, WalkError> {
        let offset = self.offset;
        let Some(group) = read_group(window, self.salt, offset)? else { return Ok(false) };
        let GroupHeader { sequence, durable_before, batches, .. } = group.header;
        if sequence != self.sequence || durable_before >= sequence {
            let what = format!("group {sequence} stands where group {} must be", self.sequence);
            return Err(WalkError::Impossible { offset, what });
        }
        let mut rest = group.payload;
        for _ in 0..batches {
            let step = self.take_batch(&mut rest, offset)?;
            index.note(step.shard, step.first_lsn, offset);
        }
        if !rest.is_empty() {
            let what = "bytes behind the group's last batch".to_owned();
            return Err(WalkError::Impossible { offset, what });
        }
        self.counts.groups += 1;
        self.counts.watermarks += u64::from(batches == 0);
        self.counts.batches += u64::from(batches);
        self.sequence += 1;
        self.last = Some((offset, batches == 0));
        self.offset = group.end;
        Ok(true)
    }

    fn take_batch(&mut self, rest: &mut &[u8], offset: u64) -> Result<Step, WalkError> {
        let impossible = |what| Err(WalkError::Impossible { offset, what });
        let step = match take_batch(rest) {
            Ok((step, _)) => step,
            Err(damage) => return impossible(format!("a batch in the group: {damage}")),
        };
        let start = Point::start(self.log, step.shard);
        let point = self.points.entry(step.shard).or_insert(start);
        let Some(after) = point.advance(&step) else {
            let what = format!(
                "the batch at lsn {} of shard {} does not continue the log at lsn {}",
                step.first_lsn, step.shard, point.next_lsn
            );
            return impossible(what);
        };
        *point = after;
        self.counts.records += u64::from(step.count);
        Ok(step)
    }
}

/// Takes one batch off the front of a group's payload and verifies it: its place and its bytes.
pub(super) fn take_batch<'p>(
    rest: &mut &'p [u8],
) -> Result<(Step, &'p [u8]), holdfast_base::record::Damaged> {
    let all = *rest;
    let view = BatchView::decode(rest)?;
    let bytes = all.get(..all.len() - rest.len()).unwrap_or_default();
    Ok((Step::of(&view, bytes), bytes))
}
