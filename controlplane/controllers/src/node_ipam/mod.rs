//! A share of the pod network for every node: `spec.podCIDR`.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::json;
use trierarch_api::snapshot::Change;
use trierarch_api::{ObjectKey, Snapshot};

use crate::action::{Action, Plan, Report};
use crate::resources::NODES;
use crate::runner::{Context, Controller};

/// There is one key, so that two nodes never get the same share.
const KEY: &str = "pod-network";

/// The controller of `spec.podCIDR`.
pub struct NodeIpam {
    cluster: Option<(u32, u8)>,
    node_mask: u8,
}

impl NodeIpam {
    /// Hands out networks of `node_mask` bits from `cluster_cidr`.
    pub fn new(cluster_cidr: &str, node_mask: u8) -> Self {
        let cluster = parse(cluster_cidr).filter(|(_, mask)| *mask <= node_mask && node_mask <= 32);
        if cluster.is_none() {
            tracing::error!(cluster_cidr, node_mask, "Pod network is unusable, so nodes get no share of it");
        }
        Self { cluster, node_mask }
    }
}

fn parse(cidr: &str) -> Option<(u32, u8)> {
    let (address, mask) = cidr.split_once('/')?;
    Some((u32::from(address.parse::<Ipv4Addr>().ok()?), mask.parse().ok()?))
}

/// The free networks, in order.
fn free(cluster: (u32, u8), node_mask: u8, taken: &BTreeSet<String>) -> impl Iterator<Item = String> {
    let count = 1_u64 << (node_mask - cluster.1);
    let step = 1_u64 << (32 - node_mask);
    (0..count)
        .filter_map(move |index| u32::try_from(u64::from(cluster.0) + index * step).ok())
        .map(move |network| format!("{}/{node_mask}", Ipv4Addr::from(network)))
        .filter(|network| !taken.contains(network))
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "node-ipam-controller"
    }

    fn all(&self, _: &dyn Snapshot) -> Vec<ObjectKey> {
        vec![ObjectKey::new(NODES, "", KEY)]
    }

    fn wake(&self, change: &Change, _: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == NODES
            && (change.old.is_none() || change.new.as_ref().is_none_or(|node| !node.value()["spec"]["podCIDR"].is_string()))
        {
            keys.push(ObjectKey::new(NODES, "", KEY));
        }
    }

    fn decide(&self, _: &ObjectKey, context: &Context<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(cluster) = self.cluster else { return plan };
        let nodes = context.view.list(&NODES, None);
        let taken = nodes.iter().filter_map(|node| node.value()["spec"]["podCIDR"].as_str().map(str::to_owned)).collect();
        let mut free = free(cluster, self.node_mask, &taken);
        for node in nodes.iter().filter(|node| !node.value()["spec"]["podCIDR"].is_string()) {
            match free.next() {
                Some(network) => {
                    plan.actions.push(Action::merge(node, json!({"spec": {"podCIDR": network, "podCIDRs": [network]}})));
                }
                None => plan.actions.push(Action::Record(Report::warning(
                    node,
                    "CIDRNotAvailable",
                    format!("Node {} status is now: CIDRNotAvailable", node.name),
                ))),
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeCluster;

    #[test]
    fn every_node_gets_its_own_share_once() {
        let cluster = FakeCluster::new();
        let ipam = NodeIpam::new("10.244.0.0/16", 24);
        for name in ["a", "b", "c"] {
            cluster.add(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
        }
        cluster.change(&ObjectKey::new(NODES, "", "b"), |node| node["spec"]["podCIDR"] = json!("10.244.0.0/24"));
        let decide = || {
            let view = cluster.view();
            ipam.decide(&ipam.all(&view)[0], &Context { view: &view, now: cluster.now(), failure: None })
        };
        cluster.apply(decide()).unwrap();
        let shares: BTreeSet<String> =
            cluster.list(&NODES).iter().map(|node| node.value()["spec"]["podCIDR"].as_str().unwrap().to_owned()).collect();
        assert_eq!(shares.into_iter().collect::<Vec<_>>(), ["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"]);
        assert!(decide().is_empty());
    }
}
