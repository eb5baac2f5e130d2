//! `holdfast bench`: a load generator for this server and for its peers.
//!
//! Measures throughput, latency (closed loop, or open loop without coordinated omission) and the
//! server's CPU cost, and can check what it reads. It shares no code with the server, so that a
//! fault in the server's protocol code cannot hide in both.

mod args;
mod connection;
mod mix;
mod process;
mod random;
mod report;
mod resp;
mod run;
mod schedule;
mod source;
mod stats;
#[cfg(test)]
mod tests;
mod value;
mod wire;
mod worker;

pub use args::BenchArgs;

/// Runs a bench and prints its report to stdout; progress goes to stderr.
///
/// Fails when the server cannot be reached, refuses the login, breaks the protocol, closes a
/// connection or falls silent, and after the report when a value was wrong or a reply missing.
pub fn run(args: BenchArgs) -> Result<(), String> {
    let report = run::measure(&args)?;
    print!("{report}");
    if let Some(path) = &args.json {
        let mut text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        text.push('\n');
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    report.verdict()
}
