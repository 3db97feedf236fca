//! What the agent must be told.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use rustls::server::ResolvesServerCert;
use trierarch_client::Client;
use trierarch_network::Cidr;

/// Everything [`crate::run`] needs. The caller is already inside the node's namespaces.
#[derive(Clone)]
pub struct AgentConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// The node's primary address.
    pub node_ip: Ipv4Addr,
    /// Pods, logs, records: everything of this node.
    pub data_dir: PathBuf,
    /// The content store, shared by the nodes of one machine.
    pub images_dir: PathBuf,
    /// Cgroup below which everything runs, relative to each hierarchy's mount.
    pub cgroup_parent: String,
    /// Authenticated as `system:node:NAME`.
    pub client: Client,
    /// The certificate of the streaming port.
    pub serving: Arc<dyn ResolvesServerCert>,
    /// The authority of the cluster, PEM: signs whoever may use the streaming port.
    pub cluster_ca_pem: Vec<u8>,
    /// Where the streaming server listens; `0.0.0.0:10250` by default.
    pub streaming_address: SocketAddr,
    /// Address of the cluster's DNS.
    pub cluster_dns: Ipv4Addr,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// The block of all pods.
    pub cluster_cidr: Cidr,
    /// The block of Service addresses.
    pub service_cidr: Cidr,
    /// Where other names are resolved; the node's `/etc/resolv.conf` when empty.
    pub dns_upstreams: Vec<SocketAddr>,
    /// The share of the machine this node offers; all of it when unset.
    pub cpu_millis: Option<i64>,
    /// The share of the machine's memory this node offers; all of it when unset.
    pub memory_bytes: Option<i64>,
    /// The share of the disk this node offers; that of `data_dir`'s file system when unset.
    pub ephemeral_storage_bytes: Option<i64>,
    /// Most pods.
    pub pods_max: i64,
    /// How images are fetched: mirrors (the masters), credentials, trust.
    pub registries: trierarch_images::RegistryOptions,
    /// How often the Lease is renewed.
    pub heartbeat: Duration,
    /// Labels of the Node beside the usual ones, set on registration.
    pub labels: BTreeMap<String, String>,
    /// Taints of the Node, set on registration.
    pub taints: Vec<Taint>,
    /// Version that the Node reports as `kubeletVersion`, such as `v1.37.2+trierarch.0.1.0`.
    pub version: String,
    /// `spec.providerID` of the Node.
    pub provider_id: Option<String>,
}

impl AgentConfig {
    /// A configuration with the cluster's defaults for all that a caller usually leaves alone.
    pub fn new(node_name: &str, node_ip: Ipv4Addr, client: Client, serving: Arc<dyn ResolvesServerCert>, cluster_ca_pem: Vec<u8>) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ip,
            data_dir: PathBuf::from("/var/lib/trierarch/node"),
            images_dir: PathBuf::from("/var/lib/trierarch/images"),
            cgroup_parent: format!("trierarch/{node_name}"),
            client,
            serving,
            cluster_ca_pem,
            streaming_address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10250),
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            cluster_domain: "cluster.local".to_owned(),
            cluster_cidr: cidr("10.244.0.0/16"),
            service_cidr: cidr("10.96.0.0/16"),
            dns_upstreams: Vec::new(),
            cpu_millis: None,
            memory_bytes: None,
            ephemeral_storage_bytes: None,
            pods_max: 110,
            registries: trierarch_images::RegistryOptions::default(),
            heartbeat: Duration::from_secs(1),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            version: concat!("v1.37.2+trierarch.", env!("CARGO_PKG_VERSION")).to_owned(),
            provider_id: None,
        }
    }

    /// The version of the runtime as the Node reports it.
    pub fn runtime_version() -> String {
        concat!("trierarch://", env!("CARGO_PKG_VERSION")).to_owned()
    }
}

fn cidr(text: &str) -> Cidr {
    text.parse().expect("the defaults are written correctly")
}
