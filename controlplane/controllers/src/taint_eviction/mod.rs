//! Evicts pods from nodes whose NoExecute taints they do not tolerate, or no longer (`Spec:` "Taint based Evictions").

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use trierarch_api::snapshot::Change;
use trierarch_api::{IndexTerm, Object, ObjectKey, Snapshot, Subresource};

use crate::action::{Action, Plan, Report, Reports};
use crate::cluster::{DeleteOptions, PatchKind};
use crate::events::seconds;
use crate::node_lifecycle::evictions_stop;
use crate::pod_facts::{self, time};
use crate::resources::{NODES, PODS};
use crate::runner::{Context, Controller};

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// How often it is asked whether evictions may go on, while most nodes are silent.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The controller of taint based evictions. Keys are pods.
pub struct TaintEviction;

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        let tainted = view.list(&NODES, None).into_iter().filter(|node| !taints(node).is_empty());
        tainted.flat_map(|node| view.by_term(&PODS, None, &IndexTerm::Node(node.name.clone()))).map(|pod| pod.key()).collect()
    }

    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == NODES
            && let Some(node) = &change.new
        {
            let before = change.old.as_ref().map(taints).unwrap_or_default();
            let after = taints(node);
            if before != after && !after.is_empty() {
                keys.extend(view.by_term(&PODS, None, &IndexTerm::Node(node.name.clone())).iter().map(|pod| pod.key()));
            }
        } else if change.resource == PODS
            && let Some(pod) = &change.new
            && pod.deletion_timestamp.is_none()
            && change.old.as_ref().is_none_or(|old| old.value()["spec"] != pod.value()["spec"])
        {
            let node = pod_facts::node(&pod.value()).to_owned();
            if !node.is_empty() && view.get(&NODES, "", &node).is_some_and(|node| !taints(&node).is_empty()) {
                keys.push(pod.key());
            }
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(pod) = context.view.get(&PODS, &key.namespace, &key.name).filter(|pod| pod.deletion_timestamp.is_none()) else {
            return plan;
        };
        let node = pod_facts::node(&pod.value()).to_owned();
        let Some(node) = context.view.get(&NODES, "", &node) else { return plan };
        let taints = taints(&node);
        match due(&taints, &pod.value()["spec"]["tolerations"], context.now) {
            Due::Never => {}
            Due::In(left) => plan.look_again_in(left),
            Due::Now if taints.iter().any(|taint| taint["key"] == UNREACHABLE) && evictions_stop(&context.view.list(&NODES, None)) => {
                plan.look_again_in(ASK_AGAIN);
            }
            Due::Now => plan.actions = evict(&pod, context.now),
        }
        plan
    }
}

/// The node's NoExecute taints.
fn taints(node: &Arc<Object>) -> Vec<Value> {
    let value = node.value();
    value["spec"]["taints"].as_array().into_iter().flatten().filter(|taint| taint["effect"] == "NoExecute").cloned().collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Due {
    Never,
    In(Duration),
    Now,
}

/// When a pod with these tolerations has to leave.
fn due(taints: &[Value], tolerations: &Value, now: Timestamp) -> Due {
    let mut earliest: Option<Timestamp> = None;
    for taint in taints {
        let matching: Vec<&Value> =
            tolerations.as_array().into_iter().flatten().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            return Due::Now;
        }
        // a toleration without a limit does not lift the limit of another
        if let Some(limit) = matching.iter().filter_map(|toleration| toleration["tolerationSeconds"].as_i64()).min() {
            let since = time(&taint["timeAdded"]).unwrap_or(now);
            let until = since.saturating_add(SignedDuration::from_secs(limit.max(0))).unwrap_or(since);
            earliest = Some(earliest.map_or(until, |before| before.min(until)));
        }
    }
    let Some(until) = earliest else { return Due::Never };
    match Duration::try_from(until.duration_since(now)) {
        Ok(left) if !left.is_zero() => Due::In(left),
        _ => Due::Now,
    }
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (key, effect) = (text(&toleration["key"]), text(&toleration["effect"]));
    (effect.is_empty() || taint["effect"] == effect)
        && (key.is_empty() || taint["key"] == key)
        && (toleration["operator"] == "Exists" || (!key.is_empty() && text(&toleration["value"]) == text(&taint["value"])))
}

fn evict(pod: &Object, now: Timestamp) -> Vec<Action> {
    let condition = json!({"metadata": {"uid": pod.uid.0}, "status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "lastTransitionTime": seconds(now),
        "message": "Taint manager: deleting due to NoExecute taint",
    }]}});
    vec![
        Action::Patch { key: pod.key(), kind: PatchKind::Strategic, patch: condition, subresource: Some(Subresource::Status) },
        Action::Delete {
            key: pod.key(),
            options: DeleteOptions { uid: Some(pod.uid.0.clone()), ..DeleteOptions::default() },
            reports: Reports {
                success: Some(Report::normal(
                    pod,
                    "TaintManagerEviction",
                    format!("Marking for deletion Pod {}/{}", pod.namespace, pod.name),
                )),
                failure: None,
            },
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_matching_limit_counts() {
        let now = Timestamp::from_second(1000).unwrap();
        let taint = json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "1970-01-01T00:16:35Z"});
        let check = |tolerations: Value, expected: Due| assert_eq!(due(std::slice::from_ref(&taint), &tolerations, now), expected);
        check(json!([]), Due::Now);
        check(json!([{"operator": "Exists"}]), Due::Never);
        check(json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoSchedule"}]), Due::Now);
        check(
            json!([{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}]),
            Due::In(Duration::from_secs(25)),
        );
        check(json!([{"key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": 5}, {"operator": "Exists"}]), Due::Now);
        assert_eq!(due(&[], &json!([]), now), Due::Never);
    }
}
