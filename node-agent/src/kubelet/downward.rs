//! The downward API: what a pod may learn about itself.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity::{self, ResourceList};

/// Facts that only the node knows.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// Addresses of the node, first the primary one.
    pub host_ips: Vec<String>,
    /// Addresses of the pod, once it has a sandbox.
    pub pod_ips: Vec<String>,
    /// What the node offers to pods: a container without limits may use as much.
    pub allocatable: ResourceList,
}

/// The value of a `fieldRef`.
///
/// # Errors
/// A path that Kubernetes does not offer.
pub fn field(pod: &Pod, selector: &ObjectFieldSelector, facts: &NodeFacts) -> Result<String, String> {
    let meta = &pod.metadata;
    let path = selector.field_path.as_str();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref();
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// The value of a `resourceFieldRef` of `container`. A missing limit reads as what the node can allocate.
///
/// # Errors
/// A resource that the downward API does not offer.
pub fn resource(container: &Container, selector: &ResourceFieldSelector, facts: &NodeFacts) -> Result<String, String> {
    let zero = Quantity("0".to_owned());
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let name = selector.resource.as_str();
    let value = if let Some(resource) = name.strip_prefix("limits.") {
        limits.and_then(|l| l.get(resource)).filter(|q| quantity::nanos(&q.0) != Some(0)).or_else(|| facts.allocatable.get(resource))
    } else if let Some(resource) = name.strip_prefix("requests.") {
        requests.and_then(|r| r.get(resource)).or_else(|| limits.and_then(|l| l.get(resource)))
    } else {
        return Err(format!("unsupported container resource : {name}"));
    };
    let divisor = selector.divisor.as_ref().unwrap_or(&zero);
    Ok(quantity::divided(value.unwrap_or(&zero), divisor).to_string())
}

/// A map as the downward API prints it: sorted lines `key="value"`, the value quoted.
pub fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value))).collect::<Vec<_>>().join("\n")
}

/// A string in double quotes with C-like escapes.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_control() && u32::from(c) < 0x80 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts() -> NodeFacts {
        NodeFacts {
            host_ips: vec!["10.0.0.1".into()],
            pod_ips: vec!["10.244.0.5".into(), "fd00::5".into()],
            allocatable: BTreeMap::from([("cpu".to_owned(), Quantity("2".into())), ("memory".to_owned(), Quantity("1Gi".into()))]),
        }
    }

    #[test]
    fn fields() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "one\"\n"}, "annotations": {"x/y": "z"}},
            "spec": {"containers": [], "nodeName": "n1", "serviceAccountName": "default"}}))
        .unwrap();
        let get = |path: &str| field(&pod, &ObjectFieldSelector { field_path: path.to_owned(), ..Default::default() }, &facts());
        for (path, value) in [
            ("metadata.name", "p"),
            ("metadata.uid", "u"),
            ("metadata.labels", "a=\"one\\\"\\n\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['x/y']", "z"),
            ("spec.nodeName", "n1"),
            ("status.hostIP", "10.0.0.1"),
            ("status.podIPs", "10.244.0.5,fd00::5"),
        ] {
            assert_eq!(get(path).as_deref(), Ok(value), "{path}");
        }
        assert!(get("spec.schedulerName").is_err());
    }

    #[test]
    fn resources_fall_back_to_what_the_node_offers() {
        let container: Container = serde_json::from_value(
            json!({"name": "c", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "1250m", "memory": "64Mi"}}}),
        )
        .unwrap();
        let get = |name: &str, divisor: &str| {
            let selector =
                ResourceFieldSelector { resource: name.to_owned(), divisor: Some(Quantity(divisor.to_owned())), container_name: None };
            resource(&container, &selector, &facts()).unwrap()
        };
        assert_eq!(get("limits.cpu", "0"), "2");
        assert_eq!(get("limits.cpu", "1m"), "1250");
        assert_eq!(get("requests.cpu", "1m"), "250");
        assert_eq!(get("requests.memory", "1Mi"), "64");
        let bare: Container = serde_json::from_value(json!({"name": "c"})).unwrap();
        let selector = ResourceFieldSelector { resource: "limits.memory".to_owned(), divisor: None, container_name: None };
        assert_eq!(resource(&bare, &selector, &facts()).unwrap(), (1i64 << 30).to_string());
    }
}
