//! The real system with calls that fail on demand.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::Sys;

/// Forwards to the real system, except for the call named in `fail`.
pub(crate) struct Fake {
    real: Arc<dyn Sys>,
    /// Name of the call that fails with EIO; each failure is recorded.
    pub(crate) fail: Mutex<Option<&'static str>>,
    pub(crate) failures: Mutex<Vec<&'static str>>,
}

impl Fake {
    pub(crate) fn new() -> Arc<Fake> {
        Arc::new(Fake { real: super::linux(), fail: Mutex::new(None), failures: Mutex::new(Vec::new()) })
    }

    fn pass(&self, call: &'static str) -> Result<()> {
        if *self.fail.lock() == Some(call) {
            self.failures.lock().push(call);
            return Err(Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

impl Sys for Fake {
    fn now(&self) -> SystemTime {
        self.real.now()
    }
    fn shim_program(&self, bytes: &[u8]) -> Result<File> {
        self.pass("shim_program").and_then(|()| self.real.shim_program(bytes))
    }
    fn listen(&self, dir: &Path) -> Result<OwnedFd> {
        self.pass("listen").and_then(|()| self.real.listen(dir))
    }
    fn connect(&self, dir: &Path) -> Result<OwnedFd> {
        self.pass("connect").and_then(|()| self.real.connect(dir))
    }
    fn spawn_shim(&self, program: &File, id: &str, listener: OwnedFd, log: File) -> Result<Child> {
        self.pass("spawn_shim").and_then(|()| self.real.spawn_shim(program, id, listener, log))
    }
    fn send(&self, socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.pass("send").and_then(|()| self.real.send(socket, bytes, fds))
    }
    fn receive(&self, socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>, timeout: Option<Duration>) -> Result<usize> {
        self.real.receive(socket, buffer, fds, timeout)
    }
    fn pipe(&self) -> Result<(OwnedFd, OwnedFd)> {
        self.pass("pipe").and_then(|()| self.real.pipe())
    }
    fn resize_terminal(&self, terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
        self.real.resize_terminal(terminal, columns, rows)
    }
    fn readable(&self, fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<Vec<usize>> {
        self.real.readable(fds, timeout)
    }
    fn create_dir(&self, path: &Path) -> Result<()> {
        self.pass("create_dir").and_then(|()| self.real.create_dir(path))
    }
    fn attach_device_filter(&self, cgroup: &Path, program: &[u64]) -> Result<()> {
        self.pass("attach_device_filter").and_then(|()| self.real.attach_device_filter(cgroup, program))
    }
    fn write_cgroup(&self, path: &Path, value: &str) -> Result<()> {
        self.pass("write_cgroup").and_then(|()| self.real.write_cgroup(path, value))
    }
}
