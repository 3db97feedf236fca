//! Puts endpoints into slices so that few slices change: who is in one stays in it, newcomers fill gaps, the rest opens new ones.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};
use trierarch_api::Object;

use crate::action::{Action, Plan, controller_reference};
use crate::resources::ENDPOINT_SLICES;

const ENDPOINTS_MAX: usize = 100;

/// Endpoints of one address family with the same ports.
pub(crate) struct Group {
    address_type: &'static str,
    ports: Vec<Value>,
    pub(crate) endpoints: Vec<Value>,
    /// It stands for no endpoints at all: any one slice will do, whatever its ports.
    placeholder: bool,
}

impl Group {
    pub(crate) fn new(ipv6: bool, ports: Vec<Value>) -> Self {
        Self { address_type: if ipv6 { "IPv6" } else { "IPv4" }, ports, endpoints: Vec::new(), placeholder: false }
    }

    pub(crate) fn placeholder(ipv6: bool) -> Self {
        Self { placeholder: true, ..Self::new(ipv6, Vec::new()) }
    }
}

/// Whose slices these are.
pub(crate) struct Owner<'a> {
    pub(crate) object: &'a Object,
    pub(crate) labels: Value,
    /// Part of the names of new slices.
    pub(crate) revision: u64,
}

/// The creates, updates and deletes that make `slices` hold `groups`.
pub(crate) fn pack(owner: &Owner<'_>, groups: Vec<Group>, slices: &[Arc<Object>]) -> Plan {
    let mut plan = Plan::nothing();
    let (mut creates, mut updates) = (Vec::new(), Vec::new());
    let mut kept: HashSet<String> = HashSet::new();
    for group in groups {
        let mine: Vec<&Arc<Object>> = slices
            .iter()
            .filter(|slice| {
                let value = slice.value();
                let same_ports = group.placeholder || ports_of(&value) == group.ports;
                slice.deletion_timestamp.is_none()
                    && value["addressType"] == group.address_type
                    && same_ports
                    && !kept.contains(&slice.name)
            })
            .collect();
        let mut wanted: HashMap<String, &Value> = group.endpoints.iter().map(|endpoint| (identity(endpoint), endpoint)).collect();
        let mut contents: Vec<Vec<Value>> = mine
            .iter()
            .map(|slice| {
                let value = slice.value();
                let before = value["endpoints"].as_array();
                before.into_iter().flatten().filter_map(|endpoint| wanted.remove(&identity(endpoint)).cloned()).collect()
            })
            .collect();
        let mut rest: Vec<Value> = group.endpoints.iter().filter(|endpoint| wanted.contains_key(&identity(endpoint))).cloned().collect();
        // the fullest first, so that there are few slices; then one after the other
        let mut order: Vec<usize> = (0..contents.len()).filter(|index| !contents[*index].is_empty()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(contents[*index].len()));
        order.extend((0..contents.len()).filter(|index| contents[*index].is_empty()));
        for index in order {
            let room = ENDPOINTS_MAX.saturating_sub(contents[index].len()).min(rest.len());
            contents[index].extend(rest.drain(..room));
        }
        let mut placeholder_needed = group.placeholder;
        for (slice, endpoints) in mine.into_iter().zip(contents) {
            if endpoints.is_empty() && !std::mem::take(&mut placeholder_needed) {
                continue;
            }
            kept.insert(slice.name.clone());
            updates.extend(update(owner, slice, endpoints));
        }
        while !rest.is_empty() || std::mem::take(&mut placeholder_needed) {
            let count = ENDPOINTS_MAX.min(rest.len());
            let endpoints = rest.drain(..count).collect();
            let serial = creates.len();
            creates.push(create(owner, group.address_type, &group.ports, endpoints, serial));
        }
    }
    plan.actions = creates;
    plan.actions.extend(updates);
    // last, so that no reader sees an address in no slice at all
    plan.actions.extend(
        slices.iter().filter(|slice| slice.deletion_timestamp.is_none() && !kept.contains(&slice.name)).map(|slice| Action::delete(slice)),
    );
    plan
}

fn ports_of(slice: &Value) -> Vec<Value> {
    let mut ports = slice["ports"].as_array().cloned().unwrap_or_default();
    for port in &mut ports {
        // defaults that the API may have left out
        if port["name"].is_null() {
            port["name"] = json!("");
        }
        if port["protocol"].is_null() {
            port["protocol"] = json!("TCP");
        }
    }
    ports
}

fn identity(endpoint: &Value) -> String {
    let uid = endpoint["targetRef"]["uid"].as_str().unwrap_or_default();
    format!("{uid}/{}", endpoint["addresses"][0].as_str().unwrap_or_default())
}

fn update(owner: &Owner<'_>, slice: &Object, endpoints: Vec<Value>) -> Option<Action> {
    let before = slice.value();
    let same = before["endpoints"].as_array().map_or(&[][..], Vec::as_slice) == endpoints.as_slice();
    if same && before["metadata"]["labels"] == owner.labels {
        return None;
    }
    let mut after = Value::clone(&before);
    after["endpoints"] = Value::Array(endpoints);
    after["metadata"]["labels"] = owner.labels.clone();
    Some(Action::Update { key: slice.key(), object: after })
}

fn create(owner: &Owner<'_>, address_type: &str, ports: &[Value], endpoints: Vec<Value>, serial: usize) -> Action {
    let prefix = format!("{}-", owner.object.name);
    let name = crate::names::derived(&prefix, &[&owner.object.uid.0, &owner.revision.to_string(), &serial.to_string()]);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": address_type,
        "metadata": {
            "name": name, "generateName": prefix, "namespace": owner.object.namespace, "labels": owner.labels,
            "ownerReferences": [controller_reference(owner.object)],
        },
        "ports": ports, "endpoints": endpoints,
    });
    Action::create(ENDPOINT_SLICES, &owner.object.namespace, slice)
}
