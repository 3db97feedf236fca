//! Which nodes can take a pod. Each filter is a pure function; the first refusal counts.

mod fit;
mod inter_pod;
mod node_affinity;
mod node_ports;
mod spread;
mod taints;

use std::borrow::Cow;

use crate::pod::PodInfo;
use crate::snapshot::{NodeRow, Nodes};

pub use fit::shortages;
pub use inter_pod::Neighbours;
pub use node_affinity::{matches_required, matches_term};
pub use spread::Domains;
pub(crate) use spread::matching;
pub use taints::{tolerates, untolerated};

/// Why a node cannot take a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "see `text`")]
pub enum Refusal {
    Unschedulable,
    NodeName,
    Taint,
    NodeAffinity,
    Ports,
    Resources,
    Spread,
    SpreadLabel,
    ExistingAntiAffinity,
    Affinity,
    AntiAffinity,
}

impl Refusal {
    /// Upstream's wording. `Resources` says what is short by [`shortages`].
    pub fn text(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::NodeName => "node(s) didn't match the requested node name",
            Self::Taint => "node(s) had untolerated taint(s)",
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::Resources => "Insufficient resources",
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => "node(s) didn't match pod topology spread constraints (missing required label)",
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
            Self::Affinity => "node(s) didn't match pod affinity rules",
            Self::AntiAffinity => "node(s) didn't match pod anti-affinity rules",
        })
    }

    /// Whether removing pods from the node could help.
    pub fn preemption_may_help(self) -> bool {
        matches!(self, Self::Ports | Self::Resources | Self::Spread | Self::ExistingAntiAffinity | Self::AntiAffinity)
    }
}

/// What is computed once for a pod, before nodes are looked at.
#[derive(Default)]
pub struct Prepared<'a> {
    /// For topology spreading; `None` when the pod has no hard constraint.
    pub domains: Option<Domains<'a>>,
    /// For affinity between pods; `None` when neither the pod nor any other cares.
    pub neighbours: Option<Neighbours<'a>>,
}

impl<'a> Prepared<'a> {
    /// Prepares a pod. The nodes are prepared for it ([`Nodes::prepare`]).
    pub fn of(pod: &'a PodInfo, nodes: &'a Nodes) -> Self {
        Self { domains: Domains::of(pod, nodes), neighbours: Neighbours::of(pod, nodes) }
    }
}

/// The first reason why this node, the row of this index, cannot take the pod.
pub fn refuse(pod: &PodInfo, row: &NodeRow, index: usize, prepared: &Prepared<'_>) -> Option<Refusal> {
    if let Some(name) = &pod.node
        && *name != row.name
    {
        return Some(Refusal::NodeName);
    }
    if row.unschedulable && !taints::tolerates_unschedulable(&pod.tolerations) {
        return Some(Refusal::Unschedulable);
    }
    if untolerated(pod, row) {
        return Some(Refusal::Taint);
    }
    if !matches_required(pod, row) {
        return Some(Refusal::NodeAffinity);
    }
    if node_ports::conflict(pod, row) {
        return Some(Refusal::Ports);
    }
    if !fit::fits(pod, row) {
        return Some(Refusal::Resources);
    }
    if let Some(refusal) = prepared.domains.as_ref().and_then(|domains| domains.refuse(row, index)) {
        return Some(refusal);
    }
    prepared.neighbours.as_ref().and_then(|neighbours| neighbours.refuse(pod, row, index))
}
