//! Ops on lists. Elements lie at consecutive positions, so that both ends grow and shrink row by
//! row; the head says where the first lies and how many follow.
//!
//! Guarantees: an op reads all that it needs before its first effect, and puts the head once with
//! every change of elements. The deadline stays. A list without elements does not exist. What moves
//! elements within the list is in `edit.rs`.

mod edit;
#[cfg(test)]
mod tests;

use std::ops::{ControlFlow, Range};

use holdfast_base::{
    CollectionId, DeleteReason, Effect, Head, Kind, Payload, SharedBytes, Slot, key,
    limits::{COLLECTION_COUNT_MAX, VALUE_BYTES_MAX},
};

use crate::{KeyRef, OpError, Txn, op_error::corrupt_row};

pub use edit::{Inserted, Side, find, insert, remove};

/// An end of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Where index 0 is; Redis' left.
    Front,
    /// Where index -1 is; Redis' right.
    Back,
}

/// A list as its head says it.
#[derive(Clone, Copy, Debug)]
struct List {
    id: CollectionId,
    slot: Slot,
    count: u64,
    bytes: u64,
    first: i64,
    deadline_ms: Option<u64>,
}

impl List {
    fn load(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<Option<List>, OpError> {
        let Some(stored) = txn.head_of(key, Kind::List)? else { return Ok(None) };
        let Head { deadline_ms, payload: Payload::List { id, count, bytes, first } } =
            stored.head()
        else {
            return Err(OpError::WrongType);
        };
        Ok(Some(List { id, slot: key.slot, count, bytes, first, deadline_ms }))
    }

    /// A list that no key has yet.
    fn empty(txn: &mut Txn<'_>, key: &KeyRef<'_>, deadline_ms: Option<u64>) -> List {
        let id = txn.new_collection();
        List { id, slot: key.slot, count: 0, bytes: 0, first: 0, deadline_ms }
    }

    /// Where the element with this index lies.
    fn position(&self, index: u64) -> i64 {
        self.first.saturating_add_unsigned(index)
    }

    fn row(&self, position: i64) -> Vec<u8> {
        let mut row = Vec::with_capacity(key::COLLECTION_KIND_BYTES + 8);
        key::element(&mut row, self.slot, self.id, position);
        row
    }

    /// Visits the elements with these indexes in order.
    fn visit(
        &self,
        txn: &mut Txn<'_>,
        indexes: Range<u64>,
        mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), OpError> {
        if indexes.is_empty() {
            return Ok(());
        }
        let from = self.row(self.position(indexes.start));
        let to = self.row(self.position(indexes.end));
        let mut next = self.position(indexes.start);
        let mut stopped = false;
        txn.scan((&from, &to), false, |row, value| {
            if key::parse_element(row) != Some(next) {
                return ControlFlow::Break(());
            }
            next = next.saturating_add(1);
            let flow = visit(value);
            stopped = flow.is_break();
            flow
        })?;
        if !stopped && next != self.position(indexes.end) {
            return Err(corrupt_row(&self.row(next), "the list element"));
        }
        Ok(())
    }

    fn elements(
        &self,
        txn: &mut Txn<'_>,
        indexes: Range<u64>,
    ) -> Result<Vec<SharedBytes>, OpError> {
        let mut elements = Vec::new();
        self.visit(txn, indexes, |value| {
            elements.push(value.into());
            ControlFlow::Continue(())
        })?;
        Ok(elements)
    }

    /// Bytes of the elements with these indexes.
    fn bytes_of(&self, txn: &mut Txn<'_>, indexes: Range<u64>) -> Result<u64, OpError> {
        let mut bytes = 0;
        self.visit(txn, indexes, |value| {
            bytes += value.len() as u64;
            ControlFlow::Continue(())
        })?;
        Ok(bytes)
    }

    fn element(
        &self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        index: u64,
    ) -> Result<SharedBytes, OpError> {
        let row = self.row(self.position(index));
        txn.row(&row, key.bucket())?.ok_or_else(|| corrupt_row(&row, "the list element"))
    }

    /// Makes this the key's head; an empty list is none. The effects on elements follow.
    fn put(&self, txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<(), OpError> {
        let List { id, count, bytes, first, deadline_ms, .. } = *self;
        let payload = Payload::List { id, count, bytes, first };
        let head = (count > 0).then_some(Head { deadline_ms, payload });
        txn.put_head(key, head, DeleteReason::Removed)
    }

    fn put_element(
        &self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        index: u64,
        value: &[u8],
    ) -> Result<(), OpError> {
        txn.push(key, &Effect::PutElement { id: self.id, index: self.position(index), value })
    }

    /// Deletes the elements with these indexes.
    fn delete_elements(
        &self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        indexes: Range<u64>,
    ) -> Result<(), OpError> {
        for index in indexes {
            txn.push(key, &Effect::DeleteElement { id: self.id, index: self.position(index) })?;
        }
        Ok(())
    }
}

/// Adds the values one after the other at an end, so that the last lies outermost; gives the new
/// length. With `only_if_exists` an absent key stays absent and 0 is given.
pub fn push(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    end: End,
    values: &[&[u8]],
    only_if_exists: bool,
) -> Result<u64, OpError> {
    values.iter().try_for_each(|value| check_element(value))?;
    let old = List::load(txn, key)?;
    if values.is_empty() || (old.is_none() && only_if_exists) {
        return Ok(old.map_or(0, |list| list.count));
    }
    let mut list = match old {
        Some(list) => list,
        None => List::empty(txn, key, None),
    };
    let more = values.len() as u64;
    let before = list.count;
    list.count = grown(list.count, more)?;
    list.bytes += values.iter().map(|value| value.len() as u64).sum::<u64>();
    if end == End::Front {
        list.first = list.first.checked_sub_unsigned(more).ok_or(OUT_OF_POSITIONS)?;
    } else {
        list.first.checked_add_unsigned(list.count).ok_or(OUT_OF_POSITIONS)?;
    }
    list.put(txn, key)?;
    for (pushed, value) in (0..more).zip(values) {
        let index = match end {
            End::Front => more - 1 - pushed,
            End::Back => before + pushed,
        };
        list.put_element(txn, key, index, value)?;
    }
    Ok(list.count)
}

/// Takes up to `count` elements off an end, the outermost first. `None` if there is no such key.
pub fn pop(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    end: End,
    count: u64,
) -> Result<Option<Vec<SharedBytes>>, OpError> {
    let Some(mut list) = List::load(txn, key)? else { return Ok(None) };
    let old = list;
    let count = count.min(list.count);
    if count == 0 {
        return Ok(Some(Vec::new()));
    }
    list.count -= count;
    let gone = match end {
        End::Front => 0..count,
        End::Back => list.count..old.count,
    };
    let mut popped = match count {
        // One row by its key is cheaper than opening a range of one.
        1 => vec![list.element(txn, key, gone.start)?],
        _ => list.elements(txn, gone.clone())?,
    };
    list.bytes = shrunk(key, list.bytes, popped.iter().map(|value| value.len() as u64).sum())?;
    if end == End::Front {
        list.first = old.position(count);
    } else {
        popped.reverse();
    }
    list.put(txn, key)?;
    if list.count > 0 {
        old.delete_elements(txn, key, gone)?;
    }
    Ok(Some(popped))
}

/// The elements from index `start` to `stop`, both included; negative indexes count from the back.
pub fn range(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    start: i64,
    stop: i64,
) -> Result<Vec<SharedBytes>, OpError> {
    let Some(list) = List::load(txn, key)? else { return Ok(Vec::new()) };
    match indexes(start, stop, list.count) {
        Some(indexes) => list.elements(txn, indexes),
        None => Ok(Vec::new()),
    }
}

/// How many elements the list has; 0 for an absent key.
pub fn length(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<u64, OpError> {
    Ok(List::load(txn, key)?.map_or(0, |list| list.count))
}

/// The element with this index, negative ones counting from the back.
pub fn index(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    index: i64,
) -> Result<Option<SharedBytes>, OpError> {
    let Some(list) = List::load(txn, key)? else { return Ok(None) };
    let Some(index) = index_of(index, list.count) else { return Ok(None) };
    list.element(txn, key, index).map(Some)
}

/// Replaces the element with this index. False if the list has no such index.
pub fn set(txn: &mut Txn<'_>, key: &KeyRef<'_>, index: i64, value: &[u8]) -> Result<bool, OpError> {
    check_element(value)?;
    let mut list = List::load(txn, key)?.ok_or(OpError::NoSuchKey)?;
    let Some(index) = index_of(index, list.count) else { return Ok(false) };
    let old = list.element(txn, key, index)?;
    list.bytes = shrunk(key, list.bytes, old.len() as u64)? + value.len() as u64;
    list.put(txn, key)?;
    list.put_element(txn, key, index, value)?;
    Ok(true)
}

/// About what one effect on an element costs in a record, its value not counted.
const EFFECT_BYTES: u64 = 12;

/// Keeps the elements from index `start` to `stop`, both included, and removes the others. Where
/// that makes the smaller record, the kept ones move to a new collection and the old one is dropped.
pub fn trim(txn: &mut Txn<'_>, key: &KeyRef<'_>, start: i64, stop: i64) -> Result<(), OpError> {
    let Some(old) = List::load(txn, key)? else { return Ok(()) };
    let Some(kept) = indexes(start, stop, old.count) else {
        return txn.put_head(key, None, DeleteReason::Removed);
    };
    let count = kept.end - kept.start;
    let removed = old.count - count;
    if removed == 0 {
        return Ok(());
    }
    // The head's bytes need the lengths of one side: read the shorter.
    let bytes = if count <= removed {
        old.bytes_of(txn, kept.clone())?
    } else {
        let gone = old.bytes_of(txn, 0..kept.start)? + old.bytes_of(txn, kept.end..old.count)?;
        shrunk(key, old.bytes, gone)?
    };
    if bytes + EFFECT_BYTES * count < EFFECT_BYTES * removed {
        let elements = old.elements(txn, kept)?;
        let list = List { count, bytes, ..List::empty(txn, key, old.deadline_ms) };
        list.put(txn, key)?;
        for (index, value) in (0..count).zip(&elements) {
            list.put_element(txn, key, index, value)?;
        }
        return Ok(());
    }
    let list = List { count, bytes, first: old.position(kept.start), ..old };
    list.put(txn, key)?;
    old.delete_elements(txn, key, 0..kept.start)?;
    old.delete_elements(txn, key, kept.end..old.count)
}

const OUT_OF_POSITIONS: OpError = OpError::TooLarge("a list has positions of 64 bits only");

fn check_element(value: &[u8]) -> Result<(), OpError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(OpError::TooLarge("a list element holds at most 32 MiB"));
    }
    Ok(())
}

fn grown(count: u64, more: u64) -> Result<u64, OpError> {
    let count = count.saturating_add(more);
    if count > COLLECTION_COUNT_MAX {
        return Err(OpError::TooLarge("a list holds at most 4,294,967,295 elements"));
    }
    Ok(count)
}

fn shrunk(key: &KeyRef<'_>, bytes: u64, less: u64) -> Result<u64, OpError> {
    bytes.checked_sub(less).ok_or_else(|| corrupt_row(&key.row, "the byte count"))
}

/// An index as Redis takes it, negative from the back, if it is in a collection of `count`.
fn index_of(index: i64, count: u64) -> Option<u64> {
    let index = match u64::try_from(index) {
        Ok(index) => index,
        Err(_) => count.checked_sub(index.unsigned_abs())?,
    };
    (index < count).then_some(index)
}

/// The indexes from `start` to `stop` as Redis takes them: both included, negative from the back,
/// cut to a collection of `count`. `None` if none is left.
pub(super) fn indexes(start: i64, stop: i64, count: u64) -> Option<Range<u64>> {
    let start = match u64::try_from(start) {
        Ok(start) => start,
        Err(_) => count.saturating_sub(start.unsigned_abs()),
    };
    let end = match u64::try_from(stop) {
        Ok(stop) => stop.saturating_add(1).min(count),
        Err(_) => count.saturating_add(1).saturating_sub(stop.unsigned_abs()),
    };
    (start < end).then_some(start..end)
}
