//! Node selectors and node affinity.

use crate::pod::{NodeRequirement, NodeTerm, PodInfo};
use crate::snapshot::NodeRow;

/// Whether the node has what the pod requires of it.
pub fn matches_required(pod: &PodInfo, row: &NodeRow) -> bool {
    pod.node_selector.iter().all(|(key, value)| row.labels.get(key) == Some(value))
        && pod.node_required.as_ref().is_none_or(|terms| terms.iter().any(|term| matches_term(term, row)))
}

/// Whether the node meets a term. An empty term meets nothing.
pub fn matches_term(term: &NodeTerm, row: &NodeRow) -> bool {
    !(term.labels.is_empty() && term.names.is_empty())
        && term.labels.iter().all(|requirement| holds(requirement, row.labels.get(&requirement.key).map(String::as_str)))
        && term.names.iter().all(|requirement| requirement.key == "metadata.name" && holds(requirement, Some(&row.name)))
}

fn holds(requirement: &NodeRequirement, value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|value| requirement.values.iter().any(|listed| listed == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, requirement.values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}
