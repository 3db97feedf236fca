//! `Runtime`: the interface of this crate, and the books it keeps.

mod containers;
mod sandboxes;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::SystemTime;

use parking_lot::{Condvar, Mutex};

use crate::cgroup::Cgroups;
use crate::error::{Error, Result};
use crate::lifecycle::{ContainerEvent, ContainerState, SandboxState, Transition, container_transition};
use crate::plan::{Facts, HostDevice};
use crate::probe::{KernelFeatures, probe};
use crate::spec::{ContainerSpec, SandboxSpec};
use crate::status::{ContainerStatus, ExitStatus, RuntimeEvent, SandboxStatus};
use crate::sys::Sys;
use crate::{capabilities, shim};

/// Where a runtime keeps its state and below which cgroup it works.
#[derive(Clone)]
pub struct RuntimeConfig {
    /// One directory per sandbox; survives restarts of the agent (not necessarily of the machine).
    pub root_dir: PathBuf,
    /// Cgroup (relative to each hierarchy's mount) that everything is created below, e.g. `trierarch/cluster/node`.
    pub cgroup_parent: String,
    /// System calls; `sys::linux()` outside tests.
    pub sys: Arc<dyn Sys>,
}

/// The container runtime. All calls block and may come from any thread.
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    config: RuntimeConfig,
    cgroups: Cgroups,
    features: KernelFeatures,
    capabilities: u64,
    oom_score_adj: i32,
    program: File,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    subscribers: Mutex<Vec<Sender<RuntimeEvent>>>,
}

struct Sandbox {
    spec: Arc<SandboxSpec>,
    dir: PathBuf,
    created_at: SystemTime,
    state: Mutex<SandboxBook>,
    /// Told when the shim is gone.
    changed: Condvar,
    /// Held while the sandbox is made, stopped or removed.
    changing: Mutex<()>,
}

#[derive(Default)]
struct SandboxBook {
    shim_pid: Option<u32>,
    network_fd: Option<i32>,
    ready: bool,
    /// The end of the shim is our doing.
    stopping: bool,
}

struct Container {
    spec: Arc<ContainerSpec>,
    sandbox_id: String,
    dir: PathBuf,
    log_path: Option<PathBuf>,
    created_at: SystemTime,
    book: Mutex<ContainerBook>,
    changed: Condvar,
}

struct ContainerBook {
    state: ContainerState,
    pid: Option<u32>,
    started_at: Option<SystemTime>,
    exit: Option<ExitStatus>,
}

impl Runtime {
    /// A runtime that has taken over every sandbox found in `root_dir` whose shim still lives.
    ///
    /// # Errors
    /// When the state directory or the shim's program can't be made.
    pub fn new(config: RuntimeConfig) -> Result<Runtime> {
        let cgroups = Cgroups::find(&config.cgroup_parent, config.sys.clone());
        Runtime::with_cgroups(config, cgroups)
    }

    fn with_cgroups(config: RuntimeConfig, cgroups: Cgroups) -> Result<Runtime> {
        std::fs::create_dir_all(&config.root_dir).map_err(Error::io("creating", &config.root_dir))?;
        let program = config.sys.shim_program(shim::PROGRAM).map_err(Error::io("creating the shim's program", "memfd"))?;
        let capabilities = capabilities::available();
        let oom_score_adj = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let features = probe(Path::new("/proc"), &cgroups, capabilities);
        for warning in &features.warnings {
            tracing::warn!(warning, "The kernel or our rights lack something");
        }
        let inner = Arc::new(Inner {
            config,
            cgroups,
            features,
            capabilities,
            oom_score_adj,
            program,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            subscribers: Mutex::default(),
        });
        inner.adopt_all();
        Ok(Runtime { inner })
    }

    /// What this kernel and our rights allow, as found at start.
    pub fn features(&self) -> &KernelFeatures {
        &self.inner.features
    }

    /// Removes every sandbox and the cgroup that all were below: nothing of this runtime is left but its empty state directory.
    ///
    /// # Errors
    /// The first thing that could not be removed; worth retrying.
    pub fn purge(&self) -> Result<()> {
        for sandbox in self.list_sandboxes() {
            self.remove_sandbox(&sandbox.id)?;
        }
        self.inner.cgroups.remove("")
    }

    /// Events from now on; each call gives an independent receiver. Look at `list_containers` after subscribing, not before.
    pub fn events(&self) -> Receiver<RuntimeEvent> {
        let (sender, receiver) = channel();
        self.inner.subscribers.lock().push(sender);
        receiver
    }
}

impl Inner {
    fn tell(&self, event: &RuntimeEvent) {
        self.subscribers.lock().retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        self.sandboxes.lock().get(id).cloned().ok_or_else(|| Error::SandboxNotFound { id: id.to_owned() })
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.containers.lock().get(id).cloned().ok_or_else(|| Error::ContainerNotFound { id: id.to_owned() })
    }

    fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        self.containers.lock().values().filter(|container| container.sandbox_id == sandbox_id).cloned().collect()
    }

    fn sandbox_cgroup(spec: &SandboxSpec) -> String {
        let path = spec.cgroup.trim_matches('/');
        if path.is_empty() { format!("pods/{}", spec.id) } else { path.to_owned() }
    }

    fn container_cgroup(sandbox: &SandboxSpec, id: &str) -> String {
        format!("{}/{id}", Self::sandbox_cgroup(sandbox))
    }

    fn shim_cgroup(id: &str) -> String {
        format!("shims/{id}")
    }

    fn facts<'a>(&self, sandbox: &'a SandboxSpec, privileged: bool) -> Facts<'a> {
        Facts {
            cgroup_mode: self.features.cgroup,
            v1_mounts: self.cgroups.v1_mounts().map(|(name, dir)| (name, dir.to_path_buf())).collect(),
            capabilities: self.capabilities,
            seccomp: self.features.seccomp,
            oom_score_adj: self.oom_score_adj,
            host_devices: if privileged { host_devices(Path::new("/dev")) } else { Vec::new() },
            sandbox,
        }
    }
}

/// Device nodes below `/dev`, except those that every container has of its own.
fn host_devices(dir: &Path) -> Vec<HostDevice> {
    const OWN: [&str; 13] = ["pts", "shm", "fd", "mqueue", "console", "null", "zero", "full", "random", "urandom", "tty", "ptmx", ".udev"];
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.filter_map(std::result::Result::ok) {
        if OWN.iter().any(|own| entry.file_name() == *own) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(host_devices(&entry.path())),
            Ok(kind) if !kind.is_symlink() => found.extend(HostDevice::find(&entry.path(), &entry.path())),
            _ => {}
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl Sandbox {
    fn status(&self) -> SandboxStatus {
        let book = self.state.lock();
        let netns_path = match (book.ready, book.shim_pid, book.network_fd) {
            (true, Some(pid), Some(fd)) => Some(PathBuf::from(format!("/proc/{pid}/fd/{fd}"))),
            _ => None,
        };
        SandboxStatus {
            id: self.spec.id.clone(),
            state: if book.ready { SandboxState::Ready } else { SandboxState::NotReady },
            created_at: self.created_at,
            shim_pid: book.shim_pid,
            netns_path,
            spec: self.spec.clone(),
        }
    }

    fn check_ready(&self) -> Result<()> {
        if self.state.lock().ready { Ok(()) } else { Err(Error::SandboxNotReady { id: self.spec.id.clone() }) }
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let id = self.spec.id.clone();
        move |source| Error::Shim { id, action, source }
    }
}

impl Container {
    fn status(&self) -> ContainerStatus {
        let book = self.book.lock();
        ContainerStatus {
            id: self.spec.id.clone(),
            sandbox_id: self.sandbox_id.clone(),
            state: book.state,
            created_at: self.created_at,
            started_at: book.started_at,
            pid: book.pid.filter(|_| book.state == ContainerState::Running),
            exit: book.exit,
            log_path: self.log_path.clone(),
            spec: self.spec.clone(),
        }
    }

    /// Looks the event up in the table and does what it says; false when it is refused.
    fn advance(&self, event: ContainerEvent, change: impl FnOnce(&mut ContainerBook)) -> std::result::Result<Transition, ContainerState> {
        let mut book = self.book.lock();
        let transition = container_transition(book.state, event);
        match transition {
            Transition::Refused => return Err(book.state),
            Transition::To(state) => {
                book.state = state;
                change(&mut book);
            }
            Transition::Stay | Transition::Gone => {}
        }
        self.changed.notify_all();
        Ok(transition)
    }
}

/// Ids become directory and cgroup names.
fn check_id(field: &'static str, id: &str) -> Result<()> {
    let fits = !id.is_empty() && id.len() <= 128 && !id.starts_with('.');
    if fits && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return Ok(());
    }
    Err(Error::InvalidSpec { field, reason: format!("{id:?} must be 1 to 128 of [A-Za-z0-9._-]") })
}
