//! What a node must know of all Services: the input of the rules and of DNS.
//!
//! The agent builds it from watched Services and EndpointSlices. Values are shared by `Arc`, so a changed Service costs a clone of the map's
//! pointers, and the rules can tell at once which Services did not change.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A Service's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    pub namespace: String,
    pub name: String,
}

impl ServiceKey {
    /// The key of `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> ServiceKey {
        ServiceKey { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that a Service port can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The name as nftables and DNS write it: `tcp`, `udp`, `sctp`.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol of a Kubernetes port: `TCP`, `UDP` or `SCTP`; an empty text means TCP.
    pub fn from_kubernetes(text: &str) -> Option<Protocol> {
        match text {
            "" | "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// Where traffic of a kind may be sent: `spec.internalTrafficPolicy`, `spec.externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// To any endpoint.
    #[default]
    Cluster,
    /// To endpoints of this node only.
    Local,
}

/// One Service with the endpoints of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// `spec.clusterIPs`, IPv4 only; empty for headless and ExternalName Services.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `spec.clusterIP` is `None`: DNS answers with the endpoints, there are no rules.
    pub headless: bool,
    /// `spec.externalName` of a Service of that type: DNS answers with a CNAME, there are no rules.
    pub external_name: Option<String>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// `status.loadBalancer.ingress[*].ip`, without those of `ipMode: Proxy`.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// `spec.loadBalancerSourceRanges`; empty admits everyone.
    pub load_balancer_source_ranges: Vec<crate::Cidr>,
    /// `spec.sessionAffinity: ClientIP`, with `sessionAffinityConfig.clientIP.timeoutSeconds`.
    pub affinity_seconds: Option<u32>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
    /// `spec.publishNotReadyAddresses`: DNS names endpoints that are not ready, too.
    pub publish_not_ready: bool,
    pub ports: Vec<ServicePort>,
    /// Endpoints of a headless Service without ports: DNS names them all the same.
    pub portless_endpoints: Vec<Endpoint>,
}

/// A port of a Service with its endpoints, whose addresses and target ports EndpointSlices have resolved already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServicePort {
    /// Empty if the port has no name.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
    pub endpoints: Vec<Endpoint>,
}

/// One address behind a Service port. IPv4 only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    /// The target port (0 for a headless Service without ports).
    pub port: u16,
    /// `conditions.ready`, where absent means true.
    pub ready: bool,
    /// `conditions.serving`, where absent means `ready`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// The endpoint is on this node.
    pub local: bool,
    /// `hostname` of the endpoint, for DNS.
    pub hostname: Option<String>,
}

impl Endpoint {
    /// A ready endpoint on another node, without a host name.
    pub fn ready(ip: Ipv4Addr, port: u16) -> Endpoint {
        Endpoint { ip, port, ready: true, serving: true, terminating: false, local: false, hostname: None }
    }

    /// The same endpoint, on this node.
    pub fn here(self) -> Endpoint {
        Endpoint { local: true, ..self }
    }
}

/// All Services, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceSnapshot {
    pub services: BTreeMap<ServiceKey, Arc<Service>>,
}
