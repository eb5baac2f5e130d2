//! Rows that one record writes: read back by the op that writes them, then staged.
//!
//! Most records write one row or two, so a few rows lie in a short ordered list, which becomes the
//! staged record's own; a large transaction's rows lie in a map.

use std::collections::BTreeMap;

use holdfast_base::SharedBytes;

use crate::overlay::range_of;

/// Rows that are kept in the list.
const FEW: usize = 8;

/// What becomes of a row, and the bucket of the key that it belongs to, if it belongs to one.
#[derive(Clone, Debug)]
pub(crate) struct WrittenRow {
    pub key: SharedBytes,
    pub value: Option<SharedBytes>,
    pub bucket: Option<u16>,
}

/// See the module's head.
#[derive(Default, Debug)]
pub(crate) struct Written {
    /// In order; empty as soon as there are many.
    few: Vec<WrittenRow>,
    many: BTreeMap<SharedBytes, WrittenRow>,
}

impl Written {
    /// What the row becomes, if it is written.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&WrittenRow> {
        match self.place(key) {
            Ok(at) => self.few.get(at),
            Err(_) => self.many.get(key),
        }
    }

    /// Writes a row; the last version counts.
    pub(crate) fn insert(&mut self, row: WrittenRow) {
        if !self.many.is_empty() {
            self.many.insert(row.key.clone(), row);
            return;
        }
        match self.place(&row.key) {
            Ok(at) => self.few[at] = row,
            Err(at) => self.few.insert(at, row),
        }
        if self.few.len() > FEW {
            self.many.extend(self.few.drain(..).map(|row| (row.key.clone(), row)));
        }
    }

    /// The rows of `from..to` in order; an empty `to` is the end.
    pub(crate) fn range<'a>(
        &'a self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = &'a WrittenRow> + use<'a> {
        let first = self.few.partition_point(|row| row.key[..] < *from);
        let end = self.few.partition_point(|row| to.is_empty() || row.key[..] < *to);
        let few = self.few.get(first..end).unwrap_or_default();
        few.iter().chain(range_of(&self.many, from, to).map(|(_, row)| row))
    }

    /// All rows in order.
    pub(crate) fn into_rows(self) -> Vec<WrittenRow> {
        if self.many.is_empty() { self.few } else { self.many.into_values().collect() }
    }

    fn place(&self, key: &[u8]) -> Result<usize, usize> {
        self.few.binary_search_by(|row| row.key[..].cmp(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn few_or_many_rows_are_a_map(
            rows in prop::collection::vec((0..30u8, any::<u8>()), 0..40),
            range in (0..30u8, 0..30u8),
        ) {
            let (mut written, mut model) = (Written::default(), BTreeMap::new());
            for (key, value) in rows {
                let key = SharedBytes::from(&[key][..]);
                let value = Some(SharedBytes::from(&[value][..]));
                written.insert(WrittenRow { key: key.clone(), value: value.clone(), bucket: None });
                model.insert(key, value);
            }
            for key in 0..30u8 {
                let found = written.get(&[key]).map(|row| &row.value);
                prop_assert_eq!(found, model.get(&[key][..]));
            }
            let (from, to) = ([range.0], [range.1]);
            let expected: Vec<_> = range_of(&model, &from, &to).map(|(key, _)| key).collect();
            prop_assert!(written.range(&from, &to).map(|row| &row.key).eq(expected.iter().copied()));
            prop_assert!(written.range(&from, &to).rev().map(|row| &row.key).eq(expected.into_iter().rev()));
            let rows = written.into_rows();
            prop_assert!(rows.iter().map(|row| (&row.key, &row.value)).eq(&model));
        }
    }
}
