//! Row keys of the engine: how heads, members, deadlines and bookkeeping are ordered.
//!
//! Layouts are written to the byte in docs/formats.md, "Row keys". Heads are ordered by (slot,
//! generation, hash, key); members by (slot, collection, kind, hash, member). So a shard's rows of
//! one slot are contiguous, a SCAN cursor is a hash position, and one range holds a collection.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use crate::{CollectionId, Generation, KeyspaceId, ShardId, SharedBytes, Slot};

/// First byte of a row key: which family of rows it belongs to. Retired values stay listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Family {
    /// Applied state of a shard.
    Applied = 0x01,
    /// Catalog entries.
    Catalog = 0x02,
    /// Heads: one row a key.
    Head = 0x10,
    /// Members, scores, elements and chunks.
    Member = 0x20,
    /// Deadlines in order of time.
    Deadline = 0x30,
    /// Collections whose rows are to be removed.
    DroppedCollection = 0x40,
    /// Generations whose rows are to be removed.
    DroppedGeneration = 0x41,
}

/// Kind of a row within a collection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum MemberKind {
    /// Hash field or set member, ordered by hash; or a sorted set's member with its score.
    ByHash = 1,
    /// Sorted set in order of (score, member); empty value.
    ByScore = 2,
    /// Sorted set: count of members from this (score, member) up to the next chunk.
    RankChunk = 3,
    /// List element by position.
    ByIndex = 4,
    /// Chunk of a large string by number.
    StringChunk = 5,
}

/// Bits of a hash that stand in a row key; a SCAN cursor is the slot above them.
pub const HASH_BITS: u32 = 48;

/// Hashes keys and members under a secret seed, so that nobody can aim at one hash position.
/// SipHash-1-3 (Aumasson and Bernstein, 2012). The seed is part of the stored format: it is written
/// in the log's first record and the same on every replica.
#[derive(Clone, Debug)]
pub struct KeyHasher(SipHasher13);

impl KeyHasher {
    /// A hasher for the stored seed.
    pub fn new(seed: [u8; 16]) -> KeyHasher {
        KeyHasher(SipHasher13::new_with_key(&seed))
    }

    /// The upper 48 bits of the hash.
    #[inline]
    pub fn hash48(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.0;
        hasher.write(bytes);
        hasher.finish() >> (64 - HASH_BITS)
    }
}

fn push_hash48(out: &mut Vec<u8>, hash: u64) {
    out.extend_from_slice(hash.to_be_bytes().get(2..).unwrap_or_default());
}

/// Head row of a key. The slot and hash are the key's own.
pub fn head(out: &mut Vec<u8>, generation: Generation, slot: Slot, hash: u64, key: &[u8]) {
    head_position(out, generation, slot, hash);
    out.extend_from_slice(key);
}

/// The key of a head row by itself: one allocation.
pub fn head_row(generation: Generation, slot: Slot, hash: u64, key: &[u8]) -> SharedBytes {
    /// Rows up to this length are put together without a buffer of their own.
    const SHORT: usize = 128;
    let len = HEAD_PREFIX_BYTES + key.len();
    let [s0, s1] = slot.0.to_be_bytes();
    let [g0, g1, g2, g3] = generation.0.to_be_bytes();
    let [_, _, h0, h1, h2, h3, h4, h5] = hash.to_be_bytes();
    let prefix = [Family::Head as u8, s0, s1, g0, g1, g2, g3, h0, h1, h2, h3, h4, h5];
    if len > SHORT {
        return SharedBytes::from([&prefix, key].concat());
    }
    let mut short = [0u8; SHORT];
    let (head, rest) = short.split_at_mut(HEAD_PREFIX_BYTES);
    head.copy_from_slice(&prefix);
    rest[..key.len()].copy_from_slice(key);
    SharedBytes::from(&short[..len])
}

/// Where the heads with this hash begin: the start of a SCAN step.
pub fn head_position(out: &mut Vec<u8>, generation: Generation, slot: Slot, hash: u64) {
    out.push(Family::Head as u8);
    out.extend_from_slice(&slot.0.to_be_bytes());
    out.extend_from_slice(&generation.0.to_be_bytes());
    push_hash48(out, hash);
}

/// Bytes of a head row's key before the user's key: family, slot, generation, hash.
pub const HEAD_PREFIX_BYTES: usize = 1 + 2 + 4 + 6;

/// What a head row's key says: slot, generation, hash and the user's key. `None` if it is no head.
pub fn parse_head(row: &[u8]) -> Option<(Slot, Generation, u64, &[u8])> {
    let rest = row.strip_prefix(&[Family::Head as u8])?;
    let (slot, rest) = rest.split_first_chunk::<2>()?;
    let (generation, rest) = rest.split_first_chunk::<4>()?;
    let (hash, key) = rest.split_first_chunk::<6>()?;
    let [a, b, c, d, e, f] = *hash;
    Some((
        Slot(u16::from_be_bytes(*slot)),
        Generation(u32::from_be_bytes(*generation)),
        u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
        key,
    ))
}

/// Prefix of every row of a collection.
pub fn collection(out: &mut Vec<u8>, slot: Slot, id: CollectionId) {
    out.push(Family::Member as u8);
    out.extend_from_slice(&slot.0.to_be_bytes());
    out.extend_from_slice(&id.0.to_be_bytes());
}

/// Prefix of the rows of one kind within a collection.
pub fn collection_kind(out: &mut Vec<u8>, slot: Slot, id: CollectionId, kind: MemberKind) {
    collection(out, slot, id);
    out.push(kind as u8);
}

/// Bytes of [`collection_kind`].
pub const COLLECTION_KIND_BYTES: usize = 1 + 2 + 8 + 1;

/// Hash field, set member or sorted-set member.
pub fn member(out: &mut Vec<u8>, slot: Slot, id: CollectionId, hash: u64, member: &[u8]) {
    member_position(out, slot, id, hash);
    out.extend_from_slice(member);
}

/// Where the members with this hash begin: the start of an HSCAN, SSCAN or ZSCAN step.
pub fn member_position(out: &mut Vec<u8>, slot: Slot, id: CollectionId, hash: u64) {
    collection_kind(out, slot, id, MemberKind::ByHash);
    push_hash48(out, hash);
}

/// The hash and the member of a [`member`] row. `None` if the row is of another kind.
pub fn parse_member(row: &[u8]) -> Option<(u64, &[u8])> {
    let (prefix, rest) = row.split_at_checked(COLLECTION_KIND_BYTES)?;
    if prefix.last() != Some(&(MemberKind::ByHash as u8)) {
        return None;
    }
    let (hash, member) = rest.split_first_chunk::<6>()?;
    let [a, b, c, d, e, f] = *hash;
    Some((u64::from_be_bytes([0, 0, a, b, c, d, e, f]), member))
}

/// A score as eight bytes that sort as the numbers do (negative first, -0 equal to 0).
pub fn sortable_score(score: f64) -> [u8; 8] {
    let bits = (score + 0.0).to_bits();
    let flipped = if bits >> 63 == 0 { bits | 1 << 63 } else { !bits };
    flipped.to_be_bytes()
}

/// The score that [`sortable_score`] was given.
pub fn score_of_sortable(bytes: [u8; 8]) -> f64 {
    let flipped = u64::from_be_bytes(bytes);
    f64::from_bits(if flipped >> 63 == 1 { flipped & !(1 << 63) } else { !flipped })
}

/// Row of a sorted set in order of (score, member), or of a rank chunk that begins there.
pub fn scored(
    out: &mut Vec<u8>,
    slot: Slot,
    id: CollectionId,
    kind: MemberKind,
    score: f64,
    member: &[u8],
) {
    collection_kind(out, slot, id, kind);
    out.extend_from_slice(&sortable_score(score));
    out.extend_from_slice(member);
}

/// Score and member of a [`scored`] row.
pub fn parse_scored(row: &[u8]) -> Option<(f64, &[u8])> {
    let (_, rest) = row.split_at_checked(COLLECTION_KIND_BYTES)?;
    let (score, member) = rest.split_first_chunk::<8>()?;
    Some((score_of_sortable(*score), member))
}

/// List element: positions are signed, so that a list grows at both ends.
pub fn element(out: &mut Vec<u8>, slot: Slot, id: CollectionId, index: i64) {
    collection_kind(out, slot, id, MemberKind::ByIndex);
    out.extend_from_slice(&((index as u64) ^ (1 << 63)).to_be_bytes());
}

/// Position of an [`element`] row.
pub fn parse_element(row: &[u8]) -> Option<i64> {
    let (_, rest) = row.split_at_checked(COLLECTION_KIND_BYTES)?;
    let (index, rest) = rest.split_first_chunk::<8>()?;
    rest.is_empty().then_some((u64::from_be_bytes(*index) ^ (1 << 63)) as i64)
}

/// Chunk of a large string.
pub fn string_chunk(out: &mut Vec<u8>, slot: Slot, id: CollectionId, number: u32) {
    collection_kind(out, slot, id, MemberKind::StringChunk);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Deadline row: ordered by time; the rest finds the head again.
pub fn deadline(
    out: &mut Vec<u8>,
    deadline_ms: u64,
    generation: Generation,
    slot: Slot,
    hash: u64,
    key: &[u8],
) {
    deadline_position(out, deadline_ms);
    head(out, generation, slot, hash, key);
}

/// Bytes of a deadline row's key before the head row's key: family, deadline.
pub const DEADLINE_PREFIX_BYTES: usize = 1 + 8;

/// Where the deadlines of this millisecond begin.
pub fn deadline_position(out: &mut Vec<u8>, deadline_ms: u64) {
    out.push(Family::Deadline as u8);
    out.extend_from_slice(&deadline_ms.to_be_bytes());
}

/// Deadline and head row key of a deadline row.
pub fn parse_deadline(row: &[u8]) -> Option<(u64, &[u8])> {
    let rest = row.strip_prefix(&[Family::Deadline as u8])?;
    let (deadline, head) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*deadline), head))
}

/// Row that remembers a dropped collection until its rows are gone.
pub fn dropped_collection(out: &mut Vec<u8>, slot: Slot, id: CollectionId) {
    out.push(Family::DroppedCollection as u8);
    out.extend_from_slice(&slot.0.to_be_bytes());
    out.extend_from_slice(&id.0.to_be_bytes());
}

/// Slot and collection of a [`dropped_collection`] row.
pub fn parse_dropped_collection(row: &[u8]) -> Option<(Slot, CollectionId)> {
    let rest = row.strip_prefix(&[Family::DroppedCollection as u8])?;
    let (slot, rest) = rest.split_first_chunk::<2>()?;
    let (id, rest) = rest.split_first_chunk::<8>()?;
    rest.is_empty()
        .then_some((Slot(u16::from_be_bytes(*slot)), CollectionId(u64::from_be_bytes(*id))))
}

/// Row that remembers a generation whose heads and collections are to be removed.
pub fn dropped_generation(out: &mut Vec<u8>, shard: ShardId, generation: Generation) {
    out.push(Family::DroppedGeneration as u8);
    out.extend_from_slice(&shard.0.to_be_bytes());
    out.extend_from_slice(&generation.0.to_be_bytes());
}

/// Generation of a [`dropped_generation`] row.
pub fn parse_dropped_generation(row: &[u8]) -> Option<Generation> {
    let rest = row.strip_prefix(&[Family::DroppedGeneration as u8])?;
    let (_, rest) = rest.split_first_chunk::<2>()?;
    let (generation, rest) = rest.split_first_chunk::<4>()?;
    rest.is_empty().then_some(Generation(u32::from_be_bytes(*generation)))
}

/// Row of a shard's applied state.
pub fn applied(out: &mut Vec<u8>, shard: ShardId) {
    out.push(Family::Applied as u8);
    out.extend_from_slice(&shard.0.to_be_bytes());
}

/// Row of a catalog entry.
pub fn catalog(out: &mut Vec<u8>, shard: ShardId, kind: u8, name: &[u8]) {
    out.push(Family::Catalog as u8);
    out.extend_from_slice(&shard.0.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(name);
}

/// The first key after every key with this prefix; `None` if there is none (all 0xff).
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix.get(..=keep)?.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Some(end)
}

/// A SCAN cursor: slot and hash in one number, 0 for the beginning.
pub fn cursor(slot: Slot, hash: u64) -> u64 {
    u64::from(slot.0) << HASH_BITS | hash
}

/// Slot and hash of a SCAN cursor; slots past the last are the end.
pub fn parse_cursor(cursor: u64) -> (Slot, u64) {
    (Slot((cursor >> HASH_BITS) as u16), cursor & ((1 << HASH_BITS) - 1))
}

/// The name under which keyspaces without a name are listed.
pub fn keyspace_default_name(id: KeyspaceId) -> String {
    id.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn heads_read_back_and_sort_by_slot_generation_hash(
            slot in 0u16..16_384, generation: u32, hash in 0u64..1 << 48, key: Vec<u8>,
        ) {
            let mut row = Vec::new();
            head(&mut row, Generation(generation), Slot(slot), hash, &key);
            prop_assert_eq!(
                parse_head(&row),
                Some((Slot(slot), Generation(generation), hash, key.as_slice()))
            );
            prop_assert_eq!(&head_row(Generation(generation), Slot(slot), hash, &key)[..], &row);
            let mut before = Vec::new();
            head_position(&mut before, Generation(generation), Slot(slot), hash);
            prop_assert!(before <= row);
        }

        #[test]
        fn scores_sort_as_numbers_do(a: f64, b: f64) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            let order = sortable_score(a).cmp(&sortable_score(b));
            prop_assert_eq!(Some(order), (a + 0.0).partial_cmp(&(b + 0.0)));
            prop_assert_eq!(score_of_sortable(sortable_score(a)), a);
        }

        #[test]
        fn elements_sort_by_position(a: i64, b: i64) {
            let row = |index| {
                let mut out = Vec::new();
                element(&mut out, Slot(1), CollectionId(2), index);
                out
            };
            prop_assert_eq!(row(a).cmp(&row(b)), a.cmp(&b));
            prop_assert_eq!(parse_element(&row(a)), Some(a));
        }

        #[test]
        fn after_prefix_is_above_every_extension(prefix: Vec<u8>, more: Vec<u8>) {
            let mut longer = prefix.clone();
            longer.extend(more);
            if let Some(end) = after_prefix(&prefix) {
                prop_assert!(end > longer);
            } else {
                prop_assert!(prefix.iter().all(|&b| b == 0xff));
            }
        }

        #[test]
        fn hostile_rows_do_not_panic(row: Vec<u8>) {
            let _ = (parse_head(&row), parse_member(&row), parse_scored(&row));
            let _ = (parse_element(&row), parse_deadline(&row), parse_dropped_collection(&row));
            let _ = parse_dropped_generation(&row);
        }
    }

    #[test]
    fn zero_and_minus_zero_share_a_position() {
        assert_eq!(sortable_score(0.0), sortable_score(-0.0));
    }
}
