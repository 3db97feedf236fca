//! Topology spread constraints (PodTopologySpread), the hard ones.

use std::collections::HashMap;

use super::{Refusal, matches_required, untolerated};
use crate::pod::{PodInfo, Spread};
use crate::snapshot::NodeRow;

/// How many matching pods each domain holds.
pub struct Domains {
    constraints: Vec<Counted>,
}

struct Counted {
    spread: Spread,
    counts: HashMap<String, i64>,
    least: i64,
    own: i64,
}

impl Domains {
    /// Counts for a pod's hard constraints, if it has any.
    pub fn of(pod: &PodInfo, rows: &[NodeRow]) -> Option<Self> {
        let hard: Vec<&Spread> = pod.spread.iter().filter(|spread| spread.hard).collect();
        if hard.is_empty() {
            return None;
        }
        let keys: Vec<&str> = hard.iter().map(|spread| spread.topology_key.as_str()).collect();
        let constraints = hard
            .iter()
            .map(|spread| {
                let mut counts: HashMap<String, i64> = HashMap::new();
                for row in rows.iter().filter(|row| row.present && keys.iter().all(|key| row.labels.contains_key(*key))) {
                    if (spread.honour_affinity && !matches_required(pod, row)) || (spread.honour_taints && untolerated(pod, row)) {
                        continue;
                    }
                    let domain = row.labels[&spread.topology_key].clone();
                    *counts.entry(domain).or_default() += matching(spread, pod, row);
                }
                let domains = i64::try_from(counts.len()).unwrap_or(i64::MAX);
                let least = if domains < spread.min_domains { 0 } else { counts.values().copied().min().unwrap_or(0) };
                Counted { spread: (*spread).clone(), counts, least, own: i64::from(spread.selector.matches(&pod.labels)) }
            })
            .collect();
        Some(Self { constraints })
    }

    pub(super) fn refuse(&self, row: &NodeRow) -> Option<Refusal> {
        for counted in &self.constraints {
            let Some(domain) = row.labels.get(&counted.spread.topology_key) else { return Some(Refusal::SpreadLabel) };
            let there = counted.counts.get(domain).copied().unwrap_or(0);
            if there + counted.own - counted.least > counted.spread.max_skew {
                return Some(Refusal::Spread);
            }
        }
        None
    }
}

/// Pods on a node that a constraint counts.
pub(crate) fn matching(spread: &Spread, pod: &PodInfo, row: &NodeRow) -> i64 {
    let count = row
        .pods
        .iter()
        .filter(|other| !other.deleting && other.id.namespace == pod.id.namespace && spread.selector.matches(&other.labels))
        .count();
    i64::try_from(count).unwrap_or(i64::MAX)
}
