//! A long history: how soon a member with many revisions is back, and what writes notice when all of them are forgotten at once.

use std::time::Duration;

use anyhow::ensure;

use super::Scale;
use super::cluster::{Cluster, Ground};
use super::sizes::restart;
use super::writing::{Writes, Writing, write_for};
use crate::clock;
use crate::rounds::{self, count};
use crate::traffic::Mix;
use crate::usage::Usage;

const VALUE_BYTES: usize = 256;
/// What is written while history is forgotten, and before.
const WRITTEN: Mix = Mix::Put { value_bytes: 1 << 10 };
/// Writes on the way.
pub const IN_FLIGHT: usize = 64;
/// Nothing is forgotten.
const KEEP_ALL: [&str; 4] = ["--history-bytes", "1099511627776", "--history-seconds", "86400"];
/// Everything is forgotten but the last writes.
const KEEP_LITTLE: [&str; 4] = ["--history-bytes", "1048576", "--history-seconds", "86400"];

/// What was measured with a long history.
#[derive(Clone, Copy, Debug)]
pub struct History {
    /// Changes in the history.
    pub revisions: u64,
    /// Keys that they belong to.
    pub objects: u64,
    /// Bytes of the state on disk.
    pub state_bytes: u64,
    /// From the start of a follower that was stopped orderly to its first linearizable answer.
    pub stopped: Duration,
    /// As `stopped`, of one that was killed.
    pub killed: Duration,
    /// Memory of a member afterwards.
    pub resident_bytes: u64,
    /// Writes while nothing is forgotten.
    pub quiet: Writes,
    /// Writes while all of it is.
    pub forgetting: Writes,
    /// How many changes were forgotten per second.
    pub forgotten_per_second: f64,
    /// Elections meanwhile.
    pub elections: u64,
}

/// Measures a group of its own.
///
/// # Errors
/// A process ends, or a call fails.
pub async fn measure(ground: &Ground, scale: &Scale) -> anyhow::Result<History> {
    let mut cluster = Cluster::begin(ground, "history", &KEEP_ALL.map(str::to_owned)).await?;
    for _ in 0..scale.history_rounds {
        rounds::fill(&cluster.system, scale.history_objects, VALUE_BYTES).await?;
    }
    let account = cluster.account().await?;
    ensure!(account.compacted == 0, "history was forgotten already: {account:?}");
    let state_bytes = cluster.data_bytes(cluster.leader().await?, "state")?;
    let (stopped, killed) = restart(&mut cluster).await?;
    let resident_bytes = Usage::of(&cluster.system.pids)?.resident_bytes / cluster.members() as u64;
    let quiet = write_for(&cluster.system, WRITTEN, IN_FLIGHT, scale.quiet).await?;
    let forgetting = forget(&mut cluster).await?;
    cluster.agreed("").await?;
    cluster.end().await?;
    Ok(History {
        revisions: scale.history_objects * scale.history_rounds,
        objects: scale.history_objects,
        state_bytes,
        stopped,
        killed,
        resident_bytes,
        quiet,
        forgetting: forgetting.writes,
        forgotten_per_second: forgetting.per_second,
        elections: forgetting.elections,
    })
}

/// How the history was forgotten.
struct Forgetting {
    writes: Writes,
    per_second: f64,
    elections: u64,
}

/// Has the group forget its history while clients write, from the first forgotten change to the last one that there was when it began.
async fn forget(cluster: &mut Cluster) -> anyhow::Result<Forgetting> {
    cluster.restart(&KEEP_LITTLE.map(str::to_owned)).await?;
    let leader = cluster.leader().await?;
    let before = cluster.account().await?;
    cluster.until_account(leader, |account| account.compacted > 0).await?;
    let start = clock::now();
    let begun = cluster.account().await?;
    let writing = Writing::begin(&cluster.system, WRITTEN, IN_FLIGHT).await?;
    cluster.until_account(leader, |account| account.compacted >= before.revision).await?;
    let elapsed = start.elapsed();
    let writes = writing.end().await?;
    let elections = cluster.account().await?.term - before.term;
    let forgotten = before.revision.saturating_sub(begun.compacted);
    Ok(Forgetting { writes, per_second: count(forgotten) / elapsed.as_secs_f64(), elections })
}
