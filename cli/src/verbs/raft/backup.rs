//! `trierarch raft backup` and `trierarch raft backup verify`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use indicatif::HumanBytes;
use trierarch_client::{Error, Request};
use trierarch_raft::backup::{self, BackupHeader};

use super::progress::Progress;
use super::reach::{Master, Reach};

/// Arguments of `raft backup`.
#[derive(clap::Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    after_help = "\
The file holds every object, Secrets among them, unencrypted: keep it as you keep them. It also holds the cluster's authorities and
keys, encrypted under the server join token, without which nobody can use them: keep the token, too, but elsewhere."
)]
pub struct Args {
    /// The file to write; it must not exist
    #[arg(required = true)]
    pub file: Option<PathBuf>,
    /// The master to take it from, such as m2; any that answers if left out
    #[arg(long)]
    pub from: Option<String>,
    /// Something else
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What can be done with a backup.
#[derive(clap::Subcommand, Debug)]
pub enum Action {
    /// Read a backup and compare its content with its checksum
    Verify {
        /// The backup
        file: PathBuf,
    },
}

/// Takes a backup.
///
/// # Errors
/// No master answers, the file cannot be written, or it did not arrive whole; nothing is left of it then.
pub async fn run(reach: &Reach, args: &Args) -> anyhow::Result<()> {
    let file = args.file.as_deref().context("name the file to write")?;
    if file.exists() {
        bail!("{} exists already: a backup replaces nothing", file.display());
    }
    let masters = match &args.from {
        Some(name) => vec![reach.master(name)?],
        None => reach.masters.iter().collect(),
    };
    let partial = file.with_file_name(format!("{}.partial", file.file_name().context("name a file")?.to_string_lossy()));
    let taken = take(reach, &masters, &partial).await;
    let outcome = taken.and_then(|()| {
        let header = check(&partial)?;
        std::fs::rename(&partial, file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(header)
    });
    match outcome {
        Ok(header) => {
            println!("{}", describe(file, &header)?);
            if !header.complete {
                eprintln!("warning: the cluster has no quorum: what other masters acknowledged last may be missing");
            }
            Ok(())
        }
        Err(error) => {
            let _perhaps_never_there = std::fs::remove_file(&partial);
            Err(error)
        }
    }
}

async fn take(reach: &Reach, masters: &[&Master], partial: &Path) -> anyhow::Result<()> {
    let request = Request::get("/raft/v1/backup");
    let mut refused = None;
    for master in masters {
        let mut stream = match reach.client(master, std::time::Duration::from_secs(10))?.stream(request.clone()).await {
            Ok(stream) => stream,
            Err(error @ Error::Transport { .. }) => {
                refused = Some(error);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let unwritten = || format!("cannot write {}", partial.display());
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(partial).with_context(unwritten)?;
        let (mut progress, mut bytes) = (Progress::new("Saving:"), 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.with_context(|| format!("the connection to master {} ended", master.name))?;
            file.write_all(&chunk).with_context(unwritten)?;
            bytes += chunk.len() as u64;
            progress.show(bytes, None);
        }
        return file.sync_all().with_context(unwritten);
    }
    match refused {
        Some(error) => Err(error).context("no master answers"),
        None => bail!("the cluster has no masters"),
    }
}

/// Checks a backup.
///
/// # Errors
/// It is none, or damaged.
pub fn verify(file: &Path) -> anyhow::Result<()> {
    let header = check(file)?;
    println!("{}", describe(file, &header)?);
    Ok(())
}

fn check(file: &Path) -> anyhow::Result<BackupHeader> {
    let mut progress = Progress::new("Checking:");
    Ok(backup::verify(file, &mut |done, total| progress.show(done, Some(total)))?)
}

/// What is in a backup, in a few lines.
///
/// # Errors
/// The file is gone.
pub fn describe(file: &Path, header: &BackupHeader) -> anyhow::Result<String> {
    let bytes = std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
    Ok(format!(
        "{}: {}, checksum right\n  cluster   {}\n  taken     {} from member {}\n  revision  {}   (log index {}, term {})",
        file.display(),
        HumanBytes(bytes),
        header.cluster_id,
        jiff::Timestamp::from_millisecond(header.time_unix_ms)?,
        header.node_id,
        header.revision,
        header.index,
        header.term
    ))
}
