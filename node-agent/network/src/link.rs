//! Links, addresses, routes and neighbours of one network namespace, through rtnetlink.
//!
//! A [`Links`] is a socket in a namespace. Calls block for as long as the kernel takes, which is well below a millisecond; asynchronous
//! callers run a whole sequence of them on a blocking thread.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::{
    Cidr,
    netlink::{Netlink, NetlinkError},
};

/// The protocol number on routes that the agent made, so that it recognizes them after a restart and touches no other.
pub(crate) const OUR_ROUTES: u8 = 84;

/// Six bytes of hardware address.
pub(crate) type Mac = [u8; 6];

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) controller: Option<u32>,
}

/// Both ends of a new veth pair; the second end is born inside `peer_netns`, so it never shows up here.
pub(crate) struct VethPair<'a> {
    pub(crate) name: &'a str,
    pub(crate) alias: Option<&'a str>,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: Option<u32>,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: Option<Mac>,
    pub(crate) peer_netns: BorrowedFd<'a>,
}

/// A VXLAN device without learning: whom it talks to is told by forwarding entries.
pub(crate) struct Vxlan<'a> {
    pub(crate) name: &'a str,
    pub(crate) id: u32,
    pub(crate) port: u16,
    pub(crate) local: Ipv4Addr,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
}

/// An IPv4 route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) destination: Cidr,
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) link: u32,
    /// The gateway need not lie in a subnet of the link.
    pub(crate) onlink: bool,
    pub(crate) source: Option<Ipv4Addr>,
}

/// The links of one network namespace.
pub(crate) struct Links {
    netlink: Netlink,
}

impl Links {
    /// Those of the calling thread's namespace.
    pub(crate) fn here() -> Result<Links, NetlinkError> {
        Ok(Links { netlink: Netlink::open(libc::NETLINK_ROUTE)? })
    }

    /// Those of another namespace.
    pub(crate) fn inside(netns: BorrowedFd<'_>) -> Result<Links, NetlinkError> {
        Ok(Links { netlink: Netlink::open_in(netns, i32::try_from(NETLINK_ROUTE).expect("the protocol number is 0"))? })
    }

    /// The link of that name, if there is one.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.netlink.get(&format!("look up link {name}"), RouteNetlinkMessage::GetLink(message)) {
            Ok(answers) => Ok(answers.into_iter().find_map(link_of)),
            Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All links.
    pub(crate) fn list(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self.netlink.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.into_iter().filter_map(link_of).collect())
    }

    /// Makes a bridge.
    pub(crate) fn create_bridge(&mut self, name: &str, alias: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.netlink.create(&format!("make bridge {name}"), RouteNetlinkMessage::NewLink(message), NLM_F_EXCL)?;
        let index = self.index(name)?;
        self.set_alias(index, alias)
    }

    /// Makes a veth pair.
    pub(crate) fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<(), NetlinkError> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(pair.peer_name.to_owned()));
        peer.attributes.push(LinkAttribute::NetNsFd(pair.peer_netns.as_raw_fd()));
        peer.attributes.extend(pair.peer_mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        peer.attributes.extend(pair.mtu.map(LinkAttribute::Mtu));
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(pair.name.to_owned()));
        message.attributes.extend(pair.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        message.attributes.extend(pair.mtu.map(LinkAttribute::Mtu));
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))]));
        self.netlink.create(&format!("make veth pair {}", pair.name), RouteNetlinkMessage::NewLink(message), NLM_F_EXCL)?;
        let Some(alias) = pair.alias else { return Ok(()) };
        let index = self.index(pair.name)?;
        self.set_alias(index, alias)
    }

    /// Makes a VXLAN device.
    pub(crate) fn create_vxlan(&mut self, vxlan: &Vxlan<'_>) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(vxlan.name.to_owned()));
        message.attributes.push(LinkAttribute::Address(vxlan.mac.to_vec()));
        message.attributes.push(LinkAttribute::Mtu(vxlan.mtu));
        let data = vec![InfoVxlan::Id(vxlan.id), InfoVxlan::Local(vxlan.local), InfoVxlan::Port(vxlan.port), InfoVxlan::Learning(false)];
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]));
        self.netlink.create(&format!("make VXLAN device {}", vxlan.name), RouteNetlinkMessage::NewLink(message), NLM_F_EXCL)
    }

    /// The index of a link that must exist.
    pub(crate) fn index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        let missing =
            || NetlinkError::Refused { what: format!("look up link {name}"), source: std::io::Error::from_raw_os_error(libc::ENODEV) };
        Ok(self.find(name)?.ok_or_else(missing)?.index)
    }

    /// Removes a link; with one end of a veth pair goes the other.
    pub(crate) fn delete(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        ignore(self.netlink.change("remove a link", RouteNetlinkMessage::DelLink(message), 0), &[libc::ENODEV])
    }

    /// Brings a link up.
    pub(crate) fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.netlink.change("bring a link up", RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Puts a link into a bridge.
    pub(crate) fn set_controller(&mut self, index: u32, controller: u32) -> Result<(), NetlinkError> {
        self.set(index, "put a link into a bridge", LinkAttribute::Controller(controller))
    }

    /// Notes on a link whose it is.
    pub(crate) fn set_alias(&mut self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        self.set(index, "note the owner of a link", LinkAttribute::IfAlias(alias.to_owned()))
    }

    /// Gives an address to a link; it is fine if the link has it.
    pub(crate) fn add_address(&mut self, index: u32, address: Cidr, scope: AddressScope) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix();
        message.header.scope = scope;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(IpAddr::V4(address.address())));
        message.attributes.push(AddressAttribute::Address(IpAddr::V4(address.address())));
        let added = self.netlink.create(&format!("add address {address}"), RouteNetlinkMessage::NewAddress(message), NLM_F_EXCL);
        ignore(added, &[libc::EEXIST])
    }

    /// Takes an address from a link; it is fine if the link has it not.
    pub(crate) fn delete_address(&mut self, index: u32, address: Cidr) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix();
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(IpAddr::V4(address.address())));
        let deleted = self.netlink.change(&format!("remove address {address}"), RouteNetlinkMessage::DelAddress(message), 0);
        ignore(deleted, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }

    /// All IPv4 addresses, with the index of their link.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, Cidr)>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let answers = self.netlink.dump("list addresses", RouteNetlinkMessage::GetAddress(message))?;
        Ok(answers.into_iter().filter_map(address_of).collect())
    }

    /// Makes a route, in place of one to the same destination.
    pub(crate) fn set_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let message = route_message(route);
        self.netlink.create(&format!("set route to {}", route.destination), RouteNetlinkMessage::NewRoute(message), NLM_F_REPLACE)
    }

    /// Removes a route; it is fine if it is gone.
    pub(crate) fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let message = route_message(route);
        let deleted = self.netlink.change(&format!("remove route to {}", route.destination), RouteNetlinkMessage::DelRoute(message), 0);
        ignore(deleted, &[libc::ESRCH])
    }

    /// The routes of the main table that the agent made.
    pub(crate) fn our_routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let answers = self.netlink.dump("list routes", RouteNetlinkMessage::GetRoute(message))?;
        Ok(answers.into_iter().filter_map(our_route_of).collect())
    }

    /// Says for good which hardware address an address has on a link.
    pub(crate) fn set_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.netlink.create(&format!("set neighbour {address}"), RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE)
    }

    /// Says to which node a VXLAN device sends frames for a hardware address.
    pub(crate) fn set_forwarding(&mut self, index: u32, mac: Mac, node: Ipv4Addr) -> Result<(), NetlinkError> {
        let message = forwarding_message(index, mac, node);
        let set = self.netlink.create(&format!("forward frames to {node}"), RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE);
        ignore(set, &[libc::EEXIST])
    }

    /// Takes back [`Links::set_forwarding`] and the neighbour that led to it.
    pub(crate) fn delete_forwarding(&mut self, index: u32, mac: Mac, node: Ipv4Addr) -> Result<(), NetlinkError> {
        let message = forwarding_message(index, mac, node);
        let deleted = self.netlink.change("remove a forwarding entry", RouteNetlinkMessage::DelNeighbour(message), 0);
        ignore(deleted, &[libc::ENOENT])
    }

    fn set(&mut self, index: u32, what: &str, attribute: LinkAttribute) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(attribute);
        self.netlink.change(what, RouteNetlinkMessage::NewLink(message), 0)
    }
}

fn ignore(result: Result<(), NetlinkError>, fine: &[i32]) -> Result<(), NetlinkError> {
    match result {
        Err(e) if e.errno().is_some_and(|errno| fine.contains(&errno)) => Ok(()),
        other => other,
    }
}

fn forwarding_message(index: u32, mac: Mac, node: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(node)));
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = route.destination.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(OUR_ROUTES);
    message.header.scope = if route.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    message.header.kind = RouteType::Unicast;
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    if route.destination.prefix() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(route.destination.network())));
    }
    message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(RouteAddress::Inet(gateway))));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(RouteAddress::Inet(source))));
    message.attributes.push(RouteAttribute::Oif(route.link));
    message
}

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: None,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        controller: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            _ => {}
        }
    }
    Some(link)
}

fn address_of(message: RouteNetlinkMessage) -> Option<(u32, Cidr)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Some((message.header.index, Cidr::new(address, message.header.prefix_len)?))
}

fn our_route_of(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    if message.header.protocol != RouteProtocol::Other(OUR_ROUTES) || message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let (mut destination, mut gateway, mut link, mut source) = (Ipv4Addr::UNSPECIFIED, None, 0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Oif(index) => link = *index,
            _ => {}
        }
    }
    let destination = Cidr::new(destination, message.header.destination_prefix_length)?;
    Some(Route { destination, gateway, link, onlink: message.header.flags.contains(RouteFlags::Onlink), source })
}
