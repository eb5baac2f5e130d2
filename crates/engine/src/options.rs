//! The engine's options: few, with bounds, each with its default and the reason for it.
//!
//! Everything else that RocksDB can be told is decided in `rocks/tuning.rs`. Options may change
//! from one opening to the next; none of them changes what is stored already.

use crate::{EngineError, EngineErrorKind};

/// Whether an absent engine may be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Open the engine in the directory, or make an empty one if there is none. For a data
    /// directory that its owner knows to be new.
    Create,
    /// Open the engine in the directory; if there is none that is an error (`Missing`), so that a
    /// lost or unmounted directory does not silently become an empty store.
    Existing,
}

/// Sizes and limits of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Memory for data blocks, indexes and filters read from files. Default 256 MiB.
    pub block_cache_bytes: usize,
    /// Memory for rows not yet flushed, all memtables together; writers stall beyond it.
    /// Default 128 MiB: eight memtables, so that one fills while others are written out.
    pub memtable_bytes_total: usize,
    /// Ceiling for the bytes that flushes and compactions write in a second; flushes go first.
    /// 0 means no limit.
    /// Default 256 MiB/s.
    pub background_bytes_per_second: u64,
    /// Flushes and compactions at a time. Default 2.
    pub background_threads: u32,
    /// Uncompressed size of a data block, the unit of reading and caching. Default 8 KiB: cached
    /// reads cost the same with 4, 8 and 16 KiB, reads past a small cache 6.0, 6.3 and 8.1 us, and
    /// 8 KiB halves the index of 4 (`examples/engine_speed.rs`).
    /// Applies to tables written from then on.
    pub block_bytes: usize,
    /// Whether the index and filter of a table are cached in pieces. Cut up they fade gracefully
    /// when they outgrow the cache (at about 2 % of the data); whole they make a cached read cost
    /// 2.8 instead of 3.8 us and an absent key 0.65 instead of 1.2 (`examples/engine_speed.rs`).
    /// Default on: hot rows are cached above the engine. Applies to tables written from then on.
    pub partitioned_indexes: bool,
    /// Size that table files are cut at. Default 32 MiB.
    pub file_bytes_target: u64,
    /// Compaction debt from which writers are slowed down. Default 16 GiB.
    pub pending_compaction_bytes_slow: usize,
    /// Compaction debt from which writers wait. Default 64 GiB.
    pub pending_compaction_bytes_stop: usize,
    /// Whether flushes and compactions go around the page cache. Keeps a small machine's page cache
    /// for reads; costs throughput on some disks. Default off.
    pub direct_background_io: bool,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 256 * MIB,
            memtable_bytes_total: 128 * MIB,
            background_bytes_per_second: 256 * MIB as u64,
            background_threads: 2,
            block_bytes: 8 * KIB,
            partitioned_indexes: true,
            file_bytes_target: 32 * MIB as u64,
            pending_compaction_bytes_slow: 16 * GIB,
            pending_compaction_bytes_stop: 64 * GIB,
            direct_background_io: false,
        }
    }
}

impl EngineOptions {
    /// Refuses values with which the engine could not run, naming the option.
    pub fn check(&self) -> Result<(), EngineError> {
        let wrong = |what: &str| Err(EngineError::new(EngineErrorKind::Invalid, what));
        if self.block_cache_bytes < MIB {
            return wrong("block_cache_bytes must be at least 1 MiB");
        }
        if self.memtable_bytes_total < MIB {
            return wrong("memtable_bytes_total must be at least 1 MiB");
        }
        if i64::try_from(self.background_bytes_per_second).is_err() {
            return wrong("background_bytes_per_second is too large");
        }
        if (1..MIB as u64).contains(&self.background_bytes_per_second) {
            return wrong("background_bytes_per_second must be 0 or at least 1 MiB");
        }
        if !(1..=64).contains(&self.background_threads) {
            return wrong("background_threads must be between 1 and 64");
        }
        if !(KIB..=MIB).contains(&self.block_bytes) {
            return wrong("block_bytes must be between 1 KiB and 1 MiB");
        }
        if self.file_bytes_target < MIB as u64 {
            return wrong("file_bytes_target must be at least 1 MiB");
        }
        if self.pending_compaction_bytes_slow > self.pending_compaction_bytes_stop {
            return wrong("pending_compaction_bytes_slow must not be above the stop limit");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_each_wrong_option_is_named() {
        let good = EngineOptions::default();
        good.check().expect("defaults are valid");
        let wrong: [(&str, EngineOptions); 6] = [
            ("block_cache_bytes", EngineOptions { block_cache_bytes: 0, ..good.clone() }),
            ("memtable_bytes_total", EngineOptions { memtable_bytes_total: 1, ..good.clone() }),
            ("background_bytes", EngineOptions { background_bytes_per_second: 7, ..good.clone() }),
            ("background_threads", EngineOptions { background_threads: 0, ..good.clone() }),
            ("block_bytes", EngineOptions { block_bytes: 100, ..good.clone() }),
            ("file_bytes_target", EngineOptions { file_bytes_target: 0, ..good.clone() }),
        ];
        for (name, options) in wrong {
            let error = options.check().expect_err(name);
            assert_eq!(error.kind, EngineErrorKind::Invalid);
            assert!(error.message.contains(name), "{error}");
        }
    }
}
