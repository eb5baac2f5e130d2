//! A log that begins in the middle: the new life that a restore gives to an engine.
//!
//! The log is made anew, so it has an identity of its own and the shard an incarnation that nobody
//! has seen; its first record continues position, shard time and checksum chain of the engine's
//! last one, in a higher epoch. Nothing of the old life's log can pass for a part of it.

use std::sync::Arc;

use holdfast_base::{Epoch, Hlc, Incarnation, LogId, Lsn, ShardId};
use holdfast_io::{Disk, Random};

use super::{EmbeddedOptions, files, format::Points};
use crate::{LogError, place::Point};

/// The last record of the life before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begin {
    /// Its position; the log begins behind it.
    pub after: Lsn,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its place within the epoch.
    pub n: u64,
    /// Its shard time.
    pub time: Hlc,
    /// Chained checksum after it.
    pub chain: u32,
}

/// Makes the log of the options' folder, which must not be there yet, with one shard that begins
/// behind `begin`; gives the shard's new life. All of it is durable on return.
pub fn begin_after(
    disk: &Arc<dyn Disk>,
    options: &EmbeddedOptions,
    shard: ShardId,
    begin: Begin,
    random: &mut dyn Random,
) -> Result<Incarnation, LogError> {
    options.check()?;
    if begin.after == Lsn::ZERO {
        return Err(LogError::Invalid("a log that begins at lsn 1 is simply a new one".to_owned()));
    }
    let dir = options.dir.as_str();
    if files::list(&**disk, dir)?.anything {
        return Err(LogError::Invalid(format!("{dir} is not empty: no log can begin there")));
    }
    let log = LogId(random.next_u64());
    let incarnation = Point::start(log, shard).incarnation;
    let point = Point {
        next_lsn: begin.after.next(),
        epoch: begin.epoch,
        next_n: begin.n.saturating_add(1),
        incarnation,
        time: begin.time,
        chain: begin.chain,
    };
    let points = Points::from([(shard, point)]);
    files::create(&**disk, dir, log, options.segment_bytes, points).map_err(LogError::from_disk)?;
    Ok(incarnation)
}
