//! `trierarch raft`: look at the replicated store, move leadership and members, save it and bring it back, and experiment with elections.

use std::path::PathBuf;

mod backup;
mod disaster;
mod events;
mod fault;
mod lab;
mod members;
mod progress;
pub mod reach;
mod status;
mod timers;

/// Arguments of `raft`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  trierarch raft status                        term, leader and log of every master
  trierarch raft events -f                     elections and commits as they happen
  trierarch raft transfer m2                   hand leadership to m2
  trierarch raft replace m3                    m3 has lost its disk: give it a new place in the cluster
  trierarch raft backup /backup/today          one file, taken while the cluster serves
  trierarch raft backup verify /backup/today   read it again and compare its checksum
  trierarch raft fault add pause --master leader --for 5s
                                               an experiment: the leader stands still, another one is elected

Without a cluster of trierarch up on this machine, the masters are found through $KUBECONFIG and named by their numbers.
What each verb needs, and what to do when a quorum is lost for good: docs/how-to/operate-the-store.md
Faults and timers, for masters that were started with --experiments: docs/how-to/experiment-with-elections.md")]
pub struct Args {
    /// Where the cluster is kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What can be asked.
#[derive(clap::Subcommand, Debug)]
pub enum Action {
    /// Term, leader, log and members as each master sees them
    Status {
        /// Output format
        #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
        output: String,
    },
    /// How things are on every master now: part, vote, leader, log; with -f, what happens from now on
    Events(events::Args),
    /// Hand leadership to another master
    Transfer {
        /// Its name, such as m2; the most advanced one if left out
        to: Option<String>,
    },
    /// Let the master that leads hand leadership to another
    StepDown,
    /// Let a master begin an election, even though a leader lives
    Campaign {
        /// Its name, such as m2
        master: String,
    },
    /// Take a master out of the cluster for good: its number is never used again
    Remove {
        /// Its name, such as m2, or its number
        master: String,
    },
    /// Give a master that has lost its disk, or is damaged, a new place in the cluster
    Replace {
        /// Its name, such as m2
        master: String,
        /// How many seconds it may take until it votes again
        #[arg(long, default_value_t = 120)]
        timeout: u64,
    },
    /// Experiment: let something go wrong on a master for a while
    #[command(subcommand)]
    Fault(fault::Action),
    /// Experiment: show the timers of elections, or change them for a while
    Timers(timers::Args),
    /// Experiment: whole ones from a file, on masters of their own, with a report
    #[command(subcommand)]
    Lab(lab::Action),
    /// Save the whole state into one file, while the cluster serves
    Backup(backup::Args),
    /// Make the directory of the first master of a new cluster from a backup
    Restore(disaster::RestoreArgs),
    /// Let one master go on alone after the others are lost for good
    Recover(disaster::RecoverArgs),
}

/// Carries it out.
///
/// # Errors
/// When no master answers, or what it refuses.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let data_dir = std::path::absolute(&args.data_dir)?;
    let reach = || reach::Reach::find(&data_dir);
    // what needs no running cluster
    match &args.action {
        Action::Lab(action) => return lab::run(action),
        Action::Restore(args) => return disaster::restore(args),
        Action::Recover(args) => return disaster::recover(args),
        Action::Backup(backup::Args { action: Some(backup::Action::Verify { file }), .. }) => return backup::verify(file),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &args.action {
            Action::Status { output } => status::run(&reach().await?, output).await,
            Action::Events(args) => events::run(&reach().await?, args).await,
            Action::Transfer { to } => members::transfer(&reach().await?, to.as_deref()).await,
            Action::StepDown => members::step_down(&reach().await?).await,
            Action::Campaign { master } => members::campaign(&reach().await?, master).await,
            Action::Remove { master } => members::remove(&reach().await?, master).await,
            Action::Replace { master, timeout } => members::replace(&reach().await?, master, *timeout).await,
            Action::Fault(action) => fault::run(&reach().await?, action).await,
            Action::Timers(args) => timers::run(&reach().await?, args).await,
            Action::Backup(args) => backup::run(&reach().await?, args).await,
            Action::Lab(_) | Action::Restore(_) | Action::Recover(_) => Ok(()),
        }
    })
}
