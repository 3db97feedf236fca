//! `trierarch down`: ends a cluster and removes what `up` made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::cluster::process::{Remembered, pid_file};
use crate::cluster::supervisor::{self, Order};
use crate::cluster::topology::Topology;

/// How long the supervisor may take to end everything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of `down`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Images stay, so that the next cluster starts with them; `--images` removes them too.")]
pub struct Args {
    /// Where the cluster is kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Remove the images too
    #[arg(long)]
    pub images: bool,
}

/// Ends the cluster.
///
/// # Errors
/// What could not be removed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let data_dir = std::path::absolute(&args.data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Some(topology) = crate::cluster::load(&data_dir)? else {
        if args.images {
            remove_directory(&data_dir.join("images"))?;
        }
        println!("No cluster is up in {}.", data_dir.display());
        return Ok(());
    };
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("trierarch down needs root: it ends processes and removes network namespaces. Try: sudo trierarch down");
    }
    runtime.block_on(take_down(&topology, Take { images: args.images, logs: true }))?;
    println!("Cluster {:?} is down.", topology.name);
    Ok(())
}

/// What goes beside what a cluster cannot be without.
#[derive(Clone, Copy, Debug)]
pub struct Take {
    /// The images.
    pub images: bool,
    /// The logs. They stay where they tell why a cluster did not come up.
    pub logs: bool,
}

/// Ends whatever of a cluster still runs and removes its files.
///
/// # Errors
/// What could not be removed.
pub async fn take_down(topology: &Topology, take: Take) -> anyhow::Result<()> {
    let supervisor = Remembered::load(&pid_file(&topology.run_dir(), "supervisor"));
    if let Some(process) = supervisor.filter(Remembered::is_alive) {
        // an answer is welcome, the end is what counts
        let _answer = tokio::time::timeout(PATIENCE, supervisor::ask(topology, &Order::Down)).await;
        process.end(PATIENCE).await;
    }
    // a supervisor that was killed leaves its parts running
    for host in topology.nodes.iter().chain(&topology.masters) {
        if let Some(process) = Remembered::load(&pid_file(&topology.run_dir(), &host.name)) {
            process.signal(nix::sys::signal::Signal::SIGKILL);
            process.gone().await;
        }
    }
    supervisor::remove(topology).await?;
    let more = [("images", take.images), ("log", take.logs)].into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name);
    for name in ["masters", "nodes", "builds"].into_iter().chain(more) {
        remove_directory(&topology.data_dir.join(name))?;
    }
    for name in ["token", "agent-token", "authority.pem", "kubeconfig", "cluster.json"] {
        let path = topology.data_dir.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove_directory(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
