//! Records that came from the log: of another owner, or of this one, written without an answer.
//!
//! They are durable already. Each shows like one that was staged here and waits for the applier in the
//! same queue, so readers and the engine see no difference; but what it does was decided before.

use std::sync::Arc;

use holdfast_base::{
    CollectionId, Effect, Epoch, Error, ErrorKind, Incarnation, KeyHasher, Lsn, ShardId,
    record::{BatchHeader, Record},
    row::{RowChange, RowExpander},
};

use super::{Core, StagedRecord};
use crate::{
    Buckets,
    visible::Visible,
    written::{Written, WrittenRow},
};

/// A record of the log with its rows, and where it stands.
pub(crate) struct Followed {
    record: StagedRecord,
    chain_before: u32,
    epoch: Epoch,
    incarnation: Incarnation,
}

fn corrupt(lsn: Lsn, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("record {lsn} of the log: {what}"))
}

impl Followed {
    /// Works out the rows of a record. Needs no lock.
    pub fn new(
        shard: ShardId,
        hasher: &KeyHasher,
        header: &BatchHeader,
        record: &Record<'_>,
    ) -> Result<Followed, Error> {
        let mut expander = RowExpander::new(shard, hasher);
        let (mut written, mut state) = (Written::default(), Vec::new());
        let (mut bucket, mut bytes) = (None, 64);
        let mut next_collection = CollectionId(0);
        for effect in record.effects() {
            let effect = effect.map_err(|damaged| corrupt(record.lsn, &damaged.to_string()))?;
            match effect {
                Effect::Key { key, .. } => bucket = Some(Buckets::of(hasher.hash48(key))),
                Effect::PutHead { ref head, .. } => {
                    let after = head.collection().map_or(0, |id| id.0 + 1);
                    next_collection.0 = next_collection.0.max(after);
                }
                Effect::FlushKeyspace { keyspace, old, new } => {
                    state.push(Effect::FlushKeyspace { keyspace, old, new });
                }
                Effect::Usage { keyspace, keys, bytes } => {
                    state.push(Effect::Usage { keyspace, keys, bytes });
                }
                Effect::TakeOver { epoch, .. } => {
                    state.push(Effect::TakeOver { epoch, owner: b"" })
                }
                Effect::Genesis { hash_seed } => state.push(Effect::Genesis { hash_seed }),
                _ => {}
            }
            let mut write = |RowChange { key, value }: RowChange| {
                bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
                written.insert(WrittenRow { key, value, bucket });
            };
            let expanded = expander.expand(&effect, &mut write);
            expanded.map_err(|_| corrupt(record.lsn, "an effect names no key"))?;
        }
        let staged = StagedRecord {
            lsn: record.lsn,
            chain: record.chain,
            n: record.n,
            time: record.time,
            rows: written.into_rows(),
            ends_batch: record.n + 1 == header.first_n + u64::from(header.count),
            state,
            next_collection,
            bytes,
        };
        Ok(Followed {
            record: staged,
            chain_before: record.chain_before,
            epoch: record.epoch,
            incarnation: header.incarnation,
        })
    }
}

impl Core {
    /// Takes in records that continue the last durable one. Only while nothing is staged: before
    /// [`Self::take_over`], or after [`Self::on_failed`].
    pub fn follow(&mut self, records: Vec<Followed>, visible: &Visible) -> Result<Lsn, Error> {
        let mut group = Vec::with_capacity(records.len());
        let (mut last, mut chain) = (self.durable, self.durable_chain());
        let mut refused = None;
        for Followed { mut record, chain_before, epoch, incarnation } in records {
            if record.lsn != last.next() {
                refused = Some(corrupt(record.lsn, &format!("follows {last}")));
                break;
            }
            if chain_before != chain {
                refused = Some(corrupt(record.lsn, "its chained checksum does not continue ours"));
                break;
            }
            (last, chain) = (record.lsn, record.chain);
            self.staged.incarnation = incarnation;
            self.staged.epoch = epoch;
            self.clock.learn(record.time);
            record.next_collection = record.next_collection.max(self.staged.next_collection);
            self.enter(&record, visible);
            group.push(record);
        }
        if !group.is_empty() {
            self.durable = last;
            self.committed.push_back(Arc::new(group));
        }
        refused.map_or(Ok(last), Err)
    }

    /// Chained checksum after the last durable record.
    fn durable_chain(&self) -> u32 {
        let last = self.committed.back().and_then(|group| group.last());
        last.map_or(self.applied.chain, |record| record.chain)
    }

    /// Life of the log and the last durable position.
    pub fn durable_at(&self) -> (Incarnation, Lsn) {
        (self.staged.incarnation, self.durable)
    }
}
