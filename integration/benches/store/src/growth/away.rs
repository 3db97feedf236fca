//! A member that was away while the others wrote: how soon it has everything again.

use std::time::Duration;

use anyhow::ensure;

use super::cluster::{Cluster, Ground};
use super::install::{IN_FLIGHT, WRITTEN};
use super::writing::{Writes, Writing};
use crate::rounds;
use crate::traffic::Mix;

const OBJECTS: u64 = 1_000;
const VALUE_BYTES: usize = 256;
/// Writes on the way while it is away.
const MISSING_IN_FLIGHT: usize = 256;

/// How a member came back.
#[derive(Clone, Copy, Debug)]
pub struct Return {
    /// Entries that it had missed.
    pub missed: u64,
    /// From its start until it has applied everything, while nobody writes.
    pub quiet: Duration,
    /// As `quiet`, while clients write.
    pub busy: Duration,
    /// Those writes.
    pub writes: Writes,
}

/// Measures a group of its own, whose member misses so many writes, twice.
///
/// # Errors
/// A process ends, or a call fails.
pub async fn measure(ground: &Ground, missed: u64) -> anyhow::Result<Return> {
    let mut cluster = Cluster::begin(ground, "away", &[]).await?;
    rounds::fill(&cluster.system, OBJECTS, VALUE_BYTES).await?;
    let follower = cluster.follower().await?;
    let leader = cluster.leader().await?;
    let really_missed = miss(&mut cluster, follower, leader, missed).await?;
    let start = cluster.start(follower)?;
    cluster.until_level(follower, leader).await?;
    let quiet = start.elapsed();
    miss(&mut cluster, follower, leader, missed).await?;
    let writing = Writing::begin(&cluster.system, WRITTEN, IN_FLIGHT).await?;
    let start = cluster.start(follower)?;
    cluster.until_level(follower, leader).await?;
    let busy = start.elapsed();
    let writes = writing.end().await?;
    cluster.agreed("").await?;
    cluster.end().await?;
    Ok(Return { missed: really_missed, quiet, busy, writes })
}

/// Kills the member, and writes until it lacks so many entries; returns how many.
async fn miss(cluster: &mut Cluster, follower: usize, leader: usize, missed: u64) -> anyhow::Result<u64> {
    let before = cluster.account_of(follower).await?.applied;
    cluster.kill(follower).await?;
    let writing = Writing::begin(&cluster.system, Mix::Put { value_bytes: VALUE_BYTES }, MISSING_IN_FLIGHT).await?;
    cluster.until_account(leader, |account| account.applied >= before + missed).await?;
    writing.end().await?;
    let lacks = cluster.account_of(leader).await?.applied - before;
    ensure!(lacks >= missed, "it lacks only {lacks} entries");
    Ok(lacks)
}
