//! Rank chunks: rows that count the members of consecutive stretches of the order, so that a rank
//! costs some thousand small rows at most, not one per member before it.
//!
//! Invariants: the first chunk begins at the lowest position, so every member lies in exactly one;
//! each count is the number of members from its chunk's position up to the next chunk's; only the
//! first may be empty. Chunks split when they grow over [`chunk_max`] and join a neighbour when
//! they shrink far below. A plan is made from reads alone; its rows are absolute.

use std::{collections::BTreeMap, ops::ControlFlow};

use holdfast_base::{key, key::MemberKind, varint};

use super::{Change, Set, position::Position, position::Span};
use crate::{OpError, Txn, op_error::corrupt_row};

/// Members above which a chunk splits, in a set of `count`. A rank reads up to all chunk rows and
/// the members of one chunk: their sum is least where a chunk has about the square root of `count`.
pub(super) fn chunk_max(count: u64) -> u64 {
    (2 * count.isqrt()).max(512)
}

/// A stretch of the order with its count of members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    pub start: Position,
    pub count: u64,
}

/// Visits the chunks that begin within the span.
pub(super) fn walk(
    txn: &mut Txn<'_>,
    set: &Set,
    span: &Span,
    reverse: bool,
    mut visit: impl FnMut(Chunk) -> ControlFlow<()>,
) -> Result<(), OpError> {
    let mut damaged = None;
    let (from, to) = set.rows(MemberKind::RankChunk, span);
    txn.scan((&from, &to), reverse, |row, mut stored| {
        let count = varint::take_u64(&mut stored);
        let (Some((score, member)), Some(count)) = (key::parse_scored(row), count) else {
            damaged = Some(row.to_vec());
            return ControlFlow::Break(());
        };
        visit(Chunk { start: Position::of(score, member), count })
    })?;
    damaged.map_or(Ok(()), |row| Err(corrupt_row(&row, "the rank chunk")))
}

/// The chunk that the position lies in.
pub(super) fn holding(txn: &mut Txn<'_>, set: &Set, position: &Position) -> Result<Chunk, OpError> {
    let span = Span { from: Position::lowest(), to: Some(position.clone().next()) };
    let mut found = None;
    walk(txn, set, &span, true, |chunk| {
        found = Some(chunk);
        ControlFlow::Break(())
    })?;
    found.ok_or_else(|| no_chunk(set))
}

/// Where the first chunk after this one's start begins.
pub(super) fn end_of(
    txn: &mut Txn<'_>,
    set: &Set,
    start: &Position,
) -> Result<Option<Position>, OpError> {
    let mut end = None;
    walk(txn, set, &Span { from: start.clone().next(), to: None }, false, |chunk| {
        end = Some(chunk.start);
        ControlFlow::Break(())
    })?;
    Ok(end)
}

pub(super) fn no_chunk(set: &Set) -> OpError {
    let (row, _) = set.rows(MemberKind::RankChunk, &Span::all());
    corrupt_row(&row, "the rank chunk")
}

/// Chunk rows that a change writes: new counts by start, `None` where the row goes.
#[derive(Default, Debug)]
pub(super) struct Plan(pub BTreeMap<Position, Option<u64>>);

/// A member that comes to a position or leaves it.
struct Move {
    position: Position,
    comes: bool,
}

/// What becomes of the chunks when the changes are made to a set that then has `count` members.
pub(super) fn plan(
    txn: &mut Txn<'_>,
    set: &Set,
    count: u64,
    changes: &[Change<'_>],
) -> Result<Plan, OpError> {
    let at = |change: &Change<'_>, score: Option<f64>, comes| {
        score.map(|score| Move { position: Position::of(score, change.member), comes })
    };
    let mut moves: Vec<Move> = changes
        .iter()
        .flat_map(|change| [at(change, change.old, false), at(change, change.new, true)])
        .flatten()
        .collect();
    moves.sort_unstable_by(|a, b| a.position.cmp(&b.position));
    let mut plan = Plan::default();
    let mut small = Vec::new();
    let mut rest = &moves[..];
    while let Some(first) = rest.first() {
        let chunk = match set.count {
            0 => Chunk { start: Position::lowest(), count: 0 },
            _ => holding(txn, set, &first.position)?,
        };
        let end = match set.count {
            0 => None,
            // One move needs no end; that a chunk holds it is known.
            _ if rest.len() == 1 => None,
            _ => end_of(txn, set, &chunk.start)?,
        };
        let here = end.map_or(rest.len(), |end| rest.partition_point(|m| m.position < end));
        let (here, later) = rest.split_at(here.max(1));
        rest = later;
        let coming = here.iter().filter(|m| m.comes).count() as u64;
        let leaving = here.len() as u64 - coming;
        let after =
            chunk.count.saturating_add(coming).checked_sub(leaving).ok_or_else(|| no_chunk(set))?;
        if coming > leaving && after > chunk_max(count) {
            plan.split(txn, set, &chunk, here, chunk_max(count))?;
        } else if after == 0 && chunk.start != Position::lowest() {
            plan.0.insert(chunk.start, None);
        } else if coming != leaving {
            if after < chunk_max(count) / 8 && leaving > coming {
                small.push(chunk.start.clone());
            }
            plan.0.insert(chunk.start, Some(after));
        }
    }
    for start in small {
        plan.join(txn, set, &start, chunk_max(count) * 3 / 4)?;
    }
    Ok(plan)
}

impl Plan {
    /// Cuts a chunk, as it will be after `moves`, into pieces filled to three quarters at most.
    fn split(
        &mut self,
        txn: &mut Txn<'_>,
        set: &Set,
        chunk: &Chunk,
        moves: &[Move],
        max: u64,
    ) -> Result<(), OpError> {
        let mut members = Vec::new();
        if set.count > 0 {
            let to = end_of(txn, set, &chunk.start)?;
            set.walk(txn, &Span { from: chunk.start.clone(), to }, false, |score, member| {
                members.push(Position::of(score, member));
                ControlFlow::Continue(())
            })?;
            if members.len() as u64 != chunk.count {
                return Err(no_chunk(set));
            }
            members.retain(|at| moves.binary_search_by(|m| m.position.cmp(at)).is_err());
        }
        members.extend(moves.iter().filter(|m| m.comes).map(|m| m.position.clone()));
        members.sort_unstable();
        let pieces = members.len().div_ceil((max * 3 / 4) as usize).max(1);
        let cut = |piece: usize| members.len() * piece / pieces;
        for piece in 0..pieces {
            let start = match members.get(cut(piece)) {
                Some(first) if piece > 0 => first,
                _ => &chunk.start,
            };
            let count = (cut(piece + 1) - cut(piece)) as u64;
            self.0.insert(start.clone(), Some(count));
        }
        Ok(())
    }

    /// Joins a small chunk with the one before or after it, if they have at most `max` together.
    fn join(
        &mut self,
        txn: &mut Txn<'_>,
        set: &Set,
        start: &Position,
        max: u64,
    ) -> Result<(), OpError> {
        let Some(&Some(count)) = self.0.get(start) else { return Ok(()) };
        if let Some(before) = self.neighbour(txn, set, start, true)?
            && before.count.saturating_add(count) <= max
        {
            self.0.insert(before.start, Some(before.count + count));
            self.0.insert(start.clone(), None);
        } else if let Some(after) = self.neighbour(txn, set, start, false)?
            && after.count.saturating_add(count) <= max
        {
            self.0.insert(start.clone(), Some(after.count + count));
            self.0.insert(after.start, None);
        }
        Ok(())
    }

    /// The nearest chunk before or after a start, stored or planned.
    fn neighbour(
        &self,
        txn: &mut Txn<'_>,
        set: &Set,
        start: &Position,
        before: bool,
    ) -> Result<Option<Chunk>, OpError> {
        let span = match before {
            true => Span { from: Position::lowest(), to: Some(start.clone()) },
            false => Span { from: start.clone().next(), to: None },
        };
        let mut stored = None;
        walk(txn, set, &span, before, |chunk| {
            if self.0.contains_key(&chunk.start) {
                return ControlFlow::Continue(());
            }
            stored = Some(chunk);
            ControlFlow::Break(())
        })?;
        let kept = |(start, count): (&Position, &Option<u64>)| {
            count.map(|count| Chunk { start: start.clone(), count })
        };
        let planned = match before {
            true => self.0.range(..start).rev().find_map(kept),
            false => self.0.range(span.from..).find_map(kept),
        };
        Ok(match (stored, planned) {
            (Some(stored), Some(planned)) => {
                let nearer = (stored.start > planned.start) == before;
                Some(if nearer { stored } else { planned })
            }
            (stored, planned) => stored.or(planned),
        })
    }
}
