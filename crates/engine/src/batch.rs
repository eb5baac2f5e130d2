//! A batch: puts, deletes and range deletes that an engine applies all or not at all, in order.
//!
//! Keys and values lie one behind the other in one buffer, so that filling a batch costs no
//! allocation per operation and [`Batch::clear`] keeps the memory for the next one. The layout is
//! private and never stored. A batch checks nothing and bounds nothing: its owner does.

/// An ordered list of changes. Later operations win over earlier ones on the same key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    ops: Vec<Shape>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Delete,
    DeleteRange,
}

/// One operation's kind and the lengths of its two parts within `Batch::bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    kind: Kind,
    first: usize,
    second: usize,
}

/// One operation of a [`Batch`], borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchOp<'a> {
    /// Sets a key to a value.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
    },
    /// Removes a key; removing an absent key is no error.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Removes all keys in `from..to`.
    DeleteRange {
        /// The first key that goes.
        from: &'a [u8],
        /// The first key behind it that stays.
        to: &'a [u8],
    },
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.push(Kind::Put, key, value);
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: &[u8]) {
        self.push(Kind::Delete, key, &[]);
    }

    /// Removes all keys in `from..to`. An empty or inverted range adds nothing.
    pub fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        if from < to {
            self.push(Kind::DeleteRange, from, to);
        }
    }

    /// Forgets all operations and keeps the memory.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.bytes.clear();
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is no operation.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The operations in order.
    pub fn iter(&self) -> BatchIter<'_> {
        BatchIter { ops: self.ops.iter(), bytes: &self.bytes }
    }

    fn push(&mut self, kind: Kind, first: &[u8], second: &[u8]) {
        self.ops.push(Shape { kind, first: first.len(), second: second.len() });
        self.bytes.extend_from_slice(first);
        self.bytes.extend_from_slice(second);
    }
}

/// Iterator over the operations of a [`Batch`].
#[derive(Clone, Debug)]
pub struct BatchIter<'a> {
    ops: std::slice::Iter<'a, Shape>,
    bytes: &'a [u8],
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = BatchOp<'a>;

    fn next(&mut self) -> Option<BatchOp<'a>> {
        let shape = self.ops.next()?;
        let (first, rest) = self.bytes.split_at(shape.first);
        let (second, rest) = rest.split_at(shape.second);
        self.bytes = rest;
        Some(match shape.kind {
            Kind::Put => BatchOp::Put { key: first, value: second },
            Kind::Delete => BatchOp::Delete { key: first },
            Kind::DeleteRange => BatchOp::DeleteRange { from: first, to: second },
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ops.size_hint()
    }
}

impl ExactSizeIterator for BatchIter<'_> {}

impl<'a> IntoIterator for &'a Batch {
    type Item = BatchOp<'a>;
    type IntoIter = BatchIter<'a>;

    fn into_iter(self) -> BatchIter<'a> {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_back_in_order_and_clear_empties() {
        let mut batch = Batch::new();
        batch.put(b"k", b"value");
        batch.delete(b"");
        batch.delete_range(b"a", b"b");
        batch.delete_range(b"b", b"b");
        batch.delete_range(b"c", b"b");
        let want = [
            BatchOp::Put { key: b"k", value: b"value" },
            BatchOp::Delete { key: b"" },
            BatchOp::DeleteRange { from: b"a", to: b"b" },
        ];
        assert_eq!(batch.iter().collect::<Vec<_>>(), want);
        assert_eq!((batch.len(), batch.bytes()), (3, 8));
        batch.clear();
        assert!(batch.is_empty() && batch.bytes() == 0 && batch.iter().next().is_none());
    }
}
