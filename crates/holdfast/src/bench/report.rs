//! What a bench found, as a table to read and as one JSON object to keep.
//!
//! Latencies are in milliseconds, rates per second, CPU in seconds per million requests.

use super::args::BenchArgs;
use super::process::Usage;
use super::stats::{CommandStats, Stats};
use serde::Serialize;
use std::fmt::{self, Write};

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The options of the run.
    pub settings: BenchArgs,
    /// Seconds from the start of counting to the last reply.
    pub seconds: f64,
    /// All commands together.
    pub total: CommandReport,
    /// Each command of the mix.
    pub commands: Vec<CommandReport>,
    /// The first error reply.
    pub first_error: Option<String>,
    /// Requests without a reply when the run gave up.
    pub unanswered: u64,
    /// With --rate.
    pub open_loop: Option<OpenLoopReport>,
    /// With --verify.
    pub verify: Option<VerifyReport>,
    /// With --preload.
    pub preload: Option<FillReport>,
    /// The watched processes, last the generator itself.
    pub processes: Vec<ProcessReport>,
}

/// One command, or all; units are in the head of the file.
#[derive(Clone, Debug, Serialize)]
pub struct CommandReport {
    pub command: String,
    pub requests: u64,
    pub per_second: f64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    pub misses: u64,
    pub errors: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

/// How well the schedule was kept.
#[derive(Clone, Debug, Serialize)]
pub struct OpenLoopReport {
    /// Asked for.
    pub rate: f64,
    /// Reached.
    pub achieved: f64,
    /// How late requests were sent: waiting in a backlog, or for the generator.
    pub lag_p50_ms: f64,
    /// See `lag_p50_ms`.
    pub lag_p99_ms: f64,
    /// See `lag_p50_ms`.
    pub lag_max_ms: f64,
    /// Longest backlog of one connection.
    pub backlog_longest: u64,
    /// Requests not sent because a backlog was full; no latency counts them.
    pub dropped: u64,
}

/// What checking values found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// Values checked and right.
    pub verified: u64,
    /// Replies with a wrong value.
    pub mismatches: u64,
    /// The first of them.
    pub first_mismatch: Option<String>,
}

/// How filling went.
#[derive(Clone, Debug, Serialize)]
pub struct FillReport {
    /// Keys written.
    pub keys: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// What a process used while counting went on.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessReport {
    /// Its label.
    pub label: String,
    /// CPU seconds in user mode.
    pub user_seconds: f64,
    /// CPU seconds in the kernel.
    pub system_seconds: f64,
    /// CPU seconds (both) per million requests.
    pub cpu_seconds_per_million: f64,
    /// CPUs kept busy on average.
    pub cpus: f64,
    /// Resident memory at the start of counting and at the end.
    pub rss_bytes_before: u64,
    /// See `rss_bytes_before`.
    pub rss_bytes_after: u64,
}

impl Report {
    /// Sums up a run.
    pub fn new(
        args: &BenchArgs,
        preload: Option<FillReport>,
        stats: &Stats,
        processes: Vec<ProcessReport>,
    ) -> Report {
        let seconds = stats.seconds();
        let commands = args.mix.commands().map(|command| {
            CommandReport::new(command.name(), &stats.commands[command as usize], seconds)
        });
        let total = CommandReport::new("all", &stats.total(), seconds);
        let lag = |quantile| milliseconds(stats.lag.value_at_quantile(quantile));
        let open_loop = args.rate.map(|rate| OpenLoopReport {
            rate,
            achieved: total.per_second,
            lag_p50_ms: lag(0.5),
            lag_p99_ms: lag(0.99),
            lag_max_ms: lag(1.0),
            backlog_longest: stats.backlog_longest,
            dropped: stats.dropped,
        });
        let verify = args.verify.then(|| VerifyReport {
            verified: stats.verified,
            mismatches: stats.mismatches,
            first_mismatch: stats.first_mismatch.clone(),
        });
        Report {
            settings: args.clone(),
            seconds,
            commands: commands.collect(),
            total,
            first_error: stats.first_error.clone(),
            unanswered: stats.unanswered,
            open_loop,
            verify,
            preload,
            processes,
        }
    }

    /// What makes a finished run a failed one.
    pub fn verdict(&self) -> Result<(), String> {
        if let Some(VerifyReport { mismatches, first_mismatch: Some(first), .. }) = &self.verify {
            return Err(format!("{mismatches} replies held a wrong value, the first: {first}"));
        }
        if self.unanswered > 0 {
            return Err(format!("{} requests were never answered", self.unanswered));
        }
        Ok(())
    }
}

impl CommandReport {
    fn new(name: &str, stats: &CommandStats, seconds: f64) -> CommandReport {
        let at = |quantile| milliseconds(stats.latency.value_at_quantile(quantile));
        CommandReport {
            command: name.to_owned(),
            requests: stats.count(),
            per_second: if seconds > 0.0 { stats.count() as f64 / seconds } else { 0.0 },
            mean_ms: stats.latency.mean() / 1e6,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: milliseconds(stats.latency.max()),
            misses: stats.misses,
            errors: stats.errors,
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
        }
    }
}

impl FillReport {
    /// From what the filling threads counted.
    pub fn new(stats: &Stats) -> FillReport {
        FillReport { keys: stats.total().count(), seconds: stats.seconds() }
    }
}

impl ProcessReport {
    /// The difference between two looks `seconds` apart, during which `requests` were answered.
    pub fn new(label: &str, from: &Usage, to: &Usage, seconds: f64, requests: u64) -> Self {
        let user_seconds = to.user_seconds - from.user_seconds;
        let system_seconds = to.system_seconds - from.system_seconds;
        let cpu_seconds = user_seconds + system_seconds;
        ProcessReport {
            label: label.to_owned(),
            user_seconds,
            system_seconds,
            cpu_seconds_per_million: cpu_seconds * 1e6 / requests.max(1) as f64,
            cpus: cpu_seconds / seconds,
            rss_bytes_before: from.rss_bytes,
            rss_bytes_after: to.rss_bytes,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_settings(f)?;
        self.write_commands(f)?;
        self.write_processes(f)?;
        if let Some(open_loop) = &self.open_loop {
            let OpenLoopReport { rate, achieved, lag_p99_ms, lag_max_ms, .. } = open_loop;
            let OpenLoopReport { backlog_longest, dropped, .. } = open_loop;
            writeln!(
                f,
                "open loop: asked {rate:.0}/s, got {achieved:.0}/s; sent late p99 {lag_p99_ms:.3} \
                 ms, max {lag_max_ms:.3} ms; longest backlog {backlog_longest}, dropped {dropped}"
            )?;
        }
        if let Some(VerifyReport { verified, mismatches, .. }) = &self.verify {
            writeln!(f, "verify: {verified} values right, {mismatches} replies wrong")?;
        }
        if let Some(error) = &self.first_error {
            writeln!(f, "first error: {error}")?;
        }
        if self.unanswered > 0 {
            writeln!(f, "unanswered: {}", self.unanswered)?;
        }
        Ok(())
    }
}

impl Report {
    fn write_settings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args = &self.settings;
        let mut popularity = "evenly".to_owned();
        if let Some(exponent) = args.zipf {
            popularity.clear();
            write!(popularity, "by Zipf {exponent}")?;
        }
        writeln!(
            f,
            "{}: {} connections, pipeline {}, {} thread(s), {} loop",
            args.addr,
            args.connections,
            args.pipeline,
            args.threads,
            if args.rate.is_some() { "open" } else { "closed" },
        )?;
        writeln!(
            f,
            "{}, {} keys chosen {popularity}, values of {} bytes, {:.2} s",
            args.mix, args.keys, args.value_bytes, self.seconds,
        )?;
        if let Some(FillReport { keys, seconds }) = &self.preload {
            writeln!(f, "preload: {keys} keys in {seconds:.2} s")?;
        }
        Ok(())
    }

    fn write_commands(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["command", "requests", "per s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms"];
        let more = ["max ms", "misses", "errors", "MB sent", "MB recv"];
        write!(f, "\n{:<8}{:>12}", heads[0], heads[1])?;
        for head in heads.iter().skip(2).chain(&more) {
            write!(f, "{head:>10}")?;
        }
        writeln!(f)?;
        let total = (self.commands.len() > 1).then_some(&self.total);
        for row in self.commands.iter().chain(total) {
            write!(f, "{:<8}{:>12}{:>10.0}", row.command, row.requests, row.per_second)?;
            for latency in [row.p50_ms, row.p90_ms, row.p99_ms, row.p999_ms, row.max_ms] {
                write!(f, "{latency:>10.3}")?;
            }
            write!(f, "{:>10}{:>10}", row.misses, row.errors)?;
            let (sent, received) = (row.bytes_sent as f64 / 1e6, row.bytes_received as f64 / 1e6);
            writeln!(f, "{sent:>10.1}{received:>10.1}")?;
        }
        writeln!(f)
    }

    fn write_processes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for process in &self.processes {
            let ProcessReport { label, user_seconds, system_seconds, cpus, .. } = process;
            let per_million = process.cpu_seconds_per_million;
            let (from, to) = (process.rss_bytes_before, process.rss_bytes_after);
            writeln!(
                f,
                "{label}: {per_million:.3} CPU s per million requests (user {user_seconds:.2} s, \
                 system {system_seconds:.2} s, {cpus:.2} CPUs), memory {:.1} to {:.1} MB",
                from as f64 / 1e6,
                to as f64 / 1e6,
            )?;
        }
        let generator = self.processes.last().map_or(0.0, |process| process.cpus);
        if generator > 0.95 * self.settings.threads as f64 {
            writeln!(
                f,
                "the generator kept its CPU busy: this may be its limit, not the server's"
            )?;
        }
        Ok(())
    }
}

fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}
