//! An owner as the checks need it: builds batches, keeps its place, reads back.

use holdfast_base::{
    Effect, Epoch, Hlc, Incarnation, Lsn, ShardId,
    record::{Batch, BatchBuilder},
};

use super::ensure;
use crate::{EpochFilter, Log, Outcome, Position, Session};

/// A session and where it stands.
pub struct Owner {
    /// The session, for calls that are to go wrong.
    pub session: Box<dyn Session>,
    shard: ShardId,
    position: Position,
    time: Hlc,
}

/// Where an owner stands: to be put back after a batch that was not meant to go in.
#[derive(Clone, Copy)]
pub struct Place {
    position: Position,
    time: Hlc,
}

impl Place {
    /// The next record's position.
    pub fn next_lsn(&self) -> Lsn {
        self.position.next_lsn
    }
}

impl Owner {
    /// Opens a session.
    pub fn open(log: &dyn Log, shard: ShardId) -> Result<Owner, String> {
        let (session, position) = log.open_session(shard).map_err(|error| error.to_string())?;
        ensure(position.next_n == 0 && position.epoch == session.epoch(), || {
            format!("a new session stands at {position:?}")
        })?;
        Ok(Owner { session, shard, position, time: position.last_time })
    }

    /// Whose log.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The session's epoch.
    pub fn epoch(&self) -> Epoch {
        self.position.epoch
    }

    /// The next record's position.
    pub fn next_lsn(&self) -> Lsn {
        self.position.next_lsn
    }

    /// What must go on in the next session.
    pub fn place(&self) -> (Lsn, u32, Incarnation, Hlc) {
        let Position { next_lsn, chain, incarnation, .. } = self.position;
        (next_lsn, chain, incarnation, self.time)
    }

    /// Where the owner stands.
    pub fn clone_position(&self) -> Place {
        Place { position: self.position, time: self.time }
    }

    /// Goes back to where the owner stood.
    pub fn set_position(&mut self, place: Place) {
        self.position = place.position;
        self.time = place.time;
    }

    /// The next batch, with the take-over record where it belongs.
    pub fn batch(&mut self, records: usize, body_bytes: usize) -> Batch {
        let takes_over = (self.position.next_n == 0).then_some(self.position.epoch);
        self.batch_taking_over(takes_over, records, body_bytes)
    }

    /// The next batch, whose first record takes over in the epoch given, if any.
    pub fn batch_taking_over(
        &mut self,
        takes_over: Option<Epoch>,
        records: usize,
        body_bytes: usize,
    ) -> Batch {
        let header = self.position.header(self.shard);
        let mut builder = BatchBuilder::new(header, Vec::new());
        for at in 0..records {
            self.time = Hlc(self.time.0 + 1);
            builder.begin(self.time, None);
            if let Some(epoch) = takes_over.filter(|_| at == 0) {
                builder.push(&Effect::TakeOver { epoch, owner: b"owner" });
            }
            // The epoch makes the bytes of every session differ.
            let version = self.position.epoch.0;
            let body = vec![(builder.next_lsn().0 % 251) as u8; body_bytes];
            builder.push(&Effect::PutCatalog { kind: 1, name: b"n", version, body: &body });
            builder.finish();
        }
        let batch = builder.seal();
        self.position.next_lsn = batch.last_lsn().next();
        self.position.next_n += u64::from(batch.header.count);
        self.position.chain = batch.chain_after;
        batch
    }

    /// Submits one call and waits until it is durable.
    pub fn append(&mut self, batches: Vec<Batch>) -> Result<(), String> {
        self.session.submit(batches).map_err(|refused| refused.to_string())?;
        self.complete_one()
    }

    /// Waits until the oldest call is durable.
    pub fn complete_one(&mut self) -> Result<(), String> {
        let completion = self.session.complete().ok_or("a call in flight was forgotten")?;
        ensure(completion.outcome == Outcome::Durable, || format!("{:?}", completion.outcome))
    }
}

/// Everything that the log holds of a shard, checked to be dense from its first position on.
pub(super) fn read_all(log: &dyn Log, shard: ShardId, bytes_max: usize) -> Result<Vec<u8>, String> {
    let bounds = log.bounds(shard);
    let mut next = bounds.first;
    let mut bytes = Vec::new();
    let mut filter = EpochFilter::trusting_first();
    while next < bounds.next {
        let read = log.read(shard, next, bytes_max).map_err(|error| error.to_string())?;
        for batch in read.batches() {
            let header = batch.header;
            ensure(header.first_lsn == next && header.incarnation == bounds.incarnation, || {
                format!("the batch at {} stands where {next} must", header.first_lsn)
            })?;
            ensure(filter.admit(header.epoch, header.first_n, header.count), || {
                format!("the batch at {next} does not pass the epoch filter")
            })?;
            next = batch.last_lsn().next();
        }
        ensure(!read.is_empty() && read.next() == next, || {
            format!("a read before {} ended at {next}, said {}", bounds.next, read.next())
        })?;
        bytes.extend_from_slice(read.as_bytes());
    }
    Ok(bytes)
}

/// The epoch of every batch.
pub(super) fn epochs(log: &dyn Log, shard: ShardId) -> Result<Vec<Epoch>, String> {
    let bytes = read_all(log, shard, 1 << 20)?;
    let mut rest = bytes.as_slice();
    let mut epochs = Vec::new();
    while !rest.is_empty() {
        let batch = holdfast_base::record::BatchView::decode(&mut rest);
        epochs.push(batch.map_err(|damage| damage.to_string())?.header.epoch);
    }
    Ok(epochs)
}
