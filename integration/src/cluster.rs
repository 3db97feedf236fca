//! A cluster of the real program, started as a user starts it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::config::Kubeconfig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::wait::until;

/// How long a killed process may take to be gone.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// A cluster. Dropping it takes it down.
pub struct Cluster {
    binary: PathBuf,
    data_dir: PathBuf,
    kubectl: Kubectl,
    up: bool,
}

/// The real kubectl on a cluster; for threads of its own.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    data_dir: PathBuf,
    /// Before 1.25 it validates by itself, with a form of the schema that only old servers have.
    validates_itself: bool,
}

impl Kubectl {
    fn find(data_dir: &Path) -> Result<Self> {
        let program = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let printed = succeed(Command::new(&program).args(["version", "--client", "-o", "json"]))?;
        let version: Value = serde_json::from_str(&printed)?;
        let minor = version.pointer("/clientVersion/minor").and_then(Value::as_str).unwrap_or_default();
        let minor: u32 =
            minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().with_context(|| format!("which version is {printed}?"))?;
        Ok(Self { program, data_dir: data_dir.to_owned(), validates_itself: minor < 25 })
    }

    /// It with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", self.data_dir.join("kubeconfig")).env("HOME", &self.data_dir);
        if self.validates_itself && matches!(arguments.first(), Some(&"apply" | &"create" | &"replace")) && arguments.contains(&"-f") {
            command.arg("--validate=false");
        }
        command
    }

    /// Creates what a manifest describes.
    ///
    /// # Errors
    /// With what kubectl printed.
    pub fn create_text(&self, manifest: &str) -> Result<String> {
        let mut command = self.command(&["create", "-f", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // a kubectl that ends early says why on its standard error
        let _written = std::io::Write::write_all(&mut child.stdin.take().context("its input is piped")?, manifest.as_bytes());
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl create ended with {}:\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }
}

/// The program under test: beside the test's own executable, where cargo puts both, unless `TRIERARCH_BINARY` names another.
///
/// # Errors
/// When it has not been built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TRIERARCH_BINARY") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let path = own.ancestors().nth(2).context("the test runs from a target directory")?.join("trierarch");
    if !path.is_file() {
        bail!("{} is not built: cargo build --package trierarch", path.display());
    }
    Ok(path)
}

/// Standard output of a command that must succeed.
///
/// # Errors
/// With everything that it printed.
pub fn succeed(command: &mut Command) -> Result<String> {
    let output = run(command)?;
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Standard error of a command that must fail.
///
/// # Errors
/// When it succeeds.
pub fn fail(command: &mut Command) -> Result<String> {
    let output = run(command)?;
    if output.status.success() {
        bail!("{command:?} was expected to fail, but printed:\n{}", text(&output.stdout));
    }
    Ok(text(&output.stderr))
}

fn run(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))
}

/// Bytes as text, whatever they are.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Cluster {
    /// Starts a cluster below `data_dir` with further options of `up`.
    ///
    /// # Errors
    /// With what `up` printed.
    pub fn up(name: &str, data_dir: &Path, options: &[&str]) -> Result<Self> {
        Self::up_with(name, data_dir, options, &[])
    }

    /// The same with settings in the environment, which the cluster's parts inherit.
    ///
    /// # Errors
    /// With what `up` printed.
    pub fn up_with(name: &str, data_dir: &Path, options: &[&str], settings: &[(&str, &str)]) -> Result<Self> {
        let mut cluster = Self { binary: binary()?, data_dir: data_dir.to_owned(), kubectl: Kubectl::find(data_dir)?, up: false };
        let mut command = cluster.trierarch(&["up", "--name", name]);
        command.args(options).envs(settings.iter().copied());
        succeed(&mut command)?;
        cluster.up = true;
        Ok(cluster)
    }

    /// Takes down and removes what an earlier run left in `data_dir`, whatever state it is in.
    ///
    /// # Errors
    /// With what `down` printed.
    pub fn remove_leftovers(data_dir: &Path) -> Result<()> {
        if data_dir.exists() {
            succeed(Command::new(binary()?).args(["down", "--images"]).env("TRIERARCH_DATA_DIR", data_dir))?;
            std::fs::remove_dir_all(data_dir).with_context(|| format!("cannot remove {}", data_dir.display()))?;
        }
        Ok(())
    }

    /// The program with these arguments, on this cluster.
    pub fn trierarch(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("TRIERARCH_DATA_DIR", &self.data_dir).env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// The real kubectl on this cluster, for another thread.
    pub fn client(&self) -> Kubectl {
        self.kubectl.clone()
    }

    /// The real kubectl with these arguments, on this cluster.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        self.kubectl.command(arguments)
    }

    /// Applies a file or a folder.
    ///
    /// # Errors
    /// With what kubectl printed.
    pub fn apply(&self, path: &Path) -> Result<String> {
        self.kubectl(&["apply", "-f", path.to_str().context("the path is text")?])
    }

    /// Creates an object.
    ///
    /// # Errors
    /// With what kubectl printed.
    pub fn create(&self, object: &Value) -> Result<String> {
        self.kubectl.create_text(&object.to_string())
    }

    /// What kubectl prints; it must succeed.
    ///
    /// # Errors
    /// With everything that it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        succeed(&mut self.kubectl_command(arguments))
    }

    /// What `kubectl get ... -o json` answers.
    ///
    /// # Errors
    /// When it fails.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend_from_slice(arguments);
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// Where the cluster is kept.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The process id of a part: `m1`, `n1`, `supervisor`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, part: &str) -> Result<i32> {
        let path = self.data_dir.join("run/pids").join(part);
        let text = std::fs::read_to_string(&path).with_context(|| format!("{part} does not run"))?;
        Ok(text.split_whitespace().next().unwrap_or_default().parse()?)
    }

    /// What a part has logged.
    ///
    /// # Errors
    /// When there is no log.
    pub fn log(&self, part: &str) -> Result<String> {
        let path = self.data_dir.join("log").join(format!("{part}.log"));
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// What every master says about its store, by name.
    ///
    /// # Errors
    /// When none can be asked.
    pub fn raft_status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&succeed(&mut self.trierarch(&["raft", "status", "-o", "json"]))?)?)
    }

    /// The names of the masters.
    ///
    /// # Errors
    /// When the cluster's description cannot be read.
    pub fn masters(&self) -> Result<Vec<String>> {
        Ok(self.hosts()?.into_iter().map(|(name, _)| name).collect())
    }

    /// Where a master is.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn address(&self, master: &str) -> Result<Ipv4Addr> {
        let found = self.hosts()?.into_iter().find(|(name, _)| name == master);
        found.map(|(_, address)| address).with_context(|| format!("no master {master}"))
    }

    fn hosts(&self) -> Result<Vec<(String, Ipv4Addr)>> {
        let path = self.data_dir.join("cluster.json");
        let described: Value = serde_json::from_slice(&std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?)?;
        let masters = described["masters"].as_array().context("the description names no masters")?;
        let host = |host: &Value| Some((host["name"].as_str()?.to_owned(), host["address"].as_str()?.parse().ok()?));
        masters.iter().map(|master| host(master).with_context(|| format!("{master} is no master"))).collect()
    }

    /// A master's network namespace.
    pub fn netns(&self, master: &str) -> PathBuf {
        self.data_dir.join("run/netns").join(master)
    }

    /// The address of a master's API.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn server(&self, master: &str) -> Result<String> {
        Ok(format!("https://{}:6443", self.address(master)?))
    }

    /// The administrator's way to one master, past the address that leads to all of them.
    ///
    /// # Errors
    /// There is none of that name, or no kubeconfig.
    pub fn entrance(&self, master: &str) -> Result<Kubeconfig> {
        let mut kubeconfig = Kubeconfig::read_from(self.kubeconfig()).context("cannot read the kubeconfig")?;
        let clusters = kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut());
        for cluster in clusters {
            cluster.server = Some(self.server(master)?);
        }
        Ok(kubeconfig)
    }

    /// Kills those of these masters that run, as a crash does, and changes something before the supervisor starts them again.
    ///
    /// # Errors
    /// When one does not end, or the change fails. They are started again in any case.
    pub fn crash(&self, masters: &[&str], change: impl FnOnce() -> Result<()>) -> Result<()> {
        let supervisor = Pid::from_raw(self.pid("supervisor")?);
        kill(supervisor, Signal::SIGSTOP)?;
        let changed = masters.iter().try_for_each(|master| self.end(master)).and_then(|()| change());
        kill(supervisor, Signal::SIGCONT)?;
        changed
    }

    /// Kills a master, if it runs, and waits until it is gone.
    fn end(&self, master: &str) -> Result<()> {
        let Ok(pid) = self.pid(master) else { return Ok(()) };
        // it may have ended meanwhile
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        until("the end of a master", END_PATIENCE, || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").map_or("gone", |(_, rest)| rest.get(..1).unwrap_or_default());
            ensure!(["gone", "Z"].contains(&state), "{stat}");
            Ok(())
        })?;
        Ok(())
    }

    /// Waits until a master takes part and has everything that was committed when this was called.
    ///
    /// # Errors
    /// After `patience`, with what it says of itself.
    pub fn up_to_date(&self, master: &str, patience: Duration) -> Result<()> {
        let number = |status: &Value, field: &str| status[field].as_u64().unwrap_or(0);
        let status = self.raft_status()?;
        let newest = status.as_object().into_iter().flat_map(|masters| masters.values()).map(|one| number(one, "committed")).max();
        until("a master that is up to date", patience, || {
            let status = self.raft_status()?[master].clone();
            let takes_part = matches!(status["role"].as_str(), Some("leader" | "follower"));
            ensure!(takes_part && number(&status, "applied") >= newest.unwrap_or(0), "{newest:?} are committed; {master} says {status}");
            Ok(())
        })?;
        Ok(())
    }

    /// Waits until all masters vote and are up to date, and returns who leads.
    ///
    /// # Errors
    /// After `patience`, with what is still missing.
    pub fn settled(&self, patience: Duration) -> Result<String> {
        let masters = self.masters()?;
        masters.iter().try_for_each(|master| self.up_to_date(master, patience))?;
        let (leader, _) = until("a group of all masters", patience, || {
            let leader = self.leader()?;
            let members = self.raft_status()?[&leader]["members"].clone();
            let voters = members.as_array().into_iter().flatten().filter(|member| member["role"] == "Voter").count();
            ensure!(voters == masters.len() && members.as_array().is_some_and(|all| all.len() == voters), "{members}");
            Ok(leader)
        })?;
        Ok(leader)
    }

    /// The name of the master that leads.
    ///
    /// # Errors
    /// When none does.
    pub fn leader(&self) -> Result<String> {
        let status = self.raft_status()?;
        let masters = status.as_object().context("raft status prints an object")?;
        let leader = masters.iter().find(|(_, status)| status["role"] == "leader").map(|(name, _)| name.clone());
        leader.with_context(|| format!("no master leads: {status}"))
    }

    /// Takes the cluster down.
    ///
    /// # Errors
    /// With what `down` printed.
    pub fn down(&mut self) -> Result<String> {
        let printed = succeed(&mut self.trierarch(&["down", "--images"]))?;
        self.up = false;
        Ok(printed)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.up
            && let Err(error) = self.down()
        {
            eprintln!("could not take the cluster down: {error:#}");
        }
    }
}
