//! `trierarch-lab-sim`: carries one experiment out in the simulated world and prints what happened, as JSON. A program of its own, because
//! all randomness of its process comes from the seed; `trierarch raft lab run --simulate` runs it and makes the report.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use trierarch_lab::experiment::Experiment;
use trierarch_lab::recording::Recording;
use trierarch_sim::lab;

/// Carries an experiment out in the simulated world.
#[derive(Parser)]
struct Arguments {
    /// Everything random comes from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often, instead of what the file says
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: Option<u32>,
    /// The experiment
    file: PathBuf,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result of the program, and its progress")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let path = arguments.file.display().to_string();
    let text = std::fs::read_to_string(&arguments.file).with_context(|| format!("cannot read {path}"))?;
    let mut experiment = Experiment::read(&text).with_context(|| path)?;
    experiment.repetitions = arguments.repetitions.unwrap_or(experiment.repetitions);
    // a thread of its own: its hash maps begin with its own seed
    let simulating = move || -> anyhow::Result<Recording> {
        let of = experiment.repetitions;
        lab::carry_out(&experiment, arguments.seed, |index, run| {
            let settled = run.settled_ms.map_or_else(|| "did not settle".to_owned(), |ms| format!("settled after {ms} ms"));
            eprintln!("repetition {} of {of}: {} writes, {settled}", index + 1, run.writes.len());
        })
    };
    let recording = std::thread::spawn(simulating).join().map_err(|_panic| anyhow::anyhow!("the simulation panicked"))??;
    println!("{}", serde_json::to_string(&recording)?);
    Ok(())
}
