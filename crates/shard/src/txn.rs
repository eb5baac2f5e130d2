//! One op, one transaction or one script at work: what it reads and the effects it has.
//!
//! A `Txn` reads through a view and sees its own writes. Effects are encoded once, as they will
//! stand in the log, and expanded to rows at once. Nothing happens to the shard until the core
//! stages the whole; dropping a `Txn` leaves no trace.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
};

use holdfast_base::{
    CollectionId, DeleteReason, Effect, Generation, Head, KeyHasher, KeyspaceId, Kind, Lsn,
    ShardId, SharedBytes, Slot, key,
    limits::KEYSPACES_MAX,
    row::{AppliedState, RowChange, RowExpander},
};
use smallvec::SmallVec;

use crate::{
    Buckets, OpError,
    core::is_head,
    op_error::corrupt_row,
    view::View,
    written::{Written, WrittenRow},
};

/// The current generation of every keyspace, and the record that began it.
///
/// A keyspace's first generation is its own number, so that no record is needed to use it.
#[derive(Debug)]
pub(crate) struct Generations(Box<[(AtomicU64, AtomicU64)]>);

impl Default for Generations {
    fn default() -> Self {
        let first = |id| (AtomicU64::new(u64::from(id)), AtomicU64::new(0));
        Generations((0..KEYSPACES_MAX).map(first).collect())
    }
}

/// The first generation that a flush may use: above every keyspace's own number.
pub(crate) const FIRST_FREE_GENERATION: Generation = Generation(KEYSPACES_MAX as u32);

impl Generations {
    /// Generation, and the position of the flush that began it (0: no flush since start).
    pub(crate) fn get(&self, keyspace: KeyspaceId) -> Option<(Generation, Lsn)> {
        let (generation, since) = self.0.get(usize::from(keyspace.0))?;
        // The position is stored first: whoever sees the generation sees its record too.
        let generation = Generation(generation.load(Ordering::Acquire) as u32);
        Some((generation, Lsn(since.load(Ordering::Acquire))))
    }

    pub(crate) fn set(&self, keyspace: KeyspaceId, generation: Generation, since: Lsn) {
        if let Some(entry) = self.0.get(usize::from(keyspace.0)) {
            entry.1.store(since.0, Ordering::Release);
            entry.0.store(u64::from(generation.0), Ordering::Release);
        }
    }
}

/// A key with everything that finds its rows, computed once an op.
#[derive(Clone, Debug)]
pub struct KeyRef<'k> {
    /// Its keyspace.
    pub keyspace: KeyspaceId,
    /// The user's key.
    pub key: &'k [u8],
    pub(crate) generation: Generation,
    pub(crate) slot: Slot,
    pub(crate) hash: u64,
    pub(crate) row: SharedBytes,
    /// The flush that the key's absence may rest on.
    pub(crate) flushed: Lsn,
}

impl<'k> KeyRef<'k> {
    pub(crate) fn new(
        generations: &Generations,
        hasher: &KeyHasher,
        keyspace: KeyspaceId,
        user_key: &'k [u8],
    ) -> KeyRef<'k> {
        KeyRef::at(hasher, keyspace, generations.get(keyspace).unwrap_or_default(), user_key)
    }

    fn at(
        hasher: &KeyHasher,
        keyspace: KeyspaceId,
        (generation, flushed): (Generation, Lsn),
        user_key: &'k [u8],
    ) -> KeyRef<'k> {
        let (slot, hash) = (Slot::of(user_key), hasher.hash48(user_key));
        let row = key::head_row(generation, slot, hash, user_key);
        KeyRef { keyspace, key: user_key, generation, slot, hash, row, flushed }
    }

    pub(crate) fn bucket(&self) -> u16 {
        Buckets::of(self.hash)
    }
}

/// A head as it is stored, checked to decode.
#[derive(Clone, Debug)]
pub struct StoredHead {
    row: SharedBytes,
    expired: bool,
}

impl StoredHead {
    /// Its content.
    pub fn head(&self) -> Head<'_> {
        Head::decode(&self.row).expect("Txn::stored_head decoded these bytes before")
    }
}

/// See the module's head.
pub struct Txn<'a> {
    pub(crate) view: View<'a>,
    shard: ShardId,
    hasher: &'a KeyHasher,
    generations: &'a Generations,
    now_ms: u64,
    pub(crate) next_collection: CollectionId,
    pub(crate) next_generation: Generation,
    pub(crate) observed: Lsn,
    pub(crate) pending: Pending,
    /// Heads read from the view; more than one stands for other reads too.
    heads_read: u32,
    /// Bytes that `scan` may still visit.
    scan_bytes_left: usize,
    /// State with every staged record, and the last of them; `None` in a read.
    staged: Option<(&'a AppliedState, Lsn)>,
    /// Keyspaces that this record has emptied.
    emptied: BTreeMap<KeyspaceId, Generation>,
}

/// What a `Txn` will have changed.
#[derive(Default, Debug)]
pub(crate) struct Pending {
    /// Encoded effects.
    pub effects: Vec<u8>,
    /// Rows, and what they become.
    pub written: Written,
    /// Head row of the key that the effects are about at their end.
    pub subject: Option<SharedBytes>,
    /// Change of keys and bytes by keyspace.
    pub usage: SmallVec<[(KeyspaceId, i64, i64); 1]>,
    /// Effects on the shard's own state.
    pub state: Vec<Effect<'static>>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }
}

impl<'a> Txn<'a> {
    pub(crate) fn new(
        view: View<'a>,
        (shard, hasher, generations): (ShardId, &'a KeyHasher, &'a Generations),
        now_ms: u64,
        scan_bytes_max: usize,
        staged: Option<(&'a AppliedState, Lsn)>,
    ) -> Txn<'a> {
        let (next_collection, next_generation) = staged
            .map_or_else(Default::default, |(state, _)| {
                (state.next_collection, state.next_generation)
            });
        Txn {
            view,
            shard,
            hasher,
            generations,
            now_ms,
            next_collection,
            next_generation,
            observed: Lsn::ZERO,
            pending: Pending::default(),
            heads_read: 0,
            scan_bytes_left: scan_bytes_max,
            staged,
            emptied: BTreeMap::new(),
        }
    }

    /// Shard time in milliseconds since 1970: the same for the whole record.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// A key of this shard.
    pub fn key<'k>(&self, keyspace: KeyspaceId, user_key: &'k [u8]) -> KeyRef<'k> {
        let (generation, flushed) = self.generation(keyspace);
        KeyRef::at(self.hasher, keyspace, (generation, flushed), user_key)
    }

    fn generation(&self, keyspace: KeyspaceId) -> (Generation, Lsn) {
        match self.emptied.get(&keyspace) {
            Some(generation) => (*generation, Lsn::ZERO),
            None => self.generations.get(keyspace).unwrap_or_default(),
        }
    }

    /// Keys of the keyspace, staged ones included. In a read that takes no lock: 0.
    pub fn keyspace_keys(&mut self, keyspace: KeyspaceId) -> u64 {
        let Some((state, last)) = self.staged else { return 0 };
        self.observed = self.observed.max(last);
        let before = match self.emptied.contains_key(&keyspace) {
            true => 0,
            false => state.keyspaces.get(&keyspace).map_or(0, |usage| usage.keys),
        };
        let changes = self.pending.usage.iter().filter(|(id, ..)| *id == keyspace);
        let here: i64 = changes.map(|(_, keys, _)| keys).sum();
        (before + here).max(0) as u64
    }

    /// Keyspaces that hold keys or have held some since they were last emptied.
    pub fn keyspaces_in_use(&mut self) -> Vec<KeyspaceId> {
        self.observed = self.observed.max(self.staged.map_or(Lsn::ZERO, |(_, last)| last));
        let staged = self.staged.into_iter().flat_map(|(state, _)| &state.keyspaces);
        let mut ids: Vec<_> =
            staged.filter(|(_, usage)| usage.keys != 0).map(|(id, _)| *id).collect();
        ids.extend(self.pending.usage.iter().map(|(id, ..)| *id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The hash position of a member.
    pub(crate) fn member_hash(&self, member: &[u8]) -> u64 {
        self.hasher.hash48(member)
    }

    /// The key's head, unless it is absent or past its deadline.
    pub fn head(&mut self, key: &KeyRef<'_>) -> Result<Option<StoredHead>, OpError> {
        Ok(self.stored_head(key)?.filter(|stored| !stored.expired))
    }

    /// The key's head if it is of this kind; another kind is refused.
    pub fn head_of(&mut self, key: &KeyRef<'_>, kind: Kind) -> Result<Option<StoredHead>, OpError> {
        match self.head(key)? {
            Some(stored) if stored.head().kind() != kind => Err(OpError::WrongType),
            other => Ok(other),
        }
    }

    /// The head that lies in the store, past its deadline or not: what a new head replaces.
    fn stored_head(&mut self, key: &KeyRef<'_>) -> Result<Option<StoredHead>, OpError> {
        self.observed = self.observed.max(key.flushed);
        let Some(row) = self.row(&key.row, key.bucket())? else { return Ok(None) };
        let Some(head) = Head::decode(&row) else { return Err(corrupt_row(&key.row, "the head")) };
        let expired = head.expired(self.now_ms);
        Ok(Some(StoredHead { row, expired }))
    }

    /// Whether the stored head has this deadline and it has passed.
    pub(crate) fn is_past(&mut self, key: &KeyRef<'_>, deadline_ms: u64) -> Result<bool, OpError> {
        let stored = self.stored_head(key)?;
        Ok(stored.is_some_and(|s| s.expired && s.head().deadline_ms == Some(deadline_ms)))
    }

    /// One row of a key.
    pub(crate) fn row(&mut self, row: &[u8], bucket: u16) -> Result<Option<SharedBytes>, OpError> {
        if let Some(written) = self.pending.written.get(row) {
            return Ok(written.value.clone());
        }
        self.heads_read = self.heads_read.saturating_add(if is_head(row) { 1 } else { 2 });
        self.view.get(row, bucket, &mut self.observed)
    }

    /// Whether one head is all that was read.
    pub(crate) fn has_read_one_head(&self) -> bool {
        self.heads_read == 1
    }

    /// Drops the effects so far: the op is refused. What it has seen still counts.
    pub fn abandon(&mut self) {
        self.pending = Pending::default();
    }

    /// Visits rows in order; what this record wrote included. Refuses to visit more of collections than memory is
    /// meant for, because most ops keep what they visit. Heads do not count: of them SCAN keeps the keys alone.
    pub(crate) fn scan(
        &mut self,
        range: (&[u8], &[u8]),
        reverse: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), OpError> {
        self.heads_read = self.heads_read.saturating_add(2);
        let view = self.view;
        let mut left = Some(self.scan_bytes_left);
        let mut bounded = |key: &[u8], value: &[u8]| {
            let bytes = if is_head(key) { 0 } else { key.len() + value.len() };
            left = left.and_then(|left| left.checked_sub(bytes));
            if left.is_some() { visit(key, value) } else { ControlFlow::Break(()) }
        };
        view.scan(&self.pending.written, range, reverse, &mut self.observed, &mut bounded)?;
        self.scan_bytes_left = left.ok_or(OpError::TooLarge(
            "one command may read no more than memory for connections: ask for less at once",
        ))?;
        Ok(())
    }

    /// A collection that no other key has or will have.
    pub(crate) fn new_collection(&mut self) -> CollectionId {
        let id = self.next_collection;
        self.next_collection = CollectionId(id.0 + 1);
        id
    }

    /// Gives the key a new head, or none: counts usage, drops the old collection if the new head
    /// has another, and keeps the deadline rows right.
    pub(crate) fn put_head(
        &mut self,
        key: &KeyRef<'_>,
        new: Option<Head<'_>>,
        reason: DeleteReason,
    ) -> Result<(), OpError> {
        let old = self.stored_head(key)?;
        let old = old.as_ref().map(StoredHead::head);
        let old_deadline_ms = old.as_ref().and_then(|head| head.deadline_ms);
        let old_collection = old.as_ref().and_then(Head::collection);
        let size = |head: &Head<'_>| (key.key.len() as u64 + head.content_bytes()) as i64;
        let before = old.as_ref().map_or((0, 0), |head| (1, size(head)));
        let after = new.as_ref().map_or((0, 0), |head| (1, size(head)));
        match new {
            Some(head) => {
                let collection = head.collection();
                self.push(key, &Effect::PutHead { head, old_deadline_ms })?;
                if let Some(id) = old_collection.filter(|id| Some(*id) != collection) {
                    self.push(key, &Effect::DropCollection { id })?;
                }
            }
            None if old.is_none() => return Ok(()),
            None => {
                self.push(key, &Effect::DeleteHead { reason, old_deadline_ms })?;
                if let Some(id) = old_collection {
                    self.push(key, &Effect::DropCollection { id })?;
                }
            }
        }
        let usage = &mut self.pending.usage;
        let at = usage.iter().position(|(id, ..)| *id == key.keyspace).unwrap_or(usage.len());
        if at == usage.len() {
            usage.push((key.keyspace, 0, 0));
        }
        if let Some((_, keys, bytes)) = usage.get_mut(at) {
            *keys += after.0 - before.0;
            *bytes += after.1 - before.1;
        }
        Ok(())
    }

    /// Adds an effect on a key.
    pub(crate) fn push(&mut self, key: &KeyRef<'_>, effect: &Effect<'_>) -> Result<(), OpError> {
        // About what the effect takes, so that the buffer does not grow in many small steps.
        let content =
            if let Effect::PutHead { head, .. } = effect { head.inline_bytes() } else { 0 };
        self.pending.effects.reserve(64 + key.key.len() + content);
        if self.pending.subject.as_ref().is_none_or(|row| *row != key.row) {
            let KeyRef { keyspace, generation, key: user_key, .. } = *key;
            Effect::Key { keyspace, generation, key: user_key }.encode(&mut self.pending.effects);
            self.pending.subject = Some(key.row.clone());
        }
        effect.encode(&mut self.pending.effects);
        let place = (key.generation, key.slot, key.hash);
        let (written, bucket) = (&mut self.pending.written, Some(key.bucket()));
        let mut write =
            |RowChange { key, value }| written.insert(WrittenRow { key, value, bucket });
        RowExpander::about(self.shard, self.hasher, place, key.key, key.row.clone())
            .expand(effect, &mut write)
            .expect("the expander was given its subject");
        Ok(())
    }

    /// Empties a keyspace: a new generation begins, the old one is removed in the background.
    pub fn flush_keyspace(&mut self, keyspace: KeyspaceId) {
        let (old, _) = self.generation(keyspace);
        let new = self.next_generation;
        self.next_generation = Generation(new.0 + 1);
        let effect = Effect::FlushKeyspace { keyspace, old: Some(old), new };
        self.push_state(effect);
        self.pending.usage.retain(|(id, ..)| *id != keyspace);
        self.emptied.insert(keyspace, new);
    }

    /// Adds an effect on the shard's own state or catalog.
    pub(crate) fn push_state(&mut self, effect: Effect<'static>) {
        self.push_catalog(&effect);
        self.pending.state.push(effect);
    }

    /// Adds an effect on a row that belongs to no key.
    pub fn push_catalog(&mut self, effect: &Effect<'_>) {
        effect.encode(&mut self.pending.effects);
        let written = &mut self.pending.written;
        let mut write =
            |RowChange { key, value }| written.insert(WrittenRow { key, value, bucket: None });
        RowExpander::new(self.shard, self.hasher)
            .expand(effect, &mut write)
            .expect("effects on state and catalog need no key");
    }
}
