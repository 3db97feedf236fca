//! `trierarch node`: switch a node of this machine off and on, as if by its power button.

use std::path::PathBuf;

use crate::cluster::supervisor::Order;

/// Arguments of `node`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where the cluster is kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done to a node.
#[derive(clap::Subcommand, Debug)]
pub enum Action {
    /// Stop a whole node at once: agent, pods and network
    Stop {
        /// Its name, such as n2
        name: String,
    },
    /// Start a stopped node again
    Start {
        /// Its name, such as n2
        name: String,
    },
}

/// Carries it out.
///
/// # Errors
/// When no cluster is up, or the node is not there.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let data_dir = std::path::absolute(&args.data_dir)?;
    let (order, done) = match &args.action {
        Action::Stop { name } => (Order::StopNode(name.clone()), format!("Node {name} is stopped.")),
        Action::Start { name } => (Order::StartNode(name.clone()), format!("Node {name} is started.")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(super::up::order(&data_dir, &order))?;
    println!("{done}");
    Ok(())
}
