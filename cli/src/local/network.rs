//! The network of containers that belong to no cluster: a bridge of their own, an address each, published ports. One for the whole machine;
//! it comes with the first container and goes with the last.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use trierarch_network::bridge::{Attachment, Bridge};
use trierarch_network::{Cidr, HostPort, NetnsRef, Protocol};

use super::options::show_port;

/// The bridge.
const BRIDGE: &str = "tri-run";
/// Its address.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);
/// Of the segment.
const PREFIX_LENGTH: u8 = 16;
/// What does not outlive the machine's run.
const STATE_DIR: &str = "/run/trierarch";

/// Who has which address and ports.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Book {
    containers: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: Ipv4Addr,
    ports: Vec<HostPort>,
}

impl Book {
    /// The lowest address that nobody has.
    fn free_address(&self) -> Option<Ipv4Addr> {
        let first = u32::from(GATEWAY) + 1;
        let last = (u32::from(GATEWAY) | ((1 << (32 - PREFIX_LENGTH)) - 1)) - 1;
        (first..=last).map(Ipv4Addr::from).find(|address| !self.containers.values().any(|entry| entry.address == *address))
    }

    /// The container that has this port of the machine already.
    fn holder(&self, port: &HostPort) -> Option<&str> {
        let any = |port: &HostPort| port.host_ip.is_none_or(|ip| ip.is_unspecified());
        let same = |other: &HostPort| {
            (other.protocol, other.host_port) == (port.protocol, port.host_port)
                && (any(other) || any(port) || other.host_ip == port.host_ip)
        };
        self.containers.iter().find(|(_, entry)| entry.ports.iter().any(same)).map(|(id, _)| id.as_str())
    }

    /// Every port with the address that it leads to.
    fn published(&self) -> Vec<(Ipv4Addr, HostPort)> {
        self.containers.values().flat_map(|entry| entry.ports.iter().map(move |port| (entry.address, port.clone()))).collect()
    }
}

/// The book, held by one process at a time.
struct Held {
    path: PathBuf,
    book: Book,
    _lock: File,
}

impl Held {
    fn open(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let lock = File::create(dir.join("run-network.lock")).and_then(|file| file.lock().map(|()| file));
        let lock = lock.with_context(|| format!("cannot lock the network of containers in {}", dir.display()))?;
        let path = dir.join("run-network.json");
        let book = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Book::default(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Ok(Self { path, book, _lock: lock })
    }

    fn save(&self) -> anyhow::Result<()> {
        let new = self.path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&self.book)?)
            .and_then(|()| std::fs::rename(&new, &self.path))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn link(id: &str) -> String {
    format!("tri-r-{}", &id[..id.len().min(8)])
}

/// Whether somebody on this machine listens on a port that is to be published.
fn taken(port: &HostPort) -> bool {
    let address = (port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), port.host_port);
    match port.protocol {
        Protocol::Udp => UdpSocket::bind(address).is_err(),
        _ => TcpListener::bind(address).is_err(),
    }
}

/// Gives a container's network namespace an address and publishes its ports.
///
/// # Errors
/// When a port is taken or the kernel refuses; nothing is left then.
pub async fn join(id: &str, netns: NetnsRef, ports: &[HostPort]) -> anyhow::Result<Ipv4Addr> {
    let mut held = Held::open(Path::new(STATE_DIR))?;
    for port in ports {
        if let Some(holder) = held.book.holder(port) {
            bail!("cannot publish {}: container {holder} has it", show_port(port));
        }
        if taken(port) {
            bail!("cannot publish {}: the port is taken on this machine", show_port(port));
        }
    }
    let address = held.book.free_address().context("the network of containers has no free address")?;
    held.book.containers.insert(id.to_owned(), Entry { address, ports: ports.to_vec() });
    // on record first: whoever finds the record after a crash removes what it stands for
    held.save()?;
    let made = async {
        let gateway = Cidr::new(GATEWAY, PREFIX_LENGTH).context("the network of containers is no network")?;
        let ports = held.book.published();
        let bridge = Bridge::ensure_published(BRIDGE, gateway, ports).await.context("cannot make the bridge of containers")?;
        let attachment = Attachment { link: link(id), netns, interface: "eth0".to_owned(), ip: address };
        bridge.attach(attachment).await.context("cannot join the container to its network")
    };
    if let Err(error) = made.await {
        drop(held);
        leave(id).await?;
        return Err(error);
    }
    Ok(address)
}

/// Takes a container off the network; the last one takes the network along. It is fine if it is off already.
///
/// # Errors
/// When the kernel refuses.
pub async fn leave(id: &str) -> anyhow::Result<()> {
    let mut held = Held::open(Path::new(STATE_DIR))?;
    if held.book.containers.remove(id).is_none() {
        return Ok(());
    }
    Bridge::detach(&link(id)).await.context("cannot remove a container's link")?;
    if held.book.containers.is_empty() {
        Bridge::remove(BRIDGE).await.context("cannot remove the bridge of containers")?;
        std::fs::remove_file(&held.path).with_context(|| format!("cannot remove {}", held.path.display()))?;
        return Ok(());
    }
    let gateway = Cidr::new(GATEWAY, PREFIX_LENGTH).context("the network of containers is no network")?;
    Bridge::ensure_published(BRIDGE, gateway, held.book.published()).await.context("cannot change the network of containers")?;
    held.save()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::options::published;

    fn book(entries: &[(&str, u8, &[&str])]) -> Book {
        let entry = |last: u8, ports: &[&str]| Entry {
            address: Ipv4Addr::new(10, 89, 0, last),
            ports: ports.iter().map(|port| published(port).expect("a port")).collect(),
        };
        Book { containers: entries.iter().map(|(id, last, ports)| ((*id).to_owned(), entry(*last, ports))).collect() }
    }

    #[test]
    fn the_lowest_free_address_is_given() {
        assert_eq!(Book::default().free_address(), Some(Ipv4Addr::new(10, 89, 0, 2)));
        assert_eq!(book(&[("a", 2, &[]), ("b", 4, &[])]).free_address(), Some(Ipv4Addr::new(10, 89, 0, 3)));
    }

    #[test]
    fn a_port_is_given_once() {
        let book = book(&[("a", 2, &["8080:80", "127.0.0.1:9090:90"])]);
        for (port, holder) in [
            ("8080:1", Some("a")),
            ("127.0.0.1:8080:1", Some("a")),
            ("8080:1/udp", None),
            ("9090:1", Some("a")),
            ("127.0.0.2:9090:1", None),
        ] {
            assert_eq!(book.holder(&published(port).expect("a port")), holder, "{port}");
        }
        assert_eq!(book.published().len(), 2);
    }

    #[test]
    fn the_book_survives_the_disk() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut held = Held::open(dir.path()).expect("opened");
        held.book = book(&[("a", 2, &["53:53/udp"])]);
        held.save().expect("saved");
        drop(held);
        assert_eq!(Held::open(dir.path()).expect("opened").book, book(&[("a", 2, &["53:53/udp"])]));
    }

    #[test]
    fn link_names_fit_the_kernel() {
        assert_eq!(link("0123456789ab"), "tri-r-01234567");
        assert!(link("0123456789ab").len() <= 15);
    }
}
