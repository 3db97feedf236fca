//! The only place in this crate that reads a clock.

use std::time::Instant;

/// A monotonic reading.
#[expect(clippy::disallowed_methods, reason = "this is the crate's clock")]
pub fn now() -> Instant {
    Instant::now()
}
