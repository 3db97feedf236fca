//! Notices when a node falls silent, and says so: its conditions, its taints, the readiness of its pods.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use trierarch_api::snapshot::Change;
use trierarch_api::{IndexTerm, Object, ObjectKey, Snapshot};

pub use plan::{Watched, evictions_stop, plan};

use crate::action::Plan;
use crate::clock::Clock;
use crate::pod_facts::condition;
use crate::resources::{LEASES, NODES, PODS};
use crate::runner::{Context, Controller};

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The controller of nodes' health. It remembers when it last heard of each node, by its own clock: clocks of nodes may differ.
pub struct NodeLifecycle {
    clock: Clock,
    grace: Duration,
    elected_at: Timestamp,
    heard: Mutex<HashMap<String, Timestamp>>,
    silent: Mutex<HashMap<String, ()>>,
}

impl NodeLifecycle {
    /// A node is lost after `grace` without a sign of life; nobody is blamed for silence before `elected_at`.
    pub fn new(clock: Clock, grace: Duration, elected_at: Timestamp) -> Self {
        Self { clock, grace, elected_at, heard: Mutex::default(), silent: Mutex::default() }
    }

    fn heard_of(&self, node: &str) {
        let now = (self.clock)();
        self.heard.lock().insert(node.to_owned(), now);
    }
}

/// Whether the node itself wrote this: its Ready condition's heartbeat moved.
fn is_heartbeat(old: &Object, new: &Object) -> bool {
    let beat = |node: &Object| {
        let value = node.value();
        condition(&value, "Ready").filter(|ready| ready["status"] != "Unknown").map(|ready| ready["lastHeartbeatTime"].clone())
    };
    let after = beat(new);
    after.is_some() && after != beat(old)
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        view.list(&NODES, None).iter().map(|node| node.key()).collect()
    }

    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        if change.resource == LEASES {
            if let Some(lease) = new.filter(|lease| lease.namespace == LEASE_NAMESPACE)
                && old.is_none_or(|old| old.value()["spec"]["renewTime"] != lease.value()["spec"]["renewTime"])
            {
                self.heard_of(&lease.name);
                // the rest of the time its own timer looks after it
                if self.silent.lock().contains_key(&lease.name) {
                    keys.push(ObjectKey::new(NODES, "", &lease.name));
                }
            }
        } else if change.resource == NODES {
            match (old, new) {
                (_, Some(node)) => {
                    if old.is_none_or(|old| is_heartbeat(old, node)) {
                        self.heard_of(&node.name);
                    }
                    keys.push(node.key());
                }
                (Some(node), None) => {
                    self.heard.lock().remove(&node.name);
                    self.silent.lock().remove(&node.name);
                    // fewer nodes: the share of silent ones has changed
                    keys.extend(self.all(view));
                }
                (None, None) => {}
            }
        } else if change.resource == PODS
            && let Some(pod) = new
            && !self.silent.lock().is_empty()
        {
            let node = crate::pod_facts::node(&pod.value()).to_owned();
            if self.silent.lock().contains_key(&node) {
                keys.push(ObjectKey::new(NODES, "", &node));
            }
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let Some(node) = context.view.get(&NODES, "", &key.name) else { return Plan::nothing() };
        let heard = *self.heard.lock().entry(key.name.clone()).or_insert(self.elected_at);
        let silent_for = Duration::try_from(context.now.duration_since(heard)).unwrap_or_default();
        let silent = silent_for >= self.grace;
        if silent {
            self.silent.lock().insert(key.name.clone(), ());
        } else {
            self.silent.lock().remove(&key.name);
        }
        let nodes = context.view.list(&NODES, None);
        let pods: Vec<Arc<Object>> =
            if silent { context.view.by_term(&PODS, None, &IndexTerm::Node(key.name.clone())) } else { Vec::new() };
        let mut plan = plan(&Watched { node: &node, silent, pods: &pods, evictions_stop: evictions_stop(&nodes) }, context.now);
        // a silent node is looked at again because the others may come back, and evictions begin
        plan.look_again_in(if silent { self.grace } else { self.grace - silent_for });
        plan
    }
}
