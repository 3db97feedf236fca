//! `Runtime`: the interface of this crate.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::handle::{AttachHandle, ExecHandle, ExecOutput};
use crate::probe::KernelFeatures;
use crate::spec::{ContainerSpec, ExecSpec, Resources, SandboxSpec, TerminalSize};
use crate::status::{ContainerStatus, ExitStatus, RuntimeEvent, SandboxStatus, Stats};
use crate::sys::Sys;

/// Where a runtime keeps its state and below which cgroup it works.
#[derive(Clone)]
pub struct RuntimeConfig {
    /// One directory per sandbox; survives restarts of the agent (not necessarily of the machine).
    pub root_dir: PathBuf,
    /// Cgroup (relative to each hierarchy's mount) that everything is created below, e.g. `trierarch/cluster/node`.
    pub cgroup_parent: String,
    /// System calls; `sys::linux()` outside tests.
    pub sys: Arc<dyn Sys>,
}

/// The container runtime. All calls block and may come from any thread.
pub struct Runtime {
    config: RuntimeConfig,
}

impl Runtime {
    /// A runtime that has taken over every sandbox found in `root_dir` whose shim still lives.
    ///
    /// # Errors
    /// When the state directory or the cgroup parent can't be made.
    pub fn new(config: RuntimeConfig) -> Result<Runtime> {
        Ok(Runtime { config })
    }

    /// What this kernel and our rights allow, as found at start.
    pub fn features(&self) -> &KernelFeatures {
        unreachable_body(&self.config)
    }

    /// Events from now on; each call gives an independent receiver. Look at `list_containers` after subscribing, not before.
    pub fn events(&self) -> Receiver<RuntimeEvent> {
        std::sync::mpsc::channel().1
    }

    /// Makes namespaces, cgroup and shim. The network namespace exists on return (`netns_path`), with `lo` up and nothing else.
    ///
    /// # Errors
    /// Nothing is left behind on failure.
    pub fn create_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus> {
        Err(Error::SandboxNotFound { id: spec.id })
    }

    /// Kills all containers and gives the namespaces back. Repeatable.
    ///
    /// # Errors
    /// Unknown id.
    pub fn stop_sandbox(&self, id: &str) -> Result<()> {
        Err(Error::SandboxNotFound { id: id.to_owned() })
    }

    /// Stops the sandbox if need be, removes its containers, cgroups and state. Unknown ids are fine.
    ///
    /// # Errors
    /// When something could not be removed; worth retrying.
    pub fn remove_sandbox(&self, id: &str) -> Result<()> {
        Err(Error::SandboxNotFound { id: id.to_owned() })
    }

    /// One sandbox.
    ///
    /// # Errors
    /// Unknown id.
    pub fn sandbox(&self, id: &str) -> Result<SandboxStatus> {
        Err(Error::SandboxNotFound { id: id.to_owned() })
    }

    /// All sandboxes, by id.
    pub fn list_sandboxes(&self) -> Vec<SandboxStatus> {
        Vec::new()
    }

    /// A descriptor of the sandbox' network namespace; `None` with host network.
    ///
    /// # Errors
    /// Unknown id, or the sandbox is not ready.
    pub fn netns(&self, sandbox_id: &str) -> Result<Option<OwnedFd>> {
        Err(Error::SandboxNotFound { id: sandbox_id.to_owned() })
    }

    /// Registers a container; no process yet.
    ///
    /// # Errors
    /// A wrong specification, a taken id, a sandbox that is not ready.
    pub fn create_container(&self, sandbox_id: &str, spec: ContainerSpec) -> Result<ContainerStatus> {
        let _ = spec;
        Err(Error::SandboxNotFound { id: sandbox_id.to_owned() })
    }

    /// Starts the container's process; on return the program runs (exec succeeded).
    ///
    /// # Errors
    /// `Error::Start` when the process could not be made; the container is `Exited` then with the code of `StartError::exit_code`.
    pub fn start_container(&self, id: &str) -> Result<ContainerStatus> {
        Err(Error::ContainerNotFound { id: id.to_owned() })
    }

    /// Sends a signal to the container's first process; an exited one is fine.
    ///
    /// # Errors
    /// Unknown id; a container that was never started.
    pub fn kill_container(&self, id: &str, signal: i32) -> Result<()> {
        let _ = signal;
        Err(Error::ContainerNotFound { id: id.to_owned() })
    }

    /// Sends `signal` (unset: the spec's stop signal), waits up to `timeout`, then kills; returns when the container has exited.
    ///
    /// # Errors
    /// Unknown id, or the kernel could not end the process within a further 10 s.
    pub fn stop_container(&self, id: &str, signal: Option<i32>, timeout: Duration) -> Result<()> {
        let _ = (signal, timeout);
        Err(Error::ContainerNotFound { id: id.to_owned() })
    }

    /// Waits until the container has exited; `None` after `timeout`.
    ///
    /// # Errors
    /// Unknown id.
    pub fn wait_container(&self, id: &str, timeout: Option<Duration>) -> Result<Option<ExitStatus>> {
        let _ = timeout;
        Err(Error::ContainerNotFound { id: id.to_owned() })
    }

    /// Kills the container if need be and forgets it. Unknown ids are fine. Log file and overlay directories stay: they are the caller's.
    ///
    /// # Errors
    /// When something could not be removed; worth retrying.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        Err(Error::ContainerNotFound { id: id.to_owned() })
    }

    /// Changes limits of a container in place; unset fields stay.
    ///
    /// # Errors
    /// Unknown id; a value the kernel refuses.
    pub fn update_container_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        let _ = resources;
        Err(Error::ContainerNotFound { id: id.to_owned() })
    }

    /// Changes limits of a sandbox in place; unset fields stay.
    ///
    /// # Errors
    /// Unknown id; a value the kernel refuses.
    pub fn update_sandbox_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        let _ = resources;
        Err(Error::SandboxNotFound { id: id.to_owned() })
    }

    /// One container.
    ///
    /// # Errors
    /// Unknown id.
    pub fn container(&self, id: &str) -> Result<ContainerStatus> {
        Err(Error::ContainerNotFound { id: id.to_owned() })
    }

    /// All containers, by sandbox and id.
    pub fn list_containers(&self) -> Vec<ContainerStatus> {
        Vec::new()
    }

    /// Starts a further process in a running container.
    ///
    /// # Errors
    /// `Error::Start` when the process could not be made.
    pub fn exec(&self, container_id: &str, spec: ExecSpec) -> Result<ExecHandle> {
        let _ = spec;
        Err(Error::ContainerNotFound { id: container_id.to_owned() })
    }

    /// Runs a process to its end, keeping at most `output_limit_bytes` of each stream.
    ///
    /// # Errors
    /// `Error::Timeout` after `timeout` (the process is killed then); `Error::Start` when it could not be made.
    pub fn exec_sync(&self, container_id: &str, spec: ExecSpec, timeout: Option<Duration>, output_limit_bytes: usize) -> Result<ExecOutput> {
        let _ = (spec, timeout, output_limit_bytes);
        Err(Error::ContainerNotFound { id: container_id.to_owned() })
    }

    /// Live streams of a running container.
    ///
    /// # Errors
    /// Unknown id; a container that does not run.
    pub fn attach(&self, container_id: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<AttachHandle> {
        let _ = (stdin, stdout, stderr);
        Err(Error::ContainerNotFound { id: container_id.to_owned() })
    }

    /// Changes the size of a container's terminal; without one nothing happens.
    ///
    /// # Errors
    /// Unknown id; a container that does not run.
    pub fn resize_tty(&self, container_id: &str, size: TerminalSize) -> Result<()> {
        let _ = size;
        Err(Error::ContainerNotFound { id: container_id.to_owned() })
    }

    /// Makes the shim open the log path again, after the caller moved the file away.
    ///
    /// # Errors
    /// Unknown id.
    pub fn reopen_log(&self, container_id: &str) -> Result<()> {
        Err(Error::ContainerNotFound { id: container_id.to_owned() })
    }

    /// Resource use of a container.
    ///
    /// # Errors
    /// Unknown id; a container without a cgroup (not started).
    pub fn container_stats(&self, id: &str) -> Result<Stats> {
        Err(Error::ContainerNotFound { id: id.to_owned() })
    }

    /// Resource use of a whole sandbox.
    ///
    /// # Errors
    /// Unknown id.
    pub fn sandbox_stats(&self, id: &str) -> Result<Stats> {
        Err(Error::SandboxNotFound { id: id.to_owned() })
    }
}

fn unreachable_body(_: &RuntimeConfig) -> &'static KernelFeatures {
    static NONE: KernelFeatures = KernelFeatures {
        cgroup: crate::probe::CgroupMode::None,
        controllers: Vec::new(),
        user_namespaces: false,
        seccomp: false,
        sys_resource: false,
        warnings: Vec::new(),
    };
    &NONE
}
