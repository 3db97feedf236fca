//! One member of a fixed group, from its command line to a store that takes part.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use trierarch_raft::{Guard, Member, MemberRole, NodeId, Op, Store, StoreConfig, Txn, TxnId};

use crate::facade::cause;
use crate::keys;
use crate::tls::Identity;

/// How long the first member waits for each of the others to be made part of the group.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long a member waits for the group to be complete, and for what a group that is has for it.
const FORM_PATIENCE: Duration = Duration::from_secs(300);

/// Which member of which group this process is.
#[derive(Clone, Debug, clap::Args)]
pub struct MemberArgs {
    /// This member's id; the lowest of the group starts it.
    #[arg(long = "member", value_name = "N")]
    pub id: NodeId,
    /// All members and where they talk to each other.
    #[arg(long, value_name = "N=HOST:PORT", value_delimiter = ',', required = true, value_parser = numbered)]
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// All members and where clients reach them.
    #[arg(long, value_name = "N=HOST:PORT", value_delimiter = ',', required = true, value_parser = numbered)]
    pub clients: Vec<(NodeId, SocketAddr)>,
    /// Holds the store.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Holds ca.pem, member.pem and member.key.
    #[arg(long)]
    pub identity: PathBuf,
}

impl MemberArgs {
    /// Where this member takes clients.
    ///
    /// # Errors
    /// `--clients` does not name it.
    pub fn listen(&self) -> anyhow::Result<SocketAddr> {
        find(&self.clients, self.id).context("--clients does not name this member")
    }

    /// The PEM files.
    pub fn identity(&self) -> Identity {
        Identity::in_directory(&self.identity)
    }

    /// What the member is opened with.
    ///
    /// # Errors
    /// `--peers` or `--clients` does not name it, or a file of its identity is missing.
    pub fn config(&self) -> anyhow::Result<StoreConfig> {
        let mut config = StoreConfig::new(self.id, &self.data_dir);
        config.cluster_id = "etcd-facade".to_owned();
        config.peer_listen = find(&self.peers, self.id).context("--peers does not name this member")?;
        config.tls = Some(self.identity().peers()?);
        config.api_advertise = self.listen()?.to_string();
        Ok(config)
    }

    /// Opens the member; the one with the lowest id makes the group and takes the others in. Returns when the group is complete.
    ///
    /// # Errors
    /// The store does not open, or the group does not form in time.
    pub async fn open(&self) -> anyhow::Result<Store> {
        self.open_as(self.config()?).await
    }

    /// As [`MemberArgs::open`], with another configuration.
    ///
    /// # Errors
    /// As there.
    pub async fn open_as(&self, config: StoreConfig) -> anyhow::Result<Store> {
        let store = Store::open(config).await?;
        let formed = self.form(&store).await;
        if formed.is_err() {
            store.close().await;
        }
        formed.map(|()| store)
    }

    async fn form(&self, store: &Store) -> anyhow::Result<()> {
        if self.peers.iter().all(|(id, _)| *id >= self.id) {
            self.make_group(store).await?;
        }
        // written when the last member was taken in; a group that was complete before is so still
        store.view_at_least(1, FORM_PATIENCE).await.context("the group did not form in time")?;
        Ok(())
    }

    async fn make_group(&self, store: &Store) -> anyhow::Result<()> {
        store.initialize().await.context("cannot start the group")?;
        let known: BTreeMap<NodeId, Member> = store.status().members.into_iter().map(|member| (member.id, member)).collect();
        for (id, address) in self.peers.iter().filter(|(id, _)| !known.contains_key(id)) {
            let api_address = find(&self.clients, *id).map(|address| address.to_string()).unwrap_or_default();
            let member = Member { id: *id, peer_address: address.to_string(), api_address, role: MemberRole::Voter };
            store.add_member(member, JOIN_PATIENCE).await.with_context(|| format!("cannot take in member {id}"))?;
        }
        let formed = Op::Put { key: Bytes::from_static(keys::FORMED), value: Bytes::new(), split: 0, terms: Vec::new() };
        let txn = Txn {
            id: TxnId::random(),
            guards: vec![Guard::Absent { key: Bytes::from_static(keys::FORMED) }],
            ops: vec![formed],
            cause: cause("form"),
        };
        store.txn(txn, JOIN_PATIENCE).await.context("cannot note that the group is complete")?;
        Ok(())
    }
}

fn find(addresses: &[(NodeId, SocketAddr)], id: NodeId) -> Option<SocketAddr> {
    addresses.iter().find(|(known, _)| *known == id).map(|(_, address)| *address)
}

/// `N=HOST:PORT`.
///
/// # Errors
/// It is something else.
pub fn numbered(text: &str) -> Result<(NodeId, SocketAddr), String> {
    let (id, address) = text.split_once('=').ok_or("want N=HOST:PORT")?;
    Ok((id.parse().map_err(|error| format!("{error}"))?, address.parse().map_err(|error| format!("{error}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_numbered_addresses() {
        assert_eq!(numbered("2=127.0.0.1:80"), Ok((2, SocketAddr::from(([127, 0, 0, 1], 80)))));
        assert!(numbered("127.0.0.1:80").is_err());
        assert!(numbered("x=127.0.0.1:80").is_err());
    }
}
