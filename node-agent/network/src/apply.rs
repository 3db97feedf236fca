//! The pod network of one node: addresses, links, routes and host ports, in the node's network namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use netlink_packet_route::address::AddressScope;
use parking_lot::Mutex;

use crate::{
    Cidr, NetnsRef, Protocol,
    ipam::{IpamError, Record},
    link::{Link, Links, Route, VethPair, Vxlan},
    netlink::NetlinkError,
    netns::{self, NetnsError},
    nft::{self, NftError},
    plan::{self, Present, Repair, Way},
    pod_rules::{self, PodRules},
    sysctl::{self, SysctlError},
};

/// The pods' default gateway: an address no link has, for which the node answers and whose hardware address pods are told.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The hardware address of the node's end of every pair, so that pods' neighbour entries never go stale.
const NODE_MAC: [u8; 6] = [0xee; 6];
/// The tunnel to nodes that share no link with this one.
const TUNNEL: &str = "tri-vxlan";
const TUNNEL_ID: u32 = 84;
const TUNNEL_PORT: u16 = 8472;
/// Outer Ethernet, IP, UDP and VXLAN headers.
const TUNNEL_OVERHEAD_BYTES: u32 = 50;

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
    #[error("record of host ports {path}")]
    HostPorts { path: PathBuf, source: std::io::Error },
    #[error("network task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// The pod network of the node in whose namespace it was opened.
#[derive(Clone)]
pub struct PodNetwork {
    node: Arc<Mutex<Node>>,
}

/// What one change at a time works on.
struct Node {
    config: PodNetworkConfig,
    links: Links,
    record: Record,
    host_ports: BTreeMap<String, Vec<HostPort>>,
    peers: Vec<Peer>,
    /// The node's address with its link's prefix, and that link; absent if no link has the address.
    uplink: Option<(Cidr, Link)>,
    /// The rules in the kernel.
    rules: PodRules,
}

impl PodNetwork {
    /// Prepares the node: forwarding, settings, the rules for pods. What an earlier agent left stays as it is until [`PodNetwork::reconcile`].
    ///
    /// # Errors
    /// The kernel refuses something.
    pub async fn open(config: PodNetworkConfig) -> Result<PodNetwork, PodNetworkError> {
        let node = tokio::task::spawn_blocking(move || Node::open(config)).await??;
        Ok(PodNetwork { node: Arc::new(Mutex::new(node)) })
    }

    /// Gives the pod its address, link and routes. Repeating it repairs what is missing and returns the same address.
    ///
    /// # Errors
    /// No address is left, the namespace is gone, or the kernel refuses; nothing stays behind then except the address, which
    /// [`PodNetwork::detach`] frees.
    pub async fn attach(&self, pod: &PodAttachment) -> Result<PodAddress, PodNetworkError> {
        let pod = pod.clone();
        self.perform(move |node| node.attach(&pod)).await
    }

    /// Takes the pod's link, routes, host ports and address away; it is fine if they are gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn detach(&self, id: &str) -> Result<(), PodNetworkError> {
        let id = id.to_owned();
        self.perform(move |node| node.detach(&id)).await
    }

    /// The attached pods.
    pub fn list(&self) -> Vec<PodAddress> {
        let node = self.node.lock();
        node.record.ipam().owners().iter().map(|(ip, id)| PodAddress { id: id.clone(), ip: *ip }).collect()
    }

    /// After an agent's restart: detaches every pod that is not in `wanted` and returns the ids of wanted ones that need a new attachment.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn reconcile(&self, wanted: &BTreeSet<String>) -> Result<Vec<String>, PodNetworkError> {
        let wanted = wanted.clone();
        self.perform(move |node| node.reconcile(&wanted)).await
    }

    /// Makes the routes to the other nodes' blocks exactly those of `peers`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn set_peers(&self, peers: &[Peer]) -> Result<(), PodNetworkError> {
        let peers = peers.to_vec();
        self.perform(move |node| node.set_peers(peers)).await
    }

    /// Removes everything this node's network consists of: pods' links, routes, tunnel, rules, the record.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove_all(&self) -> Result<(), PodNetworkError> {
        self.perform(Node::remove_all).await
    }

    async fn perform<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Node) -> Result<T, PodNetworkError> + Send + 'static,
    ) -> Result<T, PodNetworkError> {
        let node = Arc::clone(&self.node);
        tokio::task::spawn_blocking(move || work(&mut node.lock())).await?
    }
}

impl std::fmt::Debug for PodNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodNetwork").finish_non_exhaustive()
    }
}

impl Node {
    fn open(config: PodNetworkConfig) -> Result<Node, PodNetworkError> {
        for (name, value) in [
            ("net/ipv4/ip_forward", "1"),
            // The strictest of `all` and a link's own setting counts: pods' links check sources, the node's own link need not.
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            // A pod that reaches itself through a Service must not be told of a shorter way.
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
        ] {
            sysctl::set(name, value).map_err(PodNetworkError::NodeSetting)?;
        }
        let mut links = Links::here().map_err(PodNetworkError::NodeLinks)?;
        let uplink = find_uplink(&mut links, config.node_ip).map_err(PodNetworkError::NodeLinks)?;
        let record = Record::open(&config.state_dir.join("addresses.json"), config.pod_cidr);
        let host_ports = read_host_ports(&host_ports_path(&config));
        let rules =
            PodRules { pod_cidr: config.pod_cidr, cluster_cidr: config.cluster_cidr, direct: Vec::new(), host_ports: BTreeMap::new() };
        let mut node = Node { config, links, record, host_ports, peers: Vec::new(), uplink, rules };
        node.rules = node.wanted_rules();
        nft::load(&node.rules.text()).map_err(PodNetworkError::Rules)?;
        Ok(node)
    }

    fn attach(&mut self, pod: &PodAttachment) -> Result<PodAddress, PodNetworkError> {
        let ip = self.record.allocate(&pod.id).map_err(|source| PodNetworkError::Address { id: pod.id.clone(), source })?;
        let netns = pod.netns.open().map_err(|source| PodNetworkError::Netns { id: pod.id.clone(), source })?;
        let name = plan::link_name(&pod.id);
        let failed = |source| PodNetworkError::Links { id: pod.id.clone(), source };
        let mut inside = Links::inside(netns::borrow(&netns)).map_err(failed)?;
        if let Err(source) = self.link_pod(&pod.id, &name, ip, &mut inside, netns::borrow(&netns)) {
            // Half a pair is worse than none: the next attempt begins from nothing.
            if let Ok(Some(link)) = self.links.find(&name) {
                let _ = self.links.delete(link.index);
            }
            return Err(source);
        }
        if self.host_ports.get(&pod.id).map_or(&[][..], Vec::as_slice) != pod.host_ports {
            self.host_ports.insert(pod.id.clone(), pod.host_ports.clone());
            self.save_host_ports()?;
            self.update_rules()?;
        }
        Ok(PodAddress { id: pod.id.clone(), ip })
    }

    fn link_pod(
        &mut self,
        id: &str,
        name: &str,
        ip: Ipv4Addr,
        inside: &mut Links,
        netns: std::os::fd::BorrowedFd<'_>,
    ) -> Result<(), PodNetworkError> {
        let failed = |source| PodNetworkError::Links { id: id.to_owned(), source };
        let outer = self.links.find(name).map_err(failed)?;
        let inner = inside.find("eth0").map_err(failed)?;
        if outer.is_none() || inner.is_none() {
            if let Some(outer) = outer {
                self.links.delete(outer.index).map_err(failed)?;
            }
            if let Some(inner) = inner {
                inside.delete(inner.index).map_err(failed)?;
            }
            let pair = VethPair {
                name,
                alias: Some(&plan::link_alias(id)),
                mac: Some(NODE_MAC),
                mtu: Some(self.mtu()),
                peer_name: "eth0",
                peer_mac: Some(plan::pod_mac(ip)),
                peer_netns: netns,
            };
            self.links.create_veth(&pair).map_err(failed)?;
        }
        for (setting, value) in [
            ("rp_filter", "1"),
            ("proxy_arp", "1"),
            ("send_redirects", "0"),
            // A host port on 127.0.0.1 leads to a pod; the rules keep pods from reaching the node's loopback in return.
            ("route_localnet", "1"),
        ] {
            sysctl::set(&format!("net/ipv4/conf/{name}/{setting}"), value)
                .map_err(|source| PodNetworkError::PodSetting { id: id.to_owned(), source })?;
        }
        // By default the node would wait up to 0.8 s before it answers ARP for the gateway.
        sysctl::set_if_known(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0")
            .and_then(|()| sysctl::set_if_known(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1"))
            .map_err(|source| PodNetworkError::PodSetting { id: id.to_owned(), source })?;
        let outer = self.links.index(name).map_err(failed)?;
        self.links.set_up(outer).map_err(failed)?;
        self.configure_inside(inside, ip).map_err(failed)?;
        self.links.set_neighbour(outer, ip, plan::pod_mac(ip)).map_err(failed)?;
        let source = self.uplink.as_ref().map(|(address, _)| address.address());
        let route = Route { destination: Cidr::host(ip), gateway: None, link: outer, onlink: false, source };
        self.links.set_route(&route).map_err(failed)
    }

    fn configure_inside(&self, inside: &mut Links, ip: Ipv4Addr) -> Result<(), NetlinkError> {
        let loopback = inside.index("lo")?;
        inside.set_up(loopback)?;
        let eth0 = inside.index("eth0")?;
        inside.add_address(eth0, Cidr::host(ip), AddressScope::Universe)?;
        inside.set_up(eth0)?;
        let gateway = Route { destination: Cidr::host(GATEWAY), gateway: None, link: eth0, onlink: false, source: None };
        inside.set_route(&gateway)?;
        let everything = Cidr::new(Ipv4Addr::UNSPECIFIED, 0).expect("0 is a prefix length");
        let default = Route { destination: everything, gateway: Some(GATEWAY), link: eth0, onlink: true, source: None };
        inside.set_route(&default)?;
        inside.set_neighbour(eth0, GATEWAY, NODE_MAC)
    }

    fn detach(&mut self, id: &str) -> Result<(), PodNetworkError> {
        let failed = |source| PodNetworkError::Links { id: id.to_owned(), source };
        if let Some(link) = self.links.find(&plan::link_name(id)).map_err(failed)? {
            self.links.delete(link.index).map_err(failed)?;
        }
        if self.host_ports.remove(id).is_some() {
            self.save_host_ports()?;
            self.update_rules()?;
        }
        self.record.release(id).map_err(|source| PodNetworkError::Address { id: id.to_owned(), source })?;
        Ok(())
    }

    fn reconcile(&mut self, wanted: &BTreeSet<String>) -> Result<Vec<String>, PodNetworkError> {
        let present = self.present().map_err(PodNetworkError::NodeLinks)?;
        let mut missing = Vec::new();
        for repair in plan::repairs(&present, wanted) {
            match repair {
                Repair::DeleteLink { index } => self.links.delete(index).map_err(PodNetworkError::NodeLinks)?,
                Repair::Release { id } => {
                    self.record.release(&id).map_err(|source| PodNetworkError::Address { id, source })?;
                }
                Repair::Adopt { id, ip } => {
                    self.record.adopt(&id, ip).map_err(|source| PodNetworkError::Address { id, source })?;
                }
                Repair::Attach { id } => missing.push(id),
            }
        }
        let ports = self.host_ports.len();
        self.host_ports.retain(|id, _| wanted.contains(id));
        if ports != self.host_ports.len() {
            self.save_host_ports()?;
        }
        self.update_rules()?;
        Ok(missing)
    }

    fn present(&mut self) -> Result<Present, NetlinkError> {
        let mut present = Present::default();
        for link in self.links.list()? {
            if let Some(id) = link.alias.as_deref().and_then(plan::pod_of_alias) {
                present.links.insert(id.to_owned(), link.index);
            }
        }
        for route in self.links.our_routes()? {
            if route.gateway.is_none() && route.destination.prefix() == 32 {
                present.routed.insert(route.link, route.destination.address());
            }
        }
        present.owners = self.record.ipam().owners().iter().map(|(ip, id)| (id.clone(), *ip)).collect();
        Ok(present)
    }

    fn set_peers(&mut self, mut peers: Vec<Peer>) -> Result<(), PodNetworkError> {
        peers.retain(|peer| peer.node_ip != self.config.node_ip && peer.pod_cidr.masked() != self.config.pod_cidr.masked());
        peers.sort();
        peers.dedup();
        self.route_to(&peers).map_err(PodNetworkError::NodeLinks)?;
        self.peers = peers;
        self.update_rules()
    }

    fn route_to(&mut self, peers: &[Peer]) -> Result<(), NetlinkError> {
        let mut wanted = Vec::new();
        for peer in peers {
            match (self.way(peer), &self.uplink) {
                (Way::Direct, Some((address, link))) => wanted.push(Route {
                    destination: peer.pod_cidr.masked(),
                    gateway: Some(peer.node_ip),
                    link: link.index,
                    onlink: false,
                    source: Some(address.address()),
                }),
                _ => wanted.push(self.tunnel_to(peer)?),
            }
        }
        let tunnel = self.links.find(TUNNEL)?;
        let left = self.peers.iter().filter(|old| !peers.contains(old) && self.way(old) == Way::Tunnel);
        for peer in left.cloned().collect::<Vec<_>>() {
            if let Some(tunnel) = &tunnel {
                self.links.delete_forwarding(tunnel.index, plan::tunnel_mac(peer.node_ip), peer.node_ip)?;
            }
        }
        let (gone, new) = plan::route_changes(&self.links.our_routes()?, &wanted, self.config.cluster_cidr);
        for route in gone {
            self.links.delete_route(&route)?;
        }
        for route in new {
            self.links.set_route(&route)?;
        }
        Ok(())
    }

    /// The route through the tunnel, with everything it needs in place.
    fn tunnel_to(&mut self, peer: &Peer) -> Result<Route, NetlinkError> {
        let own = plan::tunnel_address(self.config.pod_cidr);
        if self.links.find(TUNNEL)?.is_none() {
            let mtu = self.uplink.as_ref().map_or(1500, |(_, link)| link.mtu) - TUNNEL_OVERHEAD_BYTES;
            self.links.create_vxlan(&Vxlan {
                name: TUNNEL,
                id: TUNNEL_ID,
                port: TUNNEL_PORT,
                local: self.config.node_ip,
                mac: plan::tunnel_mac(self.config.node_ip),
                mtu,
            })?;
        }
        let link = self.links.index(TUNNEL)?;
        self.links.add_address(link, Cidr::host(own), AddressScope::Universe)?;
        self.links.set_up(link)?;
        let (mac, gateway) = (plan::tunnel_mac(peer.node_ip), plan::tunnel_address(peer.pod_cidr));
        self.links.set_forwarding(link, mac, peer.node_ip)?;
        self.links.set_neighbour(link, gateway, mac)?;
        Ok(Route { destination: peer.pod_cidr.masked(), gateway: Some(gateway), link, onlink: true, source: Some(own) })
    }

    fn remove_all(&mut self) -> Result<(), PodNetworkError> {
        self.reconcile(&BTreeSet::new())?;
        self.set_peers(Vec::new())?;
        if let Some(tunnel) = self.links.find(TUNNEL).map_err(PodNetworkError::NodeLinks)? {
            self.links.delete(tunnel.index).map_err(PodNetworkError::NodeLinks)?;
        }
        nft::remove_table(pod_rules::TABLE).map_err(PodNetworkError::Rules)
    }

    fn way(&self, peer: &Peer) -> Way {
        plan::way(self.uplink.as_ref().map(|(address, _)| *address), peer, self.config.always_tunnel)
    }

    fn mtu(&self) -> u32 {
        let link = self.uplink.as_ref().map_or(1500, |(_, link)| link.mtu);
        let tunnelled = self.config.always_tunnel || self.peers.iter().any(|peer| self.way(peer) == Way::Tunnel);
        self.config.mtu.unwrap_or(if tunnelled { link - TUNNEL_OVERHEAD_BYTES } else { link })
    }

    fn wanted_rules(&self) -> PodRules {
        let ports = self.host_ports.iter().filter_map(|(id, ports)| Some((id.clone(), (self.record.ipam().find(id)?, ports.clone()))));
        PodRules {
            pod_cidr: self.config.pod_cidr,
            cluster_cidr: self.config.cluster_cidr,
            direct: self.peers.iter().filter(|peer| self.way(peer) == Way::Direct).map(|peer| peer.node_ip).collect(),
            host_ports: ports.collect(),
        }
    }

    /// The table is small (host ports are rare) and replaced whole, in one transaction, and only if it differs.
    fn update_rules(&mut self) -> Result<(), PodNetworkError> {
        let wanted = self.wanted_rules();
        if wanted != self.rules {
            nft::load(&wanted.text()).map_err(PodNetworkError::Rules)?;
            self.rules = wanted;
        }
        Ok(())
    }

    fn save_host_ports(&self) -> Result<(), PodNetworkError> {
        let path = host_ports_path(&self.config);
        let ports: BTreeMap<&String, &Vec<HostPort>> = self.host_ports.iter().filter(|(_, ports)| !ports.is_empty()).collect();
        let written = serde_json::to_vec(&ports).map_err(std::io::Error::from).and_then(|bytes| {
            std::fs::create_dir_all(&self.config.state_dir)?;
            let fresh = path.with_extension("new");
            std::fs::write(&fresh, bytes)?;
            std::fs::rename(&fresh, &path)
        });
        written.map_err(|source| PodNetworkError::HostPorts { path, source })
    }
}

fn host_ports_path(config: &PodNetworkConfig) -> PathBuf {
    config.state_dir.join("host-ports.json")
}

/// What the record says; an unreadable one is empty, and attaching the pods again restores it.
fn read_host_ports(path: &Path) -> BTreeMap<String, Vec<HostPort>> {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn find_uplink(links: &mut Links, node_ip: Ipv4Addr) -> Result<Option<(Cidr, Link)>, NetlinkError> {
    let found = links.addresses()?.into_iter().find(|(_, address)| address.address() == node_ip);
    let Some((index, address)) = found else { return Ok(None) };
    Ok(links.list()?.into_iter().find(|link| link.index == index).map(|link| (address, link)))
}
