//! The built-in kinds: the table, and one file for each kind that decides something beyond its schema.

use serde_json::Value;

use crate::kind::{GroupResource, Kind, Subresource, Verb};

pub mod age;
pub mod config_map;
mod container_validate;
pub mod csr;
pub mod endpoint_slice;
pub mod endpoints;
pub mod event;
mod json;
pub mod lease;
pub mod namespace;
pub mod node;
mod node_validate;
pub mod pod;
mod pod_spec;
mod pod_validate;
pub mod rbac;
pub mod resource_quota;
mod scheduling_validate;
pub mod secret;
pub mod service;
pub mod service_account;
mod service_validate;
mod volume_validate;
pub mod workload;

pub use age::name_and_age;

/// Every built-in row. Routes, discovery, tables, storage keys and the CLI read it.
pub fn builtins() -> Vec<Kind> {
    vec![
        Kind { short_names: &["cm"], rules: config_map::RULES, ..Kind::namespaced("", "v1", "ConfigMap", "configmaps", "configmap") },
        Kind { short_names: &["ep"], rules: endpoints::RULES, ..Kind::namespaced("", "v1", "Endpoints", "endpoints", "endpoints") },
        Kind { short_names: &["ev"], rules: event::RULES, ..Kind::namespaced("", "v1", "Event", "events", "event") },
        Kind {
            short_names: &["ns"],
            subresources: &[Subresource::Finalize, Subresource::Status],
            // no deletecollection, as upstream
            verbs: &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch],
            rules: namespace::RULES,
            ..Kind::cluster("", "v1", "Namespace", "namespaces", "namespace")
        },
        Kind {
            short_names: &["no"],
            subresources: &[Subresource::Proxy, Subresource::Status],
            rules: node::RULES,
            ..Kind::cluster("", "v1", "Node", "nodes", "node")
        },
        Kind {
            short_names: &["po"],
            categories: &["all"],
            subresources: &[
                Subresource::Attach,
                Subresource::Binding,
                Subresource::EphemeralContainers,
                Subresource::Eviction,
                Subresource::Exec,
                Subresource::Log,
                Subresource::PortForward,
                Subresource::Proxy,
                Subresource::Resize,
                Subresource::Status,
            ],
            rules: pod::RULES,
            ..Kind::namespaced("", "v1", "Pod", "pods", "pod")
        },
        Kind {
            short_names: &["rc"],
            categories: &["all"],
            subresources: &[Subresource::Scale, Subresource::Status],
            rules: workload::REPLICATION_CONTROLLER,
            ..Kind::namespaced("", "v1", "ReplicationController", "replicationcontrollers", "replicationcontroller")
        },
        Kind {
            short_names: &["quota"],
            subresources: &[Subresource::Status],
            rules: resource_quota::RULES,
            ..Kind::namespaced("", "v1", "ResourceQuota", "resourcequotas", "resourcequota")
        },
        Kind { rules: workload::POD_TEMPLATE, ..Kind::namespaced("", "v1", "PodTemplate", "podtemplates", "podtemplate") },
        Kind { rules: secret::RULES, ..Kind::namespaced("", "v1", "Secret", "secrets", "secret") },
        Kind {
            short_names: &["sa"],
            subresources: &[Subresource::Token],
            rules: service_account::RULES,
            ..Kind::namespaced("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount")
        },
        Kind {
            short_names: &["svc"],
            categories: &["all"],
            subresources: &[Subresource::Proxy, Subresource::Status],
            rules: service::RULES,
            ..Kind::namespaced("", "v1", "Service", "services", "service")
        },
        Kind {
            short_names: &["deploy"],
            categories: &["all"],
            subresources: &[Subresource::Scale, Subresource::Status],
            rules: workload::DEPLOYMENT,
            ..Kind::namespaced("apps", "v1", "Deployment", "deployments", "deployment")
        },
        Kind {
            short_names: &["rs"],
            categories: &["all"],
            subresources: &[Subresource::Scale, Subresource::Status],
            rules: workload::REPLICA_SET,
            ..Kind::namespaced("apps", "v1", "ReplicaSet", "replicasets", "replicaset")
        },
        Kind {
            verbs: Verb::CREATE_ONLY,
            ..Kind::cluster("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview")
        },
        Kind { verbs: Verb::CREATE_ONLY, ..Kind::cluster("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "tokenreview") },
        Kind {
            verbs: Verb::CREATE_ONLY,
            ..Kind::namespaced(
                "authorization.k8s.io",
                "v1",
                "LocalSubjectAccessReview",
                "localsubjectaccessreviews",
                "localsubjectaccessreview",
            )
        },
        Kind {
            verbs: Verb::CREATE_ONLY,
            ..Kind::cluster("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview")
        },
        Kind {
            verbs: Verb::CREATE_ONLY,
            ..Kind::cluster("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview")
        },
        Kind {
            verbs: Verb::CREATE_ONLY,
            ..Kind::cluster("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview")
        },
        Kind {
            short_names: &["csr"],
            subresources: &[Subresource::Approval, Subresource::Status],
            rules: csr::RULES,
            ..Kind::cluster(
                "certificates.k8s.io",
                "v1",
                "CertificateSigningRequest",
                "certificatesigningrequests",
                "certificatesigningrequest",
            )
        },
        Kind { rules: lease::RULES, ..Kind::namespaced("coordination.k8s.io", "v1", "Lease", "leases", "lease") },
        Kind {
            rules: endpoint_slice::RULES,
            ..Kind::namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice")
        },
        Kind {
            short_names: &["ev"],
            stored_as: Some(GroupResource::new("", "events")),
            rules: event::EVENTS_RULES,
            ..Kind::namespaced("events.k8s.io", "v1", "Event", "events", "event")
        },
        Kind {
            rules: rbac::CLUSTER_ROLE,
            ..Kind::cluster("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "clusterrole")
        },
        Kind {
            rules: rbac::BINDING,
            ..Kind::cluster("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding")
        },
        Kind { rules: rbac::ROLE, ..Kind::namespaced("rbac.authorization.k8s.io", "v1", "Role", "roles", "role") },
        Kind { rules: rbac::BINDING, ..Kind::namespaced("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "rolebinding") },
    ]
}

/// The text at a path of member names, empty when it is not there.
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    path.iter().try_fold(object, |value, name| value.get(name)).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::problem::Problems;

    /// An object that holds no more than its kind demands.
    fn minimal(kind: &Kind) -> Value {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "x", "creationTimestamp": "2026-11-22T12:00:00Z"}});
        let body = match kind.kind.as_ref() {
            "Pod" => json!({"spec": template["spec"]}),
            "Deployment" | "ReplicaSet" => json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}),
            "ReplicationController" => json!({"spec": {"template": template}}),
            "PodTemplate" => json!({"template": template}),
            "Service" => json!({"spec": {"ports": [{"port": 80}]}}),
            "ClusterRoleBinding" | "RoleBinding" => json!({"roleRef": {"kind": "ClusterRole", "name": "view"}}),
            "CertificateSigningRequest" => {
                json!({"spec": {"request": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0=", "signerName": "a.example/b", "usages": ["client auth"]}})
            }
            "EndpointSlice" => json!({"addressType": "IPv4", "endpoints": []}),
            "Event" => {
                json!({"metadata": {"name": "x", "namespace": "default"}, "involvedObject": {"namespace": "default"}, "regarding": {"namespace": "default"},
                "eventTime": "2026-11-22T12:00:00.000000Z", "reportingController": "a.example/b", "reportingComponent": "a.example/b", "reportingInstance": "c", "action": "d", "reason": "e", "type": "Normal"})
            }
            _ => json!({}),
        };
        crate::merge::json::merge(&mut object, &body);
        object
    }

    #[test]
    fn names_are_unique() {
        let mut seen = BTreeSet::new();
        for row in builtins() {
            assert!(seen.insert((row.group.clone(), row.version.clone(), row.plural.clone())), "{} twice", row.plural);
            assert!(seen.insert((row.group.clone(), row.version.clone(), row.kind.clone())), "{} twice", row.kind);
        }
    }

    #[test]
    fn defaulting_twice_is_defaulting_once_and_defaults_are_valid() {
        for row in builtins() {
            let mut once = minimal(&row);
            (row.rules.default)(&mut once);
            let mut twice = once.clone();
            (row.rules.default)(&mut twice);
            assert_eq!(once, twice, "{}", row.kind);
            let mut problems = Problems::default();
            (row.rules.validate)(&once, &mut problems);
            assert!(problems.is_empty(), "{}: {:?}", row.kind, problems.0.iter().map(ToString::to_string).collect::<Vec<_>>());
            (row.rules.validate_update)(&once, &once, &mut problems);
            assert!(problems.is_empty(), "{} changes into itself: {problems:?}", row.kind);
        }
    }

    #[test]
    fn every_column_has_its_cell() {
        for row in builtins() {
            let mut object = minimal(&row);
            (row.rules.default)(&mut object);
            for object in [object, json!({})] {
                assert_eq!((row.rules.cells)(&object, Timestamp::UNIX_EPOCH).len(), row.rules.columns.len(), "{}", row.kind);
            }
        }
    }
}
