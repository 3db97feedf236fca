//! `up` and `down` with the real program: what is refused, what an interruption and a killed supervisor leave. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A place for the smallest cluster, with a name, a network and a port that nobody else has.
struct Place {
    dir: tempfile::TempDir,
    name: &'static str,
    network: &'static str,
    port: u16,
}

impl Place {
    fn new(name: &'static str, network: &'static str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { dir: tempfile::tempdir().unwrap(), name, network, port }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trierarch"));
        command.args(args).env("TRIERARCH_DATA_DIR", self.data()).stdin(Stdio::null());
        command
    }

    fn up(&self) -> Command {
        let mut command = self.command(&["up", "--masters", "1", "--nodes", "1", "--node-memory", "256Mi"]);
        command.args(["--name", self.name, "--network", self.network, "--port", &self.port.to_string()]);
        command
    }

    fn supervisor(&self) -> Pid {
        let text = std::fs::read_to_string(self.data().join("run/pids/supervisor")).unwrap();
        Pid::from_raw(text.split_whitespace().next().unwrap().parse().unwrap())
    }

    /// Fails if anything of the cluster is left but its images and logs.
    fn nothing_is_left(&self) {
        let links: Vec<_> = std::fs::read_dir("/sys/class/net").unwrap().flatten().map(|entry| entry.file_name()).collect();
        let prefix = format!("tri-{}", self.name);
        assert!(!links.iter().any(|link| link.to_string_lossy().starts_with(&prefix)), "{links:?}");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let cgroup = hierarchy.path().join("trierarch").join(self.name);
            assert!(!cgroup.exists(), "{}", cgroup.display());
        }
        let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&tables.stdout).contains(&prefix), "a table of {prefix}");
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(!line.contains(self.dir.path().to_str().unwrap()), "still runs: {line}");
        }
        let files: Vec<_> = std::fs::read_dir(self.data()).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        assert!(files.iter().all(|name| name == "images" || name == "log"), "{files:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _also_after_a_failure = self.command(&["down"]).output();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Starts `up`, and sends a signal as soon as it says that it waits.
fn signalled(place: &Place, signal: Signal) -> Option<i32> {
    let mut child: Child = place.up().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("waiting for a master")), "up waits for a master first");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(rest.iter().any(|line| line == "error: interrupted"), "{rest:?}");
    child.wait().unwrap().code()
}

#[test]
fn an_interrupted_up_leaves_nothing() {
    let place = Place::new("tint", "10.177.1.0");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        assert_eq!(signalled(&place, signal), Some(130));
        place.nothing_is_left();
    }
}

#[test]
fn a_second_up_is_refused_and_a_killed_supervisor_is_cleaned_up_after() {
    let place = Place::new("tsec", "10.177.2.0");
    let first = place.up().output().unwrap();
    assert!(first.status.success() && text(&first).contains("is up after"), "{}", text(&first));

    let again = text(&place.up().output().unwrap());
    assert!(again.contains("is up already in") && again.contains("trierarch down --data-dir"), "{again}");
    let other = Place::new("tsec", "10.177.3.0");
    let same_name = text(&other.up().output().unwrap());
    assert!(same_name.contains("choose another --name"), "{same_name}");
    let other = Place::new("toth", "10.177.2.0");
    let same_network = text(&other.up().output().unwrap());
    assert!(
        same_network.contains("network 10.177.2.0/24 is in use on this machine (link tri-tsec): choose another with --network"),
        "{same_network}"
    );
    let mut other = Place::new("toth", "10.177.3.0");
    other.port = place.port;
    let same_port = text(&other.up().output().unwrap());
    assert!(same_port.contains("is taken: choose another with --port"), "{same_port}");
    assert!(!other.data().exists(), "what is refused leaves nothing");

    kill(place.supervisor(), Signal::SIGKILL).unwrap();
    let next = place.up().output().unwrap();
    assert!(next.status.success() && text(&next).contains("Removing what an earlier cluster"), "{}", text(&next));
    kill(place.supervisor(), Signal::SIGKILL).unwrap();
    let down = place.command(&["down"]).output().unwrap();
    assert!(down.status.success(), "{}", text(&down));
    place.nothing_is_left();
    let down = place.command(&["down"]).output().unwrap();
    assert!(down.status.success() && text(&down).contains("No cluster is up in"), "{}", text(&down));
}

#[test]
fn what_a_machine_cannot_give_is_refused_before_anything_is_made() {
    let place = Place::new("tbad", "10.177.4.0");
    for (args, expected) in [
        (vec!["--masters", "2"], "use 1, 3 or 5"),
        (vec!["--nodes", "0"], "use 1 to 50"),
        (vec!["--network", "10.177.4.1"], "give the first address of a /24"),
        (vec!["--node-memory", "100Ti"], "of memory for each node: this machine has"),
        (vec!["--node-cpus", "5000"], "CPU for each node: this machine has"),
        (vec!["--port", "0"], "0 is not in 1.."),
        (vec!["--frobnicate"], "unexpected argument '--frobnicate'"),
    ] {
        let output = place.command(&[&["up"], &args[..]].concat()).output().unwrap();
        assert!(!output.status.success() && text(&output).contains(expected), "{args:?}: {}", text(&output));
        assert!(!place.data().exists(), "{args:?} left something");
    }
}
