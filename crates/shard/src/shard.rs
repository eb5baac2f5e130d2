//! One shard in service: the state machine under its lock, with the engine and caches around it.
//!
//! Order of every write, close together in this file: staged (`write`), durable (`commit_step`),
//! visible in the engine (`apply_step`); its reply leaves when [`Shard::durable`] reaches its gate.
//! Reads take no shard lock unless a staged record touches several rows of theirs. Lock order: shard,
//! then a part of the row cache.
//! Threads call the steps; the simulator calls the same ones in an order of its own.

mod follow;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use holdfast_base::{
    Error, ErrorKind, Generation, KeyHasher, KeyspaceId, Lsn, ShardId, SharedBytes, key,
    row::AppliedState,
};
use holdfast_engine::{Batch, Engine, Tier};
use holdfast_log::{Completion, Outcome, Position, Refused, Session};
use parking_lot::{Condvar, Mutex};

use crate::{
    DigestJob, KeyRef, Limits, OpError, Txn,
    core::{Core, KeyspaceQuota, Quotas, Step, is_head},
    key_order::newest_in_key_order,
    overlay::{StagedRow, StagedRows},
    view::{Pin, Source, Staged, View, Witness},
    visible::Visible,
};

/// How far shard time may stay behind the clocks rather than wait for the lock.
const TIME_BEHIND_MS_MAX: u64 = 3;

/// What a shard is made of.
pub struct ShardParts {
    /// Which shard.
    pub id: ShardId,
    /// Its engine; rows of all shards of a node may share one.
    pub engine: Arc<dyn Engine>,
    /// State that the engine holds after replay.
    pub applied: AppliedState,
    /// Bytes of the row cache.
    pub row_cache_bytes: u64,
    /// Bounds.
    pub limits: Limits,
}

/// A reply may leave once this position is durable; see [`Shard::gate_state`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gate {
    /// Whose position.
    pub shard: ShardId,
    /// The position.
    pub lsn: Lsn,
    /// How often the log had failed before: after a failure the positions that were lost are given
    /// out again, to other records.
    term: u64,
}

/// The last durable position and how often the log has failed: no gate changes while these do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogState(Lsn, u64);

/// What has become of the record that a reply waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GateState {
    /// Not known yet.
    Waiting,
    /// Durable: the reply may leave.
    Durable,
    /// The log failed first: whether it is durable is not known, and the reply must never leave.
    Lost,
}

/// An op's result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done<R> {
    /// What it answers.
    pub value: R,
    /// What its reply has to wait for, unless that is durable already.
    pub gate: Option<Gate>,
}

/// How much room is left between staging and applying.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pressure {
    /// Enough.
    None,
    /// Stop reading sockets until it is `None` again.
    StopReading,
}

/// What a commit step did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommitStep {
    /// Nothing was staged.
    Idle,
    /// Records up to this position are durable.
    Durable(Lsn),
    /// The log failed: writes stop until the shard is opened again.
    Failed(Error),
}

/// A key whose change an EXEC wants to know.
#[derive(Debug)]
pub struct WatchedKey {
    row: SharedBytes,
    seen: u64,
    /// Deadline that had not passed when the key was first watched.
    deadline_ms: Option<u64>,
}

/// Figures of a shard, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardStats {
    /// Last staged position.
    pub staged_lsn: Lsn,
    /// Last durable position.
    pub durable_lsn: Lsn,
    /// Last applied position.
    pub applied_lsn: Lsn,
    /// Bytes of records between staging and applying.
    pub staged_bytes: u64,
    /// Rows staged and not applied.
    pub overlay_rows: u64,
    /// Bytes in the row cache.
    pub row_cache_bytes: u64,
    /// Rows in the row cache.
    pub row_cache_rows: u64,
    /// Whether writes are refused because the log or engine failed.
    pub failed: bool,
}

/// The hash of keys. Its seed stands in the log's first record: until that is there, nothing is.
struct Hasher {
    own: KeyHasher,
    learned: OnceLock<KeyHasher>,
}

impl Hasher {
    fn new(applied: &AppliedState) -> Hasher {
        Hasher { own: KeyHasher::new(applied.hash_seed), learned: OnceLock::new() }
    }

    #[inline]
    fn get(&self) -> &KeyHasher {
        self.learned.get().unwrap_or(&self.own)
    }

    /// The log begins, with this seed.
    fn learn(&self, seed: [u8; 16]) {
        let _ = self.learned.set(KeyHasher::new(seed));
    }
}

/// See the module's head.
pub struct Shard {
    id: ShardId,
    engine: Arc<dyn Engine>,
    visible: Visible,
    hasher: Hasher,
    quotas: Arc<Quotas>,
    /// The shard lock: guards the state machine. Never held over I/O that may block, except where
    /// a caller asks for [`Tier::Any`] after a miss.
    core: Mutex<Core>,
    /// Signalled when staged records are submitted, and at stop: the committer waits here.
    staged: Condvar,
    /// Signalled when records are durable, and at stop: the applier waits here.
    committed: Condvar,
    durable: AtomicU64,
    /// How often the log has failed.
    term: AtomicU64,
    /// The last durable position of each ended term. A leaf in the lock order.
    term_ends: Mutex<Vec<Lsn>>,
    /// How many views were pinned.
    pins: AtomicU64,
    time_ms: AtomicU64,
    /// Readings of the wall and the monotonic clock that shard time was last moved to.
    clocks_ms: [AtomicU64; 2],
    /// Where the sweep of dropped collections goes on. A leaf in the lock order.
    pub(crate) sweep_from: Mutex<Vec<u8>>,
    /// Bytes between staging and applying, for readers without the lock.
    staged_bytes: AtomicUsize,
    /// Rows in the overlay, likewise.
    overlay_rows: AtomicUsize,
    scan_bytes_max: usize,
    staged_bytes_max: usize,
    stopping: AtomicBool,
    digests_wanted: AtomicBool,
    /// A leaf in the lock order.
    digest_job: Mutex<Option<DigestJob>>,
}

impl Shard {
    /// A shard that has applied what its log held; [`Self::follow`] takes in what comes, [`Self::take_over`] opens
    /// it for writes.
    pub fn new(parts: ShardParts) -> Shard {
        let visible = Visible::new(parts.row_cache_bytes);
        for (keyspace, usage) in &parts.applied.keyspaces {
            visible.generations.set(*keyspace, usage.generation, Lsn::ZERO);
        }
        let core = Core::new(parts.id, parts.applied.clone(), parts.limits);
        Shard {
            quotas: core.quotas(),
            id: parts.id,
            engine: parts.engine,
            visible,
            hasher: Hasher::new(&parts.applied),
            durable: AtomicU64::new(parts.applied.lsn.0),
            pins: AtomicU64::new(0),
            time_ms: AtomicU64::new(parts.applied.time.ms()),
            clocks_ms: [u64::MAX, u64::MAX].map(AtomicU64::new),
            sweep_from: Mutex::default(),
            core: Mutex::new(core),
            term: AtomicU64::new(0),
            term_ends: Mutex::new(Vec::new()),
            staged_bytes: AtomicUsize::new(0),
            overlay_rows: AtomicUsize::new(0),
            staged: Condvar::new(),
            committed: Condvar::new(),
            staged_bytes_max: parts.limits.staged_bytes_max,
            scan_bytes_max: parts.limits.scan_bytes_max,
            stopping: AtomicBool::new(false),
            digests_wanted: AtomicBool::new(false),
            digest_job: Mutex::new(None),
        }
    }

    /// Which shard this is.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// The engine below.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// A key of this shard.
    pub fn key<'k>(&self, keyspace: KeyspaceId, user_key: &'k [u8]) -> KeyRef<'k> {
        KeyRef::new(&self.visible.generations, self.hasher.get(), keyspace, user_key)
    }

    /// Moves shard time to the clocks' readings and gives it, in milliseconds since 1970, with
    /// whether the wall clock had jumped too far ahead.
    ///
    /// Called once a turn of every data thread, so it takes the lock only when a new millisecond has
    /// begun, and waits for it only when others have held it for longer than a few.
    pub fn advance_time(&self, wall_ms: u64, monotonic_ms: u64) -> (u64, bool) {
        let [wall, monotonic] = self.clocks_ms.each_ref().map(|ms| ms.load(Ordering::Acquire));
        let behind_ms = wall_ms.abs_diff(wall).max(monotonic_ms.abs_diff(monotonic));
        if behind_ms == 0 {
            return (self.now_ms(), false);
        }
        let free = self.core.try_lock();
        let mut core = match free {
            None if behind_ms <= TIME_BEHIND_MS_MAX => return (self.now_ms(), false),
            free => free.unwrap_or_else(|| self.core.lock()),
        };
        self.clocks_ms[0].store(wall_ms, Ordering::Release);
        self.clocks_ms[1].store(monotonic_ms, Ordering::Release);
        let jumped = core.advance_time(wall_ms, monotonic_ms);
        self.time_ms.store(core.now_ms(), Ordering::Release);
        (core.now_ms(), jumped)
    }

    /// Shard time in milliseconds, as of the last [`Self::advance_time`].
    pub fn now_ms(&self) -> u64 {
        self.time_ms.load(Ordering::Acquire)
    }

    // ---- reads -------------------------------------------------------------------------------

    /// Runs a read of these keys: without the lock if nothing staged touches them, else on a
    /// pinned view. `tier` says whether the disk may be touched; if not, a row that is not in
    /// memory gives [`OpError::Miss`] or [`OpError::ColdRange`].
    pub fn read<R>(
        &self,
        keys: &[KeyRef<'_>],
        tier: Tier,
        mut op: impl FnMut(&mut Txn<'_>) -> Result<R, OpError>,
    ) -> Result<Done<R>, OpError> {
        let term = self.term();
        let buckets = &self.visible.buckets;
        let quiet = Witness::of(buckets, keys.iter().map(KeyRef::bucket));
        let before = self.visible.before_one();
        let is_still = || before.is_some_and(|before| self.visible.is_still(before));
        let one = keys.len() == 1 && before.is_some();
        if quiet.is_some() || one {
            let staged = if quiet.is_some() { Staged::None } else { Staged::OneHead };
            let mut txn = self.txn(View { staged, source: self.live(), tier }, None);
            let result = op(&mut txn);
            let observed = txn.observed;
            // The head alone is read at one moment even while it is staged.
            let at_once = one && txn.has_read_one_head() && is_still();
            // A key that a flush has just emptied is nothing staged, yet others may be on their way.
            let flushed = keys.iter().any(|key| key.flushed > self.durable());
            let still = || quiet.is_some_and(|witness| witness.unchanged(buckets));
            if at_once || ((!flushed || is_still()) && still()) {
                return Ok(Done { value: result?, gate: self.gate(term, observed) });
            }
        }
        let pin = self.pin(keys)?;
        let mut txn = self.txn(pin.view(tier), None);
        let value = op(&mut txn)?;
        let observed = txn.observed;
        Ok(Done { value, gate: self.gate(term, observed) })
    }

    /// Runs a read over a whole keyspace from a head position on: staged heads are seen up to a
    /// bound, and the position behind which they were not is told to the op.
    pub fn read_heads<R>(
        &self,
        from: &[u8],
        tier: Tier,
        mut op: impl FnMut(&mut Txn<'_>, Option<&[u8]>) -> Result<R, OpError>,
    ) -> Result<Done<R>, OpError> {
        /// Staged heads that one step copies under the lock: some 100 microseconds.
        const STAGED_HEADS_MAX: usize = 2048;
        let term = self.term();
        let (pin, seen_until) = {
            self.pins.fetch_add(1, Ordering::Relaxed);
            let core = self.core.lock();
            let heads = core.staged_heads(from, &[], STAGED_HEADS_MAX + 1).into_iter();
            let owned = heads
                .map(|(row, (value, lsn))| (row.clone(), StagedRow { lsn, value: value.clone() }));
            let mut staged: StagedRows = owned.collect();
            let more = staged.len() > STAGED_HEADS_MAX;
            let seen_until = more.then(|| staged.pop_last()).flatten().map(|(row, _)| row);
            (Pin { staged, snapshot: self.engine.snapshot()? }, seen_until)
        };
        let mut txn = self.txn(pin.view(tier), None);
        let value = op(&mut txn, seen_until.as_deref())?;
        let observed = txn.observed;
        Ok(Done { value, gate: self.gate(term, observed) })
    }

    /// Usage of a keyspace, staged records included.
    pub fn usage(&self, keyspace: KeyspaceId) -> Done<(u64, u64)> {
        let term = self.term();
        let core = self.core.lock();
        let usage = core.usage(keyspace);
        let value = (usage.keys.max(0) as u64, usage.bytes.max(0) as u64);
        Done { value, gate: self.gate(term, core.positions().0) }
    }

    /// How many reads so far needed more than the row cache: a view of staged rows and engine at one moment.
    pub fn pins(&self) -> u64 {
        self.pins.load(Ordering::Relaxed)
    }

    fn pin(&self, keys: &[KeyRef<'_>]) -> Result<Pin, OpError> {
        self.pins.fetch_add(1, Ordering::Relaxed);
        let core = self.core.lock();
        let mut rows = StagedRows::new();
        for key_ref in keys {
            let Some(staged) = self.visible.cache.staged(&key_ref.row) else { continue };
            // Whoever stages a member stages its head too, so a key whose head is not staged has
            // nothing in the overlay.
            let head = staged.value.as_deref().and_then(holdfast_base::Head::decode);
            let collection = head.and_then(|head| head.collection());
            rows.insert(key_ref.row.clone(), staged);
            if let Some(id) = collection {
                let mut from = Vec::new();
                key::collection(&mut from, key_ref.slot, id);
                let to = key::after_prefix(&from).unwrap_or_default();
                for (row, staged) in core.overlay.range(&from, &to) {
                    rows.insert(row.clone(), staged.clone());
                }
            }
        }
        Ok(Pin { staged: rows, snapshot: self.engine.snapshot()? })
    }

    fn live(&self) -> Source<'_> {
        let Visible { cache, buckets, .. } = &self.visible;
        Source::Live { engine: &*self.engine, cache, buckets }
    }

    fn txn<'a>(&'a self, view: View<'a>, staged: Option<(&'a AppliedState, Lsn)>) -> Txn<'a> {
        let names = (self.id, self.hasher.get(), &self.visible.generations);
        Txn::new(view, names, self.now_ms(), self.scan_bytes_max, staged)
    }

    /// How often the log has failed. Read before a view is taken, never after: see [`Gate`].
    fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    fn gate(&self, term: u64, observed: Lsn) -> Option<Gate> {
        let gate = Gate { shard: self.id, lsn: observed, term };
        (self.gate_state(gate) != GateState::Durable).then_some(gate)
    }

    /// See [`LogState`].
    pub fn log_state(&self) -> LogState {
        LogState(self.durable(), self.term())
    }

    /// Whether a reply may leave.
    pub fn gate_state(&self, gate: Gate) -> GateState {
        // The position is read before the term: if the term is still the gate's, so was the
        // position's.
        let durable = self.durable();
        if self.term() == gate.term {
            return if gate.lsn <= durable { GateState::Durable } else { GateState::Waiting };
        }
        let ends = self.term_ends.lock();
        let end = ends.get(gate.term as usize).copied().unwrap_or_default();
        if gate.lsn <= end { GateState::Durable } else { GateState::Lost }
    }

    /// Brings rows into memory that a `Miss` named. May block on the disk.
    pub fn warm(&self, rows: &[SharedBytes]) -> Result<(), Error> {
        for row in rows {
            self.engine.get(row, Tier::Any)?;
        }
        Ok(())
    }

    // ---- writes ------------------------------------------------------------------------------

    /// Runs a write under the shard lock and stages its effects as one record.
    pub fn write<R>(
        &self,
        tier: Tier,
        op: impl FnOnce(&mut Txn<'_>) -> Result<R, OpError>,
    ) -> Result<Done<R>, OpError> {
        self.write_unless_changed(&[], tier, op).map(|done| Done {
            value: done.value.expect("nothing is watched, so nothing watched can change"),
            gate: done.gate,
        })
    }

    /// As [`Self::write`], but does nothing and gives `None` if a watched key has changed.
    pub fn write_unless_changed<R>(
        &self,
        watched: &[WatchedKey],
        tier: Tier,
        op: impl FnOnce(&mut Txn<'_>) -> Result<R, OpError>,
    ) -> Result<Done<Option<R>>, OpError> {
        let mut core = self.core.lock();
        let term = self.term();
        let now_ms = core.now_ms();
        let changed = watched.iter().any(|key| {
            core.watch_changed(&key.row, key.seen)
                || key.deadline_ms.is_some_and(|deadline| deadline <= now_ms)
        });
        if changed {
            return Ok(Done { value: None, gate: None });
        }
        let effects = core.take_spare();
        let staged = Some((&core.staged, core.positions().0));
        let view = View { staged: Staged::All(&core), source: self.live(), tier };
        let mut txn = self.txn(view, staged);
        txn.pending.effects = effects;
        let value = op(&mut txn)?;
        let (pending, observed, next) = (txn.pending, txn.observed, txn.next_collection);
        let lsn = core.stage(pending, next, &self.visible)?;
        self.tell_staged(&core);
        let is_full = core.has_full_batch();
        drop(core);
        if is_full {
            self.staged.notify_all();
        }
        let seen = lsn.unwrap_or_default().max(observed);
        Ok(Done { value: Some(value), gate: self.gate(term, seen) })
    }

    /// Watches a key from now on.
    pub fn watch(&self, key: &KeyRef<'_>, tier: Tier) -> Result<WatchedKey, OpError> {
        let row = key.row.clone();
        let seen = self.core.lock().watch(row.clone());
        let mut watched = WatchedKey { row, seen, deadline_ms: None };
        // Read after the watch began: a change in between is then seen as a change.
        let head = self.read(std::slice::from_ref(key), tier, |txn| txn.head(key));
        match head {
            Ok(done) => {
                watched.deadline_ms = done.value.and_then(|stored| stored.head().deadline_ms);
                Ok(watched)
            }
            Err(error) => {
                self.unwatch(&[watched]);
                Err(error)
            }
        }
    }

    /// Watches no longer.
    pub fn unwatch(&self, watched: &[WatchedKey]) {
        if watched.is_empty() {
            return;
        }
        let mut core = self.core.lock();
        for key in watched {
            core.unwatch(&key.row);
        }
    }

    /// Says what a keyspace may hold. Takes no lock.
    pub fn set_quota(&self, keyspace: KeyspaceId, quota: KeyspaceQuota) {
        self.quotas.set(keyspace, quota);
    }

    /// Says whether the disk has room for writes that add keys or bytes; others are always let in,
    /// so that a full disk can be emptied.
    pub fn admit_growth(&self, admitted: bool) {
        self.core.lock().growth_admitted = admitted;
    }

    /// Whether there is room for more staged records.
    pub fn pressure(&self) -> Pressure {
        if self.staged_bytes.load(Ordering::Acquire) > self.staged_bytes_max {
            Pressure::StopReading
        } else {
            Pressure::None
        }
    }

    // ---- the commit path ---------------------------------------------------------------------

    /// Becomes the owner at a freshly opened session's position; stages the take-over record.
    pub fn take_over(&self, position: &Position, owner: &[u8]) -> Result<(), Error> {
        let mut core = self.core.lock();
        core.take_over(position, owner, &self.visible)?;
        core.submitted = true;
        self.visible.cache.clear();
        self.staged.notify_all();
        Ok(())
    }

    /// Lets the committer take what is staged. Until then it gathers: a caller that has more requests at hand
    /// runs these first, and one write and one sync serve all of them.
    pub fn submit(&self) {
        let mut core = self.core.lock();
        if core.has_batch() && !core.submitted {
            core.submitted = true;
            self.staged.notify_all();
        }
    }

    /// Waits until what is staged is submitted or the shard stops; false if nothing is staged after `timeout`.
    pub fn wait_staged(&self, timeout: std::time::Duration) -> bool {
        let mut core = self.core.lock();
        if !core.is_submitted() && !self.is_stopping() {
            self.staged.wait_for(&mut core, timeout);
        }
        core.has_batch()
    }

    /// Makes what is staged durable: one group, one sync.
    pub fn commit_step(&self, session: &mut dyn Session) -> CommitStep {
        let Some(batch) = self.take_batch() else { return CommitStep::Idle };
        let resolved = match session.submit(vec![batch]) {
            Ok(()) => session.complete(),
            Err(refused) => return self.refused(&refused),
        };
        self.resolve(resolved)
    }

    /// Takes in that the log's session is over, whether or not something was staged.
    pub fn refused(&self, refused: &Refused) -> CommitStep {
        self.failed(Error::new(refused.kind(), refused.to_string()))
    }

    /// What is staged, as one batch for the log; [`Self::resolve`] follows in the same order.
    pub fn take_batch(&self) -> Option<holdfast_base::record::Batch> {
        self.core.lock().take_batch()
    }

    /// Takes in how the log resolved the oldest batch.
    pub fn resolve(&self, completion: Option<Completion>) -> CommitStep {
        match completion.map(|completion| completion.outcome) {
            Some(Outcome::Durable) => CommitStep::Durable(self.on_durable()),
            Some(Outcome::Fenced(epoch)) => {
                let text = format!("another owner has taken the shard over in epoch {epoch}");
                self.failed(Error::new(ErrorKind::NotOwner, text))
            }
            Some(Outcome::Unknown(why)) => self.failed(Error::new(ErrorKind::UnknownOutcome, why)),
            None => self.failed(Error::new(ErrorKind::Internal, "the log lost a submitted batch")),
        }
    }

    /// The oldest batch taken is durable: replies may leave, records may be applied.
    pub(crate) fn on_durable(&self) -> Lsn {
        let durable = self.core.lock().on_durable();
        self.durable.store(durable.0, Ordering::Release);
        self.committed.notify_all();
        durable
    }

    fn failed(&self, error: Error) -> CommitStep {
        let mut core = self.core.lock();
        core.on_failed(error.clone(), &self.visible);
        self.tell_staged(&core);
        self.term_ends.lock().push(self.durable());
        self.term.fetch_add(1, Ordering::AcqRel);
        drop(core);
        self.visible.cache.clear();
        CommitStep::Failed(error)
    }

    /// The last durable position.
    #[inline]
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Waits until something durable waits to be applied or the shard stops; false after `timeout`.
    pub fn wait_committed(&self, timeout: std::time::Duration) -> bool {
        let mut core = self.core.lock();
        if core.is_drained() && !self.is_stopping() {
            self.committed.wait_for(&mut core, timeout);
        }
        !core.is_drained()
    }

    /// Moves durable records into the engine, then the row cache, then out of the overlay. Gives
    /// the number of records; after an error they stay where they are.
    pub fn apply_step(&self, bytes_max: usize) -> Result<usize, Error> {
        let committed = self.core.lock().committed();
        let Some(Step { groups, state, digest }) = committed.first(bytes_max) else { return Ok(0) };
        let records = || groups.iter().flat_map(|group| group.iter());
        let rows = records().flat_map(|record| &record.rows);
        let mut batch = Batch::new();
        for row in newest_in_key_order(rows, |row| &row.key) {
            match &row.value {
                Some(value) => batch.put(&row.key, value),
                None => batch.delete(&row.key),
            }
        }
        let mut applied = Vec::new();
        key::applied(&mut applied, self.id);
        batch.put(&applied, &state.encode());
        self.engine.write(&batch)?;
        if let Some(tick) = digest {
            self.begin_digest(state.lsn, tick)?;
        }
        let cache = &self.visible.cache;
        for row in records().flat_map(|record| &record.rows) {
            if !is_head(&row.key) {
                cache.replace(&row.key, &row.value);
            }
        }
        // One group at a time: nobody waits for the lock as long as all of them take.
        for _ in &groups {
            self.core.lock().on_applied(&self.visible);
        }
        self.tell_staged(&self.core.lock());
        // A head that still shows as staged says the same as the engine: no lock is needed for it.
        for record in records() {
            let heads = record.rows.iter().map(|row| &row.key).filter(|key| is_head(key));
            heads.for_each(|key| cache.applied(key, record.lsn));
        }
        Ok(records().count())
    }

    /// Says whether rows are to be digested at the moments that the log gives.
    pub fn want_digests(&self, wanted: bool) {
        self.digests_wanted.store(wanted, Ordering::Release);
    }

    /// The rows that are to be digested now, if any are.
    pub fn take_digest_job(&self) -> Option<DigestJob> {
        self.digest_job.lock().take()
    }

    /// Takes hold of the rows as they are now. One job waits at most: who is slow leaves some out.
    fn begin_digest(&self, lsn: Lsn, tick: u64) -> Result<(), Error> {
        let mut job = self.digest_job.lock();
        if self.digests_wanted.load(Ordering::Acquire) && job.is_none() {
            let snapshot = self.engine.snapshot()?;
            *job = Some(DigestJob { shard: self.id, lsn, tick, snapshot });
        }
        Ok(())
    }

    /// Whether every durable record is in the engine.
    pub fn is_drained(&self) -> bool {
        self.core.lock().is_drained()
    }

    /// The last position that a crash of this process and its machine would leave in the engine.
    pub fn flushed(&self) -> Result<Lsn, Error> {
        let mut row = Vec::new();
        key::applied(&mut row, self.id);
        match self.engine.get(&row, Tier::Persisted)? {
            holdfast_engine::Lookup::Found(stored) => AppliedState::decode(&stored)
                .map(|state| state.lsn)
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the applied state does not decode")),
            _ => Ok(Lsn::ZERO),
        }
    }

    /// Whether something is staged and not yet taken by the committer.
    pub fn has_staged(&self) -> bool {
        self.core.lock().has_batch()
    }

    /// Bytes of records between staging and applying.
    pub fn staged_bytes(&self) -> usize {
        self.staged_bytes.load(Ordering::Acquire)
    }

    /// Whether nothing but heads is staged: readers then find all of it in the row cache, at no more
    /// cost than applied rows.
    pub fn has_only_heads_staged(&self) -> bool {
        self.overlay_rows.load(Ordering::Acquire) == 0
    }

    fn tell_staged(&self, core: &Core) {
        self.staged_bytes.store(core.staged_bytes(), Ordering::Release);
        self.overlay_rows.store(core.overlay.len(), Ordering::Release);
    }

    /// Bytes of records staged since the shard was opened.
    pub fn staged_bytes_total(&self) -> u64 {
        self.core.lock().staged_bytes_total()
    }

    /// Why writes are refused, if they are.
    pub fn failure(&self) -> Option<Error> {
        self.core.lock().failure().cloned()
    }

    /// Ends the waits of all threads.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.core.lock());
        self.staged.notify_all();
        self.committed.notify_all();
    }

    /// Whether [`Self::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Figures for metrics.
    pub fn stats(&self) -> ShardStats {
        let (rows, staged_heads) = self.visible.cache.len();
        let core = self.core.lock();
        let (staged_lsn, durable_lsn, applied_lsn) = core.positions();
        ShardStats {
            staged_lsn,
            durable_lsn,
            applied_lsn,
            staged_bytes: core.staged_bytes() as u64,
            overlay_rows: (core.overlay.len() + staged_heads) as u64,
            row_cache_bytes: self.visible.cache.bytes(),
            row_cache_rows: rows as u64,
            failed: core.failure().is_some(),
        }
    }

    #[cfg(test)]
    pub(crate) fn visible(&self) -> &Visible {
        &self.visible
    }

    /// Whether a generation is in use as far as records are applied.
    pub(crate) fn is_applied_generation(&self, generation: Generation) -> bool {
        self.core.lock().is_applied_generation(generation)
    }

    /// The generation of a keyspace, to notice that it was emptied meanwhile.
    pub fn generation(&self, keyspace: KeyspaceId) -> Generation {
        self.visible.generations.get(keyspace).unwrap_or_default().0
    }

    /// The keyspace that a generation belongs to now, if any.
    pub(crate) fn keyspace_of(&self, generation: Generation) -> Option<KeyspaceId> {
        let first = u16::try_from(generation.0).map(KeyspaceId).ok();
        let current = |id: &KeyspaceId| {
            self.visible.generations.get(*id).is_some_and(|(current, _)| current == generation)
        };
        first.filter(current).or_else(|| {
            let core = self.core.lock();
            core.staged.keyspaces.keys().copied().find(|id| current(id))
        })
    }
}

#[cfg(test)]
mod tests;
