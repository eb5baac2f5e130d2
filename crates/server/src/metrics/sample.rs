//! The figures of one moment, gathered once for one answer.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use holdfast_engine::{Engine, EngineStats};
use holdfast_log::Bounds;
use holdfast_shard::ShardStats;

use super::{NodeMetrics, WorkerMetrics};
use crate::{
    archive,
    node::Node,
    scheduling::{ThreadTime, thread_times},
};

/// See the module's head.
pub(super) struct Sample<'a> {
    pub node: &'a Node,
    pub counters: &'a NodeMetrics,
    pub archive: archive::Lag,
    pub shard: ShardStats,
    pub lease_held: bool,
    pub staleness: Duration,
    pub engine: EngineStats,
    pub log: Bounds,
    /// Bytes of log that a crash now would replay.
    pub unflushed_bytes: u64,
    pub apply_lag: Duration,
    pub flush_lag: Duration,
    /// Name, keys and bytes.
    pub keyspaces: Vec<(String, u64, u64)>,
    pub threads: BTreeMap<String, ThreadTime>,
    pub memory: Memory,
    /// `None` if the disk does not tell.
    pub disk_free_bytes: Option<u64>,
}

/// What the process and its allocator hold, in bytes.
pub(super) struct Memory {
    /// In RAM, as the kernel counts.
    pub resident: u64,
    /// Asked for by the program, and in use.
    pub allocated: u64,
    /// Kept by the allocator for later: fragments, and pages not yet given back.
    pub allocator: u64,
}

impl Memory {
    fn now() -> Memory {
        use tikv_jemalloc_ctl::{epoch, stats};
        // Its figures stand still between two of these.
        let _ = epoch::advance();
        let allocated = stats::allocated::read().unwrap_or_default() as u64;
        let held = stats::resident::read().unwrap_or_default() as u64;
        Memory { resident: resident_bytes(), allocated, allocator: held.saturating_sub(allocated) }
    }
}

/// Memory of the process that lies in RAM, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

impl Sample<'_> {
    pub(super) fn of(node: &Node) -> Sample<'_> {
        let shard = node.shard.stats();
        let flushed = node.flushed_seen();
        let now = Instant::now();
        let durable = node.catalog.look(&node.shard).durable;
        let usage = durable.keyspaces().map(|(name, keyspace)| {
            let (keys, bytes) = node.shard.usage(keyspace.id()).value;
            (name.to_string(), keys, bytes)
        });
        Sample {
            keyspaces: usage.collect(),
            node,
            counters: &node.metrics,
            archive: archive::lag(node),
            shard,
            lease_held: node.holds_lease(),
            staleness: node.staleness(),
            engine: node.engine.stats(),
            log: node.log.bounds(node.shard.id()),
            unflushed_bytes: node.unflushed_log_bytes(),
            apply_lag: node.lag.behind(shard.applied_lsn, now),
            flush_lag: node.lag.behind(flushed, now),
            threads: thread_times(),
            memory: Memory::now(),
            disk_free_bytes: node.disk.free_bytes().ok(),
        }
    }

    /// The sum of a counter over the data threads.
    pub(super) fn sum(&self, counter: fn(&WorkerMetrics) -> u64) -> u64 {
        self.node.workers.iter().map(|worker| counter(worker)).sum()
    }
}
