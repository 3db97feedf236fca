//! A pod as the scheduler needs it: parsed once, compact, shared.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use trierarch_api::Object;
use trierarch_api::selector::LabelSelector;

use crate::cluster::PodId;
use crate::resources::{Resources, pod_request};

/// What the scheduler knows of a pod.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// Which pod.
    pub id: PodId,
    /// `spec.nodeName`, or where it is nominated or assumed.
    pub node: Option<String>,
    /// `spec.schedulerName`.
    pub scheduler: String,
    /// `spec.priority`.
    pub priority: i32,
    /// Whether it may displace others.
    pub may_preempt: bool,
    /// Whether gates hold it back.
    pub gated: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it has ended.
    pub finished: bool,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// `status.nominatedNodeName`.
    pub nominated: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it asks for.
    pub request: Resources,
    /// CPU millis and memory bytes it counts as in scores.
    pub scored: (i64, i64),
    /// Ports it needs on the host.
    pub ports: Vec<HostPort>,
    /// Images of its containers.
    pub images: Vec<String>,
    /// `spec.nodeSelector`.
    pub node_selector: Vec<(String, String)>,
    /// Required node affinity: one of these; `None` demands nothing.
    pub node_required: Option<Vec<NodeTerm>>,
    /// Preferred node affinity.
    pub node_preferred: Vec<(i64, NodeTerm)>,
    /// Its tolerations.
    pub tolerations: Vec<Toleration>,
    /// Its topology spread constraints.
    pub spread: Vec<Spread>,
    /// Pods it must be near to.
    pub near: Vec<PodTerm>,
    /// Pods it must be away from.
    pub away: Vec<PodTerm>,
    /// Pods it likes (positive) or dislikes (negative) to be near to.
    pub prefers: Vec<(i64, PodTerm)>,
    /// Uid of the owner that manages it: its replicas are spread.
    pub owner: Option<String>,
}

/// A port on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `0.0.0.0` for all addresses.
    pub ip: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// The number.
    pub port: i64,
}

impl HostPort {
    /// Whether both cannot be had at once.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
        self.port == other.port && self.protocol == other.protocol && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A term of a node selector: all of its requirements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTerm {
    /// On labels.
    pub labels: Vec<NodeRequirement>,
    /// On `metadata.name`.
    pub names: Vec<NodeRequirement>,
}

/// A requirement of a node selector term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRequirement {
    /// Label or field.
    pub key: String,
    /// In, NotIn, Exists, DoesNotExist, Gt, Lt.
    pub operator: String,
    /// Values.
    pub values: Vec<String>,
}

/// A toleration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    /// Empty: every key.
    pub key: String,
    /// Whether any value will do.
    pub exists: bool,
    /// The value.
    pub value: String,
    /// Empty: every effect.
    pub effect: String,
}

/// A topology spread constraint.
#[derive(Clone, Debug)]
pub struct Spread {
    /// Label of the nodes.
    pub topology_key: String,
    /// How far apart domains may be.
    pub max_skew: i64,
    /// Whether a violation forbids the node.
    pub hard: bool,
    /// Which pods count.
    pub selector: LabelSelector,
    /// `minDomains`.
    pub min_domains: i64,
    /// Whether nodes that the pod's node affinity excludes are left out.
    pub honour_affinity: bool,
    /// Whether nodes whose taints the pod does not tolerate are left out.
    pub honour_taints: bool,
}

/// A pod affinity term.
#[derive(Clone, Debug)]
pub struct PodTerm {
    /// Label of the nodes.
    pub topology_key: String,
    /// Which pods.
    pub selector: LabelSelector,
    /// In which namespaces; empty with `all_namespaces`.
    pub namespaces: Vec<String>,
    /// In all namespaces.
    pub all_namespaces: bool,
}

impl PodTerm {
    /// Whether a pod is one of those meant.
    pub fn matches(&self, pod: &PodInfo) -> bool {
        (self.all_namespaces || self.namespaces.contains(&pod.id.namespace)) && self.selector.matches(&pod.labels)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn entries(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

impl PodInfo {
    /// Reads a pod.
    pub fn of(pod: &Object) -> Self {
        let value = pod.value();
        let spec = &value["spec"];
        let (request, scored) = pod_request(spec);
        let affinity = &spec["affinity"];
        let filled = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let term = |term: &Value| pod_term(term, pod);
        let mut prefers = Vec::new();
        for (field, sign) in [("podAffinity", 1), ("podAntiAffinity", -1)] {
            for preferred in entries(&affinity[field]["preferredDuringSchedulingIgnoredDuringExecution"]) {
                prefers.push((sign * preferred["weight"].as_i64().unwrap_or(1), term(&preferred["podAffinityTerm"])));
            }
        }
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        Self {
            id: PodId { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.0.clone() },
            node: filled(&spec["nodeName"]),
            scheduler: filled(&spec["schedulerName"]).unwrap_or_else(|| "default-scheduler".to_owned()),
            priority: spec["priority"].as_i64().and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
            may_preempt: spec["preemptionPolicy"] != "Never",
            gated: spec["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()),
            deleting: pod.deletion_timestamp.is_some(),
            finished: matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed")),
            created: pod.creation_timestamp,
            nominated: filled(&value["status"]["nominatedNodeName"]),
            labels: pod.labels.clone(),
            request,
            scored,
            ports: host_ports(spec),
            images: entries(&spec["containers"]).map(|container| text(&container["image"])).collect(),
            node_selector: spec["nodeSelector"].as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect(),
            node_required: affinity["nodeAffinity"][required]
                .is_object()
                .then(|| entries(&affinity["nodeAffinity"][required]["nodeSelectorTerms"]).map(node_term).collect()),
            node_preferred: entries(&affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"])
                .map(|preferred| (preferred["weight"].as_i64().unwrap_or(1), node_term(&preferred["preference"])))
                .collect(),
            tolerations: entries(&spec["tolerations"])
                .map(|toleration| Toleration {
                    key: text(&toleration["key"]),
                    exists: toleration["operator"] == "Exists",
                    value: text(&toleration["value"]),
                    effect: text(&toleration["effect"]),
                })
                .collect(),
            spread: entries(&spec["topologySpreadConstraints"]).map(|constraint| spread(constraint, pod)).collect(),
            near: entries(&affinity["podAffinity"][required]).map(term).collect(),
            away: entries(&affinity["podAntiAffinity"][required]).map(term).collect(),
            prefers,
            owner: pod.controller().map(|owner| owner.uid.0.clone()),
        }
    }

    /// Whether it takes room on a node.
    pub fn takes_room(&self) -> bool {
        self.node.is_some() && !self.finished
    }
}

fn host_ports(spec: &Value) -> Vec<HostPort> {
    let sidecars = entries(&spec["initContainers"]).filter(|container| container["restartPolicy"] == "Always");
    entries(&spec["containers"])
        .chain(sidecars)
        .flat_map(|container| entries(&container["ports"]))
        .filter_map(|port| {
            let number = port["hostPort"].as_i64().filter(|number| *number > 0)?;
            let ip = port["hostIP"].as_str().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            Some(HostPort { ip: ip.to_owned(), protocol: port["protocol"].as_str().unwrap_or("TCP").to_owned(), port: number })
        })
        .collect()
}

fn node_term(term: &Value) -> NodeTerm {
    let requirement = |value: &Value| NodeRequirement {
        key: text(&value["key"]),
        operator: text(&value["operator"]),
        values: entries(&value["values"]).map(text).collect(),
    };
    NodeTerm {
        labels: entries(&term["matchExpressions"]).map(requirement).collect(),
        names: entries(&term["matchFields"]).map(requirement).collect(),
    }
}

/// A label selector, with the pod's own values of `matchLabelKeys` demanded too.
fn selector(holder: &Value, pod: &Object) -> LabelSelector {
    let mut json = holder["labelSelector"].clone();
    for key in entries(&holder["matchLabelKeys"]).filter_map(Value::as_str) {
        if let (Some(value), Some(map)) = (pod.labels.get(key), json.as_object_mut()) {
            let labels = map.entry("matchLabels").or_insert_with(|| Value::Object(serde_json::Map::new()));
            labels[key] = Value::String(value.clone());
        }
    }
    LabelSelector::from_json(&json).unwrap_or_else(|_| LabelSelector::nothing())
}

fn spread(constraint: &Value, pod: &Object) -> Spread {
    Spread {
        topology_key: text(&constraint["topologyKey"]),
        max_skew: constraint["maxSkew"].as_i64().unwrap_or(1),
        hard: constraint["whenUnsatisfiable"] != "ScheduleAnyway",
        selector: selector(constraint, pod),
        min_domains: constraint["minDomains"].as_i64().unwrap_or(1),
        honour_affinity: constraint["nodeAffinityPolicy"] != "Ignore",
        honour_taints: constraint["nodeTaintsPolicy"] == "Honor",
    }
}

fn pod_term(term: &Value, pod: &Object) -> PodTerm {
    let mut namespaces: Vec<String> = entries(&term["namespaces"]).map(text).collect();
    let all_namespaces = term["namespaceSelector"].is_object();
    if namespaces.is_empty() && !all_namespaces {
        namespaces.push(pod.namespace.clone());
    }
    PodTerm { topology_key: text(&term["topologyKey"]), selector: selector(term, pod), namespaces, all_namespaces }
}
