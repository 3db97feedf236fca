//! `trierarch-sim`: runs seeds, each in a process of its own, and replays one.

use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use trierarch_sim::run;

/// Simulates a group of the store under faults, and checks what must hold.
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many at once; by default one per core.
    #[arg(long)]
    jobs: Option<usize>,
    /// Run this seed only, in this process.
    #[arg(long)]
    seed: Option<u64>,
    /// Show every event.
    #[arg(long)]
    trace: bool,
    /// Keep some of the frames that members send each other in this directory.
    #[arg(long, requires = "seed")]
    record: Option<std::path::PathBuf>,
    /// Plant this bug in all members.
    #[cfg(feature = "planted")]
    #[arg(long, value_parser = parse_bug)]
    bug: Option<trierarch_raft::planted::Bug>,
    /// Show what the members log, from this level on.
    #[arg(long)]
    log: Option<tracing_subscriber::filter::LevelFilter>,
}

#[expect(clippy::print_stdout, reason = "the result of the program")]
fn show(line: &str) {
    println!("{line}");
}

#[cfg(feature = "planted")]
fn parse_bug(name: &str) -> Result<trierarch_raft::planted::Bug, String> {
    let bugs = trierarch_raft::planted::Bug::ALL;
    bugs.into_iter().find(|bug| format!("{bug:?}") == name).ok_or_else(|| format!("one of {bugs:?}"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(feature = "planted")]
    if let Some(bug) = arguments.bug {
        trierarch_raft::planted::plant(bug);
    }
    match arguments.seed {
        Some(seed) => run_one(seed, &arguments),
        None => run_many(&arguments),
    }
}

fn run_one(seed: u64, arguments: &Arguments) -> ExitCode {
    if let Some(level) = arguments.log {
        tracing_subscriber::fmt().with_max_level(level).without_time().with_ansi(false).init();
    }
    let outcome = run::run(seed, arguments.trace.then_some(show as fn(&str)), arguments.record.clone());
    show(&format!(
        "seed {seed}: {} events, {} entries and {} lost in {} ms, trace {:016x}",
        outcome.events, outcome.entries, outcome.lost, outcome.simulated_ms, outcome.digest
    ));
    let Some(failure) = outcome.failure else { return ExitCode::SUCCESS };
    show(&format!("seed {seed} FAILED: {failure}\nreplay: cargo run -p trierarch-sim -- --seed {seed} --trace"));
    ExitCode::FAILURE
}

/// Runs all seeds in processes of their own.
fn run_many(arguments: &Arguments) -> ExitCode {
    let (next, failed) = (AtomicU64::new(arguments.from), AtomicU64::new(0));
    let end = arguments.from + arguments.seeds;
    let jobs = arguments.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    if let Err(report) = run_in_process(seed) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        show(&report);
                    }
                }
            });
        }
    });
    let failed = failed.load(Ordering::Relaxed);
    show(&format!("{} seeds, {failed} failed", arguments.seeds));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_in_process(seed: u64) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(["--seed", &seed.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("seed {seed}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let (told, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{told}{complaints}seed {seed}: {}", output.status))
}
