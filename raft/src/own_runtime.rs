//! The runtime on which nothing but one member's raft runs, on one thread: a write passes through a chain of tasks that wake each other, and
//! a second thread takes part of them over each time, for more than it saves. Whatever takes long runs on the threads for blocking work.
//!
//! It is tokio's pool with one thread, not its runtime for one thread: that one turns to new messages sooner, so fewer writes share an append
//! and a sync (measured with 64 puts in flight: a fifth fewer a second).

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::command::NodeId;

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
        let runtime =
            builder.worker_threads(1).thread_name(format!("raft-{node_id}")).on_thread_start(raise_priority).enable_all().build()?;
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

/// Heartbeats must go out while others use every core. Without the right to ask for it, the usual priority has to do.
fn raise_priority() {
    let _without_the_right = rustix::process::setpriority_process(None, NICENESS);
}
