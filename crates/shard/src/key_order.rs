//! Rows in key order, each once, as the last record left it: the engine's memtable takes them at half the
//! cost.

/// The rows of records that follow each other, in key order; of several versions of a row the last.
pub(crate) fn newest_in_key_order<R: Copy>(
    rows: impl Iterator<Item = R>,
    key: impl Fn(&R) -> &[u8],
) -> Vec<R> {
    let mut ordered: Vec<_> = rows.map(|row| (beginning(key(&row)), row)).collect();
    // Stable: versions of a row stay in order.
    ordered.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| key(one).cmp(key(other))));
    let mut newest: Vec<R> = Vec::with_capacity(ordered.len());
    for (_, row) in ordered {
        match newest.last_mut() {
            Some(last) if key(last) == key(&row) => *last = row,
            _ => newest.push(row),
        }
    }
    newest
}

/// The first 16 bytes of a row key, as they sort: they tell most rows apart without a look at the key itself.
fn beginning(key: &[u8]) -> u128 {
    let mut first = [0; 16];
    let len = key.len().min(first.len());
    first[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_order_and_the_last_version_stays() {
        let long = b"a key that is longer than sixteen bytes";
        let rows: [(&[u8], u32); 6] =
            [(b"b", 1), (long, 2), (b"a", 3), (b"b", 4), (&long[..20], 5), (b"", 6)];
        let newest = newest_in_key_order(rows.into_iter(), |row| row.0);
        let expected: [(&[u8], u32); 5] =
            [(b"", 6), (b"a", 3), (&long[..20], 5), (long, 2), (b"b", 4)];
        assert_eq!(newest, expected);
    }
}
