//! The process that holds a cluster on one machine together: links and namespaces, masters (started again when they die), nodes, and the
//! address that leads to the masters. It ends them all when it is told to.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use trierarch_network::bridge::Bridge;
use trierarch_network::{Cidr, netns};

use super::cgroup;
use super::forward::Forwarder;
use super::host::{self, NODE_NAMESPACES};
use super::parts;
use super::process::{Remembered, pid_file};
use super::topology::{API_PORT, Host, PREFIX_LENGTH, Topology};

/// A master that died is started again after this pause, and after twice as long each time that it ends soon.
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// The longest of these pauses: somebody who has repaired a master does not want to wait.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A master that ran for so long did not end because of how it was started.
const STEADY: Duration = Duration::from_secs(2);
/// How long parts may take to end by themselves.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What may be asked of a running supervisor, one JSON text a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Stop a whole node, as if its power had gone.
    StopNode(String),
    /// Start it again.
    StartNode(String),
    /// Set a master's directory aside and start it with an empty one.
    ReplaceMaster(String),
    /// What runs.
    Status,
    /// End everything and remove what was made.
    Down,
}

/// What runs, by part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Process ids; 0 for what does not run.
    pub parts: BTreeMap<String, u32>,
    /// Why an order failed.
    pub error: Option<String>,
}

/// The supervisor's socket.
pub fn socket(topology: &Topology) -> PathBuf {
    topology.run_dir().join("supervisor.sock")
}

/// Asks a running supervisor.
///
/// # Errors
/// When it does not answer, or says that it failed.
pub async fn ask(topology: &Topology, order: &Order) -> anyhow::Result<Report> {
    let path = socket(topology);
    let mut stream = UnixStream::connect(&path).await.with_context(|| format!("no supervisor answers at {}", path.display()))?;
    stream.write_all(format!("{}\n", serde_json::to_string(order)?).as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(&mut stream).read_line(&mut line).await?;
    let report: Report = serde_json::from_str(&line).context("the supervisor ended before it answered")?;
    match report.error {
        Some(why) => bail!(why),
        None => Ok(report),
    }
}

enum Event {
    Ended { part: String, how: String },
    Restart { part: String },
    Ordered(Order, oneshot::Sender<Report>),
}

/// The running parts.
struct Supervisor {
    topology: Topology,
    program: PathBuf,
    running: BTreeMap<String, Remembered>,
    /// When each master was started last, and how often in a row it has ended soon after that.
    starts: BTreeMap<String, (Instant, u32)>,
    events: mpsc::Sender<Event>,
}

/// How long to wait before a master that has ended so often soon after its start is started again.
fn restart_pause(soon_ended: u32) -> Duration {
    RESTART_PAUSE.saturating_mul(2_u32.saturating_pow(soon_ended)).min(RESTART_PAUSE_MAX)
}

/// Runs a cluster until it is told to end. `ready` is called once every part has been started.
///
/// # Errors
/// When links, namespaces or the loopback port cannot be had; what was made is removed again.
pub async fn run(topology: Topology, ready: impl FnOnce()) -> anyhow::Result<()> {
    let (events, mut inbox) = mpsc::channel(64);
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut supervisor =
        Supervisor { topology: topology.clone(), program, running: BTreeMap::new(), starts: BTreeMap::new(), events: events.clone() };
    let started = supervisor.start().await;
    let outcome = match started {
        Ok(forwarder) => {
            ready();
            let outcome = supervisor.serve(&mut inbox).await;
            drop(forwarder);
            outcome.map(Some)
        }
        Err(error) => Err(error),
    };
    supervisor.stop_all().await;
    let removed = remove(&topology).await;
    let answer = outcome?;
    if let Some(answer) = answer {
        let report = Report { error: removed.as_ref().err().map(|error| format!("{error:#}")), ..Report::default() };
        // whoever asked may have gone
        let _asker = answer.map(|answer| answer.send(report));
        // the answer leaves through a task: let it
        tokio::time::timeout(Duration::from_secs(1), events.closed()).await.ok();
    }
    removed
}

impl Supervisor {
    async fn start(&mut self) -> anyhow::Result<Forwarder> {
        let topology = self.topology.clone();
        let listener = TcpListener::bind(("127.0.0.1", topology.port))
            .await
            .with_context(|| format!("port {} on 127.0.0.1 is taken: choose another with --port", topology.port))?;
        let address = Cidr::new(topology.gateway, PREFIX_LENGTH).context("the machines' network is no network")?;
        let bridge = Bridge::ensure(&topology.bridge, address).await.context("cannot make the bridge")?;
        for host in topology.masters.iter().chain(&topology.nodes) {
            parts::attach(&topology, &bridge, host).await?;
        }
        for host in &topology.masters {
            self.start_master(host)?;
        }
        for host in &topology.nodes {
            self.start_node(host)?;
        }
        self.listen()?;
        let authority = std::fs::read_to_string(topology.data_dir.join("authority.pem")).context("cannot read the cluster's authority")?;
        let tls = trierarch_client::tls::config(&authority, None)?;
        let masters: Vec<_> = topology.masters.iter().map(|host| (host.address, API_PORT).into()).collect();
        Ok(Forwarder::start(listener, &masters, Arc::new(tls)))
    }

    fn start_master(&mut self, host: &Host) -> anyhow::Result<()> {
        let topology = &self.topology;
        let command = parts::master(topology, host, &self.program)?;
        let child = host::spawn(&topology.netns(host), CloneFlags::empty(), command)
            .with_context(|| format!("cannot start master {}", host.name))?;
        self.starts.entry(host.name.clone()).or_insert((Instant::now(), 0)).0 = Instant::now();
        self.watch(&host.name.clone(), child)
    }

    fn start_node(&mut self, host: &Host) -> anyhow::Result<()> {
        let topology = &self.topology;
        let path = topology.node_cgroup(host);
        cgroup::create(&path, topology.node_cpu_millis, topology.node_memory_bytes)?;
        let node_dir = topology.node_dir(host);
        std::fs::create_dir_all(&node_dir).with_context(|| format!("cannot make {}", node_dir.display()))?;
        let mut command = parts::command(topology, &host.name, &self.program)?;
        command
            .arg("node-init")
            .args(["--hostname", &host.name])
            .arg("--node-dir")
            .arg(&node_dir)
            .arg("--")
            .arg(&self.program)
            .arg("agent")
            .args(["--name", &host.name])
            .args(["--address", &host.address.to_string()])
            .arg("--data-dir")
            .arg(&node_dir)
            .arg("--images-dir")
            .arg(topology.images_dir())
            .args(["--cgroup-parent", &path])
            .args(["--cpu-millis", &topology.node_cpu_millis.to_string()])
            .args(["--memory-bytes", &topology.node_memory_bytes.to_string()])
            .arg("--token-file")
            .arg(topology.data_dir.join("agent-token"));
        for server in topology.servers() {
            command.args(["--join", &server]);
        }
        let child =
            host::spawn(&topology.netns(host), NODE_NAMESPACES, command).with_context(|| format!("cannot start node {}", host.name))?;
        cgroup::enter(&path, child.id())?;
        self.watch(&host.name.clone(), child)
    }

    /// Remembers a child and reports its end.
    fn watch(&mut self, part: &str, mut child: Child) -> anyhow::Result<()> {
        let remembered =
            Remembered::of(child.id()).with_context(|| format!("{part} ended at once; see {}", self.topology.log(part).display()))?;
        remembered.save(&pid_file(&self.topology.run_dir(), part))?;
        self.running.insert(part.to_owned(), remembered);
        let (events, part) = (self.events.clone(), part.to_owned());
        tokio::task::spawn_blocking(move || {
            let how = match child.wait() {
                Ok(status) => status.signal().map_or_else(|| format!("{status}"), |signal| format!("signal {signal}")),
                Err(error) => error.to_string(),
            };
            // nobody listens any more when everything is being ended
            let _ending = events.blocking_send(Event::Ended { part, how });
        });
        Ok(())
    }

    fn listen(&self) -> anyhow::Result<()> {
        let path = socket(&self.topology);
        let _stale = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
        let events = self.events.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, events.clone()));
            }
        });
        Ok(())
    }

    /// Returns who asked for the end, if somebody did (and not a signal).
    async fn serve(&mut self, inbox: &mut mpsc::Receiver<Event>) -> anyhow::Result<Option<oneshot::Sender<Report>>> {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        loop {
            let event = tokio::select! {
                event = inbox.recv() => event,
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
            };
            match event {
                None => return Ok(None),
                Some(Event::Ordered(Order::Down, answer)) => return Ok(Some(answer)),
                Some(Event::Ordered(order, answer)) => {
                    let report = self.carry_out(&order).await;
                    let _asker_gone = answer.send(report);
                }
                Some(Event::Ended { part, how }) => self.ended(part, &how),
                Some(Event::Restart { part }) => self.restart(&part),
            }
        }
    }

    async fn carry_out(&mut self, order: &Order) -> Report {
        let outcome = match order {
            Order::StopNode(name) => self.stop_node(name).await,
            Order::StartNode(name) => self.start_stopped_node(name),
            Order::ReplaceMaster(name) => self.empty_master(name).await,
            Order::Status | Order::Down => Ok(()),
        };
        let parts = self.topology.masters.iter().chain(&self.topology.nodes).map(|host| {
            let pid = self.running.get(&host.name).and_then(|process| u32::try_from(process.pid).ok()).unwrap_or(0);
            (host.name.clone(), pid)
        });
        Report { parts: parts.collect(), error: outcome.err().map(|error| format!("{error:#}")) }
    }

    fn node(&self, name: &str) -> anyhow::Result<Host> {
        let names = || self.topology.nodes.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
        self.topology
            .nodes
            .iter()
            .find(|host| host.name == name)
            .cloned()
            .with_context(|| format!("no node {name:?}; there are {}", names()))
    }

    async fn stop_node(&mut self, name: &str) -> anyhow::Result<()> {
        let host = self.node(name)?;
        let process = self.running.get(name).copied().with_context(|| format!("node {name} does not run"))?;
        process.signal(Signal::SIGKILL);
        process.gone().await;
        cgroup::remove(&self.topology.node_cgroup(&host), STOP_PATIENCE).await
    }

    /// Ends a master and sets its directory aside. It is started again as ever after its end, and joins the others as a new one.
    async fn empty_master(&mut self, name: &str) -> anyhow::Result<()> {
        let host = self.topology.masters.iter().find(|host| host.name == name).with_context(|| format!("no master {name:?}"))?;
        if let Some(process) = self.running.get(name) {
            process.end(STOP_PATIENCE).await;
        }
        let directory = self.topology.master_dir(host);
        let aside = directory.with_file_name(format!("{name}.replaced-{}", jiff::Timestamp::now().as_second()));
        match std::fs::rename(&directory, &aside) {
            Ok(()) => tracing::warn!(part = name, aside = %aside.display(), "Set a master's directory aside"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot set {} aside", directory.display())),
        }
        Ok(())
    }

    fn start_stopped_node(&mut self, name: &str) -> anyhow::Result<()> {
        let host = self.node(name)?;
        if self.running.contains_key(name) {
            bail!("node {name} runs already");
        }
        self.start_node(&host)
    }

    fn ended(&mut self, part: String, how: &str) {
        self.running.remove(&part);
        let _removed = std::fs::remove_file(pid_file(&self.topology.run_dir(), &part));
        if self.topology.masters.iter().any(|host| host.name == part) {
            let soon_ended = self.starts.get_mut(&part).map_or(0, |(started, soon_ended)| {
                *soon_ended = if started.elapsed() < STEADY { soon_ended.saturating_add(1) } else { 0 };
                soon_ended.saturating_sub(1)
            });
            let pause = restart_pause(soon_ended);
            let log = self.topology.log(&part);
            tracing::warn!(part, how, pause_ms = pause.as_millis(), log = %log.display(), "Master ended, starting it again");
            self.restart_later(part, pause);
        } else {
            tracing::warn!(part, how, "Node stopped");
        }
    }

    fn restart_later(&self, part: String, pause: Duration) {
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ending = events.send(Event::Restart { part }).await;
        });
    }

    fn restart(&mut self, part: &str) {
        let Some(host) = self.topology.masters.iter().find(|host| host.name == part).cloned() else { return };
        if self.running.contains_key(part) {
            return;
        }
        if let Err(error) = self.start_master(&host) {
            tracing::error!(part, error = format!("{error:#}"), "Could not start a master");
            self.restart_later(part.to_owned(), RESTART_PAUSE_MAX);
        }
    }

    async fn stop_all(&mut self) {
        for node in &self.topology.nodes {
            if let Some(process) = self.running.get(&node.name) {
                process.signal(Signal::SIGKILL);
            }
        }
        let masters: Vec<_> = self.topology.masters.iter().filter_map(|host| self.running.get(&host.name).copied()).collect();
        futures::future::join_all(masters.iter().map(|process| process.end(STOP_PATIENCE))).await;
        for process in self.running.values() {
            process.gone().await;
        }
    }
}

async fn answer(stream: UnixStream, events: mpsc::Sender<Event>) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    if BufReader::new(reader).read_line(&mut line).await.is_err() {
        return;
    }
    let report = match serde_json::from_str(&line) {
        Ok(order) => {
            let (reply, answered) = oneshot::channel();
            if events.send(Event::Ordered(order, reply)).await.is_err() {
                return;
            }
            answered.await.unwrap_or_else(|_ended| Report { error: Some("the supervisor is ending".to_owned()), ..Report::default() })
        }
        Err(error) => Report { error: Some(format!("unreadable order: {error}")), ..Report::default() },
    };
    if let Ok(text) = serde_json::to_string(&report) {
        let _asker_gone = writer.write_all(format!("{text}\n").as_bytes()).await;
    }
}

/// Removes links, namespaces, mounts and cgroups of a cluster whose processes have ended. May be repeated.
///
/// # Errors
/// Everything that stayed, in one text.
pub async fn remove(topology: &Topology) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    let mut note = |what: String, outcome: anyhow::Result<()>| {
        if let Err(error) = outcome {
            problems.push(format!("{what}: {error:#}"));
        }
    };
    for host in topology.masters.iter().chain(&topology.nodes) {
        note(format!("link {}", host.link), Bridge::detach(&host.link).await.map_err(Into::into));
        note(format!("network namespace of {}", host.name), netns::delete_netns(&topology.netns(host)).map_err(Into::into));
    }
    note(format!("bridge {}", topology.bridge), Bridge::remove(&topology.bridge).await.map_err(Into::into));
    unmount_below(&topology.data_dir);
    let cgroup = format!("trierarch/{}", topology.name);
    note(format!("cgroup {cgroup}"), cgroup::remove(&cgroup, STOP_PATIENCE).await);
    // the parent serves every cluster of this machine: it goes with the last one
    for directory in cgroup::empty_parents() {
        let _still_used = std::fs::remove_dir(directory);
    }
    let _gone = std::fs::remove_dir_all(topology.run_dir());
    if problems.is_empty() { Ok(()) } else { bail!("could not remove everything: {}", problems.join("; ")) }
}

/// Detaches mounts below a directory, the last made first.
fn unmount_below(directory: &std::path::Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().rev() {
        let Some(target) = line.split_whitespace().nth(1) else { continue };
        let target = target.replace("\\040", " ");
        if std::path::Path::new(&target).starts_with(directory) {
            let _busy = nix::mount::umount2(target.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_cannot_start_is_tried_less_and_less() {
        let pauses: Vec<_> = (0..6).map(|soon_ended| restart_pause(soon_ended).as_millis()).collect();
        assert_eq!(pauses, [300, 600, 1200, 2400, 4800, 5000]);
        assert_eq!(restart_pause(u32::MAX), RESTART_PAUSE_MAX);
    }
}
