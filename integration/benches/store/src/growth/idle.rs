//! A group that has nothing to do: what it costs all the same, and what one of etcd does.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use trierarch_etcd_facade::tls::Identity;

use super::cluster::{Cluster, Ground};
use crate::rounds::{self, OBJECT_BYTES};
use crate::rows::Asked;
use crate::systems::{self, System};
use crate::usage::Usage;

/// What was there before.
const OBJECTS: u64 = 1_000;
/// Nothing is written for so long before it counts.
const STILL: Duration = Duration::from_secs(5);
/// It becomes still within this many looks.
const LOOKS: usize = 24;

/// What a member did while there was nothing to do.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Whether it led.
    pub leads: bool,
    /// CPU, percent of a core.
    pub cpu_percent: f64,
    /// Bytes it sent to the disk.
    pub written_bytes: u64,
}

/// What groups with nothing to do did.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// For so long, each.
    pub time: Duration,
    /// Members of ours.
    pub ours: Vec<Idle>,
    /// Syncs of the logs of ours.
    pub log_syncs: u64,
    /// Members of etcd, if it was measured.
    pub etcd: Vec<Idle>,
}

/// Measures a group of its own for so long, each member apart, and one of etcd afterwards if there is its program.
///
/// # Errors
/// A process ends, or ours never becomes still.
pub async fn measure(ground: &Ground, etcd: Option<&Path>, time: Duration) -> anyhow::Result<Groups> {
    let cluster = Cluster::begin(ground, "idle", &[]).await?;
    rounds::fill(&cluster.system, OBJECTS, OBJECT_BYTES).await?;
    until_still(&cluster).await?;
    let syncs_before = syncs(&cluster).await?;
    let ours = members(&cluster.system, time).await?;
    let log_syncs = syncs(&cluster).await? - syncs_before;
    cluster.end().await?;
    let etcd = match etcd {
        Some(program) => measure_etcd(program, &ground.directory.join("etcd"), time).await.context("etcd")?,
        None => Vec::new(),
    };
    Ok(Groups { time, ours, log_syncs, etcd })
}

async fn measure_etcd(program: &Path, directory: &Path, time: Duration) -> anyhow::Result<Vec<Idle>> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let (group, system) = systems::start_etcd(program, directory, &Identity::make(directory)?)?;
    system.ready().await?;
    rounds::fill(&system, OBJECTS, OBJECT_BYTES).await?;
    // it writes now and then whatever happens, so there is nothing to wait for but what the writes have left to do
    tokio::time::sleep(STILL).await;
    let idle = members(&system, time).await?;
    group.end().await?;
    std::fs::remove_dir_all(directory)?;
    Ok(idle)
}

/// What the members of a group do from now on.
async fn members(system: &System, time: Duration) -> anyhow::Result<Vec<Idle>> {
    let leader = system.member(Asked::Leader).await?.address;
    let used = || system.pids.iter().map(|pid| Usage::of(&[*pid])).collect::<anyhow::Result<Vec<Usage>>>();
    let before = used()?;
    tokio::time::sleep(time).await;
    let each = used()?.into_iter().zip(before).zip(&system.endpoints).map(|((after, before), endpoint)| {
        let used = after.since(&before);
        Idle {
            leads: endpoint.address == leader,
            cpu_percent: 100.0 * used.cpu_seconds / time.as_secs_f64(),
            written_bytes: used.written_bytes,
        }
    });
    Ok(each.collect())
}

async fn until_still(cluster: &Cluster) -> anyhow::Result<()> {
    for _ in 0..LOOKS {
        let before = Usage::of(&cluster.system.pids)?;
        tokio::time::sleep(STILL).await;
        if Usage::of(&cluster.system.pids)?.since(&before).written_bytes == 0 {
            return Ok(());
        }
    }
    anyhow::bail!("the group goes on writing")
}

/// Of all members' logs, since they started.
async fn syncs(cluster: &Cluster) -> anyhow::Result<u64> {
    let mut syncs = 0;
    for member in 0..cluster.members() {
        syncs += cluster.account_of(member).await.with_context(|| format!("member {}", member + 1))?.log_syncs;
    }
    Ok(syncs)
}
