//! Taints and tolerations (TaintToleration, NodeUnschedulable).

use crate::pod::{PodInfo, Toleration};
use crate::snapshot::{NodeRow, Taint};

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Whether one of the tolerations accepts the taint.
pub fn tolerates(tolerations: &[Toleration], key: &str, value: &str, effect: &str) -> bool {
    tolerations.iter().any(|toleration| {
        (toleration.effect.is_empty() || toleration.effect == effect)
            && (toleration.key.is_empty() || toleration.key == key)
            && (toleration.exists || (!toleration.key.is_empty() && toleration.value == value))
    })
}

pub(super) fn tolerates_unschedulable(tolerations: &[Toleration]) -> bool {
    tolerates(tolerations, UNSCHEDULABLE, "", "NoSchedule")
}

/// Whether the node has a taint that keeps the pod away.
pub fn untolerated(pod: &PodInfo, row: &NodeRow) -> bool {
    row.taints.iter().any(|taint: &Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerates(&pod.tolerations, &taint.key, &taint.value, &taint.effect)
    })
}
