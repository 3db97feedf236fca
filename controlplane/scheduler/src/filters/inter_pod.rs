//! Affinity and anti-affinity between pods, the required kind (InterPodAffinity).

use std::collections::HashMap;

use super::Refusal;
use crate::pod::PodInfo;
use crate::snapshot::{NodeRow, Nodes};
use crate::topology::{Counts, Sort};

/// Where a pod's friends and foes are.
pub struct Neighbours<'a> {
    /// Where pods that are there already refuse this one.
    refusing: Vec<Counts<'a>>,
    /// For each affinity term, domains with pods that meet all terms.
    near: Vec<HashMap<&'a str, i64>>,
    /// For each anti-affinity term, where the pods are that meet it.
    away: Vec<Counts<'a>>,
    /// The pod meets its own affinity terms: the first of a group may go anywhere.
    own_group: bool,
}

impl<'a> Neighbours<'a> {
    /// Looks for friends and foes, unless nobody cares. The nodes are prepared for the pod ([`Nodes::prepare`]).
    pub fn of(pod: &PodInfo, nodes: &'a Nodes) -> Option<Self> {
        if pod.near.is_empty() && pod.away.is_empty() && !nodes.has_anti_affinity() {
            return None;
        }
        Some(Self {
            refusing: nodes.refusing(pod),
            near: near(pod, nodes),
            away: pod.away.iter().filter_map(|term| nodes.members(&Sort::term(term))).collect(),
            own_group: pod.near.iter().all(|term| term.matches(pod)),
        })
    }

    pub(super) fn refuse(&self, pod: &PodInfo, row: &NodeRow, index: usize) -> Option<Refusal> {
        let nobody_yet = self.near.iter().all(HashMap::is_empty);
        for (term, domains) in pod.near.iter().zip(&self.near) {
            match row.labels.get(&term.topology_key) {
                None => return Some(Refusal::Affinity),
                Some(value) if !(domains.contains_key(value.as_str()) || nobody_yet && self.own_group) => {
                    return Some(Refusal::Affinity);
                }
                Some(_) => {}
            }
        }
        let somebody = |counts: &Counts<'_>| counts.at(index).is_some_and(|count| count > 0);
        if self.away.iter().any(somebody) {
            return Some(Refusal::AntiAffinity);
        }
        self.refusing.iter().any(somebody).then_some(Refusal::ExistingAntiAffinity)
    }
}

fn near<'a>(pod: &PodInfo, nodes: &'a Nodes) -> Vec<HashMap<&'a str, i64>> {
    let mut domains = vec![HashMap::new(); pod.near.len()];
    if pod.near.is_empty() {
        return domains;
    }
    for row in nodes.rows() {
        let friends = row.pods.iter().filter(|other| pod.near.iter().all(|term| term.matches(other))).count();
        if friends == 0 {
            continue;
        }
        for (term, domains) in pod.near.iter().zip(&mut domains) {
            if let Some(value) = row.labels.get(&term.topology_key) {
                *domains.entry(value.as_str()).or_default() += i64::try_from(friends).unwrap_or(i64::MAX);
            }
        }
    }
    domains
}
