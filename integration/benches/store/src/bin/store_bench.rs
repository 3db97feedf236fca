//! Runs the rows on all systems in turns, prints the tables and writes the page.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use trierarch_etcd_facade::tls::Identity;
use trierarch_store_bench::keeping::{self, Kept};
use trierarch_store_bench::report::{Filled, Line, Page};
use trierarch_store_bench::rounds::{self, Length, Round};
use trierarch_store_bench::rows::{self, Row};
use trierarch_store_bench::systems::{self, System};
use trierarch_store_bench::{clock, floor, relay};

/// The store beside etcd.
#[derive(Parser)]
struct Args {
    /// Only rows whose names contain one of these, such as "put 1 KiB;watchers".
    #[arg(long, value_delimiter = ';')]
    rows: Vec<String>,
    /// Only systems with these names: "ours", "ours by etcd's API", "etcd".
    #[arg(long, value_delimiter = ';')]
    systems: Vec<String>,
    /// Rounds of each row on each system.
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Seconds of each round that count.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Objects that exist before the first row.
    #[arg(long, default_value_t = 100_000)]
    objects: u64,
    /// Two rounds of one second, 20,000 objects.
    #[arg(long)]
    quick: bool,
    /// So much of its history each system keeps, in bytes: 268435456 is ours' own default. Without it none forgets within a row.
    #[arg(long)]
    history_bytes: Option<u64>,
    /// etcd's program.
    #[arg(long)]
    etcd: PathBuf,
    /// Our member's program.
    #[arg(long)]
    member: PathBuf,
    /// Where data goes; the disk of this directory is measured. It is made, and removed afterwards.
    #[arg(long)]
    directory: PathBuf,
    /// Where the page goes.
    #[arg(long)]
    page: Option<PathBuf>,
    /// The page's paragraph on machine and versions.
    #[arg(long, default_value = "")]
    about: String,
}

/// Not counted at the start of each round.
const WARM_UP: Duration = Duration::from_millis(500);
/// How often what failed is tried again, and when.
const RETRIES: usize = 2;
const RETRY_PAUSE: Duration = Duration::from_secs(3);
const FLOOR: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    if args.quick {
        (args.rounds, args.seconds, args.objects) = (2, 1.0, 20_000);
    }
    std::fs::create_dir_all(&args.directory).with_context(|| format!("cannot make {}", args.directory.display()))?;
    let page = run(&args).await;
    std::fs::remove_dir_all(&args.directory)?;
    let text = page?.text();
    print(&text);
    if let Some(path) = &args.page {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

async fn run(args: &Args) -> anyhow::Result<Page> {
    let rows: Vec<Row> = rows::all().into_iter().filter(|row| wanted(&args.rows, &row.name)).collect();
    if rows.is_empty() {
        bail!("no row's name contains any of {:?}", args.rows);
    }
    let identity = Identity::make(&args.directory)?;
    let floor_before = floor::measure(&args.directory, FLOOR)?;
    let ways_before = relay::measure(&args.directory, &identity, FLOOR)?;
    let history_bytes = args.history_bytes.unwrap_or(systems::WHOLE_HISTORY_BYTES);
    let (mut ours, mut systems) = systems::start_ours(&args.member, &args.directory, &identity, history_bytes)?;
    let (_etcd, etcd) = systems::start_etcd(&args.etcd, &args.directory, &identity)?;
    systems.push(etcd);
    systems.retain(|system| args.systems.is_empty() || args.systems.iter().any(|name| name == system.name));
    for system in &systems {
        system.ready().await?;
    }
    let mut filled = Vec::new();
    for (place, system) in systems.iter().enumerate() {
        // the same processes by another protocol hold the objects already
        if systems.iter().take(place).any(|earlier| earlier.pids == system.pids) {
            continue;
        }
        let (per_second, used) = patiently(system.name, async || rounds::fill(system, args.objects, rounds::OBJECT_BYTES).await).await?;
        progress(&format!("{}: {} objects, {per_second:.0} a second", system.name, args.objects));
        filled.push(Filled { system: system.name, per_second, used });
    }
    let mut lines = Vec::new();
    let mut histories: Vec<Kept> = systems.iter().map(|_| Kept::new(history_bytes)).collect();
    for (number, row) in (1_u64..).zip(&rows) {
        lines.push(line(args, &systems, &mut histories, row, number).await.with_context(|| format!("in the row {:?}", row.name))?);
    }
    let floor_after = floor::measure(&args.directory, FLOOR)?;
    let ways_after = relay::measure(&args.directory, &identity, FLOOR)?;
    for member in 0..ours.pids().len() {
        // what was measured is not lost with it
        if let Err(error) = ours.stop(member).await {
            progress(&format!("ours: {error}"));
        }
    }
    Ok(Page {
        about: args.about.clone(),
        floor: [floor_before, floor_after],
        ways: [ways_before, ways_after],
        objects: args.objects,
        filled,
        lines,
    })
}

/// All rounds of one row, the systems in turns.
async fn line(args: &Args, systems: &[System], histories: &mut [Kept], row: &Row, number: u64) -> anyhow::Result<Line> {
    let length = Length { warm_up: WARM_UP, window: Duration::from_secs_f64(args.seconds) };
    let mut measured: Vec<(&'static str, Vec<Round>)> = systems.iter().map(|system| (system.name, Vec::new())).collect();
    let started = clock::now();
    for round in 0..args.rounds {
        let mut turns: Vec<_> = systems.iter().zip(&mut *histories).zip(&mut measured).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for ((system, history), (name, rounds)) in turns {
            let seed = number << 16 | round;
            let measuring = async || {
                let measuring = rounds::measure(system, row, args.objects, length, seed);
                history.during(system, row.change_bytes() as u64, measuring).await
            };
            rounds.push(patiently(name, measuring).await?);
        }
    }
    if args.history_bytes.is_none() {
        for system in systems {
            patiently(system.name, async || keeping::forget_all(system).await).await?;
        }
    }
    let rates: Vec<String> = measured
        .iter()
        .map(|(name, rounds)| {
            let middle = |pick: fn(&Round) -> f64| rounds::median(rounds.iter().map(pick));
            format!("{name} {:.0}/s p99 {:.2} ms cpu {:.3}", middle(|r| r.per_second), middle(|r| r.p99_ms), middle(|r| r.cpu_seconds))
        })
        .collect();
    progress(&format!("{}: {} ({:.0} s)", row.name, rates.join("; "), started.elapsed().as_secs_f64()));
    Ok(Line { name: row.name.clone(), systems: measured })
}

/// Tries again what failed, twice, and says so: an election in the middle of a round spoils only that.
async fn patiently<T>(name: &str, mut attempt: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    for _ in 0..RETRIES {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => progress(&format!("{name}: {error}; again")),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    attempt().await.with_context(|| format!("on {name}"))
}

fn wanted(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|part| name.contains(part.as_str()))
}

#[expect(clippy::print_stdout, reason = "the tables are this program's product")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a run takes long enough to want to know how far it is")]
fn progress(text: &str) {
    eprintln!("{text}");
}
