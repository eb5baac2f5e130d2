//! RocksDB's properties and counters as [`EngineStats`].
//!
//! Properties are read one by one, so the figures of one answer may be microseconds apart. A
//! property that RocksDB does not know reads as 0.

use rocksdb::properties::{self, PropName};
use rocksdb::statistics::Ticker;

use super::Shared;
use crate::traits::{EngineStats, WriteStall};

impl Shared {
    pub(super) fn stats(&self) -> EngineStats {
        let number = |name: &PropName| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        let counter = |ticker: Ticker| self.options.get_ticker_count(ticker);
        EngineStats {
            memtable_bytes: number(properties::CUR_SIZE_ALL_MEM_TABLES),
            block_cache_bytes_used: self.block_cache.get_usage() as u64,
            block_cache_bytes_max: self.block_cache_bytes as u64,
            block_cache_hits: counter(Ticker::BlockCacheHit),
            block_cache_misses: counter(Ticker::BlockCacheMiss),
            keys_estimated: number(properties::ESTIMATE_NUM_KEYS),
            table_bytes: number(properties::LIVE_SST_FILES_SIZE),
            level0_files: self.level0_files(),
            pending_compaction_bytes: number(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            running_flushes: number(properties::NUM_RUNNING_FLUSHES),
            running_compactions: number(properties::NUM_RUNNING_COMPACTIONS),
            write_stall: match (
                number(properties::IS_WRITE_STOPPED),
                number(properties::ACTUAL_DELAYED_WRITE_RATE),
            ) {
                (0, 0) => WriteStall::None,
                (0, _) => WriteStall::Delayed,
                (_, _) => WriteStall::Stopped,
            },
            write_stall_us: counter(Ticker::StallMicros),
            flush_bytes_written: counter(Ticker::FlushWriteBytes),
            compaction_bytes_read: counter(Ticker::CompactReadBytes),
            compaction_bytes_written: counter(Ticker::CompactWriteBytes),
            background_errors: number(properties::BACKGROUND_ERRORS),
            background_error: self.background_error.lock().clone(),
        }
    }

    /// The only per-level figure; RocksDB has it as text alone.
    fn level0_files(&self) -> u64 {
        let text = self.db.property_value(properties::num_files_at_level(0)).ok().flatten();
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}
