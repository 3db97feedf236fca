//! Decides the smallest list of changes from one set of rules to another.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use super::{
    rules::{Backend, Refusal, Rule, RuleSet, Target},
    snapshot::Protocol,
};

/// One change of the kernel's table. A list of them is one transaction; each may rely on those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    AddSet {
        name: String,
        seconds: u32,
    },
    AddChain {
        name: String,
    },
    /// The chain gets these rules in place of its old ones.
    SetRules {
        chain: String,
        rules: Vec<Rule>,
    },
    RemoveElement(Element),
    AddElement(Element),
    RemoveChain {
        name: String,
    },
    RemoveSet {
        name: String,
    },
}

/// An element of one of the table's maps and sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    ServiceIp(Target, String),
    NodePort((Protocol, u16), String),
    Refused(Target, Refusal),
    RefusedPort((Protocol, u16), Refusal),
    Hairpin(Ipv4Addr),
}

/// The changes that make `old` into `new`; empty if they are equal.
pub fn diff(old: &RuleSet, new: &RuleSet) -> Vec<Change> {
    let mut changes = Vec::new();
    // A set whose time-out changed cannot be altered in place. Its name stays, so it is removed and made anew, with its users between.
    let retimed: BTreeSet<&String> =
        new.affinity.iter().filter(|(n, s)| old.affinity.get(*n).is_some_and(|o| o != *s)).map(|(n, _)| n).collect();
    if !retimed.is_empty() {
        let users = old.chains.iter().filter(|(_, rules)| rules.iter().any(|rule| uses(rule, &retimed)));
        changes.extend(users.map(|(chain, _)| Change::SetRules { chain: chain.clone(), rules: Vec::new() }));
        changes.extend(retimed.iter().map(|name| Change::RemoveSet { name: (*name).clone() }));
    }
    let fresh_sets = new.affinity.iter().filter(|(name, _)| !old.affinity.contains_key(*name) || retimed.contains(name));
    changes.extend(fresh_sets.map(|(name, seconds)| Change::AddSet { name: name.clone(), seconds: *seconds }));
    changes.extend(new.chains.keys().filter(|name| !old.chains.contains_key(*name)).map(|name| Change::AddChain { name: name.clone() }));
    for (chain, rules) in &new.chains {
        if old.chains.get(chain) != Some(rules) || rules.iter().any(|rule| uses(rule, &retimed)) {
            changes.push(Change::SetRules { chain: chain.clone(), rules: rules.clone() });
        }
    }
    map_changes(&mut changes, &old.service_ips, &new.service_ips, Element::ServiceIp);
    map_changes(&mut changes, &old.node_ports, &new.node_ports, Element::NodePort);
    map_changes(&mut changes, &old.refused, &new.refused, Element::Refused);
    map_changes(&mut changes, &old.refused_ports, &new.refused_ports, Element::RefusedPort);
    changes.extend(old.hairpin.difference(&new.hairpin).map(|ip| Change::RemoveElement(Element::Hairpin(*ip))));
    changes.extend(new.hairpin.difference(&old.hairpin).map(|ip| Change::AddElement(Element::Hairpin(*ip))));
    // Chains that end may refer to each other: they are emptied first.
    let ending: Vec<&String> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
    changes.extend(ending.iter().map(|name| Change::SetRules { chain: (*name).clone(), rules: Vec::new() }));
    changes.extend(ending.iter().map(|name| Change::RemoveChain { name: (*name).clone() }));
    changes
        .extend(old.affinity.keys().filter(|name| !new.affinity.contains_key(*name)).map(|name| Change::RemoveSet { name: name.clone() }));
    changes
}

/// UDP targets whose endpoints differ: flows to endpoints that are gone must be forgotten, since UDP never notices by itself.
pub fn udp_targets_changed(old: &RuleSet, new: &RuleSet) -> bool {
    udp_backends(old) != udp_backends(new)
}

/// True if the kernel should forget a UDP flow: it was sent to a Service of the old or new rules, and no rule would send it where it goes now.
pub fn stale(old: &RuleSet, new: &RuleSet, node_ips: &[Ipv4Addr], to: Backend, answered_by: Backend) -> bool {
    let backends = |rules: &RuleSet| -> Option<BTreeSet<Backend>> {
        let target = (to.0, Protocol::Udp, to.1);
        if let Some(chain) = rules.service_ips.get(&target) {
            return Some(rules.backends(chain));
        }
        if rules.refused.contains_key(&target) {
            return Some(BTreeSet::new());
        }
        if !node_ips.contains(&to.0) {
            return None;
        }
        let port = (Protocol::Udp, to.1);
        let chain = rules.node_ports.get(&port).map(|chain| rules.backends(chain));
        chain.or_else(|| rules.refused_ports.contains_key(&port).then(BTreeSet::new))
    };
    match (backends(new), backends(old)) {
        (Some(now), _) => !now.contains(&answered_by),
        (None, Some(_)) => answered_by != to,
        (None, None) => false,
    }
}

fn udp_backends(rules: &RuleSet) -> BTreeMap<(Option<Ipv4Addr>, u16), BTreeSet<Backend>> {
    let services = rules.service_ips.iter().filter(|((_, protocol, _), _)| *protocol == Protocol::Udp);
    let mut found: BTreeMap<_, _> = services.map(|((ip, _, port), chain)| ((Some(*ip), *port), rules.backends(chain))).collect();
    let ports = rules.node_ports.iter().filter(|((protocol, _), _)| *protocol == Protocol::Udp);
    found.extend(ports.map(|((_, port), chain)| ((None, *port), rules.backends(chain))));
    found
}

fn uses(rule: &Rule, sets: &BTreeSet<&String>) -> bool {
    match rule {
        Rule::GotoIfRemembered { set, .. } | Rule::Remember { set } => sets.contains(set),
        _ => false,
    }
}

fn map_changes<K: Ord + Clone, V: PartialEq + Clone>(
    changes: &mut Vec<Change>,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    element: impl Fn(K, V) -> Element,
) {
    for (key, value) in old {
        if new.get(key) != Some(value) {
            changes.push(Change::RemoveElement(element(key.clone(), value.clone())));
        }
    }
    for (key, value) in new {
        if old.get(key) != Some(value) {
            changes.push(Change::AddElement(element(key.clone(), value.clone())));
        }
    }
}
