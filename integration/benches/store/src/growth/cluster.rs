//! Three members of ours, and those that come later.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use trierarch_etcd_facade::tls::Identity;

use crate::codec::{Call, Reply};
use crate::group::Group;
use crate::protocol::{Account, Digest};
use crate::rows::Asked;
use crate::systems::{Plan, System};
use crate::traffic::{Endpoint, Link, OBJECTS};
use crate::{ask, clock};

/// Within this a member is where it shall be, or the run has failed.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two questions to a member that is not there yet.
const PAUSE: Duration = Duration::from_millis(5);

/// Where groups are made.
pub struct Ground {
    /// A member's program.
    pub program: PathBuf,
    /// Whose disk is used.
    pub directory: PathBuf,
}

/// A group of ours with its data.
pub struct Cluster {
    plan: Plan,
    group: Group,
    options: Vec<String>,
    directory: PathBuf,
    /// As clients see it.
    pub system: System,
}

impl Cluster {
    /// Starts three new members, and waits until they are a group.
    ///
    /// # Errors
    /// A process does not start, or they do not form a group in time.
    pub async fn begin(ground: &Ground, name: &str, options: &[String]) -> anyhow::Result<Self> {
        let directory = ground.directory.join(name);
        std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let identity = Identity::make(&directory)?;
        let plan = Plan::new(&ground.program, &directory, &identity)?;
        let mut group = Group::default();
        (0..plan.members().len()).try_for_each(|member| group.add(plan.start(member, options)?))?;
        let system = plan.native(&group)?;
        let cluster = Self { plan, group, options: options.to_vec(), directory, system };
        cluster.system.ready().await?;
        Ok(cluster)
    }

    /// Ends the group and removes its data.
    ///
    /// # Errors
    /// A process or a file is left.
    pub async fn end(self) -> anyhow::Result<()> {
        self.group.end().await?;
        Ok(std::fs::remove_dir_all(&self.directory)?)
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.system.endpoints.len()
    }

    /// Where a member takes clients.
    ///
    /// # Errors
    /// There is no such member.
    pub fn endpoint(&self, member: usize) -> anyhow::Result<&Endpoint> {
        self.system.endpoints.get(member).context("no such member")
    }

    /// Which member leads.
    ///
    /// # Errors
    /// None does.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        self.place(self.system.member(Asked::Leader).await?.address)
    }

    /// A member that does not lead.
    ///
    /// # Errors
    /// None answers.
    pub async fn follower(&self) -> anyhow::Result<usize> {
        self.place(self.system.member(Asked::Follower).await?.address)
    }

    fn place(&self, address: std::net::SocketAddr) -> anyhow::Result<usize> {
        self.system.endpoints.iter().position(|endpoint| endpoint.address == address).context("it is one of them")
    }

    /// How the leader stands.
    ///
    /// # Errors
    /// There is none.
    pub async fn account(&self) -> anyhow::Result<Account> {
        self.account_of(self.leader().await?).await
    }

    /// How a member stands.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn account_of(&self, member: usize) -> anyhow::Result<Account> {
        ask::account(self.endpoint(member)?).await
    }

    /// Kills a member, as a crash does.
    ///
    /// # Errors
    /// It has ended by itself.
    pub async fn kill(&mut self, member: usize) -> anyhow::Result<()> {
        self.group.kill(member).await
    }

    /// Has a member end orderly.
    ///
    /// # Errors
    /// It does not.
    pub async fn stop(&mut self, member: usize) -> anyhow::Result<()> {
        self.group.stop(member).await
    }

    /// Starts a member again; returns when that was.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self, member: usize) -> anyhow::Result<Instant> {
        let start = clock::now();
        self.group.start(member)?;
        self.system.pids = self.group.pids();
        Ok(start)
    }

    /// Starts one more member with no data, which nobody knows yet; returns its place and when that was.
    ///
    /// # Errors
    /// It does not start.
    pub fn add(&mut self) -> anyhow::Result<(usize, Instant)> {
        let member = self.plan.add()?;
        let start = clock::now();
        self.group.add(self.plan.start(member, &self.options)?)?;
        self.system = self.plan.native(&self.group)?;
        Ok((member, start))
    }

    /// Has the group take in the member that was added.
    ///
    /// # Errors
    /// It is refused.
    pub async fn take_in(&self, member: usize) -> anyhow::Result<()> {
        let peer = self.plan.members().get(member).context("no such member")?.peer;
        // any member of the group will do
        ask::add_member(self.endpoint(0)?, member as u64 + 1, peer).await
    }

    /// Stops all members orderly, and starts them with other options.
    ///
    /// # Errors
    /// A member does not end or start, or they do not become a group again in time.
    pub async fn restart(&mut self, options: &[String]) -> anyhow::Result<()> {
        self.options = options.to_vec();
        for member in 0..self.members() {
            self.stop(member).await?;
            self.group.change(member, self.plan.start(member, options)?)?;
        }
        for member in 0..self.members() {
            self.start(member)?;
        }
        self.system.ready().await
    }

    /// How long after `start` a member answers a linearizable read.
    ///
    /// # Errors
    /// It does not within [`PATIENCE`].
    pub async fn until_current(&self, member: usize, start: Instant) -> anyhow::Result<Duration> {
        let endpoint = self.endpoint(member)?;
        let key = format!("{OBJECTS}{:08}", 0);
        let answers = async || {
            let call = Call::Get { key: key.clone().into(), linearizable: true };
            Ok(matches!(Link::connect(endpoint).await?.ask(&call).await?, Reply::Found { keys: 1, .. }))
        };
        until(answers).await.with_context(|| format!("member {} does not come back", member + 1))?;
        Ok(start.elapsed())
    }

    /// Returns when an account of the member is as wanted.
    ///
    /// # Errors
    /// It is not within [`PATIENCE`].
    pub async fn until_account(&self, member: usize, wanted: impl Fn(&Account) -> bool) -> anyhow::Result<()> {
        let endpoint = self.endpoint(member)?;
        until(async || Ok(wanted(&ask::account(endpoint).await?)))
            .await
            .with_context(|| format!("member {} is not as expected", member + 1))
    }

    /// Returns when the member has applied all that the leader had when both were asked last.
    ///
    /// # Errors
    /// It has not within [`PATIENCE`].
    pub async fn until_level(&self, member: usize, leader: usize) -> anyhow::Result<()> {
        let is_level = async || {
            let applied = self.account_of(leader).await?.applied;
            Ok(self.account_of(member).await?.applied >= applied)
        };
        until(is_level).await.with_context(|| format!("member {} does not catch up", member + 1))
    }

    /// What all members have below a prefix.
    ///
    /// # Errors
    /// They do not have the same, or one does not answer.
    pub async fn agreed(&self, prefix: &str) -> anyhow::Result<Digest> {
        let mut agreed = None;
        for endpoint in &self.system.endpoints {
            let digest = ask::digest(endpoint, prefix).await?;
            ensure!(*agreed.get_or_insert(digest) == digest, "members differ below {prefix:?}: {agreed:?} and {digest:?}");
        }
        agreed.context("there is a member")
    }

    /// Bytes of a member's files.
    ///
    /// # Errors
    /// Of the file system.
    pub fn data_bytes(&self, member: usize, below: &str) -> anyhow::Result<u64> {
        bytes_below(&self.plan.data_dir(member).join(below))
    }
}

/// Asks until the answer is yes; errors are answers of a member that is not there yet.
async fn until(asked: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let asking = async {
        while !matches!(asked().await, Ok(true)) {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.context("in time")
}

fn bytes_below(path: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { bytes_below(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_directories_count() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("inner")).unwrap();
        std::fs::write(directory.path().join("a"), "123").unwrap();
        std::fs::write(directory.path().join("inner/b"), "45").unwrap();
        assert_eq!(bytes_below(directory.path()).unwrap(), 5);
        assert!(bytes_below(&directory.path().join("c")).is_err());
    }
}
