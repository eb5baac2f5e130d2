//! Which rare situations a run came through, counted: a simulator that does not reach them proves
//! nothing about them.

use std::{collections::BTreeMap, fmt};

/// A situation that the simulator must come through.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Case {
    /// The machine or process stopped with a group handed to the log and not resolved.
    StopWithGroupInFlight,
    /// The power went in the middle of a call into the log.
    PowerCutWithinLog,
    /// After a power cut the log's last write was torn.
    TornTail,
    /// A stop with records durable and not applied.
    StopBeforeApply,
    /// A stop with records applied and not flushed.
    StopBeforeFlush,
    /// A stop after part of the log had been trimmed.
    StopAfterTrim,
    /// The process was killed; the page cache stayed.
    Killed,
    /// Opening was interrupted or failed, and was tried again.
    RecoveryInterrupted,
    /// Records whose writer had learned nothing were found in the log again.
    UnknownSurvived,
    /// Records whose writer had learned nothing were not in the log any more.
    UnknownLost,
    /// A failed sync ended a session, and a new one went on within the process.
    SyncFailureRecovered,
    /// Segments were given up, and the folder could not be synced.
    TrimNotSynced,
    /// A reserve could not be synced.
    ReserveNotSynced,
    /// The log had no room.
    DiskFull,
    /// A record was made explicit as durable by a watermark.
    Watermark,
    /// The log went on in another segment.
    SegmentRolled,
    /// Segments were given up.
    Trimmed,
    /// A read that was not in memory was fetched and tried again.
    MissRetried,
    /// A write overtook a read between its engine lookup and its cache fill.
    FillRefused,
    /// A commit failed while the applier was writing to the engine.
    FailureDuringApply,
    /// A read waited until what it had seen was durable.
    ReadHeld,
    /// A client learned nothing of its write.
    ReplyLost,
    /// A staged write that was never handed to the log was refused.
    StagedRefused,
    /// A key was deleted by a record of active expiry.
    ExpiredByRecord,
    /// A read hid a key past its deadline that was still stored.
    ExpiredHidden,
    /// A watched key changed before EXEC.
    ExecAborted,
    /// EXEC went through under a watch.
    ExecDone,
    /// A keyspace was emptied.
    KeyspaceFlushed,
    /// Rows of dropped collections were removed.
    CollectionSwept,
    /// Rows of an emptied keyspace were removed.
    GenerationSwept,
    /// The engine refused a batch of durable records.
    EngineWriteFailed,
    /// The engine failed to flush.
    EngineFlushFailed,
    /// The wall clock jumped ahead too far and was not believed.
    ClockJumpRefused,
    /// The wall clock went back.
    ClockWentBack,
}

impl Case {
    /// All of them.
    pub const ALL: [Case; 34] = [
        Case::StopWithGroupInFlight,
        Case::PowerCutWithinLog,
        Case::TornTail,
        Case::StopBeforeApply,
        Case::StopBeforeFlush,
        Case::StopAfterTrim,
        Case::Killed,
        Case::RecoveryInterrupted,
        Case::UnknownSurvived,
        Case::UnknownLost,
        Case::SyncFailureRecovered,
        Case::TrimNotSynced,
        Case::ReserveNotSynced,
        Case::DiskFull,
        Case::Watermark,
        Case::SegmentRolled,
        Case::Trimmed,
        Case::MissRetried,
        Case::FillRefused,
        Case::FailureDuringApply,
        Case::ReadHeld,
        Case::ReplyLost,
        Case::StagedRefused,
        Case::ExpiredByRecord,
        Case::ExpiredHidden,
        Case::ExecAborted,
        Case::ExecDone,
        Case::KeyspaceFlushed,
        Case::CollectionSwept,
        Case::GenerationSwept,
        Case::EngineWriteFailed,
        Case::EngineFlushFailed,
        Case::ClockJumpRefused,
        Case::ClockWentBack,
    ];
}

/// How often each situation was reached.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Reached(BTreeMap<Case, u64>);

impl Reached {
    /// Counts one.
    pub fn hit(&mut self, case: Case) {
        *self.0.entry(case).or_default() += 1;
    }

    /// Counts one if it is so.
    pub fn hit_if(&mut self, is_so: bool, case: Case) {
        if is_so {
            self.hit(case);
        }
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Reached) {
        for (case, count) in &other.0 {
            *self.0.entry(*case).or_default() += count;
        }
    }

    /// How often it was reached.
    pub fn count(&self, case: Case) -> u64 {
        self.0.get(&case).copied().unwrap_or(0)
    }

    /// Situations reached fewer than `count_min` times.
    pub fn missing(&self, count_min: u64) -> Vec<Case> {
        Case::ALL.into_iter().filter(|case| self.count(*case) < count_min).collect()
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in Case::ALL {
            writeln!(f, "{:>9}  {case:?}", self.count(case))?;
        }
        Ok(())
    }
}
