//! Bugs for the simulator to find, switched on one at a time for the current thread.
//!
//! Compiled with the feature `planted-bugs` only, which no shipped build has.

use std::cell::Cell;

/// What to do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The row cache takes a row that a write has overtaken.
    StaleFill,
    /// What was staged stays visible when the log has failed.
    OverlayKept,
    /// An applied record makes its heads clean although a later one has staged them again.
    CleanedTooEarly,
    /// A head is read while others of the same record are still being changed.
    SeveralUnnoticed,
    /// A deadline row alone decides that a key is deleted.
    ExpiryUnchecked,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
