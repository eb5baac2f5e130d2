//! The simulated power cut, by seed.
//!
//! Owners of two shards append, complete, trim, watermark, take over and fail at random on a
//! simulated disk that loses power at any operation. After each restart: every acknowledged batch
//! is there, byte for byte; of the calls in doubt at most a prefix is there, each whole; and
//! positions go on densely.

use std::sync::Arc;

use holdfast_base::{
    Lsn, ShardId,
    record::{Batch, BatchView},
};
use holdfast_io::{Disk, Random, SeededRandom, SimDisk};

use super::{Owner, ensure};
use crate::{Log, LogError, Outcome, Refused};

/// Opens or makes the log on this disk.
pub type Open<'a> = &'a dyn Fn(Arc<dyn Disk>) -> Result<Arc<dyn Log>, LogError>;

const SHARDS: [ShardId; 2] = [ShardId(0), ShardId(3)];

/// Runs one seed; the error says what was broken.
pub fn crash_property(seed: u64, open: Open<'_>) -> Result<(), String> {
    let mut run = Run {
        random: SeededRandom::new(seed),
        disk: SimDisk::new(),
        acknowledged: [Vec::new(), Vec::new()],
        trimmed_below: [Lsn::ZERO; 2],
        doubtful: Vec::new(),
    };
    let rounds = 3 + run.random.below(4);
    for round in 0..rounds {
        run.round(open).map_err(|broken| format!("seed {seed}, round {round}: {broken}"))?;
    }
    let log = open(Arc::new(run.disk.clone())).map_err(|error| format!("seed {seed}: {error}"))?;
    run.settle(&*log).map_err(|broken| format!("seed {seed}, at the end: {broken}"))
}

/// A call whose outcome is not known to the one who made it.
struct Doubt {
    shard: usize,
    batches: Vec<Batch>,
}

struct Run {
    random: SeededRandom,
    disk: SimDisk,
    /// By shard: all batches that must be there, from the first on.
    acknowledged: [Vec<Batch>; 2],
    /// By shard: the highest position that was given up.
    trimmed_below: [Lsn; 2],
    /// In the order of their calls.
    doubtful: Vec<Doubt>,
}

impl Run {
    fn round(&mut self, open: Open<'_>) -> Result<(), String> {
        // Power may go while the log is being opened, too; then nothing is promised but the next.
        let power = self.random.chance(0.7).then(|| self.random.below(120));
        if let Some(operations) = power {
            self.disk.power_off_after(operations);
        }
        let log = match open(Arc::new(self.disk.clone())) {
            Ok(log) => log,
            Err(_) if self.power_is_off() => {
                self.disk.crash(&mut self.random);
                return Ok(());
            }
            Err(error) => return Err(error.to_string()),
        };
        match self.settle(&*log) {
            Ok(()) => self.work(&*log)?,
            // Nothing was settled: reading comes first, and it is what failed.
            Err(_) if self.power_is_off() => {}
            Err(broken) => return Err(broken),
        }
        drop(log);
        // A process that ends alone leaves its unsynced writes in the page cache.
        if power.is_none() && self.random.chance(0.3) {
            self.disk.kill_process();
        } else {
            self.disk.crash(&mut self.random);
        }
        self.disk.clear_faults();
        Ok(())
    }

    fn power_is_off(&self) -> bool {
        self.disk.list("").is_err()
    }

    /// Compares the log with what must be in it, and takes over what of the doubtful is there.
    fn settle(&mut self, log: &dyn Log) -> Result<(), String> {
        let mut present = [Vec::new(), Vec::new()];
        for (at, present) in present.iter_mut().enumerate() {
            *present = self.present(log, at)?;
        }
        let mut all_so_far = true;
        for doubt in std::mem::take(&mut self.doubtful) {
            let Doubt { shard, batches } = doubt;
            let found = &mut present[shard];
            let whole = found.len() >= batches.len()
                && batches.iter().zip(found.iter()).all(|(made, found)| made.bytes == *found);
            if !whole {
                all_so_far = false;
                continue;
            }
            ensure(all_so_far, || "of calls in doubt a later one is there alone".to_owned())?;
            found.drain(..batches.len());
            self.acknowledged[shard].extend(batches);
        }
        ensure(present.iter().all(Vec::is_empty), || {
            format!("records that nobody appended, or a part of a call: {present:02x?}")
        })
    }

    /// The batches behind the acknowledged ones, after comparing those.
    fn present(&self, log: &dyn Log, at: usize) -> Result<Vec<Vec<u8>>, String> {
        let shard = SHARDS[at];
        let first = log.bounds(shard).first;
        let given_up = self.trimmed_below[at].max(Lsn(1));
        ensure(first <= given_up, || format!("{first} is first, but {given_up} was not given up"))?;
        let bytes = super::owner::read_all(log, shard, 10_000)?;
        let mut rest = bytes.as_slice();
        let kept = self.acknowledged[at].iter().filter(|batch| batch.header.first_lsn >= first);
        for batch in kept {
            ensure(rest.starts_with(&batch.bytes), || {
                let lsn = batch.header.first_lsn;
                format!("the acknowledged batch at lsn {lsn} of shard {shard} is not there")
            })?;
            rest = &rest[batch.bytes.len()..];
        }
        let mut behind = Vec::new();
        while !rest.is_empty() {
            let all = rest;
            BatchView::decode(&mut rest).map_err(|damage| damage.to_string())?;
            behind.push(all[..all.len() - rest.len()].to_vec());
        }
        Ok(behind)
    }

    /// Random work until something fails or it has been enough.
    fn work(&mut self, log: &dyn Log) -> Result<(), String> {
        let mut owners: [Option<Owner>; 2] = [None, None];
        for _ in 0..self.random.below(60) {
            let at = self.random.below(2) as usize;
            match self.random.below(24) {
                0 => {
                    // What the older session had in flight is withdrawn or settled by the next.
                    if !self.open_session(log, at, &mut owners)? {
                        return Ok(());
                    }
                }
                1 => self.disk.fail_sync(".seg", 1 + self.random.below(3)),
                2 => {
                    // Fails if the power is off; nothing is promised then.
                    let _prepared = log.prepare_reserve();
                }
                3 => self.trim(log, at)?,
                4 => {
                    if let Some(owner) = &mut owners[at] {
                        let _idle_or_failed = owner.session.watermark();
                    }
                }
                5..=13 => self.submit(at, &mut owners)?,
                _ => self.complete(at, &mut owners)?,
            }
            if owners[at].is_none() && !self.open_session(log, at, &mut owners)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// False if the log can do no more until it is opened again.
    fn open_session(
        &mut self,
        log: &dyn Log,
        at: usize,
        owners: &mut [Option<Owner>; 2],
    ) -> Result<bool, String> {
        let Ok(owner) = Owner::open(log, SHARDS[at]) else { return Ok(false) };
        if let Some(mut old) = owners[at].take() {
            while let Some(completion) = old.session.complete() {
                ensure(completion.outcome != Outcome::Durable, || {
                    "acknowledged after a take-over".to_owned()
                })?;
                // Those that are fenced came behind those whose outcome nobody had asked for.
                if matches!(completion.outcome, Outcome::Fenced(_)) {
                    let newest = self.doubtful.iter().rposition(|doubt| doubt.shard == at);
                    newest.map(|newest| self.doubtful.remove(newest));
                }
            }
        }
        let expected = self.next_lsn(at);
        // Calls that another session's room needed may have been committed unseen.
        let unseen = self.doubtful.iter().filter(|doubt| doubt.shard == at);
        let ends: Vec<Lsn> =
            unseen.filter_map(|doubt| Some(doubt.batches.last()?.last_lsn().next())).collect();
        let found = owner.next_lsn();
        ensure(found == expected || ends.contains(&found), || {
            format!("a session of shard {} continues at {found}, not {expected}", SHARDS[at])
        })?;
        self.take_in(at, found);
        if owners[1 - at].is_none() {
            self.take_in(1 - at, log.bounds(SHARDS[1 - at]).next);
        }
        owners[at] = Some(owner);
        Ok(true)
    }

    /// The log goes on at `next`: what is in doubt below is there, the rest is not.
    fn take_in(&mut self, at: usize, next: Lsn) {
        for doubt in std::mem::take(&mut self.doubtful) {
            if doubt.shard != at {
                self.doubtful.push(doubt);
            } else if doubt.batches.last().is_some_and(|batch| batch.last_lsn() < next) {
                self.acknowledged[at].extend(doubt.batches);
            }
        }
    }

    fn next_lsn(&self, at: usize) -> Lsn {
        self.acknowledged[at].last().map_or(Lsn(1), |batch| batch.last_lsn().next())
    }

    fn forget_oldest(&mut self, at: usize) -> Option<Doubt> {
        let oldest = self.doubtful.iter().position(|doubt| doubt.shard == at)?;
        Some(self.doubtful.remove(oldest))
    }

    fn submit(&mut self, at: usize, owners: &mut [Option<Owner>; 2]) -> Result<(), String> {
        let Some(owner) = &mut owners[at] else { return Ok(()) };
        let place = owner.clone_position();
        let batches: Vec<Batch> = (0..1 + self.random.below(2))
            .map(|_| {
                let bytes = if self.random.chance(0.1) { 6_000 } else { self.random.below(900) };
                owner.batch(1 + self.random.below(3) as usize, bytes as usize)
            })
            .collect();
        match owner.session.submit(batches.clone()) {
            Ok(()) => self.doubtful.push(Doubt { shard: at, batches }),
            Err(Refused::Busy | Refused::Full(_)) => owner.set_position(place),
            // Calls in flight stay in doubt until the next session tells.
            Err(refused) if refused.ends_session() => self.close(owners)?,
            Err(refused) => return Err(format!("a good call was refused: {refused}")),
        }
        Ok(())
    }

    fn complete(&mut self, at: usize, owners: &mut [Option<Owner>; 2]) -> Result<(), String> {
        let Some(owner) = &mut owners[at] else { return Ok(()) };
        match owner.session.complete().map(|completion| completion.outcome) {
            None => {}
            Some(Outcome::Durable) => {
                let call = self.forget_oldest(at).ok_or("a call was completed twice")?;
                self.acknowledged[at].extend(call.batches);
            }
            Some(Outcome::Fenced(epoch)) => return Err(format!("fenced by nobody in {epoch}")),
            Some(Outcome::Unknown(_)) => self.close(owners)?,
        }
        Ok(())
    }

    /// A failure poisons all sessions: gives them up, after hearing of all their calls.
    fn close(&mut self, owners: &mut [Option<Owner>; 2]) -> Result<(), String> {
        for (at, owner) in owners.iter_mut().enumerate() {
            let Some(mut owner) = owner.take() else { continue };
            while let Some(completion) = owner.session.complete() {
                if completion.outcome == Outcome::Durable {
                    let call = self.forget_oldest(at).ok_or("a call was completed twice")?;
                    self.acknowledged[at].extend(call.batches);
                }
            }
        }
        Ok(())
    }

    fn trim(&mut self, log: &dyn Log, at: usize) -> Result<(), String> {
        let below = Lsn(self.random.below(self.next_lsn(at).0 + 1));
        self.trimmed_below[at] = self.trimmed_below[at].max(below);
        let given_up = self.trimmed_below[at].max(Lsn(1));
        match log.trim(SHARDS[at], below) {
            Ok(first) => ensure(first <= given_up, || format!("trimmed to {first}, not {below}")),
            // The power may be off.
            Err(_) => Ok(()),
        }
    }
}
