//! What `up` builds, decided before anything is touched: names, addresses, ports and shares of the machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::quantity;

/// What a user may choose.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Name of the cluster; part of every link, cgroup and namespace name.
    pub name: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// How many masters: 1, 3 or 5.
    pub masters: u8,
    /// How many nodes.
    pub nodes: u8,
    /// First three bytes of the machines' network, such as 10.131.0.
    pub network: Ipv4Addr,
    /// Port on loopback that leads to the masters.
    pub port: u16,
    /// CPUs of each node in thousandths; `None`: an equal share of the machine.
    pub node_cpu_millis: Option<u64>,
    /// Memory of each node in bytes; `None`: an equal share of the machine.
    pub node_memory_bytes: Option<u64>,
}

/// What the machine has.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Usable CPUs in thousandths.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// A cluster on one machine. Kept as `cluster.json`; `down` needs nothing else to remove it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Name of the cluster.
    pub name: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The bridge that joins the machines.
    pub bridge: String,
    /// The bridge's own address: the machines' gateway.
    pub gateway: Ipv4Addr,
    /// Loopback port that leads to the masters.
    pub port: u16,
    /// The masters.
    pub masters: Vec<Host>,
    /// The nodes.
    pub nodes: Vec<Host>,
    /// CPUs of each node in thousandths.
    pub node_cpu_millis: u64,
    /// Memory of each node in bytes.
    pub node_memory_bytes: u64,
    /// The masters take experiments with elections.
    #[serde(default)]
    pub experiments: bool,
}

/// A machine of the cluster: a network namespace with one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name: `m1`, `n1`.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The bridge's end of its link.
    pub link: String,
}

/// Prefix length of the machines' network.
pub const PREFIX_LENGTH: u8 = 24;
/// Port of each master's API.
pub const API_PORT: u16 = 6443;
/// Port of each master for its peers.
pub const PEER_PORT: u16 = 6444;

/// A wish that cannot be fulfilled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// The name is part of link names.
    #[error("invalid cluster name {0:?}: use 1 to 6 lower case letters and digits, beginning with a letter")]
    Name(String),
    /// Even numbers of masters tolerate no more failures than one fewer.
    #[error("{0} masters: use 1, 3 or 5, so that a majority survives a failure")]
    Masters(u8),
    /// At least one.
    #[error("{0} nodes: use 1 to 50")]
    Nodes(u8),
    /// It must be a /24.
    #[error("invalid network {0}: give the first address of a /24, such as 10.131.0.0")]
    Network(Ipv4Addr),
    /// A node cannot have more than all.
    #[error("{0} CPU for each node: this machine has {1}")]
    Cpu(String, String),
    /// A node cannot have more than all.
    #[error("{0} MiB of memory for each node: this machine has {1} MiB")]
    Memory(u64, u64),
}

/// The cluster that fulfils a wish on a machine.
///
/// # Errors
/// [`WishError`].
pub fn plan(wish: &Wish, machine: Machine) -> Result<Topology, WishError> {
    let name_ok = (1..=6).contains(&wish.name.len())
        && wish.name.starts_with(|c: char| c.is_ascii_lowercase())
        && wish.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !name_ok {
        return Err(WishError::Name(wish.name.clone()));
    }
    if ![1, 3, 5].contains(&wish.masters) {
        return Err(WishError::Masters(wish.masters));
    }
    if !(1..=50).contains(&wish.nodes) {
        return Err(WishError::Nodes(wish.nodes));
    }
    let [a, b, c, d] = wish.network.octets();
    if d != 0 {
        return Err(WishError::Network(wish.network));
    }
    if let Some(wanted) = wish.node_cpu_millis.filter(|wanted| *wanted > machine.cpu_millis) {
        return Err(WishError::Cpu(quantity::show_cpu(wanted), quantity::show_cpu(machine.cpu_millis)));
    }
    if let Some(wanted) = wish.node_memory_bytes.filter(|wanted| *wanted > machine.memory_bytes) {
        return Err(WishError::Memory(wanted >> 20, machine.memory_bytes >> 20));
    }
    let host = |prefix: char, base: u8, index: u8| Host {
        name: format!("{prefix}{index}"),
        address: Ipv4Addr::new(a, b, c, base + index),
        link: format!("tri-{}-{prefix}{index}", wish.name),
    };
    Ok(Topology {
        name: wish.name.clone(),
        data_dir: wish.data_dir.clone(),
        bridge: format!("tri-{}", wish.name),
        gateway: Ipv4Addr::new(a, b, c, 1),
        port: wish.port,
        masters: (1..=wish.masters).map(|index| host('m', 10, index)).collect(),
        nodes: (1..=wish.nodes).map(|index| host('n', 20, index)).collect(),
        node_cpu_millis: wish.node_cpu_millis.unwrap_or(machine.cpu_millis / u64::from(wish.nodes)).max(100),
        node_memory_bytes: wish.node_memory_bytes.unwrap_or(machine.memory_bytes / u64::from(wish.nodes)),
        experiments: false,
    })
}

impl Topology {
    /// `https://ADDRESS:6443` of every master.
    pub fn servers(&self) -> Vec<String> {
        self.masters.iter().map(|host| format!("https://{}:{API_PORT}", host.address)).collect()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// Where a master keeps its files.
    pub fn master_dir(&self, host: &Host) -> PathBuf {
        self.data_dir.join("masters").join(&host.name)
    }

    /// Where a node keeps its files.
    pub fn node_dir(&self, host: &Host) -> PathBuf {
        self.data_dir.join("nodes").join(&host.name)
    }

    /// The content store that masters and nodes of one machine share.
    pub fn images_dir(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// Sockets, pid files, namespaces: what does not survive `down`.
    pub fn run_dir(&self) -> PathBuf {
        run_dir(&self.data_dir)
    }

    /// The file by which a host's network namespace is held.
    pub fn netns(&self, host: &Host) -> PathBuf {
        self.run_dir().join("netns").join(&host.name)
    }

    /// A node's cgroup below the hierarchies' roots.
    pub fn node_cgroup(&self, host: &Host) -> String {
        format!("trierarch/{}/{}", self.name, host.name)
    }

    /// Where a part's log goes.
    pub fn log(&self, part: &str) -> PathBuf {
        self.data_dir.join("log").join(format!("{part}.log"))
    }
}

/// Where a cluster's volatile files are.
pub fn run_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("run")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish {
            name: "demo".to_owned(),
            data_dir: "/var/lib/trierarch".into(),
            masters: 3,
            nodes: 2,
            network: Ipv4Addr::new(10, 131, 0, 0),
            port: 6443,
            node_cpu_millis: None,
            node_memory_bytes: None,
        }
    }

    const MACHINE: Machine = Machine { cpu_millis: 2000, memory_bytes: 8 << 30 };

    #[test]
    fn nodes_never_advertise_the_machine_twice() {
        let topology = plan(&wish(), MACHINE).expect("a plan");
        assert_eq!(topology.node_cpu_millis * 2, MACHINE.cpu_millis);
        assert_eq!(topology.node_memory_bytes * 2, MACHINE.memory_bytes);
    }

    #[test]
    fn every_link_name_fits_the_kernel() {
        let longest = plan(&Wish { name: "abcdef".to_owned(), nodes: 50, masters: 5, ..wish() }, MACHINE).expect("a plan");
        let links = longest.masters.iter().chain(&longest.nodes).map(|host| &host.link).chain([&longest.bridge]);
        for link in links {
            assert!(link.len() <= 15, "{link} is longer than IFNAMSIZ - 1");
        }
    }

    #[test]
    fn addresses_are_distinct() {
        let topology = plan(&Wish { masters: 5, nodes: 50, ..wish() }, MACHINE).expect("a plan");
        let mut addresses: Vec<_> =
            topology.masters.iter().chain(&topology.nodes).map(|host| host.address).chain([topology.gateway]).collect();
        let count = addresses.len();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), count);
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        for (bad, expected) in [
            (Wish { name: "Demo".to_owned(), ..wish() }, WishError::Name("Demo".to_owned())),
            (Wish { name: "toolong".to_owned(), ..wish() }, WishError::Name("toolong".to_owned())),
            (Wish { masters: 2, ..wish() }, WishError::Masters(2)),
            (Wish { nodes: 0, ..wish() }, WishError::Nodes(0)),
            (Wish { network: Ipv4Addr::new(10, 0, 0, 1), ..wish() }, WishError::Network(Ipv4Addr::new(10, 0, 0, 1))),
            (Wish { node_cpu_millis: Some(2500), ..wish() }, WishError::Cpu("2.5".to_owned(), "2".to_owned())),
            (Wish { node_memory_bytes: Some(9 << 30), ..wish() }, WishError::Memory(9 << 10, 8 << 10)),
        ] {
            assert_eq!(plan(&bad, MACHINE), Err(expected));
        }
    }
}
