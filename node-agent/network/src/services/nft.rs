//! Puts the rules of Services into the kernel.

use std::net::Ipv4Addr;

use crate::{Cidr, ServiceSnapshot, netlink::NetlinkError, nft::NftError};

/// What the rules of a node depend on besides Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRulesConfig {
    /// Addresses of the node on which NodePorts answer.
    pub node_ips: Vec<Ipv4Addr>,
    /// The block of all pods: traffic from it to a Service keeps its source.
    pub cluster_cidr: Cidr,
    /// The block of Service addresses: packets to one that nobody has are refused.
    pub service_cidr: Cidr,
    /// Service addresses that the node itself answers, such as that of DNS: they pass untouched.
    pub local_ips: Vec<Ipv4Addr>,
}

/// What went wrong with the rules.
#[derive(Debug, thiserror::Error)]
pub enum ServiceRulesError {
    #[error("load the rules of Services")]
    Load(#[source] NftError),
    #[error("change the rules of Services")]
    Change(#[source] NetlinkError),
    #[error("network task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// How much one [`ServiceRules::apply`] changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Changes sent to the kernel, 0 if nothing differed.
    pub changes: usize,
    /// The whole table was replaced: the first time, and when the kernel's table was not what it should be.
    pub replaced: bool,
}

/// The rules of Services of the node in whose namespace it was opened.
#[derive(Debug)]
pub struct ServiceRules {
    config: ServiceRulesConfig,
}

impl ServiceRules {
    /// Rules that nobody has applied yet; the kernel is not touched.
    pub fn new(config: ServiceRulesConfig) -> ServiceRules {
        ServiceRules { config }
    }

    /// Makes the kernel's rules those of the snapshot, by the smallest change, in one transaction.
    ///
    /// # Errors
    /// The kernel refuses, also the whole table anew; the rules are then as before.
    pub async fn apply(&mut self, _snapshot: &ServiceSnapshot) -> Result<Applied, ServiceRulesError> {
        unimplemented!("{:?}", self.config)
    }

    /// Removes the rules.
    ///
    /// # Errors
    /// `nft` is missing.
    pub async fn remove(&mut self) -> Result<(), ServiceRulesError> {
        unimplemented!()
    }
}
