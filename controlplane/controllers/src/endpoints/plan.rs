//! Decides what the Endpoints of a Service should say.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use trierarch_api::Object;

use crate::action::{Action, Plan};
use crate::pod_facts;
use crate::resources::ENDPOINTS;
use crate::service_pods::{self, HEADLESS, hostname, ports, target};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const ADDRESSES_MAX: usize = 1000;

/// Whether this controller wrote it.
pub(super) fn is_ours(endpoints: &Object) -> bool {
    endpoints.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

/// What to do about the Endpoints of a Service with these pods.
pub fn plan(service: &Object, pods: &[Arc<Object>], current: Option<&Object>) -> Plan {
    let value = service.value();
    let (subsets, truncated) = subsets(service, pods);
    let mut labels = value["metadata"]["labels"].clone();
    labels[MANAGED_BY] = json!(MANAGER);
    if service_pods::is_headless(&value) {
        labels[HEADLESS] = json!("");
    }
    let mut plan = Plan::nothing();
    let Some(current) = current else {
        let mut metadata = json!({"name": service.name, "namespace": service.namespace, "labels": labels});
        if truncated {
            metadata["annotations"][OVER_CAPACITY] = json!("truncated");
        }
        let mut endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata});
        if !subsets.is_empty() {
            endpoints["subsets"] = json!(subsets);
        }
        plan.actions.push(Action::create(ENDPOINTS, &service.namespace, endpoints));
        return plan;
    };
    let before = current.value();
    let mut after = Value::clone(&before);
    after["metadata"]["labels"] = labels;
    if let Some(members) = after.as_object_mut() {
        members.remove("subsets");
        if !subsets.is_empty() {
            members.insert("subsets".to_owned(), json!(subsets));
        }
    }
    let was_truncated = before["metadata"]["annotations"].get(OVER_CAPACITY).is_some();
    if truncated && !was_truncated {
        after["metadata"]["annotations"][OVER_CAPACITY] = json!("truncated");
    } else if was_truncated
        && !truncated
        && let Some(annotations) = after["metadata"]["annotations"].as_object_mut()
    {
        annotations.remove(OVER_CAPACITY);
    }
    let same_subsets = before["subsets"].as_array().is_none_or(Vec::is_empty) && subsets.is_empty();
    if same_subsets && let (Some(before), Some(after)) = (before.get("subsets"), after.as_object_mut()) {
        after.insert("subsets".to_owned(), before.clone());
    }
    if after != *before {
        plan.actions.push(Action::Update { key: current.key(), object: after });
    }
    plan
}

#[derive(Default)]
struct Addresses {
    ready: Vec<Value>,
    not_ready: Vec<Value>,
}

/// Pods with the same ports share a subset. Whether some did not fit in.
fn subsets(service: &Object, pods: &[Arc<Object>]) -> (Vec<Value>, bool) {
    let value = service.value();
    let publish_all = value["spec"]["publishNotReadyAddresses"] == true;
    let ipv6 = value["spec"]["ipFamilies"][0] == "IPv6";
    let mut groups: BTreeMap<String, (Vec<Value>, Addresses)> = BTreeMap::new();
    for pod in pods.iter().take(ADDRESSES_MAX) {
        let pod_value = pod.value();
        let Some(ip) = service_pods::address(&pod_value, ipv6) else { continue };
        let mut ports = ports(&value, &pod_value);
        let wants_ports = value["spec"]["ports"].as_array().is_some_and(|ports| !ports.is_empty());
        if ports.is_empty() && (wants_ports || !service_pods::is_headless(&value)) {
            continue;
        }
        for port in &mut ports {
            if port["name"] == ""
                && let Some(members) = port.as_object_mut()
            {
                members.remove("name");
            }
        }
        let mut address = json!({"ip": ip, "targetRef": target(pod)});
        if !pod_facts::node(&pod_value).is_empty() {
            address["nodeName"] = json!(pod_facts::node(&pod_value));
        }
        if let Some(hostname) = hostname(service, &pod_value) {
            address["hostname"] = json!(hostname);
        }
        let group = groups.entry(json!(ports).to_string()).or_insert_with(|| (ports, Addresses::default()));
        if publish_all || pod_facts::is_ready(&pod_value) {
            group.1.ready.push(address);
        } else {
            group.1.not_ready.push(address);
        }
    }
    let subsets = groups.into_values().map(|(ports, addresses)| {
        let mut subset = json!({});
        for (field, list) in [("addresses", addresses.ready), ("notReadyAddresses", addresses.not_ready), ("ports", ports)] {
            if !list.is_empty() {
                subset[field] = Value::Array(list);
            }
        }
        subset
    });
    (subsets.collect(), pods.len() > ADDRESSES_MAX)
}
