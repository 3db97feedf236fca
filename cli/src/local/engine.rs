//! Containers that belong to no cluster: made, found, ended, removed. Nothing runs for them but their shim; every command opens the engine,
//! puts in order what happened since the last one, and goes.
//!
//! ```text
//! local/lock       held while sandboxes are made, taken over or removed
//! local/runtime/   the runtime's books: what a container is, is in its labels
//! local/data/ID/   writable layer, log, and the files below /etc that are made for it
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use trierarch_images::{Digest, Image, Pin, Store};
use trierarch_network::{HostPort, NetnsRef};
use trierarch_runtime::spec::{LogRotation, Mount, NetworkMode, RootfsSpec};
use trierarch_runtime::{ContainerState, ContainerStatus, Runtime, RuntimeConfig, SandboxSpec, SandboxState, users};

use super::options::{self, ImageDefaults, Network, Wish};
use super::{network, streams};
use crate::cluster::cgroup;

/// Owner of the pins that keep images of containers.
const PIN_OWNER: &str = "run";
/// Output kept of a container.
const LOG_ROTATION: LogRotation = LogRotation { max_size_bytes: 64 << 20, max_files: 3 };
/// How long new output may wait to be shown.
const POLL: Duration = Duration::from_millis(50);
/// What is written down with a container, and read by `ps`.
mod label {
    pub(super) const NAME: &str = "name";
    pub(super) const IMAGE: &str = "image";
    pub(super) const PORTS: &str = "ports";
    /// Removed as soon as it has ended.
    pub(super) const EPHEMERAL: &str = "ephemeral";
}

/// A container that is to be made.
#[derive(Debug)]
pub struct Creation {
    /// Its name; one is made up otherwise.
    pub name: Option<String>,
    /// The image's name as the user wrote it.
    pub image_name: String,
    /// What runs and how.
    pub wish: Wish,
    /// `USER[:GROUP]` instead of the image's.
    pub user: Option<String>,
    /// Instead of its name.
    pub hostname: Option<String>,
    /// How it reaches others.
    pub network: Network,
    /// Ports of this machine that lead to it.
    pub ports: Vec<HostPort>,
    /// Removed as soon as it has ended.
    pub ephemeral: bool,
}

/// A container as `ps` shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The runtime's view.
    pub status: ContainerStatus,
    /// The name that the user knows.
    pub name: String,
    /// The image's name.
    pub image: String,
    /// Published ports, for people.
    pub ports: String,
}

impl Listed {
    fn of(status: ContainerStatus) -> Self {
        let text = |key: &str| status.spec.labels.get(key).cloned().unwrap_or_default();
        Self { name: text(label::NAME), image: text(label::IMAGE), ports: text(label::PORTS), status }
    }
}

/// All containers of a data directory.
pub struct Engine {
    runtime: Arc<Runtime>,
    store: Store,
    base: PathBuf,
    tasks: tokio::runtime::Runtime,
}

impl Engine {
    /// The engine, with ended containers put in order.
    ///
    /// # Errors
    /// Without root's rights, or when its directories cannot be made.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("containers need root: they are made of namespaces, mounts and cgroups. Try: sudo trierarch ...");
        }
        let base = data_dir.join("local");
        std::fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
        let lock = lock(&base)?;
        // several data directories may be in use, their cgroups must not meet
        let place = Digest::of(base.as_os_str().as_encoded_bytes());
        let cgroup_parent = format!("trierarch/run-{}", &place.hex()[..8]);
        let config = RuntimeConfig { root_dir: base.join("runtime"), cgroup_parent, sys: trierarch_runtime::sys::linux() };
        let engine = Self {
            runtime: Arc::new(Runtime::new(config).context("cannot start the container runtime")?),
            store: Store::open(data_dir.join("images")).with_context(|| format!("cannot open the images in {}", data_dir.display()))?,
            tasks: tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?,
            base,
        };
        engine.tidy()?;
        drop(lock);
        Ok(engine)
    }

    /// The content store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where tasks of this engine run.
    pub fn tasks(&self) -> &tokio::runtime::Runtime {
        &self.tasks
    }

    fn data(&self, id: &str) -> PathBuf {
        self.base.join("data").join(id)
    }

    /// Ended containers give network and namespaces back; ephemeral ones go, and what a killed command left half made.
    fn tidy(&self) -> anyhow::Result<()> {
        let containers = self.runtime.list_containers();
        for sandbox in self.runtime.list_sandboxes() {
            match containers.iter().find(|container| container.sandbox_id == sandbox.id) {
                Some(container) if container.state == ContainerState::Exited => {
                    if sandbox.state == SandboxState::Ready {
                        self.runtime.stop_sandbox(&sandbox.id)?;
                    }
                    self.tasks.block_on(network::leave(&sandbox.id))?;
                    if container.spec.labels.contains_key(label::EPHEMERAL) {
                        self.take_away(&sandbox.id)?;
                    }
                }
                Some(container) if container.state == ContainerState::Running => {}
                _ => self.take_away(&sandbox.id)?,
            }
        }
        Ok(())
    }

    /// All containers, the newest first.
    pub fn list(&self) -> Vec<Listed> {
        let mut all: Vec<Listed> = self.runtime.list_containers().into_iter().map(Listed::of).collect();
        all.sort_by_key(|listed| std::cmp::Reverse(listed.status.created_at));
        all
    }

    /// The container that a name, an id or the beginning of an id means.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn find(&self, text: &str) -> anyhow::Result<Listed> {
        let all = self.list();
        let names: Vec<_> = all.iter().map(|listed| (listed.status.id.clone(), listed.name.clone())).collect();
        let id = options::find(&names, text).map_err(anyhow::Error::msg)?;
        all.iter().find(|listed| listed.status.id == id).cloned().with_context(|| format!("no such container: {text}"))
    }

    /// Makes a container and gives its id; it does not run yet.
    ///
    /// # Errors
    /// What is wrong with the wish, or in the way; nothing is left then.
    pub fn create(&self, creation: Creation, image: &Image) -> anyhow::Result<String> {
        let _lock = lock(&self.base)?;
        let id = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        let name = creation.name.clone().unwrap_or_else(|| made_up_name(&creation.image_name, &id));
        if !options::name_fits(&name) {
            bail!("invalid container name {name:?}: use letters, digits, _ . and -, beginning with a letter or digit");
        }
        if let Some(holder) = self.list().into_iter().find(|listed| listed.name == name) {
            bail!("the name {name:?} is taken by container {}: remove it with trierarch rm, or choose another --name", holder.status.id);
        }
        let made = self.make(&id, &name, creation, image);
        match made {
            Ok(()) => Ok(id),
            Err(error) => {
                if let Err(left) = self.take_away(&id) {
                    tracing::warn!(container = id, error = format!("{left:#}"), "Could not remove what was made");
                }
                Err(error)
            }
        }
    }

    fn make(&self, id: &str, name: &str, creation: Creation, image: &Image) -> anyhow::Result<()> {
        let data = self.data(id);
        std::fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        self.store.pin(&Pin { owner: PIN_OWNER.to_owned(), id: id.to_owned(), manifest: image.manifest.clone() })?;
        let layers = self.store.prepare(image).with_context(|| format!("cannot unpack image {:?}", creation.image_name))?;
        let rootfs = RootfsSpec::overlay(layers.lowerdirs(), data.join("upper"), data.join("work"));
        let user = users::resolve(&rootfs, creation.user.as_deref().unwrap_or(image.user()))?.user;
        let mut spec = options::plan(&creation.wish, &ImageDefaults::of(image), rootfs, user).map_err(anyhow::Error::msg)?;
        let host = creation.network == Network::Host;
        if host && !creation.ports.is_empty() {
            bail!("a container in this machine's network publishes nothing: its ports are this machine's");
        }
        let hostname = creation.hostname.clone().unwrap_or_else(|| if host { String::new() } else { name.to_owned() });
        self.runtime.create_sandbox(SandboxSpec {
            id: id.to_owned(),
            hostname: hostname.clone(),
            network: if host { NetworkMode::Host } else { NetworkMode::New },
            log_dir: data.clone(),
            ..SandboxSpec::default()
        })?;
        let mut address = None;
        if creation.network == Network::Private {
            let netns = self.runtime.netns(id)?.context("the sandbox has no network namespace")?;
            address = Some(self.tasks.block_on(network::join(id, NetnsRef::Fd(Arc::new(netns)), &creation.ports))?);
        }
        spec.mounts.splice(0..0, etc_mounts(&data, &hostname, host, address)?);
        spec.id = id.to_owned();
        spec.name = name.to_owned();
        spec.log_path = "log".into();
        spec.log_rotation = LOG_ROTATION;
        let ports: Vec<String> = creation.ports.iter().map(options::show_port).collect();
        spec.labels = BTreeMap::from([
            (label::NAME.to_owned(), name.to_owned()),
            (label::IMAGE.to_owned(), creation.image_name),
            (label::PORTS.to_owned(), ports.join(", ")),
        ]);
        if creation.ephemeral {
            spec.labels.insert(label::EPHEMERAL.to_owned(), String::new());
        }
        self.runtime.create_container(id, spec)?;
        Ok(())
    }

    /// Starts a container; its program runs on return.
    ///
    /// # Errors
    /// When the program cannot be started: worded as container runtimes do.
    pub fn start(&self, id: &str) -> Result<(), trierarch_runtime::Error> {
        self.runtime.start_container(id).map(drop)
    }

    /// Joins a started container to this terminal until it ends, and gives its exit code.
    ///
    /// # Errors
    /// When the container is gone.
    pub fn accompany(&self, id: &str) -> anyhow::Result<i32> {
        let spec = Arc::clone(&self.runtime.container(id)?.spec);
        let (runtime, watched) = (Arc::clone(&self.runtime), id.to_owned());
        let on = move |happening| match happening {
            streams::Happening::Signal(number) => {
                // it may be gone already
                let _ended = runtime.kill_container(&watched, number);
            }
            streams::Happening::Resized => resize(&runtime, &watched),
        };
        if spec.tty {
            // a program that ends at once leaves nothing to attach to; its output is in the log
            let Ok(attached) = self.runtime.attach(id, spec.stdin, true, false) else { return self.show_log(id) };
            let raw = streams::RawTerminal::enter();
            resize(&self.runtime, id);
            streams::watch(&self.tasks, on)?;
            if let Some(stdin) = attached.stdin {
                streams::copy(std::io::stdin(), streams::file(stdin))?;
            }
            let output = attached.stdout.map(|stdout| streams::copy(streams::file(stdout), std::io::stdout())).transpose()?;
            let exit = self.runtime.wait_container(id, None)?;
            if let Some(output) = output {
                let _panicked = output.join();
            }
            drop(raw);
            return Ok(exit.map_or(255, |exit| exit.code));
        }
        streams::watch(&self.tasks, on)?;
        if spec.stdin
            && let Ok(attached) = self.runtime.attach(id, true, false, false)
            && let Some(stdin) = attached.stdin
        {
            streams::copy(std::io::stdin(), streams::file(stdin))?;
        }
        self.show_log(id)
    }

    /// Shows all output until the container ends, and gives its exit code.
    fn show_log(&self, id: &str) -> anyhow::Result<i32> {
        let mut log = super::log::LogReader::open(&self.log_path(id));
        loop {
            let exit = self.runtime.wait_container(id, Some(POLL))?;
            for piece in log.fresh() {
                show(piece)?;
            }
            if let Some(exit) = exit {
                return Ok(exit.code);
            }
        }
    }

    /// Where a container's log is.
    pub fn log_path(&self, id: &str) -> PathBuf {
        self.data(id).join("log")
    }

    /// Waits for a container's end, at most this long.
    ///
    /// # Errors
    /// When it is gone.
    pub fn ended_within(&self, id: &str, time: Duration) -> anyhow::Result<bool> {
        Ok(self.runtime.wait_container(id, Some(time))?.is_some())
    }

    /// Ends a container: its stop signal first, SIGKILL after `patience`.
    ///
    /// # Errors
    /// When the kernel cannot end it.
    pub fn stop(&self, id: &str, signal: Option<i32>, patience: Duration) -> anyhow::Result<()> {
        self.runtime.stop_container(id, signal, patience)?;
        let _lock = lock(&self.base)?;
        self.tidy()
    }

    /// Removes a container, ending it if need be.
    ///
    /// # Errors
    /// When something stays; worth repeating.
    pub fn remove(&self, id: &str) -> anyhow::Result<()> {
        let _lock = lock(&self.base)?;
        self.take_away(id)
    }

    /// Everything of a container goes; the last one takes the common cgroup along. The lock is held.
    fn take_away(&self, id: &str) -> anyhow::Result<()> {
        self.runtime.remove_sandbox(id)?;
        self.tasks.block_on(network::leave(id))?;
        self.store.unpin(PIN_OWNER, id)?;
        let data = self.data(id);
        match std::fs::remove_dir_all(&data) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", data.display()));
            }
            _ => {}
        }
        if self.runtime.list_sandboxes().is_empty() {
            self.runtime.purge()?;
            for parent in cgroup::empty_parents() {
                let _still_used = std::fs::remove_dir(parent);
            }
        }
        Ok(())
    }

    /// Runs a further process in a container, joined to this terminal, and gives its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn exec(&self, id: &str, mut spec: trierarch_runtime::ExecSpec, user: Option<&str>) -> anyhow::Result<i32> {
        let container = self.runtime.container(id)?;
        if let Some(user) = user {
            spec.user = Some(users::resolve(&container.spec.rootfs, user)?.user);
        }
        (spec.stdout, spec.stderr, spec.terminal_size) = (true, true, streams::terminal_size());
        let tty = spec.tty;
        let interactive = spec.stdin;
        let handle = self.runtime.exec(id, spec)?;
        let control = handle.control();
        let raw = tty.then(streams::RawTerminal::enter);
        streams::watch(&self.tasks, move |happening| match happening {
            streams::Happening::Signal(number) => {
                let _ended = control.kill(number);
            }
            streams::Happening::Resized => {
                if let Some(size) = streams::terminal_size() {
                    let _ended = control.resize(size);
                }
            }
        })?;
        let control = handle.control();
        let mut outputs = Vec::new();
        if let Some(terminal) = handle.terminal {
            if interactive {
                streams::copy(std::io::stdin(), streams::file(terminal.try_clone().context("cannot copy a terminal")?))?;
            }
            outputs.push(streams::copy(streams::file(terminal), std::io::stdout())?);
        } else {
            if let Some(stdin) = handle.stdin {
                streams::copy(std::io::stdin(), streams::file(stdin))?;
            }
            outputs.extend(handle.stdout.map(|stdout| streams::copy(streams::file(stdout), std::io::stdout())).transpose()?);
            outputs.extend(handle.stderr.map(|stderr| streams::copy(streams::file(stderr), std::io::stderr())).transpose()?);
        }
        let exit = loop {
            if let Some(exit) = control.wait(None)? {
                break exit;
            }
        };
        for output in outputs {
            let _panicked = output.join();
        }
        drop(raw);
        Ok(exit.code)
    }
}

/// Writes a piece of output where the container wrote it.
///
/// # Errors
/// When nobody reads it any more.
pub fn show(piece: super::log::Piece) -> std::io::Result<()> {
    use std::io::Write as _;
    match piece.error {
        true => std::io::stderr().write_all(&piece.bytes()),
        false => {
            let mut out = std::io::stdout().lock();
            out.write_all(&piece.bytes())?;
            out.flush()
        }
    }
}

fn resize(runtime: &Runtime, id: &str) {
    if let Some(size) = streams::terminal_size() {
        // it may be gone already
        let _ended = runtime.resize_tty(id, size);
    }
}

fn lock(base: &Path) -> anyhow::Result<File> {
    File::create(base.join("lock")).and_then(|file| file.lock().map(|()| file)).with_context(|| format!("cannot lock {}", base.display()))
}

/// `shop-3fa2` for an image `registry/team/shop:1`.
fn made_up_name(image: &str, id: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    let plain: String = last.split([':', '@']).next().unwrap_or_default().chars().take(50).collect();
    let plain = if options::name_fits(&plain) { plain } else { "container".to_owned() };
    format!("{plain}-{}", &id[..4])
}

/// The files below /etc that say where a container is.
fn etc_mounts(data: &Path, hostname: &str, host: bool, address: Option<Ipv4Addr>) -> anyhow::Result<Vec<Mount>> {
    if host {
        let files = ["/etc/hosts", "/etc/resolv.conf"].into_iter().filter(|path| Path::new(path).exists());
        return Ok(files.map(|path| Mount::bind_read_only(path, path)).collect());
    }
    let machine = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let files = [
        ("hosts", options::hosts(hostname, address)),
        ("resolv.conf", options::resolv_conf(&machine)),
        ("hostname", format!("{hostname}\n")),
    ];
    let mut mounts = Vec::new();
    for (name, text) in files {
        let path = data.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        mounts.push(Mount::bind(path, Path::new("/etc").join(name)));
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_name_tells_the_image() {
        for (image, expected) in [
            ("shop:1", "shop-3fa2"),
            ("registry.k8s.io/e2e/agnhost:2.5", "agnhost-3fa2"),
            ("x@sha256:00", "x-3fa2"),
            ("_", "container-3fa2"),
        ] {
            assert_eq!(made_up_name(image, "3fa2beef0000"), expected);
        }
    }
}
