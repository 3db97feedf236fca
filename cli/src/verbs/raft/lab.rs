//! `trierarch raft lab`: experiments with elections.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use trierarch_lab::experiment::Experiment;
use trierarch_lab::render;
use trierarch_lab::report::Report;

use crate::lab::processes;
use crate::lab::simulated;
use crate::verbs::Exit;

/// The exit code when predictions did not come true: it ran, and that is the result.
const NOT_HELD: u8 = 3;

/// What can be done.
#[derive(clap::Subcommand, Debug)]
pub enum Action {
    /// Carry out an experiment and report what came of it
    Run(RunArgs),
    /// Say whether a file is an experiment, and what is wrong with it
    Check {
        /// The experiment
        file: PathBuf,
    },
}

/// Arguments of `raft lab run`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  trierarch raft lab run docs/lab/02-leader-crash.yaml --html crash.html
                                    real masters in network namespaces, and a page to look at
  trierarch raft lab run docs/lab/02-leader-crash.yaml --simulate --seed 7
                                    the same in the simulator: the same seed gives the same report

The exit code is 0 when all predictions held, 3 when one did not, and 1 when the experiment could not be carried out.
What an experiment is, and ten of them with what they teach: docs/lab/README.md")]
pub struct RunArgs {
    /// The experiment
    pub file: PathBuf,
    /// In the simulator instead of on real processes
    #[arg(long)]
    pub simulate: bool,
    /// Where all chance of the simulator comes from
    #[arg(long, default_value_t = 1, requires = "simulate")]
    pub seed: u64,
    /// How often, instead of what the file says
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: Option<u32>,
    /// Write a page with pictures there
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// Write everything that was seen there
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Name of the experiment's cluster: 1 to 6 lower case letters and digits
    #[arg(long, default_value = "lab")]
    pub name: String,
    /// Where the experiment's cluster is kept while it lasts
    #[arg(long = "lab-dir", default_value = "/var/lib/trierarch-lab")]
    pub lab_dir: PathBuf,
    /// Network of the experiment's masters, a /24
    #[arg(long, default_value_t = Ipv4Addr::new(10, 151, 0, 0))]
    pub network: Ipv4Addr,
}

/// Carries it out.
///
/// # Errors
/// What is in the way, or that predictions did not come true.
pub fn run(action: &Action) -> anyhow::Result<()> {
    match action {
        Action::Run(args) => carry_out(args),
        Action::Check { file } => {
            let (experiment, _) = read(file)?;
            println!("{}: {} steps, {} predictions", experiment.title, experiment.timeline.len(), experiment.expect.len());
            Ok(())
        }
    }
}

fn read(file: &Path) -> anyhow::Result<(Experiment, String)> {
    let path = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {path}"))?;
    let experiment = Experiment::read(&text).with_context(|| path.to_string())?;
    Ok((experiment, text))
}

fn carry_out(args: &RunArgs) -> anyhow::Result<()> {
    let (mut experiment, source) = read(&args.file)?;
    experiment.repetitions = args.repetitions.unwrap_or(experiment.repetitions);
    let recording = if args.simulate {
        simulated::carry_out(&args.file, args.seed, experiment.repetitions)?
    } else {
        let data_dir = std::path::absolute(&args.lab_dir)?;
        let place = processes::Place { name: args.name.clone(), data_dir, network: args.network };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(processes::carry_out(&experiment, &place, |progress| eprintln!("{progress}")))?
    };
    let report = Report::new(experiment, recording);
    print!("{}", render::text::render(&report));
    let write = |path: &Option<PathBuf>, text: &dyn Fn() -> anyhow::Result<String>| match path {
        Some(path) => std::fs::write(path, text()?).with_context(|| format!("cannot write {}", path.display())),
        None => Ok(()),
    };
    write(&args.html, &|| Ok(render::page::render(&report, &source)))?;
    write(&args.json, &|| Ok(render::json(&report)?))?;
    if report.held {
        return Ok(());
    }
    Err(Exit { code: NOT_HELD, text: "not all predictions held".to_owned() }.into())
}
