//! Listens for questions over UDP and TCP.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::sync::watch;

use crate::{ServiceSnapshot, netlink::NetlinkError};

/// What the DNS server depends on besides Services.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// The cluster's domain: `cluster.local`.
    pub domain: String,
    /// Where to listen, such as `10.96.0.10:53`. The address is put on the loopback link of the caller's network namespace.
    pub listen: SocketAddr,
    /// Other addresses on the node to listen on, already present.
    pub also_listen: Vec<SocketAddr>,
    /// Where questions about other names go; empty answers them with SERVFAIL.
    pub upstreams: Vec<SocketAddr>,
    /// Time to live of the cluster's own records.
    pub ttl_seconds: u32,
}

impl Default for DnsConfig {
    fn default() -> DnsConfig {
        DnsConfig {
            domain: "cluster.local".to_owned(),
            listen: SocketAddr::from((Ipv4Addr::new(10, 96, 0, 10), 53)),
            also_listen: Vec::new(),
            upstreams: Vec::new(),
            ttl_seconds: 5,
        }
    }
}

/// What went wrong with the DNS server.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("put the DNS address {address} on the node")]
    Address { address: Ipv4Addr, source: NetlinkError },
    #[error("listen for DNS questions on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("network task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// A running DNS server; dropping it stops it.
#[derive(Debug)]
pub struct DnsServer {
    addresses: Vec<SocketAddr>,
}

impl DnsServer {
    /// Starts answering from the newest snapshot in `services`.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn start(_config: DnsConfig, _services: watch::Receiver<Arc<ServiceSnapshot>>) -> Result<DnsServer, DnsError> {
        unimplemented!()
    }

    /// Where it listens, with the ports really bound.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}
