//! INFO: what Redis clients and monitoring read, under the names that they look for.

use std::{fmt::Write as _, sync::atomic::Ordering};

use crate::{DATABASES, REDIS_VERSION, node::Node};

/// Writes the lines of one section.
type Section = fn(&Node, &mut String);

const SECTIONS: [(&str, Section); 8] = [
    ("server", server),
    ("clients", clients),
    ("memory", memory),
    ("persistence", persistence),
    ("stats", stats),
    ("replication", replication),
    ("cluster", cluster),
    ("keyspace", keyspace),
];

/// The sections asked for, all if none is named.
pub(crate) fn render(node: &Node, sections: &[String]) -> String {
    let all = ["default", "all", "everything"];
    let everything = sections.is_empty() || sections.iter().any(|s| all.contains(&s.as_str()));
    let mut out = String::new();
    for (name, write) in SECTIONS {
        if everything || sections.iter().any(|section| section == name) {
            if !out.is_empty() {
                out.push_str("\r\n");
            }
            let title: String = name.chars().take(1).flat_map(char::to_uppercase).collect();
            let _ = write!(out, "# {title}{}\r\n", name.get(1..).unwrap_or_default());
            write(node, &mut out);
        }
    }
    out
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = write!(out, "{name}:{value}\r\n");
}

fn server(node: &Node, out: &mut String) {
    line(out, "redis_version", REDIS_VERSION);
    line(out, "holdfast_version", env!("CARGO_PKG_VERSION"));
    line(out, "redis_mode", if node.members.is_some() { "cluster" } else { "standalone" });
    line(out, "os", std::env::consts::OS);
    line(out, "arch_bits", usize::BITS);
    line(out, "process_id", std::process::id());
    line(out, "tcp_port", node.addresses().redis.map_or(0, |addr| addr.port()));
    line(out, "uptime_in_seconds", node.uptime_seconds());
    line(out, "uptime_in_days", node.uptime_seconds() / 86_400);
}

fn clients(node: &Node, out: &mut String) {
    line(out, "connected_clients", node.clients.count());
    line(out, "maxclients", node.config.redis_clients_max);
    line(out, "blocked_clients", 0);
}

fn memory(node: &Node, out: &mut String) {
    line(out, "used_memory", crate::metrics::resident_bytes());
    line(out, "maxmemory", node.config.memory.0);
    line(out, "maxmemory_policy", "noeviction");
}

fn persistence(node: &Node, out: &mut String) {
    let stats = node.shard.stats();
    line(out, "loading", 0);
    line(out, "aof_enabled", 1);
    line(out, "aof_last_write_status", if stats.failed { "err" } else { "ok" });
    line(out, "staged_lsn", stats.staged_lsn);
    line(out, "durable_lsn", stats.durable_lsn);
    line(out, "applied_lsn", stats.applied_lsn);
    line(out, "flushed_lsn", node.flushed_seen());
}

fn stats(node: &Node, out: &mut String) {
    let sum = |counter: fn(&crate::metrics::WorkerMetrics) -> u64| -> u64 {
        node.workers.iter().map(|worker| counter(worker)).sum()
    };
    let commands = sum(|w| w.latency.iter().map(crate::metrics::Histogram::count).sum());
    line(out, "total_connections_received", sum(|w| w.accepted.load(Ordering::Relaxed)));
    line(out, "total_commands_processed", commands);
    line(out, "total_net_input_bytes", sum(|w| w.bytes_in.load(Ordering::Relaxed)));
    line(out, "total_net_output_bytes", sum(|w| w.bytes_out.load(Ordering::Relaxed)));
    line(out, "rejected_connections", sum(|w| w.refused.load(Ordering::Relaxed)));
    line(out, "expired_keys", node.metrics.expired.load(Ordering::Relaxed));
    line(out, "evicted_keys", 0);
    line(out, "total_error_replies", sum(|w| w.errors.load(Ordering::Relaxed)));
}

fn replication(node: &Node, out: &mut String) {
    if let Some(members) = node.members.as_ref().filter(|_| !node.owns()) {
        line(out, "role", "slave");
        let owner = members.elsewhere(false);
        let (host, port) = owner.unwrap_or_default();
        line(out, "master_host", host);
        line(out, "master_port", port);
        line(out, "master_link_status", if node.is_fresh() { "up" } else { "down" });
        line(out, "slave_repl_offset", node.shown());
        line(out, "slave_read_only", 1);
        line(out, "holdfast_staleness_ms", node.staleness().as_millis());
        return;
    }
    line(out, "role", "master");
    let others = node.members.as_ref().map_or(0, |members| members.view().serving().len());
    line(out, "connected_slaves", others.saturating_sub(1));
}

fn cluster(node: &Node, out: &mut String) {
    line(out, "cluster_enabled", u8::from(node.members.is_some()));
}

fn keyspace(node: &Node, out: &mut String) {
    for (name, keyspace) in node.catalog.look(&node.shard).durable.keyspaces() {
        let (keys, bytes) = node.shard.usage(keyspace.id()).value;
        let id = keyspace.number;
        if keys > 0 {
            let name = if id < DATABASES { String::new() } else { format!(",name={name}") };
            let usage = format!("keys={keys},expires=0,avg_ttl=0,bytes={bytes}{name}");
            line(out, &format!("db{id}"), usage);
        }
    }
}
