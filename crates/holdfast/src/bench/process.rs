//! CPU time and memory of processes on this machine, read from /proc (proc_pid_stat(5)).
//!
//! CPU time counts in the kernel's ticks (usually 10 ms), so short runs are coarse.

use std::fs;
use std::str::FromStr;

/// A process to watch, given as `PID` or `LABEL=PID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// What the report calls it.
    pub label: String,
    /// Its number.
    pub pid: u32,
}

impl FromStr for Watched {
    type Err = String;

    fn from_str(text: &str) -> Result<Watched, String> {
        let (label, pid) = text.split_once('=').unwrap_or(("server", text));
        let pid = pid.parse().map_err(|_| format!("{pid:?} is not a process number"))?;
        Ok(Watched { label: label.to_owned(), pid })
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// CPU time in user mode, seconds.
    pub user_seconds: f64,
    /// CPU time in the kernel, seconds.
    pub system_seconds: f64,
    /// Resident memory now, bytes.
    pub rss_bytes: u64,
}

/// Reads the usage of process `pid`.
pub fn usage(pid: u32) -> Result<Usage, String> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    parse(&text, ticks, rustix::param::page_size() as u64)
        .ok_or_else(|| format!("{path}: unexpected content"))
}

/// Fields 14, 15 and 24; the name in field 2 may hold spaces and brackets, so counting starts
/// behind its last bracket, at field 3.
pub fn parse(text: &str, ticks_per_second: f64, page_bytes: u64) -> Option<Usage> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(14 - 3);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let pages: u64 = fields.nth(24 - 16)?.parse().ok()?;
    Some(Usage {
        user_seconds: user as f64 / ticks_per_second,
        system_seconds: system as f64 / ticks_per_second,
        rss_bytes: pages * page_bytes,
    })
}
