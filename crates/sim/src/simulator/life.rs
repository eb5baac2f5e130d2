//! One life of the simulated process: its log, its shard and the commits under way.
//!
//! The calls are those of the server's committer, applier and background threads, one at a time.
//! Everything here goes when the process stops; what stays is on the disk and in the engine.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use holdfast_base::{
    Epoch, Error, ErrorKind, Lsn, ShardId, key,
    record::{Batch, BatchView},
    row::AppliedState,
};
use holdfast_engine::{Engine, Lookup, Tier};
use holdfast_io::{Clock, Random, SimClock, SimDisk};
use holdfast_log::{
    Completion, EmbeddedLog, EmbeddedOptions, Log, LogError, OpenMode, Outcome, Refused, Session,
};
use holdfast_shard::{CommitStep, Limits, Shard, ShardParts, replay};
use parking_lot::Mutex;

use super::{Planted, engine::SimEngine, planted_disk::disk_for_log};

/// The only shard.
pub(super) const SHARD: ShardId = ShardId(0);
/// Folder of the log.
pub(super) const LOG_DIR: &str = "log";

/// A session that remembers what it was handed.
struct Recorder {
    session: Box<dyn Session>,
    /// Chained checksums of the records handed over and not resolved.
    chains: BTreeMap<Lsn, u32>,
    in_flight: VecDeque<Lsn>,
    /// The last position that was handed over.
    handed: Lsn,
}

impl Session for Recorder {
    fn epoch(&self) -> Epoch {
        self.session.epoch()
    }

    fn submit(&mut self, batches: Vec<Batch>) -> Result<(), Refused> {
        let mut chains = Vec::new();
        for batch in &batches {
            let mut bytes = batch.bytes.as_slice();
            let view = BatchView::decode(&mut bytes);
            chains.extend(view.iter().flat_map(|view| view.records()).map(|r| (r.lsn, r.chain)));
        }
        self.session.submit(batches)?;
        if let Some((last, _)) = chains.last() {
            self.handed = *last;
            self.in_flight.push_back(*last);
        }
        self.chains.extend(chains);
        Ok(())
    }

    fn complete(&mut self) -> Option<Completion> {
        self.in_flight.pop_front();
        self.session.complete()
    }

    fn watermark(&mut self) -> Result<(), LogError> {
        self.session.watermark()
    }
}

/// What a step of the committer came to.
pub(super) enum Commit {
    /// There was nothing to do.
    Idle,
    /// The log has taken records up to here.
    Handed(Lsn),
    /// Records up to here are durable: these, with their checksums.
    Durable(Lsn, Vec<(Lsn, u32)>),
    /// The log failed. Records from the position on were never handed to it.
    Failed(Error, Lsn),
}

/// See the module's head.
pub(super) struct Life {
    pub log: EmbeddedLog,
    pub shard: Shard,
    // Guards the session; the shard's and the log's locks are taken under it.
    session: Mutex<Option<Recorder>>,
}

/// How a process is set up.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub segment_bytes: u64,
    pub row_cache_bytes: u64,
}

impl Life {
    /// Starts the process on an opened log: replays it. [`Self::take_over`] follows.
    pub fn start(
        log: EmbeddedLog,
        setup: &Setup,
        engine: &SimEngine,
        clock: &SimClock,
        random: &mut dyn Random,
    ) -> Result<Life, Error> {
        let applied = replay(SHARD, &log, engine, |_| {})?;
        let applied = applied.unwrap_or_else(|| {
            let mut hash_seed = [0; 16];
            random.fill(&mut hash_seed);
            AppliedState { hash_seed, ..AppliedState::default() }
        });
        let shard = Shard::new(ShardParts {
            id: SHARD,
            engine: Arc::new(engine.clone()),
            applied,
            row_cache_bytes: setup.row_cache_bytes,
            limits: Limits::default(),
        });
        shard.advance_time(clock.wall_ms(), clock.monotonic_ns() / 1_000_000);
        Ok(Life { log, shard, session: Mutex::new(None) })
    }

    /// Opens the log, telling it what the engine holds durably.
    pub fn open_log(
        setup: &Setup,
        disk: &SimDisk,
        planted: Option<Planted>,
        engine: &SimEngine,
        random: &mut dyn Random,
    ) -> Result<EmbeddedLog, Error> {
        let stored = stored_state(engine, Tier::Persisted)?;
        let mut options = EmbeddedOptions::new(LOG_DIR, OpenMode::Create);
        options.segment_bytes = setup.segment_bytes;
        options.engine_claims = stored.iter().map(|state| (SHARD, state.lsn)).collect();
        EmbeddedLog::open(disk_for_log(disk, planted), options, random).map_err(of_log)
    }

    /// Becomes the owner, at first or after a failure.
    pub fn take_over(&self) -> Result<Epoch, Error> {
        // The old session goes first: what it had queued is withdrawn.
        *self.session.lock() = None;
        let (session, position) = self.log.open_session(SHARD).map_err(of_log)?;
        self.shard.take_over(&position, b"simulated")?;
        let handed = Lsn(position.next_lsn.0 - 1);
        let (chains, in_flight) = (BTreeMap::new(), VecDeque::new());
        *self.session.lock() = Some(Recorder { session, chains, in_flight, handed });
        Ok(position.epoch)
    }

    /// Calls handed to the log and not resolved.
    pub fn in_flight(&self) -> usize {
        self.session.lock().as_ref().map_or(0, |session| session.in_flight.len())
    }

    /// The last position handed to the log.
    pub fn handed(&self) -> Lsn {
        self.session.lock().as_ref().map_or(self.shard.durable(), |session| session.handed)
    }

    /// Hands what is staged to the log. If the log refuses, calls before are resolved first: they
    /// may be durable.
    pub fn hand_over(&self) -> Vec<Commit> {
        let mut session = self.session.lock();
        let Some(session) = session.as_mut() else { return Vec::new() };
        if session.in_flight.len() >= self.log.caps().in_flight_max {
            return Vec::new();
        }
        let Some(batch) = self.shard.take_batch() else { return Vec::new() };
        let unhanded = session.handed.next();
        let Err(refused) = session.submit(vec![batch]) else {
            return vec![Commit::Handed(session.handed)];
        };
        let mut steps = Vec::new();
        while !session.in_flight.is_empty() {
            let completion = session.complete();
            let step = self.resolved(session, completion, unhanded);
            let failed = matches!(step, Commit::Failed(..));
            steps.push(step);
            if failed {
                return steps;
            }
        }
        let outcome = Outcome::Unknown(refused.to_string());
        let refused = Completion { last_lsns: Vec::new(), outcome };
        steps.push(self.resolved(session, Some(refused), unhanded));
        steps
    }

    /// Waits for the oldest call in flight.
    pub fn resolve(&self) -> Commit {
        let mut session = self.session.lock();
        let Some(session) = session.as_mut() else { return Commit::Idle };
        if session.in_flight.is_empty() {
            return Commit::Idle;
        }
        let unhanded = session.handed.next();
        let completion = session.complete();
        self.resolved(session, completion, unhanded)
    }

    /// Both at once, as the server's committer does.
    pub fn commit(&self) -> Commit {
        let mut session = self.session.lock();
        let Some(session) = session.as_mut().filter(|session| session.in_flight.is_empty()) else {
            return Commit::Idle;
        };
        let step = self.shard.commit_step(session);
        let unhanded = session.handed.next();
        Self::told(session, step, unhanded)
    }

    fn resolved(
        &self,
        session: &mut Recorder,
        completion: Option<Completion>,
        unhanded: Lsn,
    ) -> Commit {
        let step = self.shard.resolve(completion);
        Self::told(session, step, unhanded)
    }

    fn told(session: &mut Recorder, step: CommitStep, unhanded: Lsn) -> Commit {
        match step {
            CommitStep::Idle => Commit::Idle,
            CommitStep::Durable(lsn) => {
                let later = session.chains.split_off(&lsn.next());
                let durable = std::mem::replace(&mut session.chains, later);
                Commit::Durable(lsn, durable.into_iter().collect())
            }
            CommitStep::Failed(error) => Commit::Failed(error, unhanded),
        }
    }

    /// Makes the durable position explicit, when nothing is under way.
    pub fn watermark(&self) -> Result<(), LogError> {
        match self.session.lock().as_mut().filter(|session| session.in_flight.is_empty()) {
            Some(session) => session.watermark(),
            None => Ok(()),
        }
    }
}

fn of_log(error: LogError) -> Error {
    Error::new(error.kind(), error.to_string())
}

/// The engine's applied state, at this tier.
pub(super) fn stored_state(engine: &dyn Engine, tier: Tier) -> Result<Option<AppliedState>, Error> {
    let mut row = Vec::new();
    key::applied(&mut row, SHARD);
    match engine.get(&row, tier)? {
        Lookup::Found(stored) => AppliedState::decode(&stored).map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the engine's applied state does not decode")
        }),
        _ => Ok(None),
    }
}
