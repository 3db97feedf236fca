//! Topology spread constraints (PodTopologySpread), the hard ones.

use std::collections::HashMap;

use super::{Refusal, matches_required, untolerated};
use crate::pod::{PodInfo, Spread};
use crate::snapshot::{NodeRow, Nodes};
use crate::topology::{Counts, Sort};

/// How many matching pods each domain holds.
pub struct Domains<'a> {
    constraints: Vec<Constraint<'a>>,
}

struct Constraint<'a> {
    topology_key: &'a str,
    max_skew: i64,
    least: i64,
    own: i64,
    counts: Source<'a>,
}

enum Source<'a> {
    /// Kept up to date by the nodes.
    Kept(Counts<'a>),
    /// Counted for this pod, because not all nodes count for it.
    Counted(HashMap<&'a str, i64>),
}

impl<'a> Domains<'a> {
    /// Counts for a pod's hard constraints, if it has any.
    pub fn of(pod: &'a PodInfo, nodes: &'a Nodes) -> Option<Self> {
        let hard: Vec<&Spread> = pod.spread.iter().filter(|spread| spread.hard).collect();
        if hard.is_empty() {
            return None;
        }
        let picky = !pod.node_selector.is_empty() || pod.node_required.is_some();
        let kept: Option<Vec<Counts<'a>>> = hard
            .iter()
            .map(|spread| {
                let all_count = !(spread.honour_taints || picky && spread.honour_affinity);
                nodes.members(&Sort::spread(spread, pod)).filter(|counts| all_count && counts.is_complete())
            })
            .collect();
        let keys: Vec<&str> = hard.iter().map(|spread| spread.topology_key.as_str()).collect();
        let constraints = hard
            .iter()
            .enumerate()
            .map(|(index, spread)| {
                let (least, domains, counts) = match &kept {
                    Some(kept) => (kept[index].least(), kept[index].domains(), Source::Kept(kept[index])),
                    None => {
                        let counts = count(spread, pod, nodes.rows(), &keys);
                        let domains = i64::try_from(counts.len()).unwrap_or(i64::MAX);
                        (counts.values().copied().min().unwrap_or(0), domains, Source::Counted(counts))
                    }
                };
                Constraint {
                    topology_key: &spread.topology_key,
                    max_skew: spread.max_skew,
                    least: if domains < spread.min_domains { 0 } else { least },
                    own: i64::from(spread.selector.matches(&pod.labels)),
                    counts,
                }
            })
            .collect();
        Some(Self { constraints })
    }

    pub(super) fn refuse(&self, row: &NodeRow, index: usize) -> Option<Refusal> {
        for constraint in &self.constraints {
            let there = match &constraint.counts {
                Source::Kept(counts) => counts.at(index),
                Source::Counted(counts) => {
                    row.labels.get(constraint.topology_key).map(|domain| counts.get(domain.as_str()).copied().unwrap_or(0))
                }
            };
            let Some(there) = there else { return Some(Refusal::SpreadLabel) };
            if there + constraint.own - constraint.least > constraint.max_skew {
                return Some(Refusal::Spread);
            }
        }
        None
    }
}

fn count<'a>(spread: &Spread, pod: &PodInfo, rows: &'a [NodeRow], keys: &[&str]) -> HashMap<&'a str, i64> {
    let mut counts = HashMap::new();
    for row in rows.iter().filter(|row| row.present && keys.iter().all(|key| row.labels.contains_key(*key))) {
        if (spread.honour_affinity && !matches_required(pod, row)) || (spread.honour_taints && untolerated(pod, row)) {
            continue;
        }
        *counts.entry(row.labels[&spread.topology_key].as_str()).or_default() += matching(spread, pod, row);
    }
    counts
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
