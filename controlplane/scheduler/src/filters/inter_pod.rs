//! Affinity and anti-affinity between pods, the required kind (InterPodAffinity).

use std::collections::{HashMap, HashSet};

use super::Refusal;
use crate::pod::PodInfo;
use crate::snapshot::{NodeRow, Nodes};

/// Where a pod's friends and foes are.
pub struct Neighbours {
    /// Domains (label, value) that pods already there forbid to this one.
    forbidden: HashSet<(String, String)>,
    /// For each affinity term, domains with pods that meet all terms.
    near: Vec<HashMap<String, i64>>,
    /// For each anti-affinity term, domains with pods that meet it.
    away: Vec<HashMap<String, i64>>,
    /// The pod meets its own affinity terms: the first of a group may go anywhere.
    own_group: bool,
}

impl Neighbours {
    /// Looks at all placed pods, unless nobody cares.
    pub fn of(pod: &PodInfo, nodes: &Nodes) -> Option<Self> {
        if pod.near.is_empty() && pod.away.is_empty() && !nodes.has_anti_affinity() {
            return None;
        }
        let mut found = Self {
            forbidden: HashSet::new(),
            near: vec![HashMap::new(); pod.near.len()],
            away: vec![HashMap::new(); pod.away.len()],
            own_group: pod.near.iter().all(|term| term.matches(pod)),
        };
        for row in nodes.rows() {
            for other in &row.pods {
                found.look_at(pod, other, row);
            }
        }
        Some(found)
    }

    fn look_at(&mut self, pod: &PodInfo, other: &PodInfo, row: &NodeRow) {
        for term in &other.away {
            if let Some(value) = row.labels.get(&term.topology_key)
                && term.matches(pod)
            {
                self.forbidden.insert((term.topology_key.clone(), value.clone()));
            }
        }
        if !pod.near.is_empty() && pod.near.iter().all(|term| term.matches(other)) {
            for (term, domains) in pod.near.iter().zip(&mut self.near) {
                if let Some(value) = row.labels.get(&term.topology_key) {
                    *domains.entry(value.clone()).or_default() += 1;
                }
            }
        }
        for (term, domains) in pod.away.iter().zip(&mut self.away) {
            if let Some(value) = row.labels.get(&term.topology_key)
                && term.matches(other)
            {
                *domains.entry(value.clone()).or_default() += 1;
            }
        }
    }

    pub(super) fn refuse(&self, pod: &PodInfo, row: &NodeRow) -> Option<Refusal> {
        let nobody_yet = self.near.iter().all(HashMap::is_empty);
        for (term, domains) in pod.near.iter().zip(&self.near) {
            match row.labels.get(&term.topology_key) {
                None => return Some(Refusal::Affinity),
                Some(value) if !domains.contains_key(value) && !(nobody_yet && self.own_group) => return Some(Refusal::Affinity),
                Some(_) => {}
            }
        }
        for (term, domains) in pod.away.iter().zip(&self.away) {
            if row.labels.get(&term.topology_key).is_some_and(|value| domains.contains_key(value)) {
                return Some(Refusal::AntiAffinity);
            }
        }
        let forbidden = self.forbidden.iter().any(|(key, value)| row.labels.get(key) == Some(value));
        forbidden.then_some(Refusal::ExistingAntiAffinity)
    }
}
