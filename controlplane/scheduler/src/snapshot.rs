//! Nodes as rows of plain numbers, kept up to date change by change and never rebuilt for a pod.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;
use trierarch_api::Object;

use crate::cluster::PodId;
use crate::pod::{HostPort, PodInfo};
use crate::resources::Resources;
use crate::topology::{Counts, Index, Sort};

/// A taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: String,
}

/// A node and what runs on it.
#[derive(Clone, Debug, Default)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Whether the Node object exists; pods may be heard of first.
    pub present: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// Sum of its pods' requests.
    pub requested: Resources,
    /// Sum of what its pods count as in scores.
    pub scored: (i64, i64),
    /// Host ports in use.
    pub ports: Vec<HostPort>,
    /// Images on it, with their sizes.
    pub images: HashMap<String, i64>,
    /// Its pods.
    pub pods: Vec<Arc<PodInfo>>,
}

impl NodeRow {
    fn read(&mut self, node: &Object) {
        let value = node.value();
        let (spec, status) = (&value["spec"], &value["status"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.present = true;
        self.labels = node.labels.clone();
        self.unschedulable = spec["unschedulable"] == true;
        self.taints = spec["taints"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|taint| Taint { key: text(&taint["key"]), value: text(&taint["value"]), effect: text(&taint["effect"]) })
            .collect();
        let amounts = if status["allocatable"].is_object() { &status["allocatable"] } else { &status["capacity"] };
        self.allocatable = Resources::of(amounts);
        self.images = status["images"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image["sizeBytes"].as_i64().unwrap_or(0);
                image["names"].as_array().into_iter().flatten().map(move |name| (text(name), size))
            })
            .collect();
    }

    /// Counts a pod in.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.request);
        self.scored.0 += pod.scored.0;
        self.scored.1 += pod.scored.1;
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod);
    }

    /// Counts a pod out.
    pub fn remove(&mut self, id: &PodId) -> Option<Arc<PodInfo>> {
        let index = self.pods.iter().position(|pod| pod.id.uid == id.uid)?;
        let pod = self.pods.swap_remove(index);
        self.requested.remove(&pod.request);
        self.scored.0 -= pod.scored.0;
        self.scored.1 -= pod.scored.1;
        for port in &pod.ports {
            if let Some(index) = self.ports.iter().position(|used| used == port) {
                self.ports.swap_remove(index);
            }
        }
        Some(pod)
    }
}

/// All nodes, and which pod is on which.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    rows: Vec<NodeRow>,
    by_name: HashMap<String, usize>,
    placed: HashMap<String, usize>,
    /// Pods on nodes with required anti-affinity: while there are none, nobody needs to look for them.
    anti_affine: usize,
    /// Pods on nodes with preferred affinity or anti-affinity, or required affinity.
    opinionated: usize,
    index: Index,
}

impl Nodes {
    /// The rows; those without a Node object are not candidates.
    pub fn rows(&self) -> &[NodeRow] {
        &self.rows
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.rows.iter().filter(|row| row.present).count()
    }

    /// The index of a node.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Whether any placed pod has required anti-affinity.
    pub fn has_anti_affinity(&self) -> bool {
        self.anti_affine > 0
    }

    /// Whether any placed pod has an opinion about its neighbours.
    pub fn has_opinions(&self) -> bool {
        self.opinionated > 0
    }

    /// Makes sure that what a pod's rules about other pods ask for is counted.
    pub fn prepare(&mut self, pod: &PodInfo) {
        let asks = !pod.away.is_empty() || pod.spread.iter().any(|spread| spread.hard);
        if asks || self.has_anti_affinity() {
            self.index.prepare(pod, &self.rows);
        }
    }

    pub(crate) fn members(&self, sort: &Sort) -> Option<Counts<'_>> {
        self.index.members(sort)
    }

    pub(crate) fn refusing(&self, pod: &PodInfo) -> Vec<Counts<'_>> {
        self.index.refusing(pod).unwrap_or_default()
    }

    /// Creates or refreshes a node.
    pub fn set_node(&mut self, node: &Object) {
        let index = self.row_for(&node.name);
        if !self.rows[index].present || self.rows[index].labels != node.labels {
            self.index.forget();
        }
        self.rows[index].read(node);
    }

    /// Forgets a node; its pods stay known until they are gone.
    pub fn remove_node(&mut self, name: &str) {
        let Some(index) = self.index(name) else { return };
        self.index.forget();
        self.rows[index].present = false;
        self.rows[index].labels.clear();
        if self.rows[index].pods.is_empty() {
            self.drop_row(index);
        }
    }

    /// Puts a pod on a node, wherever it was before.
    pub fn place(&mut self, node: &str, pod: Arc<PodInfo>) {
        self.unplace(&pod.id);
        let index = self.row_for(node);
        self.placed.insert(pod.id.uid.clone(), index);
        self.anti_affine += usize::from(!pod.away.is_empty());
        self.opinionated += usize::from(!pod.prefers.is_empty() || !pod.near.is_empty());
        self.index.count(&pod, index, &self.rows, 1);
        self.rows[index].add(pod);
    }

    /// Takes a pod off its node. Whether it was on one.
    pub fn unplace(&mut self, id: &PodId) -> bool {
        let Some(index) = self.placed.remove(&id.uid) else { return false };
        if let Some(pod) = self.rows[index].remove(id) {
            self.anti_affine -= usize::from(!pod.away.is_empty());
            self.opinionated -= usize::from(!pod.prefers.is_empty() || !pod.near.is_empty());
            self.index.count(&pod, index, &self.rows, -1);
        }
        if !self.rows[index].present && self.rows[index].pods.is_empty() {
            self.drop_row(index);
        }
        true
    }

    /// Whether a pod is on a node.
    pub fn is_placed(&self, id: &PodId) -> bool {
        self.placed.contains_key(&id.uid)
    }

    fn row_for(&mut self, name: &str) -> usize {
        if let Some(index) = self.index(name) {
            return index;
        }
        self.index.forget();
        self.rows.push(NodeRow { name: name.to_owned(), ..NodeRow::default() });
        self.by_name.insert(name.to_owned(), self.rows.len() - 1);
        self.rows.len() - 1
    }

    fn drop_row(&mut self, index: usize) {
        self.index.forget();
        let gone = self.rows.swap_remove(index);
        self.by_name.remove(&gone.name);
        if let Some(moved) = self.rows.get(index) {
            self.by_name.insert(moved.name.clone(), index);
            for pod in &moved.pods {
                self.placed.insert(pod.id.uid.clone(), index);
            }
        }
    }
}
