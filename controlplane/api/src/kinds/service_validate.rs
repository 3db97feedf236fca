//! What is wrong with a Service, in upstream's words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::json::{count, has, items, number, word};
use crate::names;
use crate::problem::{Path, Problems};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// Problems of a Service by itself.
pub(super) fn validate(service: &Value, problems: &mut Problems) {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    let kind = word(spec, "type");
    if !TYPES.contains(&kind) {
        problems.not_supported(&path.child("type"), kind, TYPES);
    }
    let headless = word(spec, "clusterIP") == "None";
    if kind == "ExternalName" {
        let name = word(spec, "externalName").trim_end_matches('.');
        if name.is_empty() {
            problems.required(&path.child("externalName"), "");
        } else {
            for message in names::dns_subdomain(name) {
                problems.invalid(&path.child("externalName"), name, message);
            }
        }
    } else if count(spec, "ports") == 0 && !headless {
        problems.required(&path.child("ports"), "");
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        problems.invalid(&path.child("clusterIPs").index(0), "None", format!("may not be set to 'None' for {kind} services"));
    }
    let several = count(spec, "ports") > 1;
    let (mut by_name, mut by_number, mut by_node) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in items(spec, "ports").enumerate() {
        let at = path.child("ports").index(index);
        let name = word(port, "name");
        if name.is_empty() {
            if several {
                problems.required(&at.child("name"), "");
            }
        } else {
            for message in names::dns_label(name) {
                problems.invalid(&at.child("name"), name, message);
            }
            if !by_name.insert(name.to_owned()) {
                problems.duplicate(&at.child("name"), name);
            }
        }
        for message in names::port_number(number(port, "port")) {
            problems.invalid(&at.child("port"), number(port, "port"), message);
        }
        let protocol = word(port, "protocol");
        if protocol.is_empty() {
            problems.required(&at.child("protocol"), "");
        } else if !["SCTP", "TCP", "UDP"].contains(&protocol) {
            problems.not_supported(&at.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        }
        match &port["targetPort"] {
            Value::String(name) => {
                for message in names::port_name(name) {
                    problems.invalid(&at.child("targetPort"), name.as_str(), message);
                }
            }
            Value::Number(_) => {
                for message in names::port_number(number(port, "targetPort")) {
                    problems.invalid(&at.child("targetPort"), number(port, "targetPort"), message);
                }
            }
            _ => {}
        }
        if !by_number.insert((protocol.to_owned(), number(port, "port"))) {
            problems.duplicate(&at, port.clone());
        }
        let node_port = number(port, "nodePort");
        if node_port != 0 {
            if kind == "ClusterIP" {
                problems.forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            } else if !by_node.insert((protocol.to_owned(), node_port)) {
                problems.duplicate(&at.child("nodePort"), node_port);
            }
        }
    }
    let affinity = word(spec, "sessionAffinity");
    if affinity.is_empty() {
        problems.required(&path.child("sessionAffinity"), "");
    } else if !["ClientIP", "None"].contains(&affinity) {
        problems.not_supported(&path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    }
    for (index, address) in items(spec, "externalIPs").enumerate() {
        let text = address.as_str().unwrap_or_default();
        for message in names::ip(text) {
            problems.invalid(&path.child("externalIPs").index(index), text, message);
        }
    }
    if has(spec, "selector") && !spec["selector"].is_object() {
        problems.invalid(&path.child("selector"), spec["selector"].clone(), "must be a map");
    }
}

/// Problems of a change to a Service.
pub(super) fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let (before, after) = (&old["spec"], &new["spec"]);
    let both_have_addresses = word(before, "type") != "ExternalName" && word(after, "type") != "ExternalName";
    let (was, is) = (word(before, "clusterIP"), word(after, "clusterIP"));
    if both_have_addresses && !was.is_empty() && was != is {
        problems.invalid(&Path::new("spec").child("clusterIPs").index(0), is, "may not change once set");
    }
}
