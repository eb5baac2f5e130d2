//! HTTP: `/metrics` for Prometheus, `/livez` and `/readyz` for orchestration.
//!
//! Liveness says that the process answers; readiness that reads and writes are served. Neither asks
//! anything outside of the process. Answers from before the replay on; runs on a thread and runtime
//! of its own. `/metrics` can be put under a token, the other two stay open.

mod tls_door;

use std::{fmt::Write as _, io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use holdfast_engine::Engine;
use std::sync::atomic::Ordering::Relaxed;
use subtle::ConstantTimeEq;
use tokio::task::JoinSet;

use crate::{
    archive,
    backup::Phase,
    metrics::{FAMILIES, Histogram, write_histogram},
    node::Node,
    startup::Startup,
    tls::FAILURES,
    users::digest,
    worker::Door,
};
use tls_door::TlsDoor;

/// How often the server looks whether the node stops.
const STOP_POLL: Duration = Duration::from_millis(100);

/// The loop of the HTTP thread.
pub(crate) fn run(startup: &Arc<Startup>, doors: Vec<Door>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "no runtime for HTTP"),
    };
    runtime.block_on(async move {
        let app = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .with_state(startup.clone());
        let mut serving = JoinSet::new();
        for door in doors {
            serving.spawn(serve(startup.clone(), door, app.clone()));
        }
        while !startup.is_over() {
            while let Some(Ok(Err(error))) = serving.try_join_next() {
                tracing::error!(%error, "HTTP ended");
            }
            tokio::time::sleep(STOP_POLL).await;
        }
    });
}

async fn serve(startup: Arc<Startup>, door: Door, app: Router) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(door.listener)?;
    match &startup.certificates {
        Some(certificates) if door.tls => {
            let certificates = certificates.clone();
            axum::serve(TlsDoor::new(listener, certificates, startup.clone()), app).await
        }
        _ => axum::serve(listener, app).await,
    }
}

async fn ready(State(startup): State<Arc<Startup>>) -> impl IntoResponse {
    let why = match startup.node() {
        Some(node) if node.is_ready() => return (StatusCode::OK, "ok\n".to_string()),
        Some(node) => node.why_not_ready(),
        None => startup.tell(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"))
}

async fn metrics(State(startup): State<Arc<Startup>>, headers: HeaderMap) -> Response {
    if !may_read_metrics(&startup.config.http_token, &headers) {
        let asks = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, asks, "a token is asked for\n").into_response();
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], render(&startup)).into_response()
}

/// Whether the request brings the token, if there is one. Digests are compared, so that the time tells
/// nothing of either.
fn may_read_metrics(token: &str, headers: &HeaderMap) -> bool {
    if token.is_empty() {
        return true;
    }
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let (scheme, given) = given.split_at_checked("Bearer ".len()).unwrap_or_default();
    let same = digest(given).as_bytes().ct_eq(digest(token.as_bytes()).as_bytes());
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(same)
}

/// Memory of the process that lies in RAM, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn one(out: &mut String, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
    head(out, name, kind, help);
    let _ = writeln!(out, "{name} {value}");
}

fn render(startup: &Startup) -> String {
    let mut out = String::with_capacity(16 << 10);
    render_start(startup, &mut out);
    render_tls(startup, &mut out);
    if let Some(node) = startup.node() {
        render_node(node, &mut out);
    }
    out
}

/// What is known before the node is ready as well.
fn render_start(startup: &Startup, out: &mut String) {
    let (done, total) = startup.progress();
    let ready = startup.node().is_some_and(|node| node.is_ready());
    one(out, "holdfast_ready", "gauge", "1 while reads and writes are served.", u8::from(ready));
    let help = "Records applied again at the start.";
    one(out, "holdfast_start_replayed_records", "gauge", help, done);
    let help = "Records to be applied again at the start.";
    one(out, "holdfast_start_records_to_replay", "gauge", help, total);
}

fn render_tls(startup: &Startup, out: &mut String) {
    let tls = &startup.metrics.tls;
    let name = "holdfast_tls_handshake_seconds";
    head(out, name, "histogram", "TLS handshakes that succeeded, waiting for the client included.");
    write_histogram(out, name, "role=\"server\"", &[&tls.handshakes]);
    let name = "holdfast_tls_failures_total";
    head(out, name, "counter", "TLS connections that did not come about, by reason.");
    for (failure, label) in FAILURES {
        let _ = writeln!(out, "{name}{{reason=\"{label}\"}} {}", tls.failures(failure));
    }
    let Some(certificates) = &startup.certificates else { return };
    let counter = "counter";
    for (name, kind, help, value) in [
        (
            "certificate_not_after_seconds",
            "gauge",
            "When the certificate, or the first of its chain, ends: seconds since 1970.",
            certificates.not_after(),
        ),
        ("reloads_total", counter, "Taken anew.", certificates.reloads.load(Relaxed) as i64),
        (
            "reloads_failed_total",
            counter,
            "Changed certificate files that could not be taken.",
            certificates.reloads_failed.load(Relaxed) as i64,
        ),
    ] {
        one(out, &format!("holdfast_tls_{name}"), kind, help, value);
    }
}

fn render_node(node: &Node, out: &mut String) {
    let name = "holdfast_command_seconds";
    head(out, name, "histogram", "Time from reading a request to the release of its reply.");
    for (family, label) in FAMILIES {
        let parts: Vec<&Histogram> =
            node.workers.iter().map(|worker| &worker.latency[family as usize]).collect();
        write_histogram(out, name, &format!("family=\"{label}\""), &parts);
    }
    let name = "holdfast_log_commit_seconds";
    head(out, name, "histogram", "Write and sync of one group of records.");
    write_histogram(out, name, "log=\"embedded\"", &[&node.metrics.commit]);
    let name = "holdfast_apply_seconds";
    head(out, name, "histogram", "Moving one batch of durable records into the engine.");
    write_histogram(out, name, "shard=\"0\"", &[&node.metrics.apply]);
    render_shard(node, out);
    render_keyspaces(node, out);
    render_connections(node, out);
    render_engine(node, out);
    render_backups(node, out);
    render_archive(node, out);
}

fn render_shard(node: &Node, out: &mut String) {
    let stats = node.shard.stats();
    let m = &node.metrics;
    let lag = stats.durable_lsn.0.saturating_sub(stats.applied_lsn.0);
    let flush_lag = stats.applied_lsn.0.saturating_sub(node.flushed_seen().0);
    let counter = "counter";
    let gauge = "gauge";
    one(out, "holdfast_log_groups_total", counter, "Groups committed.", m.groups.load(Relaxed));
    one(out, "holdfast_log_records_total", counter, "Records applied.", m.records.load(Relaxed));
    one(out, "holdfast_log_reopened_total", counter, "Reopened logs.", m.reopened.load(Relaxed));
    one(out, "holdfast_log_failed", gauge, "1 while writes are refused.", u8::from(stats.failed));
    one(
        out,
        "holdfast_disk_short",
        gauge,
        "1 while growth is refused.",
        m.disk_short.load(Relaxed),
    );
    one(out, "holdfast_staged_lsn", gauge, "Last staged position.", stats.staged_lsn);
    one(out, "holdfast_durable_lsn", gauge, "Last durable position.", stats.durable_lsn);
    one(out, "holdfast_apply_lag_records", gauge, "Durable records not yet applied.", lag);
    one(out, "holdfast_flush_lag_records", gauge, "Applied, not yet flushed.", flush_lag);
    one(out, "holdfast_overlay_rows", gauge, "Rows staged and not applied.", stats.overlay_rows);
    one(out, "holdfast_engine_flushes_total", counter, "Forced flushes.", m.flushes.load(Relaxed));
    one(out, "holdfast_expired_keys_total", counter, "Expired keys.", m.expired.load(Relaxed));
    one(out, "holdfast_clock_jumps_total", counter, "Refused jumps.", m.clock_jumps.load(Relaxed));
    one(out, "holdfast_row_cache_rows", gauge, "Rows in the row cache.", stats.row_cache_rows);
    let name = "holdfast_memory_bytes";
    head(out, name, gauge, "Memory by owner; `process` is all that lies in RAM.");
    let engine = node.engine.stats();
    for (owner, bytes) in [
        ("process", resident_bytes()),
        ("staged", stats.staged_bytes),
        ("row_cache", stats.row_cache_bytes),
        ("block_cache", engine.block_cache_bytes_used),
        ("memtables", engine.memtable_bytes),
    ] {
        let _ = writeln!(out, "{name}{{owner=\"{owner}\"}} {bytes}");
    }
    one(out, "holdfast_memory_bytes_max", gauge, "The memory setting.", node.config.memory.0);
}

fn render_backups(node: &Node, out: &mut String) {
    let m = &node.backups.metrics;
    let running = u64::from(node.backups.status().phase == Phase::Running);
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    let name = "holdfast_backup_last_success_timestamp_seconds";
    let last = seconds(m.last_success_ms.load(Relaxed));
    one(out, name, "gauge", "When the last backup of this process was taken; 0: none.", last);
    let name = "holdfast_backup_last_duration_seconds";
    let last = seconds(m.last_duration_ms.load(Relaxed));
    one(out, name, "gauge", "How long that one took.", last);
    for (name, kind, help, value) in [
        ("running", "gauge", "1 while a backup is taken.", running),
        ("succeeded_total", "counter", "Backups taken.", m.succeeded.load(Relaxed)),
        ("failures_total", "counter", "Backups that failed.", m.failed.load(Relaxed)),
        ("bytes_uploaded_total", "counter", "Stored.", m.bytes_uploaded.load(Relaxed)),
        ("bytes_reused_total", "counter", "Stored before.", m.bytes_reused.load(Relaxed)),
    ] {
        one(out, &format!("holdfast_backup_{name}"), kind, help, value);
    }
}

fn render_archive(node: &Node, out: &mut String) {
    let (archive, lag) = (&node.archive, archive::lag(node));
    let enabled = u8::from(!node.config.archive_url.is_empty());
    let (counter, gauge) = ("counter", "gauge");
    one(out, "holdfast_archive_enabled", gauge, "1 while the log is archived.", enabled);
    one(out, "holdfast_archive_lag_records", gauge, "Durable, not yet archived.", lag.records);
    one(out, "holdfast_archive_lag_bytes", gauge, "Log kept for them.", lag.bytes);
    one(out, "holdfast_archive_lag_seconds", gauge, "Since all was archived.", lag.seconds);
    for (name, help, value) in [
        ("stored_bytes", "Records stored.", archive.stored_bytes.load(Relaxed)),
        ("failures", "Tries that failed.", archive.failures.load(Relaxed)),
        ("gaps", "Times that the log was trimmed first.", archive.gaps.load(Relaxed)),
    ] {
        one(out, &format!("holdfast_archive_{name}_total"), counter, help, value);
    }
}

fn render_keyspaces(node: &Node, out: &mut String) {
    let table = node.catalog.look(&node.shard).durable;
    let usage: Vec<_> = table
        .keyspaces()
        .map(|(name, keyspace)| (name, node.shard.usage(keyspace.id()).value))
        .collect();
    let (keys, bytes) = ("holdfast_keyspace_keys", "holdfast_keyspace_bytes");
    head(out, keys, "gauge", "Keys of a keyspace.");
    for (name, (count, _)) in &usage {
        let _ = writeln!(out, "{keys}{{keyspace=\"{name}\"}} {count}");
    }
    head(out, bytes, "gauge", "Bytes of keys and content of a keyspace.");
    for (name, (_, size)) in &usage {
        let _ = writeln!(out, "{bytes}{{keyspace=\"{name}\"}} {size}");
    }
}

fn render_connections(node: &Node, out: &mut String) {
    let sum = |counter: fn(&crate::metrics::WorkerMetrics) -> u64| -> u64 {
        node.workers.iter().map(|worker| counter(worker)).sum()
    };
    let name = "holdfast_connections";
    one(out, name, "gauge", "Open connections.", sum(|w| w.open.load(Relaxed)));
    for (name, help, value) in [
        ("connections_accepted", "Connections accepted.", sum(|w| w.accepted.load(Relaxed))),
        ("connections_refused", "Too many connections.", sum(|w| w.refused.load(Relaxed))),
        ("connections_cut_off", "Cut off for their fault.", sum(|w| w.cut_off.load(Relaxed))),
        ("bytes_received", "Bytes read.", sum(|w| w.bytes_in.load(Relaxed))),
        ("bytes_sent", "Bytes written.", sum(|w| w.bytes_out.load(Relaxed))),
        ("error_replies", "Error replies.", sum(|w| w.errors.load(Relaxed))),
        ("commands_fetched", "Commands that waited for disk.", sum(|w| w.fetched.load(Relaxed))),
        ("reads_paused", "Sockets left unread for room.", sum(|w| w.paused.load(Relaxed))),
    ] {
        one(out, &format!("holdfast_{name}_total"), "counter", help, value);
    }
}

fn render_engine(node: &Node, out: &mut String) {
    let stats = node.engine.stats();
    let stalled = u8::from(stats.write_stall != holdfast_engine::WriteStall::None);
    for (name, kind, help, value) in [
        ("block_cache_hits_total", "counter", "Blocks found.", stats.block_cache_hits),
        ("block_cache_misses_total", "counter", "Blocks read.", stats.block_cache_misses),
        ("table_bytes", "gauge", "Live table files.", stats.table_bytes),
        ("level0_files", "gauge", "Files of level 0.", stats.level0_files),
        ("pending_compaction_bytes", "gauge", "Debt.", stats.pending_compaction_bytes),
        ("write_stall", "gauge", "1 while writers are held back.", stalled.into()),
        ("flush_bytes_total", "counter", "Written by flushes.", stats.flush_bytes_written),
        ("compaction_bytes_total", "counter", "Written by it.", stats.compaction_bytes_written),
        ("background_errors_total", "counter", "Engine's own failures.", stats.background_errors),
    ] {
        one(out, &format!("holdfast_engine_{name}"), kind, help, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens_the_metrics() -> Result<(), header::InvalidHeaderValue> {
        let with = |value: &str| -> Result<HeaderMap, header::InvalidHeaderValue> {
            Ok(HeaderMap::from_iter([(header::AUTHORIZATION, value.parse()?)]))
        };
        assert!(may_read_metrics("", &HeaderMap::new()));
        assert!(may_read_metrics("secret", &with("Bearer secret")?));
        assert!(may_read_metrics("secret", &with("bearer secret")?));
        for wrong in ["", "secret", "Bearer", "Bearer ", "Bearer Secret", "Basic secret", "é"] {
            assert!(!may_read_metrics("secret", &with(wrong)?), "{wrong:?}");
        }
        assert!(!may_read_metrics("secret", &HeaderMap::new()));
        Ok(())
    }
}
