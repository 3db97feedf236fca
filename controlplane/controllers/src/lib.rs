//! The controllers of a master: one folder each, decisions apart from the one shell that performs them.
//!
//! A controller says which keys there are, which of them a change concerns, and what to do about one ([`runner::Controller`]). It holds
//! no client and no queue; [`runner`] does the rest. This crate refuses to know HTTP, the store or Raft: it reads
//! `trierarch_api::Snapshot` and writes through [`cluster::Cluster`].
//!
//! Begin with [`manager`] (what is started), then [`action`] (what a plan may contain), then any controller's `plan.rs`.

use std::sync::Arc;

use jiff::Timestamp;

pub mod action;
pub mod clock;
pub mod cluster;
pub mod departure;
pub mod deployment;
pub mod endpoint_slice;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod event_ttl;
pub mod events;
pub mod fake;
pub mod garbage_collector;
pub mod manager;
mod names;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod perform;
mod pod_facts;
pub mod pod_gc;
pub mod replica_set;
pub mod resource_quota;
pub mod resources;
pub mod root_ca;
pub mod runner;
pub mod service_account;
mod service_pods;
pub mod taint_eviction;
pub mod work_queue;

pub use action::{Action, Plan, Report};
pub use clock::Clock;
pub use cluster::{Cluster, DeleteOptions, Notice, PatchKind, Propagation};
pub use manager::{Config, Handle, Manager};
pub use runner::{Context, Controller};

/// Every controller, by the machine's clock. `elected_at` is when this master began to lead: silence before that is nobody's fault.
pub fn all(cluster: &Arc<dyn Cluster>, config: &Config, elected_at: Timestamp) -> Vec<Arc<dyn Controller>> {
    all_by(cluster, &clock::system(), config, elected_at)
}

/// [`all`], by another clock.
pub fn all_by(cluster: &Arc<dyn Cluster>, clock: &Clock, config: &Config, elected_at: Timestamp) -> Vec<Arc<dyn Controller>> {
    let registry = cluster.registry();
    vec![
        Arc::new(namespace::Namespaces::new(Arc::clone(&registry))),
        Arc::new(service_account::ServiceAccounts),
        Arc::new(root_ca::RootCa::new(config.root_ca_pem.clone())),
        Arc::new(node_ipam::NodeIpam::new(&config.cluster_cidr, config.node_mask)),
        Arc::new(node_lifecycle::NodeLifecycle::new(Arc::clone(clock), config.node_grace, elected_at)),
        Arc::new(taint_eviction::TaintEviction),
        Arc::new(replica_set::ReplicaController::new(replica_set::Flavour::ReplicaSet)),
        Arc::new(replica_set::ReplicaController::new(replica_set::Flavour::ReplicationController)),
        Arc::new(deployment::DeploymentController),
        Arc::new(endpoints::EndpointsController),
        Arc::new(endpoint_slice::EndpointSliceController),
        Arc::new(endpoint_slice_mirroring::Mirroring),
        Arc::new(departure::Departures::default()),
        Arc::new(resource_quota::ResourceQuotas::new(Arc::clone(&registry))),
        Arc::new(garbage_collector::GarbageCollector::new(registry)),
        Arc::new(pod_gc::PodGc::new(config.terminated_pods_max)),
        Arc::new(event_ttl::EventTtl::new(config.event_ttl)),
    ]
}
