//! Stops and starts: power cuts, killed processes, a log that failed, and what must hold after.

use std::sync::{Arc, atomic::Ordering};

use holdfast_base::{Error, ErrorKind, Lsn, key, row::AppliedState};
use holdfast_engine::{Batch, Engine, ModelEngine, Tier};
use holdfast_io::{Disk, Random};
use holdfast_log::{Log, embedded};

use super::{
    Case, Checked, Planted,
    life::{LOG_DIR, Life, SHARD, stored_state},
    violation,
    world::{FREE_BYTES, World},
};

/// How often a start is tried before faults are taken away.
const TRIES_WITH_FAULTS: u32 = 4;

/// A copy of log and engine, for the planted bug that puts it back.
pub(super) struct Backup {
    files: Vec<(String, Vec<u8>)>,
    engine: ModelEngine,
}

impl World {
    /// Lets the power go after so many more operations of the disk.
    pub fn plan_power_cut(&mut self, operations: u64) {
        self.faulty = true;
        self.disk.power_off_after(operations);
        self.power_until = Some(self.disk.counters().operations + operations);
    }

    /// Whether nothing can be written any more.
    pub fn power_is_out(&self) -> bool {
        self.power_until.is_some_and(|until| self.disk.counters().operations >= until)
    }

    /// Cuts the power, restores it and starts again.
    pub fn power_cut(&mut self) -> Checked<()> {
        self.stop("power cut");
        self.cut_disk();
        self.boot()
    }

    /// Kills the process and starts it again; what it wrote is still in the page cache.
    pub fn kill(&mut self) -> Checked<()> {
        self.stop("killed");
        self.reached.hit(Case::Killed);
        self.disk.kill_process();
        self.crash_engine();
        self.boot()
    }

    /// The process is no more: counts what that came upon, and tells the clients.
    fn stop(&mut self, how: &str) {
        let life = self.life();
        let stats = life.shard.stats();
        let flushed = self.flushed();
        let trimmed = life.log.bounds(SHARD).first > Lsn(1);
        self.trace.note(format_args!(
            "{how}: handed {}, durable {}, applied {}, flushed {flushed}",
            life.handed(),
            stats.durable_lsn,
            stats.applied_lsn
        ));
        self.reached.hit_if(life.in_flight() > 0, Case::StopWithGroupInFlight);
        self.reached.hit_if(stats.durable_lsn > stats.applied_lsn, Case::StopBeforeApply);
        self.reached.hit_if(stats.applied_lsn > flushed, Case::StopBeforeFlush);
        self.reached.hit_if(trimmed, Case::StopAfterTrim);
        self.clients.lose(life.handed().next(), &mut self.reached, &mut self.trace);
        self.clients.forget_watches();
        self.uncertain = (stats.durable_lsn, life.handed().max(stats.durable_lsn));
        self.life = None;
        self.failed = false;
        self.sweep_at = None;
        self.expire_at = Default::default();
        if self.random.chance(0.5) {
            self.disk.clear_faults();
            self.power_until = None;
        }
    }

    fn cut_disk(&mut self) {
        self.disk.crash(&mut self.random);
        self.power_until = None;
        self.crash_engine();
        if let Ok(report) = embedded::verify(&self.disk, LOG_DIR) {
            self.reached.hit_if(report.torn.is_some(), Case::TornTail);
        }
    }

    fn crash_engine(&mut self) {
        let random = &mut self.random;
        self.engine.model.crash(|unflushed| random.below(unflushed as u64 + 1) as usize);
    }

    /// Starts the process until it runs; faults are taken away after some tries.
    pub fn boot(&mut self) -> Checked<()> {
        for tries in 0..TRIES_WITH_FAULTS + 4 {
            if tries >= TRIES_WITH_FAULTS {
                self.disk.clear_faults();
                self.disk.set_free_bytes(FREE_BYTES);
                self.power_until = None;
            } else if self.archive.last() > Lsn::ZERO && self.random.chance(0.1) {
                let operations = self.random.below(8);
                self.plan_power_cut(operations);
            }
            if let Err(error) = self.start()? {
                self.excuse("start", &error)?;
                self.reached.hit(Case::RecoveryInterrupted);
                self.reached.hit_if(error.kind() == ErrorKind::Full, Case::DiskFull);
                self.life = None;
                if self.power_is_out() {
                    self.cut_disk();
                } else {
                    self.disk.kill_process();
                    self.crash_engine();
                }
                continue;
            }
            return Ok(());
        }
        violation("does not start although nothing fails")
    }

    /// One start: open, replay, check, take over. The inner error may be excused.
    fn start(&mut self) -> Checked<Result<(), Error>> {
        if self.plan.planted == Some(Planted::PositionsReused) {
            self.put_back();
        }
        let files = self.disk.list(LOG_DIR).unwrap_or_default();
        self.trace.note(format_args!("start with {}", files.join(" ")));
        let opened = Life::open_log(
            &self.setup,
            &self.disk,
            self.plan.planted,
            &self.engine,
            &mut self.random,
        );
        let log = match opened {
            Ok(log) => log,
            Err(error) => return Ok(Err(error)),
        };
        let end = Lsn(log.bounds(SHARD).next.0 - 1);
        self.trace.note(format_args!("log from {} to {end}", log.bounds(SHARD).first));
        let (durable, handed) = self.uncertain;
        self.reached.hit_if(end > durable, Case::UnknownSurvived);
        self.reached.hit_if(end < handed && end >= durable, Case::UnknownLost);
        if let Err(error) = self.archive.follow(SHARD, &log, Lsn(1))? {
            return Ok(Err(error));
        }
        // What is in the log now must stay, whatever comes of this start.
        self.uncertain = (end, end);
        self.tamper()?;
        let lose = self.plan.planted == Some(Planted::DeadlineLostInReplay);
        self.engine.lose_deadlines.store(lose, Ordering::Relaxed);
        let (engine, clock) = (&self.engine, &self.clock);
        let life = Life::start(log, &self.setup, engine, clock, &mut self.random);
        self.engine.lose_deadlines.store(false, Ordering::Relaxed);
        let life = match life {
            Ok(life) => life,
            Err(error) => return Ok(Err(error)),
        };
        if end > Lsn::ZERO {
            self.archive.check_engine(SHARD, self.rows()?, false)?;
        }
        // Time that was read and never recorded may be forgotten; recorded time may not.
        self.now_ms = self.archive.state().time.ms();
        let life = Arc::new(life);
        self.life = Some(Arc::clone(&life));
        self.advance_time()?;
        match life.take_over() {
            Ok(epoch) => {
                self.trace.note(format_args!("owner in epoch {epoch}"));
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Goes on after a failure within the process: applies what is durable, and takes over.
    pub fn recover(&mut self) -> Checked<()> {
        let life = self.life();
        while let applied = life.shard.apply_step(1 << 20)
            && !matches!(applied, Ok(0))
        {
            if let Err(error) = applied {
                return self.excuse("apply", &error);
            }
        }
        match life.take_over() {
            Ok(epoch) => {
                self.trace.note(format_args!("owner again in epoch {epoch}"));
                self.failed = false;
                let after_fault = std::mem::take(&mut self.sync_faults) > 0;
                self.reached.hit_if(after_fault, Case::SyncFailureRecovered);
                Ok(())
            }
            Err(error) => {
                self.excuse("take-over", &error)?;
                // The log may be unable to go on within this process, and says so.
                if self.random.chance(0.5) { self.kill() } else { Ok(()) }
            }
        }
    }

    /// Sets the engine's position wrong, if such a bug is planted.
    fn tamper(&mut self) -> Checked<()> {
        let Ok(Some(stored)) = stored_state(&self.engine, Tier::Any) else { return Ok(()) };
        let wrong = match self.plan.planted {
            Some(Planted::ReplayTooEarly) => Lsn(stored.lsn.0.saturating_sub(3)),
            Some(Planted::ReplayTooLate) => stored.lsn.next(),
            _ => return Ok(()),
        };
        let Some(other) = self.archive.state_at(wrong).cloned() else { return Ok(()) };
        let keyspaces = stored.keyspaces.clone();
        let wrong = AppliedState { keyspaces, ..other };
        let (mut row, mut batch) = (Vec::new(), Batch::new());
        key::applied(&mut row, SHARD);
        batch.put(&row, &wrong.encode());
        self.engine.write(&batch).or_else(|error| violation(error.to_string()))
    }

    /// Copies log and engine, as they are.
    pub fn back_up(&mut self) -> Checked<()> {
        let dir = format!("backup{}", self.trace.events());
        let path = std::path::Path::new(&dir);
        if self.backup.is_some() || self.failed || self.engine.checkpoint(path).is_err() {
            return Ok(());
        }
        let Ok(engine) = self.engine.model.open_checkpoint(path) else { return Ok(()) };
        let mut files = Vec::new();
        for name in self.disk.list(LOG_DIR).unwrap_or_default() {
            let path = format!("{LOG_DIR}/{name}");
            let Ok(file) = self.disk.open_read(&path) else { continue };
            let mut bytes = vec![0; file.len().unwrap_or(0) as usize];
            if file.read_exact_at(&mut bytes, 0).is_ok() {
                files.push((path, bytes));
            }
        }
        self.trace.note("backup");
        self.backup = Some(Backup { files, engine });
        Ok(())
    }

    /// Puts the copy back, as an operator would who knows nothing of lives.
    fn put_back(&mut self) {
        let Some(backup) = self.backup.take() else { return };
        self.trace.note("the backup is put back");
        for name in self.disk.list(LOG_DIR).unwrap_or_default() {
            let _absent = self.disk.remove(&format!("{LOG_DIR}/{name}"));
        }
        for (path, bytes) in backup.files {
            let Ok(file) = self.disk.create(&path) else { continue };
            let _written = file.write_at(&bytes, 0).and_then(|()| file.sync_all());
        }
        let _synced = self.disk.sync_dir(LOG_DIR);
        self.engine.model = backup.engine;
    }
}
