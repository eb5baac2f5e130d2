//! The overlay: rows that are staged but not yet in the engine, newest version of each. Heads are
//! not here: they stand in the row cache, staged or not (`row_cache.rs`).
//!
//! Guarantees: a lookup sees every staged record; a row leaves only when the record that wrote its
//! newest version has been applied. On a failed append the overlay is dropped whole, not undone.
//! Rows lie in many small ordered parts, so that staging does not search through everything that is
//! staged; all rows of a collection share a part, so that its ranges stay ordered.

use std::{collections::BTreeMap, ops::Bound};

use holdfast_base::{Lsn, SharedBytes, key};

/// A staged row: which record wrote it and what it holds (`None`: gone).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StagedRow {
    /// The record.
    pub lsn: Lsn,
    /// Its value.
    pub value: Option<SharedBytes>,
}

/// Staged rows in key order.
pub(crate) type StagedRows = BTreeMap<SharedBytes, StagedRow>;

/// Parts of the overlay: about one row in each when the applier keeps up.
const PARTS: usize = 8192;

/// All staged rows of a shard.
#[derive(Debug)]
pub(crate) struct Overlay {
    parts: Box<[StagedRows]>,
    len: usize,
}

impl Default for Overlay {
    fn default() -> Self {
        Overlay { parts: (0..PARTS).map(|_| StagedRows::new()).collect(), len: 0 }
    }
}

/// Two bytes of the row's key that are spread evenly: of a member its collection's number, of other
/// rows the end of the key.
fn part(row: &[u8]) -> usize {
    let at = match row.first() {
        Some(&family) if family == key::Family::Member as u8 => COLLECTION_BYTES - 2,
        _ => row.len().saturating_sub(2),
    };
    let bytes = row.get(at..at + 2).and_then(|two| two.try_into().ok()).unwrap_or_default();
    usize::from(u16::from_be_bytes(bytes)) % PARTS
}

/// Bytes of a member row's key that name its collection: family, slot, collection.
const COLLECTION_BYTES: usize = 1 + 2 + 8;

/// The part that holds the whole range, if one does: the range lies within a collection.
fn common_part(from: &[u8], to: &[u8]) -> Option<usize> {
    let collection = from.get(..COLLECTION_BYTES)?;
    let within = collection.first() == Some(&(key::Family::Member as u8))
        && (to.starts_with(collection) || key::after_prefix(collection).as_deref() == Some(to));
    within.then(|| part(from))
}

impl Overlay {
    /// The newest staged version of a row.
    pub(crate) fn get(&self, row: &[u8]) -> Option<&StagedRow> {
        self.parts[part(row)].get(row)
    }

    /// Stages a row; a later version replaces an earlier one.
    pub(crate) fn insert(&mut self, key: SharedBytes, row: StagedRow) {
        let added = self.parts[part(&key)].insert(key, row).is_none();
        self.len += usize::from(added);
    }

    /// The record has been applied: its rows leave unless a later record changed them again.
    pub(crate) fn remove_applied<'a>(
        &mut self,
        lsn: Lsn,
        keys: impl IntoIterator<Item = &'a SharedBytes>,
    ) {
        for key in keys {
            let rows = &mut self.parts[part(key)];
            if rows.get(key).is_some_and(|row| row.lsn <= lsn) {
                rows.remove(key);
                self.len -= 1;
            }
        }
    }

    /// Staged rows in `from..to`, in order. An empty `to` is the end. A range beyond one collection
    /// looks through all parts.
    pub(crate) fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&'a SharedBytes, &'a StagedRow)> + use<'a> {
        let mut gathered = Vec::new();
        let one = common_part(from, to).map(|part| range_of(&self.parts[part], from, to));
        if one.is_none() && self.len > 0 {
            gathered.extend(self.parts.iter().flat_map(|rows| range_of(rows, from, to)));
            gathered.sort_unstable_by_key(|(key, _)| *key);
        }
        one.into_iter().flatten().chain(gathered)
    }

    /// Rows staged.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        if self.len > 0 {
            self.parts.iter_mut().for_each(BTreeMap::clear);
            self.len = 0;
        }
    }
}

/// Entries in `from..to`, in order. An empty `to` is the end.
pub(crate) fn range_of<'a, V>(
    rows: &'a BTreeMap<SharedBytes, V>,
    from: &[u8],
    to: &[u8],
) -> impl DoubleEndedIterator<Item = (&'a SharedBytes, &'a V)> + use<'a, V> {
    let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
    // An inverted or empty range panics in the standard library: ask for nothing instead.
    let sensible = to.is_empty() || from < to;
    let rows = sensible.then(|| rows.range::<[u8], _>((Bound::Included(from), end)));
    rows.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_base::{CollectionId, Slot};

    fn row(lsn: u64) -> StagedRow {
        StagedRow { lsn: Lsn(lsn), value: None }
    }

    #[test]
    fn a_row_stays_until_its_newest_version_is_applied() {
        let mut overlay = Overlay::default();
        let key = SharedBytes::from(&b"k"[..]);
        overlay.insert(key.clone(), row(1));
        overlay.insert(key.clone(), row(2));
        overlay.remove_applied(Lsn(1), [&key]);
        assert_eq!(overlay.get(b"k").map(|row| row.lsn), Some(Lsn(2)));
        overlay.remove_applied(Lsn(2), [&key]);
        assert_eq!(overlay.len(), 0);
    }

    #[test]
    fn empty_and_inverted_ranges_hold_nothing() {
        let mut overlay = Overlay::default();
        overlay.insert((&b"b"[..]).into(), row(1));
        assert_eq!(overlay.range(b"b", b"b").count(), 0);
        assert_eq!(overlay.range(b"c", b"a").count(), 0);
        assert_eq!(overlay.range(b"a", b"").count(), 1);
    }

    #[test]
    fn ranges_are_ordered_within_a_collection_and_over_all_of_them() {
        let mut overlay = Overlay::default();
        let mut all = StagedRows::new();
        let mut members = StagedRows::new();
        for i in 0..500u64 {
            let hash = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
            let mut other = Vec::new();
            key::member(&mut other, Slot((i % 7) as u16), CollectionId(i + 10), hash, b"m");
            all.insert(other.into(), row(i));
            let mut member = Vec::new();
            key::member(&mut member, Slot(3), CollectionId(9), hash, b"m");
            members.insert(member.into(), row(i));
        }
        all.extend(members.iter().map(|(key, row)| (key.clone(), row.clone())));
        for (key, row) in &all {
            overlay.insert(key.clone(), row.clone());
        }
        let mut collection = Vec::new();
        key::collection(&mut collection, Slot(3), CollectionId(9));
        let end = key::after_prefix(&collection).unwrap_or_default();
        assert!(common_part(&collection, &end).is_some());
        assert!(overlay.range(&collection, &end).eq(members.iter()));
        assert!(overlay.range(&collection, &end).rev().eq(members.iter().rev()));
        let (from, to) = ([key::Family::Member as u8], [key::Family::Member as u8 + 1]);
        assert!(overlay.range(&from, &to).eq(all.iter()));
    }
}
