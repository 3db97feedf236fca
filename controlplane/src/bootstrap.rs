//! The objects that every cluster has: namespaces, the Services of the API and of DNS, and the bootstrap token of agents. Written by the
//! leader at its start, changed only where they differ.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use trierarch_client::JoinToken;

/// What the objects depend on.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Addresses of Services.
    pub service_cidr: (Ipv4Addr, u8),
    /// Agents authenticate with this token until they have a certificate.
    pub token: JoinToken,
}

/// Namespaces that are there from the start.
pub const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The `n`th address of a network.
pub fn nth_address(cidr: (Ipv4Addr, u8), n: u32) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(cidr.1)).unwrap_or(0);
    Ipv4Addr::from((u32::from(cidr.0) & mask) + n)
}

/// Address of the `kubernetes` Service.
pub fn api_address(cidr: (Ipv4Addr, u8)) -> Ipv4Addr {
    nth_address(cidr, 1)
}

/// Address of the cluster's DNS.
pub fn dns_address(cidr: (Ipv4Addr, u8)) -> Ipv4Addr {
    nth_address(cidr, 10)
}

/// The objects in the order in which they must be made.
pub fn objects(facts: &Facts) -> Vec<Value> {
    let mut objects: Vec<Value> =
        NAMESPACES.iter().map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).collect();
    objects.push(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": api_address(facts.service_cidr), "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    }));
    // without a selector: every node answers by itself, so there are no endpoints to list
    objects.push(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
        "spec": {
            "clusterIP": dns_address(facts.service_cidr), "type": "ClusterIP",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    }));
    // `trierarch image push` asks for a token of this account
    objects.push(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "image-pusher", "namespace": "kube-system"}}));
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "trierarch:image-pusher"},
        "rules": [{"nonResourceURLs": ["/v2/*"], "verbs": ["get", "head", "post", "put", "patch", "delete"]}],
    }));
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "trierarch:image-pusher"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "trierarch:image-pusher"},
        "subjects": [{"kind": "ServiceAccount", "name": "image-pusher", "namespace": "kube-system"}],
    }));
    // every node asks for a token of this account, with which it pulls from the masters' registry: whoever is known may do that
    objects.push(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "image-puller", "namespace": "kube-system"}}));
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "trierarch:image-puller", "namespace": "kube-system"},
        "rules": [{"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["image-puller"], "verbs": ["create"]}],
    }));
    objects.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "trierarch:image-puller", "namespace": "kube-system"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "trierarch:image-puller"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}],
    }));
    // masters fetch images from each other with a token of this account, so that they are told from clients
    objects.push(json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": crate::replication::ACCOUNT, "namespace": "kube-system"},
    }));
    let agent = facts.token.for_agents();
    objects.push(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{}", agent.id), "namespace": "kube-system"},
        "stringData": {
            "description": "The join token of agents.", "token-id": agent.id, "token-secret": agent.secret,
            "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
            "auth-extra-groups": "system:bootstrappers:trierarch",
        },
    }));
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_addresses_are_inside_the_network() {
        let cidr = (Ipv4Addr::new(10, 96, 0, 0), 16);
        assert_eq!((api_address(cidr), dns_address(cidr)), (Ipv4Addr::new(10, 96, 0, 1), Ipv4Addr::new(10, 96, 0, 10)));
        assert_eq!(nth_address((Ipv4Addr::new(10, 7, 3, 9), 24), 1), Ipv4Addr::new(10, 7, 3, 1));
    }

    #[test]
    fn the_secret_is_the_token_that_agents_show() {
        let token = JoinToken::generate(b"authority");
        let all = objects(&Facts { service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16), token: token.clone() });
        let secret = all.iter().find(|object| object["kind"] == "Secret").expect("there");
        let data = &secret["stringData"];
        let shown = format!("{}.{}", data["token-id"].as_str().expect("text"), data["token-secret"].as_str().expect("text"));
        assert_eq!(shown, token.bootstrap_token());
    }
}
