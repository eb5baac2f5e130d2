//! Bugs put into the simulator's own driving, each of a kind that a real server could have: the
//! checks are worth something only if they find them.

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
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 9] = [
        Planted::AcknowledgeBeforeSync,
        Planted::ReadWithoutGate,
        Planted::HalfExecVisible,
        Planted::ReplayTooEarly,
        Planted::ReplayTooLate,
        Planted::DeadlineLostInReplay,
        Planted::TrimTooEarly,
        Planted::PositionsReused,
        Planted::RepliesKeptOverFailure,
    ];
}
