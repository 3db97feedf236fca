//! `exec` and `attach`: a further process in a container, or the one that runs there.

use anyhow::bail;

use crate::kubectl::duration;
use crate::kubectl::output::note;
use crate::kubectl::pods;
use crate::kubectl::remote::{self, Ask};
use crate::kubectl::session::Session;
use crate::kubectl::terminal;

/// Arguments of `exec`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl exec web-1 -- date                 run a command, and take over its exit code
  kubectl exec -it web-1 -c proxy -- sh      a shell in one of several containers
  kubectl exec deploy/web -- ls /data        in a pod of a deployment
  tar cf - . | kubectl exec -i web-1 -- tar xf - -C /data")]
pub struct Args {
    /// POD or TYPE/NAME
    #[arg(value_name = "POD")]
    pub pod: Vec<String>,
    #[command(flatten)]
    pub stream: StreamArgs,
    /// What to run
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Flags of `exec` and `attach`.
#[derive(clap::Args, Clone, Debug)]
pub struct StreamArgs {
    /// Which container
    #[arg(short, long)]
    pub container: Option<String>,
    /// Send standard input
    #[arg(short = 'i', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub stdin: bool,
    /// With a terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false")]
    pub tty: bool,
    /// Print nothing but what the process prints
    #[arg(short, long)]
    pub quiet: bool,
    /// How long to wait for a pod
    #[arg(long, default_value = "1m")]
    pub pod_running_timeout: String,
}

/// Arguments of `attach`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl attach web-1                  show what the container writes from now on
  kubectl attach -it shell-1            have its terminal")]
pub struct AttachArgs {
    /// POD or TYPE/NAME
    #[arg(value_name = "POD")]
    pub pod: Option<String>,
    #[command(flatten)]
    pub stream: StreamArgs,
}

/// Runs a command.
///
/// # Errors
/// In kubectl's words; [`crate::kubectl::errors::Exit`] with the command's exit code.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    let Some(word) = args.pod.first() else { bail!("pod, type/name or --filename must be specified") };
    if args.command.is_empty() {
        if args.pod.len() > 1 {
            bail!(
                "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead\nSee 'kubectl exec -h' for help and examples"
            );
        }
        bail!("you must specify at least one command for the container");
    }
    let ask = prepare(session, word, &args.stream, "exec").await?;
    remote::interactive(session, &Ask { command: args.command, ..ask }).await
}

/// Attaches to the running process.
///
/// # Errors
/// In kubectl's words.
pub async fn attach(session: &Session, args: AttachArgs) -> anyhow::Result<()> {
    let Some(word) = &args.pod else { bail!("at least 1 argument is required for attach") };
    let ask = prepare(session, word, &args.stream, "attach").await?;
    if !args.stream.quiet && args.stream.stdin && args.stream.tty {
        note("If you don't see a command prompt, try pressing enter.");
    }
    remote::interactive(session, &ask).await
}

async fn prepare(session: &Session, word: &str, args: &StreamArgs, verb: &'static str) -> anyhow::Result<Ask> {
    let pod = pods::one(session, word, duration::parse(&args.pod_running_timeout)?).await?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if let Some(phase @ ("Succeeded" | "Failed")) = pod["status"]["phase"].as_str() {
        let doing = if verb == "exec" { "exec into" } else { "attach" };
        if verb == "exec" {
            bail!("cannot {doing} a container in a completed pod; current phase is {phase}");
        }
        bail!("cannot attach a container in a completed pod; current phase is {phase}");
    }
    let mut tty = args.tty;
    if tty && !args.stdin {
        tty = false;
    }
    if tty && !terminal::is_terminal() {
        if !args.quiet {
            note("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        tty = false;
    }
    let container = pods::container(&pod, args.container.as_deref(), args.quiet)?;
    let mut ask = Ask {
        verb,
        pod: name,
        namespace: session.namespace.clone(),
        container: container.clone(),
        command: Vec::new(),
        stdin: args.stdin,
        tty,
    };
    if verb == "attach" {
        // a process that has no terminal cannot be given one now
        let spec = ["containers", "initContainers", "ephemeralContainers"]
            .iter()
            .flat_map(|part| pod["spec"][part].as_array().into_iter().flatten())
            .find(|entry| entry["name"] == container.as_str());
        let has_tty = spec.is_some_and(|entry| entry["tty"] == true);
        if ask.tty && !has_tty {
            if !args.quiet {
                note(format!("error: Unable to use a TTY - container {container} did not allocate one"));
            }
            ask.tty = false;
        } else if !ask.tty && has_tty {
            ask.tty = true;
        }
    }
    Ok(ask)
}
