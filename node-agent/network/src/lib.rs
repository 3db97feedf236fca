//! Pod network, Service rules and cluster DNS of one node.
//!
//! The crate knows Linux networking and plain data; it knows nothing of Kubernetes objects or HTTP. The agent turns what it watches into a
//! [`ServiceSnapshot`] and hands it to [`ServiceRules`] (nftables) and [`DnsServer`]; it asks [`PodNetwork`] for an address when a pod's
//! network namespace exists. Everything works in the network namespace of the thread that opened it: the node's own.
//!
//! Begin with [`apply`] for pods, [`services`] for virtual addresses, [`dns`] for names, and [`bridge`] for what `trierarch up` needs.

pub mod cidr;
pub mod netns;

mod link;
mod netlink;
mod nft;
mod sysctl;

pub mod apply;
pub mod bridge;
pub mod ipam;
pub mod plan;
mod pod_rules;

pub mod dns;
pub mod resolv;
pub mod services;

pub use apply::{HostPort, Peer, PodAddress, PodAttachment, PodNetwork, PodNetworkConfig, PodNetworkError};
pub use bridge::{Attachment, Bridge, BridgeError};
pub use cidr::Cidr;
pub use dns::server::{DnsConfig, DnsServer};
pub use netns::NetnsRef;
pub use services::nft::{ServiceRules, ServiceRulesConfig};
pub use services::snapshot::{Endpoint, Protocol, Service, ServiceKey, ServicePort, ServiceSnapshot, TrafficPolicy};
