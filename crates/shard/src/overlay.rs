//! The overlay: rows that are staged but not yet in the engine, newest version of each.
//!
//! Guarantees: a lookup sees every staged record; a row leaves only when the record that wrote its
//! newest version has been applied. On a failed append the overlay is dropped whole, not undone.

use std::collections::BTreeMap;

use holdfast_base::{Lsn, SharedBytes};

use crate::view::range_of;

/// A staged row: which record wrote it and what it holds (`None`: gone).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StagedRow {
    /// The record.
    pub lsn: Lsn,
    /// Its value.
    pub value: Option<SharedBytes>,
}

/// Staged rows in key order.
#[derive(Clone, Default, Debug)]
pub struct Overlay {
    rows: BTreeMap<SharedBytes, StagedRow>,
}

impl Overlay {
    /// The newest staged version of a row.
    pub fn get(&self, key: &[u8]) -> Option<&StagedRow> {
        self.rows.get(key)
    }

    /// Stages a row; a later version replaces an earlier one.
    pub fn insert(&mut self, key: SharedBytes, row: StagedRow) {
        self.rows.insert(key, row);
    }

    /// The record has been applied: its rows leave unless a later record changed them again.
    pub fn remove_applied<'a>(
        &mut self,
        lsn: Lsn,
        keys: impl IntoIterator<Item = &'a SharedBytes>,
    ) {
        for key in keys {
            if self.rows.get(key).is_some_and(|row| row.lsn <= lsn) {
                self.rows.remove(key);
            }
        }
    }

    /// Staged rows in `from..to`, in order. An empty `to` is the end.
    pub fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&'a SharedBytes, &'a StagedRow)> + use<'a> {
        range_of(&self.rows, from, to)
    }

    /// Rows staged.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nothing is staged.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.rows.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stays_until_its_newest_version_is_applied() {
        let mut overlay = Overlay::default();
        let key = SharedBytes::from(&b"k"[..]);
        overlay.insert(key.clone(), StagedRow { lsn: Lsn(1), value: None });
        overlay.insert(key.clone(), StagedRow { lsn: Lsn(2), value: Some(key.clone()) });
        overlay.remove_applied(Lsn(1), [&key]);
        assert_eq!(overlay.get(b"k").map(|row| row.lsn), Some(Lsn(2)));
        overlay.remove_applied(Lsn(2), [&key]);
        assert!(overlay.is_empty());
    }

    #[test]
    fn empty_and_inverted_ranges_hold_nothing() {
        let mut overlay = Overlay::default();
        overlay.insert((&b"b"[..]).into(), StagedRow { lsn: Lsn(1), value: None });
        assert_eq!(overlay.range(b"b", b"b").count(), 0);
        assert_eq!(overlay.range(b"c", b"a").count(), 0);
        assert_eq!(overlay.range(b"a", b"").count(), 1);
    }
}
