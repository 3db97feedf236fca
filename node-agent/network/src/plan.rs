//! Decides how the node's network comes from what is there to what is wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::{Cidr, apply::Peer, link::Route};

/// What an agent that starts finds on its node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Present {
    /// Links of pods: their index by the pod's id.
    pub(crate) links: BTreeMap<String, u32>,
    /// Addresses by pod, from the routes to the pods' links.
    pub(crate) routed: BTreeMap<u32, Ipv4Addr>,
    /// Owners in the record of addresses.
    pub(crate) owners: BTreeMap<String, Ipv4Addr>,
}

/// A step of a reconciliation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Repair {
    /// Nobody wants the pod of this link.
    DeleteLink { index: u32 },
    /// Nobody wants the pod of this address.
    Release { id: String },
    /// The pod has an address that the record lost.
    Adopt { id: String, ip: Ipv4Addr },
    /// The pod is wanted, but its link or address is missing.
    Attach { id: String },
}

/// The steps from what is present to the wanted pods, in order.
pub(crate) fn repairs(present: &Present, wanted: &BTreeSet<String>) -> Vec<Repair> {
    let mut repairs = Vec::new();
    repairs.extend(present.links.iter().filter(|(id, _)| !wanted.contains(*id)).map(|(_, index)| Repair::DeleteLink { index: *index }));
    repairs.extend(present.owners.keys().filter(|id| !wanted.contains(*id)).map(|id| Repair::Release { id: id.clone() }));
    for id in wanted {
        let routed = present.links.get(id).and_then(|index| present.routed.get(index)).copied();
        match (routed, present.owners.get(id).copied()) {
            (Some(ip), owned) if owned != Some(ip) => repairs.push(Repair::Adopt { id: id.clone(), ip }),
            (Some(_), _) => {}
            (None, _) => repairs.push(Repair::Attach { id: id.clone() }),
        }
    }
    repairs
}

/// How frames reach another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// The nodes share a link: a plain route.
    Direct,
    /// Through the tunnel.
    Tunnel,
}

/// The way to `peer` for a node whose own address on its link is `uplink`.
pub(crate) fn way(uplink: Option<Cidr>, peer: &Peer, always_tunnel: bool) -> Way {
    match uplink {
        Some(uplink) if !always_tunnel && uplink.contains(peer.node_ip) => Way::Direct,
        _ => Way::Tunnel,
    }
}

/// The address of a node's end of the tunnel: the first of its block.
pub(crate) fn tunnel_address(block: Cidr) -> Ipv4Addr {
    block.network()
}

/// The hardware address of a node's end of the tunnel, which everyone can compute from the node's address.
pub(crate) fn tunnel_mac(node_ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = node_ip.octets();
    [0x0e, 0x54, a, b, c, d]
}

/// The hardware address of a pod's end of its pair.
pub(crate) fn pod_mac(pod_ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = pod_ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// Routes to take away and to make, so that of the routes through gateways to pods exactly `wanted` stay. The node's other routes, its
/// default one above all, are nobody's business here.
pub(crate) fn route_changes(present: &[Route], wanted: &[Route], cluster: Cidr) -> (Vec<Route>, Vec<Route>) {
    let to_pods = |route: &Route| cluster.contains(route.destination.network()) && route.destination.prefix() >= cluster.prefix();
    let through = present.iter().filter(|route| route.gateway.is_some() && to_pods(route));
    let gone = through.filter(|route| !wanted.iter().any(|w| w.destination == route.destination)).cloned().collect();
    let new = wanted.iter().filter(|route| !present.contains(route)).cloned().collect();
    (gone, new)
}

/// The name of a pod's link on the node: `tri` and twelve digits made from the id, since ids are longer than names may be.
pub(crate) fn link_name(id: &str) -> String {
    let hash = crate::services::rules::hash(id.as_bytes());
    format!("tri{:012x}", hash & 0xffff_ffff_ffff)
}

/// What a pod's link says of its owner.
pub(crate) fn link_alias(id: &str) -> String {
    format!("trierarch pod {id}")
}

/// The pod that a link says it belongs to.
pub(crate) fn pod_of_alias(alias: &str) -> Option<&str> {
    alias.strip_prefix("trierarch pod ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ip: &str, block: &str) -> Peer {
        Peer { node_ip: ip.parse().unwrap(), pod_cidr: block.parse().unwrap() }
    }

    #[test]
    fn nodes_on_one_link_need_no_tunnel() {
        let uplink = "10.131.0.21/24".parse().ok();
        assert_eq!(way(uplink, &peer("10.131.0.22", "10.244.2.0/24"), false), Way::Direct);
        assert_eq!(way(uplink, &peer("10.131.0.22", "10.244.2.0/24"), true), Way::Tunnel);
        assert_eq!(way(uplink, &peer("10.132.0.22", "10.244.2.0/24"), false), Way::Tunnel);
        assert_eq!(way(None, &peer("10.131.0.22", "10.244.2.0/24"), false), Way::Tunnel);
    }

    #[test]
    fn a_restart_keeps_what_is_wanted_and_drops_the_rest() {
        let ip = |n| Ipv4Addr::new(10, 244, 1, n);
        let present = Present {
            links: [("kept", 5), ("gone", 6), ("lost-record", 7)].map(|(id, i)| (id.to_owned(), i)).into(),
            routed: [(5, ip(5)), (6, ip(6)), (7, ip(7))].into(),
            owners: [("kept", ip(5)), ("gone", ip(6)), ("never-linked", ip(8))].map(|(id, a)| (id.to_owned(), a)).into(),
        };
        let wanted = ["kept", "lost-record", "never-linked", "new"].map(str::to_owned).into();
        let expected = vec![
            Repair::DeleteLink { index: 6 },
            Repair::Release { id: "gone".into() },
            Repair::Adopt { id: "lost-record".into(), ip: ip(7) },
            Repair::Attach { id: "never-linked".into() },
            Repair::Attach { id: "new".into() },
        ];
        assert_eq!(repairs(&present, &wanted), expected);
    }

    #[test]
    fn only_routes_through_gateways_are_compared() {
        let route = |block: &str, gateway: Option<&str>| Route {
            destination: block.parse().unwrap(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            link: 2,
            onlink: false,
            source: None,
        };
        let pod = route("10.244.1.5/32", None);
        let (old, kept) = (route("10.244.3.0/24", Some("10.131.0.23")), route("10.244.2.0/24", Some("10.131.0.22")));
        let moved = route("10.244.4.0/24", Some("10.131.0.24"));
        let default = route("0.0.0.0/0", Some("10.131.0.1"));
        let cluster = "10.244.0.0/16".parse().unwrap();
        let (gone, new) = route_changes(&[default, pod, old.clone(), kept.clone()], &[kept, moved.clone()], cluster);
        assert_eq!((gone, new), (vec![old], vec![moved]));
    }

    #[test]
    fn link_names_are_short_and_differ() {
        let (a, b) = (link_name("3f8c0a52-0000-4000-8000-000000000001"), link_name("3f8c0a52-0000-4000-8000-000000000002"));
        assert_eq!(a.len(), 15);
        assert_ne!(a, b);
    }
}
