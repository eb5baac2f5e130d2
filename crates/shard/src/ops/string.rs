//! Ops on strings. Up to 16 KiB a string lies in its head; above, in chunks of 16 KiB.

use std::ops::{ControlFlow, Deref};

use holdfast_base::{
    CollectionId, DeleteReason, Effect, Head, Kind, Payload, key,
    limits::{STRING_CHUNK_BYTES, VALUE_BYTES_MAX},
};

use crate::{KeyRef, OpError, StoredHead, Txn};

/// A string as read: borrowed from its stored head, or put together from chunks.
#[derive(Clone, Debug)]
pub enum Text {
    /// In the head.
    Stored(StoredHead),
    /// From chunks.
    Whole(Vec<u8>),
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Text::Stored(stored) => match stored.head().payload {
                Payload::Inline(value) => value,
                _ => &[],
            },
            Text::Whole(value) => value,
        }
    }
}

/// When [`set`] writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SetCondition {
    /// Always.
    #[default]
    Always,
    /// Only if the key does not exist.
    Absent,
    /// Only if the key exists.
    Present,
}

/// What becomes of the deadline when a value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expiry {
    /// None: the key stays.
    #[default]
    None,
    /// As it was.
    Keep,
    /// This one, in milliseconds since 1970.
    At(u64),
}

/// The string under the key.
pub fn get(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<Option<Text>, OpError> {
    match txn.head_of(key, Kind::String)? {
        Some(stored) => text(txn, key, stored).map(Some),
        None => Ok(None),
    }
}

fn text(txn: &mut Txn<'_>, key: &KeyRef<'_>, stored: StoredHead) -> Result<Text, OpError> {
    let Payload::Chunked { id, len } = stored.head().payload else {
        return Ok(Text::Stored(stored));
    };
    let mut whole = Vec::with_capacity(usize::try_from(len).unwrap_or(0).min(VALUE_BYTES_MAX));
    let (mut from, mut to) = (Vec::new(), Vec::new());
    key::string_chunk(&mut from, key.slot, id, 0);
    key::string_chunk(&mut to, key.slot, id, u32::MAX);
    txn.scan((&from, &to), false, |_, chunk| {
        whole.extend_from_slice(chunk);
        ControlFlow::Continue(())
    })?;
    if whole.len() as u64 != len {
        return Err(crate::op_error::corrupt_row(&key.row, "the chunked value"));
    }
    Ok(Text::Whole(whole))
}

/// Length of the string in bytes; 0 for an absent key.
pub fn length(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<u64, OpError> {
    let stored = txn.head_of(key, Kind::String)?;
    Ok(stored.map_or(0, |stored| stored.head().content_bytes()))
}

/// What [`set`] did.
#[derive(Clone, Debug)]
pub struct SetDone {
    /// Whether the value was written.
    pub written: bool,
    /// The string before, if it was asked for.
    pub old: Option<Text>,
}

/// Writes a string over whatever the key held. `want_old` refuses a key of another type, as it
/// returns the string before.
pub fn set(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    value: &[u8],
    expiry: Expiry,
    condition: SetCondition,
    want_old: bool,
) -> Result<SetDone, OpError> {
    check_length(value.len())?;
    let old = if want_old { get(txn, key)? } else { None };
    let present = txn.head(key)?;
    let written = match condition {
        SetCondition::Always => true,
        SetCondition::Absent => present.is_none(),
        SetCondition::Present => present.is_some(),
    };
    if written {
        let deadline_ms = match expiry {
            Expiry::None => None,
            Expiry::At(deadline_ms) => Some(deadline_ms),
            Expiry::Keep => present.and_then(|stored| stored.head().deadline_ms),
        };
        replace(txn, key, value, deadline_ms)?;
    }
    Ok(SetDone { written, old })
}

/// Writes the string, wherever it has to lie. A deadline that has passed leaves no key.
fn replace(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    value: &[u8],
    deadline_ms: Option<u64>,
) -> Result<(), OpError> {
    if deadline_ms.is_some_and(|deadline| deadline <= txn.now_ms()) {
        return txn.put_head(key, None, DeleteReason::Expired);
    }
    let payload = if value.len() <= STRING_CHUNK_BYTES {
        Payload::Inline(value)
    } else {
        let id = txn.new_collection();
        put_chunks(txn, key, id, 0, value)?;
        Payload::Chunked { id, len: value.len() as u64 }
    };
    txn.put_head(key, Some(Head { deadline_ms, payload }), DeleteReason::Removed)
}

fn put_chunks(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    id: CollectionId,
    first: u32,
    bytes: &[u8],
) -> Result<(), OpError> {
    for (number, bytes) in (first..).zip(bytes.chunks(STRING_CHUNK_BYTES)) {
        txn.push(key, &Effect::PutStringChunk { id, number, bytes })?;
    }
    Ok(())
}

/// Adds bytes at the end; gives the new length. An absent key counts as empty.
pub fn append(txn: &mut Txn<'_>, key: &KeyRef<'_>, more: &[u8]) -> Result<u64, OpError> {
    let Some(stored) = txn.head_of(key, Kind::String)? else {
        check_length(more.len())?;
        replace(txn, key, more, None)?;
        return Ok(more.len() as u64);
    };
    let head = stored.head();
    let (deadline_ms, old_len) = (head.deadline_ms, head.content_bytes());
    let new_len = old_len + more.len() as u64;
    check_length(usize::try_from(new_len).unwrap_or(usize::MAX))?;
    match head.payload {
        _ if more.is_empty() => {}
        Payload::Chunked { id, len } => {
            let number = (len / STRING_CHUNK_BYTES as u64) as u32;
            let mut row = Vec::new();
            key::string_chunk(&mut row, key.slot, id, number);
            let last = txn.row(&row, key.bucket())?;
            let mut tail = last.as_deref().unwrap_or_default().to_vec();
            tail.extend_from_slice(more);
            put_chunks(txn, key, id, number, &tail)?;
            let payload = Payload::Chunked { id, len: new_len };
            txn.put_head(key, Some(Head { deadline_ms, payload }), DeleteReason::Removed)?;
        }
        _ => {
            let mut whole = text(txn, key, stored.clone())?.to_vec();
            whole.extend_from_slice(more);
            replace(txn, key, &whole, deadline_ms)?;
        }
    }
    Ok(new_len)
}

/// Adds to the integer under the key; an absent key counts as 0. Keeps the deadline.
pub fn increment(txn: &mut Txn<'_>, key: &KeyRef<'_>, by: i64) -> Result<i64, OpError> {
    let stored = txn.head_of(key, Kind::String)?;
    let (before, deadline_ms) = match &stored {
        None => (0, None),
        Some(stored) => match stored.head() {
            Head { payload: Payload::Inline(digits), deadline_ms } => {
                (parse_integer(digits).ok_or(OpError::NotInteger)?, deadline_ms)
            }
            _ => return Err(OpError::NotInteger),
        },
    };
    let after = before.checked_add(by).ok_or(OpError::Overflow)?;
    replace(txn, key, after.to_string().as_bytes(), deadline_ms)?;
    Ok(after)
}

/// A canonical integer of 64 bits: no sign but minus, no leading zero, no space.
pub(crate) fn parse_integer(digits: &[u8]) -> Option<i64> {
    let canonical = match digits {
        b"0" => true,
        [b'-', first, ..] | [first, ..] => (b'1'..=b'9').contains(first),
        [] => false,
    };
    let text = std::str::from_utf8(digits).ok().filter(|_| canonical)?;
    text.parse().ok()
}

/// Removes the key and gives the string that it held.
pub fn take(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<Option<Text>, OpError> {
    let old = get(txn, key)?;
    if old.is_some() {
        txn.put_head(key, None, DeleteReason::Removed)?;
    }
    Ok(old)
}

fn check_length(len: usize) -> Result<(), OpError> {
    if len > VALUE_BYTES_MAX {
        return Err(OpError::TooLarge("a string holds at most 32 MiB"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Shard, testing};

    fn put(shard: &Shard, key: &str, value: &[u8], expiry: Expiry) -> Result<bool, OpError> {
        testing::write(shard, key, |txn, key| {
            Ok(set(txn, key, value, expiry, SetCondition::Always, false)?.written)
        })
    }

    fn text_of(shard: &Shard, key: &str) -> Result<Option<Vec<u8>>, OpError> {
        testing::read(shard, key, |txn, key| Ok(get(txn, key)?.map(|text| text.to_vec())))
    }

    #[test]
    fn a_string_reads_the_same_staged_durable_and_applied() -> Result<(), OpError> {
        for len in [0, 1, STRING_CHUNK_BYTES, STRING_CHUNK_BYTES + 1, 5 * STRING_CHUNK_BYTES] {
            let shard = testing::open();
            let value: Vec<u8> = (0..len).map(|i| i as u8).collect();
            put(&shard, "k", &value, Expiry::None)?;
            assert_eq!(text_of(&shard, "k")?.as_deref(), Some(&value[..]), "staged, {len}");
            testing::commit(&shard);
            assert_eq!(text_of(&shard, "k")?.as_deref(), Some(&value[..]), "durable, {len}");
            testing::settle(&shard);
            assert_eq!(text_of(&shard, "k")?.as_deref(), Some(&value[..]), "applied, {len}");
        }
        Ok(())
    }

    #[test]
    fn appending_grows_a_string_across_the_chunk_border() -> Result<(), OpError> {
        let shard = testing::open();
        let mut whole = Vec::new();
        for step in 0..12u8 {
            let more = vec![step; 4_000];
            whole.extend_from_slice(&more);
            let len = testing::write(&shard, "k", |txn, key| append(txn, key, &more))?;
            assert_eq!(len, whole.len() as u64);
            if step % 3 == 0 {
                testing::settle(&shard);
            }
            assert_eq!(text_of(&shard, "k")?.as_deref(), Some(&whole[..]));
        }
        Ok(())
    }

    #[test]
    fn a_string_past_its_deadline_is_hidden_and_then_removed() -> Result<(), OpError> {
        let shard = testing::open();
        put(&shard, "k", b"v", Expiry::At(2_000))?;
        testing::settle(&shard);
        shard.advance_time(1_999, 999);
        assert!(text_of(&shard, "k")?.is_some());
        shard.advance_time(2_000, 1_000);
        assert!(text_of(&shard, "k")?.is_none());
        assert_eq!(shard.usage(holdfast_base::KeyspaceId(0)).value, (1, 2));
        let step = shard.expire_step(&Default::default(), 10)?;
        assert_eq!((step.handled, step.expired), (1, 1));
        testing::settle(&shard);
        assert_eq!(shard.usage(holdfast_base::KeyspaceId(0)).value, (0, 0));
        assert_eq!(shard.expire_step(&step.next, 10)?.handled, 0);
        Ok(())
    }

    #[test]
    fn increments_refuse_text_and_overflow_without_effect() -> Result<(), OpError> {
        let shard = testing::open();
        let by = |by| testing::write(&shard, "n", |txn, key| increment(txn, key, by));
        assert_eq!(by(i64::MAX)?, i64::MAX);
        assert_eq!(by(1), Err(OpError::Overflow));
        assert_eq!(by(-1)?, i64::MAX - 1);
        put(&shard, "n", b" 1", Expiry::None)?;
        assert_eq!(by(1), Err(OpError::NotInteger));
        assert_eq!(text_of(&shard, "n")?.as_deref(), Some(&b" 1"[..]));
        Ok(())
    }

    #[test]
    fn usage_counts_keys_and_bytes_over_every_change() -> Result<(), OpError> {
        let shard = testing::open();
        let usage = || shard.usage(holdfast_base::KeyspaceId(0)).value;
        put(&shard, "key", b"value", Expiry::None)?;
        assert_eq!(usage(), (1, 8));
        put(&shard, "key", &[1; 40_000], Expiry::None)?;
        assert_eq!(usage(), (1, 40_003));
        put(&shard, "key", b"", Expiry::None)?;
        assert_eq!(usage(), (1, 3));
        testing::write(&shard, "key", take)?;
        assert_eq!(usage(), (0, 0));
        Ok(())
    }

    #[test]
    fn only_canonical_integers_parse() {
        for (text, number) in [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX)] {
            assert_eq!(parse_integer(text.as_bytes()), Some(number));
        }
        for text in ["", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808", "x"] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
    }
}
