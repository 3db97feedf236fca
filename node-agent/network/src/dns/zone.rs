//! The names of the cluster's domain. Pure: a name and a snapshot give records.
//!
//! Spec: Kubernetes DNS-Based Service Discovery, version 1.1.0.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, OnceLock},
};

use crate::{Endpoint, Service, ServiceKey, ServicePort, ServiceSnapshot};

/// What a record of the domain holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    A(Ipv4Addr),
    /// The target, without a closing dot.
    Cname(String),
    Srv {
        port: u16,
        target: String,
    },
    Ptr(String),
    Txt(String),
}

/// What the zone says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The name exists and has these records, perhaps none.
    Records(Vec<Data>),
    /// There is no such name.
    Missing,
    /// The name is not in the cluster's domain, nor an address of it.
    Elsewhere,
}

/// The domain at one moment.
#[derive(Debug)]
pub struct Zone {
    domain: String,
    snapshot: Arc<ServiceSnapshot>,
    /// Names by address; made when the first address is asked for, since few ever are.
    reverse: OnceLock<BTreeMap<Ipv4Addr, BTreeSet<String>>>,
}

impl Zone {
    /// The domain with the names of a snapshot's Services.
    pub fn new(domain: &str, snapshot: Arc<ServiceSnapshot>) -> Zone {
        Zone { domain: domain.trim_end_matches('.').to_ascii_lowercase(), snapshot, reverse: OnceLock::new() }
    }

    /// The domain's name, without a closing dot.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What is known of `name`, in whatever case, with or without a closing dot.
    pub fn find(&self, name: &str) -> Found {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(address) = name.strip_suffix(".in-addr.arpa") {
            return self.find_reverse(address);
        }
        let inside = if name == self.domain { Some("") } else { name.strip_suffix(&self.domain).and_then(|rest| rest.strip_suffix('.')) };
        let Some(inside) = inside else { return Found::Elsewhere };
        let labels: Vec<&str> = inside.split('.').filter(|label| !label.is_empty()).collect();
        match labels.as_slice() {
            [] | ["svc" | "pod"] => Found::Records(Vec::new()),
            ["dns-version"] => Found::Records(vec![Data::Txt("1.1.0".to_owned())]),
            [namespace, "svc"] => self.namespace(namespace),
            [namespace, "pod"] => self.namespace(namespace),
            [address, _namespace, "pod"] => pod_address(address).map_or(Found::Missing, |ip| Found::Records(vec![Data::A(ip)])),
            [inner @ .., service, namespace, "svc"] => match self.service(namespace, service) {
                Some((key, service)) => self.in_service(key, service, inner),
                None => Found::Missing,
            },
            _ => Found::Missing,
        }
    }

    fn namespace(&self, namespace: &str) -> Found {
        let first = ServiceKey::new(namespace, "");
        let exists = self.snapshot.services.range(first..).next().is_some_and(|(key, _)| key.namespace == namespace);
        if exists { Found::Records(Vec::new()) } else { Found::Missing }
    }

    fn service(&self, namespace: &str, name: &str) -> Option<(&ServiceKey, &Service)> {
        self.snapshot.services.get_key_value(&ServiceKey::new(namespace, name)).map(|(key, service)| (key, service.as_ref()))
    }

    fn in_service(&self, key: &ServiceKey, service: &Service, inner: &[&str]) -> Found {
        if let Some(target) = &service.external_name {
            let cname = || Data::Cname(target.trim_end_matches('.').to_owned());
            return if inner.is_empty() { Found::Records(vec![cname()]) } else { Found::Missing };
        }
        match inner {
            [] => {
                let mut records: Vec<Data> = match service.headless {
                    true => named_endpoints(service).map(|endpoint| Data::A(endpoint.ip)).collect(),
                    false => service.cluster_ips.iter().map(|ip| Data::A(*ip)).collect(),
                };
                // A headless Service whose endpoints are all away does not resolve, as if it were not there.
                if records.is_empty() {
                    return Found::Missing;
                }
                records.extend(service.ports.iter().flat_map(|port| self.srv(key, service, port)));
                found(records)
            }
            [protocol] if protocol.starts_with('_') => {
                let exists = service.ports.iter().any(|port| protocol[1..] == *port.protocol.name());
                if exists { Found::Records(Vec::new()) } else { Found::Missing }
            }
            [hostname] if service.headless => {
                let named = named_endpoints(service).filter(|endpoint| endpoint_name(endpoint) == *hostname);
                let records: Vec<Data> = named.map(|endpoint| Data::A(endpoint.ip)).collect();
                if records.is_empty() { Found::Missing } else { found(records) }
            }
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                let ports = service.ports.iter().filter(|p| p.name == port[1..] && *p.protocol.name() == protocol[1..]);
                let records: Vec<Data> = ports.flat_map(|port| self.srv(key, service, port)).collect();
                if records.is_empty() { Found::Missing } else { found(records) }
            }
            _ => Found::Missing,
        }
    }

    fn srv(&self, key: &ServiceKey, service: &Service, port: &ServicePort) -> Vec<Data> {
        let base = self.service_name(key);
        if !service.headless {
            return vec![Data::Srv { port: port.port, target: base }];
        }
        let endpoints = port.endpoints.iter().filter(|endpoint| endpoint.ready || service.publish_not_ready);
        endpoints.map(|endpoint| Data::Srv { port: endpoint.port, target: format!("{}.{base}", endpoint_name(endpoint)) }).collect()
    }

    fn service_name(&self, key: &ServiceKey) -> String {
        format!("{}.{}.svc.{}", key.name, key.namespace, self.domain)
    }

    fn find_reverse(&self, reversed: &str) -> Found {
        let octets: Vec<u8> = reversed.split('.').rev().filter_map(|octet| octet.parse().ok()).collect();
        let Ok(octets) = <[u8; 4]>::try_from(octets) else { return Found::Elsewhere };
        match self.reverse.get_or_init(|| self.names_by_address()).get(&Ipv4Addr::from(octets)) {
            Some(names) => Found::Records(names.iter().cloned().map(Data::Ptr).collect()),
            None => Found::Elsewhere,
        }
    }

    fn names_by_address(&self) -> BTreeMap<Ipv4Addr, BTreeSet<String>> {
        let mut names: BTreeMap<Ipv4Addr, BTreeSet<String>> = BTreeMap::new();
        for (key, service) in &self.snapshot.services {
            let base = self.service_name(key);
            if service.headless {
                for endpoint in named_endpoints(service) {
                    names.entry(endpoint.ip).or_default().insert(format!("{}.{base}", endpoint_name(endpoint)));
                }
            }
            for ip in &service.cluster_ips {
                names.entry(*ip).or_default().insert(base.clone());
            }
        }
        names
    }
}

fn found(mut records: Vec<Data>) -> Found {
    records.sort();
    records.dedup();
    Found::Records(records)
}

/// The endpoints DNS may name, once for every port they have.
fn named_endpoints(service: &Service) -> impl Iterator<Item = &Endpoint> {
    let all = service.ports.iter().flat_map(|port| &port.endpoints).chain(&service.portless_endpoints);
    all.filter(|endpoint| endpoint.ready || service.publish_not_ready)
}

/// The label of an endpoint: its host name, or its address with dashes.
fn endpoint_name(endpoint: &Endpoint) -> String {
    match &endpoint.hostname {
        Some(hostname) if !hostname.is_empty() => hostname.to_ascii_lowercase(),
        _ => endpoint.ip.to_string().replace('.', "-"),
    }
}

fn pod_address(label: &str) -> Option<Ipv4Addr> {
    label.replace('-', ".").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    fn zone() -> Zone {
        let ip = |n| Ipv4Addr::new(10, 244, 1, n);
        let port = |endpoints| ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None, endpoints };
        let mut named = Endpoint::ready(ip(5), 8080);
        named.hostname = Some("web-0".into());
        let mut unready = Endpoint::ready(ip(7), 8080);
        unready.ready = false;
        let web = Service { cluster_ips: vec![Ipv4Addr::new(10, 96, 7, 7)], ports: vec![port(vec![named.clone()])], ..Service::default() };
        let peers = Service { headless: true, ports: vec![port(vec![named, Endpoint::ready(ip(6), 8080), unready])], ..Service::default() };
        let alias = Service { external_name: Some("example.test".into()), ..Service::default() };
        let empty = Service { headless: true, ..Service::default() };
        let services = [("web", web), ("peers", peers), ("alias", alias), ("empty", empty)];
        let services = services.into_iter().map(|(name, service)| (ServiceKey::new("shop", name), Arc::new(service))).collect();
        Zone::new("cluster.local", Arc::new(ServiceSnapshot { services }))
    }

    fn check(name: &str, expected: &[Data]) {
        assert_eq!(zone().find(name), Found::Records(expected.to_vec()), "{name}");
    }

    #[test]
    fn services_pods_and_addresses_have_names() {
        let a = |a, b, c, d| Data::A(Ipv4Addr::new(a, b, c, d));
        let srv = |port, target: &str| Data::Srv { port, target: target.to_owned() };
        check("web.shop.svc.cluster.local.", &[a(10, 96, 7, 7), srv(80, "web.shop.svc.cluster.local")]);
        check("WEB.shop.SVC.cluster.local", &[a(10, 96, 7, 7), srv(80, "web.shop.svc.cluster.local")]);
        check("_http._tcp.web.shop.svc.cluster.local", &[srv(80, "web.shop.svc.cluster.local")]);
        check("web-0.peers.shop.svc.cluster.local", &[a(10, 244, 1, 5)]);
        check("10-244-1-6.peers.shop.svc.cluster.local", &[a(10, 244, 1, 6)]);
        check(
            "_http._tcp.peers.shop.svc.cluster.local",
            &[srv(8080, "10-244-1-6.peers.shop.svc.cluster.local"), srv(8080, "web-0.peers.shop.svc.cluster.local")],
        );
        check("1-2-3-4.any.pod.cluster.local", &[a(1, 2, 3, 4)]);
        check("alias.shop.svc.cluster.local", &[Data::Cname("example.test".into())]);
        check("7.7.96.10.in-addr.arpa", &[Data::Ptr("web.shop.svc.cluster.local".into())]);
        check("5.1.244.10.in-addr.arpa", &[Data::Ptr("web-0.peers.shop.svc.cluster.local".into())]);
        for nodes in ["cluster.local", "svc.cluster.local", "shop.svc.cluster.local", "_tcp.web.shop.svc.cluster.local"] {
            check(nodes, &[]);
        }
    }

    #[test]
    fn what_is_not_there_is_missing_or_elsewhere() {
        for name in [
            "nobody.shop.svc.cluster.local",
            "other.svc.cluster.local",
            "10-244-1-7.peers.shop.svc.cluster.local",
            "empty.shop.svc.cluster.local",
            "_ftp._tcp.web.shop.svc.cluster.local",
            "x.web.shop.svc.cluster.local",
            "kubernetes.cluster.local",
        ] {
            assert_eq!(zone().find(name), Found::Missing, "{name}");
        }
        for name in ["example.test", "xcluster.local", "9.9.9.9.in-addr.arpa", "10.in-addr.arpa", ""] {
            assert_eq!(zone().find(name), Found::Elsewhere, "{name}");
        }
    }
}
