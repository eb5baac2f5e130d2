//! The engine's contract: what [`RocksEngine`](crate::RocksEngine) and
//! [`ModelEngine`](crate::ModelEngine) both promise and `tests/conformance.rs` checks.
//!
//! Keys are ordered as unsigned bytes; the empty key is a key. One thread writes (calls from
//! several threads are safe, their order is then the engine's choice); any thread reads.
//! There are no transactions, no merges and no expiry here.

use std::ops::ControlFlow;
use std::path::Path;

use crate::{Batch, EngineError, EngineErrorKind};

/// Where a read may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Memory only: answers [`Lookup::Incomplete`] where the disk would be needed.
    Cached,
    /// Everything, blocking on the disk if need be.
    Any,
    /// Only what would survive a crash at this moment; unflushed batches do not exist.
    /// For `get` and `multi_get` of an engine; snapshots refuse it as invalid.
    Persisted,
}

impl Tier {
    /// A snapshot already names its moment, so "only what is durable now" has no meaning in it.
    pub(crate) fn check_for_snapshot(self) -> Result<(), EngineError> {
        if self == Tier::Persisted {
            let message = "a snapshot cannot be read with Tier::Persisted";
            return Err(EngineError::new(EngineErrorKind::Invalid, message));
        }
        Ok(())
    }
}

/// The answer to a point read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The key's value.
    Found(Vec<u8>),
    /// The key does not exist.
    Absent,
    /// Not known without touching the disk ([`Tier::Cached`] only): ask again with [`Tier::Any`].
    Incomplete,
}

/// How a scan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// Every row of the range was visited.
    Finished,
    /// The visitor asked to stop.
    Stopped,
    /// The next row would touch the disk ([`Tier::Cached`] only). What was visited until here is
    /// right: go on behind the last visited key with [`Tier::Any`].
    Incomplete,
}

/// A local ordered store. Shared by reference between threads; see the module for the contract.
pub trait Engine: Send + Sync {
    /// Reads one key.
    fn get(&self, key: &[u8], tier: Tier) -> Result<Lookup, EngineError>;

    /// Reads several keys as of one moment, answers in the order of `keys`.
    fn multi_get(&self, keys: &[&[u8]], tier: Tier) -> Result<Vec<Lookup>, EngineError>;

    /// Applies a batch: all of it or, on error, nothing. Visible on return, not yet durable.
    fn write(&self, batch: &Batch) -> Result<(), EngineError>;

    /// Makes durable all that was written before. After an error nothing is promised beyond the
    /// last success; the batches stay visible and a later flush includes them.
    fn flush(&self) -> Result<(), EngineError>;

    /// An unchanging view of this moment. It keeps the engine open for as long as it lives, and
    /// old versions of rows on the disk with it: hold it for seconds, not for days.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, EngineError>;

    /// Flushes, then makes a complete copy of the engine in the new directory `dir` (hard links
    /// where the file system allows). The parent must exist, `dir` itself must not.
    fn checkpoint(&self, dir: &Path) -> Result<(), EngineError>;

    /// Reads every stored file and checks every checksum. Slow: for `check` and scrubbing.
    /// Damage is part of the report; an error means that the check could not be made.
    fn verify(&self) -> Result<VerifyReport, EngineError>;

    /// Figures for metrics and flow control, cheap enough for once a second.
    fn stats(&self) -> EngineStats;
}

/// Is shown each row of a scan, key and value, and says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A consistent view of an engine at one moment. [`Tier::Persisted`] is refused as invalid.
pub trait Snapshot: Send {
    /// Reads one key as of the snapshot.
    fn get(&self, key: &[u8], tier: Tier) -> Result<Lookup, EngineError>;

    /// Reads several keys as of the snapshot, answers in the order of `keys`.
    fn multi_get(&self, keys: &[&[u8]], tier: Tier) -> Result<Vec<Lookup>, EngineError>;

    /// Visits the rows with `from <= key < to` in key order, or from the last to the first if
    /// `reverse`. An empty `to` stands for the end of the key space.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        tier: Tier,
        visit: &mut Visit<'_>,
    ) -> Result<ScanEnd, EngineError>;
}

/// The outcome of [`Engine::verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was found wrong, in the engine's words; empty means that all is well. The check may
    /// stop at the first damaged file.
    pub damage: Vec<String>,
}

/// Whether the engine holds writers back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteStall {
    /// Writes run freely.
    #[default]
    None,
    /// Writes are slowed down because flushes or compactions lag.
    Delayed,
    /// Writes wait until a flush or compaction is done.
    Stopped,
}

/// Figures of one engine. Sizes in bytes; counters run from the opening of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Memory of rows not yet flushed, and of those being flushed.
    pub memtable_bytes: u64,
    /// Block cache in use.
    pub block_cache_bytes_used: u64,
    /// Block cache at most.
    pub block_cache_bytes_max: u64,
    /// Lookups of blocks found in the cache.
    pub block_cache_hits: u64,
    /// Lookups of blocks that had to be read.
    pub block_cache_misses: u64,
    /// Keys, estimated.
    pub keys_estimated: u64,
    /// Live table files.
    pub table_bytes: u64,
    /// Table files of level 0; many of them slow reads down and stall writes.
    pub level0_files: u64,
    /// Compaction debt, estimated.
    pub pending_compaction_bytes: u64,
    /// Flushes running now.
    pub running_flushes: u64,
    /// Compactions running now.
    pub running_compactions: u64,
    /// Whether writers are held back now.
    pub write_stall: WriteStall,
    /// Time that writers were held back for.
    pub write_stall_us: u64,
    /// Bytes written by flushes.
    pub flush_bytes_written: u64,
    /// Bytes read by compactions.
    pub compaction_bytes_read: u64,
    /// Bytes written by compactions.
    pub compaction_bytes_written: u64,
    /// Background errors counted by the engine.
    pub background_errors: u64,
    /// The last failure of a write or flush that no later flush has made good.
    pub background_error: Option<String>,
}
