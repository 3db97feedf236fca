//! What is measured: groups of three processes on loopback, on the same disk, with TLS and client certificates everywhere.

use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};
use trierarch_etcd_facade::tls::{ALPN_H2, Identity};

use crate::clock;
use crate::codec::{Call, Reply};
use crate::rows::Asked;
use crate::traffic::{Endpoint, Link, Speech};

/// Members of each group.
const MEMBERS: usize = 3;
/// How long a group may take until all its members vote.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How often a member is asked whether it is ready.
const START_PAUSE: Duration = Duration::from_millis(50);
/// More than a run writes, so that the default limit of 2 GiB does not end it.
const ETCD_QUOTA_BYTES: &str = "17179869184";

/// Three processes; they end when this is dropped.
pub struct Group {
    members: Vec<(Start, Child)>,
}

/// How a process is started, again and again.
struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
}

impl Group {
    /// The processes' ids.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|(_, child)| child.id()).collect()
    }

    /// Kills a member, as a crash does.
    ///
    /// # Errors
    /// There is none, or it has ended by itself.
    pub async fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        let (_, child) = self.members.get_mut(member).context("no such member")?;
        Ok(child.kill().await?)
    }

    /// Starts a member again.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub fn start(&mut self, member: usize) -> anyhow::Result<()> {
        let (start, child) = self.members.get_mut(member).context("no such member")?;
        *child = start.spawn()?;
        Ok(())
    }
}

impl Start {
    fn new(program: &Path, log: PathBuf) -> Self {
        Self { program: program.to_owned(), arguments: Vec::new(), log }
    }

    fn args<A: Into<OsString>>(&mut self, arguments: impl IntoIterator<Item = A>) -> &mut Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        command.spawn().with_context(|| format!("cannot start {command:?}"))
    }
}

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
    /// No member leads at the moment.
    pub async fn member(&self, asked: Asked) -> anyhow::Result<&Endpoint> {
        for endpoint in &self.endpoints {
            if let Reply::Status { leads, .. } = Link::connect(endpoint).await?.ask(&Call::Status).await?
                && leads == (asked == Asked::Leader)
            {
                return Ok(endpoint);
            }
        }
        bail!("{} has no such member: {asked:?}", self.name)
    }

    /// Forgets the history, if it does not do that by itself.
    ///
    /// # Errors
    /// The leader does not answer.
    pub async fn compact(&self) -> anyhow::Result<()> {
        if !self.keeps_all_history {
            return Ok(());
        }
        let mut link = Link::connect(self.member(Asked::Leader).await?).await?;
        let put = Call::Put { key: "bench/compact".into(), value: "".into() };
        let Reply::Done { revision } = link.ask(&put).await? else { bail!("the put before a compaction failed") };
        match link.ask(&Call::Compact { revision }).await? {
            Reply::Done { .. } => Ok(()),
            other => bail!("the compaction failed: {other:?}"),
        }
    }

    /// Waits until one member leads and all vote.
    ///
    /// # Errors
    /// They do not within [`START_PATIENCE`].
    pub async fn ready(&self) -> anyhow::Result<()> {
        let start = clock::now();
        loop {
            let mut leaders = 0;
            for endpoint in &self.endpoints {
                if let Ok(mut link) = Link::connect(endpoint).await
                    && let Ok(Ok(Reply::Status { leads, voters: MEMBERS })) =
                        tokio::time::timeout(START_PAUSE * 20, link.ask(&Call::Status)).await
                {
                    leaders += usize::from(leads);
                }
            }
            if leaders == 1 {
                return Ok(());
            }
            if start.elapsed() > START_PATIENCE {
                bail!("{} is not ready after {} s; its logs are beside its data", self.name, START_PATIENCE.as_secs());
            }
            tokio::time::sleep(START_PAUSE).await;
        }
    }
}

/// Starts three members of ours, and returns them by their native side and by etcd's API.
///
/// # Errors
/// A process does not start.
pub fn start_ours(program: &Path, directory: &Path, identity: &Identity) -> anyhow::Result<(Group, Vec<System>)> {
    let (peers, native, grpc) = (free_addresses()?, free_addresses()?, free_addresses()?);
    let numbered = |addresses: &[SocketAddr]| {
        (1..).zip(addresses).map(|(number, address): (usize, _)| format!("{number}={address}")).collect::<Vec<_>>().join(",")
    };
    let certificates = identity.authority.parent().context("certificates are in a directory")?;
    let mut members = Vec::new();
    for number in 1..=MEMBERS {
        let mut start = Start::new(program, directory.join(format!("ours-{number}.log")));
        start.args(["--member", &number.to_string(), "--peers", &numbered(&peers), "--clients", &numbered(&grpc)]);
        start.args(["--native", &numbered(&native), "--data-dir"]).args([directory.join(format!("ours-{number}"))]);
        start.args(["--identity"]).args([certificates]);
        let child = start.spawn()?;
        members.push((start, child));
    }
    let group = Group { members };
    let systems = [("ours", native, Speech::Native), ("ours by etcd's API", grpc, Speech::Grpc)];
    let systems = systems.map(|(name, addresses, speech)| system(name, &addresses, speech, &group, false, identity));
    let systems = systems.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    Ok((group, systems))
}

/// Starts three members of etcd.
///
/// # Errors
/// A process does not start.
pub fn start_etcd(program: &Path, directory: &Path, identity: &Identity) -> anyhow::Result<(Group, System)> {
    let (peers, clients) = (free_addresses()?, free_addresses()?);
    let cluster = (1..).zip(&peers).map(|(number, address): (usize, _)| format!("m{number}=https://{address}")).collect::<Vec<_>>();
    let mut members = Vec::new();
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
        let child = start.spawn()?;
        members.push((start, child));
    }
    let group = Group { members };
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
fn free_addresses() -> anyhow::Result<Vec<SocketAddr>> {
    let listeners = (0..MEMBERS).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?)
}
