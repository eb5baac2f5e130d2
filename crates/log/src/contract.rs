//! The contract of a shard's log, the same for every backend.
//!
//! A session is one owner's right to append. Calls are queued in order and resolved in order, so
//! that a backend may pipeline them; a backend that does not simply works in `complete`. Nothing
//! here starts a thread or waits on a clock. What every backend must hold is in `suite`.

use holdfast_base::{
    Epoch, Hlc, Incarnation, Lsn, ShardId,
    record::{Batch, BatchHeader},
};

use crate::{LogError, ReadBatches, ReadError, Refused};

/// A log of several shards.
pub trait Log: Send + Sync {
    /// Opens a writer's session with an epoch above every earlier one, and tells where the log
    /// continues. The session's first batch must start with a record that holds the `TakeOver`
    /// effect of that epoch. Sessions of the shard that were opened before acknowledge nothing that
    /// stands behind it; once they know of it, nothing at all. In this process they know from the
    /// moment that record is durable, at the latest.
    fn open_session(&self, shard: ShardId) -> Result<(Box<dyn Session>, Position), LogError>;

    /// Whole batches from the one that holds `from` on, durable ones only, after the epoch filter.
    /// About `bytes_max`, but at least one batch; nothing if `from` is the next position.
    fn read(&self, shard: ShardId, from: Lsn, bytes_max: usize) -> Result<ReadBatches, ReadError>;

    /// What can be read now.
    fn bounds(&self, shard: ShardId) -> Bounds;

    /// The last sign of life of the shard's owner, as far as the log tells now. A backend of one
    /// process has none: nobody else could own what it holds.
    fn look(&self, _shard: ShardId) -> Result<Sign, LogError> {
        Ok(Sign { number: 0, owner: Owner::Nobody })
    }

    /// As [`Self::open_session`], but refused with `NotOwner` if the log holds a later sign than this
    /// one: of an owner that lives, or of somebody who was faster.
    fn open_session_after(
        &self,
        shard: ShardId,
        _sign: Sign,
    ) -> Result<(Box<dyn Session>, Position), LogError> {
        self.open_session(shard)
    }

    /// Bytes of the records from `from` on, with what is kept together with them.
    fn bytes_from(&self, shard: ShardId, from: Lsn) -> u64;

    /// Gives up records below `below`, as far as whole segments allow, and says what the first one
    /// is then. Survives a crash once it returned. Positions go on where they were.
    fn trim(&self, shard: ShardId, below: Lsn) -> Result<Lsn, LogError>;

    /// Forgets what another process has trimmed. Backends of one process have nothing to forget.
    fn forget_trimmed(&self, _shard: ShardId) -> Result<(), LogError> {
        Ok(())
    }

    /// How much can still be appended.
    fn space(&self) -> Space;

    /// The backend's limits.
    fn caps(&self) -> Caps;

    /// Makes the next file ready. Slow: for a background thread, after each roll. Backends without
    /// files of their own have nothing to do.
    fn prepare_reserve(&self) -> Result<(), LogError> {
        Ok(())
    }
}

/// One owner's right to append, until a newer one. Dropping it gives up what is in flight.
pub trait Session: Send {
    /// The epoch that every batch of this session carries.
    fn epoch(&self) -> Epoch;

    /// Queues batches, in call order. All of one call become durable together or not at all.
    /// An error means that certainly none of them is appended; whether the session goes on is
    /// said by [`Refused::ends_session`].
    fn submit(&mut self, batches: Vec<Batch>) -> Result<(), Refused>;

    /// Waits until the oldest call in flight is resolved; `None` if there is none.
    fn complete(&mut self) -> Option<Completion>;

    /// Makes the durable position explicit in the log, so that later damage to the last batch is
    /// told from a torn write. To be called within about 10 ms of falling idle; costs one sync the
    /// first time and nothing again until the next append. Other backends do nothing.
    fn watermark(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    /// Gives a sign of life, or with `parting` gives the shard up; returns once it is durable. Only
    /// while nothing is in flight. Every call that is durable is a sign of life as well. An error ends
    /// the session. Backends of one process do nothing.
    fn renew(&mut self, _parting: bool) -> Result<(), Refused> {
        Ok(())
    }
}

/// The last message of a session that counts: its beginning, a call, a renewal, or its parting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sign {
    /// Grows from one sign to the next.
    pub number: u64,
    /// Who owns the shard then.
    pub owner: Owner,
}

/// Whose a shard is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody's: there was none, or the last one has given it up.
    Nobody,
    /// That of the session of this epoch.
    Session(Epoch),
}

/// Where a new session continues the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The first record's position.
    pub next_lsn: Lsn,
    /// The first record's place within the epoch: 0.
    pub next_n: u64,
    /// Chained checksum before it.
    pub chain: u32,
    /// Life of the log.
    pub incarnation: Incarnation,
    /// The session's epoch.
    pub epoch: Epoch,
    /// Shard time of the last record; the owner's clock goes on after it.
    pub last_time: Hlc,
}

impl Position {
    /// The header of the batch that continues here.
    pub fn header(&self, shard: ShardId) -> BatchHeader {
        BatchHeader {
            shard,
            incarnation: self.incarnation,
            epoch: self.epoch,
            first_n: self.next_n,
            first_lsn: self.next_lsn,
            chain_before: self.chain,
            count: 0,
        }
    }
}

/// How one call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Last position of each batch of the call.
    pub last_lsns: Vec<Lsn>,
    /// The outcome, the same for all of them.
    pub outcome: Outcome,
}

/// How a call ended. After the first that is not durable the session is poisoned: everything
/// later in flight ends as fenced or unknown and `submit` refuses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It survives any crash.
    Durable,
    /// A session of this epoch took over, and the call is certainly not in the log.
    Fenced(Epoch),
    /// It may or may not be in the log; the next session's position tells. The text says why.
    Unknown(String),
}

/// What can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// First position that is kept.
    pub first: Lsn,
    /// Position after the last durable record.
    pub next: Lsn,
    /// Epoch of the last durable record.
    pub epoch: Epoch,
    /// Life of the log.
    pub incarnation: Incarnation,
}

/// How much can still be appended without new space from the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes left in prepared segments, the reserve included.
    pub free_bytes: u64,
    /// The reserve is spent and the disk has no room for another: admit only what frees space.
    pub below_reserve: bool,
}

/// A backend's limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// Calls of one session that may be in flight.
    pub in_flight_max: usize,
    /// Bytes of all batches of one call.
    pub batch_bytes_max: usize,
}
