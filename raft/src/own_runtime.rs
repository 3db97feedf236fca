//! The runtime on which nothing but one member's raft runs, on one thread: a write passes through a chain of tasks that wake each other, and
//! a second thread takes part of them over each time, for more than it saves. Whatever takes long runs on the threads for blocking work.
//!
//! Of its threads only the one on which raft runs has raised priority ([`raise_priority`]). The others do what can wait, and what they start, such as
//! RocksDB's threads for flushes and compactions, has their priority for good: none of that may take the cores from raft, or from the programs beside it.
//!
//! It is tokio's pool with one thread, not its runtime for one thread: that one turns to new messages sooner, so fewer writes share an append
//! and a sync (measured with 64 puts in flight: a fifth fewer a second).

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::command::NodeId;
use crate::urgency;

/// `Spec:` setpriority(2): as important as what the machine itself needs, below real-time work.
const NICENESS: i32 = -10;

/// Runs until it is dropped; nobody waits then for what it still does.
pub(crate) struct OwnRuntime {
    /// Taken when it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl OwnRuntime {
    /// Starts it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(node_id: NodeId) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name(format!("raft-{node_id}")).enable_all();
        // a thread begins with the priority of whichever starts it
        let usual = rustix::process::getpriority_process(None)?;
        let runtime = builder.on_thread_start(move || lower_priority(usual)).build()?;
        // a task, other than blocking work, is run by the one worker
        drop(runtime.spawn(async { raise_priority() }));
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Raises the priority of this thread: heartbeats must go out, and what was appended be synced, while others use every core. Without the right to
/// ask for it, the usual priority has to do. Where niceness does not help, [`urgency`] does.
pub(crate) fn raise_priority() {
    set_niceness(NICENESS);
    urgency::watch_this_thread();
}

/// Takes back what a thread has from one with raised priority that started it.
fn lower_priority(usual: i32) {
    urgency::share_cores();
    set_niceness(usual);
}

fn set_niceness(niceness: i32) {
    let _without_the_right = rustix::process::setpriority_process(None, niceness);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[tokio::test]
    async fn raft_alone_has_raised_priority() {
        let usual = niceness();
        let may_raise = std::thread::spawn(|| rustix::process::setpriority_process(None, NICENESS).is_ok()).join().unwrap();
        let runtime = OwnRuntime::start(1).unwrap();
        let rafts = runtime.handle().spawn(async { niceness() }).await.unwrap();
        assert_eq!(rafts, if may_raise { NICENESS } else { usual });
        // started by raft's thread, which hands its own priority on
        let others = runtime.handle().spawn(async { tokio::task::spawn_blocking(niceness).await.unwrap() }).await.unwrap();
        assert_eq!(others, usual);
        let started = async { tokio::task::spawn_blocking(|| std::thread::spawn(niceness).join().unwrap()).await.unwrap() };
        assert_eq!(runtime.handle().spawn(started).await.unwrap(), usual, "as the threads of RocksDB are");
        assert_eq!(niceness(), usual, "nor has whoever starts it");
    }
}
