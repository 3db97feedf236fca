//! Removes pods that nobody else will: of vanished or written-off nodes, terminating ones that were never placed, and old finished ones.

use std::time::Duration;

use serde_json::Value;
use trierarch_api::snapshot::Change;
use trierarch_api::{IndexTerm, ObjectKey, Snapshot};

use crate::action::{Action, Plan};
use crate::pod_facts;
use crate::resources::{NODES, PODS};
use crate::runner::{Context, Controller};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// A node that vanished may be one that is just being registered again.
const QUARANTINE: Duration = Duration::from_secs(2);
/// The key under which finished pods are counted.
const FINISHED: &str = "finished-pods";

/// The garbage collector of pods. Keys are nodes, pods that were never placed, and one for finished pods.
pub struct PodGc {
    finished_max: usize,
    missing_since: parking_lot::Mutex<std::collections::HashMap<String, jiff::Timestamp>>,
}

impl PodGc {
    /// Keeps at most this many finished pods.
    pub fn new(finished_max: usize) -> Self {
        Self { finished_max, missing_since: parking_lot::Mutex::default() }
    }
}

fn node_key(name: &str) -> ObjectKey {
    ObjectKey::new(NODES, "", name)
}

fn is_out_of_service(node: &Value) -> bool {
    node["spec"]["taints"].as_array().is_some_and(|taints| taints.iter().any(|taint| taint["key"] == OUT_OF_SERVICE))
}

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        let mut keys: Vec<ObjectKey> = view.list(&NODES, None).iter().map(|node| node.key()).collect();
        for pod in view.list(&PODS, None) {
            match pod_facts::node(&pod.value()) {
                "" if pod.deletion_timestamp.is_some() => keys.push(pod.key()),
                "" => {}
                node => keys.push(node_key(node)),
            }
        }
        keys.push(ObjectKey::new(PODS, "", FINISHED));
        keys
    }

    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == NODES {
            keys.extend(change.new.as_ref().or(change.old.as_ref()).map(|node| node.key()));
        } else if change.resource == PODS
            && let Some(pod) = &change.new
        {
            let value = pod.value();
            match pod_facts::node(&value) {
                "" if pod.deletion_timestamp.is_some() => keys.push(pod.key()),
                "" => {}
                node if view.get(&NODES, "", node).is_none_or(|node| is_out_of_service(&node.value())) => keys.push(node_key(node)),
                _ => {}
            }
            if pod_facts::is_finished(&value) && change.old.as_ref().is_none_or(|old| !pod_facts::is_finished(&old.value())) {
                keys.push(ObjectKey::new(PODS, "", FINISHED));
            }
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let mut plan = Plan::nothing();
        if key.resource == PODS && key.namespace.is_empty() {
            let mut finished: Vec<_> =
                context.view.list(&PODS, None).into_iter().filter(|pod| pod_facts::is_finished(&pod.value())).collect();
            let surplus = finished.len().saturating_sub(self.finished_max);
            finished.sort_by_key(|pod| pod.creation_timestamp);
            plan.actions = finished[..surplus].iter().map(|pod| Action::delete_now(pod)).collect();
        } else if key.resource == PODS {
            if let Some(pod) = context.view.get(&PODS, &key.namespace, &key.name)
                && pod.deletion_timestamp.is_some()
                && pod_facts::node(&pod.value()).is_empty()
                && pod.finalizers.is_empty()
            {
                plan.actions.push(Action::delete_now(&pod));
            }
        } else {
            self.decide_node(key, context, &mut plan);
        }
        plan
    }
}

impl PodGc {
    fn decide_node(&self, key: &ObjectKey, context: &Context<'_>, plan: &mut Plan) {
        let mut missing = self.missing_since.lock();
        let pods = || context.view.by_term(&PODS, None, &IndexTerm::Node(key.name.clone()));
        match context.view.get(&NODES, "", &key.name) {
            Some(node) => {
                missing.remove(&key.name);
                if is_out_of_service(&node.value()) && !pod_facts::is_true(&node.value(), "Ready") {
                    let terminating = pods().into_iter().filter(|pod| pod.deletion_timestamp.is_some());
                    plan.actions = terminating.map(|pod| Action::delete_now(&pod)).collect();
                }
            }
            None => {
                let pods = pods();
                if pods.is_empty() {
                    missing.remove(&key.name);
                    return;
                }
                let since = *missing.entry(key.name.clone()).or_insert(context.now);
                let age = Duration::try_from(context.now.duration_since(since)).unwrap_or_default();
                if age < QUARANTINE {
                    plan.look_again_in(QUARANTINE - age);
                    return;
                }
                plan.actions = pods.iter().map(|pod| Action::delete_now(pod)).collect();
            }
        }
    }
}
