//! The container runtime: namespaces, cgroups, mounts, processes and a small shim per pod that outlives the agent.
//!
//! It knows what OCI and Linux know and nothing of Kubernetes: callers say which directories, limits, users and filters a container has.
//!
//! ```text
//! agent (many threads)                     shim (one thread, one per pod, outlives the agent)
//! Runtime -> plan (decision) -> request ->  namespaces, processes, logs, attach, exit records on disk
//!         <- events, statuses           <-  unix socket in the sandbox' directory, descriptors by SCM_RIGHTS
//! ```
//!
//! The agent decides everything beforehand: a container's plan is a list of steps that the shim's child does one by one before it becomes the
//! program. A container's file tree is mounted in its own mount namespace only, so the host never sees its mounts. The shim's source is in
//! `shim/`; `build.rs` compiles it and the agent carries it inside.
//!
//! Needs Linux 5.12 or newer (`mount_setattr`), cgroup v1, hybrid or v2, and root. User namespaces show mapped owners where the file systems
//! of layers and volumes can be id-mapped, with a warning otherwise. It refuses nothing for want of a kernel feature that it can do without.
//!
//! Begin at [`Runtime`]; what can be asked for is in [`spec`], what is told in [`status`].

mod capabilities;
mod cgroup;
pub mod error;
pub mod handle;
pub mod lifecycle;
mod plan;
pub mod probe;
#[path = "../shim/protocol.rs"]
mod protocol;
mod records;
pub mod resolve;
mod runtime;
mod seccomp;
mod shim;
pub mod spec;
pub mod status;
pub mod sys;
pub mod users;

pub use error::{Error, Result, StartError};
pub use handle::{AttachHandle, ExecControl, ExecHandle, ExecOutput};
pub use lifecycle::{ContainerState, SandboxState};
pub use runtime::{Runtime, RuntimeConfig};
pub use spec::{ContainerSpec, ExecSpec, SandboxSpec};
pub use status::{ContainerStatus, ExitStatus, RuntimeEvent, SandboxStatus, Stats};
