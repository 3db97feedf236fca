//! What `exec` and `attach` give back: descriptors of live streams and ways to steer the process behind them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::protocol::{Reply, Request};
use crate::shim::{Connection, exit_status, lost_exit};
use crate::spec::TerminalSize;
use crate::status::ExitStatus;
use crate::sys::Sys;

/// A process started by `Runtime::exec`. Dropping it does not end the process; closing the streams usually does.
#[derive(Debug)]
pub struct ExecHandle {
    /// Process id in the agent's PID namespace.
    pub pid: u32,
    /// Write end of its standard input, when asked for. With a terminal: `None`, use `terminal`.
    pub stdin: Option<OwnedFd>,
    /// Read end of its standard output, when asked for.
    pub stdout: Option<OwnedFd>,
    /// Read end of its standard error, when asked for.
    pub stderr: Option<OwnedFd>,
    /// The master side of its terminal, read and written, when it has one.
    pub terminal: Option<OwnedFd>,
    pub(crate) control: Arc<ExecControl>,
}

/// Waits for and signals an exec'd process; shared between threads: one waits, another may kill or resize.
pub struct ExecControl {
    pub(crate) sys: Arc<dyn Sys>,
    pub(crate) sandbox_id: String,
    pub(crate) connection: Connection,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) exit: parking_lot::Mutex<Option<ExitStatus>>,
}

impl std::fmt::Debug for ExecControl {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "ExecControl({:?})", self.connection)
    }
}

impl ExecHandle {
    /// A handle for other threads: one waits, another may kill or resize.
    pub fn control(&self) -> Arc<ExecControl> {
        self.control.clone()
    }

    /// How the process ended; blocks until it does. `lost` is set when the shim died with it.
    ///
    /// # Errors
    /// None at present.
    pub fn wait(&self) -> Result<ExitStatus> {
        loop {
            if let Some(exit) = self.control.wait(None)? {
                return Ok(exit);
            }
        }
    }
}

impl ExecControl {
    /// How the process ended, or `None` when it has not within `timeout`. `lost` is set when the shim died with it.
    ///
    /// # Errors
    /// None at present.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Option<ExitStatus>> {
        let mut exit = self.exit.lock();
        if exit.is_none() {
            *exit = match self.connection.receive(timeout) {
                Ok((Reply::Exited { exit }, _)) => Some(exit_status(&exit)),
                Ok(_) => None,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
                Err(_) => Some(lost_exit(self.sys.now())),
            };
        }
        Ok(*exit)
    }

    /// Sends a signal to the process; an ended one is fine.
    ///
    /// # Errors
    /// When the shim is gone.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.connection.send(&Request::ExecKill { signal }, &[]).map_err(|source| self.failed("signalling a process", source))
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> Error {
        Error::Shim { id: self.sandbox_id.clone(), action, source }
    }

    /// Changes the size of its terminal; without one nothing happens.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn resize(&self, size: TerminalSize) -> Result<()> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        self.sys.resize_terminal(terminal.as_fd(), size.width, size.height).map_err(|source| self.failed("resizing a terminal", source))
    }
}

/// Output of `Runtime::exec_sync`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// What it wrote to standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, up to the limit.
    pub stderr: Vec<u8>,
    /// Exit code; 128 + signal when a signal ended it.
    pub exit_code: i32,
}

/// Live streams of a container. Output starts now; what was written before is in the log. End of file means the container ended.
#[derive(Debug)]
pub struct AttachHandle {
    /// Write end towards the container's standard input, when it has one and it was asked for.
    pub stdin: Option<OwnedFd>,
    /// Read end of standard output (of the terminal, if the container has one).
    pub stdout: Option<OwnedFd>,
    /// Read end of standard error; `None` with a terminal.
    pub stderr: Option<OwnedFd>,
}
