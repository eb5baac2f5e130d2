//! Checks a whole log without changing it: `holdfast check`.
//!
//! Every group, batch and record checksum, the sequence of groups, the positions of every shard,
//! and that segments follow each other. Goes on after damage: each segment's header says where to
//! begin again. The log must not be open for writing elsewhere.

use std::collections::BTreeMap;

use holdfast_base::{Epoch, Incarnation, LogId, Lsn, ShardId};
use holdfast_io::Disk;

use super::{
    files::{self, Listing, Segment, renewed_path, segment_path},
    format::SegmentHeader,
    recover::{
        check_follows, corrupt, displaced_first, next_lsn, open_segment, read_identity, read_tail,
    },
    walk::{Counts, WalkError, Window},
};
use crate::{Corruption, LogError, place::Point};

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Identity of the log.
    pub log: LogId,
    /// Segment files.
    pub segments: u64,
    /// Groups whose checks hold.
    pub groups: u64,
    /// Those of them that only confirm the ones before.
    pub watermarks: u64,
    /// Batches whose checks hold.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// What each shard's log holds.
    pub shards: BTreeMap<ShardId, ShardReport>,
    /// Where the last write was torn: file and offset. Not damage; the next start cuts it off.
    pub torn: Option<(String, u64)>,
    /// A segment stands under the name that it has for a moment while a node starts. Not damage;
    /// the next start gives it its own back.
    pub start_cut_short: bool,
    /// Damage, in the order of the log.
    pub problems: Vec<Corruption>,
}

/// What one shard's log holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardReport {
    /// First position that is kept.
    pub first: Lsn,
    /// Position after the last record.
    pub next: Lsn,
    /// Epoch of the last record.
    pub epoch: Epoch,
    /// Life of the log.
    pub incarnation: Incarnation,
}

/// Checks the log in this folder. An error means that it could not be read; damage is in the
/// report.
pub fn verify(disk: &dyn Disk, dir: &str) -> Result<Report, LogError> {
    let mut report = Report::default();
    let listing = files::list(disk, dir)?;
    if !listing.anything {
        return Err(LogError::Missing(dir.to_owned()));
    }
    let segments = segments_by_number(disk, dir, &listing)?;
    let names = listing.segments.len() + listing.renewed.len();
    report.start_cut_short =
        segments.len() < names || segments.iter().any(|(n, path)| *path != segment_path(dir, *n));
    match read_identity(disk, dir, &listing) {
        Ok(log) => report.log = log,
        Err(error) => {
            report.damage(error)?;
            return Ok(report);
        }
    }
    let Some((&last, _)) = segments.last_key_value() else {
        report.problems.push(corrupt(dir, 0, "no segment"));
        return Ok(report);
    };
    report.segments = segments.len() as u64;
    // The segments in pairs: the next one's header says where this one ends.
    let mut current: Option<Segment> = None;
    for (number, path) in segments {
        let next = match open_segment(disk.open_read(&path)?, path, report.log, number) {
            Ok(segment) => Some(segment),
            Err(error) => report.damage(error).map(|()| None)?,
        };
        if let (Some(current), Some(next)) = (&current, &next) {
            match check_follows(&current.header, &next.header) {
                Ok(()) => report.closed(current, &next.header)?,
                Err(what) => report.problems.push(corrupt(&next.path, 0, what)),
            }
        }
        report.begin(next.as_ref());
        current = next;
    }
    // The last one's header may be damaged; that has been noted.
    if let Some(segment) = current.filter(|segment| segment.header.number == last) {
        report.tail(&segment)?;
    }
    Ok(report)
}

/// The path of each segment, which may be the one between two that a start gives it.
fn segments_by_number(
    disk: &dyn Disk,
    dir: &str,
    listing: &Listing,
) -> Result<BTreeMap<u64, String>, LogError> {
    let named = listing.segments.iter().map(|&number| (number, segment_path(dir, number)));
    let mut segments: BTreeMap<u64, String> = named.collect();
    for &number in &listing.renewed {
        segments.entry(number).or_insert_with(|| renewed_path(dir, number));
    }
    if let Some(number) = displaced_first(disk, dir, listing)?
        && let Some((_, path)) = segments.pop_first()
    {
        segments.entry(number).or_insert(path);
    }
    Ok(segments)
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    /// Notes damage; other errors end the check.
    fn damage(&mut self, error: LogError) -> Result<(), LogError> {
        match error {
            LogError::Corrupt(corruption) => self.problems.push(corruption),
            other => return Err(other),
        }
        Ok(())
    }

    fn begin(&mut self, segment: Option<&Segment>) {
        for (&shard, point) in segment.iter().flat_map(|segment| &segment.header.points) {
            self.reach(shard, point, point.next_lsn);
        }
    }

    /// A shard stands at `point`; if it was not known, its log is kept from `first` on.
    fn reach(&mut self, shard: ShardId, point: &Point, first: Lsn) {
        let Point { next_lsn: next, epoch, incarnation, .. } = *point;
        let first = self.shards.get(&shard).map_or(first, |known| known.first);
        self.shards.insert(shard, ShardReport { first, next, epoch, incarnation });
    }

    fn add(&mut self, counts: &Counts) {
        self.groups += counts.groups;
        self.watermarks += counts.watermarks;
        self.batches += counts.batches;
        self.records += counts.records;
    }

    /// Checks a segment that another one follows.
    fn closed(&mut self, segment: &Segment, next: &SegmentHeader) -> Result<(), LogError> {
        let mut window = Window::new(&*segment.file, next.previous_end);
        let mut walk = segment.walk();
        let stopped = loop {
            match walk.step(&mut window, &segment.index) {
                Ok(true) => {}
                Ok(false) => break None,
                Err(WalkError::Io(error)) => return Err(error.into()),
                Err(WalkError::Impossible { offset, what }) => break Some((offset, what)),
            }
        };
        self.add(&walk.counts);
        if let Some((offset, what)) = stopped {
            self.problems.push(corrupt(&segment.path, offset, what));
        } else if walk.offset != next.previous_end {
            let what = "the group here fails its checks";
            self.problems.push(corrupt(&segment.path, walk.offset, what));
        } else if walk.points != next.points || walk.sequence != next.first_sequence {
            let what = "the next segment does not begin where this one ends";
            self.problems.push(corrupt(&segment.path, walk.offset, what));
        }
        for (&shard, point) in &walk.points {
            self.reach(shard, point, next_lsn(&segment.header.points, shard));
        }
        Ok(())
    }

    /// Checks the last segment.
    fn tail(&mut self, segment: &Segment) -> Result<(), LogError> {
        let tail = match read_tail(segment, &BTreeMap::new()) {
            Ok(tail) => tail,
            Err(error) => return self.damage(error),
        };
        self.add(&tail.walk.counts);
        for (&shard, point) in &tail.walk.points {
            self.reach(shard, point, next_lsn(&segment.header.points, shard));
        }
        self.torn = tail.torn.then(|| (segment.path.clone(), tail.walk.offset));
        Ok(())
    }
}
