//! The faults that a test has ordered from a simulated disk.
//! Guarantee: a fault strikes where its path and count say, never by chance.

use std::io;
use std::ops::Range;

/// EIO, as a medium error reaches a program on Linux.
const EIO: i32 = 5;

#[derive(Debug, Default)]
pub(super) struct Faults {
    syncs: Vec<SyncFault>,
    reads: Vec<ReadFault>,
    /// Changing operations until the power goes; none: it stays on.
    power_left: Option<u64>,
}

#[derive(Debug)]
struct SyncFault {
    path_part: String,
    /// Matching syncs that still succeed.
    passing: u64,
    once: bool,
}

#[derive(Debug)]
struct ReadFault {
    path_part: String,
    range: Range<u64>,
}

impl Faults {
    pub(super) fn add_sync(&mut self, path_part: &str, nth: u64, once: bool) {
        let passing = nth.saturating_sub(1);
        self.syncs.push(SyncFault { path_part: path_part.to_owned(), passing, once });
    }

    pub(super) fn add_read(&mut self, path_part: &str, range: Range<u64>) {
        self.reads.push(ReadFault { path_part: path_part.to_owned(), range });
    }

    pub(super) fn set_power_left(&mut self, operations: Option<u64>) {
        self.power_left = operations;
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Counts one sync of `path`; the error is the one that it must report.
    pub(super) fn sync(&mut self, path: &str) -> io::Result<()> {
        let mut struck = None;
        for (index, fault) in self.syncs.iter_mut().enumerate() {
            if !path.contains(&fault.path_part) {
                continue;
            }
            if fault.passing > 0 {
                fault.passing -= 1;
            } else if struck.is_none() {
                struck = Some((index, fault.once));
            }
        }
        let Some((index, once)) = struck else { return Ok(()) };
        if once {
            self.syncs.remove(index);
        }
        Err(io::Error::from_raw_os_error(EIO))
    }

    /// Whether reading this range of `path` fails.
    pub(super) fn read(&self, path: &str, range: &Range<u64>) -> io::Result<()> {
        let strikes = |fault: &ReadFault| {
            path.contains(&fault.path_part)
                && range.start < fault.range.end
                && fault.range.start < range.end
        };
        if self.reads.iter().any(strikes) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    }

    /// Whether there still is power, for operations that change nothing.
    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.power_left == Some(0) { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// As `check_power`, and counts one changing operation.
    pub(super) fn use_power(&mut self) -> io::Result<()> {
        self.check_power()?;
        if let Some(left) = &mut self.power_left {
            *left -= 1;
        }
        Ok(())
    }
}
