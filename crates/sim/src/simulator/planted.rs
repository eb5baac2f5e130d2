//! Bugs that a real server could have, put into the simulator's own driving and, with the feature
//! `planted-bugs`, into the shard: the checks are worth something only if they find them.

/// A bug to drive with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// Replies leave when the log was handed the record, before its sync.
    AcknowledgeBeforeSync,
    /// Reads leave at once, whatever they have seen.
    ReadWithoutGate,
    /// A transaction is staged as two records.
    HalfExecVisible,
    /// After a start the engine's position is set back, so records are applied twice.
    ReplayTooEarly,
    /// After a start the engine's position is set ahead, so a record is skipped.
    ReplayTooLate,
    /// Deadlines of replayed records are forgotten.
    DeadlineLostInReplay,
    /// The log is trimmed up to what is durable instead of what the engine has flushed.
    TrimTooEarly,
    /// A copy of log and engine is put back without a new life: positions are given out again.
    PositionsReused,
    /// Replies that were held when the log failed are kept, and their positions come again.
    RepliesKeptOverFailure,
    /// Opening the log leaves it open whether the name of a segment that was trimmed is gone.
    FirstNameNotRenewed,
    /// A reserve is used although its sync has failed.
    ReserveSyncIgnored,
    /// The shard's row cache takes a row that a write has overtaken.
    #[cfg(feature = "planted-bugs")]
    StaleFill,
    /// The shard keeps what was staged when the log failed.
    #[cfg(feature = "planted-bugs")]
    OverlayKeptOverFailure,
    /// The shard takes a staged head for applied when an earlier version of it is.
    #[cfg(feature = "planted-bugs")]
    CleanedTooEarly,
    /// The shard expires by deadline rows alone, without a look at the key.
    #[cfg(feature = "planted-bugs")]
    ExpiryUnchecked,
}

impl Planted {
    /// All of them.
    pub const ALL: &[Planted] = &[
        Planted::AcknowledgeBeforeSync,
        Planted::ReadWithoutGate,
        Planted::HalfExecVisible,
        Planted::ReplayTooEarly,
        Planted::ReplayTooLate,
        Planted::DeadlineLostInReplay,
        Planted::TrimTooEarly,
        Planted::PositionsReused,
        Planted::RepliesKeptOverFailure,
        Planted::FirstNameNotRenewed,
        Planted::ReserveSyncIgnored,
        #[cfg(feature = "planted-bugs")]
        Planted::StaleFill,
        #[cfg(feature = "planted-bugs")]
        Planted::OverlayKeptOverFailure,
        #[cfg(feature = "planted-bugs")]
        Planted::CleanedTooEarly,
        #[cfg(feature = "planted-bugs")]
        Planted::ExpiryUnchecked,
    ];

    /// What the report of a run that found it says, in one of these ways. Anything else is another
    /// defect.
    pub fn evidence(self) -> &'static [&'static str] {
        const CLIENTS: &[&str] =
            &["not linearizable", "CounterOutOfBounds", "Lost(", "NotAPrefix", "TotalChanged"];
        match self {
            Planted::AcknowledgeBeforeSync
            | Planted::ReadWithoutGate
            | Planted::HalfExecVisible
            | Planted::RepliesKeptOverFailure => CLIENTS,
            Planted::ReplayTooEarly | Planted::ReplayTooLate => &["applied state: engine"],
            Planted::DeadlineLostInReplay => &["the log makes it"],
            Planted::TrimTooEarly => &["the engine needs record"],
            Planted::FirstNameNotRenewed => &["is missing before this one"],
            Planted::ReserveSyncIgnored => &["the file ends here"],
            Planted::PositionsReused => &["was given to another durable record", "is gone"],
            #[cfg(feature = "planted-bugs")]
            Planted::StaleFill | Planted::CleanedTooEarly | Planted::ExpiryUnchecked => CLIENTS,
            #[cfg(feature = "planted-bugs")]
            Planted::OverlayKeptOverFailure => {
                &["applied state: engine", "something is staged", "usage says", "not linearizable"]
            }
        }
    }

    /// Seeds within which it must be found.
    pub fn seeds_max(self) -> u64 {
        match self {
            // One seed in 40 fails a trim's sync, restarts, trims further, and loses the power.
            Planted::FirstNameNotRenewed => 400,
            _ => 60,
        }
    }

    /// Switches the shard's own bugs on or off for this thread.
    pub(super) fn switch(planted: Option<Planted>) {
        #[cfg(feature = "planted-bugs")]
        {
            use holdfast_shard::planted::{Bug, plant};
            plant(match planted {
                Some(Planted::StaleFill) => Some(Bug::StaleFill),
                Some(Planted::OverlayKeptOverFailure) => Some(Bug::OverlayKept),
                Some(Planted::CleanedTooEarly) => Some(Bug::CleanedTooEarly),
                Some(Planted::ExpiryUnchecked) => Some(Bug::ExpiryUnchecked),
                _ => None,
            });
        }
        #[cfg(not(feature = "planted-bugs"))]
        let _nothing_in_the_shard = planted;
    }
}
