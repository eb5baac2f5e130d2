//! Ops on sorted sets: members with scores, in order of (score, member bytes).
//!
//! Three kinds of rows: score by member, members in order, and rank chunks (`chunks.rs`). Every
//! write becomes a list of changed members, which one function turns into effects. Guarantees: an
//! op reads all that it needs before its first effect, and puts the head once with every change;
//! -0 counts as 0 and nothing is ever stored as not-a-number. The deadline stays. A set without
//! members does not exist.

mod chunks;
mod position;
mod range;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::ControlFlow,
};

use holdfast_base::{
    CollectionId, DeleteReason, Effect, Head, Kind, Payload, Slot, key,
    key::MemberKind,
    limits::{COLLECTION_COUNT_MAX, MEMBER_BYTES_MAX},
};

use crate::{KeyRef, OpError, Txn, op_error::corrupt_row};
use position::{Position, Span};

pub use range::{ScanStep, Selection, count, pop, range, rank, remove_range, scan};

/// A member with its score.
#[derive(Clone, PartialEq, Debug)]
pub struct Scored {
    /// The member.
    pub member: Vec<u8>,
    /// Its score.
    pub score: f64,
}

/// A sorted set as its head says it.
#[derive(Clone, Copy, Debug)]
struct Set {
    id: CollectionId,
    slot: Slot,
    count: u64,
    bytes: u64,
    deadline_ms: Option<u64>,
}

impl Set {
    fn load(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<Option<Set>, OpError> {
        let Some(stored) = txn.head_of(key, Kind::SortedSet)? else { return Ok(None) };
        let Head { deadline_ms, payload: Payload::Collection { id, count, bytes, .. } } =
            stored.head()
        else {
            return Err(OpError::WrongType);
        };
        Ok(Some(Set { id, slot: key.slot, count, bytes, deadline_ms }))
    }

    /// A set that no key has yet.
    fn empty(txn: &mut Txn<'_>, key: &KeyRef<'_>, deadline_ms: Option<u64>) -> Set {
        let id = txn.new_collection();
        Set { id, slot: key.slot, count: 0, bytes: 0, deadline_ms }
    }

    /// The rows of one kind whose positions the span holds.
    fn rows(&self, kind: MemberKind, span: &Span) -> (Vec<u8>, Vec<u8>) {
        let mut from = Vec::with_capacity(key::COLLECTION_KIND_BYTES + span.from.bytes().len());
        key::collection_kind(&mut from, self.slot, self.id, kind);
        let to = match &span.to {
            Some(to) => [&from, to.bytes()].concat(),
            None => key::after_prefix(&from).unwrap_or_default(),
        };
        from.extend_from_slice(span.from.bytes());
        (from, to)
    }

    /// Visits the members of the span in order.
    fn walk(
        &self,
        txn: &mut Txn<'_>,
        span: &Span,
        reverse: bool,
        mut visit: impl FnMut(f64, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), OpError> {
        if span.is_empty() {
            return Ok(());
        }
        let mut damaged = None;
        let (from, to) = self.rows(MemberKind::ByScore, span);
        txn.scan((&from, &to), reverse, |row, _| match key::parse_scored(row) {
            Some((score, member)) => visit(score, member),
            None => {
                damaged = Some(row.to_vec());
                ControlFlow::Break(())
            }
        })?;
        damaged.map_or(Ok(()), |row| Err(corrupt_row(&row, "the key")))
    }

    /// The stored scores of these members. Rows that are not in memory are named all at once.
    fn scores<'m>(
        &self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        members: impl Iterator<Item = &'m [u8]>,
    ) -> Result<Vec<Option<f64>>, OpError> {
        let (mut scores, mut missed) = (Vec::new(), Vec::new());
        let mut row = Vec::new();
        for member in members {
            row.clear();
            key::member(&mut row, self.slot, self.id, txn.member_hash(member), member);
            match txn.row(&row, key.bucket()) {
                Ok(stored) => scores.push(match stored {
                    Some(stored) => {
                        Some(parse_score(&stored).ok_or_else(|| corrupt_row(&row, "the score"))?)
                    }
                    None => None,
                }),
                Err(OpError::Miss(rows)) => missed.extend(rows),
                Err(error) => return Err(error),
            }
        }
        if missed.is_empty() { Ok(scores) } else { Err(OpError::Miss(missed)) }
    }
}

fn parse_score(stored: &[u8]) -> Option<f64> {
    let score = f64::from_bits(u64::from_le_bytes(stored.try_into().ok()?));
    (!score.is_nan()).then_some(score)
}

/// A member's score before and after an op; the two differ.
struct Change<'m> {
    member: &'m [u8],
    old: Option<f64>,
    new: Option<f64>,
}

/// Makes the changes: head, members and rank chunks. `None` is a set that does not exist yet.
fn apply(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    set: Option<Set>,
    changes: &[Change<'_>],
) -> Result<(), OpError> {
    if changes.is_empty() {
        return Ok(());
    }
    let set = match set {
        Some(set) => set,
        None => Set::empty(txn, key, None),
    };
    let (mut count, mut bytes) = (set.count, set.bytes);
    for change in changes {
        let size = change.member.len() as u64 + 8;
        let (new, old) = (u64::from(change.new.is_some()), u64::from(change.old.is_some()));
        let wrong = || corrupt_row(&key.row, "the count");
        count = (count + new).checked_sub(old).ok_or_else(wrong)?;
        bytes = (bytes + new * size).checked_sub(old * size).ok_or_else(wrong)?;
    }
    if count > COLLECTION_COUNT_MAX {
        return Err(OpError::TooLarge("a sorted set holds at most 4,294,967,295 members"));
    }
    if count == 0 {
        return txn.put_head(key, None, DeleteReason::Removed);
    }
    let plan = chunks::plan(txn, &set, count, changes)?;
    let id = set.id;
    let payload = Payload::Collection { kind: Kind::SortedSet, id, count, bytes };
    let head = Head { deadline_ms: set.deadline_ms, payload };
    txn.put_head(key, Some(head), DeleteReason::Removed)?;
    for &Change { member, old, new } in changes {
        match (old, new) {
            (old_score, Some(score)) => {
                txn.push(key, &Effect::PutScore { id, member, score, old_score })?;
            }
            (Some(old_score), None) => {
                txn.push(key, &Effect::DeleteScore { id, member, old_score })?;
            }
            (None, None) => {}
        }
    }
    for (start, count) in &plan.0 {
        let (score, member) = start.parts();
        let effect = match *count {
            Some(count) => Effect::PutRankChunk { id, score, member, count },
            None => Effect::DeleteRankChunk { id, score, member },
        };
        txn.push(key, &effect)?;
    }
    Ok(())
}

/// On which conditions [`add`] and [`increment`] change a member; all given ones must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AddCondition {
    /// Only members that are not in the set yet.
    pub absent: bool,
    /// Only members that are in the set.
    pub present: bool,
    /// A member of the set only if its score becomes greater.
    pub greater: bool,
    /// A member of the set only if its score becomes less.
    pub less: bool,
}

impl AddCondition {
    fn allows(self, old: Option<f64>, new: f64) -> bool {
        match old {
            None => !self.present,
            Some(old) => !self.absent && (!self.greater || new > old) && (!self.less || new < old),
        }
    }
}

/// What [`add`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Added {
    /// Members that are new in the set.
    pub added: u64,
    /// Members that got another score; together with the new ones, those that changed.
    pub updated: u64,
}

/// Gives the members these scores, one after the other.
pub fn add(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    members: &[(f64, &[u8])],
    condition: AddCondition,
) -> Result<Added, OpError> {
    members.iter().try_for_each(|(score, member)| check(*score, member))?;
    let set = Set::load(txn, key)?;
    if set.is_none() && condition.present {
        return Ok(Added::default());
    }
    let stored = match &set {
        Some(set) => set.scores(txn, key, members.iter().map(|(_, member)| *member))?,
        None => vec![None; members.len()],
    };
    let mut done = Added::default();
    let mut changes = BTreeMap::new();
    for (&(score, member), stored) in members.iter().zip(stored) {
        let score = score + 0.0;
        let change = match changes.entry(member) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Change { member, old: stored, new: stored }),
        };
        if condition.allows(change.new, score) && change.new != Some(score) {
            match change.new {
                None => done.added += 1,
                Some(_) => done.updated += 1,
            }
            change.new = Some(score);
        }
    }
    let changes: Vec<_> = changes.into_values().filter(|c| c.old != c.new).collect();
    apply(txn, key, set, &changes)?;
    Ok(done)
}

/// Adds to a member's score; an absent member counts as 0. Gives the new score, or `None` if the
/// condition did not allow it.
pub fn increment(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    member: &[u8],
    by: f64,
    condition: AddCondition,
) -> Result<Option<f64>, OpError> {
    check(by, member)?;
    let set = Set::load(txn, key)?;
    let old = score_in(txn, key, set.as_ref(), member)?;
    if old.is_some() && condition.absent {
        return Ok(None);
    }
    let new = old.unwrap_or(0.0) + by + 0.0;
    if new.is_nan() {
        return Err(OpError::ResultNotANumber);
    }
    if !condition.allows(old, new) {
        return Ok(None);
    }
    if old != Some(new) {
        apply(txn, key, set, &[Change { member, old, new: Some(new) }])?;
    }
    Ok(Some(new))
}

/// Removes members; gives how many were in the set.
pub fn remove(txn: &mut Txn<'_>, key: &KeyRef<'_>, members: &[&[u8]]) -> Result<u64, OpError> {
    let Some(set) = Set::load(txn, key)? else { return Ok(0) };
    let stored = set.scores(txn, key, members.iter().copied())?;
    // A member that is named twice is removed once.
    let gone: BTreeMap<&[u8], f64> =
        members.iter().zip(stored).filter_map(|(member, old)| Some((*member, old?))).collect();
    let changes: Vec<_> =
        gone.iter().map(|(member, old)| Change { member, old: Some(*old), new: None }).collect();
    apply(txn, key, Some(set), &changes)?;
    Ok(changes.len() as u64)
}

/// Writes a new set over whatever the key held; of a member that is given twice the last score
/// counts. Gives the count of members; with none the key goes.
pub fn store(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    members: &[(f64, &[u8])],
) -> Result<u64, OpError> {
    members.iter().try_for_each(|(score, member)| check(*score, member))?;
    replace(txn, key, members.iter().copied(), None)
}

/// Writes the members into a new collection.
fn replace<'m>(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    members: impl Iterator<Item = (f64, &'m [u8])>,
    deadline_ms: Option<u64>,
) -> Result<u64, OpError> {
    let scores: BTreeMap<&[u8], f64> = members.map(|(score, member)| (member, score)).collect();
    if scores.is_empty() {
        txn.put_head(key, None, DeleteReason::Removed)?;
        return Ok(0);
    }
    let change =
        |(&member, &score): (&&'m [u8], &f64)| Change { member, old: None, new: Some(score + 0.0) };
    let changes: Vec<_> = scores.iter().map(change).collect();
    let set = Set::empty(txn, key, deadline_ms);
    apply(txn, key, Some(set), &changes)?;
    Ok(changes.len() as u64)
}

/// A member's score.
pub fn score(txn: &mut Txn<'_>, key: &KeyRef<'_>, member: &[u8]) -> Result<Option<f64>, OpError> {
    let set = Set::load(txn, key)?;
    score_in(txn, key, set.as_ref(), member)
}

fn score_in(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    set: Option<&Set>,
    member: &[u8],
) -> Result<Option<f64>, OpError> {
    let Some(set) = set else { return Ok(None) };
    Ok(set.scores(txn, key, std::iter::once(member))?.pop().flatten())
}

/// The scores of several members, in their order.
pub fn scores(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    members: &[&[u8]],
) -> Result<Vec<Option<f64>>, OpError> {
    match Set::load(txn, key)? {
        Some(set) => set.scores(txn, key, members.iter().copied()),
        None => Ok(vec![None; members.len()]),
    }
}

/// How many members the set has; 0 for an absent key.
pub fn cardinality(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<u64, OpError> {
    Ok(Set::load(txn, key)?.map_or(0, |set| set.count))
}

fn check(score: f64, member: &[u8]) -> Result<(), OpError> {
    if score.is_nan() {
        return Err(OpError::NotFloat);
    }
    if member.len() > MEMBER_BYTES_MAX {
        return Err(OpError::TooLarge("a member of a sorted set holds at most 64 KiB"));
    }
    Ok(())
}
