//! Preferences between pods (InterPodAffinity, the preferred kind, in both directions).

use std::collections::HashMap;

use crate::pod::{PodInfo, PodTerm};
use crate::snapshot::Nodes;

/// What a required affinity of a pod already there counts for, beside preferences.
const REQUIRED_WEIGHT: i64 = 1;

/// Fills `raw` with the sum of likes and dislikes for each candidate. `false` when nobody has any.
pub(super) fn prepare(pod: &PodInfo, nodes: &Nodes, candidates: &[usize], raw: &mut Vec<i64>) -> bool {
    raw.clear();
    if pod.prefers.is_empty() && !nodes.has_opinions() {
        return false;
    }
    let mut domains: HashMap<(&str, &str), i64> = HashMap::new();
    for row in nodes.rows() {
        let mut add = |term: &PodTerm, weight: i64| {
            if let Some((key, value)) = row.labels.get_key_value(&term.topology_key) {
                *domains.entry((key, value)).or_default() += weight;
            }
        };
        for other in &row.pods {
            for (weight, term) in pod.prefers.iter().filter(|(_, term)| term.matches(other)) {
                add(term, *weight);
            }
            for (weight, term) in other.prefers.iter().filter(|(_, term)| term.matches(pod)) {
                add(term, *weight);
            }
            for term in other.near.iter().filter(|term| term.matches(pod)) {
                add(term, REQUIRED_WEIGHT);
            }
        }
    }
    raw.extend(candidates.iter().map(|index| {
        let labels = &nodes.rows()[*index].labels;
        domains.iter().filter(|((key, value), _)| labels.get(*key).is_some_and(|own| own == value)).map(|(_, weight)| weight).sum::<i64>()
    }));
    true
}
