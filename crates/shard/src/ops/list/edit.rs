//! Ops that look for elements by value, and those that insert or remove in the middle of a list.
//!
//! Positions stay consecutive, so elements on one side move; it is always the shorter side. These
//! ops read the list from one end, as their Redis counterparts do.

use std::ops::ControlFlow;

use holdfast_base::SharedBytes;

use super::{List, OUT_OF_POSITIONS, check_element, grown, shrunk};
use crate::{KeyRef, OpError, Txn};

/// On which side of the pivot [`insert`] puts the new element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Before it.
    Before,
    /// After it.
    After,
}

/// Elements that a search from the back reads at a time.
const STEP: u64 = 256;

impl List {
    /// Indexes of elements equal to `value`, at most `max`, in order of the search.
    fn matches(
        &self,
        txn: &mut Txn<'_>,
        value: &[u8],
        (max, look_at): (u64, u64),
        from_back: bool,
    ) -> Result<Vec<u64>, OpError> {
        let look_at = look_at.min(self.count);
        let mut found = Vec::new();
        let mut seen = 0;
        while seen < look_at && (found.len() as u64) < max {
            let step = if from_back { STEP.min(look_at - seen) } else { look_at };
            let mut at = if from_back { self.count - seen - step } else { 0 };
            let mut here = Vec::new();
            self.visit(txn, at..at + step, |element| {
                if *element == *value {
                    here.push(at);
                }
                at += 1;
                // Forward the search may stop within the step.
                let full = !from_back && here.len() as u64 == max;
                if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if from_back {
                here.reverse();
            }
            found.extend(here);
            seen += step;
        }
        found.truncate(usize::try_from(max).unwrap_or(usize::MAX));
        Ok(found)
    }
}

/// Indexes of elements equal to `value`: from the `rank`th match on (1 is the first from the front,
/// -1 the first from the back; 0 finds nothing), at most `count`, among the first `look_at`
/// elements in the direction of the search. `u64::MAX` is no bound.
pub fn find(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    value: &[u8],
    rank: i64,
    (count, look_at): (u64, u64),
) -> Result<Vec<u64>, OpError> {
    let Some(list) = List::load(txn, key)? else { return Ok(Vec::new()) };
    let Some(skip) = rank.unsigned_abs().checked_sub(1) else { return Ok(Vec::new()) };
    let max = (skip.saturating_add(count), look_at);
    let mut found = list.matches(txn, value, max, rank < 0)?;
    found.drain(..found.len().min(usize::try_from(skip).unwrap_or(usize::MAX)));
    Ok(found)
}

/// What [`insert`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// There is no such key.
    NoKey,
    /// No element equals the pivot.
    NoPivot,
    /// The list is now this long.
    Length(u64),
}

/// Inserts `value` beside the first element that equals `pivot`.
pub fn insert(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    side: Side,
    pivot: &[u8],
    value: &[u8],
) -> Result<Inserted, OpError> {
    check_element(value)?;
    let Some(old) = List::load(txn, key)? else { return Ok(Inserted::NoKey) };
    let found = old.matches(txn, pivot, (1, u64::MAX), false)?;
    let Some(pivot) = found.first() else { return Ok(Inserted::NoPivot) };
    let at = pivot + u64::from(side == Side::After);
    let mut list = old;
    list.count = grown(old.count, 1)?;
    list.bytes += value.len() as u64;
    // Index of the first element that moves, in the new list.
    let (moved, to) = if at < old.count - at {
        list.first = old.first.checked_sub(1).ok_or(OUT_OF_POSITIONS)?;
        (old.elements(txn, 0..at)?, 0)
    } else {
        old.first.checked_add_unsigned(list.count).ok_or(OUT_OF_POSITIONS)?;
        (old.elements(txn, at..old.count)?, at + 1)
    };
    list.put(txn, key)?;
    list.put_element(txn, key, at, value)?;
    for (index, element) in (to..).zip(&moved) {
        list.put_element(txn, key, index, element)?;
    }
    Ok(Inserted::Length(list.count))
}

/// Removes elements equal to `value`: with a positive `count` that many from the front on, with a
/// negative one from the back on, with 0 all. Gives how many.
pub fn remove(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    count: i64,
    value: &[u8],
) -> Result<u64, OpError> {
    let Some(old) = List::load(txn, key)? else { return Ok(0) };
    let max = if count == 0 { u64::MAX } else { count.unsigned_abs() };
    let mut gone = old.matches(txn, value, (max, u64::MAX), count < 0)?;
    gone.sort_unstable();
    let (Some(&first), Some(&last)) = (gone.first(), gone.last()) else { return Ok(0) };
    let removed = gone.len() as u64;
    let mut list = List { count: old.count - removed, ..old };
    list.bytes = shrunk(key, old.bytes, removed * value.len() as u64)?;
    if list.count == 0 {
        list.put(txn, key)?;
        return Ok(removed);
    }
    // The elements between the removed ones move, with those of the shorter end.
    let from_front = last < old.count - first;
    let touched = if from_front { 0..last } else { first..old.count };
    let mut kept: Vec<SharedBytes> = Vec::new();
    let mut index = touched.start;
    old.visit(txn, touched.clone(), |element| {
        if gone.binary_search(&index).is_err() {
            kept.push(element.into());
        }
        index += 1;
        ControlFlow::Continue(())
    })?;
    let (to, freed) = if from_front {
        list.first = old.position(removed);
        (0, 0..removed)
    } else {
        (first, list.count..old.count)
    };
    list.put(txn, key)?;
    for (index, element) in (to..).zip(&kept) {
        list.put_element(txn, key, index, element)?;
    }
    old.delete_elements(txn, key, freed)?;
    Ok(removed)
}
