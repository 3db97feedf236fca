//! What callers are told: states, exits, usage, events.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::lifecycle::{ContainerState, SandboxState};
use crate::spec::{ContainerSpec, SandboxSpec};

/// A sandbox as it is now.
#[derive(Debug, Clone)]
pub struct SandboxStatus {
    /// `SandboxSpec::id`.
    pub id: String,
    /// Ready until stopped or until its shim died.
    pub state: SandboxState,
    /// When it was created.
    pub created_at: SystemTime,
    /// The shim's process id in the agent's PID namespace; `None` when it is gone.
    pub shim_pid: Option<u32>,
    /// Names the network namespace for as long as the sandbox is ready; `None` with host network.
    pub netns_path: Option<PathBuf>,
    /// What was asked for.
    pub spec: std::sync::Arc<SandboxSpec>,
}

/// A container as it is now.
#[derive(Debug, Clone)]
pub struct ContainerStatus {
    /// `ContainerSpec::id`.
    pub id: String,
    /// The sandbox it belongs to.
    pub sandbox_id: String,
    /// Where in its life it is.
    pub state: ContainerState,
    /// When `create_container` was called.
    pub created_at: SystemTime,
    /// When its process began.
    pub started_at: Option<SystemTime>,
    /// Process id in the agent's PID namespace while running.
    pub pid: Option<u32>,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    /// Absolute path of the log file, if there is one.
    pub log_path: Option<PathBuf>,
    /// What was asked for.
    pub spec: std::sync::Arc<ContainerSpec>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of the container because the memory limit was reached.
    pub oom_killed: bool,
    /// When.
    pub finished_at: SystemTime,
    /// The real outcome is lost, because shim and container died together (node restart); `code` is 255 then.
    pub lost: bool,
}

/// Resource use of a container or a sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used since the start.
    pub cpu_usage_ns: u64,
    /// Memory in use, caches included.
    pub memory_usage_bytes: u64,
    /// Memory in use without inactive file pages, as Kubernetes counts it.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory.
    pub memory_rss_bytes: u64,
    /// Limit; `None` when unlimited.
    pub memory_limit_bytes: Option<u64>,
    /// Page faults.
    pub memory_page_faults: u64,
    /// Major page faults.
    pub memory_major_page_faults: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Something that happened; facts, past tense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container's process runs.
    ContainerStarted {
        /// Its sandbox.
        sandbox_id: String,
        /// The container.
        container_id: String,
    },
    /// A container's first process ended; its exit record is on disk and its log complete.
    ContainerExited {
        /// Its sandbox.
        sandbox_id: String,
        /// The container.
        container_id: String,
        /// How.
        exit: ExitStatus,
    },
    /// A sandbox' shim ended without being asked to; its containers are gone.
    SandboxLost {
        /// The sandbox.
        sandbox_id: String,
    },
}
