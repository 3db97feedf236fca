//! Ours alone, as it grows: memory and speed by the number of objects, how long a member takes to start and to catch up, and what a group
//! costs that has nothing to do.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use trierarch_etcd_facade::tls::Identity;

use crate::clock;
use crate::codec::{Call, Reply};
use crate::rounds::{self, Length, OBJECT_BYTES, Round, count};
use crate::rows::{self, Asked, spread};
use crate::systems::{self, System};
use crate::traffic::{Endpoint, Link, Mix, OBJECTS, Window, Workload, closed_loop};
use crate::usage::Usage;

/// The rows that are measured at every size.
const ROWS: [&str; 3] = ["put 1 KiB, 64 in flight", "get from the leader, 64 in flight", "range of 1,000 keys, 16 in flight"];
const LENGTH: Length = Length { warm_up: Duration::from_millis(500), window: Duration::from_secs(3) };
/// Within this a killed member answers again, or the run has failed.
const RESTART_PATIENCE: Duration = Duration::from_secs(120);
const RESTART_PAUSE: Duration = Duration::from_millis(5);
/// Writes that a member misses, so many that the log for it is gone: it needs a snapshot.
const MISSED: u64 = 40_000;

/// What was measured with one number of objects.
pub struct Figures {
    objects: u64,
    created_per_second: f64,
    /// Of one member, without what it has when it is empty.
    bytes_per_object: f64,
    rows: Vec<Round>,
    /// From the start of a killed follower to its first linearizable answer.
    restart: Duration,
    /// As `restart`, of one that needs a snapshot, while others write.
    rejoin: Duration,
    /// The longest a write took meanwhile.
    longest_write_ms: f64,
    /// Of one member that has nothing to do.
    idle_percent: f64,
    /// By all of them.
    idle_written_bytes: u64,
}

/// Measures a group of its own, in `directory`.
///
/// # Errors
/// A process ends, a call fails, or leadership moves while a member catches up.
pub async fn measure(program: &Path, directory: &Path, identity: &Identity, objects: u64, idle: Duration) -> anyhow::Result<Figures> {
    let (mut group, systems) = systems::start_ours(program, directory, identity)?;
    let mut system = systems.into_iter().next().context("ours is the first")?;
    system.ready().await?;
    let empty = Usage::of(&system.pids)?;
    let (created_per_second, full) = rounds::fill(&system, objects).await?;
    let mut measured = Vec::new();
    for row in rows::all().iter().filter(|row| ROWS.contains(&row.name.as_str())) {
        measured.push(rounds::measure(&system, row, objects, LENGTH, objects).await?);
    }
    let follower = system.member(Asked::Follower).await?.clone();
    let number = system.endpoints.iter().position(|endpoint| endpoint.address == follower.address).context("it is one of them")?;
    group.kill(number).await?;
    group.start(number)?;
    let restart = until_current(&follower).await?;
    group.kill(number).await?;
    system.pids = group.pids();
    miss(&system).await?;
    let leader = system.member(Asked::Leader).await?.address;
    group.start(number)?;
    let (rejoin, longest_write_ms) = tokio::try_join!(until_current(&follower), longest_write(&system))?;
    ensure!(system.member(Asked::Leader).await?.address == leader, "leadership moved while a member caught up");
    system.pids = group.pids();
    system.ready().await?;
    tokio::time::sleep(LENGTH.window).await;
    let before = Usage::of(&system.pids)?;
    tokio::time::sleep(idle).await;
    let used = Usage::of(&system.pids)?.since(&before);
    let members = count(system.pids.len() as u64);
    Ok(Figures {
        objects,
        created_per_second,
        bytes_per_object: count(full.resident_bytes.saturating_sub(empty.resident_bytes)) / members / count(objects),
        rows: measured,
        restart,
        rejoin,
        longest_write_ms,
        idle_percent: 100.0 * used.cpu_seconds / members / idle.as_secs_f64(),
        idle_written_bytes: used.written_bytes,
    })
}

/// How long a member takes until it answers a linearizable read.
async fn until_current(endpoint: &Endpoint) -> anyhow::Result<Duration> {
    let start = clock::now();
    while start.elapsed() < RESTART_PATIENCE {
        let asking = async {
            let key = format!("{OBJECTS}{:08}", 0).into();
            Link::connect(endpoint).await?.ask(&Call::Get { key, linearizable: true }).await
        };
        if let Ok(Ok(Reply::Found { .. })) = tokio::time::timeout(RESTART_PATIENCE, asking).await {
            return Ok(start.elapsed());
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
    anyhow::bail!("{} does not come back", endpoint.address)
}

/// Writes while a member is away.
async fn miss(system: &System) -> anyhow::Result<()> {
    let mut missed = 0;
    while missed < MISSED {
        missed += puts(system, Duration::from_secs(1)).await?.latencies.len();
    }
    Ok(())
}

/// Writes for a while; the longest one, in milliseconds.
async fn longest_write(system: &System) -> anyhow::Result<f64> {
    Ok(count(puts(system, LENGTH.window * 2).await?.latencies.max()) / 1000.0)
}

async fn puts(system: &System, time: Duration) -> anyhow::Result<crate::traffic::Measured> {
    let endpoint = system.member(Asked::Leader).await?;
    let (connections, depth) = spread(64);
    let mut ready = Vec::new();
    for connection in 0..connections as u64 {
        let workload = Workload::new(Mix::Put { value_bytes: OBJECT_BYTES }, 0, connection, std::sync::Arc::default());
        ready.push((Link::connect(endpoint).await?, workload));
    }
    let start: Instant = clock::now();
    let window = Window { start, end: start + time };
    rounds::joined(ready.into_iter().map(|(link, workload)| closed_loop(link, workload, depth, window)).collect()).await
}

/// All figures as a Markdown table.
pub fn table(figures: &[Figures]) -> String {
    let heads: Vec<String> = figures.iter().map(|one| format!("{} objects", one.objects)).collect();
    let mut text = format!("| what | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(figures.len()));
    let mut line = |what: &str, cell: &dyn Fn(&Figures) -> String| {
        let cells: Vec<String> = figures.iter().map(cell).collect();
        let _infallible = writeln!(text, "| {what} | {} |", cells.join(" | "));
    };
    line("created per second (1 KiB)", &|one| format!("{:.0}", one.created_per_second));
    line("memory of a member per object, bytes", &|one| format!("{:.0}", one.bytes_per_object));
    for (place, name) in ROWS.iter().enumerate() {
        line(&format!("{name}: per second, p99 ms"), &|one| {
            one.rows.get(place).map_or_else(String::new, |round| format!("{:.0}, {:.1}", round.per_second, round.p99_ms))
        });
    }
    line("a killed follower answers linearizable reads again after, s", &|one| format!("{:.2}", one.restart.as_secs_f64()));
    line("as that, but needing a snapshot while others write, s", &|one| format!("{:.2}", one.rejoin.as_secs_f64()));
    line("the longest write meanwhile, ms", &|one| format!("{:.0}", one.longest_write_ms));
    line("idle: CPU of a member, % of a core", &|one| format!("{:.2}", one.idle_percent));
    line("idle: bytes written by all members", &|one| one.idle_written_bytes.to_string());
    text
}
