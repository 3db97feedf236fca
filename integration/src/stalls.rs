//! Whether the machine itself stands still: a thread as important as raft's that does nothing but wake up, and notes when it could not. What
//! happens to a cluster on such a machine says nothing about the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::Result;
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

use crate::wait::now;

/// How often it wakes up.
const INTERVAL: Duration = Duration::from_millis(10);
/// As raft's threads are scheduled when they are starved. `Spec:` sched(7), "SCHED_RR".
const POLICY: ThreadSchedulePolicy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);

/// A thread that watches. It ends when this is dropped.
pub struct Stalls {
    longest_us: Arc<AtomicU64>,
    is_important: Arc<AtomicBool>,
    _end: Sender<()>,
}

impl Stalls {
    /// Starts watching.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn watch() -> Result<Self> {
        let (end, ended) = channel();
        let (longest_us, is_important) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (longest, important) = (Arc::clone(&longest_us), Arc::clone(&is_important));
        std::thread::Builder::new().name("stalls".into()).spawn(move || {
            let raised = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, POLICY);
            important.store(raised.is_ok(), Ordering::Relaxed);
            loop {
                let asleep = now();
                if ended.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let late = asleep.elapsed().saturating_sub(INTERVAL);
                longest.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        })?;
        Ok(Self { longest_us, is_important, _end: end })
    }

    /// By how much it woke up too late at most.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.load(Ordering::Relaxed))
    }

    /// Whether it got the priority that it wants.
    pub fn is_important(&self) -> bool {
        self.is_important.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use crate::wait::until;

    use super::*;

    #[test]
    fn a_thread_that_wakes_up_is_seen_to_be_late() {
        let stalls = Stalls::watch().unwrap();
        // nobody wakes up at the very moment
        until("a wake-up", Duration::from_secs(60), || {
            anyhow::ensure!(stalls.longest() > Duration::ZERO);
            Ok(())
        })
        .unwrap();
        assert_eq!(stalls.is_important(), nix::unistd::geteuid().is_root());
    }
}
