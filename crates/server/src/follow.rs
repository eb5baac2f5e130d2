//! Following the log: how a node takes in what another one writes, and what itself had no answer for.
//!
//! Records show to readers here at once, in the order of the log and each as a whole; the applier moves
//! them into the engine. How old that may be is told by the owner's signs of life (`Node::staleness`).

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use holdfast_base::{Error, ErrorKind, Lsn};
use holdfast_shard::{Pressure, read_failed};

use crate::{data::SHARD, node::Node, ownership::now_ns};

/// Bytes of the log that are read at once.
const STEP_BYTES: usize = 1 << 20;
/// Between two looks whether the applier has made room.
const ROOM_AFTER: Duration = Duration::from_millis(2);

impl Node {
    /// Takes in what the log is known to hold. False: the engine is behind, and has to make room first.
    pub(crate) fn follow(&self) -> Result<bool, Error> {
        loop {
            let known = self.shard.durable();
            if known.next() >= self.log.bounds(SHARD).next {
                return Ok(true);
            }
            if self.shard.pressure() == Pressure::StopReading {
                return Ok(false);
            }
            let needed = known.next();
            let read = self.log.read(SHARD, needed, STEP_BYTES);
            let read = read.map_err(|error| read_failed(needed, error))?;
            self.shard.follow(read.batches(), |change| self.catalog.follow(&self.shard, change))?;
            if self.shard.durable() == known {
                let text = format!("the log gave nothing at {needed} although it goes on");
                return Err(Error::new(ErrorKind::Corrupt, text));
            }
            self.lag.note(self.shard.durable(), Instant::now());
            self.inboxes.iter().for_each(|inbox| inbox.ring_durable());
        }
    }

    /// As [`Self::follow`], until nothing is left.
    pub(crate) fn follow_to_end(&self) -> Result<(), Error> {
        while !self.follow()? {
            if self.is_past_stop_deadline() {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "stopped while it followed the log",
                ));
            }
            std::thread::park_timeout(ROOM_AFTER);
        }
        Ok(())
    }

    /// Everything that the owner had written when it gave a sign of life, before this moment, shows here.
    pub(crate) fn note_heard(&self, at_ns: u64) {
        self.heard_ns.store(at_ns, Ordering::Release);
    }

    /// How long ago that was; zero at the owner, the longest time before anything was heard.
    pub(crate) fn staleness(&self) -> Duration {
        match self.heard_ns.load(Ordering::Acquire) {
            _ if self.owns() => Duration::ZERO,
            0 => Duration::MAX,
            heard_ns => Duration::from_nanos(now_ns().saturating_sub(heard_ns)),
        }
    }

    /// Whether reads that may be old are not too old.
    pub(crate) fn is_fresh(&self) -> bool {
        let bound = Duration::from_secs(self.config.redis_replica_seconds_max);
        self.staleness() <= bound && !self.has_diverged()
    }

    /// Whether this node's rows turned out not to be the owner's.
    pub(crate) fn has_diverged(&self) -> bool {
        self.digests.metrics.diverged.load(Ordering::Acquire)
    }

    /// The last position of the log that shows here.
    pub(crate) fn shown(&self) -> Lsn {
        self.shard.durable()
    }
}
