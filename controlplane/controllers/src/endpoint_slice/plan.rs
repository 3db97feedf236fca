//! Decides what the EndpointSlices of a Service should say.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};
use trierarch_api::Object;

use super::pack::{Group, Owner, pack};
use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::action::Plan;
use crate::pod_facts;
use crate::service_pods::{self, HEADLESS, hostname, ports, target};

/// What to do about the slices of a Service with these pods. `zones` tells the zones of nodes.
pub fn plan(service: &Object, pods: &[Arc<Object>], zones: &HashMap<String, String>, slices: &[Arc<Object>], revision: u64) -> Plan {
    let value = service.value();
    let mut labels = value["metadata"]["labels"].clone();
    labels[MANAGED_BY] = json!(MANAGER);
    labels[SERVICE_NAME] = json!(service.name);
    if service_pods::is_headless(&value) {
        labels[HEADLESS] = json!("");
    } else if let Some(labels) = labels.as_object_mut() {
        labels.remove(HEADLESS);
    }
    let mut groups = Vec::new();
    for ipv6 in families(&value) {
        let mut by_ports: BTreeMap<String, Group> = BTreeMap::new();
        for pod in pods {
            let pod_value = pod.value();
            let Some(ip) = service_pods::address(&pod_value, ipv6) else { continue };
            let ports = ports(&value, &pod_value);
            let group = by_ports.entry(json!(ports).to_string()).or_insert_with(|| Group::new(ipv6, ports));
            group.endpoints.push(endpoint(service, pod, &pod_value, ip, zones));
        }
        if by_ports.is_empty() {
            // a Service without backends has one empty slice
            by_ports.insert(String::new(), Group::placeholder(ipv6));
        }
        groups.extend(by_ports.into_values());
    }
    pack(&Owner { object: service, labels, revision }, groups, slices)
}

/// Whether each of the Service's address families is IPv6.
fn families(service: &Value) -> Vec<bool> {
    let listed: Vec<bool> = service["spec"]["ipFamilies"].as_array().into_iter().flatten().map(|family| family == "IPv6").collect();
    if listed.is_empty() { vec![service["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.contains(':'))] } else { listed }
}

fn endpoint(service: &Object, pod: &Object, value: &Value, ip: &str, zones: &HashMap<String, String>) -> Value {
    let serving = pod_facts::is_ready(value);
    let terminating = pod.deletion_timestamp.is_some();
    let ready = service.value()["spec"]["publishNotReadyAddresses"] == true || (serving && !terminating);
    let mut endpoint = json!({
        "addresses": [ip], "targetRef": target(pod),
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
    });
    let node = pod_facts::node(value);
    if !node.is_empty() {
        endpoint["nodeName"] = json!(node);
    }
    if let Some(zone) = zones.get(node) {
        endpoint["zone"] = json!(zone);
    }
    if let Some(hostname) = hostname(service, value) {
        endpoint["hostname"] = json!(hostname);
    }
    endpoint
}
