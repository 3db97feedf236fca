//! The pod network of one node: addresses, links, routes and host ports, in the node's network namespace.

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf};

use crate::{
    Cidr, NetnsRef, Protocol,
    ipam::IpamError,
    netlink::NetlinkError,
    netns::NetnsError,
    nft::NftError,
    sysctl::SysctlError,
};

/// What the pod network of a node depends on.
#[derive(Debug, Clone)]
pub struct PodNetworkConfig {
    /// The node's address, by which other nodes reach it.
    pub node_ip: Ipv4Addr,
    /// The node's block, `spec.podCIDR`.
    pub pod_cidr: Cidr,
    /// The block of all pods: traffic inside it is never masqueraded.
    pub cluster_cidr: Cidr,
    /// The pods' MTU; by default that of the link that has the node's address, less the tunnel's overhead where there is one.
    pub mtu: Option<u32>,
    /// Send to other nodes through VXLAN even if they share a link.
    pub always_tunnel: bool,
    /// The folder for the record of addresses and host ports.
    pub state_dir: PathBuf,
}

/// A pod that wants a network.
#[derive(Debug, Clone)]
pub struct PodAttachment {
    /// Names the pod's sandbox: at most one attachment has it.
    pub id: String,
    /// The pod's network namespace.
    pub netns: NetnsRef,
    /// Ports of the node that lead to the pod.
    pub host_ports: Vec<HostPort>,
}

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct HostPort {
    /// Only packets to this address of the node; otherwise to any.
    pub host_ip: Option<Ipv4Addr>,
    pub protocol: Protocol,
    pub host_port: u16,
    pub container_port: u16,
}

/// What an attached pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAddress {
    pub id: String,
    pub ip: Ipv4Addr,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    pub node_ip: Ipv4Addr,
    pub pod_cidr: Cidr,
}

/// What went wrong with the pod network.
#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    #[error("address for pod {id}")]
    Address { id: String, source: IpamError },
    #[error("links of pod {id}")]
    Links { id: String, source: NetlinkError },
    #[error("network namespace of pod {id}")]
    Netns { id: String, source: NetnsError },
    #[error("kernel settings of pod {id}")]
    PodSetting { id: String, source: SysctlError },
    #[error("kernel settings of the node")]
    NodeSetting(#[source] SysctlError),
    #[error("links of the node")]
    NodeLinks(#[source] NetlinkError),
    #[error("rules for pods and host ports")]
    Rules(#[source] NftError),
    #[error("network task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// The pod network of the node in whose namespace it was opened.
#[derive(Debug)]
pub struct PodNetwork {
    config: PodNetworkConfig,
}

impl PodNetwork {
    /// Prepares the node: forwarding, settings, the rules for pods. What an earlier agent left stays as it is until [`PodNetwork::reconcile`].
    ///
    /// # Errors
    /// The kernel refuses something.
    pub async fn open(config: PodNetworkConfig) -> Result<PodNetwork, PodNetworkError> {
        Ok(PodNetwork { config })
    }

    /// Gives the pod its address, link and routes. Repeating it repairs what is missing and returns the same address.
    ///
    /// # Errors
    /// No address is left, the namespace is gone, or the kernel refuses; nothing stays behind then except the address, which
    /// [`PodNetwork::detach`] frees.
    pub async fn attach(&self, _pod: &PodAttachment) -> Result<PodAddress, PodNetworkError> {
        unimplemented!("{:?}", self.config)
    }

    /// Takes the pod's link, routes, host ports and address away; it is fine if they are gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn detach(&self, _id: &str) -> Result<(), PodNetworkError> {
        unimplemented!()
    }

    /// The attached pods.
    pub fn list(&self) -> Vec<PodAddress> {
        unimplemented!()
    }

    /// After an agent's restart: detaches every pod that is not in `wanted` and returns the ids of wanted ones that need a new attachment.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn reconcile(&self, _wanted: &BTreeSet<String>) -> Result<Vec<String>, PodNetworkError> {
        unimplemented!()
    }

    /// Makes the routes to the other nodes' blocks exactly those of `peers`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn set_peers(&self, _peers: &[Peer]) -> Result<(), PodNetworkError> {
        unimplemented!()
    }

    /// Removes everything this node's network consists of: pods' links, routes, tunnel, rules, the record.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove_all(&self) -> Result<(), PodNetworkError> {
        unimplemented!()
    }
}
