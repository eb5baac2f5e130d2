//! The shard's state machine: staged, durable, applied. The commit path's bookkeeping in one place.
//!
//! Invariants: positions are given out in staging order and never twice; the overlay holds exactly
//! the rows of records that are staged and not applied; a record is applied only after it was
//! durable; after a failure nothing is staged until the log was reopened. No threads, no I/O.

use std::collections::{BTreeMap, HashMap, VecDeque};

use holdfast_base::{
    Effect, Epoch, Error, ErrorKind, Generation, Hlc, HybridClock, KeyspaceId, Lsn, ShardId,
    SharedBytes,
    limits::RECORD_BYTES_MAX,
    record::{Batch, BatchBuilder, BatchHeader},
    row::{AppliedState, KeyspaceUsage},
};
use holdfast_log::Position;

use crate::{
    Buckets, OpError,
    overlay::{Overlay, StagedRow},
    txn::{FIRST_FREE_GENERATION, Generations, Pending},
};

/// Bounds of what a shard holds between staging and applying.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Staged bytes above which sockets are not read; above twice this, writes are refused.
    pub staged_bytes_max: usize,
    /// Forward jumps of the wall clock above this are refused.
    pub clock_jump_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        // 64 MiB: about a second of full-speed writes; the applier is 10 ms behind in practice.
        Limits { staged_bytes_max: 64 << 20, clock_jump_ms_max: 60_000 }
    }
}

/// Bytes above which a batch takes no further record: a group's write and sync stays short.
const BATCH_BYTES: usize = 1 << 20;

/// What a keyspace may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyspaceQuota {
    /// Bytes of keys and content.
    pub bytes_max: Option<u64>,
    /// Keys.
    pub keys_max: Option<u64>,
}

/// A record between staging and applying.
#[derive(Debug)]
pub(crate) struct StagedRecord {
    /// Position.
    pub lsn: Lsn,
    chain: u32,
    n: u64,
    time: Hlc,
    pub(crate) rows: Vec<(SharedBytes, Option<SharedBytes>, Option<u16>)>,
    /// Head rows of the keys touched, with their buckets.
    touched: Vec<(SharedBytes, u16)>,
    state: Vec<Effect<'static>>,
    next_collection: holdfast_base::CollectionId,
    bytes: usize,
}

#[derive(Debug)]
struct WatchedRow {
    watchers: usize,
    changed: Lsn,
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
    durable: Lsn,
    builder: BatchBuilder,
    building: Vec<StagedRecord>,
    /// Full batches that wait to be taken.
    sealed: VecDeque<(Batch, Vec<StagedRecord>)>,
    in_flight: VecDeque<Vec<StagedRecord>>,
    committed: VecDeque<StagedRecord>,
    staged_bytes: usize,
    staged_bytes_total: u64,
    failed: Option<Error>,
    watched: HashMap<SharedBytes, WatchedRow>,
    pub(crate) quotas: BTreeMap<KeyspaceId, KeyspaceQuota>,
}

impl Core {
    /// A shard that has applied everything that its log holds. Nothing may be staged before
    /// [`Self::take_over`].
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
            applied,
            builder: BatchBuilder::new(position.header(shard), Vec::new()),
            building: Vec::new(),
            sealed: VecDeque::new(),
            in_flight: VecDeque::new(),
            committed: VecDeque::new(),
            staged_bytes: 0,
            staged_bytes_total: 0,
            failed: Some(Error::new(ErrorKind::Unavailable, "the shard has not been opened yet")),
            watched: HashMap::new(),
            quotas: BTreeMap::new(),
        }
    }

    /// Becomes the owner at a freshly opened session's position: stages the take-over record, and
    /// before it, in an empty log, the genesis record.
    pub fn take_over(
        &mut self,
        position: &Position,
        owner: &[u8],
        generations: &Generations,
        buckets: &Buckets,
    ) -> Result<Lsn, Error> {
        if self.applied.lsn.next() != position.next_lsn {
            let text = format!(
                "the log continues at {} but {} was applied last",
                position.next_lsn, self.applied.lsn
            );
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        self.drop_staged(generations, buckets);
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
        self.append(pending, self.staged.next_collection, generations, buckets)
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
        generations: &Generations,
        buckets: &Buckets,
    ) -> Result<Option<Lsn>, OpError> {
        if pending.is_empty() {
            return Ok(None);
        }
        if let Some(error) = &self.failed {
            return Err(OpError::Fault(error.clone()));
        }
        let usage = std::mem::take(&mut pending.usage);
        let grows = usage.iter().any(|&(_, keys, bytes)| keys > 0 || bytes > 0);
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
        Ok(Some(self.append(pending, next_collection, generations, buckets)?))
    }

    fn append(
        &mut self,
        pending: Pending,
        next_collection: holdfast_base::CollectionId,
        generations: &Generations,
        buckets: &Buckets,
    ) -> Result<Lsn, Error> {
        if self.builder.len() + pending.effects.len() > BATCH_BYTES && !self.builder.is_empty() {
            let full = self.seal();
            self.sealed.push_back(full);
        }
        let time = self.clock.tick();
        self.builder.begin(time, None);
        self.builder.push_encoded(&pending.effects);
        let n = self.builder.next_n();
        let bytes = self.builder.open_bytes();
        let lsn = self.builder.finish().expect("begun three lines above");
        for effect in &pending.state {
            self.staged.learn(effect);
            if let Effect::FlushKeyspace { keyspace, new, .. } = *effect {
                generations.set(keyspace, new, lsn);
                self.watched.values_mut().for_each(|row| row.changed = lsn);
            }
        }
        self.staged.next_collection = next_collection;
        for (row, bucket) in &pending.touched {
            buckets.staged(*bucket);
            if let Some(watched) = self.watched.get_mut(row) {
                watched.changed = lsn;
            }
        }
        let mut rows = Vec::with_capacity(pending.written.len());
        for (row, (value, bucket)) in pending.written {
            self.overlay.insert(row.clone(), StagedRow { lsn, value: value.clone() });
            rows.push((row, value, bucket));
        }
        self.staged_bytes += bytes;
        self.staged_bytes_total += bytes as u64;
        self.building.push(StagedRecord {
            lsn,
            chain: self.builder.chain(),
            n,
            time,
            rows,
            touched: pending.touched,
            state: pending.state,
            next_collection,
            bytes,
        });
        Ok(lsn)
    }

    fn check_quota(&self, keyspace: KeyspaceId, keys: i64, bytes: i64) -> Result<(), OpError> {
        let Some(quota) = self.quotas.get(&keyspace) else { return Ok(()) };
        let usage = self.usage(keyspace);
        let over = |max: Option<u64>, used: i64, more: i64| {
            more > 0 && max.is_some_and(|max| used.saturating_add(more) > max as i64)
        };
        if over(quota.keys_max, usage.keys, keys) {
            return Err(OpError::QuotaExceeded(format!(
                "keyspace {keyspace} may hold no more keys"
            )));
        }
        if over(quota.bytes_max, usage.bytes, bytes) {
            let text = format!("keyspace {keyspace} may hold no more bytes");
            return Err(OpError::QuotaExceeded(text));
        }
        Ok(())
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
        let (batch, records) = self.sealed.pop_front().unwrap_or_else(|| self.seal());
        self.in_flight.push_back(records);
        Some(batch)
    }

    /// Whether [`Self::take_batch`] would give one.
    pub fn has_batch(&self) -> bool {
        let staged = !self.sealed.is_empty() || !self.builder.is_empty();
        staged && self.failed.is_none()
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
        if let Some(records) = self.in_flight.pop_front() {
            self.durable = records.last().map_or(self.durable, |record| record.lsn);
            self.committed.extend(records);
        }
        self.durable
    }

    /// The log refused or lost a batch: writes stop until [`Self::take_over`].
    pub fn on_failed(&mut self, error: Error, generations: &Generations, buckets: &Buckets) {
        self.failed = Some(error);
        self.drop_staged(generations, buckets);
    }

    /// Forgets what is staged and not durable. What is durable stays to be applied.
    fn drop_staged(&mut self, generations: &Generations, buckets: &Buckets) {
        self.building.clear();
        self.sealed.clear();
        self.in_flight.clear();
        self.overlay.clear();
        buckets.reset();
        self.staged_bytes = self.committed.iter().map(|record| record.bytes).sum();
        self.staged = self.applied.clone();
        generations.reset();
        for (keyspace, usage) in &self.applied.keyspaces {
            generations.set(*keyspace, usage.generation, Lsn::ZERO);
        }
        // Durable records that wait for the applier are staged again, under their positions.
        for record in &self.committed {
            for effect in &record.state {
                self.staged.learn(effect);
                if let Effect::FlushKeyspace { keyspace, new, .. } = *effect {
                    generations.set(keyspace, new, record.lsn);
                }
            }
            self.staged.next_collection = record.next_collection;
            record.touched.iter().for_each(|(_, bucket)| buckets.staged(*bucket));
            for (row, value, _) in &record.rows {
                let row = row.clone();
                self.overlay.insert(row, StagedRow { lsn: record.lsn, value: value.clone() });
            }
        }
        self.watched.values_mut().for_each(|row| row.changed = Lsn(u64::MAX));
    }

    /// Durable records to apply, oldest first, up to about `bytes_max`, with the state after them.
    pub fn take_committed(
        &mut self,
        bytes_max: usize,
    ) -> Option<(Vec<StagedRecord>, AppliedState)> {
        let mut records = Vec::new();
        let mut state = self.applied.clone();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(record) = self.committed.pop_front()
        {
            bytes += record.bytes;
            record.state.iter().for_each(|effect| state.learn(effect));
            state.lsn = record.lsn;
            state.chain = record.chain;
            state.n = record.n;
            state.time = record.time;
            state.next_collection = record.next_collection;
            records.push(record);
        }
        state.incarnation = self.staged.incarnation;
        (!records.is_empty()).then_some((records, state))
    }

    /// The records are in the engine and the row cache: their rows leave the overlay.
    pub fn on_applied(&mut self, records: &[StagedRecord], state: AppliedState, buckets: &Buckets) {
        for record in records {
            self.overlay.remove_applied(record.lsn, record.rows.iter().map(|(row, _, _)| row));
            record.touched.iter().for_each(|(_, bucket)| buckets.applied(*bucket));
            self.staged_bytes = self.staged_bytes.saturating_sub(record.bytes);
        }
        self.applied = state;
    }

    /// The engine refused durable records: they stay to be applied.
    pub fn on_apply_failed(&mut self, records: Vec<StagedRecord>) {
        for record in records.into_iter().rev() {
            self.committed.push_front(record);
        }
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
        (Lsn(self.builder.next_lsn().0 - 1), self.durable, self.applied.lsn)
    }

    /// Why writes are refused, if they are.
    pub fn failure(&self) -> Option<&Error> {
        self.failed.as_ref()
    }

    /// Remembers changes of a head row from now on; gives what [`Self::watch_changed`] compares.
    pub fn watch(&mut self, row: SharedBytes) -> Lsn {
        let entry =
            self.watched.entry(row).or_insert(WatchedRow { watchers: 0, changed: Lsn::ZERO });
        entry.watchers += 1;
        entry.changed
    }

    /// Whether a watched row changed since [`Self::watch`] gave `seen`.
    pub fn watch_changed(&self, row: &[u8], seen: Lsn) -> bool {
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
