//! The simulated machine and a run on it: random steps, healing, draining, judging.

use std::sync::Arc;

use holdfast_base::{Error, ErrorKind, KeyspaceId, Lsn};
use holdfast_engine::{Batch, Engine, Tier};
use holdfast_io::{Disk, Random, SeededRandom, SimClock, SimDisk};
use holdfast_log::Log;

use super::{
    Case, Checked, Plan, Planted, Reached, Report, Trace,
    archive::Archive,
    ask::{Answer, Ask},
    clients::{Clients, LastReads},
    engine::SimEngine,
    life::{Commit, LOG_DIR, Life, SHARD, Setup},
    restart::Backup,
    steps::Weights,
    violation,
};

/// Room on the disk when it is not full.
pub(super) const FREE_BYTES: u64 = 1 << 30;

/// Everything that a run is made of.
pub(super) struct World {
    pub plan: Plan,
    pub setup: Setup,
    pub weights: Weights,
    pub random: SeededRandom,
    pub disk: SimDisk,
    pub engine: SimEngine,
    pub clock: SimClock,
    /// The running process.
    pub life: Option<Arc<Life>>,
    pub clients: Clients,
    pub archive: Archive,
    pub trace: Trace,
    pub reached: Reached,
    /// The log has failed, and nobody has taken over yet.
    pub failed: bool,
    /// A fault was ordered since the machine was last sound: errors are to be expected.
    pub faulty: bool,
    /// The disk operations after which the power goes.
    pub power_until: Option<u64>,
    /// Shard time, as of the last look.
    pub now_ms: u64,
    pub sweep_at: Option<holdfast_shard::SweepAt>,
    pub expire_at: holdfast_shard::ExpireAt,
    pub backup: Option<Backup>,
    /// The history was too hard to judge.
    undecided: bool,
    /// Name of the log's last segment.
    pub segment: String,
    /// What an armed action did.
    pub outcomes: super::interrupt::Outcomes,
    /// Failing syncs ordered since the last recovery within the process.
    pub sync_faults: u32,
    /// A sync of the log's folder or reserve may have failed.
    pub names_at_risk: bool,
    /// When the process stopped: what was durable, and what had been handed to the log.
    pub uncertain: (Lsn, Lsn),
}

impl World {
    pub fn new(plan: Plan) -> World {
        let mut random = SeededRandom::new(plan.seed);
        // 8 KiB is the smallest segment; the largest here still rolls now and then.
        let segment_bytes = 4096 * (2 + random.below(15));
        // All or nothing: which rows a full cache gives up depends on its hasher's seed.
        let row_cache_bytes = if random.chance(0.8) { 64 << 20 } else { 0 };
        let setup = Setup { segment_bytes, row_cache_bytes };
        let engine = SimEngine::default();
        let one_in = *random.pick(&[0, 2, 5, 20]).unwrap_or(&0);
        engine.model.set_incomplete(random.next_u64(), one_in);
        let clients = Clients::new(2 + random.below(4) as usize, 1 + random.below(3) as usize);
        let weights = Weights::new(&mut random);
        let disk = SimDisk::new();
        disk.set_free_bytes(FREE_BYTES);
        World {
            plan,
            setup,
            weights,
            random,
            disk,
            engine,
            clock: SimClock::new(1_700_000_000_000),
            life: None,
            clients,
            archive: Archive::default(),
            trace: Trace::default(),
            reached: Reached::default(),
            failed: false,
            faulty: false,
            power_until: None,
            now_ms: 0,
            sweep_at: None,
            expire_at: Default::default(),
            backup: None,
            undecided: false,
            segment: String::new(),
            outcomes: Default::default(),
            sync_faults: 0,
            names_at_risk: false,
            uncertain: (Lsn::ZERO, Lsn::ZERO),
        }
    }

    pub fn report(&self) -> Report {
        Report {
            digest: self.trace.digest(),
            events: self.trace.events(),
            answered: self.clients.answered(),
            undecided: self.undecided,
            reached: self.reached.clone(),
        }
    }

    /// The whole run.
    pub fn run(&mut self) -> Checked<()> {
        self.boot()?;
        self.ask(0, Ask::OpenBank, Tier::Any)?;
        self.drain()?;
        for _ in 0..self.plan.steps {
            self.step()?;
        }
        self.weights.interrupt = 0.0;
        self.heal()?;
        let mut last = self.settle()?;
        self.power_cut()?;
        self.heal()?;
        let again = self.settle()?;
        // Healing writes once, to see that writes are accepted.
        last.counters.iter_mut().take(1).for_each(|counter| *counter += 1);
        if last != again {
            let text = format!("a crash after a flush made {again:?} of {last:?}");
            return violation(text);
        }
        let (disk, rows) = (self.disk.digest(), self.rows()?);
        self.trace.note(format_args!("disk {disk:016x}, rows {rows:?}"));
        self.undecided = !self.clients.check(&again)?;
        Ok(())
    }

    /// The process, which runs except within `boot`.
    pub fn life(&self) -> Arc<Life> {
        Arc::clone(self.life.as_ref().expect("boot ends with a running process or a violation"))
    }

    pub fn rows(&self) -> Checked<super::archive::Rows> {
        self.engine.rows().or_else(|error| violation(error.to_string()))
    }

    /// An error that a fault explains; any other is a violation.
    pub fn excuse(&mut self, what: &str, error: &Error) -> Checked<()> {
        self.trace.note(format_args!("{what}: {error}"));
        let grave = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Internal);
        if grave || !self.faulty {
            return violation(format!("{what}: {:?}: {error}", error.kind()));
        }
        Ok(())
    }

    /// One command of a client, executed at once if its rows are there.
    pub fn ask(&mut self, client: usize, ask: Ask, tier: Tier) -> Checked<()> {
        self.clients.send(client, ask.clone());
        self.execute(client, &ask, tier)
    }

    /// Executes a client's last command, which was sent before.
    pub fn execute(&mut self, client: usize, ask: &Ask, tier: Tier) -> Checked<()> {
        let life = self.life();
        self.split_transfer(client, ask)?;
        let watching = match ask {
            Ask::Exec(..) => self.clients.watching(client).take(),
            _ => None,
        };
        let keys = watching.as_ref().map_or(&[][..], |watching| &watching.keys);
        let hidden = self.hides_expired(ask);
        let armed = ask.is_read() && self.arm_lookup(client, ask);
        // Only a transfer of the planted half EXEC is done in two records.
        let rest = self.half_of(ask);
        let mut result = rest.as_ref().unwrap_or(ask).execute(&life.shard, keys, tier);
        let now_ms = life.shard.now_ms();
        if armed {
            self.disarm(Some(ask))?;
        }
        if let Some(watching) = watching {
            if matches!(&result, Err(error) if is_retried(error)) {
                *self.clients.watching(client) = Some(watching);
            } else {
                life.shard.unwatch(&watching.keys);
            }
        }
        if let Ok(done) = &mut result {
            self.reached.hit_if(hidden, Case::ExpiredHidden);
            self.reached.hit_if(done.value == Answer::Aborted, Case::ExecAborted);
            let exec = matches!(ask, Ask::Exec(..)) && done.value != Answer::Aborted;
            self.reached.hit_if(exec, Case::ExecDone);
            self.reached.hit_if(*ask == Ask::Flush, Case::KeyspaceFlushed);
            if self.plan.planted == Some(Planted::ReadWithoutGate) && ask.is_read() {
                done.gate = None;
            }
        }
        self.clients.executed(client, now_ms, result, &mut self.reached, &mut self.trace)?;
        self.release();
        Ok(())
    }

    /// Replies leave whose gate is durable.
    pub fn release(&mut self) {
        let life = self.life();
        let durable = match self.plan.planted {
            Some(Planted::AcknowledgeBeforeSync) => life.handed(),
            _ => life.shard.durable(),
        };
        self.clients.release(durable, &mut self.trace);
    }

    /// Takes in what a step of the committer came to.
    pub fn committed(&mut self, commit: Commit) -> Checked<()> {
        match commit {
            Commit::Idle => {}
            Commit::Handed(lsn) => {
                let last = self.disk.list(LOG_DIR).unwrap_or_default().into_iter();
                let last = last.filter(|name| name.ends_with(".seg")).max().unwrap_or_default();
                self.reached.hit_if(last > self.segment, Case::SegmentRolled);
                self.segment = last;
                self.trace.note(format_args!("handed over up to {lsn}"));
                self.release();
            }
            Commit::Durable(lsn, chains) => {
                self.trace.note(format_args!("durable up to {lsn}"));
                for (lsn, chain) in chains {
                    self.archive.promise(lsn, chain)?;
                }
                self.release();
            }
            Commit::Failed(error, unhanded) => {
                self.excuse("the log failed", &error)?;
                self.reached.hit_if(error.kind() == ErrorKind::Full, Case::DiskFull);
                self.release();
                if self.plan.planted != Some(Planted::RepliesKeptOverFailure) {
                    self.clients.lose(unhanded, &mut self.reached, &mut self.trace);
                }
                self.failed = true;
            }
        }
        Ok(())
    }

    /// Ends all faults and gets the shard to accept writes.
    pub fn heal(&mut self) -> Checked<()> {
        self.trace.note("heal");
        if self.power_is_out() {
            self.power_cut()?;
        }
        self.disk.clear_faults();
        self.disk.set_free_bytes(FREE_BYTES);
        self.power_until = None;
        // A failure that was ordered of the engine strikes once more at most.
        while let Err(error) = self.engine.write(&Batch::new()).and_then(|()| self.engine.flush()) {
            self.excuse("engine", &error.into())?;
        }
        // A session that a fault has poisoned says so when it is used next.
        for _ in 0..4 {
            if self.failed {
                self.recover()?;
            }
            // Once its folder's sync has failed, the log asks for a new process.
            if self.failed || self.names_at_risk {
                self.kill()?;
            }
            self.disk.clear_faults();
            self.power_until = None;
            self.drain()?;
            let before = self.clients.answered();
            self.ask(0, Ask::Increment(0, 1), Tier::Any)?;
            self.drain()?;
            if self.clients.answered() > before {
                self.faulty = false;
                self.names_at_risk = false;
                return Ok(());
            }
        }
        violation("writes are not accepted although nothing fails any more")
    }

    /// Lets everything under way come to its end, or the log fail.
    pub fn drain(&mut self) -> Checked<()> {
        for _ in 0..200 {
            if self.failed {
                return Ok(());
            }
            for client in 0..self.clients.count() {
                if let Some(retry) = self.clients.retry(client) {
                    self.execute(client, &retry.ask, Tier::Any)?;
                }
            }
            for commit in self.life().hand_over() {
                self.committed(commit)?;
            }
            let commit = self.life().resolve();
            self.committed(commit)?;
            let applied = self.life().shard.apply_step(1 << 20);
            if let Err(error) = &applied {
                self.excuse("apply", error)?;
            }
            let life = self.life();
            let stats = life.shard.stats();
            let idle = life.in_flight() == 0 && stats.staged_lsn == stats.applied_lsn;
            if idle && (0..self.clients.count()).all(|c| self.clients.is_idle(c)) {
                if stats.overlay_rows != 0 || stats.staged_bytes != 0 {
                    return violation(format!("drained, yet something is staged: {stats:?}"));
                }
                return Ok(());
            }
        }
        violation(format!("does not come to rest: {:?}", self.life().shard.stats()))
    }

    /// Reads everything, removes what is past its deadline or out of reach, and compares all.
    fn settle(&mut self) -> Checked<LastReads> {
        for key in Clients::all_cells() {
            self.ask(0, Ask::Cells(vec![(key, super::cells::CellOp::Get)]), Tier::Any)?;
        }
        for ask in [Ask::Balances, Ask::Tokens, Ask::Members] {
            self.ask(0, ask, Tier::Any)?;
        }
        self.sweep_all()?;
        let last = self.last_reads()?;
        if let Err(error) = self.engine.flush() {
            self.excuse("engine flush", &error.into())?;
        }
        let life = self.life();
        if let Err(error) = self.archive.follow(SHARD, &life.log, Lsn(1))? {
            return violation(format!("read of the log: {error}"));
        }
        let rows = self.rows()?;
        self.archive.check_engine(SHARD, rows, true)?;
        for keyspace in [0, 1].map(KeyspaceId) {
            let (told, counted) = (life.shard.usage(keyspace).value, self.archive.usage(keyspace));
            if told != counted {
                return violation(format!("keyspace {keyspace}: told {told:?}, is {counted:?}"));
            }
        }
        let bounds = life.log.bounds(SHARD);
        if bounds.next != life.shard.durable().next() {
            return violation(format!("{bounds:?}, durable {}", life.shard.durable()));
        }
        Ok(last)
    }

    fn last_reads(&mut self) -> Checked<LastReads> {
        let life = self.life();
        let read = |ask: Ask| match ask.execute(&life.shard, &[], Tier::Any) {
            Ok(done) => Ok(done.value),
            Err(error) => violation(format!("{ask:?} at the end: {error:?}")),
        };
        let values = |answer| match answer {
            Answer::Values(values) => values,
            _ => Vec::new(),
        };
        Ok(LastReads {
            counters: match read(Ask::Counters)? {
                Answer::Balances(counters) => counters,
                _ => Vec::new(),
            },
            tokens: values(read(Ask::Tokens)?),
            members: values(read(Ask::Members)?),
        })
    }
}

/// Whether the command is to be tried again.
fn is_retried(error: &holdfast_shard::OpError) -> bool {
    matches!(error, holdfast_shard::OpError::Miss(_) | holdfast_shard::OpError::ColdRange)
}
