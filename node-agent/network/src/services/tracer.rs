//! Walks a packet through the rules, as the kernel would. Pure: for tests, and for the question where a packet would go.

use std::{collections::BTreeSet, net::Ipv4Addr};

use super::{
    nft::ServiceRulesConfig,
    rules::{Backend, Refusal, Rule, RuleSet},
    snapshot::Protocol,
};

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub protocol: Protocol,
    pub port: u16,
}

/// What becomes of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// No rule concerns it.
    Untouched,
    /// The sender is told that nobody answers.
    Rejected,
    Dropped,
    /// It goes to an endpoint, with this node's address as its source if `masqueraded`.
    Sent {
        to: Backend,
        masqueraded: bool,
    },
}

/// What the rules cannot know.
pub struct World<'a> {
    /// The draw of `numgen random mod n`: a number below `n`.
    pub draw: &'a mut dyn FnMut(usize) -> usize,
    /// Sets that hold the packet's source; the walk adds to them.
    pub remembered: &'a mut BTreeSet<(String, Ipv4Addr)>,
}

/// The packet's fate.
pub fn trace(rules: &RuleSet, node: &ServiceRulesConfig, packet: Packet, world: &mut World<'_>) -> Fate {
    if node.local_ips.contains(&packet.destination) {
        return Fate::Untouched;
    }
    let (target, node_port) = ((packet.destination, packet.protocol, packet.port), (packet.protocol, packet.port));
    let on_node = node.node_ips.contains(&packet.destination);
    let refused = rules.refused.get(&target).or_else(|| rules.refused_ports.get(&node_port).filter(|_| on_node));
    match refused {
        Some(Refusal::Reject) => return Fate::Rejected,
        Some(Refusal::Drop) => return Fate::Dropped,
        None => {}
    }
    let chain = rules.service_ips.get(&target).or_else(|| rules.node_ports.get(&node_port).filter(|_| on_node));
    match chain {
        Some(chain) => walk(rules, node, packet, world, chain, false),
        None if node.service_cidr.contains(packet.destination) => Fate::Rejected,
        None => Fate::Untouched,
    }
}

fn walk(rules: &RuleSet, node: &ServiceRulesConfig, packet: Packet, world: &mut World<'_>, chain: &str, marked: bool) -> Fate {
    let mut marked = marked;
    let Some(chain) = rules.chains.get(chain) else { return Fate::Untouched };
    for rule in chain {
        let next = match rule {
            Rule::Masquerade => {
                marked = true;
                continue;
            }
            Rule::MasqueradeUnlessFrom(block) => {
                marked |= !block.contains(packet.source);
                continue;
            }
            Rule::Remember { set } => {
                world.remembered.insert((set.clone(), packet.source));
                continue;
            }
            Rule::GotoIfFrom(block, next) if block.contains(packet.source) => next,
            Rule::GotoIfFromNode(next) if node.node_ips.contains(&packet.source) => next,
            Rule::GotoIfRemembered { set, chain } if world.remembered.contains(&(set.clone(), packet.source)) => chain,
            Rule::GotoIfFrom(..) | Rule::GotoIfFromNode(_) | Rule::GotoIfRemembered { .. } => continue,
            Rule::Spread(_, backends) => {
                let to = backends[(world.draw)(backends.len())];
                let hairpin = to.0 == packet.source && rules.hairpin.contains(&to.0);
                return Fate::Sent { to, masqueraded: marked || hairpin };
            }
            Rule::SpreadChains(chains) => &chains[(world.draw)(chains.len())],
            Rule::Drop => return Fate::Dropped,
        };
        return walk(rules, node, packet, world, next, marked);
    }
    Fate::Untouched
}
