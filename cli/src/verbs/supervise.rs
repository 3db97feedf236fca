//! `trierarch supervise`: the process that holds the cluster of `up` together. Started by `up`, not by people.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::cluster::supervisor;

/// Arguments of `supervise`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the cluster is kept
    #[arg(long)]
    pub data_dir: PathBuf,
}

/// Runs until it is told to end.
///
/// # Errors
/// When the cluster cannot be started.
pub fn run(args: &Args) -> anyhow::Result<()> {
    // the terminal from which `up` was called may close
    let _leader_already = nix::unistd::setsid();
    let topology = crate::cluster::load(&args.data_dir)?.with_context(|| format!("{} holds no cluster", args.data_dir.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(supervisor::run(topology, || tracing::info!("Every part was started")));
    runtime.shutdown_background();
    outcome
}
