//! The only place of the agent that reads the time.

use std::time::{Instant, SystemTime};

use jiff::Timestamp;

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "this file is where the agent reads the clock")]
pub fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The wall clock in the standard library's type.
#[expect(clippy::disallowed_methods, reason = "this file is where the agent reads the clock")]
pub fn system_now() -> SystemTime {
    SystemTime::now()
}

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this file is where the agent reads the clock")]
pub fn instant_now() -> Instant {
    Instant::now()
}

/// A point of the wall clock as the runtime tells it.
pub fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}
