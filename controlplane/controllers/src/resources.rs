//! The resources that controllers read and write.

use trierarch_api::GroupResource;

/// Pods.
pub const PODS: GroupResource = GroupResource::new("", "pods");
/// Nodes.
pub const NODES: GroupResource = GroupResource::new("", "nodes");
/// Namespaces.
pub const NAMESPACES: GroupResource = GroupResource::new("", "namespaces");
/// Services.
pub const SERVICES: GroupResource = GroupResource::new("", "services");
/// Endpoints.
pub const ENDPOINTS: GroupResource = GroupResource::new("", "endpoints");
/// EndpointSlices.
pub const ENDPOINT_SLICES: GroupResource = GroupResource::new("discovery.k8s.io", "endpointslices");
/// ServiceAccounts.
pub const SERVICE_ACCOUNTS: GroupResource = GroupResource::new("", "serviceaccounts");
/// ConfigMaps.
pub const CONFIG_MAPS: GroupResource = GroupResource::new("", "configmaps");
/// ReplicationControllers.
pub const REPLICATION_CONTROLLERS: GroupResource = GroupResource::new("", "replicationcontrollers");
/// ReplicaSets.
pub const REPLICA_SETS: GroupResource = GroupResource::new("apps", "replicasets");
/// Deployments.
pub const DEPLOYMENTS: GroupResource = GroupResource::new("apps", "deployments");
/// ResourceQuotas.
pub const RESOURCE_QUOTAS: GroupResource = GroupResource::new("", "resourcequotas");
/// Leases.
pub const LEASES: GroupResource = GroupResource::new("coordination.k8s.io", "leases");
/// Events.
pub const EVENTS: GroupResource = GroupResource::new("", "events");
