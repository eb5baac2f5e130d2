//! How RocksDB is set up, each setting with its reason.
//!
//! The aims, in order: no damaged block is ever served, memory stays within its budgets, writers
//! do not stall in bursts, point reads are cheap. What a caller may choose is in `EngineOptions`.

use rocksdb::statistics::StatsLevel;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BlockBasedTablePinningTier, Cache, ChecksumType,
    DBCompressionType, Options, WriteBufferManager,
};

use super::raw;
use crate::EngineOptions;

/// Fewest memtables that the budget is divided into: one being filled while others are flushed.
const MEMTABLES_MIN: usize = 4;
/// Largest memtable. A larger one is merged less often, and takes more of the processor's caches. Over 1 M keys a
/// SET took with 8, 16 and 32 MiB 12.5, 12.0 and 11.4 microseconds of processor time with 200 connections, and 5.0,
/// 4.8 and 5.5 with a pipeline of 16 (`holdfast bench --mix set`, one core, 2-core AMD EPYC VM, 2026-11-26; single
/// runs of three differ by 10 to 20 %).
const MEMTABLE_BYTES_MAX: usize = 16 << 20;
/// The place of the last insertion is remembered for each family of rows: a batch comes in key order, so the
/// next row belongs a few entries behind it. Only the options' text has a name for this.
const MEMTABLE_HINTS: &str = "memtable_insert_with_hint_prefix_extractor=capped:1";
/// Part of a memtable's bytes for a filter over its keys, without which a key that is nowhere costs a search of
/// each memtable: about 16 bits a row of a hundred bytes.
const MEMTABLE_FILTER_PART: f64 = 0.015;
/// Files of level 0 that are merged together. Each merge rewrites what it meets of level 1, so twice as
/// many files are half as much writing; a read of a row that is not there asks as many filters more.
const LEVEL0_FILES: i32 = 8;
/// Bits per key of the filters: about 1 % of reads of absent keys look into a block in vain.
const FILTER_BITS_PER_KEY: f64 = 10.0;
/// Files are handed to the disk in pieces of this size, not in one burst at their end.
const BYTES_PER_SYNC: u64 = 1 << 20;
/// RocksDB's own text log, within the directory: three files of 4 MiB at most.
const INFO_LOG_BYTES_MAX: usize = 4 << 20;
const INFO_LOG_FILES: usize = 3;
/// The rate limiter grants its bytes in slices of this length, and lets compactions go before
/// flushes once in so many grants lest they starve (RocksDB's own defaults).
const RATE_REFILL_US: i64 = 100_000;
const RATE_FAIRNESS: i32 = 10;

pub(super) fn database_options(
    options: &EngineOptions,
    block_cache: &Cache,
) -> Result<Options, rocksdb::Error> {
    let mut tuned = Options::default().get_options_from_string(MEMTABLE_HINTS)?;
    tuned.set_block_based_table_factory(&table_options(options, block_cache));
    set_checks(&mut tuned);
    set_memtables(&mut tuned, options);
    set_background(&mut tuned, options);
    set_levels(&mut tuned, options);
    set_logs_and_counters(&mut tuned);
    Ok(tuned)
}

fn table_options(options: &EngineOptions, block_cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(block_cache);
    table.set_block_size(options.block_bytes);
    table.set_checksum_type(ChecksumType::XXH3);
    // Whole keys: the engine knows no prefixes.
    table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
    table.set_whole_key_filtering(true);
    // Indexes and filters count against the cache; of partitioned ones the small top level stays.
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    if options.partitioned_indexes {
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
    }
    table.set_top_level_index_pinning_tier(BlockBasedTablePinningTier::All);
    table.set_partition_pinning_tier(BlockBasedTablePinningTier::FlushAndSimilar);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table
}

fn set_checks(tuned: &mut Options) {
    tuned.set_paranoid_checks(true);
    raw::enable_file_checksums(tuned);
}

fn memtable_bytes(options: &EngineOptions) -> usize {
    (options.memtable_bytes_total / MEMTABLES_MIN).min(MEMTABLE_BYTES_MAX)
}

fn set_memtables(tuned: &mut Options, options: &EngineOptions) {
    let memtable_bytes = memtable_bytes(options);
    tuned.set_write_buffer_size(memtable_bytes);
    // As many as the budget holds: writers are held back only when it is used up.
    let memtables = (options.memtable_bytes_total / memtable_bytes).min(64);
    tuned.set_max_write_buffer_number(memtables as i32);
    tuned.set_memtable_whole_key_filtering(true);
    tuned.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_PART);
    // Flushes early if arenas together pass the budget. It does not stall by itself: the number of
    // memtables does.
    let budget = WriteBufferManager::new_write_buffer_manager(options.memtable_bytes_total, false);
    tuned.set_write_buffer_manager(&budget);
}

fn set_background(tuned: &mut Options, options: &EngineOptions) {
    tuned.set_max_background_jobs(options.background_threads as i32);
    if options.background_bytes_per_second > 0 {
        let rate = options.background_bytes_per_second.min(i64::MAX as u64) as i64;
        // Not the one that tunes itself: after quiet minutes it has come down to a twentieth of the rate and
        // goes up by 5 % in ten seconds, while flushes wait and, behind them, writers.
        tuned.set_ratelimiter(rate, RATE_REFILL_US, RATE_FAIRNESS);
    }
    tuned.set_bytes_per_sync(BYTES_PER_SYNC);
    tuned.set_soft_pending_compaction_bytes_limit(options.pending_compaction_bytes_slow);
    tuned.set_hard_pending_compaction_bytes_limit(options.pending_compaction_bytes_stop);
    tuned.set_use_direct_io_for_flush_and_compaction(options.direct_background_io);
    // Deleting files and freeing memtables is not a reader's or writer's work.
    tuned.set_avoid_unnecessary_blocking_io(true);
}

fn set_levels(tuned: &mut Options, options: &EngineOptions) {
    tuned.set_level_compaction_dynamic_level_bytes(true);
    tuned.set_level_zero_file_num_compaction_trigger(LEVEL0_FILES);
    // Level 1 no smaller than what level 0 holds when it is merged: cheapest to merge.
    let level0_bytes = LEVEL0_FILES as u64 * memtable_bytes(options) as u64;
    tuned.set_max_bytes_for_level_base(level0_bytes.max(64 << 20));
    tuned.set_target_file_size_base(options.file_bytes_target);
    tuned.set_compression_type(DBCompressionType::Lz4);
    // Level 0 is rewritten soon and read often.
    let mut by_level = [DBCompressionType::Lz4; 7];
    by_level[0] = DBCompressionType::None;
    tuned.set_compression_per_level(&by_level);
}

fn set_logs_and_counters(tuned: &mut Options) {
    tuned.set_max_log_file_size(INFO_LOG_BYTES_MAX);
    tuned.set_keep_log_file_num(INFO_LOG_FILES);
    tuned.set_stats_persist_period_sec(0);
    tuned.enable_statistics();
    // Counters without histograms and timers: a few nanoseconds per read.
    tuned.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
}
