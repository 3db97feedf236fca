//! The node authorizer: a node reads what its own pods refer to, and little else (`Spec:` Kubernetes "Using Node Authorization").

use serde_json::Value;
use trierarch_api::{GroupResource, IndexTerm, Snapshot};

use crate::authorize::{Decision, policy};
use crate::identity::User;
use crate::request::RequestInfo;

const PODS: GroupResource = GroupResource::new("", "pods");

/// What the node authorizer says; `None` when the caller is no node or when it leaves the question to RBAC.
pub fn decide(snapshot: &dyn Snapshot, user: &User, info: &RequestInfo, _now: jiff::Timestamp) -> Option<Decision> {
    if !info.is_resource {
        return None;
    }
    let node = user.node_name()?;
    let allow = || Some(Decision::Allow(String::new()));
    let no = |why: &str| Some(Decision::NoOpinion(why.to_owned()));
    match (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()) {
        ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") => {
            if info.verb == "get" || ((info.verb == "list" || info.verb == "watch") && !info.name.is_empty()) {
                if pods_refer(snapshot, node, &info.resource, &info.namespace, &info.name) {
                    allow()
                } else {
                    no(&format!("no relationship found between node '{node}' and this object"))
                }
            } else {
                no("can only read resources of this type")
            }
        }
        ("", "serviceaccounts", "token") => {
            if info.verb == "create" && pods_refer(snapshot, node, "serviceaccounts", &info.namespace, &info.name) {
                allow()
            } else {
                no(&format!("no relationship found between node '{node}' and this object"))
            }
        }
        ("coordination.k8s.io", "leases", "") => {
            if info.namespace != "kube-node-lease" {
                return no("can only access leases in the \"kube-node-lease\" system namespace");
            }
            match info.verb.as_str() {
                "create" => allow(),
                "get" | "update" | "patch" | "delete" if info.name == node => allow(),
                "get" | "update" | "patch" | "delete" => no("can only access node lease with the same name as the requesting node"),
                _ => no("can only get, create, update, patch, or delete a node lease"),
            }
        }
        _ => {
            // what a node may do beside that is a fixed list, and not bound to the group in RBAC
            policy::node_rules().iter().any(|rule| policy::covers(rule, info)).then(|| Decision::Allow(String::new()))
        }
    }
}

/// Whether a pod on the node refers to the object.
fn pods_refer(snapshot: &dyn Snapshot, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
    snapshot.by_term(&PODS, Some(namespace), &IndexTerm::Node(node.to_owned())).iter().any(|pod| refers(&pod.value(), resource, name))
}

/// Whether a pod refers to an object of its namespace.
pub fn refers(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    match resource {
        "serviceaccounts" => return spec["serviceAccountName"] == name,
        "persistentvolumeclaims" => {
            return list(&spec["volumes"]).iter().any(|volume| volume["persistentVolumeClaim"]["claimName"] == name);
        }
        _ => {}
    }
    let (env_from, key_ref, volume_source, volume_name) = if resource == "secrets" {
        ("secretRef", "secretKeyRef", "secret", "secretName")
    } else {
        ("configMapRef", "configMapKeyRef", "configMap", "name")
    };
    if resource == "secrets" && list(&spec["imagePullSecrets"]).iter().any(|secret| secret["name"] == name) {
        return true;
    }
    let in_volume = |volume: &Value| {
        volume[volume_source][volume_name] == name
            || list(&volume["projected"]["sources"]).iter().any(|source| source[volume_source]["name"] == name)
    };
    if list(&spec["volumes"]).iter().any(in_volume) {
        return true;
    }
    ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|which| list(&spec[*which])).any(|container| {
        list(&container["envFrom"]).iter().any(|source| source[env_from]["name"] == name)
            || list(&container["env"]).iter().any(|variable| variable["valueFrom"][key_ref]["name"] == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_refers_to_what_it_mounts_and_reads() {
        let pod = json!({"spec": {
            "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"secret": {"secretName": "s1"}}, {"configMap": {"name": "c1"}}, {"persistentVolumeClaim": {"claimName": "p1"}},
                {"projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}, {"secret": {"name": "s2"}}]}},
            ],
            "containers": [{"envFrom": [{"secretRef": {"name": "s3"}}], "env": [{"valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}}]}],
        }});
        for (resource, name, expected) in [
            ("serviceaccounts", "sa", true),
            ("serviceaccounts", "other", false),
            ("secrets", "pull", true),
            ("secrets", "s1", true),
            ("secrets", "s2", true),
            ("secrets", "s3", true),
            ("secrets", "c1", false),
            ("configmaps", "c1", true),
            ("configmaps", "kube-root-ca.crt", true),
            ("configmaps", "c2", true),
            ("configmaps", "s1", false),
            ("persistentvolumeclaims", "p1", true),
        ] {
            assert_eq!(refers(&pod, resource, name), expected, "{resource} {name}");
        }
    }
}
