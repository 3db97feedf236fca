//! In which order surplus pods are deleted (`Spec:` Kubernetes "ReplicaSet", "Scaling a ReplicaSet").

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use trierarch_api::Object;

use crate::pod_facts;

struct Ranked {
    placed: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    related_on_node: usize,
    ready_since: Option<Timestamp>,
    restarts: (i64, i64),
    created: Option<Timestamp>,
    uid: String,
}

/// The pods, those to delete first coming first.
pub(super) fn in_deletion_order(pods: &[Arc<Object>], related_on_node: &HashMap<String, usize>, now: Timestamp) -> Vec<Arc<Object>> {
    let mut ranked: Vec<(Ranked, &Arc<Object>)> = pods.iter().map(|pod| (rank(pod, related_on_node), pod)).collect();
    ranked.sort_by(|(left, _), (right, _)| compare(left, right, now));
    ranked.into_iter().map(|(_, pod)| Arc::clone(pod)).collect()
}

fn rank(pod: &Object, related_on_node: &HashMap<String, usize>) -> Ranked {
    let value = pod.value();
    let node = pod_facts::node(&value);
    Ranked {
        placed: !node.is_empty(),
        phase: match pod_facts::phase(&value) {
            "Running" => 2,
            "Unknown" => 1,
            _ => 0,
        },
        ready: pod_facts::is_ready(&value),
        cost: value["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        related_on_node: related_on_node.get(node).copied().unwrap_or(0),
        ready_since: pod_facts::ready_since(&value),
        restarts: (restarts(&value["status"]["containerStatuses"]), restarts(&value["status"]["initContainerStatuses"])),
        created: pod.creation_timestamp,
        uid: pod.uid.0.clone(),
    }
}

fn restarts(statuses: &Value) -> i64 {
    statuses.as_array().into_iter().flatten().map(|status| pod_facts::number(&status["restartCount"])).max().unwrap_or(0)
}

fn compare(left: &Ranked, right: &Ranked, now: Timestamp) -> Ordering {
    left.placed
        .cmp(&right.placed)
        .then(left.phase.cmp(&right.phase))
        .then(left.ready.cmp(&right.ready))
        .then(left.cost.cmp(&right.cost))
        .then(right.related_on_node.cmp(&left.related_on_node))
        .then_with(|| if left.ready { youngest_first(left.ready_since, right.ready_since, now) } else { Ordering::Equal })
        .then(right.restarts.cmp(&left.restarts))
        .then_with(|| youngest_first(left.created, right.created, now))
        .then_with(|| left.uid.cmp(&right.uid))
}

/// Younger by a power of two first, so that scaling down does not always hit the newest; unknown times first of all.
fn youngest_first(left: Option<Timestamp>, right: Option<Timestamp>, now: Timestamp) -> Ordering {
    match (left, right) {
        (Some(left), Some(right)) => magnitude(left, now).cmp(&magnitude(right, now)),
        (left, right) => left.is_some().cmp(&right.is_some()),
    }
}

fn magnitude(time: Timestamp, now: Timestamp) -> Option<u32> {
    let age = now.duration_since(time).as_nanos();
    u128::try_from(age).ok().filter(|age| *age > 0).map(u128::ilog2)
}
