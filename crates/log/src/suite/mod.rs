//! The contract as tests: what every backend must hold, and the simulated power cut.
//!
//! Each check gets a world of its own and says in a sentence what was broken. The suite is tested
//! too: backends with planted bugs must fail it. Compiled for tests and with the feature
//! `contract-suite`.

mod crash;
mod owner;

use holdfast_base::{Epoch, Lsn, ShardId};

pub use self::{
    crash::{Open, crash_property},
    owner::Owner,
};
use crate::{Log, Outcome, ReadError, Refused};

/// A log with what surrounds it.
pub trait World {
    /// The log as it is now.
    fn log(&self) -> &dyn Log;

    /// Ends the process that has the log open, or cuts the power, and opens the log again.
    fn restart(&mut self) -> Result<(), String>;

    /// Makes the next append fail without a known outcome, and those behind it if it takes [`World::heal`] to
    /// end that; false if this world cannot.
    fn fail_next_append(&mut self) -> bool {
        false
    }

    /// Ends what [`World::fail_next_append`] began.
    fn heal(&mut self) {}
}

/// One check on a fresh world; the error says what was broken.
pub type Check = fn(&mut dyn World) -> Result<(), String>;

/// All checks, each with its sentence.
pub const CHECKS: &[(&str, Check)] = &[
    ("positions are dense and records read back", positions_are_dense),
    ("calls in flight resolve in order and are bounded", calls_resolve_in_order),
    ("what is acknowledged survives a restart", acknowledged_survives),
    ("what was read once is still there after a restart", read_once_read_always),
    ("an older session acknowledges nothing after a take-over", take_over_fences),
    ("a session begins with its take-over record", take_over_record_comes_first),
    ("what does not continue the log is refused and changes nothing", refusals_change_nothing),
    ("shards do not mix", shards_do_not_mix),
    ("reading below the first position says where the log starts", trimmed_reads_are_told),
    ("positions survive giving everything up and a restart", positions_survive_trim_all),
    ("the first failure poisons the session and a new one goes on", failure_poisons),
    ("epochs, time and checksums go on over restarts", sessions_go_on_over_restarts),
];

/// Runs all checks; the error names the first that failed.
pub fn run(fresh: &mut dyn FnMut() -> Box<dyn World>) -> Result<(), String> {
    for (sentence, check) in CHECKS {
        check(&mut *fresh()).map_err(|broken| format!("{sentence}: {broken}"))?;
    }
    Ok(())
}

/// The error unless the condition holds.
pub(crate) fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    ensure(found == expected, || format!("{what}: found {found:?}, expected {expected:?}"))
}

const SHARD: ShardId = ShardId(0);

fn positions_are_dense(world: &mut dyn World) -> Result<(), String> {
    let log = world.log();
    let before = log.bounds(SHARD);
    equal("bounds of a shard without records", (before.first, before.next), (Lsn(1), Lsn(1)))?;
    let mut owner = Owner::open(log, SHARD)?;
    let mut written = Vec::new();
    for call in 0..20u64 {
        let batches: Vec<_> =
            (0..1 + call % 3).map(|at| owner.batch(1 + (call + at) as usize % 4, 50)).collect();
        written.extend(batches.iter().flat_map(|batch| batch.bytes.iter().copied()));
        owner.append(batches)?;
    }
    let bounds = log.bounds(SHARD);
    equal("next position", bounds.next, owner.next_lsn())?;
    equal("epoch", bounds.epoch, owner.epoch())?;
    for bytes_max in [1, 300, 1 << 20] {
        equal("bytes read back", owner::read_all(log, SHARD, bytes_max)?, written.clone())?;
    }
    for from in 1..bounds.next.0 {
        let read = log.read(SHARD, Lsn(from), 1).map_err(|error| error.to_string())?;
        let first = read.records().next().map(|record| record.lsn);
        equal("first record of a read", first, Some(Lsn(from)))?;
    }
    let end = log.read(SHARD, bounds.next, 1 << 20).map_err(|error| error.to_string())?;
    ensure(end.is_empty(), || "something stands behind the end".to_owned())?;
    let beyond = log.read(SHARD, bounds.next.next(), 1 << 20);
    ensure(matches!(beyond, Err(ReadError::Beyond(next)) if next == bounds.next), || {
        format!("a read beyond the end gave {beyond:?}")
    })
}

fn calls_resolve_in_order(world: &mut dyn World) -> Result<(), String> {
    let log = world.log();
    let mut owner = Owner::open(log, SHARD)?;
    let in_flight_max = log.caps().in_flight_max;
    let mut lasts = Vec::new();
    for _ in 0..in_flight_max {
        let batches = vec![owner.batch(2, 10), owner.batch(1, 10)];
        lasts.push(batches.iter().map(|batch| batch.last_lsn()).collect::<Vec<_>>());
        owner.session.submit(batches).map_err(|refused| refused.to_string())?;
    }
    let next = owner.clone_position();
    let one_more = owner.batch(1, 10);
    equal("one call too many", owner.session.submit(vec![one_more]), Err(Refused::Busy))?;
    owner.set_position(next);
    for last_lsns in lasts {
        let completion = owner.session.complete().ok_or("a call in flight was forgotten")?;
        equal("positions of a call", completion.last_lsns, last_lsns)?;
        equal("outcome", completion.outcome, Outcome::Durable)?;
    }
    equal("nothing in flight", owner.session.complete(), None)?;
    let batch = owner.batch(1, 10);
    owner.append(vec![batch])
}

fn acknowledged_survives(world: &mut dyn World) -> Result<(), String> {
    let mut written = Vec::new();
    for round in 0..4 {
        let mut owner = Owner::open(world.log(), SHARD)?;
        for _ in 0..5 {
            let batch = owner.batch(3, 200);
            written.extend_from_slice(&batch.bytes);
            owner.append(vec![batch])?;
        }
        if round % 2 == 0 {
            owner.session.watermark().map_err(|error| error.to_string())?;
        }
        drop(owner);
        world.restart()?;
        equal("after a restart", owner::read_all(world.log(), SHARD, 4096)?, written.clone())?;
    }
    Ok(())
}

fn read_once_read_always(world: &mut dyn World) -> Result<(), String> {
    let mut owner = Owner::open(world.log(), SHARD)?;
    let batch = owner.batch(1, 100);
    owner.append(vec![batch])?;
    let batch = owner.batch(1, 100);
    owner.session.submit(vec![batch]).map_err(|refused| refused.to_string())?;
    let seen = owner::read_all(world.log(), SHARD, 1 << 20)?;
    drop(owner);
    world.restart()?;
    let now = owner::read_all(world.log(), SHARD, 1 << 20)?;
    ensure(now.starts_with(&seen), || "a record was read that was not durable".to_owned())
}

fn take_over_fences(world: &mut dyn World) -> Result<(), String> {
    let log = world.log();
    let mut old = Owner::open(log, SHARD)?;
    let batch = old.batch(2, 20);
    old.append(vec![batch])?;
    let before = old.clone_position();
    let batch = old.batch(1, 20);
    old.session.submit(vec![batch]).map_err(|refused| refused.to_string())?;
    let mut new = Owner::open(log, SHARD)?;
    ensure(new.epoch() > old.epoch(), || "the epoch did not rise".to_owned())?;
    let at = new.next_lsn();
    let batch = new.batch(1, 20);
    new.append(vec![batch])?;
    let late = old.session.complete().ok_or("a call in flight was forgotten")?;
    ensure(late.outcome != Outcome::Durable, || {
        "the older session acknowledged after the take-over".to_owned()
    })?;
    if late.outcome == Outcome::Fenced(new.epoch()) {
        equal("position behind a call that was fenced", at, before.next_lsn())?;
    }
    let batch = old.batch(1, 20);
    let refused = old.session.submit(vec![batch]);
    ensure(refused.as_ref().is_err_and(Refused::ends_session), || {
        format!("the older session may still submit: {refused:?}")
    })?;
    equal("nothing in flight", old.session.complete(), None)?;
    drop(old);
    let batch = new.batch(1, 20);
    new.append(vec![batch])?;
    let epochs = owner::epochs(log, SHARD)?;
    ensure(epochs.is_sorted(), || format!("epochs fall: {epochs:?}"))?;
    equal("last epoch", epochs.last().copied(), Some(new.epoch()))
}

fn take_over_record_comes_first(world: &mut dyn World) -> Result<(), String> {
    let log = world.log();
    let mut owner = Owner::open(log, SHARD)?;
    let start = owner.clone_position();
    let wrong = Epoch(owner.epoch().0 + 1);
    for epoch in [None, Some(wrong)] {
        owner.set_position(start);
        let batch = owner.batch_taking_over(epoch, 1, 20);
        let refused = owner.session.submit(vec![batch]);
        ensure(matches!(refused, Err(Refused::Invalid(_))), || {
            format!("a first record with the take-over of {epoch:?} gave {refused:?}")
        })?;
    }
    owner.set_position(start);
    let batch = owner.batch_taking_over(Some(owner.epoch()), 1, 20);
    owner.append(vec![batch])
}

fn refusals_change_nothing(world: &mut dyn World) -> Result<(), String> {
    let log = world.log();
    let mut owner = Owner::open(log, SHARD)?;
    let batch = owner.batch(1, 20);
    owner.append(vec![batch.clone()])?;
    let (good, next) = (owner.clone_position(), owner.next_lsn());
    let again = owner.session.submit(vec![batch]);
    equal("the same again", again, Err(Refused::Stale { expected: next, found: Lsn(1) }))?;
    let _skipped = owner.batch(1, 20);
    let ahead = owner.batch(1, 20);
    let refused = owner.session.submit(vec![ahead]);
    ensure(matches!(refused, Err(Refused::Stale { .. })), || format!("a gap gave {refused:?}"))?;
    owner.set_position(good);
    let mut damaged = owner.batch(1, 20);
    damaged.bytes.iter_mut().rev().take(3).for_each(|byte| *byte ^= 1);
    let refused = owner.session.submit(vec![damaged]);
    ensure(matches!(refused, Err(Refused::Invalid(_))), || format!("damage gave {refused:?}"))?;
    let mut other = Owner::open(log, ShardId(9))?;
    let refused = owner.session.submit(vec![other.batch(1, 20)]);
    ensure(matches!(refused, Err(Refused::Invalid(_))), || {
        format!("a batch of another shard gave {refused:?}")
    })?;
    let refused = owner.session.submit(Vec::new());
    ensure(matches!(refused, Err(Refused::Invalid(_))), || format!("nothing gave {refused:?}"))?;
    owner.set_position(good);
    let bytes_max = log.caps().batch_bytes_max;
    let large = owner.batch(1, bytes_max);
    let bytes = large.bytes.len();
    let refused = owner.session.submit(vec![large]);
    equal("too much", refused, Err(Refused::TooLarge { bytes, bytes_max }))?;
    owner.set_position(good);
    let batch = owner.batch(1, 20);
    owner.append(vec![batch])?;
    equal("next position", log.bounds(SHARD).next, Lsn(next.0 + 1))
}

fn shards_do_not_mix(world: &mut dyn World) -> Result<(), String> {
    let shards = [ShardId(0), ShardId(7), ShardId(65_535)];
    let mut written = vec![Vec::new(); shards.len()];
    for _ in 0..2 {
        let log = world.log();
        let mut owners =
            shards.iter().map(|&shard| Owner::open(log, shard)).collect::<Result<Vec<_>, _>>()?;
        for call in 0..6 {
            for (owner, written) in owners.iter_mut().zip(&mut written) {
                let batch = owner.batch(1 + call % 2, 64);
                written.extend_from_slice(&batch.bytes);
                owner.session.submit(vec![batch]).map_err(|refused| refused.to_string())?;
            }
            for owner in &mut owners {
                owner.complete_one()?;
            }
        }
        drop(owners);
        world.restart()?;
    }
    for (&shard, written) in shards.iter().zip(written) {
        equal("what a shard holds", owner::read_all(world.log(), shard, 100)?, written)?;
    }
    Ok(())
}

/// Appends until giving everything up moves the first position.
fn append_and_trim(log: &dyn Log, owner: &mut Owner) -> Result<Lsn, String> {
    // More than any backend may keep together in one file under test.
    for _ in 0..4096 {
        let batch = owner.batch(1, 8 << 10);
        owner.append(vec![batch])?;
        let below = Lsn(owner.next_lsn().0 - 1);
        let first = log.trim(owner.shard(), below).map_err(|error| error.to_string())?;
        ensure(first <= below, || format!("trimmed to {first}, above {below}"))?;
        if first > Lsn(1) {
            return Ok(first);
        }
    }
    Err("32 MiB were given up and nothing was trimmed".to_owned())
}

fn trimmed_reads_are_told(world: &mut dyn World) -> Result<(), String> {
    let mut owner = Owner::open(world.log(), SHARD)?;
    let first = append_and_trim(world.log(), &mut owner)?;
    let next = owner.next_lsn();
    drop(owner);
    for _ in 0..2 {
        let log = world.log();
        let bounds = log.bounds(SHARD);
        equal("bounds", (bounds.first, bounds.next), (first, next))?;
        for below in [Lsn(1), Lsn(first.0 - 1)] {
            let read = log.read(SHARD, below, 100);
            ensure(matches!(read, Err(ReadError::Trimmed(at)) if at == first), || {
                format!("a read below {first} gave {read:?}")
            })?;
        }
        let read = log.read(SHARD, first, 100).map_err(|error| error.to_string())?;
        equal("first record left", read.records().next().map(|r| r.lsn), Some(first))?;
        let lower = log.trim(SHARD, Lsn(1)).map_err(|error| error.to_string())?;
        equal("trimming below what is gone", lower, first)?;
        world.restart()?;
    }
    Ok(())
}

fn positions_survive_trim_all(world: &mut dyn World) -> Result<(), String> {
    let mut owner = Owner::open(world.log(), SHARD)?;
    append_and_trim(world.log(), &mut owner)?;
    let next = owner.next_lsn();
    let before = world.log().bounds(SHARD);
    drop(owner);
    for _ in 0..3 {
        let first = world.log().trim(SHARD, next).map_err(|error| error.to_string())?;
        ensure(first <= next, || format!("trimmed to {first}, above {next}"))?;
        world.restart()?;
        let after = world.log().bounds(SHARD);
        equal("next position", after.next, next)?;
        equal("life and epoch", (after.incarnation, after.epoch), {
            (before.incarnation, before.epoch)
        })?;
    }
    let mut owner = Owner::open(world.log(), SHARD)?;
    equal("position of a new session", owner.next_lsn(), next)?;
    let batch = owner.batch(1, 20);
    owner.append(vec![batch])
}

fn failure_poisons(world: &mut dyn World) -> Result<(), String> {
    let mut owner = Owner::open(world.log(), SHARD)?;
    let batch = owner.batch(2, 20);
    let mut written = batch.bytes.clone();
    owner.append(vec![batch])?;
    if !world.fail_next_append() {
        return Ok(());
    }
    let in_flight = world.log().caps().in_flight_max.min(3);
    for _ in 0..in_flight {
        let batch = owner.batch(1, 20);
        owner.session.submit(vec![batch]).map_err(|refused| refused.to_string())?;
    }
    for at in 0..in_flight {
        let completion = owner.session.complete().ok_or("a call in flight was forgotten")?;
        ensure(matches!(completion.outcome, Outcome::Unknown(_)), || {
            format!("call {at} behind the failure gave {:?}", completion.outcome)
        })?;
    }
    world.heal();
    let batch = owner.batch(1, 20);
    let refused = owner.session.submit(vec![batch]);
    ensure(matches!(refused, Err(Refused::Poisoned(_))), || format!("then gave {refused:?}"))?;
    let mut new = Owner::open(world.log(), SHARD)?;
    ensure(new.epoch() > owner.epoch(), || "the epoch did not rise".to_owned())?;
    let settled = owner::read_all(world.log(), SHARD, 1 << 20)?;
    ensure(settled.starts_with(&written), || "acknowledged records are gone".to_owned())?;
    written = settled;
    let batch = new.batch(1, 20);
    written.extend_from_slice(&batch.bytes);
    new.append(vec![batch])?;
    drop((owner, new));
    for _ in 0..2 {
        equal("what is kept", owner::read_all(world.log(), SHARD, 1 << 20)?, written.clone())?;
        world.restart()?;
    }
    Ok(())
}

fn sessions_go_on_over_restarts(world: &mut dyn World) -> Result<(), String> {
    let mut epoch = Epoch(0);
    let mut end = None;
    for round in 0..5 {
        // Sessions that never write must not make an epoch come back either.
        let unused = Owner::open(world.log(), SHARD)?;
        let mut owner = Owner::open(world.log(), SHARD)?;
        ensure(owner.epoch() > unused.epoch() && owner.epoch() > epoch, || {
            format!("epoch {} after {} and {epoch}", owner.epoch(), unused.epoch())
        })?;
        if let Some(end) = end {
            equal("place in the log", owner.place(), end)?;
        }
        epoch = owner.epoch();
        let batch = owner.batch(1 + round % 3, 30);
        owner.append(vec![batch])?;
        end = Some(owner.place());
        drop((owner, unused));
        world.restart()?;
    }
    Ok(())
}
