//! `NodeRestriction`: a node writes itself, its lease and its own pods (`Spec:` Kubernetes admission controllers, "NodeRestriction").

use serde_json::Value;
use trierarch_api::{ApiError, Kind, Object, Snapshot, Subresource};

use crate::apiserver::StoreSnapshot;
use crate::pipeline::pod_admission::MIRROR;
use crate::pipeline::{Ctx, metadata};

fn refuse(kind: &Kind, name: &str, why: &str) -> ApiError {
    ApiError::forbidden(&kind.group_resource(), name, why)
}

fn row(kind: &Kind) -> (&str, &str) {
    (kind.group.as_ref(), kind.plural.as_ref())
}

/// # Errors
/// 403
pub fn create(snapshot: &StoreSnapshot, ctx: &Ctx, kind: &Kind, object: &Value) -> Result<(), ApiError> {
    let Some(node) = ctx.user.node_name() else { return Ok(()) };
    let name = metadata::text(object, "name");
    match row(kind) {
        ("", "nodes") if name != node => Err(refuse(kind, name, &format!("node {node:?} is not allowed to modify node {name:?}"))),
        ("", "nodes") => labels(kind, name, object, &Value::Null),
        ("", "pods") => mirror_pod(snapshot, kind, node, name, object),
        ("coordination.k8s.io", "leases") if name != node => {
            Err(refuse(kind, name, "can only access node lease with the same name as the requesting node"))
        }
        ("coordination.k8s.io", "leases") if metadata::text(object, "namespace") != "kube-node-lease" => {
            Err(refuse(kind, name, "can only access leases in the \"kube-node-lease\" system namespace"))
        }
        _ => Ok(()),
    }
}

fn mirror_pod(snapshot: &StoreSnapshot, kind: &Kind, node: &str, name: &str, pod: &Value) -> Result<(), ApiError> {
    if !pod["metadata"]["annotations"][MIRROR].is_string() {
        return Err(refuse(kind, name, &format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods")));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(refuse(kind, name, &format!("node {node:?} can only create pods with spec.nodeName set to itself")));
    }
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|account| !account.is_empty()) {
        return Err(refuse(kind, name, &format!("node {node:?} can not create pods that reference a service account")));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
    let owner = &pod["metadata"]["ownerReferences"][0];
    let uid =
        snapshot.get(&trierarch_api::GroupResource::new("", "nodes"), "", node).map(|object| object.uid.0.clone()).unwrap_or_default();
    if owners != 1 || owner["kind"] != "Node" || owner["name"] != node || owner["uid"] != uid.as_str() {
        return Err(refuse(kind, name, &format!("node {node:?} can only create pods with an owner reference set to itself")));
    }
    let reads =
        |volume: &Value| ["secret", "configMap", "persistentVolumeClaim", "projected"].iter().any(|source| !volume[*source].is_null());
    if pod["spec"]["volumes"].as_array().into_iter().flatten().any(reads) {
        return Err(refuse(kind, name, &format!("node {node:?} can not create pods that reference secrets, configmaps or claims")));
    }
    Ok(())
}

/// # Errors
/// 403
pub fn update(
    _snapshot: &StoreSnapshot,
    ctx: &Ctx,
    kind: &Kind,
    sub: Option<Subresource>,
    new: &Value,
    old: &Value,
) -> Result<(), ApiError> {
    let Some(node) = ctx.user.node_name() else { return Ok(()) };
    let name = metadata::text(old, "name");
    match row(kind) {
        ("", "nodes") if name != node => Err(refuse(kind, name, &format!("node {node:?} is not allowed to modify node {name:?}"))),
        ("", "nodes") => {
            if sub.is_none() && new["spec"]["taints"] != old["spec"]["taints"] {
                return Err(refuse(kind, name, &format!("node {node:?} is not allowed to modify taints")));
            }
            if new["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
                return Err(refuse(kind, name, &format!("node {node:?} is not allowed to modify ownerReferences")));
            }
            labels(kind, name, new, old)
        }
        ("", "pods") if sub != Some(Subresource::Status) => Err(refuse(kind, name, &format!("node {node:?} can only update pod status"))),
        ("", "pods") if old["spec"]["nodeName"] != node => {
            Err(refuse(kind, name, &format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")))
        }
        ("", "pods") if new["metadata"]["labels"] != old["metadata"]["labels"] => {
            Err(refuse(kind, name, &format!("node {node:?} can not update labels through pod status")))
        }
        _ => Ok(()),
    }
}

/// # Errors
/// 403
pub fn delete(_snapshot: &StoreSnapshot, ctx: &Ctx, kind: &Kind, object: &Object) -> Result<(), ApiError> {
    let Some(node) = ctx.user.node_name() else { return Ok(()) };
    match row(kind) {
        ("", "pods") if object.value()["spec"]["nodeName"] != node => {
            Err(refuse(kind, &object.name, &format!("node {node:?} can only delete pods with spec.nodeName set to itself")))
        }
        _ => Ok(()),
    }
}

/// Labels by which others decide where to run are not the node's to set.
fn labels(kind: &Kind, name: &str, new: &Value, old: &Value) -> Result<(), ApiError> {
    let map = |value: &Value| value["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let (new, old) = (map(new), map(old));
    let changed = new
        .iter()
        .filter(|(key, value)| old.get(*key) != Some(value))
        .map(|(key, _)| key)
        .chain(old.keys().filter(|key| !new.contains_key(*key)));
    let mut forbidden: Vec<&str> = changed.map(String::as_str).filter(|key| !node_may_set(key)).collect();
    if forbidden.is_empty() {
        return Ok(());
    }
    forbidden.sort_unstable();
    Err(refuse(kind, name, &format!("is not allowed to modify labels: {}", forbidden.join(", "))))
}

fn node_may_set(key: &str) -> bool {
    const KNOWN: [&str; 10] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "node.kubernetes.io/exclude-from-external-load-balancers",
    ];
    let Some((prefix, _)) = key.split_once('/') else { return true };
    let below = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    if below("node-restriction.kubernetes.io") {
        return false;
    }
    if !below("kubernetes.io") && !below("k8s.io") {
        return true;
    }
    KNOWN.contains(&key)
        || below("kubelet.kubernetes.io")
        || below("node.kubernetes.io")
        || prefix.ends_with("failure-domain.beta.kubernetes.io")
}

#[cfg(test)]
mod tests {
    use super::node_may_set;

    #[test]
    fn labels_of_others_are_not_the_nodes() {
        for (key, expected) in [
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/instance-type", true),
            ("kubelet.kubernetes.io/x", true),
            ("example.com/x", true),
            ("plain", true),
            ("node-restriction.kubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("foo.k8s.io/x", false),
        ] {
            assert_eq!(node_may_set(key), expected, "{key}");
        }
    }
}
