//! `trierarch node-init`: process 1 of a node that shares this machine with others. It prepares the node's mounts and name, keeps the agent
//! running, and reaps what the agent leaves behind. When it ends, the kernel ends everything in the node.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};

/// The agent is started again at once, but no more often than this.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// Arguments of `node-init`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The node's host name.
    #[arg(long)]
    pub hostname: String,
    /// The node's own /etc/resolv.conf and the like are below this directory.
    #[arg(long)]
    pub node_dir: PathBuf,
    /// The agent's command line.
    #[arg(last = true, required = true)]
    pub agent: Vec<String>,
}

/// Runs until SIGTERM.
///
/// # Errors
/// When the node's mounts cannot be made.
pub fn run(args: &Args) -> anyhow::Result<()> {
    prepare(args)?;
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    signals.thread_block().context("cannot block signals")?;
    let descriptor = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("cannot receive signals")?;
    let mut agent = Some(start(args)?);
    loop {
        let timeout = if agent.is_some() { PollTimeout::NONE } else { PollTimeout::try_from(RESTART_PAUSE).unwrap_or(PollTimeout::NONE) };
        let ready = poll(&mut [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)], timeout).unwrap_or(0);
        if ready == 0 && agent.is_none() {
            agent = start(args).map_err(|error| tracing::error!(error = format!("{error:#}"), "Could not start the agent")).ok();
        }
        while let Ok(Some(signal)) = descriptor.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            if number == Signal::SIGTERM as i32 || number == Signal::SIGINT as i32 {
                // everything in the node ends with this process
                return Ok(());
            }
        }
        if reap(agent.as_ref().map(Child::id)) {
            tracing::warn!("Agent ended, starting it again");
            agent = None;
        }
    }
}

/// Mounts of its own that follow the machine's, a /proc of its own process ids, and a name.
fn prepare(args: &Args) -> anyhow::Result<()> {
    let none: Option<&str> = None;
    // what the machine mounts later appears here, what the node mounts stays here; containers may follow the node in turn
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).context("cannot part from the machine's mounts")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("cannot share the node's mounts with its pods")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, none)
        .context("cannot mount /proc")?;
    sethostname(&args.hostname).context("cannot set the host name")?;
    Ok(())
}

fn start(args: &Args) -> anyhow::Result<Child> {
    let (program, rest) = args.agent.split_first().context("the agent's command line is empty")?;
    Command::new(program).args(rest).spawn().with_context(|| format!("cannot start {program}"))
}

/// Collects every ended process; says whether the agent was among them.
fn reap(agent: Option<u32>) -> bool {
    let mut agent_ended = false;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => {
                agent_ended |= agent.and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw) == Some(pid);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return agent_ended,
            Ok(_) => {}
        }
    }
}
