//! What the threads of a node count.
//!
//! Each counter has one writing thread or is touched a few times a second, so relaxed increments do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64},
};

use super::Histogram;
use crate::tls::TlsMetrics;

/// Kinds of commands whose latency is told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Reads of keys.
    Read,
    /// Writes; their latency includes durability.
    Write,
    /// EXEC.
    Transaction,
    /// Everything about connection and server.
    Other,
}

/// All families with their label.
pub const FAMILIES: [(Family, &str); 4] = [
    (Family::Read, "read"),
    (Family::Write, "write"),
    (Family::Transaction, "transaction"),
    (Family::Other, "other"),
];

/// What one data thread counts. Only that thread writes.
#[derive(Default)]
pub struct WorkerMetrics {
    /// Latency by family, from the end of reading the request to the hand-over of its reply.
    pub latency: [Histogram; 4],
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections open.
    pub open: AtomicU64,
    /// Connections refused because there were too many.
    pub refused: AtomicU64,
    /// Connections cut off for their own fault (protocol, output limit).
    pub cut_off: AtomicU64,
    /// Bytes read.
    pub bytes_in: AtomicU64,
    /// Bytes written.
    pub bytes_out: AtomicU64,
    /// Error replies.
    pub errors: AtomicU64,
    /// Commands that had to wait for a row from the disk.
    pub fetched: AtomicU64,
    /// Times that reading stopped because too much was staged.
    pub paused: AtomicU64,
}

/// What is counted around the log: shared with what wraps its session and its disk.
#[derive(Default)]
pub struct LogMetrics {
    /// Duration of making one group durable: write and sync, in microseconds.
    pub commit: Histogram,
    /// Records of a group.
    pub group_records: Histogram,
    /// Bytes of a group.
    pub group_bytes: Histogram,
    /// Duration of one `fdatasync` of a file of the log, in microseconds.
    pub sync: Histogram,
}

/// What the committer, applier and background count.
#[derive(Default)]
pub struct NodeMetrics {
    /// Around the log.
    pub log: std::sync::Arc<LogMetrics>,
    /// Records applied.
    pub records: AtomicU64,
    /// Duration of applying a step.
    pub apply: Histogram,
    /// Engine flushes forced.
    pub flushes: AtomicU64,
    /// Keys deleted by active expiry.
    pub expired: AtomicU64,
    /// How long the oldest key of the last expiry step had been past its deadline.
    pub expiry_overdue_ms: AtomicU64,
    /// Dropped collections whose rows were removed.
    pub swept_collections: AtomicU64,
    /// 1 while the sweeper finds as much as one step can take.
    pub sweep_behind: AtomicU64,
    /// Times that the log failed and was reopened.
    pub reopened: AtomicU64,
    /// Renewals of the lease that failed.
    pub lease_failures: AtomicU64,
    /// Connections that were closed because the lease had run out under their answers.
    pub lease_cut_off: AtomicU64,
    /// Epoch of the owner that this node stands by for; 0: none.
    pub stands_by: AtomicU64,
    /// Whether the cluster's entries could not be read or written at the last try.
    pub members_fail: AtomicBool,
    /// Connections that are passed on to the owner.
    pub forwarded: Arc<AtomicU64>,
    /// 1 while growing writes are refused because the disk is nearly full.
    pub disk_short: AtomicU64,
    /// Times that the wall clock jumped too far ahead.
    pub clock_jumps: AtomicU64,
    /// What is counted of TLS.
    pub(crate) tls: TlsMetrics,
}
