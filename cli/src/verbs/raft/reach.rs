//! Which masters there are, and how each of them is asked for itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde_json::Value;
use trierarch_client::{Client, Config, Error, Request, kubeconfig};

use crate::cluster::topology::{API_PORT, Topology};

/// How long one master may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a change of leadership or members may take.
const CHANGE_PATIENCE: Duration = Duration::from_secs(20);

/// A master.
#[derive(Clone, Debug)]
pub struct Master {
    /// `m1` in a cluster of `up`, otherwise its number.
    pub name: String,
    /// `host:port` of its API.
    pub address: String,
}

/// The masters of a cluster.
pub struct Reach {
    /// All of them, living or not.
    pub masters: Vec<Master>,
    /// The cluster of `up`, if it is one.
    pub topology: Option<Topology>,
    config: Config,
}

impl Reach {
    /// The masters of the cluster in `data_dir`, or else of that in the kubeconfig.
    ///
    /// # Errors
    /// There is neither, or the kubeconfig's servers do not answer.
    pub async fn find(data_dir: &Path) -> anyhow::Result<Self> {
        if let Some(topology) = crate::cluster::load(data_dir)? {
            let config = kubeconfig::load(&[topology.kubeconfig()])?.resolve(None, "trierarch-raft")?.config;
            let master =
                |host: &crate::cluster::topology::Host| Master { name: host.name.clone(), address: format!("{}:{API_PORT}", host.address) };
            return Ok(Self { masters: topology.masters.iter().map(master).collect(), topology: Some(topology), config });
        }
        let none = || format!("no cluster is up in {}, and $KUBECONFIG leads to none: start one with trierarch up", data_dir.display());
        let config = kubeconfig::load(&kubeconfig::default_paths())?.resolve(None, "trierarch-raft").with_context(none)?.config;
        let client = Client::new(Config { timeout: PATIENCE, ..config.clone() })?;
        let status: Value = client.get("/raft/v1/status").await.context("no master answers")?;
        let members = status["members"].as_array().into_iter().flatten();
        let master =
            |member: &Value| Some(Master { name: member["id"].as_u64()?.to_string(), address: member["api_address"].as_str()?.to_owned() });
        Ok(Self { masters: members.filter_map(master).collect(), topology: None, config })
    }

    /// A client that asks this master and nobody else. `timeout`: of each request; streams have none.
    ///
    /// # Errors
    /// The kubeconfig is of no use.
    pub fn client(&self, master: &Master, timeout: Duration) -> Result<Client, Error> {
        Client::new(Config { servers: vec![format!("https://{}", master.address)], timeout, ..self.config.clone() })
    }

    /// A client that asks this master, and does not wait long.
    ///
    /// # Errors
    /// The kubeconfig is of no use.
    pub fn quick_client(&self, master: &Master) -> Result<Client, Error> {
        self.client(master, PATIENCE)
    }

    /// What a master says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self, master: &Master) -> Result<Value, Error> {
        self.quick_client(master)?.get("/raft/v1/status").await
    }

    /// A master by its name.
    ///
    /// # Errors
    /// There is no such master.
    pub fn master(&self, name: &str) -> anyhow::Result<&Master> {
        let names = || self.masters.iter().map(|master| master.name.as_str()).collect::<Vec<_>>().join(", ");
        self.masters.iter().find(|master| master.name == name).with_context(|| format!("no master {name:?}; there are {}", names()))
    }

    /// The master of this name, or all of them.
    ///
    /// # Errors
    /// There is no such master.
    pub fn some(&self, name: Option<&str>) -> anyhow::Result<Vec<&Master>> {
        name.map_or_else(|| Ok(self.masters.iter().collect()), |name| Ok(vec![self.master(name)?]))
    }

    /// The members of the group and who leads them, as the best informed living master knows.
    ///
    /// # Errors
    /// No master answers.
    pub async fn group(&self) -> anyhow::Result<Value> {
        let statuses = futures::future::join_all(self.masters.iter().map(|master| self.status(master))).await;
        let answers = statuses.into_iter().flatten();
        answers
            .max_by_key(|status| (status["leader"].is_u64(), status["term"].as_u64(), status["applied"].as_u64()))
            .context("no master answers")
    }

    /// The number of the member that a name, or a number, stands for.
    ///
    /// # Errors
    /// There is no such member.
    pub async fn member_id(&self, name: &str) -> anyhow::Result<u64> {
        self.member_of(&self.group().await?, name)
    }

    /// As [`Reach::member_id`], in a group that is known.
    ///
    /// # Errors
    /// As there.
    pub fn member_of(&self, group: &Value, name: &str) -> anyhow::Result<u64> {
        let members: Vec<&Value> = group["members"].as_array().into_iter().flatten().collect();
        let address = self.masters.iter().find(|master| master.name == name).map(|master| master.address.as_str());
        let is_meant = |member: &Value| match address {
            Some(address) => member["api_address"] == address,
            None => member["id"].as_u64().is_some_and(|id| id.to_string() == name),
        };
        let meant: Vec<u64> = members.iter().filter(|member| is_meant(member)).filter_map(|member| member["id"].as_u64()).collect();
        match meant.as_slice() {
            [id] => Ok(*id),
            [] => bail!("{name:?} is no member of the group; see trierarch raft status"),
            several => bail!("{name:?} stands for members {several:?}: name one by its number"),
        }
    }

    /// Has one living master do something, whichever it is.
    ///
    /// # Errors
    /// No master answers, or it is refused.
    pub async fn post(&self, path: &str) -> anyhow::Result<()> {
        let mut last = None;
        for master in &self.masters {
            match self.post_to(master, path).await {
                Err(error @ Error::Transport { unsent: true, .. }) => last = Some(error),
                done => return Ok(done?),
            }
        }
        match last {
            Some(error) => Err(error).context("no master answers"),
            None => bail!("the cluster has no masters"),
        }
    }

    /// Has this master do something.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn post_to(&self, master: &Master, path: &str) -> Result<(), Error> {
        let request = Request { method: http::Method::POST, path: path.to_owned(), ..Request::default() };
        self.ask(master, request).await.map(drop)
    }

    /// What this master answers to a request that may take its time.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn ask(&self, master: &Master, request: Request) -> Result<Bytes, Error> {
        Ok(self.client(master, CHANGE_PATIENCE)?.request(request).await?.body)
    }
}
