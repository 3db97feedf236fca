//! The only place in this crate that reads a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "this is the crate's clock")]
pub(crate) fn now_unix_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

/// A monotonic reading, by the same clock as timers go: a test that halts them halts this.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The time since a reading.
pub(crate) fn since(reading: Instant) -> Duration {
    now().saturating_duration_since(reading)
}

/// A moment from which a caller may wait `patience`; far away instead of overflowing.
pub(crate) fn deadline(patience: Duration) -> Instant {
    let now = now();
    now.checked_add(patience).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}
