//! Every metric, declared once: name, type, labels, meaning, and where its value comes from.
//!
//! `/metrics` and docs/metrics.md are written from this table, so neither can lack what the other
//! has. Names begin with `holdfast_`, units come last, counters end in `_total`.

use std::sync::atomic::Ordering::Relaxed;

use holdfast_base::Lsn;
use holdfast_engine::WriteStall;

use crate::{startup::Startup, tls::FAILURES};

use super::{
    FAMILIES, Family, Histogram, WorkerMetrics,
    page::{Series, Unit},
    sample::Sample,
};

/// What a metric's values do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Only grow, until the process ends.
    Counter,
    /// Go up and down.
    Gauge,
    /// Are counted by size.
    Histogram,
}

/// Writes a metric's values.
#[derive(Clone, Copy)]
pub(super) enum Read {
    /// From the first moment on.
    Startup(fn(&Startup, &mut Series<'_>)),
    /// Once the node is ready.
    Node(ReadNode),
}

type ReadNode = fn(&Sample<'_>, &mut Series<'_>);

/// One metric.
pub(super) struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    pub read: Read,
}

type Text = &'static str;
type Texts = &'static [&'static str];

const fn counter(name: Text, labels: Texts, help: Text, read: ReadNode) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help, read: Read::Node(read) }
}

const fn gauge(name: Text, labels: Texts, help: Text, read: ReadNode) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help, read: Read::Node(read) }
}

const fn histogram(name: Text, labels: Texts, help: Text, read: ReadNode) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, help, read: Read::Node(read) }
}

impl Metric {
    /// The metric is known before the node is ready.
    const fn early(self, read: fn(&Startup, &mut Series<'_>)) -> Metric {
        Metric { read: Read::Startup(read), ..self }
    }
}

fn nothing(_: &Sample<'_>, _: &mut Series<'_>) {}

fn latency(worker: &WorkerMetrics, family: Family) -> &Histogram {
    &worker.latency[family as usize]
}

fn behind(ahead: Lsn, position: Lsn) -> u64 {
    ahead.0.saturating_sub(position.0)
}

/// All metrics, in the order of the page.
pub(super) const METRICS: &[Metric] = &[
    // ---- The start, and TLS: known before the node is ready.
    gauge("holdfast_ready", &[], "1 while reads and writes are served.", nothing).early(
        |startup, out| {
            out.one(u8::from(startup.node().is_some_and(|node| node.is_ready())));
        },
    ),
    gauge("holdfast_start_replayed_records", &[], "Records applied again at the start.", nothing)
        .early(|startup, out| out.one(startup.progress().0)),
    gauge(
        "holdfast_start_records_to_replay",
        &[],
        "Records to be applied again at the start.",
        nothing,
    )
    .early(|startup, out| out.one(startup.progress().1)),
    histogram(
        "holdfast_tls_handshake_seconds",
        &["role"],
        "TLS handshakes that succeeded, waiting for the client included.",
        nothing,
    )
    .early(|startup, out| {
        let parts = [&startup.metrics.tls.handshakes];
        out.histogram(Some(("role", "server")), Unit::Seconds, &parts);
    }),
    counter(
        "holdfast_tls_failures_total",
        &["reason"],
        "TLS connections that did not come about, by reason.",
        nothing,
    )
    .early(|startup, out| {
        for (failure, reason) in FAILURES {
            out.labelled("reason", reason, startup.metrics.tls.failures(failure));
        }
    }),
    gauge(
        "holdfast_tls_certificate_not_after_seconds",
        &[],
        "When the certificate, or the first of its chain, ends: seconds since 1970.",
        nothing,
    )
    .early(|startup, out| {
        if let Some(certificates) = &startup.certificates {
            out.one(certificates.not_after());
        }
    }),
    counter(
        "holdfast_tls_reloads_total",
        &[],
        "Changed certificate files that were taken.",
        nothing,
    )
    .early(|startup, out| {
        if let Some(certificates) = &startup.certificates {
            out.one(certificates.reloads.load(Relaxed));
        }
    }),
    counter(
        "holdfast_tls_reloads_failed_total",
        &[],
        "Changed certificate files that could not be taken.",
        nothing,
    )
    .early(|startup, out| {
        if let Some(certificates) = &startup.certificates {
            out.one(certificates.reloads_failed.load(Relaxed));
        }
    }),
    // ---- Commands and connections.
    histogram(
        "holdfast_command_seconds",
        &["family"],
        "From reading a request to the release of its reply; of a write, durability included.",
        |s, out| {
            for (family, label) in FAMILIES {
                let of_family = |worker| latency(worker, family);
                let workers = s.node.workers.iter().map(std::sync::Arc::as_ref);
                let parts: Vec<&Histogram> = workers.map(of_family).collect();
                out.histogram(Some(("family", label)), Unit::Seconds, &parts);
            }
        },
    ),
    counter("holdfast_error_replies_total", &[], "Error replies.", |s, out| {
        out.one(s.sum(|w| w.errors.load(Relaxed)))
    }),
    counter(
        "holdfast_commands_fetched_total",
        &[],
        "Commands that waited for a row from the disk.",
        |s, out| out.one(s.sum(|w| w.fetched.load(Relaxed))),
    ),
    counter(
        "holdfast_reads_paused_total",
        &[],
        "Times that a socket was left unread because too much was staged.",
        |s, out| out.one(s.sum(|w| w.paused.load(Relaxed))),
    ),
    gauge("holdfast_connections", &[], "Open connections.", |s, out| {
        out.one(s.sum(|w| w.open.load(Relaxed)))
    }),
    counter("holdfast_connections_accepted_total", &[], "Connections accepted.", |s, out| {
        out.one(s.sum(|w| w.accepted.load(Relaxed)))
    }),
    counter(
        "holdfast_connections_refused_total",
        &[],
        "Connections refused because there were too many.",
        |s, out| out.one(s.sum(|w| w.refused.load(Relaxed))),
    ),
    counter(
        "holdfast_connections_cut_off_total",
        &[],
        "Connections cut off for their own fault: protocol, output, memory.",
        |s, out| out.one(s.sum(|w| w.cut_off.load(Relaxed))),
    ),
    counter("holdfast_bytes_received_total", &[], "Bytes read from clients.", |s, out| {
        out.one(s.sum(|w| w.bytes_in.load(Relaxed)))
    }),
    counter("holdfast_bytes_sent_total", &[], "Bytes written to clients.", |s, out| {
        out.one(s.sum(|w| w.bytes_out.load(Relaxed)))
    }),
    // ---- The log.
    histogram(
        "holdfast_log_commit_seconds",
        &[],
        "Making one group of records durable: write and sync.",
        |s, out| {
            out.histogram(None, Unit::Seconds, &[&s.counters.log.commit]);
        },
    ),
    histogram(
        "holdfast_log_sync_seconds",
        &[],
        "One `fdatasync` of a file of the log.",
        |s, out| {
            out.histogram(None, Unit::Seconds, &[&s.counters.log.sync]);
        },
    ),
    histogram("holdfast_log_group_records", &[], "Records of one group.", |s, out| {
        out.histogram(None, Unit::One, &[&s.counters.log.group_records]);
    }),
    histogram("holdfast_log_group_bytes", &[], "Bytes of one group.", |s, out| {
        out.histogram(None, Unit::One, &[&s.counters.log.group_bytes]);
    }),
    counter("holdfast_log_groups_total", &[], "Groups made durable.", |s, out| {
        out.one(s.counters.log.commit.count())
    }),
    counter("holdfast_log_records_total", &[], "Records applied.", |s, out| {
        out.one(s.counters.records.load(Relaxed))
    }),
    counter(
        "holdfast_log_reopened_total",
        &[],
        "Times that the log failed and was opened again.",
        |s, out| out.one(s.counters.reopened.load(Relaxed)),
    ),
    gauge(
        "holdfast_stands_by",
        &[],
        "Epoch of the owner that this node stands by for, following the log; 0: it owns the data, or starts.",
        nothing,
    )
    .early(|startup, out| out.one(startup.metrics.stands_by.load(Relaxed))),
    gauge(
        "holdfast_replica_staleness_seconds",
        &[],
        "While this node stands by: seconds since a sign of the owner before which all that it had written shows \
         here; 0 at the owner.",
        |s, out| out.one(s.staleness.as_secs_f64()),
    ),
    counter(
        "holdfast_digests_total",
        &[],
        "Digests of a part of the rows that were taken, to be compared with other nodes'.",
        |s, out| out.one(s.node.digests.metrics.taken.load(Relaxed)),
    ),
    counter(
        "holdfast_digest_rows_total",
        &[],
        "Rows that were digested.",
        |s, out| out.one(s.node.digests.metrics.rows.load(Relaxed)),
    ),
    counter(
        "holdfast_digests_compared_total",
        &["result"],
        "Digests that were compared with other nodes' of the same record.",
        |s, out| {
            out.labelled("result", "same", s.node.digests.metrics.same.load(Relaxed));
            out.labelled("result", "differ", s.node.digests.metrics.differ.load(Relaxed));
        },
    ),
    gauge(
        "holdfast_log_servers",
        &["state"],
        "Log servers by what they say on `log.monitors`: `synced` before they acknowledge, `unsynced`, or `silent`.",
        |s, out| {
            let heard = &s.node.log_servers;
            out.labelled("state", "synced", heard.synced.load(Relaxed));
            out.labelled("state", "unsynced", heard.unsynced.load(Relaxed));
            out.labelled("state", "silent", heard.silent.load(Relaxed));
        },
    ),
    gauge(
        "holdfast_diverged",
        &[],
        "1 if this node's rows turned out not to be the owner's: it serves no reads, and takes nothing over.",
        |s, out| out.one(u8::from(s.node.has_diverged())),
    ),
    gauge(
        "holdfast_members",
        &["state"],
        "Nodes of the cluster, by whether they have given a sign of life in the last 5 seconds.",
        nothing,
    )
    .early(|startup, out| {
        let (mut all, mut alive) = (0, 0);
        if let Some(members) = startup.members.get() {
            let view = members.view();
            all = view.members.len();
            alive = view.members.iter().filter(|member| member.is_alive()).count();
        }
        out.labelled("state", "alive", alive);
        out.labelled("state", "silent", all - alive);
    }),
    gauge(
        "holdfast_forwarded_connections",
        &[],
        "Connections that this node, standing by, passes on to the owner.",
        nothing,
    )
    .early(|startup, out| out.one(startup.metrics.forwarded.load(Relaxed))),
    gauge(
        "holdfast_members_fail",
        &[],
        "1 while the cluster's entries cannot be read or written, or another process has this node's name.",
        nothing,
    )
    .early(|startup, out| out.one(u8::from(startup.metrics.members_fail.load(Relaxed)))),
    counter(
        "holdfast_lease_failures_total",
        &[],
        "Times that a replicated log did not take a renewal of this node's lease.",
        |s, out| out.one(s.counters.lease_failures.load(Relaxed)),
    ),
    counter(
        "holdfast_lease_cut_off_total",
        &[],
        "Connections that were closed because the lease had run out before their answers left.",
        |s, out| out.one(s.counters.lease_cut_off.load(Relaxed)),
    ),
    gauge(
        "holdfast_lease_held",
        &[],
        "1 while this node may serve reads: no other one can have taken over.",
        |s, out| out.one(u8::from(s.lease_held)),
    ),
    gauge(
        "holdfast_log_failed",
        &[],
        "1 while writes are refused because the log failed.",
        |s, out| out.one(u8::from(s.shard.failed && s.node.owns())),
    ),
    gauge("holdfast_log_replicated", &[], "1 if the log is that of log servers.", |s, out| {
        out.one(u8::from(!s.node.config.log_servers.is_empty()))
    }),
    gauge("holdfast_log_kept_records", &[], "Records that the log still holds.", |s, out| {
        out.one(s.log.next.0 - s.log.first.0)
    }),
    gauge(
        "holdfast_log_free_bytes",
        &[],
        "Room in segments that are made already, the reserve included.",
        |s, out| out.one(s.node.log.space().free_bytes),
    ),
    // ---- From staged to flushed.
    gauge("holdfast_staged_lsn", &[], "Last staged position.", |s, out| {
        out.one(s.shard.staged_lsn)
    }),
    gauge("holdfast_durable_lsn", &[], "Last durable position.", |s, out| {
        out.one(s.shard.durable_lsn)
    }),
    gauge("holdfast_applied_lsn", &[], "Last position that is in the engine.", |s, out| {
        out.one(s.shard.applied_lsn)
    }),
    gauge("holdfast_flushed_lsn", &[], "Last position that the engine holds on disk.", |s, out| {
        out.one(s.node.flushed_seen())
    }),
    gauge("holdfast_overlay_rows", &[], "Rows staged and not applied.", |s, out| {
        out.one(s.shard.overlay_rows)
    }),
    gauge(
        "holdfast_overlay_bytes",
        &[],
        "Bytes of records staged and not applied, as in the log.",
        |s, out| out.one(s.shard.staged_bytes),
    ),
    histogram(
        "holdfast_apply_seconds",
        &[],
        "Moving one batch of durable records into the engine.",
        |s, out| {
            out.histogram(None, Unit::Seconds, &[&s.counters.apply]);
        },
    ),
    gauge("holdfast_apply_lag_records", &[], "Durable records not yet applied.", |s, out| {
        out.one(behind(s.shard.durable_lsn, s.shard.applied_lsn))
    }),
    gauge(
        "holdfast_apply_lag_seconds",
        &[],
        "How long the oldest of them has been durable.",
        |s, out| out.one(s.apply_lag.as_secs_f64()),
    ),
    gauge("holdfast_flush_lag_records", &[], "Applied records not yet flushed.", |s, out| {
        out.one(behind(s.shard.applied_lsn, s.node.flushed_seen()))
    }),
    gauge(
        "holdfast_flush_lag_bytes",
        &[],
        "Bytes of log that a crash now would replay.",
        |s, out| out.one(s.unflushed_bytes),
    ),
    gauge(
        "holdfast_flush_lag_seconds",
        &[],
        "How long the oldest record that would be replayed has been durable.",
        |s, out| out.one(s.flush_lag.as_secs_f64()),
    ),
    // ---- The engine.
    counter("holdfast_engine_flushes_total", &[], "Flushes forced, to bound replay.", |s, out| {
        out.one(s.counters.flushes.load(Relaxed))
    }),
    gauge("holdfast_engine_running_flushes", &[], "Flushes running now.", |s, out| {
        out.one(s.engine.running_flushes)
    }),
    gauge("holdfast_engine_running_compactions", &[], "Compactions running now.", |s, out| {
        out.one(s.engine.running_compactions)
    }),
    counter("holdfast_engine_flush_bytes_total", &[], "Bytes written by flushes.", |s, out| {
        out.one(s.engine.flush_bytes_written)
    }),
    counter(
        "holdfast_engine_compaction_bytes_total",
        &[],
        "Bytes written by compactions.",
        |s, out| out.one(s.engine.compaction_bytes_written),
    ),
    counter(
        "holdfast_engine_compaction_read_bytes_total",
        &[],
        "Bytes read by compactions.",
        |s, out| out.one(s.engine.compaction_bytes_read),
    ),
    gauge(
        "holdfast_engine_pending_compaction_bytes",
        &[],
        "Compaction debt: bytes to rewrite, estimated.",
        |s, out| out.one(s.engine.pending_compaction_bytes),
    ),
    gauge("holdfast_engine_level0_files", &[], "Table files of level 0.", |s, out| {
        out.one(s.engine.level0_files)
    }),
    gauge("holdfast_engine_table_bytes", &[], "Bytes of live table files.", |s, out| {
        out.one(s.engine.table_bytes)
    }),
    gauge(
        "holdfast_engine_write_stall",
        &[],
        "1 while the engine holds writers back.",
        |s, out| out.one(u8::from(s.engine.write_stall != WriteStall::None)),
    ),
    counter(
        "holdfast_engine_write_stall_seconds_total",
        &[],
        "Time that writers were held back for.",
        |s, out| out.one(s.engine.write_stall_us as f64 / 1e6),
    ),
    counter(
        "holdfast_engine_block_cache_hits_total",
        &[],
        "Blocks found in the cache.",
        |s, out| out.one(s.engine.block_cache_hits),
    ),
    counter(
        "holdfast_engine_block_cache_misses_total",
        &[],
        "Blocks that had to be read.",
        |s, out| out.one(s.engine.block_cache_misses),
    ),
    counter(
        "holdfast_engine_background_errors_total",
        &[],
        "Failures of the engine's own threads.",
        |s, out| out.one(s.engine.background_errors),
    ),
    // ---- Removal.
    counter(
        "holdfast_expired_keys_total",
        &[],
        "Keys deleted because their deadline had passed.",
        |s, out| out.one(s.counters.expired.load(Relaxed)),
    ),
    gauge(
        "holdfast_expiry_lag_seconds",
        &[],
        "How long the oldest key that was expired last had been past its deadline.",
        |s, out| out.one(s.counters.expiry_overdue_ms.load(Relaxed) as f64 / 1e3),
    ),
    counter(
        "holdfast_swept_collections_total",
        &[],
        "Dropped collections whose rows were removed.",
        |s, out| out.one(s.counters.swept_collections.load(Relaxed)),
    ),
    gauge(
        "holdfast_sweep_behind",
        &[],
        "1 while more dropped rows wait than one step of the sweeper removes.",
        |s, out| out.one(s.counters.sweep_behind.load(Relaxed)),
    ),
    // ---- Backups and the archive.
    gauge("holdfast_backup_running", &[], "1 while a backup is taken.", |s, out| {
        out.one(u8::from(s.node.backups.status().is_backup_running()))
    }),
    gauge(
        "holdfast_backup_last_success_timestamp_seconds",
        &[],
        "When the last backup of this process was taken, in seconds since 1970; 0: none.",
        |s, out| out.one(s.node.backups.metrics.last_success_ms.load(Relaxed) as f64 / 1e3),
    ),
    gauge(
        "holdfast_backup_covered_lsn",
        &[],
        "The last record in the newest backup at backup.url that is known; 0: none.",
        |s, out| out.one(s.node.backups.covered()),
    ),
    gauge("holdfast_backup_last_duration_seconds", &[], "How long that one took.", |s, out| {
        out.one(s.node.backups.metrics.last_duration_ms.load(Relaxed) as f64 / 1e3)
    }),
    counter("holdfast_backup_succeeded_total", &[], "Backups taken.", |s, out| {
        out.one(s.node.backups.metrics.succeeded.load(Relaxed))
    }),
    counter("holdfast_backup_failures_total", &[], "Backups that failed.", |s, out| {
        out.one(s.node.backups.metrics.failed.load(Relaxed))
    }),
    counter("holdfast_backup_bytes_uploaded_total", &[], "Bytes that backups stored.", |s, out| {
        out.one(s.node.backups.metrics.bytes_uploaded.load(Relaxed))
    }),
    counter(
        "holdfast_backup_bytes_reused_total",
        &[],
        "Bytes of backups that were stored before.",
        |s, out| out.one(s.node.backups.metrics.bytes_reused.load(Relaxed)),
    ),
    gauge("holdfast_archive_enabled", &[], "1 while the log is archived.", |s, out| {
        out.one(u8::from(!s.node.config.archive_url.is_empty()))
    }),
    gauge("holdfast_archive_lag_records", &[], "Durable records not yet archived.", |s, out| {
        out.one(s.archive.records)
    }),
    gauge("holdfast_archive_lag_bytes", &[], "Bytes of log kept for them.", |s, out| {
        out.one(s.archive.bytes)
    }),
    gauge("holdfast_archive_lag_seconds", &[], "Since everything was archived.", |s, out| {
        out.one(s.archive.seconds)
    }),
    counter("holdfast_archive_stored_bytes_total", &[], "Bytes of records archived.", |s, out| {
        out.one(s.node.archive.stored_bytes.load(Relaxed))
    }),
    counter("holdfast_archive_failures_total", &[], "Tries to archive that failed.", |s, out| {
        out.one(s.node.archive.failures.load(Relaxed))
    }),
    counter(
        "holdfast_archive_gaps_total",
        &[],
        "Times that the log was trimmed before it was archived.",
        |s, out| out.one(s.node.archive.gaps.load(Relaxed)),
    ),
    // ---- Memory, disk, processor, time.
    gauge(
        "holdfast_memory_bytes",
        &["owner"],
        "Memory by owner; `process` is all that lies in RAM, `allocated` what the program asked for, \
         `allocator` what the allocator keeps beyond that.",
        |s, out| {
            for (owner, bytes) in [
                ("process", s.memory.resident),
                ("allocated", s.memory.allocated),
                ("allocator", s.memory.allocator),
                ("staged", s.shard.staged_bytes),
                ("row_cache", s.shard.row_cache_bytes),
                ("block_cache", s.engine.block_cache_bytes_used),
                ("memtables", s.engine.memtable_bytes),
                ("connections", s.node.connection_bytes.load(Relaxed)),
            ] {
                out.labelled("owner", owner, bytes);
            }
        },
    ),
    gauge("holdfast_memory_bytes_max", &[], "The memory setting.", |s, out| {
        out.one(s.node.config.memory.0)
    }),
    gauge("holdfast_row_cache_rows", &[], "Rows in the row cache.", |s, out| {
        out.one(s.shard.row_cache_rows)
    }),
    gauge("holdfast_disk_free_bytes", &[], "Bytes that this process may still write.", |s, out| {
        if let Some(bytes) = s.disk_free_bytes {
            out.one(bytes);
        }
    }),
    gauge(
        "holdfast_disk_short",
        &[],
        "1 while growing writes are refused because the disk is nearly full.",
        |s, out| out.one(s.counters.disk_short.load(Relaxed)),
    ),
    counter(
        "holdfast_thread_cpu_seconds_total",
        &["thread"],
        "Processor time by thread name.",
        |s, out| {
            for (name, time) in &s.threads {
                out.labelled("thread", name, time.running.as_secs_f64());
            }
        },
    ),
    counter(
        "holdfast_thread_wait_seconds_total",
        &["thread"],
        "Time that threads of this name were ready to run while others had the core.",
        |s, out| {
            for (name, time) in &s.threads {
                out.labelled("thread", name, time.waiting.as_secs_f64());
            }
        },
    ),
    counter(
        "holdfast_clock_jumps_total",
        &[],
        "Turns during which the wall clock was too far ahead to be followed.",
        |s, out| out.one(s.counters.clock_jumps.load(Relaxed)),
    ),
    gauge("holdfast_uptime_seconds", &[], "Since the node was opened.", |s, out| {
        out.one(s.node.uptime_seconds())
    }),
    // ---- Keyspaces.
    gauge("holdfast_keyspace_keys", &["keyspace"], "Keys of a keyspace.", |s, out| {
        for (name, keys, _) in &s.keyspaces {
            out.labelled("keyspace", name, keys);
        }
    }),
    gauge(
        "holdfast_keyspace_bytes",
        &["keyspace"],
        "Bytes of keys and content of a keyspace.",
        |s, out| {
            for (name, _, bytes) in &s.keyspaces {
                out.labelled("keyspace", name, bytes);
            }
        },
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_formed_alike() {
        let mut seen = std::collections::BTreeSet::new();
        for Metric { name, kind, help, .. } in METRICS {
            assert!(seen.insert(name), "{name} is declared twice");
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(name.starts_with("holdfast_") && name.chars().all(fits), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
        }
    }
}
