//! Mirrors Endpoints that people write by hand, for Services without a selector, into EndpointSlices.

use serde_json::{Value, json};
use trierarch_api::snapshot::Change;
use trierarch_api::{IndexTerm, Object, ObjectKey, Snapshot};

use crate::action::{Action, Plan};
use crate::endpoint_slice::pack::{Group, Owner, pack};
use crate::endpoint_slice::{MANAGED_BY, SERVICE_NAME};
use crate::resources::{ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use crate::runner::{Context, Controller};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// More addresses of one subset are not mirrored.
const MIRRORED_MAX: usize = 1000;

/// The controller that mirrors. Keys are Endpoints.
pub struct Mirroring;

impl Controller for Mirroring {
    fn name(&self) -> &'static str {
        "endpoint-slice-mirroring-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        let mut keys: Vec<ObjectKey> = view.list(&ENDPOINTS, None).iter().map(|endpoints| endpoints.key()).collect();
        keys.extend(view.list(&ENDPOINT_SLICES, None).iter().filter_map(|slice| mirrored(slice)));
        keys.dedup();
        keys
    }

    fn wake(&self, change: &Change, _: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return };
        if change.resource == ENDPOINTS || change.resource == SERVICES {
            keys.push(ObjectKey::new(ENDPOINTS, &object.namespace, &object.name));
        } else if change.resource == ENDPOINT_SLICES {
            keys.extend(mirrored(object));
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let term = IndexTerm::Service(key.name.clone());
        let mut slices = context.view.by_term(&ENDPOINT_SLICES, Some(&key.namespace), &term);
        slices.retain(|slice| mirrored(slice).is_some());
        let endpoints = context.view.get(&ENDPOINTS, &key.namespace, &key.name).filter(|endpoints| is_mirrored(endpoints));
        let service = context.view.get(&SERVICES, &key.namespace, &key.name);
        let service = service.filter(|service| service.value()["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty));
        match (endpoints, service) {
            (Some(endpoints), Some(_)) => plan(&endpoints, &slices, context.view.revision()),
            _ => Plan { actions: slices.iter().map(|slice| Action::delete(slice)).collect(), ..Plan::nothing() },
        }
    }
}

/// The Endpoints that a slice mirrors.
fn mirrored(slice: &Object) -> Option<ObjectKey> {
    let ours = slice.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    let service = slice.labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(ENDPOINTS, &slice.namespace, service))
}

fn is_mirrored(endpoints: &Object) -> bool {
    endpoints.deletion_timestamp.is_none()
        && endpoints.labels.get(SKIP).is_none_or(|skip| skip != "true")
        && endpoints.value()["metadata"]["annotations"].get(LEADER).is_none()
}

fn plan(endpoints: &Object, slices: &[std::sync::Arc<Object>], revision: u64) -> Plan {
    let value = endpoints.value();
    let mut labels = value["metadata"]["labels"].clone();
    labels[MANAGED_BY] = json!(MANAGER);
    labels[SERVICE_NAME] = json!(endpoints.name);
    let mut groups: Vec<Group> = Vec::new();
    for subset in value["subsets"].as_array().into_iter().flatten() {
        let ports: Vec<Value> = subset["ports"].as_array().into_iter().flatten().map(port).collect();
        for ipv6 in [false, true] {
            let mut group = Group::new(ipv6, ports.clone());
            for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                for address in subset[field].as_array().into_iter().flatten() {
                    let ip = address["ip"].as_str().unwrap_or_default();
                    if ip.contains(':') == ipv6 && group.endpoints.len() < MIRRORED_MAX {
                        group.endpoints.push(endpoint(address, ip, ready));
                    }
                }
            }
            if !group.endpoints.is_empty() {
                groups.push(group);
            }
        }
    }
    pack(&Owner { object: endpoints, labels, revision }, groups, slices)
}

fn port(port: &Value) -> Value {
    let mut mirrored = json!({
        "name": port["name"].as_str().unwrap_or_default(), "port": port["port"], "protocol": port["protocol"].as_str().unwrap_or("TCP"),
    });
    if let Some(protocol) = port["appProtocol"].as_str() {
        mirrored["appProtocol"] = json!(protocol);
    }
    mirrored
}

fn endpoint(address: &Value, ip: &str, ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [ip], "conditions": {"ready": ready}});
    for field in ["hostname", "nodeName", "targetRef"] {
        if let Some(value) = address.get(field).filter(|value| !value.is_null()) {
            endpoint[field] = value.clone();
        }
    }
    endpoint
}
