//! Exec, attach, terminals and logs.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Container, Inner, Runtime, Sandbox};
use crate::error::{Error, Result};
use crate::handle::{AttachHandle, ExecControl, ExecHandle, ExecOutput};
use crate::lifecycle::ContainerState;
use crate::plan;
use crate::protocol::{Reply, Request};
use crate::shim::{Connection, start_error};
use crate::spec::{ExecSpec, TerminalSize};

/// Both ends of what a stream goes through.
struct Pipes {
    ours: [Option<OwnedFd>; 3],
    theirs: Vec<OwnedFd>,
}

impl Runtime {
    /// Starts a further process in a running container.
    ///
    /// # Errors
    /// `Error::Start` when the process could not be made.
    pub fn exec(&self, container_id: &str, spec: ExecSpec) -> Result<ExecHandle> {
        let inner = &self.inner;
        let (container, sandbox) = inner.running(container_id, "run a process in it")?;
        let cgroup = inner.cgroups.join(&Inner::container_cgroup(&sandbox.spec, container_id));
        let plan = plan::exec(&spec, &container.spec, &inner.facts(&sandbox.spec, false), cgroup)?;
        let pipes = inner.pipes(&sandbox, plan.streams)?;
        let failed = || sandbox.failed("running a process");
        let connection = Connection::open(&inner.config.sys, &sandbox.dir).map_err(failed())?;
        let fds: Vec<BorrowedFd<'_>> = pipes.theirs.iter().map(AsFd::as_fd).collect();
        let (reply, mut received) = connection.ask(&Request::Exec { plan }, &fds, None).map_err(failed())?;
        drop(fds);
        drop(pipes.theirs);
        let pid = match reply {
            Reply::Started { pid, warnings, .. } => {
                for warning in warnings {
                    tracing::warn!(container = container_id, warning, "An exec lacks something");
                }
                pid
            }
            Reply::Failed { failure } => return Err(Error::Start(start_error(failure))),
            _ => return Err(failed()(std::io::ErrorKind::InvalidData.into())),
        };
        let terminal = received.pop();
        let copy = terminal.as_ref().map(OwnedFd::try_clone).transpose().map_err(failed())?;
        let [stdin, stdout, stderr] = pipes.ours;
        let control = Arc::new(ExecControl {
            sys: inner.config.sys.clone(),
            sandbox_id: sandbox.spec.id.clone(),
            connection,
            terminal: copy,
            exit: Mutex::default(),
        });
        Ok(ExecHandle { pid, stdin, stdout, stderr, terminal, control })
    }

    /// Runs a process to its end, keeping at most `output_limit_bytes` of each stream.
    ///
    /// # Errors
    /// `Error::Timeout` after `timeout` (the process is killed then); `Error::Start` when it could not be made.
    pub fn exec_sync(
        &self,
        container_id: &str,
        spec: ExecSpec,
        timeout: Option<Duration>,
        output_limit_bytes: usize,
    ) -> Result<ExecOutput> {
        let sys = &self.inner.config.sys;
        let deadline = timeout.map(|timeout| sys.now() + timeout);
        let left = || deadline.map(|deadline| deadline.duration_since(sys.now()).unwrap_or_default());
        let mut handle = self.exec(container_id, spec)?;
        let output = handle.terminal.take().or(handle.stdout.take());
        let mut streams = [(output, Vec::new()), (handle.stderr.take(), Vec::new())];
        let late = |handle: &ExecHandle| {
            let _ = handle.control.kill(libc::SIGKILL);
            Err(Error::Timeout { what: "a process in a container" })
        };
        // A background child may hold the streams open: the end of the process counts, and what was written until then.
        let mut exit = None;
        while streams.iter().any(|(fd, _)| fd.is_some()) {
            if exit.is_none() && left().is_some_and(|left| left.is_zero()) {
                return late(&handle);
            }
            let open: Vec<usize> = (0..2).filter(|&index| streams[index].0.is_some()).collect();
            let mut fds: Vec<BorrowedFd<'_>> = open.iter().filter_map(|&index| streams[index].0.as_ref().map(AsFd::as_fd)).collect();
            if exit.is_none() {
                fds.push(handle.control.connection.as_fd());
            }
            let wait = if exit.is_some() { Some(Duration::ZERO) } else { left() };
            let ready = sys.readable(&fds, wait).map_err(Error::io("waiting for", "streams of a process"))?;
            drop(fds);
            if ready.is_empty() && exit.is_some() {
                break;
            }
            let mut read = false;
            for &index in ready.iter().filter_map(|&at| open.get(at)) {
                read = true;
                let (fd, bytes) = &mut streams[index];
                if take_some(fd, bytes, output_limit_bytes) {
                    *fd = None;
                }
            }
            if !read && exit.is_none() && !ready.is_empty() {
                exit = handle.control.wait(Some(Duration::ZERO))?;
            }
        }
        let exit = match exit {
            Some(exit) => exit,
            None => match handle.control.wait(left())? {
                Some(exit) => exit,
                None => return late(&handle),
            },
        };
        let [(_, stdout), (_, stderr)] = streams;
        Ok(ExecOutput { stdout, stderr, exit_code: exit.code })
    }

    /// Live streams of a running container.
    ///
    /// # Errors
    /// Unknown id; a container that does not run.
    pub fn attach(&self, container_id: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<AttachHandle> {
        let inner = &self.inner;
        let (container, sandbox) = inner.running(container_id, "attach to it")?;
        let streams = (stdin && container.spec.stdin, stdout, stderr && !container.spec.tty);
        let pipes = inner.pipes(&sandbox, streams)?;
        let fds: Vec<BorrowedFd<'_>> = pipes.theirs.iter().map(AsFd::as_fd).collect();
        let request = Request::Attach { container_id: container_id.to_owned(), streams };
        inner.done(&sandbox, "attaching", &request, &fds)?;
        let [stdin, stdout, stderr] = pipes.ours;
        Ok(AttachHandle { stdin, stdout, stderr })
    }

    /// Changes the size of a container's terminal; without one nothing happens.
    ///
    /// # Errors
    /// Unknown id; a container that does not run.
    pub fn resize_tty(&self, container_id: &str, size: TerminalSize) -> Result<()> {
        let (_, sandbox) = self.inner.running(container_id, "resize its terminal")?;
        let request = Request::Resize { container_id: container_id.to_owned(), columns: size.width, rows: size.height };
        self.inner.done(&sandbox, "resizing a terminal", &request, &[])
    }

    /// Makes the shim open the log path again, after the caller moved the file away.
    ///
    /// # Errors
    /// Unknown id.
    pub fn reopen_log(&self, container_id: &str) -> Result<()> {
        let container = self.inner.container(container_id)?;
        let sandbox = self.inner.sandbox(&container.sandbox_id)?;
        self.inner.done(&sandbox, "opening a log again", &Request::ReopenLog { container_id: container_id.to_owned() }, &[])
    }
}

/// Reads once; true at the end of the stream. What is beyond the limit is read and dropped.
fn take_some(fd: &Option<OwnedFd>, bytes: &mut Vec<u8>, limit: usize) -> bool {
    let Some(copy) = fd.as_ref().and_then(|fd| fd.try_clone().ok()) else { return true };
    let mut buffer = [0; 16 * 1024];
    match std::fs::File::from(copy).read(&mut buffer) {
        // The master of a terminal whose last process is gone fails instead of ending.
        Ok(0) | Err(_) => true,
        Ok(count) => {
            bytes.extend_from_slice(&buffer[..count.min(limit.saturating_sub(bytes.len()))]);
            false
        }
    }
}

impl Inner {
    fn running(&self, id: &str, action: &'static str) -> Result<(Arc<Container>, Arc<Sandbox>)> {
        let container = self.container(id)?;
        let state = container.book.lock().state;
        if state != ContainerState::Running {
            return Err(Error::WrongState { id: id.to_owned(), state, action });
        }
        let sandbox = self.sandbox(&container.sandbox_id)?;
        sandbox.check_ready()?;
        Ok((container, sandbox))
    }

    fn pipes(&self, sandbox: &Sandbox, streams: (bool, bool, bool)) -> Result<Pipes> {
        let mut pipes = Pipes { ours: [None, None, None], theirs: Vec::new() };
        for (index, wanted) in [streams.0, streams.1, streams.2].into_iter().enumerate() {
            if wanted {
                let (read_end, write_end) = self.config.sys.pipe().map_err(sandbox.failed("making pipes"))?;
                let (ours, theirs) = if index == 0 { (write_end, read_end) } else { (read_end, write_end) };
                pipes.ours[index] = Some(ours);
                pipes.theirs.push(theirs);
            }
        }
        Ok(pipes)
    }

    fn done(&self, sandbox: &Sandbox, action: &'static str, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        match self.ask(sandbox, action, request, fds)?.0 {
            Reply::Done {} => Ok(()),
            Reply::Failed { failure } => Err(Error::Start(start_error(failure))),
            _ => Err(sandbox.failed(action)(std::io::ErrorKind::InvalidData.into())),
        }
    }
}
