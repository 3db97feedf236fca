//! Starting processes inside a host of the cluster: its network namespace, and for a node namespaces of its own.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command};

use nix::sched::{CloneFlags, setns, unshare};

/// Starts a command inside a network namespace, with further namespaces new (`CLONE_NEWPID`: the command becomes process 1 there).
///
/// A thread enters the namespaces and starts the child, which inherits them; this process stays where it is.
///
/// # Errors
/// What the kernel says, or that the program is not there.
pub fn spawn(netns: &Path, new: CloneFlags, mut command: Command) -> io::Result<Child> {
    let namespace = File::open(netns)?;
    std::thread::scope(|scope| {
        let started = scope.spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            if !new.is_empty() {
                unshare(new)?;
            }
            command.spawn()
        });
        started.join().unwrap_or_else(|_panic| Err(io::Error::other("the starting thread panicked")))
    })
}

/// The namespaces that a node has beside its network.
pub const NODE_NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNS.union(CloneFlags::CLONE_NEWPID).union(CloneFlags::CLONE_NEWUTS);
