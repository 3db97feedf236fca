//! `trierarch raft restore` and `trierarch raft recover`: offline, on the directory of one master.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use trierarch_controlplane::disaster::{self, Identity};
use trierarch_raft::recover::Survivor;
use trierarch_raft::restore::REVISIONS_SKIPPED;

use super::progress::Progress;

/// Arguments of `raft restore`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  trierarch raft restore /backup/today --data-dir /var/lib/trierarch/server --token-file token
  trierarch server --data-dir /var/lib/trierarch/server --advertise 10.0.0.1

Masters of the old cluster must not run any more. The others join the new one as ever, with empty directories and the same token.")]
pub struct RestoreArgs {
    /// The backup
    pub file: PathBuf,
    /// The new master's directory, as trierarch server --data-dir gets it; it must hold no master
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The server join token of the cluster of the backup
    #[arg(long, env = "TRIERARCH_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds it
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// The token is lost: make new authorities and keys. Every kubeconfig, agent and pod needs new credentials then
    #[arg(long, conflicts_with_all = ["token_file"])]
    pub new_identity: bool,
}

/// Arguments of `raft recover`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Only when so many masters are lost for good that the rest is no majority: the one named here goes on alone with what it has, and
forgets the others. While a majority lives, or can be started again, use trierarch raft replace instead.")]
pub struct RecoverArgs {
    /// The surviving master's directory, as trierarch server --data-dir gets it; the master must not run
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Restores.
///
/// # Errors
/// The backup is of no use, or the directory is taken.
pub fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let token = if args.new_identity { None } else { crate::verbs::agent::token(args.token.as_deref(), args.token_file.as_deref())? };
    let identity = match (token, args.new_identity) {
        (_, true) => Identity::New,
        (Some(token), false) => Identity::Kept(token),
        (None, false) => bail!(
            "the backup holds the cluster's keys, encrypted under its server join token: give --token-file. If the token is lost: --new-identity"
        ),
    };
    let mut progress = Progress::new("Restoring:");
    let header = disaster::restore(&args.file, &args.data_dir, &identity, &mut |done, total| progress.show(done, Some(total)))?;
    drop(progress);
    println!(
        "Restored revision {} of {} into {}; the next one is {}.\nStart it with\n  trierarch server --data-dir {} --advertise ADDRESS",
        header.revision,
        jiff::Timestamp::from_millisecond(header.time_unix_ms)?,
        args.data_dir.display(),
        header.revision + REVISIONS_SKIPPED + 1,
        args.data_dir.display()
    );
    Ok(())
}

/// Recovers.
///
/// # Errors
/// There is no survivor in the directory, it still runs, or the user says no.
pub fn recover(args: &RecoverArgs) -> anyhow::Result<()> {
    let survivor = disaster::look(&args.data_dir)?;
    println!("{}", consequences(&survivor)?);
    if !args.yes && !agrees()? {
        bail!("nothing was changed");
    }
    disaster::recover(&args.data_dir)?;
    println!(
        "Member {} is the only one of its cluster now. Start it with trierarch server, let new masters join it with empty directories,\n\
         and never start the others again.",
        survivor.node_id
    );
    Ok(())
}

/// What recovering means, before it is done.
fn consequences(survivor: &Survivor) -> anyhow::Result<String> {
    let last_change = match survivor.last_change_unix_ms {
        Some(time) => jiff::Timestamp::from_millisecond(time)?.to_string(),
        None => "unknown, it holds no history".to_owned(),
    };
    let lost: Vec<String> = survivor.lost.iter().map(|(id, address)| format!("member {id} ({address})")).collect();
    Ok(format!(
        "Member {} of cluster {} will go on alone.\n\
         \x20 keeps      log index {} of term {}; revision {} and {} log entries after it; the last change was made at {last_change}\n\
         \x20 may lose   what the others acknowledged after that\n\
         \x20 forgets    {}\n\
         \x20 skips      {REVISIONS_SKIPPED} revisions, so that none is given out twice; every watch begins anew",
        survivor.node_id,
        survivor.cluster_id,
        survivor.last.1,
        survivor.last.0,
        survivor.revision,
        survivor.unapplied,
        if lost.is_empty() { "nobody".to_owned() } else { lost.join(", ") },
    ))
}

fn agrees() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to be asked: say --yes");
    }
    print!("Go on? Type yes: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survivor_says_what_stays_and_what_may_be_lost() {
        let survivor = Survivor {
            cluster_id: "c1".to_owned(),
            node_id: 2,
            last: (5, 120),
            revision: 100,
            unapplied: 7,
            last_change_unix_ms: Some(0),
            lost: [(1, "10.0.0.1:6444".to_owned()), (3, "10.0.0.3:6444".to_owned())].into(),
        };
        assert_eq!(
            consequences(&survivor).expect("a time"),
            "Member 2 of cluster c1 will go on alone.\n  \
             keeps      log index 120 of term 5; revision 100 and 7 log entries after it; the last change was made at 1970-01-01T00:00:00Z\n  \
             may lose   what the others acknowledged after that\n  \
             forgets    member 1 (10.0.0.1:6444), member 3 (10.0.0.3:6444)\n  \
             skips      1000000000 revisions, so that none is given out twice; every watch begins anew"
        );
    }
}
