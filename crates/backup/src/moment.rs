//! Points in time as people write them: RFC 3339 in UTC, `2026-11-25T22:45:01Z`.

use std::time::{Duration, SystemTime};

use holdfast_base::Error;

use crate::invalid;

/// Milliseconds since 1970 of an RFC 3339 time in UTC. Finer fractions are cut off.
pub fn parse_time(text: &str) -> Result<u64, Error> {
    let wrong = || invalid(format!("{text:?} is not a time like 2026-11-25T22:45:01Z"));
    let time = humantime::parse_rfc3339(text).map_err(|_| wrong())?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| wrong())?;
    u64::try_from(since.as_millis()).map_err(|_| wrong())
}

/// The same the other way, to the millisecond.
pub fn show_time(ms: u64) -> String {
    // The last millisecond of the year 9999: the format ends there.
    const LAST_MS: u64 = 253_402_300_799_999;
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(LAST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() -> Result<(), Error> {
        for ms in [0, 1, 1_764_110_701_234, 253_402_300_799_999] {
            assert_eq!(parse_time(&show_time(ms))?, ms);
        }
        assert_eq!(parse_time("2026-11-25T22:45:01Z")? % 1_000, 0);
        assert_eq!(show_time(u64::MAX), "9999-12-31T23:59:59.999Z");
        for wrong in ["", "yesterday", "2026-11-25", "1900-01-01T00:00:00Z"] {
            parse_time(wrong).expect_err(wrong);
        }
        Ok(())
    }
}
