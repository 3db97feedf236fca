//! Containers: registered, started, signalled, stopped, removed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Container, ContainerBook, Inner, Runtime, Sandbox, check_id};
use crate::cgroup::device_rules;
use crate::error::{Error, Result};
use crate::lifecycle::{ContainerEvent, ContainerState};
use crate::plan::{self, Places};
use crate::protocol::{Reply, Request};
use crate::records::{self, Stored};
use crate::shim::{nanoseconds, start_error, time};
use crate::spec::{ContainerSpec, Resources, RootfsSource};
use crate::status::{ContainerStatus, ExitStatus, RuntimeEvent, Stats};

/// How long the kernel may take to end a killed process.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Registers a container; no process yet.
    ///
    /// # Errors
    /// A wrong specification, a taken id, a sandbox that is not ready.
    pub fn create_container(&self, sandbox_id: &str, spec: ContainerSpec) -> Result<ContainerStatus> {
        check_id("container id", &spec.id)?;
        let inner = &self.inner;
        let sandbox = inner.sandbox(sandbox_id)?;
        sandbox.check_ready()?;
        let id = spec.id.clone();
        let dir = sandbox.dir.join("c").join(&id);
        // A wrong specification is found now, not at the start.
        plan::container(&spec, &inner.facts(&sandbox.spec, false), inner.places(&sandbox, &spec, dir.clone()))?;
        let created_at = inner.config.sys.now();
        let container = Arc::new(Container {
            log_path: Inner::log_path(&sandbox, &spec),
            sandbox_id: sandbox_id.to_owned(),
            dir,
            created_at,
            book: Mutex::new(ContainerBook { state: ContainerState::Created, pid: None, started_at: None, exit: None }),
            changed: Condvar::new(),
            spec: Arc::new(spec),
        });
        {
            let mut containers = inner.containers.lock();
            if containers.contains_key(&id) {
                return Err(Error::AlreadyExists { what: "container", id });
            }
            containers.insert(id.clone(), container.clone());
        }
        let store = || {
            inner.config.sys.create_dir(&container.dir).map_err(Error::io("creating", &container.dir))?;
            let rootfs = container.dir.join("rootfs");
            std::fs::create_dir(&rootfs).map_err(Error::io("creating", &rootfs))?;
            let stored = Stored { created_at_ns: nanoseconds(created_at), spec: container.spec.as_ref().clone() };
            records::store(&container.dir.join("container.json"), &stored)
        };
        if let Err(error) = store() {
            let _ = std::fs::remove_dir_all(&container.dir);
            inner.containers.lock().remove(&id);
            return Err(error);
        }
        Ok(container.status())
    }

    /// Starts the container's process; on return the program runs (exec succeeded).
    ///
    /// # Errors
    /// `Error::Start` when the process could not be made; the container is `Exited` then with the code of `StartError::exit_code`.
    pub fn start_container(&self, id: &str) -> Result<ContainerStatus> {
        let inner = &self.inner;
        let container = inner.container(id)?;
        let sandbox = inner.sandbox(&container.sandbox_id)?;
        sandbox.check_ready()?;
        let refused = |state| Error::WrongState { id: id.to_owned(), state, action: "start it" };
        container.advance(ContainerEvent::Start, |_| {}).map_err(refused)?;
        match inner.start(&sandbox, &container) {
            Ok((pid, started_at_ns, warnings)) => {
                for warning in warnings {
                    tracing::warn!(container = id, warning, "A container lacks something");
                }
                {
                    let mut book = container.book.lock();
                    book.pid = Some(pid);
                    book.started_at = Some(time(started_at_ns));
                }
                // Refused only if the container is already gone again.
                let _ = container.advance(ContainerEvent::Started, |_| {});
                inner.tell(&RuntimeEvent::ContainerStarted { sandbox_id: container.sandbox_id.clone(), container_id: id.to_owned() });
                Ok(container.status())
            }
            Err(error) => {
                let code = error.start_error().map_or(128, crate::error::StartError::exit_code);
                let exit = ExitStatus { code, signal: None, oom_killed: false, finished_at: inner.config.sys.now(), lost: false };
                if let Err(error) = records::write_exit(&container.dir, &exit) {
                    tracing::warn!(container = id, %error, "The end of a container was not recorded");
                }
                let _ = container.advance(ContainerEvent::StartFailed, |book| book.exit = Some(exit));
                match inner.cgroups.remove(&Inner::container_cgroup(&sandbox.spec, id)) {
                    Ok(()) => Err(error),
                    Err(cleanup) => Err(Error::Cleanup { primary: Box::new(error), cleanup: Box::new(cleanup) }),
                }
            }
        }
    }

    /// Sends a signal to the container's first process; an exited one is fine.
    ///
    /// # Errors
    /// Unknown id; a container that was never started.
    pub fn kill_container(&self, id: &str, signal: i32) -> Result<()> {
        let container = self.inner.container(id)?;
        let state = container.book.lock().state;
        match state {
            ContainerState::Created => Err(Error::WrongState { id: id.to_owned(), state, action: "signal it" }),
            ContainerState::Exited => Ok(()),
            ContainerState::Starting | ContainerState::Running => {
                let sandbox = self.inner.sandbox(&container.sandbox_id)?;
                let request = Request::Kill { container_id: id.to_owned(), signal, all: false };
                self.inner.ask(&sandbox, "signalling a container", &request, &[]).map(drop)
            }
        }
    }

    /// Sends `signal` (unset: the spec's stop signal), waits up to `timeout`, then kills; returns when the container has exited.
    ///
    /// # Errors
    /// Unknown id, or the kernel could not end the process within a further 10 s.
    pub fn stop_container(&self, id: &str, signal: Option<i32>, timeout: Duration) -> Result<()> {
        let container = self.inner.container(id)?;
        if container.book.lock().state == ContainerState::Created {
            return Ok(());
        }
        if !timeout.is_zero() {
            let signal = signal.or(container.spec.stop_signal).unwrap_or(libc::SIGTERM);
            self.kill_container(id, signal)?;
            if self.wait_container(id, Some(timeout))?.is_some() {
                return Ok(());
            }
        }
        self.inner.kill_hard(&container)
    }

    /// Waits until the container has exited; `None` after `timeout`.
    ///
    /// # Errors
    /// Unknown id.
    pub fn wait_container(&self, id: &str, timeout: Option<Duration>) -> Result<Option<ExitStatus>> {
        let container = self.inner.container(id)?;
        Ok(self.inner.wait(&container, timeout))
    }

    /// Kills the container if need be and forgets it. Unknown ids are fine. Log file and overlay directories stay: they are the caller's.
    ///
    /// # Errors
    /// When something could not be removed; worth retrying.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        let inner = &self.inner;
        let Ok(container) = inner.container(id) else { return Ok(()) };
        let state = container.book.lock().state;
        if matches!(state, ContainerState::Running | ContainerState::Starting) {
            inner.kill_hard(&container)?;
        }
        let refused = |state| Error::WrongState { id: id.to_owned(), state, action: "remove it" };
        container.advance(ContainerEvent::Remove, |_| {}).map_err(refused)?;
        if let Ok(sandbox) = inner.sandbox(&container.sandbox_id) {
            if sandbox.check_ready().is_ok() {
                let _ = inner.ask(&sandbox, "forgetting a container", &Request::Forget { container_id: id.to_owned() }, &[]);
            }
            inner.cgroups.remove(&Inner::container_cgroup(&sandbox.spec, id))?;
        }
        match std::fs::remove_dir_all(&container.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("removing", &container.dir)(error)),
            _ => {}
        }
        inner.containers.lock().remove(id);
        Ok(())
    }

    /// Changes limits of a container in place; unset fields stay.
    ///
    /// # Errors
    /// Unknown id; a value the kernel refuses.
    pub fn update_container_resources(&self, id: &str, resources: &Resources) -> Result<()> {
        let container = self.inner.container(id)?;
        let sandbox = self.inner.sandbox(&container.sandbox_id)?;
        self.inner.cgroups.apply(&Inner::container_cgroup(&sandbox.spec, id), resources)
    }

    /// One container.
    ///
    /// # Errors
    /// Unknown id.
    pub fn container(&self, id: &str) -> Result<ContainerStatus> {
        self.inner.container(id).map(|container| container.status())
    }

    /// All containers, by id.
    pub fn list_containers(&self) -> Vec<ContainerStatus> {
        let containers: Vec<_> = self.inner.containers.lock().values().cloned().collect();
        containers.iter().map(|container| container.status()).collect()
    }

    /// Resource use of a container.
    ///
    /// # Errors
    /// Unknown id.
    pub fn container_stats(&self, id: &str) -> Result<Stats> {
        let container = self.inner.container(id)?;
        let sandbox = self.inner.sandbox(&container.sandbox_id)?;
        Ok(self.inner.cgroups.stats(&Inner::container_cgroup(&sandbox.spec, id)))
    }
}

impl Inner {
    pub(super) fn log_path(sandbox: &Sandbox, spec: &ContainerSpec) -> Option<PathBuf> {
        (!spec.log_path.as_os_str().is_empty()).then(|| sandbox.spec.log_dir.join(&spec.log_path))
    }

    fn places(&self, sandbox: &Sandbox, spec: &ContainerSpec, dir: PathBuf) -> Places {
        let cgroup = Self::container_cgroup(&sandbox.spec, &spec.id);
        Places {
            dir,
            log_path: Self::log_path(sandbox, spec),
            cgroup: self.cgroups.join(&cgroup),
            oom_file: self.cgroups.oom_file(&cgroup),
            kill_file: self.cgroups.kill_file(&cgroup),
        }
    }

    fn start(&self, sandbox: &Sandbox, container: &Container) -> Result<(u32, u64, Vec<String>)> {
        let spec = &container.spec;
        let cgroup = Self::container_cgroup(&sandbox.spec, &spec.id);
        self.cgroups.create(&cgroup, &spec.resources)?;
        self.cgroups.apply(&cgroup, &spec.resources)?;
        if !spec.privileged {
            self.cgroups.restrict_devices(&cgroup, &device_rules(&spec.devices));
        }
        if let RootfsSource::Overlay { upper, work, .. } = &spec.rootfs.source {
            for dir in [upper, work] {
                std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
            }
        }
        let places = self.places(sandbox, spec, container.dir.clone());
        let plan = plan::container(spec, &self.facts(&sandbox.spec, spec.privileged), places)?;
        match self.ask_long(sandbox, "starting a container", &Request::Start { plan })? {
            Reply::Started { pid, started_at_ns, warnings } => Ok((pid, started_at_ns, warnings)),
            Reply::Failed { failure } => Err(Error::Start(start_error(failure))),
            _ => Err(sandbox.failed("starting a container")(std::io::ErrorKind::InvalidData.into())),
        }
    }

    /// Mounts may be slow: no deadline but the shim's life.
    fn ask_long(&self, sandbox: &Sandbox, action: &'static str, request: &Request) -> Result<Reply> {
        crate::shim::Connection::open(&self.config.sys, &sandbox.dir)
            .and_then(|connection| connection.ask(request, &[], None))
            .map(|(reply, _)| reply)
            .map_err(sandbox.failed(action))
    }

    fn wait(&self, container: &Container, timeout: Option<Duration>) -> Option<ExitStatus> {
        let deadline = timeout.map(|timeout| self.config.sys.now() + timeout);
        let mut book = container.book.lock();
        while book.state != ContainerState::Exited {
            match deadline {
                None => container.changed.wait(&mut book),
                Some(deadline) => {
                    let left = deadline.duration_since(self.config.sys.now()).unwrap_or_default();
                    if left.is_zero() {
                        return None;
                    }
                    container.changed.wait_for(&mut book, left);
                }
            }
        }
        book.exit
    }

    fn kill_hard(&self, container: &Container) -> Result<()> {
        let id = &container.spec.id;
        let sandbox = self.sandbox(&container.sandbox_id)?;
        if sandbox.check_ready().is_ok() {
            let request = Request::Kill { container_id: id.clone(), signal: libc::SIGKILL, all: true };
            self.ask(&sandbox, "killing a container", &request, &[])?;
        } else {
            self.cgroups.kill(&Self::container_cgroup(&sandbox.spec, id));
        }
        match self.wait(container, Some(KILL_TIMEOUT)) {
            Some(_) => Ok(()),
            None => Err(Error::Timeout { what: "the end of a killed container" }),
        }
    }
}
