//! Ops on stretches of a sorted set: by index, score or member; ranks, counts, pops and scans.
//!
//! Indexes are found over the rank chunks from the nearer end. A range that is removed and leaves
//! little moves what it leaves to a new collection, so that the record stays small.

use std::ops::{Bound, ControlFlow};

use holdfast_base::{DeleteReason, key, key::MemberKind};

use super::{Change, Position, Scored, Set, Span, apply, chunks, parse_score, replace};
use crate::{KeyRef, OpError, Txn, op_error::corrupt_row, ops::list::indexes};

/// Which members of a set.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Selection<'m> {
    /// From one index to another, both included; negative ones count from the other end.
    Indexes(i64, i64),
    /// Between a lower and an upper score.
    Scores(Bound<f64>, Bound<f64>),
    /// Between a lower and an upper member by bytes, where all scores are the same; otherwise the
    /// lower is taken to have the lowest score of the set and the upper the highest.
    Members(Bound<&'m [u8]>, Bound<&'m [u8]>),
}

/// Rows that are stepped over one by one before it is worth finding an index over the chunks.
const SKIP_MAX: u64 = 64;

impl Set {
    /// How many members the span holds: whole chunks by their counts, the ends by looking.
    fn count_in(&self, txn: &mut Txn<'_>, span: &Span) -> Result<u64, OpError> {
        if span.is_empty() {
            return Ok(0);
        }
        let (mut first, mut last) = (None, None);
        let mut whole: u64 = 0;
        chunks::walk(txn, self, span, false, |chunk| {
            first.get_or_insert_with(|| chunk.start.clone());
            whole = whole.saturating_add(chunk.count);
            last = Some(chunk);
            ControlFlow::Continue(())
        })?;
        let (Some(first), Some(last)) = (first, last) else { return self.look(txn, span) };
        let before = Span { from: span.from.clone(), to: Some(first) };
        let mut count = self.look(txn, &before)?.saturating_add(whole);
        if span.to.is_some() {
            let within = Span { from: last.start, to: span.to.clone() };
            let kept = self.look(txn, &within)?;
            count = count.saturating_sub(last.count).saturating_add(kept);
        }
        Ok(count)
    }

    /// Counts members one by one.
    fn look(&self, txn: &mut Txn<'_>, span: &Span) -> Result<u64, OpError> {
        let mut count = 0;
        self.walk(txn, span, false, |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// The members of the span after the first `skip`, at most `max`.
    fn collect(
        &self,
        txn: &mut Txn<'_>,
        span: &Span,
        reverse: bool,
        (mut skip, max): (u64, u64),
    ) -> Result<Vec<Scored>, OpError> {
        let mut members = Vec::new();
        if max == 0 {
            return Ok(members);
        }
        self.walk(txn, span, reverse, |score, member| {
            if skip > 0 {
                skip -= 1;
                return ControlFlow::Continue(());
            }
            members.push(Scored { member: member.to_vec(), score });
            let full = members.len() as u64 >= max;
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(members)
    }

    /// The members from the `first`th on, counted from the end that `reverse` says.
    fn window(
        &self,
        txn: &mut Txn<'_>,
        (first, count): (u64, u64),
        reverse: bool,
    ) -> Result<Vec<Scored>, OpError> {
        if first >= self.count {
            return Ok(Vec::new());
        }
        if first <= SKIP_MAX {
            return self.collect(txn, &Span::all(), reverse, (first, count));
        }
        let index = if reverse { self.count - 1 - first } else { first };
        let (chunk, before, held) = self.chunk_at(txn, index)?;
        let (span, skip) = if reverse {
            let above = before.saturating_add(held).saturating_sub(index + 1);
            (Span { from: Position::lowest(), to: chunk.to }, above)
        } else {
            (Span { from: chunk.from, to: None }, index.saturating_sub(before))
        };
        self.collect(txn, &span, reverse, (skip, count))
    }

    /// The chunk with this index: its span, the count of members before it and in it.
    fn chunk_at(&self, txn: &mut Txn<'_>, index: u64) -> Result<(Span, u64, u64), OpError> {
        let from_back = index > self.count / 2;
        // Members passed so far, and how many to pass in all.
        let (mut passed, goal) = (0u64, if from_back { self.count - 1 - index } else { index });
        let mut found: Option<chunks::Chunk> = None;
        let mut end = None;
        chunks::walk(txn, self, &Span::all(), from_back, |chunk| {
            if found.is_some() {
                end = Some(chunk.start);
                return ControlFlow::Break(());
            }
            if goal < passed.saturating_add(chunk.count) {
                found = Some(chunk);
                // From the front the end is where the next chunk begins.
                return if from_back { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            }
            passed = passed.saturating_add(chunk.count);
            if from_back {
                end = Some(chunk.start);
            }
            ControlFlow::Continue(())
        })?;
        let Some(chunk) = found else { return Err(chunks::no_chunk(self)) };
        let before = match from_back {
            true => self.count.saturating_sub(passed.saturating_add(chunk.count)),
            false => passed,
        };
        Ok((Span { from: chunk.start, to: end }, before, chunk.count))
    }

    /// The span of a selection by score or member, or of one by index. `None` if it is empty.
    fn span(&self, txn: &mut Txn<'_>, selection: &Selection<'_>) -> Result<Option<Span>, OpError> {
        let mut end = |first, reverse| self.window(txn, (first, 1), reverse).map(|mut m| m.pop());
        let span = match *selection {
            Selection::Scores(min, max) => Span::of_scores(min, max),
            Selection::Members(min, max) => {
                let (Some(low), Some(high)) = (end(0, false)?, end(0, true)?) else {
                    return Ok(None);
                };
                Span::of_members((min, low.score), (max, high.score))
            }
            Selection::Indexes(start, stop) => {
                let Some(indexes) = indexes(start, stop, self.count) else { return Ok(None) };
                let Some(first) = end(indexes.start, false)? else { return Ok(None) };
                let after = end(indexes.end, false)?;
                Span {
                    from: Position::of(first.score, &first.member),
                    to: after.map(|after| Position::of(after.score, &after.member)),
                }
            }
        };
        Ok((!span.is_empty()).then_some(span))
    }
}

/// The selected members in order, or from the highest down with `reverse` (indexes then count from
/// the highest too; bounds stay lower and upper): after the first `offset`, at most `count`.
pub fn range(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    selection: &Selection<'_>,
    reverse: bool,
    (offset, count): (u64, u64),
) -> Result<Vec<Scored>, OpError> {
    let Some(set) = Set::load(txn, key)? else { return Ok(Vec::new()) };
    if let Selection::Indexes(start, stop) = *selection {
        let Some(indexes) = indexes(start, stop, set.count) else { return Ok(Vec::new()) };
        let first = indexes.start.saturating_add(offset);
        let count = indexes.end.saturating_sub(first).min(count);
        return set.window(txn, (first, count), reverse);
    }
    let Some(span) = set.span(txn, selection)? else { return Ok(Vec::new()) };
    if offset <= SKIP_MAX {
        return set.collect(txn, &span, reverse, (offset, count));
    }
    let count = set.count_in(txn, &span)?.saturating_sub(offset).min(count);
    let outside = match (reverse, span.to) {
        (false, _) => set.count_in(txn, &Span { from: Position::lowest(), to: Some(span.from) })?,
        (true, Some(to)) => set.count_in(txn, &Span { from: to, to: None })?,
        (true, None) => 0,
    };
    set.window(txn, (outside.saturating_add(offset), count), reverse)
}

/// How many members are selected.
pub fn count(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    selection: &Selection<'_>,
) -> Result<u64, OpError> {
    let Some(set) = Set::load(txn, key)? else { return Ok(0) };
    if let Selection::Indexes(start, stop) = *selection {
        return Ok(indexes(start, stop, set.count).map_or(0, |i| i.end - i.start));
    }
    match set.span(txn, selection)? {
        Some(span) => set.count_in(txn, &span),
        None => Ok(0),
    }
}

/// How many members lie before this one, or after it with `reverse`, and its score.
pub fn rank(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    member: &[u8],
    reverse: bool,
) -> Result<Option<(u64, f64)>, OpError> {
    let Some(set) = Set::load(txn, key)? else { return Ok(None) };
    let Some(score) = super::score_in(txn, key, Some(&set), member)? else { return Ok(None) };
    let at = Position::of(score, member);
    let span = match reverse {
        false => Span { from: Position::lowest(), to: Some(at) },
        true => Span { from: at.next(), to: None },
    };
    Ok(Some((set.count_in(txn, &span)?, score)))
}

fn remove_members<'m>(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    set: Set,
    members: &'m [Scored],
) -> Result<(), OpError> {
    let gone = |m: &'m Scored| Change { member: &m.member, old: Some(m.score), new: None };
    let changes: Vec<_> = members.iter().map(gone).collect();
    apply(txn, key, Some(set), &changes)
}

/// Members that are removed at least before what stays may move instead.
const MOVE_MIN: u64 = 1024;

/// Removes the selected members; gives how many.
pub fn remove_range(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    selection: &Selection<'_>,
) -> Result<u64, OpError> {
    let Some(set) = Set::load(txn, key)? else { return Ok(0) };
    let Some(span) = set.span(txn, selection)? else { return Ok(0) };
    let removed = set.count_in(txn, &span)?;
    let kept = set.count.saturating_sub(removed);
    if kept == 0 {
        txn.put_head(key, None, DeleteReason::Removed)?;
    } else if removed >= MOVE_MIN && kept < removed {
        let before = Span { from: Position::lowest(), to: Some(span.from) };
        let mut kept = set.collect(txn, &before, false, (0, u64::MAX))?;
        if let Some(to) = span.to {
            let after = Span { from: to, to: None };
            kept.extend(set.collect(txn, &after, false, (0, u64::MAX))?);
        }
        let kept = kept.iter().map(|m| (m.score, &m.member[..]));
        replace(txn, key, kept, set.deadline_ms)?;
    } else {
        let gone = set.collect(txn, &span, false, (0, u64::MAX))?;
        remove_members(txn, key, set, &gone)?;
    }
    Ok(removed)
}

/// Removes up to `count` members with the lowest scores, or with the highest, and gives them, the
/// outermost first.
pub fn pop(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    highest: bool,
    count: u64,
) -> Result<Vec<Scored>, OpError> {
    let Some(set) = Set::load(txn, key)? else { return Ok(Vec::new()) };
    let popped = set.window(txn, (0, count), highest)?;
    remove_members(txn, key, set, &popped)?;
    Ok(popped)
}

/// One step of a scan over a set.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ScanStep {
    /// Where the next step begins; 0 when the scan is complete.
    pub cursor: u64,
    /// Members found.
    pub members: Vec<Scored>,
}

/// Members in hash order from `cursor`, at least about `count` unless the set ends. A member that
/// is in the set throughout a whole scan is returned, whatever is written meanwhile.
pub fn scan(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    cursor: u64,
    count: usize,
) -> Result<ScanStep, OpError> {
    let mut step = ScanStep::default();
    let Some(set) = Set::load(txn, key)? else { return Ok(step) };
    if cursor >> key::HASH_BITS != 0 {
        return Ok(step);
    }
    let (mut from, mut to) = (Vec::new(), Vec::new());
    key::member_position(&mut from, set.slot, set.id, cursor);
    key::collection_kind(&mut to, set.slot, set.id, MemberKind::ByScore);
    // All members at the position of the last one belong to this step, or they would be lost.
    let mut last = None;
    let mut damaged = None;
    txn.scan((&from, &to), false, |row, stored| {
        let (Some((hash, member)), Some(score)) = (key::parse_member(row), parse_score(stored))
        else {
            damaged = Some(row.to_vec());
            return ControlFlow::Break(());
        };
        if step.members.len() >= count.max(1) && last != Some(hash) {
            step.cursor = hash;
            return ControlFlow::Break(());
        }
        last = Some(hash);
        step.members.push(Scored { member: member.to_vec(), score });
        ControlFlow::Continue(())
    })?;
    damaged.map_or(Ok(step), |row| Err(corrupt_row(&row, "the score")))
}
