//! The head of a key: its type, deadline, collection and count, or a small string itself.
//!
//! Layout in docs/formats.md, "Head values". A head that does not decode is corruption, never a
//! missing key.

use crate::{CollectionId, SharedBytes, varint};

/// What a key holds, as TYPE says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A string.
    String = 1,
    /// A hash.
    Hash = 2,
    /// A set.
    Set = 3,
    /// A sorted set.
    SortedSet = 4,
    /// A list.
    List = 5,
}

/// A key's head.
#[derive(Clone, PartialEq, Debug)]
pub struct Head<'a> {
    /// Milliseconds since 1970 after which the key is gone.
    pub deadline_ms: Option<u64>,
    /// What it holds.
    pub payload: Payload<'a>,
}

/// What a head says of the content.
#[derive(Clone, PartialEq, Debug)]
pub enum Payload<'a> {
    /// A string held in the head.
    Inline(&'a [u8]),
    /// A string held in chunks.
    Chunked {
        /// Where the chunks are.
        id: CollectionId,
        /// Length in bytes.
        len: u64,
    },
    /// A hash, set or sorted set with `count` members of `bytes` in all.
    Collection {
        /// Which of the three.
        kind: Kind,
        /// Where the members are.
        id: CollectionId,
        /// How many.
        count: u64,
        /// Bytes of fields, members and values (8 for each score), for quotas.
        bytes: u64,
    },
    /// A list; elements at positions `first .. first + count`.
    List {
        /// Where the elements are.
        id: CollectionId,
        /// How many.
        count: u64,
        /// Bytes of the elements.
        bytes: u64,
        /// Position of the first.
        first: i64,
    },
}

const KIND_BITS: u8 = 0x0f;
const CHUNKED: u8 = 0x40;
const HAS_DEADLINE: u8 = 0x80;

impl<'a> Head<'a> {
    /// What TYPE says.
    pub fn kind(&self) -> Kind {
        match self.payload {
            Payload::Inline(_) | Payload::Chunked { .. } => Kind::String,
            Payload::Collection { kind, .. } => kind,
            Payload::List { .. } => Kind::List,
        }
    }

    /// The rows that belong to this key besides its head.
    pub fn collection(&self) -> Option<CollectionId> {
        match self.payload {
            Payload::Inline(_) => None,
            Payload::Chunked { id, .. }
            | Payload::Collection { id, .. }
            | Payload::List { id, .. } => Some(id),
        }
    }

    /// Bytes of content, as quotas count them (the key's own bytes come on top).
    pub fn content_bytes(&self) -> u64 {
        match self.payload {
            Payload::Inline(value) => value.len() as u64,
            Payload::Chunked { len, .. } => len,
            Payload::Collection { bytes, .. } | Payload::List { bytes, .. } => bytes,
        }
    }

    /// Bytes of a string held in the head.
    pub fn inline_bytes(&self) -> usize {
        if let Payload::Inline(value) = self.payload { value.len() } else { 0 }
    }

    /// Whether the key is gone at this shard time.
    #[inline]
    pub fn expired(&self, now_ms: u64) -> bool {
        self.deadline_ms.is_some_and(|deadline| deadline <= now_ms)
    }

    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let chunked = if matches!(self.payload, Payload::Chunked { .. }) { CHUNKED } else { 0 };
        let deadline = if self.deadline_ms.is_some() { HAS_DEADLINE } else { 0 };
        out.push(self.kind() as u8 | chunked | deadline);
        if let Some(deadline_ms) = self.deadline_ms {
            out.extend_from_slice(deadline_ms.to_le_bytes().get(..6).unwrap_or_default());
        }
        match self.payload {
            Payload::Inline(value) => out.extend_from_slice(value),
            Payload::Chunked { id, len } => {
                varint::put_u64(out, id.0);
                varint::put_u64(out, len);
            }
            Payload::Collection { id, count, bytes, .. } => {
                varint::put_u64(out, id.0);
                varint::put_u64(out, count);
                varint::put_u64(out, bytes);
            }
            Payload::List { id, count, bytes, first } => {
                varint::put_u64(out, id.0);
                varint::put_u64(out, count);
                varint::put_u64(out, bytes);
                varint::put_i64(out, first);
            }
        }
    }

    /// The stored form by itself: one allocation for short strings.
    pub fn to_row(&self) -> SharedBytes {
        /// Heads up to this length are put together without a buffer of their own.
        const SHORT: usize = 256;
        if let (Payload::Inline(value), None) = (&self.payload, self.deadline_ms)
            && value.len() < SHORT
        {
            let mut short = [0u8; SHORT];
            short[0] = Kind::String as u8;
            short[1..=value.len()].copy_from_slice(value);
            return SharedBytes::from(&short[..=value.len()]);
        }
        let mut out = Vec::with_capacity(48 + self.inline_bytes());
        self.encode(&mut out);
        SharedBytes::from(out)
    }

    /// Reads the stored form; `None` if it is damaged.
    #[inline]
    pub fn decode(stored: &'a [u8]) -> Option<Head<'a>> {
        let mut rest = stored;
        let first = varint::take_u8(&mut rest)?;
        let deadline_ms = if first & HAS_DEADLINE != 0 {
            let [a, b, c, d, e, f] = varint::take_array::<6>(&mut rest)?;
            Some(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
        } else {
            None
        };
        let payload = match (first & KIND_BITS, first & CHUNKED != 0) {
            (1, false) => {
                return Some(Head { deadline_ms, payload: Payload::Inline(rest) });
            }
            (1, true) => Payload::Chunked {
                id: CollectionId(varint::take_u64(&mut rest)?),
                len: varint::take_u64(&mut rest)?,
            },
            (kind @ 2..=4, false) => Payload::Collection {
                kind: [Kind::Hash, Kind::Set, Kind::SortedSet]
                    .into_iter()
                    .find(|known| *known as u8 == kind)?,
                id: CollectionId(varint::take_u64(&mut rest)?),
                count: varint::take_u64(&mut rest)?,
                bytes: varint::take_u64(&mut rest)?,
            },
            (5, false) => Payload::List {
                id: CollectionId(varint::take_u64(&mut rest)?),
                count: varint::take_u64(&mut rest)?,
                bytes: varint::take_u64(&mut rest)?,
                first: varint::take_i64(&mut rest)?,
            },
            _ => return None,
        };
        rest.is_empty().then_some(Head { deadline_ms, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_payload(value: &[u8]) -> impl Strategy<Value = Payload<'_>> {
        let counts = (any::<u64>(), any::<u64>(), any::<u64>(), any::<i64>());
        (0..6u8, counts).prop_map(move |(which, (id, count, bytes, first))| {
            let id = CollectionId(id);
            let collection = |kind| Payload::Collection { kind, id, count, bytes };
            match which {
                0 => Payload::Inline(value),
                1 => Payload::Chunked { id, len: count },
                2 => collection(Kind::Hash),
                3 => collection(Kind::Set),
                4 => collection(Kind::SortedSet),
                _ => Payload::List { id, count, bytes, first },
            }
        })
    }

    #[test]
    fn a_row_is_the_encoded_head() {
        let chunked = Payload::Chunked { id: CollectionId(5), len: 70_000 };
        let long = [7; 1000];
        let payloads = [Payload::Inline(b""), Payload::Inline(&long[..255]), chunked];
        for payload in payloads.into_iter().chain([Payload::Inline(&long)]) {
            for deadline_ms in [None, Some(1)] {
                let head = Head { deadline_ms, payload: payload.clone() };
                let mut encoded = Vec::new();
                head.encode(&mut encoded);
                assert_eq!(head.to_row()[..], encoded);
            }
        }
    }

    proptest! {
        #[test]
        fn heads_read_back(
            payload in any_payload(b"value"),
            deadline_ms in proptest::option::of(0u64..1 << 48),
        ) {
            let head = Head { deadline_ms, payload };
            let mut stored = Vec::new();
            head.encode(&mut stored);
            prop_assert_eq!(Head::decode(&stored), Some(head));
        }

        #[test]
        fn hostile_heads_do_not_panic(stored: Vec<u8>) {
            let _ = Head::decode(&stored);
        }
    }
}
