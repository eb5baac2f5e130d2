//! The members of one hash or set: what the head says of them, and their rows in hash order.
//!
//! A `Members` lives as long as one op. The op reads, decides, changes rows by [`Members::put`] and
//! [`Members::remove`], and ends with one [`Members::put_head`], without which pinned readers would
//! not see what it staged. Sorted sets have rows of their own and do not pass here.

use std::{collections::BTreeSet, ops::ControlFlow};

use holdfast_base::{
    CollectionId, DeleteReason, Effect, Head, Kind, Payload, SharedBytes,
    key::{self, HASH_BITS, MemberKind},
    limits::{COLLECTION_COUNT_MAX, MEMBER_BYTES_MAX},
};

use crate::{KeyRef, OpError, Txn, op_error::corrupt_row};

/// See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    kind: Kind,
    id: CollectionId,
    deadline_ms: Option<u64>,
    pub(crate) count: u64,
    bytes: u64,
}

impl Members {
    /// Those of the key; `None` if it does not exist. A key of another kind is refused.
    pub(crate) fn find(
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        kind: Kind,
    ) -> Result<Option<Members>, OpError> {
        let Some(stored) = txn.head_of(key, kind)? else { return Ok(None) };
        match stored.head() {
            Head { deadline_ms, payload: Payload::Collection { kind, id, count, bytes } } => {
                Ok(Some(Members { kind, id, deadline_ms, count, bytes }))
            }
            _ => Err(corrupt_row(&key.row, "the head")),
        }
    }

    /// Those of the key, or none yet in a new collection.
    pub(crate) fn find_or_new(
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        kind: Kind,
    ) -> Result<Members, OpError> {
        Ok(Self::find(txn, key, kind)?.unwrap_or_else(|| {
            let id = txn.new_collection();
            Members { kind, id, deadline_ms: None, count: 0, bytes: 0 }
        }))
    }

    // ---- reads -------------------------------------------------------------------------------

    /// The value of one member (empty in a set); `None` if it is absent.
    pub(crate) fn get(
        &self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        name: &[u8],
    ) -> Result<Option<SharedBytes>, OpError> {
        if self.count == 0 || name.len() > MEMBER_BYTES_MAX {
            return Ok(None);
        }
        let mut row = Vec::with_capacity(key::COLLECTION_KIND_BYTES + 6 + name.len());
        key::member(&mut row, key.slot, self.id, txn.member_hash(name), name);
        txn.row(&row, key.bucket())
    }

    /// The values of several members. Rows that are not in memory are named all at once, so that
    /// the op is tried twice, not once for each of them.
    pub(crate) fn get_many<'m>(
        &self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        names: impl IntoIterator<Item = &'m [u8]>,
    ) -> Result<Vec<Option<SharedBytes>>, OpError> {
        let mut found = Vec::new();
        let mut missed = Vec::new();
        for name in names {
            match self.get(txn, key, name) {
                Ok(row) => found.push(row),
                Err(OpError::Miss(rows)) => missed.extend(rows),
                Err(error) => return Err(error),
            }
        }
        if missed.is_empty() { Ok(found) } else { Err(OpError::Miss(missed)) }
    }

    /// Visits members from a hash position on: position, name, value.
    pub(crate) fn visit_from(
        &self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        position: u64,
        mut each: impl FnMut(u64, &[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), OpError> {
        let (mut from, mut kind) = (Vec::new(), Vec::new());
        key::member_position(&mut from, key.slot, self.id, position);
        key::collection_kind(&mut kind, key.slot, self.id, MemberKind::ByHash);
        let to = key::after_prefix(&kind).unwrap_or_default();
        let mut damaged = None;
        txn.scan((&from, &to), false, |row, value| match key::parse_member(row) {
            Some((hash, name)) => each(hash, name, value),
            None => {
                damaged = Some(corrupt_row(row, "the key"));
                ControlFlow::Break(())
            }
        })?;
        damaged.map_or(Ok(()), Err)
    }

    /// Visits all members; gives how many, which is what the head says or an error.
    pub(crate) fn visit_all(
        &self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<u64, OpError> {
        let mut seen = 0;
        self.visit_from(txn, key, 0, |_, name, value| {
            each(name, value);
            seen += 1;
            ControlFlow::Continue(())
        })?;
        if seen == self.count { Ok(seen) } else { Err(self.wrong_count(key)) }
    }

    /// Visits about `count` members from a cursor on and gives the next cursor: the position of the
    /// first member not visited, 0 at the end. Members at one position are never parted, or a
    /// cursor between them would lose some.
    pub(crate) fn step(
        &self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        cursor: u64,
        count: usize,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<u64, OpError> {
        if cursor >> HASH_BITS != 0 {
            return Ok(0);
        }
        let (mut seen, mut last, mut next) = (0, None, 0);
        self.visit_from(txn, key, cursor, |position, name, value| {
            // At least one member was visited before, so this position is not 0.
            if seen >= count.max(1) && last != Some(position) {
                next = position;
                return ControlFlow::Break(());
            }
            last = Some(position);
            seen += 1;
            each(name, value);
            ControlFlow::Continue(())
        })?;
        Ok(next)
    }

    // ---- changes -----------------------------------------------------------------------------

    /// Refuses `more` members above what a collection may hold.
    pub(crate) fn check_room(&self, more: u64) -> Result<(), OpError> {
        if self.count.saturating_add(more) > COLLECTION_COUNT_MAX {
            return Err(OpError::TooLarge("a hash or set holds at most 4,294,967,295 members"));
        }
        Ok(())
    }

    /// Writes a member. `old` is its value before.
    pub(crate) fn put(
        &mut self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        (name, value): (&[u8], &[u8]),
        old: Option<&[u8]>,
    ) -> Result<(), OpError> {
        let id = self.id;
        let effect = match self.kind {
            Kind::Hash => Effect::PutField { id, field: name, value },
            _ => Effect::PutMember { id, member: name },
        };
        match old {
            Some(old) => self.forget_bytes(key, old.len())?,
            None => {
                self.count += 1;
                self.bytes += name.len() as u64;
            }
        }
        self.bytes += value.len() as u64;
        txn.push(key, &effect)
    }

    /// Removes these members with the values they have. The last of all takes the collection with
    /// it, whose rows are swept, so none of them is logged.
    pub(crate) fn remove<'m>(
        &mut self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        gone: impl ExactSizeIterator<Item = (&'m [u8], usize)>,
    ) -> Result<(), OpError> {
        let id = self.id;
        let left = self.count.checked_sub(gone.len() as u64);
        self.count = left.ok_or_else(|| self.wrong_count(key))?;
        for (name, value_len) in gone {
            self.forget_bytes(key, name.len() + value_len)?;
            if self.count > 0 {
                let effect = match self.kind {
                    Kind::Hash => Effect::DeleteField { id, field: name },
                    _ => Effect::DeleteMember { id, member: name },
                };
                txn.push(key, &effect)?;
            }
        }
        Ok(())
    }

    /// Removes those of these members that there are; gives how many. Ends the op.
    pub(crate) fn remove_named(
        mut self,
        txn: &mut Txn<'_>,
        key: &KeyRef<'_>,
        names: &[&[u8]],
    ) -> Result<u64, OpError> {
        let names: BTreeSet<&[u8]> = names.iter().copied().collect();
        let values = self.get_many(txn, key, names.iter().copied())?;
        let present = names.iter().zip(&values);
        let gone: Vec<_> =
            present.filter_map(|(name, value)| Some((*name, value.as_ref()?.len()))).collect();
        if !gone.is_empty() {
            self.remove(txn, key, gone.iter().copied())?;
            self.put_head(txn, key)?;
        }
        Ok(gone.len() as u64)
    }

    /// Removes the key with all its members. Ends the op.
    pub(crate) fn remove_all(self, txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<(), OpError> {
        txn.put_head(key, None, DeleteReason::Removed)
    }

    /// Writes the head as the changes have left it: gone with the last member. Ends the op.
    pub(crate) fn put_head(self, txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<(), OpError> {
        if self.count == 0 {
            return self.remove_all(txn, key);
        }
        let Members { kind, id, deadline_ms, count, bytes } = self;
        let payload = Payload::Collection { kind, id, count, bytes };
        txn.put_head(key, Some(Head { deadline_ms, payload }), DeleteReason::Removed)
    }

    fn forget_bytes(&mut self, key: &KeyRef<'_>, bytes: usize) -> Result<(), OpError> {
        let left = self.bytes.checked_sub(bytes as u64);
        self.bytes = left.ok_or_else(|| self.wrong_count(key))?;
        Ok(())
    }

    /// The head and the rows disagree.
    pub(crate) fn wrong_count(&self, key: &KeyRef<'_>) -> OpError {
        corrupt_row(&key.row, "the count of members")
    }
}

/// Refuses names that are too long to stand in a row's key.
pub(crate) fn check_name(name: &[u8]) -> Result<(), OpError> {
    if name.len() > MEMBER_BYTES_MAX {
        return Err(OpError::TooLarge("a hash field or set member is at most 64 KiB long"));
    }
    Ok(())
}
