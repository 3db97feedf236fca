//! What a Service's selector finds: pods, their addresses and their ports. Shared by Endpoints and EndpointSlices.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use trierarch_api::selector::LabelSelector;
use trierarch_api::snapshot::Change;
use trierarch_api::{Object, ObjectKey, Snapshot};

use crate::pod_facts;
use crate::resources::{PODS, SERVICES};

pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// The selector of a Service whose backends are ours to find.
pub(crate) fn selector(service: &Value) -> Option<LabelSelector> {
    let spec = &service["spec"];
    let mine = spec["type"] != "ExternalName" && spec["selector"].as_object().is_some_and(|labels| !labels.is_empty());
    mine.then(|| LabelSelector::from_map(&spec["selector"], true))
}

pub(crate) fn is_headless(service: &Value) -> bool {
    service["spec"]["clusterIP"] == "None"
}

/// The pods that can be addressed, in key order.
pub(crate) fn pods(service: &Object, selector: &LabelSelector, with_terminating: bool, view: &dyn Snapshot) -> Vec<Arc<Object>> {
    let pods = view.list(&PODS, Some(&service.namespace)).into_iter();
    pods.filter(|pod| {
        selector.matches(&pod.labels)
            && (with_terminating || pod.deletion_timestamp.is_none())
            && !pod_facts::is_finished(&pod.value())
            && !addresses(&pod.value()).is_empty()
    })
    .collect()
}

/// The pod's addresses.
pub(crate) fn addresses(pod: &Value) -> Vec<&str> {
    let many: Vec<&str> = pod["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|entry| entry["ip"].as_str()).collect();
    if many.is_empty() { pod["status"]["podIP"].as_str().into_iter().filter(|ip| !ip.is_empty()).collect() } else { many }
}

/// The first address of a family.
pub(crate) fn address(pod: &Value, ipv6: bool) -> Option<&str> {
    addresses(pod).into_iter().find(|ip| ip.contains(':') == ipv6)
}

/// The Service's ports as this pod has them; a named port that the pod lacks is left out.
pub(crate) fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let resolve = |port: &Value| {
        let number = target_port(port, pod)?;
        let mut resolved = Map::new();
        resolved.insert("name".to_owned(), json!(port["name"].as_str().unwrap_or_default()));
        resolved.insert("port".to_owned(), json!(number));
        resolved.insert("protocol".to_owned(), json!(port["protocol"].as_str().unwrap_or("TCP")));
        if let Some(protocol) = port["appProtocol"].as_str() {
            resolved.insert("appProtocol".to_owned(), json!(protocol));
        }
        Some(Value::Object(resolved))
    };
    service["spec"]["ports"].as_array().into_iter().flatten().filter_map(resolve).collect()
}

fn target_port(port: &Value, pod: &Value) -> Option<i64> {
    let target = &port["targetPort"];
    match target.as_str() {
        None => target.as_i64().filter(|number| *number != 0).or_else(|| port["port"].as_i64()),
        Some("") => port["port"].as_i64(),
        Some(name) => {
            let all = |field: &str| pod["spec"][field].as_array().cloned().unwrap_or_default();
            let sidecars = all("initContainers").into_iter().filter(|container| container["restartPolicy"] == "Always");
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            all("containers")
                .into_iter()
                .chain(sidecars)
                .flat_map(|container| container["ports"].as_array().cloned().unwrap_or_default())
                .find(|candidate| candidate["name"] == name && candidate["protocol"].as_str().unwrap_or("TCP") == protocol)
                .and_then(|found| found["containerPort"].as_i64())
        }
    }
}

/// The name under which the Service's DNS record for this pod stands.
pub(crate) fn hostname(service: &Object, pod: &Value) -> Option<String> {
    let spec = &pod["spec"];
    let hostname = spec["hostname"].as_str().filter(|name| !name.is_empty())?;
    (spec["subdomain"] == service.name).then(|| hostname.to_owned())
}

/// A reference to the pod.
pub(crate) fn target(pod: &Object) -> Value {
    json!({"kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid.0})
}

/// The Services that a change of a pod concerns: those that select it now, or did.
pub(crate) fn wake_services(change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
    let (old, new) = (change.old.as_ref(), change.new.as_ref());
    if let (Some(old), Some(new)) = (old, new)
        && !pod_matters(old, new)
    {
        return;
    }
    let Some(any) = new.or(old) else { return };
    for service in view.list(&SERVICES, Some(&any.namespace)) {
        if let Some(selector) = selector(&service.value())
            && [old, new].into_iter().flatten().any(|pod| selector.matches(&pod.labels))
        {
            keys.push(service.key());
        }
    }
}

/// Whether a change of a pod can change an endpoint.
fn pod_matters(old: &Object, new: &Object) -> bool {
    let (before, after) = (old.value(), new.value());
    old.labels != new.labels
        || old.uid != new.uid
        || old.deletion_timestamp.is_some() != new.deletion_timestamp.is_some()
        || pod_facts::phase(&before) != pod_facts::phase(&after)
        || pod_facts::is_ready(&before) != pod_facts::is_ready(&after)
        || before["status"]["podIPs"] != after["status"]["podIPs"]
        || before["status"]["podIP"] != after["status"]["podIP"]
        || pod_facts::node(&before) != pod_facts::node(&after)
}
