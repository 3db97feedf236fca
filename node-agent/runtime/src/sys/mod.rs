//! The seam between this crate and the kernel, so that tests can make each call fail.

#[cfg(test)]
pub(crate) mod fake;
mod linux;

use std::fs::File;
use std::io::Result;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// System calls this crate needs beyond files.
pub trait Sys: Send + Sync {
    /// The wall clock.
    fn now(&self) -> SystemTime;
    /// The shim's program as a sealed file in memory.
    fn shim_program(&self, bytes: &[u8]) -> Result<File>;
    /// A listening unix socket `shim.sock` in `dir`, however long the path of `dir`.
    fn listen(&self, dir: &Path) -> Result<OwnedFd>;
    /// A connection to the shim that listens in `dir`.
    fn connect(&self, dir: &Path) -> Result<OwnedFd>;
    /// Starts the shim with the listener as standard input, without copying this process' memory.
    fn spawn_shim(&self, program: &File, id: &str, listener: OwnedFd, log: File) -> Result<std::process::Child>;
    /// Sends all bytes, descriptors with the first of them.
    fn send(&self, socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()>;
    /// Receives up to `buffer` bytes and the descriptors that came along; `WouldBlock` after `timeout`.
    fn receive(&self, socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>, timeout: Option<Duration>) -> Result<usize>;
    /// A pipe as (read end, write end), both closed on exec.
    fn pipe(&self) -> Result<(OwnedFd, OwnedFd)>;
    /// Changes the size of a terminal.
    fn resize_terminal(&self, terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()>;
    /// Waits until one of the descriptors can be read (or is closed); which ones. Empty after `timeout`.
    fn readable(&self, fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<Vec<usize>>;
    /// Creates a directory that must not exist, with parents.
    fn create_dir(&self, path: &Path) -> Result<()>;
    /// Makes a BPF program decide about the devices of a v2 cgroup, beside those that decide already.
    fn attach_device_filter(&self, cgroup: &Path, program: &[u64]) -> Result<()>;
    /// Writes a file of a cgroup.
    fn write_cgroup(&self, path: &Path, value: &str) -> Result<()>;
}

/// The real system.
pub fn linux() -> Arc<dyn Sys> {
    Arc::new(linux::Linux)
}
