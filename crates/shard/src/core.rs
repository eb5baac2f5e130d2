//! The shard's state machine: staged, durable, applied. The commit path's bookkeeping in one place.
//!
//! Invariants: positions are given out in staging order and never twice; the overlay holds exactly
//! the rows of records that are staged and not applied; a record is applied only after it was
//! durable; after a failure nothing is staged until the log was reopened. No threads, no I/O.

mod follow;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use holdfast_base::{
    Effect, Epoch, Error, ErrorKind, Generation, Hlc, HybridClock, Incarnation, KeyspaceId, Lsn,
    ShardId, SharedBytes,
    key::Family,
    limits::{KEYSPACES_MAX, RECORD_BYTES_MAX},
    record::{Batch, BatchBuilder, BatchHeader},
    row::{AppliedState, KeyspaceUsage},
};
use holdfast_log::Position;

pub(crate) use follow::Followed;

use crate::{
    OpError,
    digest::tick,
    overlay::{Overlay, StagedRow},
    txn::{FIRST_FREE_GENERATION, Pending},
    visible::Visible,
    written::WrittenRow,
};

/// Bounds of what a shard holds between staging and applying.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Staged bytes above which sockets are not read; above twice this, writes are refused.
    pub staged_bytes_max: usize,
    /// Forward jumps of the wall clock above this are refused.
    pub clock_jump_ms_max: u64,
    /// Bytes of members, elements and chunks that one op or transaction may read.
    pub scan_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // 64 MiB: about a second of full-speed writes; the applier is 100 ms behind in practice.
        Limits { staged_bytes_max: 64 << 20, clock_jump_ms_max: 60_000, scan_bytes_max: 256 << 20 }
    }
}

/// Bytes above which a batch takes no further record: a group's write and sync stays short.
const BATCH_BYTES: usize = 1 << 20;

/// Groups that one step of the applier takes: so many handles are cloned under the shard lock.
const APPLIED_GROUPS_MAX: usize = 1024;

/// What a keyspace may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyspaceQuota {
    /// Bytes of keys and content.
    pub bytes_max: Option<u64>,
    /// Keys.
    pub keys_max: Option<u64>,
}

/// Quotas of all keyspaces. Set without the shard lock: catalog changes come from under it.
#[derive(Debug)]
pub(crate) struct Quotas(Box<[(AtomicU64, AtomicU64)]>);

impl Default for Quotas {
    fn default() -> Self {
        let none = |_| (AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX));
        Quotas((0..KEYSPACES_MAX).map(none).collect())
    }
}

impl Quotas {
    pub(crate) fn set(&self, keyspace: KeyspaceId, quota: KeyspaceQuota) {
        if let Some((bytes, keys)) = self.0.get(usize::from(keyspace.0)) {
            bytes.store(quota.bytes_max.unwrap_or(u64::MAX), Ordering::Release);
            keys.store(quota.keys_max.unwrap_or(u64::MAX), Ordering::Release);
        }
    }

    /// Most bytes and keys; without a quota, more than any keyspace can have.
    fn get(&self, keyspace: KeyspaceId) -> (u64, u64) {
        self.0.get(usize::from(keyspace.0)).map_or((u64::MAX, u64::MAX), |(bytes, keys)| {
            (bytes.load(Ordering::Acquire), keys.load(Ordering::Acquire))
        })
    }
}

/// A record between staging and applying.
#[derive(Debug)]
pub(crate) struct StagedRecord {
    /// Position.
    pub lsn: Lsn,
    chain: u32,
    n: u64,
    time: Hlc,
    pub(crate) rows: Vec<WrittenRow>,
    /// The last record of a batch of the log: whoever follows has the same.
    ends_batch: bool,
    state: Vec<Effect<'static>>,
    next_collection: holdfast_base::CollectionId,
    bytes: usize,
}

/// Durable groups that wait to be applied, oldest first, and the applied state before them.
pub(crate) struct Committed {
    groups: Vec<Arc<Vec<StagedRecord>>>,
    applied: AppliedState,
    incarnation: Incarnation,
    tick: u64,
}

/// What the applier moves at once.
pub(crate) struct Step {
    /// Oldest first.
    pub groups: Vec<Arc<Vec<StagedRecord>>>,
    /// The state after them.
    pub state: AppliedState,
    /// The rows as of then are to be digested, under this tick.
    pub digest: Option<u64>,
}

impl Committed {
    /// The oldest groups, up to about `bytes_max`, with the state after them; they stay staged until
    /// [`Core::on_applied`]. Walks over every record, which needs no lock.
    /// Ends with a group behind which rows are digested.
    pub fn first(self, bytes_max: usize) -> Option<Step> {
        let Committed { mut groups, applied: mut state, incarnation, tick } = self;
        let (mut taken, mut bytes, mut digest) = (0, 0, None);
        for group in &groups {
            if bytes >= bytes_max || digest.is_some() {
                break;
            }
            digest = begins_tick(group, tick);
            advance(&mut state, group, incarnation);
            bytes += group.iter().map(|record| record.bytes).sum::<usize>();
            taken += 1;
        }
        groups.truncate(taken);
        (taken > 0).then_some(Step { groups, state, digest })
    }
}

/// The tick that begins with the batch that this group ends, if one does.
fn begins_tick(group: &[StagedRecord], before: u64) -> Option<u64> {
    let last = group.last().filter(|record| record.ends_batch)?;
    Some(tick(last.time)).filter(|tick| *tick > before)
}

/// Moves the state that the engine holds past a group.
fn advance(state: &mut AppliedState, group: &[StagedRecord], incarnation: Incarnation) {
    group.iter().flat_map(|record| &record.state).for_each(|effect| state.learn(effect));
    if let Some(last) = group.last() {
        state.lsn = last.lsn;
        state.chain = last.chain;
        state.n = last.n;
        state.time = last.time;
        state.next_collection = last.next_collection;
    }
    state.incarnation = incarnation;
}

/// Whether a row is a key's head: it then stands in the row cache while it is staged.
pub(crate) fn is_head(row: &[u8]) -> bool {
    row.first() == Some(&(Family::Head as u8))
}

#[derive(Debug)]
struct WatchedRow {
    watchers: usize,
    /// Value of the shard's change counter when the row was last staged.
    changed: u64,
}

/// See the module's head. Guarded by the shard lock.
#[derive(Debug)]
pub(crate) struct Core {
    shard: ShardId,
    limits: Limits,
    clock: HybridClock,
    pub(crate) overlay: Overlay,
    /// As of the last staged record.
    pub(crate) staged: AppliedState,
    /// As of the last applied record.
    applied: AppliedState,
    /// That of the last batch that is applied as a whole.
    applied_tick: u64,
    durable: Lsn,
    builder: BatchBuilder,
    building: Vec<StagedRecord>,
    /// Whether what is being built may be taken as it is; a full batch may be in any case.
    pub(crate) submitted: bool,
    /// Full batches that wait to be taken.
    sealed: VecDeque<(Batch, Vec<StagedRecord>)>,
    in_flight: VecDeque<Vec<StagedRecord>>,
    /// Groups that are durable and not yet applied; the applier works on handles of the first ones.
    committed: VecDeque<Arc<Vec<StagedRecord>>>,
    staged_bytes: usize,
    staged_bytes_total: u64,
    failed: Option<Error>,
    watched: HashMap<SharedBytes, WatchedRow>,
    /// Counts staged records and failures; unlike positions it is never given out twice.
    changes: u64,
    quotas: Arc<Quotas>,
    /// An empty buffer for the next record's effects.
    spare: Vec<u8>,
    /// Whether the disk has room for writes that add keys or bytes.
    pub(crate) growth_admitted: bool,
}

impl Core {
    /// A shard that has applied everything that its log held. Nothing may be staged before
    /// [`Self::take_over`]; what comes into the log meanwhile is followed.
    pub fn new(shard: ShardId, applied: AppliedState, limits: Limits) -> Core {
        let mut applied = applied;
        applied.next_generation = applied.next_generation.max(FIRST_FREE_GENERATION);
        applied.next_collection.0 = applied.next_collection.0.max(1);
        let position = Position {
            next_lsn: applied.lsn.next(),
            next_n: 0,
            chain: applied.chain,
            incarnation: applied.incarnation,
            epoch: applied.epoch,
            last_time: applied.time,
        };
        Core {
            shard,
            limits,
            clock: HybridClock::new(applied.time, limits.clock_jump_ms_max),
            overlay: Overlay::default(),
            staged: applied.clone(),
            durable: applied.lsn,
            applied_tick: tick(applied.time),
            applied,
            builder: BatchBuilder::new(position.header(shard), Vec::new()),
            building: Vec::new(),
            submitted: false,
            sealed: VecDeque::new(),
            in_flight: VecDeque::new(),
            committed: VecDeque::new(),
            staged_bytes: 0,
            staged_bytes_total: 0,
            failed: Some(Error::new(ErrorKind::Unavailable, "this node does not own the data")),
            watched: HashMap::new(),
            changes: 0,
            quotas: Arc::default(),
            spare: Vec::new(),
            growth_admitted: true,
        }
    }

    /// Becomes the owner at a freshly opened session's position: stages the take-over record, and
    /// before it, in an empty log, the genesis record.
    pub fn take_over(
        &mut self,
        position: &Position,
        owner: &[u8],
        visible: &Visible,
    ) -> Result<Lsn, Error> {
        if self.durable.next() != position.next_lsn {
            let text = format!(
                "the log continues at {} but {} is the last record that is known",
                position.next_lsn, self.durable
            );
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        self.drop_staged(visible);
        self.failed = None;
        self.clock.learn(position.last_time);
        self.staged.incarnation = position.incarnation;
        self.staged.epoch = position.epoch;
        self.builder = BatchBuilder::new(position.header(self.shard), Vec::new());
        let epoch: Epoch = position.epoch;
        let mut state = vec![Effect::TakeOver { epoch, owner: b"" }];
        let mut effects = Vec::new();
        Effect::TakeOver { epoch, owner }.encode(&mut effects);
        if position.next_lsn == Lsn(1) {
            let genesis = Effect::Genesis { hash_seed: self.staged.hash_seed };
            genesis.encode(&mut effects);
            state.push(genesis);
        }
        let pending = Pending { effects, state, ..Pending::default() };
        self.append(pending, self.staged.next_collection, visible)
    }

    /// Moves shard time to the clocks' readings. True if the wall clock had jumped too far ahead.
    pub fn advance_time(&mut self, wall_ms: u64, monotonic_ms: u64) -> bool {
        self.clock.advance(wall_ms, monotonic_ms).is_err()
    }

    /// Shard time in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.clock.last().ms()
    }

    /// Stages what a `Txn` did as one record. `None` if it did nothing.
    pub(crate) fn stage(
        &mut self,
        mut pending: Pending,
        next_collection: holdfast_base::CollectionId,
        visible: &Visible,
    ) -> Result<Option<Lsn>, OpError> {
        if pending.is_empty() {
            return Ok(None);
        }
        if let Some(error) = &self.failed {
            return Err(OpError::Fault(error.clone()));
        }
        let usage = std::mem::take(&mut pending.usage);
        let grows = usage.iter().any(|&(_, keys, bytes)| keys > 0 || bytes > 0);
        if grows && !self.growth_admitted {
            let text = "command not allowed: the disk is nearly full; deleting is still possible";
            return Err(Error::new(ErrorKind::Full, text).into());
        }
        if self.staged_bytes > 3 * self.limits.staged_bytes_max {
            let text = "the engine takes no rows at the moment: retry later";
            return Err(Error::new(ErrorKind::Overloaded, text).into());
        }
        if grows && self.staged_bytes > 2 * self.limits.staged_bytes_max {
            let text = "too many writes wait for the disk: retry later";
            return Err(Error::new(ErrorKind::Overloaded, text).into());
        }
        for (keyspace, keys, bytes) in usage {
            self.check_quota(keyspace, keys, bytes)?;
            if (keys, bytes) != (0, 0) {
                let effect = Effect::Usage { keyspace, keys, bytes };
                effect.encode(&mut pending.effects);
                pending.state.push(effect);
            }
        }
        if pending.effects.len() + 64 > RECORD_BYTES_MAX {
            return Err(OpError::TooLarge("a command or transaction may write at most 64 MiB"));
        }
        Ok(Some(self.append(pending, next_collection, visible)?))
    }

    fn append(
        &mut self,
        pending: Pending,
        next_collection: holdfast_base::CollectionId,
        visible: &Visible,
    ) -> Result<Lsn, Error> {
        if self.builder.len() + pending.effects.len() > BATCH_BYTES && !self.builder.is_empty() {
            let full = self.seal();
            self.sealed.push_back(full);
        }
        let time = self.clock.tick();
        self.builder.begin(time, None);
        self.builder.push_encoded(&pending.effects);
        self.keep_spare(pending.effects);
        let n = self.builder.next_n();
        let bytes = self.builder.open_bytes();
        let lsn = self.builder.finish().expect("begun three lines above");
        let record = StagedRecord {
            lsn,
            chain: self.builder.chain(),
            n,
            time,
            rows: pending.written.into_rows(),
            ends_batch: false,
            state: pending.state,
            next_collection,
            bytes,
        };
        self.enter(&record, visible);
        self.building.push(record);
        Ok(lsn)
    }

    /// A record's rows show from now on, and its effects on the shard's own state hold.
    fn enter(&mut self, record: &StagedRecord, visible: &Visible) {
        for effect in &record.state {
            self.staged.learn(effect);
        }
        self.changes += 1;
        self.staged.next_collection = record.next_collection;
        let rows = &record.rows;
        rows.iter().filter_map(|row| row.bucket).for_each(|at| visible.buckets.staged(at));
        // One key's head changes for all readers at once; several do only for those that look
        // whether a change of several was under way.
        let heads = rows.iter().filter(|row| is_head(&row.key)).count();
        let is_flush = |effect: &&Effect<'_>| matches!(effect, Effect::FlushKeyspace { .. });
        let flushes = record.state.iter().filter(is_flush).count();
        let _several = (heads + flushes > 1).then(|| visible.change_several());
        for row in rows {
            if !self.watched.is_empty()
                && let Some(watched) = self.watched.get_mut(&row.key)
            {
                watched.changed = self.changes;
            }
            self.show(visible, row, record.lsn);
        }
        // A keyspace shows as emptied only when the rows of the same record are staged.
        for effect in &record.state {
            if let Effect::FlushKeyspace { keyspace, new, .. } = *effect {
                visible.generations.set(keyspace, new, record.lsn);
                let changes = self.changes;
                self.watched.values_mut().for_each(|row| row.changed = changes);
            }
        }
        self.staged_bytes += record.bytes;
        self.staged_bytes_total += record.bytes as u64;
    }

    /// A buffer for effects: of what the last record left, if that is not large.
    pub(crate) fn take_spare(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.spare)
    }

    fn keep_spare(&mut self, mut effects: Vec<u8>) {
        const SPARE_BYTES_MAX: usize = 64 << 10;
        if effects.capacity() <= SPARE_BYTES_MAX {
            effects.clear();
            self.spare = effects;
        }
    }

    /// A staged row becomes visible, behind its gate.
    fn show(&mut self, visible: &Visible, row: &WrittenRow, lsn: Lsn) {
        if is_head(&row.key) {
            visible.cache.stage(&row.key, &row.value, lsn);
        } else {
            self.overlay.insert(row.key.clone(), StagedRow { lsn, value: row.value.clone() });
        }
    }

    fn check_quota(&self, keyspace: KeyspaceId, keys: i64, bytes: i64) -> Result<(), OpError> {
        let (bytes_max, keys_max) = self.quotas.get(keyspace);
        let usage = self.usage(keyspace);
        let over = |max: u64, used: i64, more: i64| {
            more > 0 && u64::try_from(used.saturating_add(more)).is_ok_and(|sum| sum > max)
        };
        if over(keys_max, usage.keys, keys) {
            let text = format!("keyspace {keyspace} may hold no more than {keys_max} keys");
            return Err(OpError::QuotaExceeded(text));
        }
        if over(bytes_max, usage.bytes, bytes) {
            let text = format!("keyspace {keyspace} may hold no more than {bytes_max} bytes");
            return Err(OpError::QuotaExceeded(text));
        }
        Ok(())
    }

    /// The quotas, to be set from outside of the lock.
    pub fn quotas(&self) -> Arc<Quotas> {
        self.quotas.clone()
    }

    /// Whether a generation is in use as far as records are applied.
    pub fn is_applied_generation(&self, generation: Generation) -> bool {
        let keyspaces = &self.applied.keyspaces;
        let first = u16::try_from(generation.0).ok().filter(|id| *id < KEYSPACES_MAX);
        first.is_some_and(|id| !keyspaces.contains_key(&KeyspaceId(id)))
            || keyspaces.values().any(|usage| usage.generation == generation)
    }

    /// Usage of a keyspace, staged records included.
    pub fn usage(&self, keyspace: KeyspaceId) -> KeyspaceUsage {
        let first = KeyspaceUsage { generation: Generation(keyspace.0.into()), keys: 0, bytes: 0 };
        self.staged.keyspaces.get(&keyspace).copied().unwrap_or(first)
    }

    /// The oldest records staged and not yet taken, as one batch: a MiB of them, or one large one.
    pub fn take_batch(&mut self) -> Option<Batch> {
        if !self.has_batch() {
            return None;
        }
        let (batch, records) = self.sealed.pop_front().unwrap_or_else(|| {
            self.submitted = false;
            self.seal()
        });
        self.in_flight.push_back(records);
        Some(batch)
    }

    /// Whether [`Self::take_batch`] would give one.
    pub fn has_batch(&self) -> bool {
        let staged = !self.sealed.is_empty() || !self.builder.is_empty();
        staged && self.failed.is_none()
    }

    /// Whether the committer should take one now.
    pub fn is_submitted(&self) -> bool {
        self.has_batch() && (self.submitted || self.has_full_batch())
    }

    /// Whether a batch waits that takes no further record.
    pub fn has_full_batch(&self) -> bool {
        !self.sealed.is_empty()
    }

    fn seal(&mut self) -> (Batch, Vec<StagedRecord>) {
        // The next batch will be about as large: one allocation instead of a doubling series.
        let room = Vec::with_capacity(self.builder.len() + self.builder.len() / 4);
        let next = BatchHeader {
            first_n: self.builder.next_n(),
            first_lsn: self.builder.next_lsn(),
            chain_before: self.builder.chain(),
            ..self.builder.header()
        };
        let builder = std::mem::replace(&mut self.builder, BatchBuilder::new(next, room));
        let records = Vec::with_capacity(self.building.len());
        (builder.seal(), std::mem::replace(&mut self.building, records))
    }

    /// The oldest batch taken is durable. Its records may now be applied.
    pub fn on_durable(&mut self) -> Lsn {
        if let Some(mut records) = self.in_flight.pop_front() {
            records.iter_mut().last().into_iter().for_each(|record| record.ends_batch = true);
            self.durable = records.last().map_or(self.durable, |record| record.lsn);
            self.committed.push_back(Arc::new(records));
        }
        self.durable
    }

    /// The log refused or lost a batch: writes stop until [`Self::take_over`].
    pub fn on_failed(&mut self, error: Error, visible: &Visible) {
        // What was staged is of unknown outcome; what is refused from now on certainly is not done.
        self.failed = Some(Error::new(ErrorKind::Unavailable, error.text()));
        self.drop_staged(visible);
    }

    /// Forgets what is staged and not durable. What is durable stays staged until it is applied;
    /// readers without the lock notice nothing of it.
    fn drop_staged(&mut self, visible: &Visible) {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::is_planted(crate::planted::Bug::OverlayKept) {
            self.building.clear();
            self.sealed.clear();
            self.in_flight.clear();
            return;
        }
        let sealed = self.sealed.drain(..).flat_map(|(_, records)| records);
        let in_flight = self.in_flight.drain(..).flatten();
        let dropped: Vec<_> = in_flight.chain(sealed).chain(self.building.drain(..)).collect();
        let committed: Vec<_> = self.committed.iter().cloned().collect();
        let durable = || committed.iter().flat_map(|group| group.iter());
        self.staged_bytes = durable().map(|record| record.bytes).sum();
        let (incarnation, epoch) = (self.staged.incarnation, self.staged.epoch);
        self.staged = AppliedState { incarnation, epoch, ..self.applied.clone() };
        self.overlay.clear();
        let mut flushes = BTreeMap::new();
        let mut heads = HashMap::new();
        for record in durable() {
            for effect in &record.state {
                self.staged.learn(effect);
                if let Effect::FlushKeyspace { keyspace, .. } = *effect {
                    flushes.insert(keyspace, record.lsn);
                }
            }
            self.staged.next_collection = record.next_collection;
            for row in &record.rows {
                if is_head(&row.key) {
                    heads.insert(&row.key, (&row.value, record.lsn));
                } else {
                    self.show(visible, row, record.lsn);
                }
            }
        }
        // Each head at once to its last durable version, which no reader may miss; one that only
        // lost records wrote is the engine's again.
        let _several = visible.change_several();
        for WrittenRow { key, .. } in dropped.iter().flat_map(|record| &record.rows) {
            match heads.get(key) {
                Some((value, lsn)) => visible.cache.stage(key, value, *lsn),
                None if is_head(key) => visible.cache.forget(key),
                None => {}
            }
        }
        for id in (0..KEYSPACES_MAX).map(KeyspaceId) {
            let generation = self.usage(id).generation;
            if visible.generations.get(id).is_some_and(|(current, _)| current != generation) {
                let since = flushes.get(&id).copied().unwrap_or_default();
                visible.generations.set(id, generation, since);
            }
        }
        let rows = dropped.iter().flat_map(|record| &record.rows);
        rows.filter_map(|row| row.bucket).for_each(|at| visible.buckets.applied(at));
        self.changes += 1;
        let changes = self.changes;
        self.watched.values_mut().for_each(|row| row.changed = changes);
    }

    /// What is durable and waits to be applied, in a bounded number of groups.
    pub fn committed(&self) -> Committed {
        let groups = self.committed.iter().take(APPLIED_GROUPS_MAX).cloned().collect();
        let incarnation = self.staged.incarnation;
        Committed { groups, applied: self.applied.clone(), incarnation, tick: self.applied_tick }
    }

    /// The oldest durable group is in the engine and the row cache: its rows leave the overlay.
    pub fn on_applied(&mut self, visible: &Visible) {
        let Some(group) = self.committed.pop_front() else { return };
        for record in group.iter() {
            let others = record.rows.iter().map(|row| &row.key).filter(|key| !is_head(key));
            self.overlay.remove_applied(record.lsn, others);
            let buckets = record.rows.iter().filter_map(|row| row.bucket);
            buckets.for_each(|at| visible.buckets.applied(at));
            self.staged_bytes = self.staged_bytes.saturating_sub(record.bytes);
        }
        advance(&mut self.applied, &group, self.staged.incarnation);
        if let Some(tick) = begins_tick(&group, self.applied_tick) {
            self.applied_tick = tick;
        }
    }

    /// The first staged heads of `from..to` in order, at most `rows_max`: the newest version of each
    /// and its record. An empty `to` is the end. Looks at everything staged, so it is no hot path.
    pub fn staged_heads(
        &self,
        from: &[u8],
        to: &[u8],
        rows_max: usize,
    ) -> BTreeMap<&SharedBytes, (&Option<SharedBytes>, Lsn)> {
        let committed = self.committed.iter().flat_map(|group| group.iter());
        let in_flight = self.in_flight.iter().flatten();
        let sealed = self.sealed.iter().flat_map(|(_, records)| records);
        let records = committed.chain(in_flight).chain(sealed).chain(&self.building);
        let is_within = |row: &[u8]| row >= from && (to.is_empty() || row < to);
        let mut heads: BTreeMap<&SharedBytes, (&Option<SharedBytes>, Lsn)> = BTreeMap::new();
        // Oldest records first: a later version replaces an earlier one.
        for record in records {
            for row in record.rows.iter().filter(|row| is_head(&row.key) && is_within(&row.key)) {
                let last = heads.last_key_value().filter(|_| heads.len() == rows_max);
                if last.is_some_and(|(last, _)| row.key > **last) {
                    continue;
                }
                heads.insert(&row.key, (&row.value, record.lsn));
                if heads.len() > rows_max {
                    heads.pop_last();
                }
            }
        }
        heads
    }

    /// Bytes of records between staging and applying.
    pub fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    /// Bytes of all records staged since the start.
    pub fn staged_bytes_total(&self) -> u64 {
        self.staged_bytes_total
    }

    /// Whether every durable record has been applied.
    pub fn is_drained(&self) -> bool {
        self.committed.is_empty() && self.applied.lsn == self.durable
    }

    /// Positions: last staged, last durable, last applied.
    pub fn positions(&self) -> (Lsn, Lsn, Lsn) {
        let last = Lsn(self.builder.next_lsn().0 - 1);
        // After a failure the builder still stands where the lost records ended.
        let staged = if self.failed.is_some() { self.durable } else { last };
        (staged, self.durable, self.applied.lsn)
    }

    /// Why writes are refused, if they are.
    pub fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Remembers changes of a head row from now on; gives what [`Self::watch_changed`] compares.
    pub fn watch(&mut self, row: SharedBytes) -> u64 {
        let entry = self.watched.entry(row).or_insert(WatchedRow { watchers: 0, changed: 0 });
        entry.watchers += 1;
        entry.changed
    }

    /// Whether a watched row changed since [`Self::watch`] gave `seen`.
    pub fn watch_changed(&self, row: &[u8], seen: u64) -> bool {
        self.watched.get(row).is_none_or(|watched| watched.changed != seen)
    }

    /// One watcher less.
    pub fn unwatch(&mut self, row: &[u8]) {
        if let Some(watched) = self.watched.get_mut(row) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                self.watched.remove(row);
            }
        }
    }
}
