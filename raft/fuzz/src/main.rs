//! `trierarch-raft-fuzz`: throws garbage at one target for a while, or one file at it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use trierarch_raft_fuzz::corpus;
use trierarch_raft_fuzz::heap::Counting;
use trierarch_raft_fuzz::mutate::{Dice, mutate};
use trierarch_raft_fuzz::target::Target;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Throws garbage at what reads the bytes of peers and disks.
#[derive(Parser)]
struct Arguments {
    /// At what: `Request`, `LogEntry`, `BackupFile` and so on; all in turn if it is not given.
    target: Option<String>,
    /// This file only, as other fuzzers hand them over.
    #[arg(requires = "target")]
    input: Option<PathBuf>,
    /// For how long at each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Which garbage.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[expect(clippy::print_stdout, reason = "the result of the program")]
fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let directory = tempfile::tempdir()?;
    let wanted = |target: &Target| arguments.target.as_ref().is_none_or(|name| *name == target.name());
    let targets: Vec<Target> = Target::all().into_iter().filter(wanted).collect();
    anyhow::ensure!(!targets.is_empty(), "one of {:?}", Target::all().into_iter().map(Target::name).collect::<Vec<_>>());
    if let Some(input) = &arguments.input {
        let bytes = std::fs::read(input).with_context(|| input.display().to_string())?;
        for target in targets {
            println!("{}: {:?}", target.name(), target.try_with(&bytes, directory.path()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let corpus = corpus::gather(directory.path())?;
    for target in targets {
        let good = corpus.get(&target.name()).map_or(&[][..], Vec::as_slice);
        let (mut dice, began, mut tries) = (Dice::new(arguments.seed), trierarch_raft_fuzz::clock::now(), 0_u64);
        while began.elapsed() < Duration::from_secs(arguments.seconds) {
            let bytes = mutate(&mut dice, good);
            tries += 1;
            if let Err(problem) = target.try_with(&bytes, directory.path()) {
                let kept = std::env::temp_dir().join(format!("{}.input", target.name()));
                std::fs::write(&kept, &bytes)?;
                println!("{} FAILED: {problem}\nthe input is in {}", target.name(), kept.display());
                return Ok(ExitCode::FAILURE);
            }
        }
        println!("{}: {tries} inputs", target.name());
    }
    Ok(ExitCode::SUCCESS)
}
