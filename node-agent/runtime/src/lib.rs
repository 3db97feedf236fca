//! The container runtime: namespaces, cgroups, mounts, processes and a small shim per pod that outlives the agent.
//!
//! It knows what OCI and Linux know and nothing of Kubernetes: callers say which directories, limits, users and filters a container has.
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
