//! A group that has nothing to do: what it costs all the same.

use std::time::Duration;

use anyhow::Context as _;

use super::cluster::{Cluster, Ground};
use crate::rounds::{self, OBJECT_BYTES};
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
    /// Syncs of its log.
    pub log_syncs: u64,
}

/// Measures a group of its own for so long, each member apart.
///
/// # Errors
/// A process ends, or never becomes still.
pub async fn measure(ground: &Ground, time: Duration) -> anyhow::Result<Vec<Idle>> {
    let cluster = Cluster::begin(ground, "idle", &[]).await?;
    rounds::fill(&cluster.system, OBJECTS, OBJECT_BYTES).await?;
    until_still(&cluster).await?;
    let leader = cluster.leader().await?;
    let (used, syncs) = (used(&cluster)?, syncs(&cluster).await?);
    tokio::time::sleep(time).await;
    let (used_after, syncs_after) = (self::used(&cluster)?, self::syncs(&cluster).await?);
    let each = used_after.iter().zip(&used).zip(syncs_after.iter().zip(&syncs)).enumerate();
    let idle = each.map(|(member, ((after, before), (syncs_after, syncs)))| {
        let used = after.since(before);
        Idle {
            leads: member == leader,
            cpu_percent: 100.0 * used.cpu_seconds / time.as_secs_f64(),
            written_bytes: used.written_bytes,
            log_syncs: syncs_after - syncs,
        }
    });
    let idle = idle.collect();
    cluster.end().await?;
    Ok(idle)
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

fn used(cluster: &Cluster) -> anyhow::Result<Vec<Usage>> {
    cluster.system.pids.iter().map(|pid| Usage::of(&[*pid])).collect()
}

async fn syncs(cluster: &Cluster) -> anyhow::Result<Vec<u64>> {
    let mut syncs = Vec::new();
    for member in 0..cluster.members() {
        syncs.push(cluster.account_of(member).await.with_context(|| format!("member {}", member + 1))?.log_syncs);
    }
    Ok(syncs)
}
