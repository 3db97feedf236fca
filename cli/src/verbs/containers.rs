//! `trierarch ps`, `logs`, `stop` and `rm`: what `run` has started.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use trierarch_runtime::{ContainerState, ContainerStatus};

use crate::local::engine::{self, Engine, Listed};
use crate::local::log::{self, LogReader};
use crate::local::options;

/// How long new output may wait to be shown.
const POLL: Duration = Duration::from_millis(50);

/// Arguments of `ps`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Pods of a cluster are seen with kubectl get pods.")]
pub struct PsArgs {
    /// Where containers are kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Those that have ended too
    #[arg(short, long)]
    pub all: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[expect(clippy::disallowed_methods, reason = "the shell of a command: it tells its user how long things have been")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Lists containers.
///
/// # Errors
/// Without root's rights.
pub fn ps(args: &PsArgs) -> anyhow::Result<()> {
    let engine = Engine::open(&std::path::absolute(&args.data_dir)?)?;
    let mut listed = engine.list();
    listed.retain(|container| args.all || container.status.state == ContainerState::Running);
    if args.quiet {
        listed.iter().for_each(|container| println!("{}", container.status.id));
        return Ok(());
    }
    let now = now();
    let head = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAME"].map(str::to_owned);
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(listed.iter().map(|container| row(container, now))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..7).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", cells.join("   ").trim_end());
    }
    Ok(())
}

fn row(container: &Listed, now: SystemTime) -> [String; 7] {
    let status = &container.status;
    let command = status.spec.args.join(" ");
    let short = if command.chars().count() > 24 { format!("{}...", command.chars().take(21).collect::<String>()) } else { command };
    [
        status.id.clone(),
        container.image.clone(),
        short,
        format!("{} ago", age(now, status.created_at)),
        state(status, now),
        container.ports.clone(),
        container.name.clone(),
    ]
}

fn state(status: &ContainerStatus, now: SystemTime) -> String {
    match (status.state, status.exit, status.started_at) {
        (ContainerState::Exited, Some(exit), _) => {
            let why = if exit.oom_killed { ", out of memory" } else { "" };
            format!("Exited ({}{why}) {} ago", exit.code, age(now, exit.finished_at))
        }
        (ContainerState::Running, _, Some(started)) => format!("Up {}", age(now, started)),
        (state, ..) => format!("{state:?}"),
    }
}

/// How long ago something was, in its largest unit.
fn age(now: SystemTime, then: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    let (count, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7199 => (seconds / 60, "minute"),
        7200..=172_799 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Arguments of `logs`.
#[derive(clap::Args, Debug)]
pub struct LogsArgs {
    /// Where containers are kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    pub tail: Option<usize>,
    /// Show when each line was written
    #[arg(short, long)]
    pub timestamps: bool,
    /// The container: its name, its id, or the beginning of its id
    pub container: String,
}

/// Shows a container's output.
///
/// # Errors
/// When there is no such container.
pub fn logs(args: &LogsArgs) -> anyhow::Result<()> {
    let engine = Engine::open(&std::path::absolute(&args.data_dir)?)?;
    let id = engine.find(&args.container)?.status.id;
    let mut reader = LogReader::open(&engine.log_path(&id));
    let mut begins = true;
    let mut show = |piece: log::Piece| -> std::io::Result<()> {
        let full = piece.full;
        let time = if args.timestamps && begins { format!("{} ", piece.time).into_bytes() } else { Vec::new() };
        begins = full;
        let text = [time, piece.text.clone()].concat();
        engine::show(log::Piece { text, ..piece })
    };
    let first = reader.fresh();
    for piece in args.tail.map_or_else(|| first.clone(), |count| log::tail(first.clone(), count)) {
        show(piece)?;
    }
    let mut ended = !args.follow;
    while !ended {
        ended = engine.ended_within(&id, POLL)?;
        for piece in reader.fresh() {
            show(piece)?;
        }
    }
    Ok(())
}

/// Arguments of `stop`.
#[derive(clap::Args, Debug)]
pub struct StopArgs {
    /// Where containers are kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Seconds between the first signal and SIGKILL
    #[arg(short, long, default_value_t = 10)]
    pub time: u64,
    /// First signal [default: the image's, else SIGTERM]
    #[arg(short, long, value_parser = signal)]
    pub signal: Option<i32>,
    /// The containers: names, ids, or beginnings of ids
    #[arg(required = true)]
    pub containers: Vec<String>,
}

fn signal(text: &str) -> Result<i32, String> {
    options::signal_number(text).ok_or_else(|| format!("{text:?} is no signal"))
}

/// Ends containers.
///
/// # Errors
/// When there is no such container; the others are ended nevertheless.
pub fn stop(args: &StopArgs) -> anyhow::Result<()> {
    let engine = Engine::open(&std::path::absolute(&args.data_dir)?)?;
    each(&args.containers, |name| {
        let container = engine.find(name)?;
        engine.stop(&container.status.id, args.signal, Duration::from_secs(args.time))
    })
}

/// Arguments of `rm`.
#[derive(clap::Args, Debug)]
pub struct RmArgs {
    /// Where containers are kept
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, env = "TRIERARCH_DATA_DIR")]
    pub data_dir: PathBuf,
    /// End those that run
    #[arg(short, long)]
    pub force: bool,
    /// The containers: names, ids, or beginnings of ids
    #[arg(required = true)]
    pub containers: Vec<String>,
}

/// Removes containers.
///
/// # Errors
/// When there is no such container, or it runs; the others are removed nevertheless.
pub fn rm(args: &RmArgs) -> anyhow::Result<()> {
    let engine = Engine::open(&std::path::absolute(&args.data_dir)?)?;
    each(&args.containers, |name| {
        let container = engine.find(name)?;
        if container.status.state == ContainerState::Running && !args.force {
            bail!("container {name} runs: end it with trierarch stop, or remove it with --force");
        }
        engine.remove(&container.status.id)
    })
}

/// Does it for each, says for which it worked, and fails in the end if it did not for all.
fn each(names: &[String], act: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for name in names {
        match act(name) {
            Ok(()) => println!("{name}"),
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    if problems.is_empty() { Ok(()) } else { bail!(problems.join("\nerror: ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        let then = SystemTime::UNIX_EPOCH;
        for (seconds, expected) in [(1, "1 second"), (119, "119 seconds"), (120, "2 minutes"), (7200, "2 hours"), (172_800, "2 days")] {
            assert_eq!(age(then + Duration::from_secs(seconds), then), expected);
        }
    }

    #[test]
    fn one_failure_does_not_keep_the_others_back() {
        let done = std::cell::RefCell::new(Vec::new());
        let outcome = each(&["a".to_owned(), "b".to_owned(), "c".to_owned()], |name| {
            if name == "b" {
                bail!("no such container: b");
            }
            done.borrow_mut().push(name.to_owned());
            Ok(())
        });
        assert_eq!(*done.borrow(), ["a", "c"]);
        assert_eq!(outcome.map_err(|error| error.to_string()), Err("no such container: b".to_owned()));
    }
}
