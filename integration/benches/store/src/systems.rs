//! What is measured: groups of three processes on loopback, on the same disk, with TLS and client certificates everywhere.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use trierarch_etcd_facade::tls::{ALPN_H2, Identity};

use crate::clock;
use crate::codec::{Call, Reply};
use crate::group::{Group, Start};
use crate::rows::Asked;
use crate::traffic::{Endpoint, Link, Speech};

/// Members of each group.
const MEMBERS: usize = 3;
/// How long a group may take until all its members vote.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How often a member is asked whether it is ready.
const START_PAUSE: Duration = Duration::from_millis(50);
/// How long a member may take to say whether it is.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// More than a run writes: neither system forgets history while it is measured. etcd is asked to between rows, ours does by itself beyond this.
pub const WHOLE_HISTORY_BYTES: u64 = 16 << 30;
/// More than a run writes, so that the default limit of 2 GiB does not end it.
const ETCD_QUOTA_BYTES: &str = "17179869184";

/// A column of the table: a group, and the way to speak to it.
#[derive(Clone, Debug)]
pub struct System {
    /// As the table calls it.
    pub name: &'static str,
    /// Its members.
    pub endpoints: Vec<Endpoint>,
    /// Its processes.
    pub pids: Vec<u32>,
    /// Whether its history must be compacted from outside.
    pub keeps_all_history: bool,
}

impl System {
    /// A member that leads, or one that does not.
    ///
    /// # Errors
    /// No such member answers at the moment.
    pub async fn member(&self, asked: Asked) -> anyhow::Result<&Endpoint> {
        for endpoint in &self.endpoints {
            if status(endpoint).await.is_some_and(|(leads, _)| leads == (asked == Asked::Leader)) {
                return Ok(endpoint);
            }
        }
        bail!("{} has no such member: {asked:?}", self.name)
    }

    /// Waits until one member leads, and all know that all vote.
    ///
    /// # Errors
    /// They do not within [`START_PATIENCE`].
    pub async fn ready(&self) -> anyhow::Result<()> {
        let start = clock::now();
        loop {
            let (mut leaders, mut knowing) = (0, 0);
            for endpoint in &self.endpoints {
                if let Some((leads, voters)) = status(endpoint).await {
                    leaders += usize::from(leads);
                    knowing += usize::from(voters == self.endpoints.len());
                }
            }
            if leaders == 1 && knowing == self.endpoints.len() {
                return Ok(());
            }
            if start.elapsed() > START_PATIENCE {
                bail!("{} is not ready after {} s; its logs are beside its data", self.name, START_PATIENCE.as_secs());
            }
            tokio::time::sleep(START_PAUSE).await;
        }
    }
}

/// Whether a member leads, and how many vote as it knows; `None` if it does not answer.
async fn status(endpoint: &Endpoint) -> Option<(bool, usize)> {
    let asking = async { Link::connect(endpoint).await?.ask(&Call::Status).await };
    match tokio::time::timeout(ANSWER_PATIENCE, asking).await {
        Ok(Ok(Reply::Status { leads, voters })) => Some((leads, voters)),
        _ => None,
    }
}

/// How members of ours are started: the first three, and those that come later.
#[derive(Clone, Debug)]
pub struct Plan {
    program: PathBuf,
    directory: PathBuf,
    identity: Identity,
    members: Vec<Addresses>,
}

/// Where a member of ours is reached.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// By the other members.
    pub peer: SocketAddr,
    /// By clients that speak [`crate::protocol`].
    pub native: SocketAddr,
    /// By clients that speak etcd's API.
    pub grpc: SocketAddr,
}

impl Plan {
    /// Three members of `program` with their data in `directory`.
    ///
    /// # Errors
    /// There are no free addresses.
    pub fn new(program: &Path, directory: &Path, identity: &Identity) -> anyhow::Result<Self> {
        let mut plan =
            Self { program: program.to_owned(), directory: directory.to_owned(), identity: identity.clone(), members: Vec::new() };
        (0..MEMBERS).try_for_each(|_| plan.add().map(drop))?;
        Ok(plan)
    }

    /// One more member; returns its place, which is its id less one.
    ///
    /// # Errors
    /// There are no free addresses.
    pub fn add(&mut self) -> anyhow::Result<usize> {
        let [peer, native, grpc] = free_addresses()?;
        self.members.push(Addresses { peer, native, grpc });
        Ok(self.members.len() - 1)
    }

    /// All members, in order.
    pub fn members(&self) -> &[Addresses] {
        &self.members
    }

    /// Where the data of a member is.
    pub fn data_dir(&self, member: usize) -> PathBuf {
        self.directory.join(format!("ours-{}", member + 1))
    }

    /// How a member is started.
    ///
    /// # Errors
    /// The certificates are in no directory.
    pub fn start(&self, member: usize, options: &[String]) -> anyhow::Result<Start> {
        let numbered = |address: fn(&Addresses) -> SocketAddr| {
            let numbered = (1..).zip(&self.members).map(|(number, member): (usize, _)| format!("{number}={}", address(member)));
            numbered.collect::<Vec<_>>().join(",")
        };
        let certificates = self.identity.authority.parent().context("certificates are in a directory")?;
        let mut start = Start::new(&self.program, self.directory.join(format!("ours-{}.log", member + 1)));
        start.args(["--member", &(member + 1).to_string(), "--peers", &numbered(|member| member.peer)]);
        start.args(["--clients", &numbered(|member| member.grpc), "--native", &numbered(|member| member.native)]);
        start.args(["--data-dir"]).args([self.data_dir(member)]).args(["--identity"]).args([certificates]).args(options);
        Ok(start)
    }

    /// The group by its native side.
    ///
    /// # Errors
    /// A file of the identity is missing or unreadable.
    pub fn native(&self, group: &Group) -> anyhow::Result<System> {
        let addresses: Vec<SocketAddr> = self.members.iter().map(|member| member.native).collect();
        system("ours", &addresses, Speech::Native, group, false, &self.identity)
    }

    fn by_etcds_api(&self, group: &Group) -> anyhow::Result<System> {
        let addresses: Vec<SocketAddr> = self.members.iter().map(|member| member.grpc).collect();
        system("ours by etcd's API", &addresses, Speech::Grpc, group, false, &self.identity)
    }
}

/// Starts three members of ours, and returns them by their native side and by etcd's API.
///
/// # Errors
/// A process does not start.
pub fn start_ours(program: &Path, directory: &Path, identity: &Identity, history_bytes: u64) -> anyhow::Result<(Group, Vec<System>)> {
    let plan = Plan::new(program, directory, identity)?;
    let mut group = Group::default();
    let options = ["--history-bytes".to_owned(), history_bytes.to_string()];
    (0..MEMBERS).try_for_each(|member| group.add(plan.start(member, &options)?))?;
    let systems = vec![plan.native(&group)?, plan.by_etcds_api(&group)?];
    Ok((group, systems))
}

/// Starts three members of etcd.
///
/// # Errors
/// A process does not start.
pub fn start_etcd(program: &Path, directory: &Path, identity: &Identity) -> anyhow::Result<(Group, System)> {
    let (peers, clients) = (free_addresses::<MEMBERS>()?, free_addresses::<MEMBERS>()?);
    let cluster = (1..).zip(&peers).map(|(number, address): (usize, _)| format!("m{number}=https://{address}")).collect::<Vec<_>>();
    let mut group = Group::default();
    for (number, (peer, client)) in (1..).zip(peers.iter().zip(&clients)) {
        let number: usize = number;
        let (peer, client) = (format!("https://{peer}"), format!("https://{client}"));
        let mut start = Start::new(program, directory.join(format!("etcd-{number}.log")));
        start.args(["--name", &format!("m{number}"), "--initial-cluster", &cluster.join(","), "--log-level", "error"]);
        start.args(["--quota-backend-bytes", ETCD_QUOTA_BYTES, "--client-cert-auth", "--peer-client-cert-auth", "--data-dir"]);
        start.args([directory.join(format!("etcd-{number}"))]);
        for (option, url) in [("listen-client-urls", &client), ("advertise-client-urls", &client)] {
            start.args([format!("--{option}"), url.clone()]);
        }
        for (option, url) in [("listen-peer-urls", &peer), ("initial-advertise-peer-urls", &peer)] {
            start.args([format!("--{option}"), url.clone()]);
        }
        for side in ["", "peer-"] {
            for (option, file) in
                [("trusted-ca-file", &identity.authority), ("cert-file", &identity.certificate), ("key-file", &identity.key)]
            {
                start.args([format!("--{side}{option}")]).args([file]);
            }
        }
        group.add(start)?;
    }
    let system = system("etcd", &clients, Speech::Grpc, &group, true, identity)?;
    Ok((group, system))
}

fn system(
    name: &'static str,
    addresses: &[SocketAddr],
    speech: Speech,
    group: &Group,
    keeps_all_history: bool,
    identity: &Identity,
) -> anyhow::Result<System> {
    let alpn: &[&[u8]] = if speech == Speech::Grpc { &[ALPN_H2] } else { &[] };
    let tls = identity.client(alpn)?;
    let endpoints = addresses.iter().map(|address| Endpoint { address: *address, speech, tls: std::sync::Arc::clone(&tls) }).collect();
    Ok(System { name, endpoints, pids: group.pids(), keeps_all_history })
}

/// Addresses on loopback that nobody uses now.
fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let listeners = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    addresses.try_into().map_err(|_few| anyhow::anyhow!("there are no free addresses"))
}
