//! The processes of one group: started, stopped, killed, and started again.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// How long an orderly end may take.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Some processes; they end when this is dropped.
#[derive(Default)]
pub struct Group {
    members: Vec<(Start, Child)>,
}

/// How a process is started, again and again.
#[derive(Clone, Debug)]
pub struct Start {
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
}

impl Group {
    /// Starts one more process.
    ///
    /// # Errors
    /// It does not start.
    pub fn add(&mut self, start: Start) -> anyhow::Result<()> {
        let child = start.spawn()?;
        self.members.push((start, child));
        Ok(())
    }

    /// The ids of those that run.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|(_, child)| child.id()).collect()
    }

    /// Kills a member, as a crash does.
    ///
    /// # Errors
    /// There is none, or it has ended by itself.
    pub async fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        let (_, child) = self.members.get_mut(member).context("no such member")?;
        Ok(child.kill().await?)
    }

    /// Has a member end orderly, and waits for that.
    ///
    /// # Errors
    /// There is none, it does not end in time, or fails.
    pub async fn stop(&mut self, member: usize) -> anyhow::Result<()> {
        let (_, child) = self.members.get_mut(member).context("no such member")?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("it has ended")?;
        kill_process(pid, Signal::TERM)?;
        let ended = tokio::time::timeout(STOP_PATIENCE, child.wait()).await.context("a member does not end")??;
        anyhow::ensure!(ended.success(), "a member did not end orderly: {ended}");
        Ok(())
    }

    /// Starts a member again.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub fn start(&mut self, member: usize) -> anyhow::Result<()> {
        let (start, child) = self.members.get_mut(member).context("no such member")?;
        *child = start.spawn()?;
        Ok(())
    }

    /// Has a member be started in another way from now on.
    ///
    /// # Errors
    /// There is none.
    pub fn change(&mut self, member: usize, start: Start) -> anyhow::Result<()> {
        self.members.get_mut(member).context("no such member")?.0 = start;
        Ok(())
    }

    /// Kills all that run, and returns when they have ended.
    ///
    /// # Errors
    /// A process cannot be waited for.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for (_, child) in self.members.iter_mut().filter(|(_, child)| child.id().is_some()) {
            child.kill().await?;
        }
        Ok(())
    }
}

impl Start {
    /// Of `program`; what it prints goes to the end of `log`.
    pub fn new(program: &Path, log: PathBuf) -> Self {
        Self { program: program.to_owned(), arguments: Vec::new(), log }
    }

    /// With these arguments, too.
    pub fn args<A: Into<OsString>>(&mut self, arguments: impl IntoIterator<Item = A>) -> &mut Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        command.spawn().with_context(|| format!("cannot start {command:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_member_is_killed_started_and_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let mut start = Start::new(Path::new("/bin/sh"), log.clone());
        start.args(["-c", "trap 'kill $!; exit 0' TERM; tail --pid=$$ -f /dev/null & echo begun; wait"]);
        let begun = async |times: usize| {
            while std::fs::read_to_string(&log).unwrap().matches("begun").count() < times {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let mut group = Group::default();
        group.add(start).unwrap();
        begun(1).await;
        let first = group.pids();
        group.kill(0).await.unwrap();
        assert!(group.pids().is_empty());
        group.start(0).unwrap();
        begun(2).await;
        assert_ne!(group.pids(), first);
        group.stop(0).await.unwrap();
        group.change(0, Start::new(Path::new("/bin/false"), log.clone())).unwrap();
        group.start(0).unwrap();
        assert!(group.stop(1).await.is_err(), "there is no such member");
        group.end().await.unwrap();
    }
}
