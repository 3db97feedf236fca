//! The bridge of `trierarch up`: a segment on this machine that joins the network namespaces of masters and nodes.
//!
//! Every step may be repeated, and everything can be removed by name, also after a crash.

use std::{fmt::Write, net::Ipv4Addr};

use netlink_packet_route::address::AddressScope;

use crate::{
    Cidr, HostPort, NetnsRef,
    link::{Link, Links, Route, VethPair},
    netlink::NetlinkError,
    netns::{self, NetnsError},
    nft::{self, NftError},
    sysctl::{self, SysctlError},
};

/// What went wrong with a bridge.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    #[error("{name:?} is no name for a link here: at most 15 of a-z, 0-9 and -, beginning with tri")]
    Name { name: String },
    #[error("bridge {name}")]
    Link { name: String, source: NetlinkError },
    #[error("bridge {name}: namespace")]
    Netns { name: String, source: NetnsError },
    #[error("bridge {name}: masquerading")]
    Masquerade { name: String, source: NftError },
    #[error("bridge {name}: forwarding")]
    Forwarding { name: String, source: SysctlError },
    #[error("bridge task ended early")]
    Task(#[from] tokio::task::JoinError),
}

/// A bridge in the network namespace of the caller, with the first address of its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    name: String,
    address: Cidr,
}

/// One namespace on the bridge.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Name of the end that stays on the bridge, such as `tri-n1`.
    pub link: String,
    /// The namespace that gets the other end.
    pub netns: NetnsRef,
    /// Name of the other end: usually `eth0`.
    pub interface: String,
    /// Its address; the segment's prefix length is added.
    pub ip: Ipv4Addr,
}

impl Bridge {
    /// The bridge, made if it is missing. `address` is its own address and the segment, such as `10.131.0.1/24`. What leaves the segment is
    /// masqueraded, and forwarding is on, so that namespaces on the bridge reach what this machine reaches.
    ///
    /// # Errors
    /// The name is unfit, or the kernel refuses.
    pub async fn ensure(name: &str, address: Cidr) -> Result<Bridge, BridgeError> {
        Bridge::ensure_published(name, address, Vec::new()).await
    }

    /// As [`Bridge::ensure`], with ports of this machine that lead to addresses on the bridge: those given and no others. Connections to
    /// this machine's own loopback are led there too.
    ///
    /// # Errors
    /// As [`Bridge::ensure`].
    pub async fn ensure_published(name: &str, address: Cidr, ports: Vec<(Ipv4Addr, HostPort)>) -> Result<Bridge, BridgeError> {
        let bridge = Bridge { name: checked(name)?, address };
        let work = bridge.clone();
        tokio::task::spawn_blocking(move || work.ensure_now(&ports)).await??;
        Ok(bridge)
    }

    /// The bridge's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bridge's address: the default gateway of what is attached.
    pub fn gateway(&self) -> Ipv4Addr {
        self.address.address()
    }

    /// Joins a namespace to the bridge: veth pair, address, loopback up, default route through the bridge.
    ///
    /// # Errors
    /// The link's name is unfit, the namespace is gone, or the kernel refuses.
    pub async fn attach(&self, attachment: Attachment) -> Result<(), BridgeError> {
        checked(&attachment.link)?;
        let work = self.clone();
        tokio::task::spawn_blocking(move || work.attach_now(&attachment)).await?
    }

    /// Cuts a namespace off by removing both ends of its pair; it is fine if they are gone.
    ///
    /// # Errors
    /// The name is unfit, or the kernel refuses.
    pub async fn detach(link: &str) -> Result<(), BridgeError> {
        let name = checked(link)?;
        tokio::task::spawn_blocking(move || {
            let failed = |source| BridgeError::Link { name: name.clone(), source };
            let mut links = Links::here().map_err(failed)?;
            match links.find(&name).map_err(failed)? {
                Some(link) => links.delete(link.index).map_err(failed),
                None => Ok(()),
            }
        })
        .await?
    }

    /// Removes the bridge of that name, every pair attached to it and its masquerading; it is fine if they are gone.
    ///
    /// # Errors
    /// The name is unfit, or the kernel refuses.
    pub async fn remove(name: &str) -> Result<(), BridgeError> {
        let name = checked(name)?;
        tokio::task::spawn_blocking(move || remove_now(&name)).await?
    }

    fn ensure_now(&self, ports: &[(Ipv4Addr, HostPort)]) -> Result<(), BridgeError> {
        let failed = |source| BridgeError::Link { name: self.name.clone(), source };
        let mut links = Links::here().map_err(failed)?;
        if links.find(&self.name).map_err(failed)?.is_none() {
            links.create_bridge(&self.name, "trierarch").map_err(failed)?;
        }
        let index = links.index(&self.name).map_err(failed)?;
        for (link, old) in links.addresses().map_err(failed)? {
            if link == index && old != self.address {
                links.delete_address(index, old).map_err(failed)?;
            }
        }
        links.add_address(index, self.address, AddressScope::Universe).map_err(failed)?;
        links.set_up(index).map_err(failed)?;
        sysctl::set("net/ipv4/ip_forward", "1").map_err(|source| BridgeError::Forwarding { name: self.name.clone(), source })?;
        if !ports.is_empty() {
            // what comes from 127.0.0.1 leaves by the bridge with its address
            let name = format!("net/ipv4/conf/{}/route_localnet", self.name);
            sysctl::set(&name, "1").map_err(|source| BridgeError::Forwarding { name: self.name.clone(), source })?;
        }
        nft::load(&rules(&self.name, self.address, ports)).map_err(|source| BridgeError::Masquerade { name: self.name.clone(), source })
    }

    fn attach_now(&self, attachment: &Attachment) -> Result<(), BridgeError> {
        let failed = |source| BridgeError::Link { name: attachment.link.clone(), source };
        let lost = |source| BridgeError::Netns { name: attachment.link.clone(), source };
        let netns = attachment.netns.open().map_err(lost)?;
        let mut links = Links::here().map_err(failed)?;
        let mut inside = Links::inside(netns::borrow(&netns)).map_err(failed)?;
        let bridge = links.index(&self.name).map_err(failed)?;
        let outer = links.find(&attachment.link).map_err(failed)?;
        let inner = inside.find(&attachment.interface).map_err(failed)?;
        let inner = match (outer, inner) {
            (Some(_), Some(inner)) => inner,
            (outer, inner) => {
                self.replace_pair(&mut links, &mut inside, attachment, [outer, inner]).map_err(failed)?;
                let made = inside.find(&attachment.interface).map_err(failed)?;
                made.ok_or_else(|| failed(missing(&attachment.interface)))?
            }
        };
        let outer = links.index(&attachment.link).map_err(failed)?;
        links.set_controller(outer, bridge).map_err(failed)?;
        links.set_up(outer).map_err(failed)?;
        let loopback = inside.index("lo").map_err(failed)?;
        inside.set_up(loopback).map_err(failed)?;
        let address = Cidr::new(attachment.ip, self.address.prefix()).expect("the prefix comes from a block");
        inside.add_address(inner.index, address, AddressScope::Universe).map_err(failed)?;
        inside.set_up(inner.index).map_err(failed)?;
        let default = Cidr::new(Ipv4Addr::UNSPECIFIED, 0).expect("0 is a prefix length");
        let route = Route { destination: default, gateway: Some(self.gateway()), link: inner.index, onlink: false, source: None };
        inside.set_route(&route).map_err(failed)
    }

    /// Removes half a pair left by a crash or by an older namespace, and makes a whole one.
    fn replace_pair(
        &self,
        links: &mut Links,
        inside: &mut Links,
        attachment: &Attachment,
        [outer, inner]: [Option<Link>; 2],
    ) -> Result<(), NetlinkError> {
        if let Some(outer) = outer {
            links.delete(outer.index)?;
        }
        if let Some(inner) = inner {
            inside.delete(inner.index)?;
        }
        let netns = attachment.netns.open().map_err(NetlinkError::Namespace)?;
        links.create_veth(&VethPair {
            name: &attachment.link,
            alias: Some("trierarch"),
            mac: None,
            mtu: None,
            peer_name: &attachment.interface,
            peer_mac: None,
            peer_netns: netns::borrow(&netns),
        })
    }
}

fn missing(name: &str) -> NetlinkError {
    NetlinkError::Refused { what: format!("look up link {name}"), source: std::io::Error::from_raw_os_error(libc::ENODEV) }
}

fn remove_now(name: &str) -> Result<(), BridgeError> {
    let failed = |source| BridgeError::Link { name: name.to_owned(), source };
    let mut links = Links::here().map_err(failed)?;
    if let Some(bridge) = links.find(name).map_err(failed)? {
        for link in links.list().map_err(failed)? {
            if link.controller == Some(bridge.index) && link.name.starts_with("tri") {
                links.delete(link.index).map_err(failed)?;
            }
        }
        links.delete(bridge.index).map_err(failed)?;
    }
    nft::remove_table(&table(name)).map_err(|source| BridgeError::Masquerade { name: name.to_owned(), source })
}

fn table(bridge: &str) -> String {
    format!("trierarch-{bridge}")
}

/// The rules that let the segment reach what this machine reaches, and that lead published ports to it.
fn rules(name: &str, address: Cidr, ports: &[(Ipv4Addr, HostPort)]) -> String {
    let (table, segment) = (table(name), address.masked());
    let mut text = format!("add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n");
    if !ports.is_empty() {
        for (chain, hook) in [("prerouting", "dstnat"), ("output", "-100")] {
            let _ = writeln!(text, "\tchain {chain} {{\n\t\ttype nat hook {chain} priority {hook}");
            for (to, port) in ports {
                let on = match port.host_ip.filter(|ip| !ip.is_unspecified()) {
                    Some(ip) => format!("ip daddr {ip}"),
                    None => "fib daddr type local".to_owned(),
                };
                let (protocol, from, to_port) = (port.protocol.name(), port.host_port, port.container_port);
                let _ = writeln!(text, "\t\t{on} {protocol} dport {from} dnat to {to}:{to_port}");
            }
            let _ = writeln!(text, "\t}}");
        }
        // with the loopback addresses routable by the bridge, nobody else may send from or to them
        let _ = writeln!(
            text,
            "\tchain loopback {{\n\t\ttype filter hook input priority filter\n\
             \t\tiifname != \"lo\" ip daddr 127.0.0.0/8 ct state != {{ established, related }} drop\n\t}}"
        );
    }
    let _ = write!(
        text,
        "\tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat\n\
         \t\tip saddr {segment} ip daddr != {segment} oifname != \"{name}\" masquerade\n\
         \t\tip saddr {{ {segment}, 127.0.0.0/8 }} oifname \"{name}\" ct status dnat masquerade\n\
         \t}}\n\
         }}\n"
    );
    text
}

/// The name, if it is short, plain and recognizably ours.
fn checked(name: &str) -> Result<String, BridgeError> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if plain && name.len() <= 15 && name.starts_with("tri") {
        return Ok(name.to_owned());
    }
    Err(BridgeError::Name { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    #[test]
    fn names_are_ours_or_refused() {
        for good in ["tri0", "tri-n1", "tritest-bridge1"] {
            assert_eq!(checked(good).unwrap(), good);
        }
        for bad in ["", "eth0", "tritest-bridge12", "tri n", "tri;x", "Tri0"] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_leaves_the_segment_is_masqueraded() {
        let text = rules("tri0", "10.131.0.1/24".parse().unwrap(), &[]);
        assert!(text.contains("ip saddr 10.131.0.0/24 ip daddr != 10.131.0.0/24 oifname != \"tri0\" masquerade"), "{text}");
    }

    #[test]
    fn published_ports_lead_to_the_segment() {
        let port = |host_ip: Option<&str>, protocol, host_port| HostPort {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            protocol,
            host_port,
            container_port: 80,
        };
        let to = Ipv4Addr::new(10, 89, 0, 2);
        let ports = [(to, port(None, Protocol::Tcp, 8080)), (to, port(Some("127.0.0.1"), Protocol::Udp, 53))];
        let text = rules("tri0", "10.89.0.1/16".parse().unwrap(), &ports);
        for line in [
            "type nat hook prerouting priority dstnat\n\t\tfib daddr type local tcp dport 8080 dnat to 10.89.0.2:80\n",
            "ip daddr 127.0.0.1 udp dport 53 dnat to 10.89.0.2:80\n",
            "ip saddr { 10.89.0.0/16, 127.0.0.0/8 } oifname \"tri0\" ct status dnat masquerade\n",
            "iifname != \"lo\" ip daddr 127.0.0.0/8 ct state != { established, related } drop\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
    }
}
