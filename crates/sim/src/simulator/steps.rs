//! The steps that a run is made of, and how often each is taken.
//!
//! Every seed has weights of its own, many of them zero or tripled: runs that never flush, or do
//! little else, reach what a mixture of everything does not.

use holdfast_base::{ErrorKind, Lsn, Slot};
use holdfast_engine::{Engine, EngineError, EngineErrorKind, Tier};
use holdfast_io::{Clock, Random, SeededRandom};
use holdfast_log::Log;

use super::{
    Case, Checked, Planted,
    ask::Ask,
    cells::{CellOp, CellReply},
    clients::{Clients, Watching},
    life::{LOG_DIR, SHARD},
    violation,
    world::{FREE_BYTES, World},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Ask,
    Retry,
    Watch,
    HandOver,
    Resolve,
    Commit,
    Watermark,
    Apply,
    FlushEngine,
    FlushSome,
    Trim,
    TrimUnsynced,
    Expire,
    SweepCollections,
    SweepGeneration,
    Clock,
    ClockJump,
    FailSync,
    FailEngineWrite,
    FailEngineFlush,
    FillDisk,
    FreeDisk,
    PlanPowerCut,
    PowerCut,
    Kill,
    Recover,
    Backup,
}

/// Each step's usual weight, and whether a seed may change it.
const USUAL: [(Step, u64, bool); 27] = [
    (Step::Ask, 300, false),
    (Step::Retry, 60, false),
    (Step::Watch, 12, true),
    (Step::HandOver, 60, false),
    (Step::Resolve, 60, false),
    (Step::Commit, 30, true),
    (Step::Watermark, 10, true),
    (Step::Apply, 80, false),
    (Step::FlushEngine, 8, true),
    (Step::FlushSome, 8, true),
    (Step::Trim, 14, true),
    (Step::TrimUnsynced, 3, true),
    (Step::Expire, 14, true),
    (Step::SweepCollections, 8, true),
    (Step::SweepGeneration, 6, true),
    (Step::Clock, 40, false),
    (Step::ClockJump, 2, true),
    (Step::FailSync, 5, true),
    (Step::FailEngineWrite, 4, true),
    (Step::FailEngineFlush, 2, true),
    (Step::FillDisk, 3, true),
    (Step::FreeDisk, 6, false),
    (Step::PlanPowerCut, 6, true),
    (Step::PowerCut, 4, true),
    (Step::Kill, 4, true),
    (Step::Recover, 40, false),
    (Step::Backup, 3, false),
];

/// How often each step is taken in one run.
pub(super) struct Weights {
    steps: Vec<(Step, u64)>,
    total: u64,
    /// Probability that something happens in the middle of a read or an apply.
    pub interrupt: f64,
}

impl Weights {
    pub fn new(random: &mut SeededRandom) -> Weights {
        let mut steps = Vec::with_capacity(USUAL.len());
        for (step, weight, may_change) in USUAL {
            let factor = if may_change { *random.pick(&[0, 1, 1, 3]).unwrap_or(&1) } else { 1 };
            steps.push((step, weight * factor));
        }
        let total = steps.iter().map(|(_, weight)| weight).sum();
        let interrupt = *random.pick(&[0.0, 0.1, 0.3]).unwrap_or(&0.0);
        Weights { steps, total, interrupt }
    }

    fn choose(&self, random: &mut SeededRandom) -> Step {
        let mut left = random.below(self.total);
        for (step, weight) in &self.steps {
            if left < *weight {
                return *step;
            }
            left -= weight;
        }
        Step::Ask
    }
}

impl World {
    /// One random step.
    pub fn step(&mut self) -> Checked<()> {
        if self.power_is_out() {
            self.reached.hit(Case::PowerCutWithinLog);
            return self.power_cut();
        }
        let step = self.weights.choose(&mut self.random);
        let life = self.life();
        match step {
            Step::Ask => return self.step_ask(),
            Step::Retry => return self.step_retry(),
            Step::Watch => return self.step_watch(),
            Step::HandOver => {
                for commit in life.hand_over() {
                    self.committed(commit)?;
                }
            }
            Step::Resolve => {
                let commit = life.resolve();
                self.committed(commit)?;
            }
            Step::Commit => {
                let commit = life.commit();
                self.committed(commit)?;
            }
            Step::Watermark => return self.step_watermark(),
            Step::Apply => return self.step_apply(),
            Step::FlushEngine => return self.step_flush(),
            Step::FlushSome => {
                let count = self.random.below(1 + self.engine.model.unflushed() as u64) as usize;
                self.trace.note(format_args!("the engine flushes {count}"));
                self.engine.model.flush_oldest(count);
            }
            Step::Trim => return self.step_trim(),
            Step::TrimUnsynced => {
                // The next sync is the folder's, if a segment goes.
                self.faulty = true;
                self.fail_sync(LOG_DIR, 1);
                return self.step_trim();
            }
            Step::Expire => return self.step_expire(),
            Step::SweepCollections => return self.step_sweep_collections(),
            Step::SweepGeneration => return self.step_sweep_generation(),
            Step::Clock => {
                let ms = self.random.below(60);
                self.clock.advance(ms);
                return self.advance_time();
            }
            Step::ClockJump => return self.step_clock_jump(),
            Step::Recover if self.failed => return self.recover(),
            Step::Recover => {}
            Step::Backup if self.plan.planted == Some(Planted::PositionsReused) => {
                return self.back_up();
            }
            Step::Backup => {}
            Step::PowerCut => return self.power_cut(),
            Step::Kill => return self.kill(),
            fault => self.order_fault(fault),
        }
        Ok(())
    }

    fn order_fault(&mut self, fault: Step) {
        self.faulty |= fault != Step::FreeDisk;
        self.trace.note(format_args!("{fault:?}"));
        let injected = || EngineError::new(EngineErrorKind::Io, "injected");
        match fault {
            Step::FailSync => {
                // Groups, the reserve, and with any of them the changes of names.
                let part = *self.random.pick(&[".seg", "reserve", LOG_DIR]).unwrap_or(&LOG_DIR);
                let nth = 1 + self.random.below(3);
                self.fail_sync(part, nth);
            }
            Step::FailEngineWrite => self.engine.model.fail_next_write(injected()),
            Step::FailEngineFlush => self.engine.model.fail_next_flush(injected()),
            Step::FillDisk => {
                let bytes = self.random.below(3 * self.setup.segment_bytes);
                self.disk.set_free_bytes(bytes);
            }
            Step::FreeDisk => self.disk.set_free_bytes(FREE_BYTES),
            _ => {
                let count = self.random.below(12);
                self.plan_power_cut(count);
            }
        }
    }

    fn fail_sync(&mut self, part: &str, nth: u64) {
        self.names_at_risk |= part != ".seg";
        self.sync_faults += 1;
        self.disk.fail_sync(part, nth);
    }

    fn step_ask(&mut self) -> Checked<()> {
        let client = self.random.below(self.clients.count() as u64) as usize;
        if !self.clients.is_free(client) {
            return Ok(());
        }
        let ask = self.clients.next_ask(client, &mut self.random, self.now_ms);
        self.ask(client, ask, Tier::Cached)
    }

    fn step_retry(&mut self) -> Checked<()> {
        let client = self.random.below(self.clients.count() as u64) as usize;
        let Some(retry) = self.clients.retry(client) else { return Ok(()) };
        if let Err(error) = self.life().shard.warm(&retry.rows) {
            self.excuse("warm", &error)?;
        }
        let cold = retry.rows.is_empty() || retry.tries >= 3;
        let tier = if cold { Tier::Any } else { Tier::Cached };
        self.execute(client, &retry.ask, tier)
    }

    fn step_watch(&mut self) -> Checked<()> {
        let client = self.random.below(self.clients.count() as u64) as usize;
        if !self.clients.is_free(client) || self.clients.watching(client).is_some() {
            return Ok(());
        }
        let cells = Clients::cells_to_watch(&mut self.random);
        let life = self.life();
        let mut keys = Vec::new();
        for cell in &cells {
            let (keyspace, name) = super::ask::cell(*cell);
            match life.shard.watch(&life.shard.key(keyspace, &name), Tier::Any) {
                Ok(watched) => keys.push(watched),
                Err(error) => return violation(format!("watch {cell}: {error:?}")),
            }
        }
        let ops: Vec<_> = cells.iter().map(|cell| (*cell, CellOp::Get)).collect();
        let ask = Ask::Cells(ops);
        // The values are those that this very read gives; it is answered like any other.
        let read = ask.execute(&life.shard, &[], Tier::Any);
        let Ok(super::ask::Answer::Cells(replies)) = read.clone().map(|done| done.value) else {
            return violation(format!("read under watch: {read:?}"));
        };
        let value = |reply: &CellReply| match reply {
            CellReply::Value(value) => *value,
            _ => None,
        };
        let values = cells.iter().copied().zip(replies.iter().map(value)).collect();
        self.clients.send(client, ask);
        let now_ms = life.shard.now_ms();
        self.clients.executed(client, now_ms, read, &mut self.reached, &mut self.trace)?;
        self.release();
        *self.clients.watching(client) = Some(Watching { keys, values });
        Ok(())
    }

    fn step_watermark(&mut self) -> Checked<()> {
        let life = self.life();
        if self.failed || life.in_flight() > 0 {
            return Ok(());
        }
        match life.watermark() {
            Ok(()) => self.reached.hit(Case::Watermark),
            Err(error) => {
                let error = holdfast_base::Error::new(ErrorKind::Unavailable, error.to_string());
                self.excuse("watermark", &error)?;
            }
        }
        Ok(())
    }

    fn step_apply(&mut self) -> Checked<()> {
        let bytes = 1 << self.random.below(20);
        let armed = self.arm_apply();
        let life = self.life();
        let applied = life.shard.apply_step(bytes);
        if armed {
            self.disarm(None)?;
        }
        match applied {
            Ok(0) => {}
            Ok(count) => self.trace.note(format_args!("applied {count}")),
            Err(error) => {
                self.reached.hit(Case::EngineWriteFailed);
                self.excuse("apply", &error)?;
            }
        }
        Ok(())
    }

    fn step_flush(&mut self) -> Checked<()> {
        self.trace.note("the engine flushes");
        if let Err(error) = self.engine.flush() {
            self.reached.hit(Case::EngineFlushFailed);
            self.excuse("engine flush", &error.into())?;
        }
        Ok(())
    }

    fn step_trim(&mut self) -> Checked<()> {
        let life = self.life();
        // What the follower has not read must not go.
        if let Err(error) = self.archive.follow(SHARD, &life.log, self.archive.last().next())? {
            return self.excuse("read of the log", &error);
        }
        let flushed = life.shard.flushed().or_else(|error| violation(error.to_string()))?;
        let safe = flushed.next();
        let planted = self.plan.planted == Some(Planted::TrimTooEarly);
        let below = if planted { life.shard.durable().next() } else { safe };
        let before = life.log.bounds(SHARD).first;
        match life.log.trim(SHARD, below) {
            Ok(first) => {
                if first > safe && !planted {
                    return violation(format!("trimmed to {first}, flushed is {flushed}"));
                }
                self.reached.hit_if(first > before, Case::Trimmed);
                self.trace.note(format_args!("the log begins at {first}"));
            }
            Err(error) => {
                let error = holdfast_base::Error::new(error.kind(), error.to_string());
                let uncertain = error.text().contains("sync directory");
                self.reached.hit_if(uncertain, Case::TrimNotSynced);
                self.excuse("trim", &error)?;
            }
        }
        if let Err(error) = life.log.prepare_reserve() {
            let error = holdfast_base::Error::new(error.kind(), error.to_string());
            self.reached.hit_if(error.kind() == ErrorKind::Full, Case::DiskFull);
            self.reached.hit_if(error.text().contains("sync log/reserve"), Case::ReserveNotSynced);
            self.excuse("reserve", &error)?;
        }
        Ok(())
    }

    fn step_expire(&mut self) -> Checked<()> {
        let keys_max = 1 + self.random.below(8) as usize;
        let before = self.life().shard.stats().staged_lsn;
        // Now and then from the beginning, as the server does: a failure of the log takes deletions
        // back that expiry had gone past.
        if self.random.chance(0.2) {
            self.expire_at = Default::default();
        }
        match self.life().shard.expire_step(&self.expire_at, keys_max) {
            Ok(step) => {
                let staged = self.life().shard.stats().staged_lsn > before;
                self.reached.hit_if(staged, Case::ExpiredByRecord);
                let holdfast_shard::ExpiryStep { handled, expired, .. } = step;
                self.trace.note(format_args!("expiry looked at {handled}, deleted {expired}"));
                self.expire_at = step.next;
                Ok(())
            }
            Err(holdfast_shard::OpError::Fault(error)) => self.excuse("expiry", &error),
            Err(other) => violation(format!("expiry: {other:?}")),
        }
    }

    fn step_sweep_collections(&mut self) -> Checked<()> {
        let count = 1 + self.random.below(4) as usize;
        match self.life().shard.sweep_collections(count) {
            Ok(count) => {
                self.reached.hit_if(count > 0, Case::CollectionSwept);
                self.trace.note(format_args!("swept {count} collections"));
                Ok(())
            }
            Err(holdfast_shard::OpError::Fault(error)) => self.excuse("sweep", &error),
            Err(other) => violation(format!("sweep: {other:?}")),
        }
    }

    fn step_sweep_generation(&mut self) -> Checked<()> {
        // A turn of the sweeper is several steps here: one looks into 512 of 16,384 slots.
        for _ in 0..1 + self.random.below(12) {
            match self.life().shard.sweep_generation(self.sweep_at) {
                Ok(Some(next)) => {
                    self.reached.hit_if(next.1 == Slot(0), Case::GenerationSwept);
                    self.sweep_at = Some(next);
                }
                Ok(None) => {
                    self.sweep_at = None;
                    break;
                }
                Err(holdfast_shard::OpError::Fault(error)) => self.excuse("sweep", &error)?,
                Err(other) => return violation(format!("sweep: {other:?}")),
            }
        }
        self.trace.note(format_args!("swept up to {:?}", self.sweep_at));
        Ok(())
    }

    fn step_clock_jump(&mut self) -> Checked<()> {
        let ms = *self.random.pick(&[-20_000, -500, 700, 5_000, 900_000]).unwrap_or(&0);
        self.reached.hit_if(ms < 0, Case::ClockWentBack);
        self.clock.jump_wall(ms);
        self.advance_time()
    }

    /// Lets the shard look at the clock.
    pub fn advance_time(&mut self) -> Checked<()> {
        let (wall_ms, mono_ms) = (self.clock.wall_ms(), self.clock.monotonic_ns() / 1_000_000);
        let (now_ms, jumped) = self.life().shard.advance_time(wall_ms, mono_ms);
        self.reached.hit_if(jumped, Case::ClockJumpRefused);
        self.trace.note(format_args!("it is {now_ms}"));
        if now_ms < self.now_ms {
            return violation(format!("shard time went from {} to {now_ms}", self.now_ms));
        }
        self.now_ms = now_ms;
        Ok(())
    }

    /// Removes everything that is past its deadline or that nothing leads to.
    pub fn sweep_all(&mut self) -> Checked<()> {
        let life = self.life();
        fn fine<T>(result: Result<T, holdfast_shard::OpError>) -> Checked<T> {
            result.or_else(|error| violation(format!("{error:?}")))
        }
        // Those that are past their deadline first: that drops collections.
        while fine(life.shard.expire_step(&Default::default(), 100))?.handled > 0 {
            self.drain()?;
        }
        while let Some(next) = fine(life.shard.sweep_generation(self.sweep_at))? {
            self.sweep_at = Some(next);
        }
        while fine(life.shard.sweep_collections(100))? > 0 {}
        Ok(())
    }

    /// The last position that is durable in the engine.
    pub fn flushed(&self) -> Lsn {
        let stored = super::life::stored_state(&self.engine, Tier::Persisted);
        stored.ok().flatten().map_or(Lsn::ZERO, |state| state.lsn)
    }
}
