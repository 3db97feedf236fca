//! Tells an agent when no node sends new connections to a pod that ends ([`trierarch_api::departure`]).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;
use trierarch_api::departure::{APPLIED, LEFT};
use trierarch_api::snapshot::Change;
use trierarch_api::{Object, ObjectKey, Snapshot, Uid};

use crate::action::{Action, Plan};
use crate::endpoint_slice::{MANAGED_BY, MANAGER};
use crate::pod_facts::{self, is_ready};
use crate::resources::{ENDPOINT_SLICES, LEASES, NODES, PODS};
use crate::runner::{Context, Controller};

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The controller of departures. Keys are pods.
#[derive(Default)]
pub struct Departures {
    /// Pods whose leaving not all nodes have heard of, and the revision they must hear of.
    leaving: Mutex<HashMap<ObjectKey, (Uid, u64)>>,
}

impl Controller for Departures {
    fn name(&self) -> &'static str {
        "departure-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        view.list(&PODS, None).iter().filter(|pod| pod.deletion_timestamp.is_some()).map(|pod| pod.key()).collect()
    }

    fn wake(&self, change: &Change, _: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        if change.resource == ENDPOINT_SLICES {
            keys.extend(new.into_iter().flat_map(terminating));
        } else if change.resource == LEASES {
            if let Some(lease) = new.filter(|lease| lease.namespace == LEASE_NAMESPACE)
                && old.is_none_or(|old| applied(old) != applied(lease))
            {
                keys.extend(self.leaving.lock().keys().cloned());
            }
        } else if change.resource == PODS
            && let (Some(pod), None) = (old, new)
        {
            self.leaving.lock().remove(&pod.key());
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let mut leaving = self.leaving.lock();
        let pod = context.view.get(&PODS, &key.namespace, &key.name).filter(|pod| {
            let value = pod.value();
            pod.deletion_timestamp.is_some() && value["metadata"]["annotations"][LEFT].is_null() && !pod_facts::node(&value).is_empty()
        });
        let Some(pod) = pod else {
            leaving.remove(key);
            return plan;
        };
        let Some(told_at) = told_at(&pod, context.view) else { return plan };
        // what the slices say later is no news about this pod
        let entry = leaving.entry(key.clone()).or_insert_with(|| (pod.uid.clone(), told_at));
        if entry.0 != pod.uid {
            *entry = (pod.uid.clone(), told_at);
        }
        let wanted = entry.1;
        let nodes = context.view.list(&NODES, None);
        let mut living = nodes.iter().filter(|node| is_ready(&node.value()));
        let heard = |node: &Arc<Object>| {
            // a node that never said anything does not take part
            let lease = context.view.get(&LEASES, LEASE_NAMESPACE, &node.name);
            lease.and_then(|lease| applied(&lease)).is_none_or(|applied| applied >= wanted)
        };
        if living.all(heard) {
            leaving.remove(key);
            plan.actions.push(Action::merge(&pod, json!({"metadata": {"annotations": {LEFT: "true"}}})));
        }
        plan
    }
}

fn applied(lease: &Object) -> Option<u64> {
    lease.value()["metadata"]["annotations"][APPLIED].as_str()?.parse().ok()
}

fn is_ours(slice: &Object) -> bool {
    slice.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

/// The pods that a slice calls terminating.
fn terminating(slice: &Arc<Object>) -> Vec<ObjectKey> {
    if !is_ours(slice) {
        return Vec::new();
    }
    let value = slice.value();
    let endpoints = value["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter(|endpoint| endpoint["conditions"]["terminating"] == true && endpoint["targetRef"]["kind"] == "Pod")
        .filter_map(|endpoint| Some(ObjectKey::new(PODS, &slice.namespace, endpoint["targetRef"]["name"].as_str()?)))
        .collect()
}

/// The revision since which every slice with this pod says that it is terminating; `None` when one does not yet, or none has it.
fn told_at(pod: &Object, view: &dyn Snapshot) -> Option<u64> {
    let mut latest = None;
    for slice in view.list(&ENDPOINT_SLICES, Some(&pod.namespace)).into_iter().filter(|slice| is_ours(slice)) {
        let value = slice.value();
        let mut own = value["endpoints"].as_array().into_iter().flatten().filter(|endpoint| endpoint["targetRef"]["uid"] == pod.uid.0);
        let Some(first) = own.next() else { continue };
        if std::iter::once(first).chain(own).any(|endpoint| endpoint["conditions"]["terminating"] != true) {
            return None;
        }
        latest = latest.max(Some(slice.resource_version));
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeCluster;
    use serde_json::Value;

    struct World {
        cluster: Arc<FakeCluster>,
        departures: Departures,
        pod: Arc<Object>,
        slice: Arc<Object>,
    }

    impl World {
        fn new() -> Self {
            let cluster = FakeCluster::new();
            for node in ["n1", "n2"] {
                cluster.add(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
                    "status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
                cluster.add(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {},
                    "metadata": {"name": node, "namespace": LEASE_NAMESPACE, "annotations": {APPLIED: "0"}}}));
            }
            let pod = cluster.add(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}}));
            cluster.apply(Plan { actions: vec![Action::delete(&pod)], ..Plan::nothing() }).unwrap();
            let slice = cluster.add(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": "s", "namespace": "n", "labels": {MANAGED_BY: MANAGER}}, "ports": [],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true},
                    "targetRef": {"kind": "Pod", "name": "p", "uid": pod.uid.0}}]}));
            Self { cluster, departures: Departures::default(), pod, slice }
        }

        fn round(&self) -> bool {
            let view = self.cluster.view();
            let plan = self.departures.decide(&self.pod.key(), &Context { view: &view, now: self.cluster.now(), failure: None });
            let empty = plan.is_empty();
            self.cluster.apply(plan).unwrap();
            !empty
        }

        fn says_terminating(&self) -> u64 {
            self.cluster
                .change(&self.slice.key(), |slice| slice["endpoints"][0]["conditions"] = json!({"ready": false, "terminating": true}))
                .resource_version
        }

        fn node_applies(&self, node: &str, revision: u64) {
            let key = ObjectKey::new(LEASES, LEASE_NAMESPACE, node);
            self.cluster.change(&key, |lease| lease["metadata"]["annotations"][APPLIED] = json!(revision.to_string()));
        }

        fn left(&self) -> Value {
            self.cluster.get(&PODS, "n", "p").unwrap().value()["metadata"]["annotations"][LEFT].clone()
        }
    }

    #[test]
    fn a_pod_has_left_when_every_node_has_heard() {
        let world = World::new();
        world.node_applies("n1", 1_000);
        world.node_applies("n2", 1_000);
        assert!(!world.round(), "the slices still send requests there");
        world.node_applies("n1", 0);
        world.node_applies("n2", 0);
        let revision = world.says_terminating();
        assert!(!world.round());
        world.node_applies("n1", revision);
        assert!(!world.round(), "one node has not heard");
        world.node_applies("n2", revision + 5);
        assert!(world.round());
        assert_eq!(world.left(), "true");
        assert!(!world.round(), "once is enough");
    }

    #[test]
    fn silent_nodes_and_strangers_are_not_waited_for() {
        let world = World::new();
        let revision = world.says_terminating();
        world.node_applies("n1", revision);
        assert!(!world.round());
        let node = ObjectKey::new(NODES, "", "n2");
        world.cluster.set_status(&node, json!({"conditions": [{"type": "Ready", "status": "Unknown"}]}));
        assert!(world.round());
    }

    #[test]
    fn later_changes_of_a_slice_do_not_prolong_the_wait() {
        let world = World::new();
        let revision = world.says_terminating();
        assert!(!world.round());
        world.cluster.change(&world.slice.key(), |slice| slice["metadata"]["labels"]["later"] = json!("yes"));
        world.node_applies("n1", revision);
        world.node_applies("n2", revision);
        assert!(world.round());
    }

    #[test]
    fn leases_wake_only_those_who_wait() {
        let world = World::new();
        let lease = world.cluster.get(&LEASES, LEASE_NAMESPACE, "n1").unwrap();
        let woken = || {
            let change = Change { resource: LEASES, revision: 1, old: None, new: Some(Arc::clone(&lease)) };
            let mut keys = Vec::new();
            world.departures.wake(&change, &world.cluster.view(), &mut keys);
            keys.len()
        };
        assert_eq!(woken(), 0);
        world.says_terminating();
        world.round();
        assert_eq!(woken(), 1);
    }
}
