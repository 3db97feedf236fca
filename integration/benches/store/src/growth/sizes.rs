//! The same with more and more objects: speed, memory, how soon a member is back, and a new one that joins.

use std::time::Duration;

use super::cluster::{Cluster, Ground};
use super::install::{self, Join};
use super::writing::Writes;
use crate::rounds::{self, Length, OBJECT_BYTES, Round, count};
use crate::rows;
use crate::usage::Usage;

/// The rows that are measured at every size.
pub const ROWS: [&str; 3] = ["put 1 KiB, 64 in flight", "get from the leader, 64 in flight", "range of 1,000 keys, 16 in flight"];
const LENGTH: Length = Length { warm_up: Duration::from_millis(500), window: Duration::from_secs(3) };

/// What was measured with one number of objects.
#[derive(Clone, Debug)]
pub struct Size {
    /// How many, of [`OBJECT_BYTES`].
    pub objects: u64,
    /// With 256 writes on the way.
    pub created_per_second: f64,
    /// Memory of one member, without what it has when it is empty.
    pub bytes_per_object: f64,
    /// In the order of [`ROWS`].
    pub rows: Vec<Round>,
    /// From the start of a follower that was stopped orderly to its first linearizable answer.
    pub stopped: Duration,
    /// As `stopped`, of one that was killed.
    pub killed: Duration,
    /// A new member.
    pub join: Join,
    /// Writes while nothing else happens.
    pub quiet: Writes,
}

/// Measures a group of its own.
///
/// # Errors
/// A process ends, or a call fails.
pub async fn measure(ground: &Ground, objects: u64, quiet: Duration) -> anyhow::Result<Size> {
    let mut cluster = Cluster::begin(ground, &format!("size-{objects}"), &[]).await?;
    let members = count(cluster.members() as u64);
    let empty = Usage::of(&cluster.system.pids)?;
    let (created_per_second, full) = rounds::fill(&cluster.system, objects, OBJECT_BYTES).await?;
    let mut measured = Vec::new();
    for row in rows::all().iter().filter(|row| ROWS.contains(&row.name.as_str())) {
        measured.push(rounds::measure(&cluster.system, row, objects, LENGTH, objects).await?);
    }
    let (stopped, killed) = restart(&mut cluster).await?;
    let (quiet, join) = install::join(&mut cluster, quiet).await?;
    cluster.end().await?;
    Ok(Size {
        objects,
        created_per_second,
        bytes_per_object: count(full.resident_bytes.saturating_sub(empty.resident_bytes)) / members / count(objects),
        rows: measured,
        stopped,
        killed,
        join,
        quiet,
    })
}

/// How long a follower takes from its start to its first linearizable answer: stopped orderly, and killed.
///
/// # Errors
/// It does not come back.
pub async fn restart(cluster: &mut Cluster) -> anyhow::Result<(Duration, Duration)> {
    let follower = cluster.follower().await?;
    cluster.stop(follower).await?;
    let start = cluster.start(follower)?;
    let stopped = cluster.until_current(follower, start).await?;
    cluster.system.ready().await?;
    cluster.kill(follower).await?;
    let start = cluster.start(follower)?;
    let killed = cluster.until_current(follower, start).await?;
    cluster.system.ready().await?;
    Ok((stopped, killed))
}
