//! Decides the rules of Services: which chain serves which address, and what a chain does.
//!
//! A Service port has one chain for its ClusterIP and one for packets from outside. A chain ends in a spread over endpoints: one rule that
//! draws a number and looks the endpoint up. Only session affinity needs a chain and a set per endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use super::{
    nft::ServiceRulesConfig,
    snapshot::{Endpoint, Protocol, Service, ServiceKey, ServicePort, ServiceSnapshot, TrafficPolicy},
};
use crate::Cidr;

/// An address, protocol and port that packets are sent to.
pub type Target = (Ipv4Addr, Protocol, u16);

/// An address and port that packets end at.
pub type Backend = (Ipv4Addr, u16);

/// The rules of all Services on one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleSet {
    /// What each chain does.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// Sets of clients that stay with an endpoint, and for how many seconds.
    pub affinity: BTreeMap<String, u32>,
    /// The chain of each virtual address.
    pub service_ips: BTreeMap<Target, String>,
    /// The chain of each NodePort.
    pub node_ports: BTreeMap<(Protocol, u16), String>,
    /// Virtual addresses that have nobody to answer.
    pub refused: BTreeMap<Target, Refusal>,
    /// NodePorts that have nobody to answer.
    pub refused_ports: BTreeMap<(Protocol, u16), Refusal>,
    /// Pods of this node that may reach themselves through a Service.
    pub hairpin: BTreeSet<Ipv4Addr>,
}

/// One rule of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Packets get an address of this node as their source, so that answers come back this way.
    Masquerade,
    /// As [`Rule::Masquerade`], but not for packets from the block.
    MasqueradeUnlessFrom(Cidr),
    /// Packets from the block go on in another chain.
    GotoIfFrom(Cidr, String),
    /// Packets that this node sent go on in another chain.
    GotoIfFromNode(String),
    /// Clients in the set stay with the endpoint of the chain.
    GotoIfRemembered { set: String, chain: String },
    /// The client enters the set.
    Remember { set: String },
    /// To one of the endpoints, each as likely as the other.
    Spread(Protocol, Vec<Backend>),
    /// To one of the chains, each as likely as the other.
    SpreadChains(Vec<String>),
    /// Nobody answers.
    Drop,
}

/// What happens to packets for nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The sender is told.
    Reject,
    /// The sender waits: another node may have endpoints.
    Drop,
}

impl RuleSet {
    /// The endpoints a chain may lead to.
    pub fn backends(&self, chain: &str) -> BTreeSet<Backend> {
        let mut found = BTreeSet::new();
        for rule in self.chains.get(chain).into_iter().flatten() {
            match rule {
                Rule::Spread(_, backends) => found.extend(backends.iter().copied()),
                Rule::SpreadChains(chains) => chains.iter().for_each(|chain| found.extend(self.backends(chain))),
                Rule::GotoIfFrom(_, chain) | Rule::GotoIfFromNode(chain) => found.extend(self.backends(chain)),
                _ => {}
            }
        }
        found
    }
}

/// The rules for a snapshot. Equal inputs give equal rules, whatever order endpoints come in.
pub fn rules(snapshot: &ServiceSnapshot, node: &ServiceRulesConfig) -> RuleSet {
    let mut set = RuleSet::default();
    for (key, service) in &snapshot.services {
        if service.headless || service.external_name.is_some() {
            continue;
        }
        for port in &service.ports {
            PortRules { key, service, port, node }.add_to(&mut set);
        }
    }
    set
}

/// FNV-1a: a short, stable name for something long.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

struct PortRules<'a> {
    key: &'a ServiceKey,
    service: &'a Service,
    port: &'a ServicePort,
    node: &'a ServiceRulesConfig,
}

impl PortRules<'_> {
    fn add_to(&self, set: &mut RuleSet) {
        let everywhere = usable(self.port.endpoints.iter());
        let here = usable(self.port.endpoints.iter().filter(|endpoint| endpoint.local));
        set.hairpin
            .extend(self.port.endpoints.iter().filter(|e| e.local && self.node.cluster_cidr.contains(e.ip)).map(|endpoint| endpoint.ip));
        self.add_internal(set, &everywhere, &here);
        self.add_external(set, &everywhere, &here);
    }

    fn add_internal(&self, set: &mut RuleSet, everywhere: &[Backend], here: &[Backend]) {
        let backends = match self.service.internal_policy {
            TrafficPolicy::Cluster => everywhere,
            TrafficPolicy::Local => here,
        };
        let targets = self.service.cluster_ips.iter().filter(|ip| !self.node.local_ips.contains(ip)).map(|ip| self.target(*ip));
        match refusal(everywhere, backends) {
            Some(refusal) => set.refused.extend(targets.map(|target| (target, refusal))),
            None => {
                let chain = self.name("svc");
                self.add_chain(set, &chain, vec![Rule::MasqueradeUnlessFrom(self.node.cluster_cidr.masked())], backends);
                set.service_ips.extend(targets.map(|target| (target, chain.clone())));
            }
        }
    }

    fn add_external(&self, set: &mut RuleSet, everywhere: &[Backend], here: &[Backend]) {
        let direct: Vec<Target> = self.service.external_ips.iter().map(|ip| self.target(*ip)).collect();
        let balanced: Vec<Target> = self.service.load_balancer_ips.iter().map(|ip| self.target(*ip)).collect();
        let node_port = self.port.node_port.map(|port| (self.port.protocol, port));
        if direct.is_empty() && balanced.is_empty() && node_port.is_none() {
            return;
        }
        if everywhere.is_empty() {
            set.refused.extend(direct.into_iter().chain(balanced).map(|target| (target, Refusal::Reject)));
            set.refused_ports.extend(node_port.map(|port| (port, Refusal::Reject)));
            return;
        }
        let chain = self.name("ext");
        match self.service.external_policy {
            TrafficPolicy::Cluster => self.add_chain(set, &chain, vec![Rule::Masquerade], everywhere),
            TrafficPolicy::Local => self.add_local_chain(set, &chain, everywhere, here),
        }
        set.service_ips.extend(direct.into_iter().map(|target| (target, chain.clone())));
        set.node_ports.extend(node_port.map(|port| (port, chain.clone())));
        if balanced.is_empty() {
            return;
        }
        let ranges = &self.service.load_balancer_source_ranges;
        let entry = if ranges.is_empty() { chain } else { self.add_firewall(set, &chain, ranges) };
        set.service_ips.extend(balanced.into_iter().map(|target| (target, entry.clone())));
    }

    /// Packets from outside keep their source and reach endpoints of this node only; pods and the node itself use all of them, as they
    /// would through the ClusterIP.
    fn add_local_chain(&self, set: &mut RuleSet, chain: &str, everywhere: &[Backend], here: &[Backend]) {
        let all = match self.service.internal_policy {
            TrafficPolicy::Cluster if !self.service.cluster_ips.is_empty() => self.name("svc"),
            _ => {
                let all = self.name("all");
                self.add_chain(set, &all, vec![Rule::MasqueradeUnlessFrom(self.node.cluster_cidr.masked())], everywhere);
                all
            }
        };
        let before = vec![Rule::GotoIfFrom(self.node.cluster_cidr.masked(), all.clone()), Rule::GotoIfFromNode(all)];
        self.add_chain(set, chain, before, here);
    }

    fn add_firewall(&self, set: &mut RuleSet, chain: &str, ranges: &[Cidr]) -> String {
        let entry = self.name("fw");
        let mut rules: Vec<Rule> = ranges.iter().map(|range| Rule::GotoIfFrom(range.masked(), chain.to_owned())).collect();
        rules.push(Rule::Drop);
        set.chains.insert(entry.clone(), rules);
        entry
    }

    /// A chain of the rules `before` and a spread over the backends.
    fn add_chain(&self, set: &mut RuleSet, chain: &str, before: Vec<Rule>, backends: &[Backend]) {
        let mut rules = before;
        match self.service.affinity_seconds {
            _ if backends.is_empty() => rules.push(Rule::Drop),
            None => rules.push(Rule::Spread(self.port.protocol, backends.to_vec())),
            Some(seconds) => {
                let endpoints: Vec<(String, String)> = backends.iter().map(|backend| self.add_sticky(set, *backend, seconds)).collect();
                rules.extend(endpoints.iter().map(|(set, chain)| Rule::GotoIfRemembered { set: set.clone(), chain: chain.clone() }));
                rules.push(Rule::SpreadChains(endpoints.into_iter().map(|(_, chain)| chain).collect()));
            }
        }
        set.chains.insert(chain.to_owned(), rules);
    }

    /// The set and chain of an endpoint whose clients stay with it.
    fn add_sticky(&self, set: &mut RuleSet, backend: Backend, seconds: u32) -> (String, String) {
        let suffix = format!("{}.{}", backend.0, backend.1);
        let (clients, chain) = (format!("{}/{suffix}", self.name("aff")), format!("{}/{suffix}", self.name("ep")));
        set.affinity.insert(clients.clone(), seconds);
        let rules = vec![Rule::Remember { set: clients.clone() }, Rule::Spread(self.port.protocol, vec![backend])];
        set.chains.insert(chain.clone(), rules);
        (clients, chain)
    }

    fn target(&self, ip: Ipv4Addr) -> Target {
        (ip, self.port.protocol, self.port.port)
    }

    /// A name that says whose chain it is and is short enough for the kernel.
    fn name(&self, prefix: &str) -> String {
        format!("{prefix}-{}/{}/{}/{}", self.key.namespace, self.key.name, self.port.protocol.name(), self.port.port)
    }
}

/// The endpoints that get packets: the ready ones, or, if there are none, those that still serve while they end.
fn usable<'a>(endpoints: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<Backend> {
    let backends = |wanted: fn(&Endpoint) -> bool| -> Vec<Backend> {
        let chosen: BTreeSet<Backend> = endpoints.clone().filter(|e| wanted(e)).map(|e| (e.ip, e.port)).collect();
        chosen.into_iter().collect()
    };
    let ready = backends(|endpoint| endpoint.ready);
    if ready.is_empty() { backends(|endpoint| endpoint.serving && endpoint.terminating) } else { ready }
}

fn refusal(everywhere: &[Backend], usable: &[Backend]) -> Option<Refusal> {
    match (everywhere.is_empty(), usable.is_empty()) {
        (true, _) => Some(Refusal::Reject),
        (false, true) => Some(Refusal::Drop),
        (false, false) => None,
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
