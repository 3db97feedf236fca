//! A node falls silent, and comes back.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::fake::FakeCluster;
use crate::pod_facts::{is_ready, is_true};

const GRACE: Duration = Duration::from_millis(2500);

struct World {
    cluster: Arc<FakeCluster>,
    lifecycle: NodeLifecycle,
}

impl World {
    fn new(nodes: &[&str]) -> Self {
        let cluster = FakeCluster::new();
        let clock: Clock = {
            let cluster = Arc::clone(&cluster);
            Arc::new(move || cluster.now())
        };
        let lifecycle = NodeLifecycle::new(clock, GRACE, cluster.now());
        for name in nodes {
            cluster.add(json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "2027-01-01T00:00:00Z"}]},
            }));
            cluster.add(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("on-{name}")}, "spec": {"nodeName": name},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
        }
        Self { cluster, lifecycle }
    }

    /// The node renews its Lease.
    fn renew(&self, node: &str) -> Vec<ObjectKey> {
        let view = self.cluster.view();
        let kind = trierarch_api::Registry::with_builtins().by_storage(&LEASES).unwrap();
        let lease =
            json!({"metadata": {"name": node, "namespace": LEASE_NAMESPACE}, "spec": {"renewTime": self.cluster.now().to_string()}});
        let lease = Arc::new(Object::from_value(kind, &lease, 1).unwrap());
        let mut keys = Vec::new();
        self.lifecycle.wake(&Change { resource: LEASES, revision: 1, old: None, new: Some(lease) }, &view, &mut keys);
        keys
    }

    fn decide(&self, node: &str) -> Plan {
        let view = self.cluster.view();
        self.lifecycle.decide(&ObjectKey::new(NODES, "", node), &Context { view: &view, now: self.cluster.now(), failure: None })
    }

    fn settle(&self) {
        for _ in 0..10 {
            let mut quiet = true;
            for node in self.cluster.list(&NODES) {
                let plan = self.decide(&node.name);
                quiet &= plan.is_empty();
                self.cluster.apply(plan).unwrap();
            }
            if quiet {
                return;
            }
        }
        panic!("no rest");
    }

    fn node(&self, name: &str) -> Arc<Value> {
        self.cluster.get(&NODES, "", name).unwrap().value()
    }

    fn taints(&self, name: &str) -> Vec<String> {
        let node = self.node(name);
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.iter().map(|taint| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap())).collect()
    }

    fn pod_is_ready(&self, node: &str) -> bool {
        is_ready(&self.cluster.get(&PODS, "default", &format!("on-{node}")).unwrap().value())
    }
}

#[test]
fn a_silent_node_is_unknown_tainted_and_its_pods_are_not_ready() {
    let world = World::new(&["a", "b"]);
    world.settle();
    assert_eq!(world.decide("a").requeue_after, Some(GRACE));
    world.cluster.advance(Duration::from_millis(2000));
    world.renew("b");
    world.cluster.advance(Duration::from_millis(600));
    world.settle();
    let node = world.node("a");
    assert_eq!(crate::pod_facts::condition(&node, "Ready").unwrap()["status"], "Unknown");
    assert_eq!(world.taints("a"), ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]);
    assert!(!world.pod_is_ready("a"));
    assert!(is_ready(&world.node("b")) && world.taints("b").is_empty() && world.pod_is_ready("b"));

    // it comes back: the agent says Ready again, and the Lease wakes the node at once
    assert_eq!(world.renew("a").len(), 1);
    let key = ObjectKey::new(NODES, "", "a");
    world.cluster.change(&key, |node| node["status"]["conditions"][0]["status"] = json!("True"));
    world.settle();
    assert!(world.taints("a").is_empty());
}

#[test]
fn nobody_is_evicted_when_all_nodes_fall_silent_at_once() {
    let world = World::new(&["a", "b"]);
    world.settle();
    world.cluster.advance(Duration::from_secs(3));
    // the second decision sees the first node unknown, and so all of them
    world.settle();
    assert!(evictions_stop(&world.cluster.list(&NODES)));
    assert!(!world.taints("b").contains(&"node.kubernetes.io/unreachable:NoExecute".to_owned()));
    assert!(!is_true(&world.node("b"), "Ready"));
}

#[test]
fn a_new_leader_blames_nobody_for_silence_before_its_election() {
    let world = World::new(&["a"]);
    world.cluster.advance(Duration::from_secs(3600));
    let clock: Clock = {
        let cluster = Arc::clone(&world.cluster);
        Arc::new(move || cluster.now())
    };
    let fresh = NodeLifecycle::new(clock, GRACE, world.cluster.now());
    let view = world.cluster.view();
    let plan = fresh.decide(&ObjectKey::new(NODES, "", "a"), &Context { view: &view, now: world.cluster.now(), failure: None });
    assert!(plan.is_empty());
    assert_eq!(plan.requeue_after, Some(GRACE));
}

#[test]
fn conditions_and_cordon_become_taints() {
    let world = World::new(&["a"]);
    let key = ObjectKey::new(NODES, "", "a");
    world.cluster.change(&key, |node| {
        node["spec"]["unschedulable"] = json!(true);
        node["spec"]["taints"] = json!([{"key": "mine", "effect": "NoSchedule"}]);
        node["status"]["conditions"][0]["status"] = json!("False");
        node["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "DiskPressure", "status": "True"}));
    });
    world.settle();
    let mut taints = world.taints("a");
    taints.sort();
    assert_eq!(
        taints,
        [
            "mine:NoSchedule",
            "node.kubernetes.io/disk-pressure:NoSchedule",
            "node.kubernetes.io/not-ready:NoExecute",
            "node.kubernetes.io/not-ready:NoSchedule",
            "node.kubernetes.io/unschedulable:NoSchedule",
        ]
    );
}
