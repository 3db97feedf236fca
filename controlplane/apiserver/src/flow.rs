//! How many requests may be in flight; more get 429 at once instead of waiting.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use trierarch_api::{ApiError, Reason};

/// Two limits: requests that read, and requests that write. Long-running ones are not counted.
pub struct Flow {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Flow {
    /// With these limits.
    pub fn new(reads_max: usize, writes_max: usize) -> Self {
        Self { reads: Arc::new(Semaphore::new(reads_max)), writes: Arc::new(Semaphore::new(writes_max)) }
    }

    /// A place for a request, held until it is answered.
    ///
    /// # Errors
    /// 429 when there is none.
    pub fn enter(&self, writes: bool) -> Result<OwnedSemaphorePermit, ApiError> {
        let limit = if writes { &self.writes } else { &self.reads };
        Arc::clone(limit).try_acquire_owned().map_err(|_full| ApiError {
            retry_after_seconds: Some(1),
            ..ApiError::new(Reason::TooManyRequests, "Too many requests, please try again later.")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_are_limited_apart() {
        let flow = Flow::new(1, 1);
        let held = flow.enter(true).expect("the first enters");
        assert_eq!(flow.enter(true).expect_err("the second does not").reason, Reason::TooManyRequests);
        let _read = flow.enter(false).expect("a read has its own limit");
        drop(held);
        let _again = flow.enter(true).expect("places are given back");
    }
}
