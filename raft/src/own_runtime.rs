//! The runtime on which nothing but one member's raft runs, on one thread: a write passes through a chain of tasks that wake each other, and
//! a second thread takes part of them over each time, for more than it saves. Whatever takes long runs on the threads for blocking work.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::command::NodeId;

/// `Spec:` setpriority(2): as important as what the machine itself needs, below real-time work.
const NICENESS: i32 = -10;

/// Runs until it is dropped; nobody waits then for what it still does.
pub(crate) struct OwnRuntime {
    handle: Handle,
    /// Its thread ends when this is dropped.
    _end: oneshot::Sender<()>,
}

impl OwnRuntime {
    /// Starts it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(node_id: NodeId) -> io::Result<Self> {
        let name = format!("raft-{node_id}");
        let runtime = Builder::new_current_thread().thread_name(&name).on_thread_start(raise_priority).enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name(name).spawn(move || run(runtime, ended))?;
        Ok(Self { handle, _end: end })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

fn run(runtime: Runtime, ended: oneshot::Receiver<()>) {
    raise_priority();
    // an error is how the end is told
    let _dropped = runtime.block_on(ended);
    runtime.shutdown_background();
}

/// Heartbeats must go out while others use every core. Without the right to ask for it, the usual priority has to do.
fn raise_priority() {
    let _without_the_right = rustix::process::setpriority_process(None, NICENESS);
}
