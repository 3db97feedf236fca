//! The one place that reads time.

use std::time::{Duration, Instant};

/// The wall clock.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// The wall clock as objects carry it: whole seconds.
pub fn now_seconds() -> jiff::Timestamp {
    let second = now().as_second();
    jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// A moment that only grows.
#[expect(clippy::disallowed_methods, reason = "this is the crate's clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// A point in time after which nobody waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub fn after(time: Duration) -> Self {
        Self(monotonic() + time)
    }

    /// What is left, zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(monotonic())
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }
}
