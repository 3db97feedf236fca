//! The `trierarch` program: it parses, wires and waits. Every verb is a file in `verbs`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this crate is the one that talks to people")]
#![allow(unreachable_pub, reason = "in a program, pub means visible in its other files")]

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

mod cluster;
mod kubectl;
mod lab;
mod local;
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
  kubectl get nodes
  trierarch build -t shop:1 docs/demo/shop && trierarch push shop:1
  kubectl apply -f docs/demo/shop/

Without a cluster:
  trierarch run --rm -it shop:1 sh   a single container
  trierarch ps -a                    what run has started

Completion:
  bash  source <(trierarch completion bash)
  zsh   trierarch completion zsh > \"${fpath[1]}/_trierarch\"
  fish  trierarch completion fish | source"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for the life of the process")]
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
    /// Build an image from a Containerfile
    #[command(after_help = verbs::image::BUILD_EXAMPLES)]
    Build(verbs::image::Alone<verbs::image::BuildArgs>),
    /// List images
    Images(verbs::image::Alone<verbs::image::LsArgs>),
    /// Send an image to a registry: to the cluster's own unless the name begins with a host
    Push(verbs::image::Alone<verbs::image::Named>),
    /// Fetch an image: from the cluster's registry unless the name begins with a host
    Pull(verbs::image::Alone<verbs::image::Named>),
    /// Run a single container, without a cluster
    Run(verbs::run::Args),
    /// List containers of run
    Ps(verbs::containers::PsArgs),
    /// Show the output of a container of run
    Logs(verbs::containers::LogsArgs),
    /// Run a further process in a container of run
    Exec(verbs::run::ExecArgs),
    /// End containers of run
    Stop(verbs::containers::StopArgs),
    /// Remove containers of run
    Rm(verbs::containers::RmArgs),
    /// Talk to a cluster as the real kubectl does
    Kubectl(kubectl::Args),
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
    RunKeeper(verbs::run::KeeperArgs),
    #[command(hide = true)]
    Supervise(verbs::supervise::Args),
    #[command(hide = true)]
    NodeInit(verbs::node_init::Args),
}

impl Verb {
    /// What is logged unless `TRIERARCH_LOG` says otherwise: parts of a cluster tell what they do, commands only what is wrong.
    fn default_log(&self) -> &'static str {
        match self {
            // a peer that is away would be told of at every heartbeat; a client that ends its watch is no fault
            Self::Server(_) | Self::Agent(_) | Self::Supervise(_) | Self::NodeInit(_) => {
                "info,openraft=warn,openraft::core::heartbeat=error,actix_server=warn,actix_http=error,h2=warn"
            }
            // what a kernel lacks is told by the parts that run all the time, not by every command again
            _ => "warn,trierarch_runtime=error",
        }
    }
}

/// `println!` panics when the reader has gone, as `head` does after its lines: an ordinary end, with the code that shells show for SIGPIPE.
fn end_quietly_without_reader() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().is_some_and(nobody_reads) {
            std::process::exit(141);
        }
        report(panic);
    }));
}

fn nobody_reads(panic: &str) -> bool {
    panic.starts_with("failed printing to std") && panic.contains("Broken pipe")
}

fn main() -> ExitCode {
    end_quietly_without_reader();
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if let Some(words) = kubectl::called_as_kubectl(&words) {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        return kubectl::main(words);
    }
    let cli = Cli::parse();
    log(cli.verb.default_log());
    // one provider for every TLS configuration of the process; a second call would only find it there
    let _installed = rustls::crypto::ring::default_provider().install_default();
    match run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = error.downcast_ref::<verbs::Exit>();
            if exit.is_none_or(|exit| !exit.text.is_empty()) {
                eprintln!("error: {error:#}");
            }
            exit.map_or(ExitCode::FAILURE, |exit| ExitCode::from(exit.code))
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
        Verb::Build(alone) => verbs::image::run(alone.into_image(verbs::image::Action::Build)),
        Verb::Images(alone) => verbs::image::run(alone.into_image(verbs::image::Action::Ls)),
        Verb::Push(alone) => verbs::image::run(alone.into_image(verbs::image::Action::Push)),
        Verb::Pull(alone) => verbs::image::run(alone.into_image(verbs::image::Action::Pull)),
        Verb::Run(args) => verbs::run::run(args),
        Verb::Ps(args) => verbs::containers::ps(&args),
        Verb::Logs(args) => verbs::containers::logs(&args),
        Verb::Exec(args) => verbs::run::run_exec(&args),
        Verb::Stop(args) => verbs::containers::stop(&args),
        Verb::Rm(args) => verbs::containers::rm(&args),
        Verb::RunKeeper(args) => verbs::run::run_keeper(&args),
        Verb::Kubectl(args) => kubectl::run(args),
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
fn log(default: &str) {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("TRIERARCH_LOG").unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_reader_ends_quietly() {
        assert!(nobody_reads("failed printing to stdout: Broken pipe (os error 32)"));
        assert!(!nobody_reads("failed printing to stdout: No space left on device (os error 28)"));
        assert!(!nobody_reads("index out of bounds"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
