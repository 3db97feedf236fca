//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition of another process is looked at: nothing tells us when it changes.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The time, for measuring how long something took.
#[expect(clippy::disallowed_methods, reason = "the clock of tests between processes")]
pub fn now() -> Instant {
    Instant::now()
}

/// Calls `look` until it returns something, and returns that with the time it took.
///
/// # Errors
/// After `patience`, with what was waited for and what was seen last.
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<T>) -> Result<(T, Duration)> {
    let start = now();
    loop {
        let seen = match look() {
            Ok(value) => return Ok((value, start.elapsed())),
            Err(error) => error,
        };
        if start.elapsed() > patience {
            bail!("waited {} s for {what}; last seen: {seen:#}", patience.as_secs());
        }
        #[expect(clippy::disallowed_methods, reason = "polls another process, bounded by `patience`")]
        std::thread::sleep(LOOK_INTERVAL);
    }
}
