//! The only place of kubectl that reads clocks.

use jiff::Timestamp;

/// The time of day.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// A point to measure from.
#[expect(clippy::disallowed_methods, reason = "the clock of this program")]
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}
