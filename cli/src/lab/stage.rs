//! The masters of an experiment: processes in network namespaces of their own, without nodes. They end with this process, whatever ends it
//! short of SIGKILL; what that leaves behind, the next experiment or `trierarch down` removes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use trierarch_client::{Client, Request};
use trierarch_network::Cidr;
use trierarch_network::bridge::Bridge;
use trierarch_raft::NodeId;
use trierarch_raft::experiment::{Fault, TimersChange};

use crate::cluster::parts;
use crate::cluster::process::{Remembered, pid_file};
use crate::cluster::topology::{self, Host, Machine, PREFIX_LENGTH, Topology, Wish};
use crate::verbs::down::{Take, take_down};
use crate::verbs::raft::reach::{Master, Reach};
use crate::verbs::up;

/// How long a master may take to answer a question about itself.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// How long all masters may take to become one group.
const FOUNDING_PATIENCE: Duration = Duration::from_secs(60);
/// How often is looked whether they have.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Where the experiment's cluster is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The masters' network, a /24.
    pub network: std::net::Ipv4Addr,
}

/// The masters.
pub struct Stage {
    topology: Topology,
    program: PathBuf,
    reach: Reach,
    clients: BTreeMap<NodeId, Client>,
    children: BTreeMap<NodeId, Child>,
    snapshot_after_entries: Option<u64>,
}

impl Stage {
    /// Starts as many masters as wanted, and returns when they are one group of voters.
    ///
    /// # Errors
    /// What is in the way. Nothing is left running then.
    pub async fn build(place: &Place, masters: u64, snapshot_after_entries: Option<u64>) -> anyhow::Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!(
                "an experiment on real processes needs root: it makes network namespaces. Try: sudo trierarch raft lab run, or --simulate"
            );
        }
        let wish = Wish {
            name: place.name.clone(),
            data_dir: place.data_dir.clone(),
            masters: u8::try_from(masters)?,
            nodes: 1,
            network: place.network,
            port: 0,
            node_cpu_millis: None,
            node_memory_bytes: None,
        };
        // masters only: who may lead needs no nodes
        let planned = topology::plan(&wish, Machine { cpu_millis: 1000, memory_bytes: 1 << 30 })?;
        let topology = Topology { nodes: Vec::new(), experiments: true, ..planned };
        up::check(&topology).await?;
        up::prepare(&topology)?;
        let reach = Reach::find(&topology.data_dir).await?;
        let client = |master: &Master| reach.client(master, ANSWER_PATIENCE);
        let clients = reach.masters.iter().enumerate().map(|(index, master)| Ok((number(index), client(master)?)));
        let clients = clients.collect::<anyhow::Result<_>>()?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut stage = Self { topology, program, reach, clients, children: BTreeMap::new(), snapshot_after_entries };
        match stage.found().await {
            Ok(()) => Ok(stage),
            Err(error) => {
                stage.remove(Keep::Logs).await?;
                Err(error)
            }
        }
    }

    async fn found(&mut self) -> anyhow::Result<()> {
        let topology = self.topology.clone();
        let address = Cidr::new(topology.gateway, PREFIX_LENGTH).context("the masters' network is no network")?;
        let bridge = Bridge::ensure(&topology.bridge, address).await.context("cannot make the bridge")?;
        for (index, host) in topology.masters.iter().enumerate() {
            parts::attach(&topology, &bridge, host).await?;
            self.start(number(index))?;
            // one after the other, so that m2 is member 2
            self.wait_for_voters(index + 1).await?;
        }
        Ok(())
    }

    async fn wait_for_voters(&mut self, count: usize) -> anyhow::Result<()> {
        let logs = self.topology.data_dir.join("log");
        let waiting = async {
            let mut ticks = tokio::time::interval(LOOK_PAUSE);
            loop {
                ticks.tick().await;
                self.check_children()?;
                let Ok(status) = self.status(1).await else { continue };
                let members = status["members"].as_array().into_iter().flatten();
                if members.filter(|member| member["role"] == "Voter").count() >= count {
                    return Ok(());
                }
            }
        };
        match tokio::time::timeout(FOUNDING_PATIENCE, waiting).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => bail!("{count} masters are no group after {} s; see {}", FOUNDING_PATIENCE.as_secs(), logs.display()),
        }
    }

    /// A master that ends by itself makes every waiting vain.
    fn check_children(&mut self) -> anyhow::Result<()> {
        for (id, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("master m{id} ended with {status}; see {}", self.topology.log(&format!("m{id}")).display());
            }
        }
        Ok(())
    }

    fn host(&self, id: NodeId) -> anyhow::Result<&Host> {
        let index = usize::try_from(id)?.checked_sub(1);
        index.and_then(|index| self.topology.masters.get(index)).with_context(|| format!("there is no m{id}"))
    }

    /// All members.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.topology.masters.len()).map(number)
    }

    /// The client that asks this master and nobody else.
    ///
    /// # Errors
    /// There is no such master.
    pub fn client(&self, id: NodeId) -> anyhow::Result<&Client> {
        self.clients.get(&id).with_context(|| format!("there is no m{id}"))
    }

    /// A client of its own connection to this master. `timeout`: of each request.
    ///
    /// # Errors
    /// There is no such master.
    pub fn new_client(&self, id: NodeId, timeout: Duration) -> anyhow::Result<Client> {
        let index = usize::try_from(id)?.checked_sub(1);
        let master = index.and_then(|index| self.reach.masters.get(index)).with_context(|| format!("there is no m{id}"))?;
        Ok(self.reach.client(master, timeout)?)
    }

    /// What a master says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self, id: NodeId) -> anyhow::Result<Value> {
        Ok(self.client(id)?.get("/raft/v1/status").await?)
    }

    /// Starts a master's process.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn start(&mut self, id: NodeId) -> anyhow::Result<()> {
        if self.children.contains_key(&id) {
            bail!("m{id} runs already");
        }
        let host = self.host(id)?.clone();
        let mut command = parts::master(&self.topology, &host, &self.program)?;
        if let Some(entries) = self.snapshot_after_entries {
            command.args(["--snapshot-after-entries", &entries.to_string()]);
        }
        let child = crate::cluster::host::spawn(&self.topology.netns(&host), nix::sched::CloneFlags::empty(), command)
            .with_context(|| format!("cannot start m{id}"))?;
        let remembered = Remembered::of(child.id()).with_context(|| format!("m{id} ended at once"))?;
        remembered.save(&pid_file(&self.topology.run_dir(), &host.name))?;
        self.children.insert(id, child);
        Ok(())
    }

    /// Sends a signal to a master's process; returns when a killed one has ended.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&mut self, id: NodeId, signal: Signal) -> anyhow::Result<()> {
        let child = self.children.get_mut(&id).with_context(|| format!("m{id} does not run"))?;
        kill(Pid::from_raw(i32::try_from(child.id())?), signal).with_context(|| format!("cannot signal m{id}"))?;
        if signal == Signal::SIGKILL {
            child.wait()?;
            self.children.remove(&id);
        }
        Ok(())
    }

    /// The masters whose processes do not run.
    pub fn down(&self) -> Vec<NodeId> {
        self.members().filter(|id| !self.children.contains_key(id)).collect()
    }

    /// Removes everything that was made.
    ///
    /// # Errors
    /// What stays.
    pub async fn remove(mut self, keep: Keep) -> anyhow::Result<()> {
        for (_, mut child) in std::mem::take(&mut self.children) {
            // it may have ended by itself
            let _ended = child.kill();
            let _reaped = child.wait();
        }
        take_down(&self.topology, Take { images: true, logs: keep == Keep::Nothing }).await?;
        if keep == Keep::Nothing {
            remove_if_empty(&self.topology.data_dir);
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // the orderly way is `remove`; a panic must leave no process behind
        for child in self.children.values_mut() {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// What stays when everything is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// The masters' logs, which tell what was wrong.
    Logs,
}

fn remove_if_empty(directory: &Path) {
    let _still_used = std::fs::remove_dir(directory);
}

/// The member's number of a position.
fn number(index: usize) -> NodeId {
    index as NodeId + 1
}

/// Hands leadership over.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn transfer(client: &Client, to: Option<NodeId>) -> anyhow::Result<()> {
    let query = to.map_or_else(String::new, |to| format!("?to={to}"));
    post(client, &format!("/raft/v1/transfer{query}")).await
}

/// Has a master begin an election.
///
/// # Errors
/// As [`transfer`].
pub async fn campaign(client: &Client) -> anyhow::Result<()> {
    post(client, "/raft/v1/campaign").await
}

async fn post(client: &Client, path: &str) -> anyhow::Result<()> {
    client.request(Request { method: http::Method::POST, path: path.to_owned(), ..Request::default() }).await?;
    Ok(())
}

/// Lets a fault begin.
///
/// # Errors
/// As [`transfer`].
pub async fn begin_fault(client: &Client, fault: &Fault) -> anyhow::Result<()> {
    client.request(Request::json(http::Method::POST, "/raft/v1/experiments/faults", &json!(fault))).await?;
    Ok(())
}

/// Ends all faults.
///
/// # Errors
/// As [`transfer`].
pub async fn clear_faults(client: &Client) -> anyhow::Result<()> {
    let request = Request { method: http::Method::DELETE, path: "/raft/v1/experiments/faults".to_owned(), ..Request::default() };
    client.request(request).await?;
    Ok(())
}

/// Sets other timers.
///
/// # Errors
/// As [`transfer`].
pub async fn set_timers(client: &Client, change: &TimersChange) -> anyhow::Result<()> {
    client.request(Request::json(http::Method::PUT, "/raft/v1/experiments/timers", &json!(change))).await?;
    Ok(())
}
