//! Distinct types for distinct numbers, so that no two bare integers meet in a signature.
//!
//! Ordering is numeric. None of them is ever reused within the life that its documentation names.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Position of a record in a shard's log: dense, from 1, never reused within an incarnation.
    /// 0 means "before the first record".
    Lsn,
    u64
);
number!(
    /// A term of ownership of a shard; every owner appends under a higher one than the last.
    Epoch,
    u64
);
number!(
    /// A contiguous range of slots with one log.
    ShardId,
    u16
);
number!(
    /// One life of a shard's log. A restore starts a new one, so positions are never mixed up.
    Incarnation,
    u64
);
number!(
    /// Identity of one physical log on one node; salts the checksums of its segments.
    LogId,
    u64
);
number!(
    /// Number of a keyspace, as in `SELECT 3`.
    KeyspaceId,
    u16
);
number!(
    /// One life of a keyspace's content. Emptying a keyspace starts a new one, in O(1).
    Generation,
    u32
);
number!(
    /// Names the members of one collection or the chunks of one large string; per shard, from 1.
    CollectionId,
    u64
);

impl Lsn {
    /// Before the first record of a log.
    pub const ZERO: Lsn = Lsn(0);

    /// The position after this one.
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

/// The slots of one shard, first to last, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot, included.
    pub last: u16,
}

impl SlotRange {
    /// Every slot: the only shard of a single node.
    pub const ALL: SlotRange = SlotRange { first: 0, last: crate::SLOTS - 1 };
}
