//! A cluster of the real program, started as a user starts it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// A cluster. Dropping it takes it down.
pub struct Cluster {
    binary: PathBuf,
    data_dir: PathBuf,
    kubectl: PathBuf,
    up: bool,
}

/// The program under test: beside the test's own executable, where cargo puts both.
///
/// # Errors
/// When it has not been built.
pub fn binary() -> Result<PathBuf> {
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
        let kubectl = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let mut cluster = Self { binary: binary()?, data_dir: data_dir.to_owned(), kubectl, up: false };
        let mut command = cluster.trierarch(&["up", "--name", name]);
        command.args(options);
        succeed(&mut command)?;
        cluster.up = true;
        Ok(cluster)
    }

    /// The program with these arguments, on this cluster.
    pub fn trierarch(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("TRIERARCH_DATA_DIR", &self.data_dir).env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// The real kubectl with these arguments, on this cluster.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).env("HOME", &self.data_dir);
        command
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

    /// The name of the master that leads.
    ///
    /// # Errors
    /// When none does.
    pub fn leader(&self) -> Result<String> {
        let status: Value = serde_json::from_str(&succeed(&mut self.trierarch(&["raft", "status", "-o", "json"]))?)?;
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
