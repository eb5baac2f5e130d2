//! Effects: what a write did, as absolute puts and deletes. The log holds effects, never commands.
//!
//! Everything random, clock-based or read from state was decided by the owner before. Applying an
//! effect therefore needs no read (see [`crate::row`]). An effect on a key refers to the nearest
//! `Key` effect before it in the same record. Layouts: docs/formats.md, "Effects".

use crate::{
    CollectionId, Epoch, Generation, KeyspaceId,
    head::{Head, Payload},
    varint::{put_bytes, put_i64, put_u64, take_array, take_bytes, take_i64, take_u8, take_u64},
};

/// Why a key went away; followers of the log may care.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DeleteReason {
    /// A command removed it.
    Removed = 0,
    /// Its deadline had passed.
    Expired = 1,
}

/// One effect, borrowing from the record or from the caller.
#[expect(missing_docs, reason = "a variant's text names its fields; saying each twice hides it")]
#[derive(Clone, PartialEq, Debug)]
pub enum Effect<'a> {
    /// The key that the following effects are about, with the generation of its keyspace.
    Key { keyspace: KeyspaceId, generation: Generation, key: &'a [u8] },
    /// The key's head is now this. `old_deadline_ms` is what its deadline row held.
    PutHead { head: Head<'a>, old_deadline_ms: Option<u64> },
    /// The key is gone (its collection goes by `DropCollection`).
    DeleteHead { reason: DeleteReason, old_deadline_ms: Option<u64> },
    /// A hash field.
    PutField { id: CollectionId, field: &'a [u8], value: &'a [u8] },
    /// A hash field is gone.
    DeleteField { id: CollectionId, field: &'a [u8] },
    /// A set member.
    PutMember { id: CollectionId, member: &'a [u8] },
    /// A set member is gone.
    DeleteMember { id: CollectionId, member: &'a [u8] },
    /// A sorted-set member, with the score it had.
    PutScore { id: CollectionId, member: &'a [u8], score: f64, old_score: Option<f64> },
    /// A sorted-set member is gone, with the score it had.
    DeleteScore { id: CollectionId, member: &'a [u8], old_score: f64 },
    /// From (score, member) up to the next chunk there are so many members.
    PutRankChunk { id: CollectionId, score: f64, member: &'a [u8], count: u64 },
    /// No rank chunk begins here any more.
    DeleteRankChunk { id: CollectionId, score: f64, member: &'a [u8] },
    /// A list element.
    PutElement { id: CollectionId, index: i64, value: &'a [u8] },
    /// A list element is gone.
    DeleteElement { id: CollectionId, index: i64 },
    /// A chunk of a large string.
    PutStringChunk { id: CollectionId, number: u32, bytes: &'a [u8] },
    /// A chunk of a large string is gone.
    DeleteStringChunk { id: CollectionId, number: u32 },
    /// All rows of the collection are to be removed in the background.
    DropCollection { id: CollectionId },
    /// The keyspace is empty from here on, under a new generation.
    FlushKeyspace { keyspace: KeyspaceId, old: Option<Generation>, new: Generation },
    /// Keys and bytes of the keyspace changed by so much.
    Usage { keyspace: KeyspaceId, keys: i64, bytes: i64 },
    /// An owner takes the shard over; the first record of its epoch.
    TakeOver { epoch: Epoch, owner: &'a [u8] },
    /// The first record of a log: the seed of the key hash.
    Genesis { hash_seed: [u8; 16] },
    /// A catalog entry (keyspace, user) has this body at this version.
    PutCatalog { kind: u8, name: &'a [u8], version: u64, body: &'a [u8] },
    /// A catalog entry is gone.
    DeleteCatalog { kind: u8, name: &'a [u8], version: u64 },
}

/// Tags as stored. Retired tags stay listed and are never given out again.
mod tag {
    pub const KEY: u8 = 0x01;
    pub const PUT_HEAD: u8 = 0x02;
    pub const DELETE_HEAD: u8 = 0x03;
    pub const PUT_FIELD: u8 = 0x04;
    pub const DELETE_FIELD: u8 = 0x05;
    pub const PUT_MEMBER: u8 = 0x06;
    pub const DELETE_MEMBER: u8 = 0x07;
    pub const PUT_SCORE: u8 = 0x08;
    pub const DELETE_SCORE: u8 = 0x09;
    pub const PUT_RANK_CHUNK: u8 = 0x0a;
    pub const DELETE_RANK_CHUNK: u8 = 0x0b;
    pub const PUT_ELEMENT: u8 = 0x0c;
    pub const DELETE_ELEMENT: u8 = 0x0d;
    pub const PUT_STRING_CHUNK: u8 = 0x0e;
    pub const DELETE_STRING_CHUNK: u8 = 0x0f;
    pub const DROP_COLLECTION: u8 = 0x10;
    pub const FLUSH_KEYSPACE: u8 = 0x11;
    pub const USAGE: u8 = 0x12;
    pub const TAKE_OVER: u8 = 0x20;
    pub const GENESIS: u8 = 0x21;
    pub const PUT_CATALOG: u8 = 0x22;
    pub const DELETE_CATALOG: u8 = 0x23;
}

fn put_deadline(out: &mut Vec<u8>, deadline_ms: Option<u64>) {
    put_u64(out, deadline_ms.map_or(0, |ms| ms + 1));
}

fn take_deadline(input: &mut &[u8]) -> Option<Option<u64>> {
    Some(take_u64(input)?.checked_sub(1))
}

fn put_score(out: &mut Vec<u8>, score: f64) {
    out.extend_from_slice(&score.to_bits().to_le_bytes());
}

fn take_score(input: &mut &[u8]) -> Option<f64> {
    let score = f64::from_bits(u64::from_le_bytes(take_array(input)?));
    (!score.is_nan()).then_some(score)
}

fn take_id(input: &mut &[u8]) -> Option<CollectionId> {
    take_u64(input).map(CollectionId)
}

fn take_keyspace(input: &mut &[u8]) -> Option<KeyspaceId> {
    u16::try_from(take_u64(input)?).ok().map(KeyspaceId)
}

fn take_generation(input: &mut &[u8]) -> Option<Generation> {
    u32::try_from(take_u64(input)?).ok().map(Generation)
}

impl<'a> Effect<'a> {
    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Effect::Key { keyspace, generation, key } => {
                out.push(tag::KEY);
                put_u64(out, keyspace.0.into());
                put_u64(out, generation.0.into());
                put_bytes(out, key);
            }
            Effect::PutHead { ref head, old_deadline_ms } => {
                out.push(tag::PUT_HEAD);
                put_deadline(out, old_deadline_ms);
                encode_head(out, head);
            }
            Effect::DeleteHead { reason, old_deadline_ms } => {
                out.push(tag::DELETE_HEAD);
                out.push(reason as u8);
                put_deadline(out, old_deadline_ms);
            }
            Effect::PutField { id, field, value } => {
                open(out, tag::PUT_FIELD, id);
                put_bytes(out, field);
                put_bytes(out, value);
            }
            Effect::DeleteField { id, field } => named(out, tag::DELETE_FIELD, id, field),
            Effect::PutMember { id, member } => named(out, tag::PUT_MEMBER, id, member),
            Effect::DeleteMember { id, member } => named(out, tag::DELETE_MEMBER, id, member),
            Effect::PutScore { id, member, score, old_score } => {
                named(out, tag::PUT_SCORE, id, member);
                put_score(out, score);
                out.push(u8::from(old_score.is_some()));
                old_score.inspect(|&old| put_score(out, old));
            }
            Effect::DeleteScore { id, member, old_score } => {
                named(out, tag::DELETE_SCORE, id, member);
                put_score(out, old_score);
            }
            Effect::PutRankChunk { id, score, member, count } => {
                named(out, tag::PUT_RANK_CHUNK, id, member);
                put_score(out, score);
                put_u64(out, count);
            }
            Effect::DeleteRankChunk { id, score, member } => {
                named(out, tag::DELETE_RANK_CHUNK, id, member);
                put_score(out, score);
            }
            Effect::PutElement { id, index, value } => {
                open(out, tag::PUT_ELEMENT, id);
                put_i64(out, index);
                put_bytes(out, value);
            }
            Effect::DeleteElement { id, index } => {
                open(out, tag::DELETE_ELEMENT, id);
                put_i64(out, index);
            }
            Effect::PutStringChunk { id, number, bytes } => {
                open(out, tag::PUT_STRING_CHUNK, id);
                put_u64(out, number.into());
                put_bytes(out, bytes);
            }
            Effect::DeleteStringChunk { id, number } => {
                open(out, tag::DELETE_STRING_CHUNK, id);
                put_u64(out, number.into());
            }
            Effect::DropCollection { id } => open(out, tag::DROP_COLLECTION, id),
            Effect::FlushKeyspace { keyspace, old, new } => {
                out.push(tag::FLUSH_KEYSPACE);
                put_u64(out, keyspace.0.into());
                put_u64(out, old.map_or(0, |g| u64::from(g.0) + 1));
                put_u64(out, new.0.into());
            }
            Effect::Usage { keyspace, keys, bytes } => {
                out.push(tag::USAGE);
                put_u64(out, keyspace.0.into());
                put_i64(out, keys);
                put_i64(out, bytes);
            }
            Effect::TakeOver { epoch, owner } => {
                out.push(tag::TAKE_OVER);
                put_u64(out, epoch.0);
                put_bytes(out, owner);
            }
            Effect::Genesis { hash_seed } => {
                out.push(tag::GENESIS);
                out.extend_from_slice(&hash_seed);
            }
            Effect::PutCatalog { kind, name, version, body } => {
                out.push(tag::PUT_CATALOG);
                out.push(kind);
                put_bytes(out, name);
                put_u64(out, version);
                put_bytes(out, body);
            }
            Effect::DeleteCatalog { kind, name, version } => {
                out.push(tag::DELETE_CATALOG);
                out.push(kind);
                put_bytes(out, name);
                put_u64(out, version);
            }
        }
    }

    /// Takes one effect off the front; `None` if the bytes are damaged or of a later version.
    pub fn decode(input: &mut &'a [u8]) -> Option<Effect<'a>> {
        let tag = take_u8(input)?;
        Some(match tag {
            tag::KEY => Effect::Key {
                keyspace: take_keyspace(input)?,
                generation: take_generation(input)?,
                key: take_bytes(input)?,
            },
            tag::PUT_HEAD => Effect::PutHead {
                old_deadline_ms: take_deadline(input)?,
                head: Head::decode(take_bytes(input)?)?,
            },
            tag::DELETE_HEAD => Effect::DeleteHead {
                reason: match take_u8(input)? {
                    0 => DeleteReason::Removed,
                    1 => DeleteReason::Expired,
                    _ => return None,
                },
                old_deadline_ms: take_deadline(input)?,
            },
            tag::DROP_COLLECTION => Effect::DropCollection { id: take_id(input)? },
            tag::PUT_FIELD..=tag::DELETE_STRING_CHUNK => decode_member(tag, input)?,
            tag::FLUSH_KEYSPACE => Effect::FlushKeyspace {
                keyspace: take_keyspace(input)?,
                old: match take_u64(input)?.checked_sub(1) {
                    Some(generation) => Some(Generation(u32::try_from(generation).ok()?)),
                    None => None,
                },
                new: take_generation(input)?,
            },
            tag::USAGE => Effect::Usage {
                keyspace: take_keyspace(input)?,
                keys: take_i64(input)?,
                bytes: take_i64(input)?,
            },
            tag::TAKE_OVER => {
                Effect::TakeOver { epoch: Epoch(take_u64(input)?), owner: take_bytes(input)? }
            }
            tag::GENESIS => Effect::Genesis { hash_seed: take_array(input)? },
            tag::PUT_CATALOG => Effect::PutCatalog {
                kind: take_u8(input)?,
                name: take_bytes(input)?,
                version: take_u64(input)?,
                body: take_bytes(input)?,
            },
            tag::DELETE_CATALOG => Effect::DeleteCatalog {
                kind: take_u8(input)?,
                name: take_bytes(input)?,
                version: take_u64(input)?,
            },
            _ => return None,
        })
    }
}

fn open(out: &mut Vec<u8>, tag: u8, id: CollectionId) {
    out.push(tag);
    put_u64(out, id.0);
}

fn named(out: &mut Vec<u8>, tag: u8, id: CollectionId, member: &[u8]) {
    open(out, tag, id);
    put_bytes(out, member);
}

/// A head with its length in front; an inline value is copied once.
fn encode_head(out: &mut Vec<u8>, head: &Head<'_>) {
    if let Payload::Inline(value) = head.payload {
        let deadline = if head.deadline_ms.is_some() { 6 } else { 0 };
        put_u64(out, (1 + deadline + value.len()) as u64);
        head.encode(out);
    } else {
        let mut stored = Vec::with_capacity(48);
        head.encode(&mut stored);
        put_bytes(out, &stored);
    }
}

fn decode_member<'a>(tag: u8, input: &mut &'a [u8]) -> Option<Effect<'a>> {
    let id = take_id(input)?;
    Some(match tag {
        tag::PUT_FIELD => {
            Effect::PutField { id, field: take_bytes(input)?, value: take_bytes(input)? }
        }
        tag::DELETE_FIELD => Effect::DeleteField { id, field: take_bytes(input)? },
        tag::PUT_MEMBER => Effect::PutMember { id, member: take_bytes(input)? },
        tag::DELETE_MEMBER => Effect::DeleteMember { id, member: take_bytes(input)? },
        tag::PUT_SCORE => Effect::PutScore {
            id,
            member: take_bytes(input)?,
            score: take_score(input)?,
            old_score: match take_u8(input)? {
                0 => None,
                1 => Some(take_score(input)?),
                _ => return None,
            },
        },
        tag::DELETE_SCORE => {
            Effect::DeleteScore { id, member: take_bytes(input)?, old_score: take_score(input)? }
        }
        tag::PUT_RANK_CHUNK => Effect::PutRankChunk {
            id,
            member: take_bytes(input)?,
            score: take_score(input)?,
            count: take_u64(input)?,
        },
        tag::DELETE_RANK_CHUNK => {
            Effect::DeleteRankChunk { id, member: take_bytes(input)?, score: take_score(input)? }
        }
        tag::PUT_ELEMENT => {
            Effect::PutElement { id, index: take_i64(input)?, value: take_bytes(input)? }
        }
        tag::DELETE_ELEMENT => Effect::DeleteElement { id, index: take_i64(input)? },
        tag::PUT_STRING_CHUNK => Effect::PutStringChunk {
            id,
            number: u32::try_from(take_u64(input)?).ok()?,
            bytes: take_bytes(input)?,
        },
        tag::DELETE_STRING_CHUNK => {
            Effect::DeleteStringChunk { id, number: u32::try_from(take_u64(input)?).ok()? }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    /// One of each, with awkward values.
    pub(super) fn samples() -> Vec<Effect<'static>> {
        let id = CollectionId(700);
        let list = Payload::List { id, count: 3, bytes: 9, first: -2 };
        let hash = Payload::Collection { kind: Kind::Hash, id, count: 1, bytes: 5 };
        vec![
            Effect::Key { keyspace: KeyspaceId(15), generation: Generation(9), key: b"k" },
            Effect::PutHead {
                head: Head { deadline_ms: Some(0), payload: Payload::Inline(&[7; 300]) },
                old_deadline_ms: Some(0),
            },
            Effect::PutHead {
                head: Head { deadline_ms: None, payload: list },
                old_deadline_ms: None,
            },
            Effect::PutHead {
                head: Head { deadline_ms: Some(1 << 47), payload: hash },
                old_deadline_ms: None,
            },
            Effect::DeleteHead { reason: DeleteReason::Expired, old_deadline_ms: Some(77) },
            Effect::PutField { id, field: b"", value: b"v" },
            Effect::DeleteField { id, field: b"f" },
            Effect::PutMember { id, member: b"m" },
            Effect::DeleteMember { id, member: b"m" },
            Effect::PutScore { id, member: b"m", score: -0.5, old_score: Some(f64::INFINITY) },
            Effect::PutScore { id, member: b"m", score: 1e300, old_score: None },
            Effect::DeleteScore { id, member: b"m", old_score: 3.0 },
            Effect::PutRankChunk { id, score: 1.0, member: b"m", count: 512 },
            Effect::DeleteRankChunk { id, score: 1.0, member: b"m" },
            Effect::PutElement { id, index: i64::MIN, value: b"x" },
            Effect::DeleteElement { id, index: i64::MAX },
            Effect::PutStringChunk { id, number: 3, bytes: b"chunk" },
            Effect::DeleteStringChunk { id, number: u32::MAX },
            Effect::DropCollection { id },
            Effect::FlushKeyspace {
                keyspace: KeyspaceId(0),
                old: Some(Generation(0)),
                new: Generation(2),
            },
            Effect::Usage { keyspace: KeyspaceId(3), keys: -1, bytes: i64::MIN },
            Effect::TakeOver { epoch: Epoch(4), owner: b"node" },
            Effect::Genesis { hash_seed: [3; 16] },
            Effect::PutCatalog { kind: 1, name: b"n", version: 2, body: b"{}" },
            Effect::DeleteCatalog { kind: 2, name: b"n", version: 3 },
        ]
    }

    #[test]
    fn every_effect_reads_back() {
        let mut out = Vec::new();
        for effect in samples() {
            effect.encode(&mut out);
        }
        let mut input = out.as_slice();
        for effect in samples() {
            assert_eq!(Effect::decode(&mut input), Some(effect));
        }
        assert!(input.is_empty());
    }

    #[test]
    fn every_truncation_is_refused() {
        for effect in samples() {
            let mut out = Vec::new();
            effect.encode(&mut out);
            for len in 0..out.len() {
                let mut input = &out[..len];
                // An inline head is as long as its prefix says, so no shorter input decodes.
                assert_eq!(Effect::decode(&mut input), None, "{effect:?} cut at {len}");
            }
        }
    }

    #[test]
    fn tags_are_stable() {
        let mut tags = Vec::new();
        for effect in samples() {
            let mut out = Vec::new();
            effect.encode(&mut out);
            tags.push(out[0]);
        }
        tags.dedup();
        let expected: Vec<u8> = (0x01..=0x02).chain(0x03..=0x12).chain(0x20..=0x23).collect();
        assert_eq!(tags, expected);
    }
}
