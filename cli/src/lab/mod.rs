//! The election laboratory: experiments on real processes in network namespaces ([`processes`]), or in the simulator ([`simulated`]).
//! What an experiment is, and what its report shows, is in the crate `trierarch-lab`.

mod ears;
pub mod processes;
pub mod simulated;
mod stage;
mod writers;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that goes on from the time of day at which it was made, so that it can be compared with that of other processes of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
    began_unix: Duration,
}

impl Clock {
    /// Begins now.
    #[expect(clippy::disallowed_methods, reason = "the laboratory's clock")]
    pub fn start() -> Self {
        Self { began: Instant::now(), began_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    /// Milliseconds since it began.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Milliseconds since it began of a moment that another process tells in milliseconds since the Unix epoch; 0 for earlier ones.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to be positive; milliseconds of one experiment")]
    pub fn at_ms(&self, unix_ms: f64) -> u64 {
        (unix_ms - self.began_unix.as_secs_f64() * 1000.0).max(0.0).round() as u64
    }
}
