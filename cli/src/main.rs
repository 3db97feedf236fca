//! The `trierarch` program: it parses, wires and waits. Every verb is a file in `verbs`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this crate is the one that talks to people")]

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

mod cluster;
mod quantity;
mod verbs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where `up` keeps its cluster unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/trierarch";

/// A Kubernetes-compatible orchestrator in one program: masters, nodes, container runtime, network, DNS and registry.
#[derive(Parser, Debug)]
#[command(
    name = "trierarch",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "\
Begin with:
  trierarch up                       a cluster of three masters and two nodes on this machine
  export KUBECONFIG=$(trierarch kubeconfig)
  kubectl get nodes"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Start a cluster on this machine
    Up(verbs::up::Args),
    /// End the cluster on this machine and remove what it made
    Down(verbs::down::Args),
    /// Print where the administrator's kubeconfig is
    Kubeconfig(verbs::kubeconfig::Args),
    /// Stop and start nodes of the cluster on this machine
    Node(verbs::node::Args),
    /// Build, list, import, export, push and pull images
    Image(verbs::image::Args),
    /// Look at the replicated store
    Raft(verbs::raft::Args),
    /// Run a master
    Server(verbs::server::Args),
    /// Run a node
    Agent(verbs::agent::Args),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    #[command(hide = true)]
    Supervise(verbs::supervise::Args),
    #[command(hide = true)]
    NodeInit(verbs::node_init::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log();
    // one provider for every TLS configuration of the process; a second call would only find it there
    let _installed = rustls::crypto::ring::default_provider().install_default();
    match run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Up(args) => verbs::up::run(&args),
        Verb::Down(args) => verbs::down::run(&args),
        Verb::Kubeconfig(args) => verbs::kubeconfig::run(&args),
        Verb::Node(args) => verbs::node::run(&args),
        Verb::Image(args) => verbs::image::run(args),
        Verb::Raft(args) => verbs::raft::run(&args),
        Verb::Server(args) => verbs::server::run(args),
        Verb::Agent(args) => verbs::agent::run(args),
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "trierarch", &mut std::io::stdout());
            Ok(())
        }
        Verb::Supervise(args) => verbs::supervise::run(&args),
        Verb::NodeInit(args) => verbs::node_init::run(&args),
    }
}

/// Logs go to standard error; `TRIERARCH_LOG` chooses levels, as in `info,trierarch_raft=debug`.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TRIERARCH_LOG")
        .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new("info,openraft=warn,actix_server=warn,h2=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
