//! From effects to rows: what applying a record changes in the engine.
//!
//! The mapping needs no read, no clock and no configuration, so staging, replay and replicas
//! produce the same rows. Counters and positions go to [`AppliedState`], which is written in the
//! same engine batch as the rows it describes.

use std::collections::BTreeMap;

use crate::{
    CollectionId, Effect, Epoch, Generation, Head, Hlc, Incarnation, KeyHasher, KeyspaceId, Lsn,
    ShardId, SharedBytes, Slot, key,
    key::MemberKind,
    varint::{put_i64, put_u64, take_array, take_i64, take_u64},
};

/// One changed row: its new value, or `None` where it is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowChange {
    /// Row key as in [`crate::key`].
    pub key: SharedBytes,
    /// New value.
    pub value: Option<SharedBytes>,
}

/// Counted content of a keyspace and its current generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyspaceUsage {
    /// Current generation.
    pub generation: Generation,
    /// Keys, expired ones included until they are removed.
    pub keys: i64,
    /// Bytes of keys and content.
    pub bytes: i64,
}

/// What a shard has applied: stored beside the rows, in the same batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AppliedState {
    /// The last record.
    pub lsn: Lsn,
    /// Chained checksum after it.
    pub chain: u32,
    /// Epoch that it was written in.
    pub epoch: Epoch,
    /// Its place within the epoch.
    pub n: u64,
    /// Shard time that it carried.
    pub time: Hlc,
    /// Life of the log.
    pub incarnation: Incarnation,
    /// Seed of the key hash.
    pub hash_seed: [u8; 16],
    /// The next collection will be this one.
    pub next_collection: CollectionId,
    /// The next generation will be this one.
    pub next_generation: Generation,
    /// Usage by keyspace.
    pub keyspaces: BTreeMap<KeyspaceId, KeyspaceUsage>,
}

/// Version of the stored form of [`AppliedState`].
const APPLIED_VERSION: u64 = 1;

impl AppliedState {
    /// Takes in what an effect says of counters, generations and the seed.
    pub fn learn(&mut self, effect: &Effect<'_>) {
        match *effect {
            Effect::PutHead { ref head, .. } => {
                if let Some(id) = head.collection() {
                    self.next_collection = self.next_collection.max(CollectionId(id.0 + 1));
                }
            }
            Effect::FlushKeyspace { keyspace, new, .. } => {
                let usage = KeyspaceUsage { generation: new, keys: 0, bytes: 0 };
                self.keyspaces.insert(keyspace, usage);
                self.next_generation = self.next_generation.max(Generation(new.0 + 1));
            }
            Effect::Usage { keyspace, keys, bytes } => {
                // A keyspace that was never flushed is in its first generation: its own number.
                let first = KeyspaceUsage {
                    generation: Generation(u32::from(keyspace.0)),
                    ..KeyspaceUsage::default()
                };
                let usage = self.keyspaces.entry(keyspace).or_insert(first);
                usage.keys += keys;
                usage.bytes += bytes;
            }
            Effect::TakeOver { epoch, .. } => self.epoch = epoch,
            Effect::Genesis { hash_seed } => self.hash_seed = hash_seed,
            _ => {}
        }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + 16 * self.keyspaces.len());
        for value in [
            APPLIED_VERSION,
            self.lsn.0,
            u64::from(self.chain),
            self.epoch.0,
            self.n,
            self.time.0,
            self.incarnation.0,
            self.next_collection.0,
            u64::from(self.next_generation.0),
        ] {
            put_u64(&mut out, value);
        }
        out.extend_from_slice(&self.hash_seed);
        put_u64(&mut out, self.keyspaces.len() as u64);
        for (keyspace, usage) in &self.keyspaces {
            put_u64(&mut out, keyspace.0.into());
            put_u64(&mut out, usage.generation.0.into());
            put_i64(&mut out, usage.keys);
            put_i64(&mut out, usage.bytes);
        }
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads the stored form; `None` if it is damaged or of a later version.
    pub fn decode(stored: &[u8]) -> Option<AppliedState> {
        let (body, checksum) = stored.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let mut rest = body;
        let input = &mut rest;
        if take_u64(input)? != APPLIED_VERSION {
            return None;
        }
        let mut state = AppliedState {
            lsn: Lsn(take_u64(input)?),
            chain: u32::try_from(take_u64(input)?).ok()?,
            epoch: Epoch(take_u64(input)?),
            n: take_u64(input)?,
            time: Hlc(take_u64(input)?),
            incarnation: Incarnation(take_u64(input)?),
            next_collection: CollectionId(take_u64(input)?),
            next_generation: Generation(u32::try_from(take_u64(input)?).ok()?),
            hash_seed: take_array(input)?,
            keyspaces: BTreeMap::new(),
        };
        for _ in 0..take_u64(input)? {
            let keyspace = KeyspaceId(u16::try_from(take_u64(input)?).ok()?);
            let usage = KeyspaceUsage {
                generation: Generation(u32::try_from(take_u64(input)?).ok()?),
                keys: take_i64(input)?,
                bytes: take_i64(input)?,
            };
            state.keyspaces.insert(keyspace, usage);
        }
        input.is_empty().then_some(state)
    }
}

/// The key that effects are about, with what its rows need.
#[derive(Clone)]
struct Subject<'a> {
    generation: Generation,
    slot: Slot,
    hash: u64,
    key: &'a [u8],
    head_row: SharedBytes,
}

/// Turns effects into rows, in order. One per record: effects refer to the last `Key`.
pub struct RowExpander<'a, 'h> {
    shard: ShardId,
    hasher: &'h KeyHasher,
    subject: Option<Subject<'a>>,
}

/// An effect on a key came before any `Key` effect: the record is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSubject;

impl<'a, 'h> RowExpander<'a, 'h> {
    /// Starts a record.
    pub fn new(shard: ShardId, hasher: &'h KeyHasher) -> Self {
        RowExpander { shard, hasher, subject: None }
    }

    /// Goes on within a record at a key whose place and head row are known already.
    pub fn about(
        shard: ShardId,
        hasher: &'h KeyHasher,
        (generation, slot, hash): (Generation, Slot, u64),
        key: &'a [u8],
        head_row: SharedBytes,
    ) -> Self {
        let subject = Some(Subject { generation, slot, hash, key, head_row });
        RowExpander { shard, hasher, subject }
    }

    /// Gives the rows that `effect` changes, one after the other.
    pub fn expand(
        &mut self,
        effect: &Effect<'a>,
        row: &mut impl FnMut(RowChange),
    ) -> Result<(), NoSubject> {
        match *effect {
            Effect::Key { generation, key, .. } => {
                let (slot, hash) = (Slot::of(key), self.hasher.hash48(key));
                let head_row = key::head_row(generation, slot, hash, key);
                self.subject = Some(Subject { generation, slot, hash, key, head_row });
            }
            Effect::PutHead { ref head, old_deadline_ms } => {
                let subject = self.subject.as_ref().ok_or(NoSubject)?;
                subject.put_head(head, old_deadline_ms, row);
            }
            Effect::DeleteHead { old_deadline_ms, .. } => {
                let subject = self.subject.as_ref().ok_or(NoSubject)?;
                subject.delete_deadline(old_deadline_ms, row);
                row(RowChange { key: subject.head_row.clone(), value: None });
            }
            Effect::FlushKeyspace { old, .. } => {
                if let Some(old) = old {
                    let mut dropped = Vec::with_capacity(7);
                    key::dropped_generation(&mut dropped, self.shard, old);
                    row(change(dropped, Some(Vec::new())));
                }
            }
            Effect::PutCatalog { kind, name, version, body } => {
                let mut value = Vec::with_capacity(8 + body.len());
                put_u64(&mut value, version);
                value.extend_from_slice(body);
                row(change(self.catalog_row(kind, name), Some(value)));
            }
            Effect::DeleteCatalog { kind, name, .. } => {
                row(change(self.catalog_row(kind, name), None));
            }
            Effect::Usage { .. } | Effect::TakeOver { .. } | Effect::Genesis { .. } => {}
            _ => self.expand_member(effect, row)?,
        }
        Ok(())
    }

    fn catalog_row(&self, kind: u8, name: &[u8]) -> Vec<u8> {
        let mut row = Vec::with_capacity(4 + name.len());
        key::catalog(&mut row, self.shard, kind, name);
        row
    }

    fn expand_member(
        &self,
        effect: &Effect<'a>,
        row: &mut impl FnMut(RowChange),
    ) -> Result<(), NoSubject> {
        let slot = self.subject.as_ref().ok_or(NoSubject)?.slot;
        let member = |id, name: &[u8]| {
            let mut row = Vec::with_capacity(key::COLLECTION_KIND_BYTES + 6 + name.len());
            key::member(&mut row, slot, id, self.hasher.hash48(name), name);
            row
        };
        let scored = |id, kind, score, name: &[u8]| {
            let mut row = Vec::with_capacity(key::COLLECTION_KIND_BYTES + 8 + name.len());
            key::scored(&mut row, slot, id, kind, score, name);
            row
        };
        let element = |id, index| {
            let mut row = Vec::with_capacity(key::COLLECTION_KIND_BYTES + 8);
            key::element(&mut row, slot, id, index);
            row
        };
        let chunk = |id, number| {
            let mut row = Vec::with_capacity(key::COLLECTION_KIND_BYTES + 4);
            key::string_chunk(&mut row, slot, id, number);
            row
        };
        match *effect {
            Effect::PutField { id, field, value } => {
                row(change(member(id, field), Some(value.to_vec())));
            }
            Effect::PutMember { id, member: name } => {
                row(change(member(id, name), Some(Vec::new())));
            }
            Effect::DeleteField { id, field: name } | Effect::DeleteMember { id, member: name } => {
                row(change(member(id, name), None));
            }
            Effect::PutScore { id, member: name, score, old_score } => {
                if let Some(old) = old_score {
                    row(change(scored(id, MemberKind::ByScore, old, name), None));
                }
                let stored = score.to_bits().to_le_bytes().to_vec();
                row(change(member(id, name), Some(stored)));
                row(change(scored(id, MemberKind::ByScore, score, name), Some(Vec::new())));
            }
            Effect::DeleteScore { id, member: name, old_score } => {
                row(change(member(id, name), None));
                row(change(scored(id, MemberKind::ByScore, old_score, name), None));
            }
            Effect::PutRankChunk { id, score, member: name, count } => {
                let mut value = Vec::with_capacity(4);
                put_u64(&mut value, count);
                row(change(scored(id, MemberKind::RankChunk, score, name), Some(value)));
            }
            Effect::DeleteRankChunk { id, score, member: name } => {
                row(change(scored(id, MemberKind::RankChunk, score, name), None));
            }
            Effect::PutElement { id, index, value } => {
                row(change(element(id, index), Some(value.to_vec())));
            }
            Effect::DeleteElement { id, index } => row(change(element(id, index), None)),
            Effect::PutStringChunk { id, number, bytes } => {
                row(change(chunk(id, number), Some(bytes.to_vec())));
            }
            Effect::DeleteStringChunk { id, number } => row(change(chunk(id, number), None)),
            Effect::DropCollection { id } => {
                let mut dropped = Vec::with_capacity(11);
                key::dropped_collection(&mut dropped, slot, id);
                row(change(dropped, Some(Vec::new())));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Subject<'_> {
    fn deadline_row(&self, deadline_ms: u64) -> Vec<u8> {
        let mut row = Vec::with_capacity(9 + key::HEAD_PREFIX_BYTES + self.key.len());
        key::deadline(&mut row, deadline_ms, self.generation, self.slot, self.hash, self.key);
        row
    }

    fn put_head(
        &self,
        head: &Head<'_>,
        old_deadline_ms: Option<u64>,
        row: &mut impl FnMut(RowChange),
    ) {
        if old_deadline_ms != head.deadline_ms {
            self.delete_deadline(old_deadline_ms, row);
            if let Some(deadline_ms) = head.deadline_ms {
                row(change(self.deadline_row(deadline_ms), Some(Vec::new())));
            }
        }
        row(RowChange { key: self.head_row.clone(), value: Some(head.to_row()) });
    }

    fn delete_deadline(&self, old_deadline_ms: Option<u64>, row: &mut impl FnMut(RowChange)) {
        if let Some(old) = old_deadline_ms {
            row(change(self.deadline_row(old), None));
        }
    }
}

fn change(key: Vec<u8>, value: Option<Vec<u8>>) -> RowChange {
    RowChange { key: key.into(), value: value.map(SharedBytes::from) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Payload;

    fn rows_of(effects: &[Effect<'_>]) -> Result<Vec<RowChange>, NoSubject> {
        let hasher = KeyHasher::new([1; 16]);
        let mut expander = RowExpander::new(ShardId(0), &hasher);
        let mut rows = Vec::new();
        for effect in effects {
            expander.expand(effect, &mut |row| rows.push(row))?;
        }
        Ok(rows)
    }

    const KEY: Effect<'static> =
        Effect::Key { keyspace: KeyspaceId(0), generation: Generation(1), key: b"k" };

    #[test]
    fn a_new_deadline_replaces_the_old_row() -> Result<(), NoSubject> {
        let head = Head { deadline_ms: Some(20), payload: Payload::Inline(b"v") };
        let rows = rows_of(&[KEY, Effect::PutHead { head, old_deadline_ms: Some(10) }])?;
        let deadlines: Vec<_> = rows
            .iter()
            .filter_map(|row| Some((key::parse_deadline(&row.key)?.0, row.value.is_some())))
            .collect();
        assert_eq!(deadlines, [(10, false), (20, true)]);
        Ok(())
    }

    #[test]
    fn a_record_without_a_key_is_refused() {
        let effect = Effect::PutMember { id: CollectionId(1), member: b"m" };
        assert_eq!(rows_of(&[effect]), Err(NoSubject));
    }

    #[test]
    fn a_keyspace_that_was_never_flushed_keeps_its_first_generation() {
        let mut state = AppliedState::default();
        state.learn(&Effect::Usage { keyspace: KeyspaceId(3), keys: 1, bytes: 5 });
        let usage = state.keyspaces.get(&KeyspaceId(3)).map(|usage| usage.generation);
        assert_eq!(usage, Some(Generation(3)));
    }

    #[test]
    fn applied_state_reads_back_and_a_flipped_bit_is_seen() {
        let mut state = AppliedState { lsn: Lsn(9), hash_seed: [7; 16], ..Default::default() };
        state.learn(&Effect::FlushKeyspace {
            keyspace: KeyspaceId(2),
            old: None,
            new: Generation(5),
        });
        state.learn(&Effect::Usage { keyspace: KeyspaceId(2), keys: 3, bytes: -4 });
        let stored = state.encode();
        assert_eq!(AppliedState::decode(&stored), Some(state));
        for at in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert_eq!(AppliedState::decode(&damaged), None, "bit {at}");
        }
    }
}
