//! The built-in kinds: the table, and one file for each kind that decides something beyond its schema.

use serde_json::Value;

use crate::kind::{GroupResource, Kind, Subresource, Verb};

pub mod age;

pub use age::name_and_age;

/// Every built-in row. Routes, discovery, tables, storage keys and the CLI read it.
pub fn builtins() -> Vec<Kind> {
    vec![
        Kind { short_names: &["cm"], ..Kind::namespaced("", "v1", "ConfigMap", "configmaps", "configmap") },
        Kind { short_names: &["ep"], ..Kind::namespaced("", "v1", "Endpoints", "endpoints", "endpoints") },
        Kind { short_names: &["ev"], ..Kind::namespaced("", "v1", "Event", "events", "event") },
        Kind {
            short_names: &["ns"],
            subresources: &[Subresource::Finalize, Subresource::Status],
            // no deletecollection, as upstream
            verbs: &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch],
            ..Kind::cluster("", "v1", "Namespace", "namespaces", "namespace")
        },
        Kind {
            short_names: &["no"],
            subresources: &[Subresource::Proxy, Subresource::Status],
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
            ..Kind::namespaced("", "v1", "Pod", "pods", "pod")
        },
        Kind {
            short_names: &["rc"],
            categories: &["all"],
            subresources: &[Subresource::Scale, Subresource::Status],
            ..Kind::namespaced("", "v1", "ReplicationController", "replicationcontrollers", "replicationcontroller")
        },
        Kind::namespaced("", "v1", "Secret", "secrets", "secret"),
        Kind {
            short_names: &["sa"],
            subresources: &[Subresource::Token],
            ..Kind::namespaced("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount")
        },
        Kind {
            short_names: &["svc"],
            categories: &["all"],
            subresources: &[Subresource::Proxy, Subresource::Status],
            ..Kind::namespaced("", "v1", "Service", "services", "service")
        },
        Kind {
            short_names: &["deploy"],
            categories: &["all"],
            subresources: &[Subresource::Scale, Subresource::Status],
            ..Kind::namespaced("apps", "v1", "Deployment", "deployments", "deployment")
        },
        Kind {
            short_names: &["rs"],
            categories: &["all"],
            subresources: &[Subresource::Scale, Subresource::Status],
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
            ..Kind::cluster(
                "certificates.k8s.io",
                "v1",
                "CertificateSigningRequest",
                "certificatesigningrequests",
                "certificatesigningrequest",
            )
        },
        Kind::namespaced("coordination.k8s.io", "v1", "Lease", "leases", "lease"),
        Kind::namespaced("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice"),
        Kind {
            short_names: &["ev"],
            stored_as: Some(GroupResource::new("", "events")),
            ..Kind::namespaced("events.k8s.io", "v1", "Event", "events", "event")
        },
        Kind::cluster("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "clusterrole"),
        Kind::cluster("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding"),
        Kind::namespaced("rbac.authorization.k8s.io", "v1", "Role", "roles", "role"),
        Kind::namespaced("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "rolebinding"),
    ]
}

/// The text at a path of member names, empty when it is not there.
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    path.iter().try_fold(object, |value, name| value.get(name)).and_then(Value::as_str).unwrap_or_default()
}
