//! Decides what a node's silence, conditions and `spec.unschedulable` mean for its conditions, taints and pods.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use trierarch_api::{Object, Subresource};

use crate::action::{Action, Plan, Report};
use crate::cluster::PatchKind;
use crate::events::seconds;
use crate::pod_facts::{condition, is_ready, is_true};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions a node reports about itself, which nobody knows of once it is silent.
const OWN_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const CONDITION_TAINTS: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// From this share of silent nodes on, the fault is more likely in the network than in the nodes.
const SUSPICIOUS_PERCENT: usize = 55;

/// A node and what is known of it.
pub struct Watched<'a> {
    /// The node.
    pub node: &'a Object,
    /// Whether it has given no sign of life for the whole grace period.
    pub silent: bool,
    /// Its pods, if it is silent.
    pub pods: &'a [Arc<Object>],
    /// Whether so many nodes are silent that nobody is evicted.
    pub evictions_stop: bool,
}

/// Whether so many nodes are unknown at once that none should be given up: all of them, or most of more than two.
pub fn evictions_stop(nodes: &[Arc<Object>]) -> bool {
    let unknown = nodes.iter().filter(|node| condition(&node.value(), "Ready").is_some_and(|ready| ready["status"] == "Unknown")).count();
    unknown > 0 && (unknown == nodes.len() || (unknown > 2 && unknown * 100 >= nodes.len() * SUSPICIOUS_PERCENT))
}

/// What to do about a node.
pub fn plan(watched: &Watched<'_>, now: Timestamp) -> Plan {
    let node = watched.node;
    let value = node.value();
    let mut plan = Plan::nothing();
    let conditions = conditions(watched, now);
    let state = conditions.iter().find(|condition| condition["type"] == "Ready").and_then(|ready| ready["status"].as_str()).unwrap_or("");
    if watched.silent {
        if is_ready(&value) {
            plan.actions.push(Action::Record(Report::normal(
                node,
                "NodeNotReady",
                format!("Node {} status is now: NodeNotReady", node.name),
            )));
        }
        plan.actions.extend(watched.pods.iter().filter(|pod| is_ready(&pod.value())).flat_map(|pod| unready(pod, now)));
    }
    if let Some(patch) = taints(node, state, watched.evictions_stop, now) {
        plan.actions.push(Action::merge(node, patch));
    }
    if conditions != value["status"]["conditions"].as_array().cloned().unwrap_or_default() {
        // conditions merge by type, so a write by the node meanwhile is not undone
        let patch = json!({"metadata": {"uid": node.uid.0, "resourceVersion": node.resource_version.to_string()},
            "status": {"conditions": conditions}});
        let write = Action::Patch { key: node.key(), kind: PatchKind::Strategic, patch, subresource: Some(Subresource::Status) };
        // the taints follow in the next plan: both carry the version that was seen
        plan.actions.retain(|action| !matches!(action, Action::Patch { key, .. } if *key == node.key()));
        plan.actions.push(write);
    }
    plan
}

fn conditions(watched: &Watched<'_>, now: Timestamp) -> Vec<Value> {
    let value = watched.node.value();
    let mut conditions = value["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if !watched.silent {
        return conditions;
    }
    let now = seconds(now);
    for name in OWN_CONDITIONS {
        match conditions.iter_mut().find(|condition| condition["type"] == name) {
            Some(known) if known["status"] == "Unknown" => {}
            Some(known) => {
                known["status"] = json!("Unknown");
                known["reason"] = json!("NodeStatusUnknown");
                known["message"] = json!("Kubelet stopped posting node status.");
                known["lastTransitionTime"] = json!(now);
            }
            None => conditions.push(json!({
                "type": name, "status": "Unknown", "reason": "NodeStatusNeverUpdated", "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": now, "lastTransitionTime": now,
            })),
        }
    }
    conditions
}

/// The patch that gives the node the taints its state demands, if it lacks some or has others.
fn taints(node: &Object, ready: &str, evictions_stop: bool, now: Timestamp) -> Option<Value> {
    let value = node.value();
    let before = value["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match ready {
        "True" => {}
        "Unknown" => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        "False" => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        // it has not said anything yet
        _ => wanted.push((NOT_READY, "NoSchedule")),
    }
    if value["spec"]["unschedulable"] == true {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let pressed = CONDITION_TAINTS.iter().filter(|(condition, _)| is_true(&value, condition));
    wanted.extend(pressed.map(|(_, taint)| (*taint, "NoSchedule")));

    let ours = |taint: &Value| {
        let key = taint["key"].as_str().unwrap_or_default();
        let by_state = key == NOT_READY || key == UNREACHABLE;
        let by_condition =
            taint["effect"] == "NoSchedule" && (key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, name)| *name == key));
        by_state || by_condition
    };
    let is = |taint: &Value, (key, effect): (&str, &str)| taint["key"] == key && taint["effect"] == effect;
    let mut after: Vec<Value> =
        before.iter().filter(|taint| !ours(taint) || wanted.iter().any(|wanted| is(taint, *wanted))).cloned().collect();
    for (key, effect) in wanted {
        let held_back = effect == "NoExecute" && key == UNREACHABLE && evictions_stop;
        if !held_back && !after.iter().any(|taint| is(taint, (key, effect))) {
            after.push(json!({"key": key, "effect": effect, "timeAdded": seconds(now)}));
        }
    }
    (after != before).then(|| json!({"spec": {"taints": if after.is_empty() { Value::Null } else { Value::Array(after) }}}))
}

/// A pod of a silent node is not ready, so that nobody sends it requests.
fn unready(pod: &Object, now: Timestamp) -> Vec<Action> {
    let patch = json!({"metadata": {"uid": pod.uid.0}, "status": {"conditions": [{
        "type": "Ready", "status": "False", "lastTransitionTime": seconds(now),
    }]}});
    vec![
        Action::Patch { key: pod.key(), kind: PatchKind::Strategic, patch, subresource: Some(Subresource::Status) },
        Action::Record(Report::warning(pod, "NodeNotReady", "Node is not ready".to_owned())),
    ]
}
