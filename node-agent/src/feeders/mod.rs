//! From watched objects to what the network crate wants: Services with their endpoints, and the other nodes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service as ApiService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use trierarch_client::reflector::Reflected;
use trierarch_network::{Endpoint, Peer, Protocol, Service, ServiceKey, ServicePort, ServiceSnapshot, TrafficPolicy};

/// All Services with their endpoints, as `node` sees them.
pub fn snapshot(services: &Reflected<ApiService>, slices: &Reflected<EndpointSlice>, node: &str) -> ServiceSnapshot {
    let mut by_service: BTreeMap<ServiceKey, Vec<&EndpointSlice>> = BTreeMap::new();
    for ((namespace, _), slice) in slices {
        let owner = slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
        if let Some(owner) = owner.filter(|_| slice.address_type == "IPv4") {
            by_service.entry(ServiceKey::new(namespace, owner)).or_default().push(slice);
        }
    }
    let services = services
        .iter()
        .map(|((namespace, name), service)| {
            let key = ServiceKey::new(namespace, name);
            let slices = by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
            let converted = Arc::new(convert(service, slices, node));
            (key, converted)
        })
        .collect();
    ServiceSnapshot { services }
}

fn convert(service: &ApiService, slices: &[&EndpointSlice], node: &str) -> Service {
    let spec = service.spec.clone().unwrap_or_default();
    let ips = |list: &Option<Vec<String>>| -> Vec<Ipv4Addr> { list.iter().flatten().filter_map(|ip| ip.parse().ok()).collect() };
    let policy = |text: &Option<String>| if text.as_deref() == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let external_name = (spec.type_.as_deref() == Some("ExternalName")).then(|| spec.external_name.clone().unwrap_or_default());
    let headless = external_name.is_none() && spec.cluster_ip.as_deref() == Some("None");
    let proxied = service.metadata.labels.as_ref().is_some_and(|l| l.contains_key("service.kubernetes.io/service-proxy-name"));
    let mut cluster_ips = ips(&spec.cluster_ips);
    if cluster_ips.is_empty() {
        cluster_ips = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()).into_iter().collect();
    }
    if external_name.is_some() || headless {
        cluster_ips.clear();
    }
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let seconds = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
        seconds.and_then(|s| u32::try_from(s).ok()).unwrap_or(10_800)
    });
    let load_balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    let ports: Vec<ServicePort> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let name = port.name.clone().unwrap_or_default();
            let protocol = Protocol::from_kubernetes(port.protocol.as_deref().unwrap_or_default())?;
            let endpoints = endpoints(slices, node, |p| {
                p.name.as_deref().unwrap_or_default() == name && p.protocol.as_deref().unwrap_or("TCP") == protocol_name(protocol)
            });
            let node_port = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
            Some(ServicePort { name, protocol, port: u16::try_from(port.port).ok()?, node_port, endpoints })
        })
        .collect();
    let portless_endpoints = if ports.is_empty() { portless(slices, node) } else { Vec::new() };
    Service {
        // Another proxy serves it: DNS still names it, the rules leave it alone.
        cluster_ips,
        headless,
        external_name,
        external_ips: if proxied { Vec::new() } else { ips(&spec.external_ips) },
        load_balancer_ips: load_balancer
            .into_iter()
            .flatten()
            .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|i| i.ip.as_deref()?.parse().ok())
            .collect(),
        load_balancer_source_ranges: spec.load_balancer_source_ranges.iter().flatten().filter_map(|c| c.trim().parse().ok()).collect(),
        affinity_seconds: affinity,
        internal_policy: policy(&spec.internal_traffic_policy),
        external_policy: policy(&spec.external_traffic_policy),
        publish_not_ready: spec.publish_not_ready_addresses == Some(true),
        ports,
        portless_endpoints,
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

fn endpoints(
    slices: &[&EndpointSlice],
    node: &str,
    wanted: impl Fn(&k8s_openapi::api::discovery::v1::EndpointPort) -> bool,
) -> Vec<Endpoint> {
    let mut found = Vec::new();
    for slice in slices {
        let Some(port) = slice.ports.iter().flatten().find(|p| wanted(p)).and_then(|p| u16::try_from(p.port?).ok()) else { continue };
        found.extend(addresses(slice, node, port));
    }
    tidy(found)
}

fn portless(slices: &[&EndpointSlice], node: &str) -> Vec<Endpoint> {
    tidy(slices.iter().flat_map(|slice| addresses(slice, node, 0)).collect())
}

/// Sorted; of doubles, which appear while a slice moves, the one that can serve stays.
fn tidy(mut list: Vec<Endpoint>) -> Vec<Endpoint> {
    list.sort_by_key(|e| (e.ip, e.port, !e.ready, !e.serving));
    list.dedup_by_key(|e| (e.ip, e.port));
    list
}

fn addresses(slice: &EndpointSlice, node: &str, port: u16) -> Vec<Endpoint> {
    let mut out = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        for ip in endpoint.addresses.iter().filter_map(|a| a.parse().ok()) {
            out.push(Endpoint {
                ip,
                port,
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
                local: endpoint.node_name.as_deref() == Some(node),
                hostname: endpoint.hostname.clone(),
            });
        }
    }
    out
}

/// Whether a pod is among the endpoints that get new connections, or was until it began to end: some node may not have heard of that.
pub fn is_endpoint(slices: &Reflected<EndpointSlice>, namespace: &str, uid: Option<&str>) -> bool {
    let own = slices.iter().filter(|((of, _), _)| of == namespace).flat_map(|(_, slice)| slice.endpoints.iter().flatten());
    own.filter(|endpoint| endpoint.target_ref.as_ref().is_some_and(|target| uid.is_some() && target.uid.as_deref() == uid)).any(
        |endpoint| {
            endpoint.conditions.as_ref().is_none_or(|conditions| {
                conditions.ready != Some(false) || (conditions.terminating == Some(true) && conditions.serving == Some(true))
            })
        },
    )
}

/// Whether a pod may wait to hear that no node sends it clients any more.
pub fn somebody_leaves(slices: &Reflected<EndpointSlice>) -> bool {
    let mut endpoints = slices.values().flat_map(|slice| slice.endpoints.iter().flatten());
    endpoints.any(|endpoint| endpoint.conditions.as_ref().is_some_and(|conditions| conditions.terminating == Some(true)))
}

/// The other nodes that have an address and a block of pods.
pub fn peers(nodes: &Reflected<Node>, own: &str) -> Vec<Peer> {
    let mut out: Vec<Peer> = nodes
        .values()
        .filter(|node| node.metadata.name.as_deref() != Some(own))
        .filter_map(|node| {
            let pod_cidr = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
            let addresses = node.status.as_ref()?.addresses.as_ref()?;
            let node_ip = addresses.iter().find(|a| a.type_ == "InternalIP").and_then(|a| a.address.parse().ok())?;
            Some(Peer { node_ip, pod_cidr })
        })
        .collect();
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn one<T: serde::de::DeserializeOwned>(namespace: &str, name: &str, object: Value) -> Reflected<T> {
        Reflected::from([((namespace.to_owned(), name.to_owned()), Arc::new(serde_json::from_value(object).unwrap()))])
    }

    #[test]
    fn endpoints_meet_their_ports_by_name() {
        let services = one::<ApiService>(
            "n",
            "web",
            json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}], "sessionAffinity": "ClientIP"}}),
        );
        let slices = one::<EndpointSlice>(
            "n",
            "web-x",
            json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.244.0.2"], "nodeName": "n1", "conditions": {"ready": true}},
                {"addresses": ["10.244.1.2"], "nodeName": "n2", "conditions": {"ready": false, "serving": true, "terminating": true}}]}),
        );
        let snapshot = snapshot(&services, &slices, "n1");
        let service = &snapshot.services[&ServiceKey::new("n", "web")];
        assert_eq!(
            (service.affinity_seconds, service.ports[0].node_port, service.ports[1].endpoints.len()),
            (Some(10_800), Some(30_080), 0)
        );
        let endpoints = &service.ports[0].endpoints;
        assert!(endpoints[0].local && endpoints[0].ready && endpoints[0].port == 8080);
        assert!(!endpoints[1].ready && endpoints[1].serving && endpoints[1].terminating && !endpoints[1].local);
    }

    #[test]
    fn headless_and_external_services_have_no_address() {
        let headless = one::<ApiService>("n", "db", json!({"metadata": {}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
        let found = snapshot(&headless, &Reflected::new(), "n1");
        let service = found.services.values().next().unwrap();
        assert!(service.headless && service.cluster_ips.is_empty());
    }

    #[test]
    fn a_pod_serves_until_every_node_has_heard_otherwise() {
        let slices = |conditions: Value| {
            one::<EndpointSlice>(
                "n",
                "web-x",
                json!({"metadata": {}, "addressType": "IPv4",
                    "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"uid": "u"}, "conditions": conditions}]}),
            )
        };
        let serving = slices(json!({"ready": true}));
        assert!(is_endpoint(&serving, "n", Some("u")) && !somebody_leaves(&serving));
        assert!(!is_endpoint(&serving, "other", Some("u")) && !is_endpoint(&serving, "n", Some("v")) && !is_endpoint(&serving, "n", None));
        let leaving = slices(json!({"ready": false, "serving": true, "terminating": true}));
        assert!(is_endpoint(&leaving, "n", Some("u")), "the slice may have been faster than the pod's own deletion");
        assert!(somebody_leaves(&leaving));
        let unready = slices(json!({"ready": false, "serving": false, "terminating": true}));
        assert!(!is_endpoint(&unready, "n", Some("u")), "nobody was ever sent there");
    }

    #[test]
    fn peers_are_the_other_nodes() {
        let node = |name: &str| {
            one::<Node>(
                "",
                name,
                json!({"metadata": {"name": name}, "spec": {"podCIDR": "10.244.1.0/24"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.2"}]}}),
            )
        };
        assert_eq!(peers(&node("a"), "a"), []);
        assert_eq!(peers(&node("b"), "a").len(), 1);
    }
}
