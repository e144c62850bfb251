//! Wall-clock time as the contract writes it: Unix milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of one day; a day of the request counters is a day of UTC.
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Now, in Unix milliseconds. A clock before 1970 reads as 0.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
