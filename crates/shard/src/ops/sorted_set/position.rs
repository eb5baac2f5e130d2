//! Positions in the order of a sorted set: by score, then by member. Their bytes sort as they do.
//!
//! A position is what follows the prefix in a score row's or a rank chunk's key; it need not be a
//! member's. A `Span` is the stretch between two positions, the first included.

use std::ops::Bound;

use holdfast_base::key;

/// A place in the order of a sorted set.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Position(Vec<u8>);

impl Position {
    pub(super) fn of(score: f64, member: &[u8]) -> Position {
        let mut bytes = Vec::with_capacity(8 + member.len());
        bytes.extend_from_slice(&key::sortable_score(score));
        bytes.extend_from_slice(member);
        Position(bytes)
    }

    /// Below or at every member's: where the first rank chunk begins.
    pub(super) fn lowest() -> Position {
        Position::of(f64::NEG_INFINITY, b"")
    }

    /// The next position; nothing lies between the two.
    pub(super) fn next(mut self) -> Position {
        self.0.push(0);
        self
    }

    /// Above every member with this score.
    fn after_score(score: f64) -> Position {
        let sortable = u64::from_be_bytes(key::sortable_score(score));
        // The highest score, +inf, sorts well below the last number of 64 bits.
        Position(sortable.saturating_add(1).to_be_bytes().to_vec())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Score and member. Positions made by [`Self::after_score`] have any score; others have theirs.
    pub(super) fn parts(&self) -> (f64, &[u8]) {
        match self.0.split_first_chunk::<8>() {
            Some((score, member)) => (key::score_of_sortable(*score), member),
            None => (f64::NEG_INFINITY, &[]),
        }
    }
}

/// The positions `from..to`; without `to`, to the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub from: Position,
    pub to: Option<Position>,
}

impl Span {
    pub(super) fn all() -> Span {
        Span { from: Position::lowest(), to: None }
    }

    pub(super) fn of_scores(min: Bound<f64>, max: Bound<f64>) -> Span {
        let from = match min {
            Bound::Included(score) => Position::of(score, b""),
            Bound::Excluded(score) => Position::after_score(score),
            Bound::Unbounded => Position::lowest(),
        };
        let to = match max {
            Bound::Included(score) => Some(Position::after_score(score)),
            Bound::Excluded(score) => Some(Position::of(score, b"")),
            Bound::Unbounded => None,
        };
        Span { from, to }
    }

    /// Members by their bytes, where the first of the set has the score `low` and the last `high`:
    /// the same, or the order by member means nothing.
    pub(super) fn of_members(
        (min, low): (Bound<&[u8]>, f64),
        (max, high): (Bound<&[u8]>, f64),
    ) -> Span {
        let from = match min {
            Bound::Included(member) => Position::of(low, member),
            Bound::Excluded(member) => Position::of(low, member).next(),
            Bound::Unbounded => Position::lowest(),
        };
        let to = match max {
            Bound::Included(member) => Some(Position::of(high, member).next()),
            Bound::Excluded(member) => Some(Position::of(high, member)),
            Bound::Unbounded => None,
        };
        Span { from, to }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }
}
