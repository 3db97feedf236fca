//! Spreading: the soft topology constraints of a pod, or, when it states none, its owner's replicas over nodes and zones.

use std::collections::HashMap;

use crate::filters::matching;
use crate::pod::{PodInfo, Spread};
use crate::snapshot::{NodeRow, Nodes};

const ZONE: &str = "topology.kubernetes.io/zone";
/// Upstream's default constraints: at most 3 apart between nodes, 5 between zones; so a node weighs more than a zone.
const NODE_WEIGHT: i64 = 5;
const ZONE_WEIGHT: i64 = 3;

/// Fills `raw` with the crowd that each candidate would add to. `false` when there is nothing to spread.
pub(super) fn prepare(pod: &PodInfo, nodes: &Nodes, candidates: &[usize], raw: &mut Vec<i64>) -> bool {
    raw.clear();
    if pod.spread.is_empty() {
        return by_owner(pod, nodes, candidates, raw);
    }
    let soft: Vec<&Spread> = pod.spread.iter().filter(|spread| !spread.hard).collect();
    if soft.is_empty() {
        return false;
    }
    raw.resize(candidates.len(), 0);
    for spread in soft {
        let mut domains: HashMap<&str, i64> = HashMap::new();
        for row in nodes.rows() {
            if let Some(domain) = row.labels.get(&spread.topology_key) {
                *domains.entry(domain).or_default() += matching(spread, pod, row);
            }
        }
        // a node outside every domain is as bad as the most crowded one
        let worst = domains.values().copied().max().unwrap_or(0) + 1;
        for (crowd, index) in raw.iter_mut().zip(candidates) {
            let domain = nodes.rows()[*index].labels.get(&spread.topology_key);
            *crowd += domain.and_then(|domain| domains.get(domain.as_str())).copied().unwrap_or(worst);
        }
    }
    true
}

fn by_owner(pod: &PodInfo, nodes: &Nodes, candidates: &[usize], raw: &mut Vec<i64>) -> bool {
    let Some(owner) = &pod.owner else { return false };
    let rows = nodes.rows();
    let replicas = |row: &NodeRow| {
        let siblings = row.pods.iter().filter(|other| !other.deleting && other.owner.as_ref() == Some(owner)).count();
        i64::try_from(siblings).unwrap_or(i64::MAX)
    };
    raw.extend(candidates.iter().map(|index| NODE_WEIGHT * replicas(&rows[*index])));
    if candidates.iter().any(|index| rows[*index].labels.contains_key(ZONE)) {
        let mut zones: HashMap<&str, i64> = HashMap::new();
        for index in candidates {
            if let Some(zone) = rows[*index].labels.get(ZONE) {
                *zones.entry(zone).or_default() += replicas(&rows[*index]);
            }
        }
        for (crowd, index) in raw.iter_mut().zip(candidates) {
            let zone = rows[*index].labels.get(ZONE);
            *crowd += ZONE_WEIGHT * zone.and_then(|zone| zones.get(zone.as_str())).copied().unwrap_or(0);
        }
    }
    true
}
