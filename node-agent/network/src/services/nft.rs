//! Puts the rules of Services into the kernel.

//!
//! The table is loaded whole by `nft` once, and again if the kernel's differs from what it should be; every other change is one nfnetlink
//! transaction that names only what differs. Connections survive both, since their translations live in the connection table.

use std::{net::Ipv4Addr, sync::Arc};

use parking_lot::Mutex;

use super::{
    diff::{self, diff},
    rules::{RuleSet, rules},
    text, wire,
};
use crate::{
    Cidr, ServiceSnapshot,
    netlink::{Netlink, NetlinkError},
    nft::{self, NftError},
};

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

/// The rules of Services of the node in whose namespace they are applied first.
#[derive(Clone)]
pub struct ServiceRules {
    kernel: Arc<Mutex<Kernel>>,
}

/// What one change at a time works on.
struct Kernel {
    config: ServiceRulesConfig,
    socket: Option<Netlink>,
    /// The rules in the kernel, once they were loaded.
    present: Option<RuleSet>,
}

impl ServiceRules {
    /// Rules that nobody has applied yet; the kernel is not touched.
    pub fn new(config: ServiceRulesConfig) -> ServiceRules {
        ServiceRules { kernel: Arc::new(Mutex::new(Kernel { config, socket: None, present: None })) }
    }

    /// Makes the kernel's rules those of the snapshot, by the smallest change, in one transaction.
    ///
    /// # Errors
    /// The kernel refuses, also the whole table anew; the rules are then as before.
    pub async fn apply(&self, snapshot: &ServiceSnapshot) -> Result<Applied, ServiceRulesError> {
        let (kernel, snapshot) = (Arc::clone(&self.kernel), snapshot.clone());
        tokio::task::spawn_blocking(move || kernel.lock().apply(&snapshot)).await?
    }

    /// The rules in the kernel, for the tracer; none before the first application.
    pub fn present(&self) -> Option<RuleSet> {
        self.kernel.lock().present.clone()
    }

    /// Removes the rules.
    ///
    /// # Errors
    /// `nft` is missing.
    pub async fn remove(&self) -> Result<(), ServiceRulesError> {
        let kernel = Arc::clone(&self.kernel);
        tokio::task::spawn_blocking(move || {
            kernel.lock().present = None;
            nft::remove_table(text::TABLE).map_err(ServiceRulesError::Load)
        })
        .await?
    }
}

impl std::fmt::Debug for ServiceRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceRules").finish_non_exhaustive()
    }
}

impl Kernel {
    fn apply(&mut self, snapshot: &ServiceSnapshot) -> Result<Applied, ServiceRulesError> {
        let wanted = rules(snapshot, &self.config);
        let old = self.present.take();
        let applied = match &old {
            Some(present) => self.change(present, &wanted),
            None => self.replace(&wanted),
        };
        let applied = match applied {
            Ok(applied) => applied,
            Err(e) => {
                // What is in the kernel is unknown or as before; loading it whole next time is right in both cases.
                self.present = None;
                return Err(e);
            }
        };
        let old = old.unwrap_or_default();
        if diff::udp_targets_changed(&old, &wanted) {
            self.forget_stale_flows(&old, &wanted)?;
        }
        self.present = Some(wanted);
        Ok(applied)
    }

    fn change(&mut self, present: &RuleSet, wanted: &RuleSet) -> Result<Applied, ServiceRulesError> {
        let changes = diff(present, wanted);
        if changes.is_empty() {
            return Ok(Applied::default());
        }
        match self.socket()?.transact("change the rules of Services", &wire::messages(&changes)) {
            Ok(()) => Ok(Applied { changes: changes.len(), replaced: false }),
            Err(error) => {
                tracing::warn!(%error, cause = std::error::Error::source(&error).map(ToString::to_string), "Rules in the kernel were not as expected and are replaced");
                self.replace(wanted)
            }
        }
    }

    fn replace(&mut self, wanted: &RuleSet) -> Result<Applied, ServiceRulesError> {
        nft::load(&text::table(wanted, &self.config)).map_err(ServiceRulesError::Load)?;
        Ok(Applied { changes: diff(&RuleSet::default(), wanted).len(), replaced: true })
    }

    fn forget_stale_flows(&mut self, old: &RuleSet, wanted: &RuleSet) -> Result<(), ServiceRulesError> {
        let node_ips = self.config.node_ips.clone();
        let socket = self.socket()?;
        let flows = socket.udp_flows().map_err(ServiceRulesError::Change)?;
        for flow in flows.iter().filter(|flow| diff::stale(old, wanted, &node_ips, flow.to, flow.answered_by)) {
            socket.forget(flow).map_err(ServiceRulesError::Change)?;
        }
        Ok(())
    }

    fn socket(&mut self) -> Result<&mut Netlink, ServiceRulesError> {
        if self.socket.is_none() {
            self.socket = Some(Netlink::open(libc::NETLINK_NETFILTER).map_err(ServiceRulesError::Change)?);
        }
        Ok(self.socket.as_mut().expect("it was opened above"))
    }
}
