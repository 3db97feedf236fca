//! A new member joins: it receives everything there is while clients write, and nothing of what they wrote is missing afterwards.

use std::time::Duration;

use anyhow::ensure;

use super::cluster::{Cluster, Ground};
use super::writing::{Writes, Writing, write_for};
use crate::rounds;
use crate::traffic::{ADDED, Mix};

/// What clients write meanwhile.
pub const WRITTEN: Mix = Mix::Add { value_bytes: 256 };
/// Writes on the way meanwhile.
pub const IN_FLIGHT: usize = 16;

/// How a new member joined.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    /// Bytes of the state on disk that it received.
    pub state_bytes: u64,
    /// From its start to its first linearizable answer.
    pub current: Duration,
    /// From its start until it votes.
    pub votes: Duration,
    /// The writes meanwhile, all of which every member has afterwards.
    pub writes: Writes,
    /// Elections meanwhile.
    pub elections: u64,
}

/// Measures a group of its own, with so many objects.
///
/// # Errors
/// A process ends, a call fails, or something is lost.
pub async fn measure(ground: &Ground, objects: u64, value_bytes: usize, quiet: Duration) -> anyhow::Result<(Writes, Join)> {
    let mut cluster = Cluster::begin(ground, "install", &[]).await?;
    rounds::fill(&cluster.system, objects, value_bytes).await?;
    let measured = join(&mut cluster, quiet).await?;
    cluster.end().await?;
    Ok(measured)
}

/// Writes for a while, then has a new member join while clients write: the writes before, and how it joined.
///
/// # Errors
/// A process ends, a call fails, or something is lost.
pub async fn join(cluster: &mut Cluster, quiet: Duration) -> anyhow::Result<(Writes, Join)> {
    let before = write_for(&cluster.system, Mix::Put { value_bytes: 256 }, IN_FLIGHT, quiet).await?;
    let term = cluster.account().await?.term;
    let writing = Writing::begin(&cluster.system, WRITTEN, IN_FLIGHT).await?;
    let (member, start) = cluster.add()?;
    cluster.take_in(member).await?;
    let current = cluster.until_current(member, start).await?;
    let state_bytes = cluster.data_bytes(member, "state")?;
    cluster.until_account(member, |account| account.votes).await?;
    let votes = start.elapsed();
    let writes = writing.end().await?;
    let elections = cluster.account().await?.term - term;
    let added = cluster.agreed(ADDED).await?;
    ensure!(added.keys == writes.acknowledged, "{} writes were acknowledged, but there are {}", writes.acknowledged, added.keys);
    cluster.agreed("").await?;
    Ok((before, Join { state_bytes, current, votes, writes, elections }))
}
