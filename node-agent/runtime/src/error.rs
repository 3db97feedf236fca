//! What can go wrong, named after the step that failed.

use std::path::PathBuf;

use thiserror::Error;

use crate::lifecycle::ContainerState;

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the runtime could not do what it was asked to.
#[derive(Debug, Error)]
pub enum Error {
    /// No such sandbox.
    #[error("sandbox {id:?} not found")]
    SandboxNotFound {
        /// Its id.
        id: String,
    },
    /// No such container.
    #[error("container {id:?} not found")]
    ContainerNotFound {
        /// Its id.
        id: String,
    },
    /// The id is taken.
    #[error("{what} {id:?} already exists")]
    AlreadyExists {
        /// `sandbox` or `container`.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// The container's state does not allow it.
    #[error("container {id:?} is {state:?}: cannot {action}")]
    WrongState {
        /// Its id.
        id: String,
        /// Its state.
        state: ContainerState,
        /// What was asked.
        action: &'static str,
    },
    /// The sandbox is stopped or its shim is gone.
    #[error("sandbox {id:?} is not ready")]
    SandboxNotReady {
        /// Its id.
        id: String,
    },
    /// The specification is wrong; nothing was changed.
    #[error("invalid {field}: {reason}")]
    InvalidSpec {
        /// Which field.
        field: &'static str,
        /// Why.
        reason: String,
    },
    /// A file operation failed.
    #[error("{action} {}", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A cgroup operation failed.
    #[error("cgroup {path}: {reason}")]
    Cgroup {
        /// The cgroup.
        path: String,
        /// What failed.
        reason: String,
    },
    /// The shim could not be started or reached.
    #[error("shim of sandbox {id:?}: {action}")]
    Shim {
        /// The sandbox.
        id: String,
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Creating the process failed inside the container; `message` is fit for users and worded as OCI runtimes do
    /// (`exec: "foo": executable file not found in $PATH`).
    #[error("{0}")]
    Start(StartError),
    /// A process did not end in time.
    #[error("timed out: {what}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
    },
    /// A failure, and a failure of the clean-up after it.
    #[error("{primary} (and clean-up failed: {cleanup})")]
    Cleanup {
        /// The first failure.
        primary: Box<Error>,
        /// The second.
        cleanup: Box<Error>,
    },
}

/// Why a process could not be created.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct StartError {
    /// The step that failed, e.g. `mount`, `exec`.
    pub step: String,
    /// The kernel's answer, zero when there was none.
    pub errno: i32,
    /// For users, worded as OCI runtimes do.
    pub message: String,
}

impl StartError {
    /// The exit code shells and OCI runtimes use for it: 127 not found, 126 not executable, 128 otherwise.
    pub fn exit_code(&self) -> i32 {
        match (self.step.as_str(), self.errno) {
            ("exec", libc::ENOENT) => 127,
            ("exec", libc::EACCES | libc::ENOEXEC | libc::EISDIR) => 126,
            _ => 128,
        }
    }
}

impl Error {
    /// The message inside a failed start or exec, if this is one.
    pub fn start_error(&self) -> Option<&StartError> {
        match self {
            Error::Start(error) => Some(error),
            Error::Cleanup { primary, .. } => primary.start_error(),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}
