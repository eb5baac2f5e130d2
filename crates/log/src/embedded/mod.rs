//! The embedded log: segment files on this machine's disk, for one node.
//!
//! Several shards share one physical log and one sync. Guarantees the contract of [`crate::Log`]
//! over any [`Disk`], under the crash model of `holdfast_io::SimDisk`; layouts and recovery rules
//! are in docs/formats.md, "Log". It has no threads: committers call `submit` and `complete`, a
//! background thread calls `prepare_reserve` and `trim`. Only one process may open a folder; the
//! caller holds a lock for that.

mod begin;
mod commit;
mod files;
mod format;
mod read;
mod recover;
mod state;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use std::{collections::BTreeMap, sync::Arc};

use holdfast_base::{LogId, Lsn, ShardId, limits::RECORD_BYTES_MAX};
use holdfast_io::{Disk, Random};
use parking_lot::Mutex;

use self::{
    commit::{IN_FLIGHT_MAX, Writer},
    files::Files,
    format::BLOCK_BYTES,
    recover::{Recovered, recover},
    state::State,
};
use crate::{
    Bounds, Caps, Log, LogError, Position, ReadBatches, ReadError, Session, Space, place::Point,
};

pub use begin::{Begin, begin_after};
pub use verify::{Report, ShardReport, verify};

/// Whether a log may be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Opens the log, or makes one if the folder is absent or empty.
    Create,
    /// Opens the log that must be there.
    Existing,
}

/// Whether groups are synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncPolicy {
    /// Each group before it is acknowledged.
    Always,
    /// Never: loses acknowledged records in a power cut. Only for measuring what syncs cost.
    Never,
}

/// How to open an embedded log.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Folder below the disk's root. A new log is made in `<dir>.new` and moved here.
    pub dir: String,
    /// Whether it may be made.
    pub mode: OpenMode,
    /// Bytes of a segment file. A larger group gets a segment of its own size.
    pub segment_bytes: u64,
    /// Bytes of batches in one group, and so in one call.
    pub group_bytes_max: usize,
    /// Whether groups are synced.
    pub sync: SyncPolicy,
    /// What the engine holds durably of each shard: a log that ends before it is damaged.
    pub engine_claims: BTreeMap<ShardId, Lsn>,
}

impl EmbeddedOptions {
    /// The defaults: 64 MiB segments (a roll every half second at 128 MiB/s, two files of standing
    /// space), and room for one record of the largest size with its batch around it.
    pub fn new(dir: impl Into<String>, mode: OpenMode) -> EmbeddedOptions {
        EmbeddedOptions {
            dir: dir.into(),
            mode,
            segment_bytes: 64 << 20,
            group_bytes_max: RECORD_BYTES_MAX + (64 << 10),
            sync: SyncPolicy::Always,
            engine_claims: BTreeMap::new(),
        }
    }

    /// Smallest useful segment: the header's block and one block of groups.
    const SEGMENT_BYTES_MIN: u64 = 2 * BLOCK_BYTES as u64;

    fn check(&self) -> Result<(), LogError> {
        let aligned = self.segment_bytes.is_multiple_of(BLOCK_BYTES as u64);
        if !aligned || self.segment_bytes < Self::SEGMENT_BYTES_MIN {
            let what = "segment_bytes is not a multiple of 4 KiB from 8 KiB on";
            return Err(LogError::Invalid(format!("{what}: {}", self.segment_bytes)));
        }
        // A group's length is stored in 32 bits, and recovery holds one group in memory.
        if self.group_bytes_max > 1 << 30 {
            let what = format!("group_bytes_max {} is above 1 GiB", self.group_bytes_max);
            return Err(LogError::Invalid(what));
        }
        Ok(())
    }
}

/// The embedded log; clones are handles on the same one.
///
/// Three locks, taken in this order: `writer`, `files`, `state`.
#[derive(Clone)]
pub struct EmbeddedLog {
    options: Arc<EmbeddedOptions>,
    // Guards the end of the last segment; held over the write and sync of a group.
    writer: Arc<Mutex<Writer>>,
    // Guards the folder's names; held over their changes and the making of a reserve.
    files: Arc<Mutex<Files>>,
    // Guards everything in memory; never held over I/O.
    state: Arc<Mutex<State>>,
}

impl EmbeddedLog {
    /// Opens a log, recovering it: see the rules in docs/formats.md. `random` gives a new log its
    /// identity.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: EmbeddedOptions,
        random: &mut dyn Random,
    ) -> Result<EmbeddedLog, LogError> {
        options.check()?;
        let Recovered { files, state, writer } = recover(&disk, &options, random)?;
        Ok(EmbeddedLog {
            options: Arc::new(options),
            writer: Arc::new(Mutex::new(writer)),
            files: Arc::new(Mutex::new(files)),
            state: Arc::new(Mutex::new(state)),
        })
    }

    /// Identity of this log.
    pub fn id(&self) -> LogId {
        self.state.lock().log
    }

    /// The shards that have records or had some.
    pub fn shards(&self) -> Vec<ShardId> {
        self.state.lock().points().into_keys().collect()
    }
}

impl Log for EmbeddedLog {
    fn open_session(&self, shard: ShardId) -> Result<(Box<dyn Session>, Position), LogError> {
        let (session, point) = self.take_over(shard)?;
        let position = Position {
            next_lsn: point.next_lsn,
            next_n: 0,
            chain: point.chain,
            incarnation: point.incarnation,
            epoch: session.epoch(),
            last_time: point.time,
        };
        Ok((Box::new(session), position))
    }

    fn read(&self, shard: ShardId, from: Lsn, bytes_max: usize) -> Result<ReadBatches, ReadError> {
        self.read_batches(shard, from, bytes_max)
    }

    fn bounds(&self, shard: ShardId) -> Bounds {
        let state = self.state.lock();
        let known = state.shards.get(&shard).map(|shard| shard.committed);
        let point = known.unwrap_or_else(|| Point::start(state.log, shard));
        Bounds {
            first: state.first_lsn(shard),
            next: point.next_lsn,
            epoch: point.epoch,
            incarnation: point.incarnation,
        }
    }

    /// Bytes of the whole segments that hold records of the shard from `from` on, at most one
    /// segment more than those records take.
    fn bytes_from(&self, shard: ShardId, from: Lsn) -> u64 {
        let state = self.state.lock();
        let begins = |segment: &Arc<files::Segment>| state.start_of(segment, shard);
        let first = state.segments.partition_point(|segment| begins(segment) <= from);
        let holding = state.segments.iter().skip(first.saturating_sub(1));
        holding.map(|segment| segment.end() - segment.header.header_bytes()).sum()
    }

    fn trim(&self, shard: ShardId, below: Lsn) -> Result<Lsn, LogError> {
        let mut files = self.files.lock();
        let (trimmed, first) = {
            let mut state = self.state.lock();
            if let Some(shard) = state.shards.get_mut(&shard) {
                shard.trim_below = shard.trim_below.max(below.min(shard.committed.next_lsn));
            }
            (state.take_trimmed(), state.first_lsn(shard))
        };
        let discarded = files.discard(trimmed);
        self.state.lock().reserve = files.reserve_state();
        discarded?;
        Ok(first)
    }

    fn space(&self) -> Space {
        let state = self.state.lock();
        let free_bytes = state.room + state.reserve.bytes;
        Space { free_bytes, below_reserve: state.reserve.spent }
    }

    fn caps(&self) -> Caps {
        let batch_bytes_max = self.options.group_bytes_max;
        Caps { in_flight_max: IN_FLIGHT_MAX, batch_bytes_max }
    }

    fn prepare_reserve(&self) -> Result<(), LogError> {
        let mut files = self.files.lock();
        let prepared = files.prepare_reserve(0);
        self.state.lock().reserve = files.reserve_state();
        prepared.map_err(LogError::from_disk)
    }
}
