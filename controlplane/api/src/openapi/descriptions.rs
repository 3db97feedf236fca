//! What types and fields are for, in the words that `k8s-openapi` carries.

use k8s_openapi::api::{apps, authentication, authorization, certificates, coordination, core, discovery, events, policy, rbac};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

/// Schemas with descriptions by OpenAPI name, of every type that a row leads to.
pub(super) fn all() -> Map<String, Value> {
    let mut generator = SchemaGenerator::default();
    macro_rules! include {
        ($($kind:ty),* $(,)?) => { $( let _reference = generator.subschema_for::<$kind>(); )* };
    }
    include!(
        core::v1::ConfigMap,
        core::v1::Endpoints,
        core::v1::Event,
        core::v1::Namespace,
        core::v1::Node,
        core::v1::Pod,
        core::v1::ReplicationController,
        core::v1::Secret,
        core::v1::ServiceAccount,
        core::v1::Service,
        core::v1::Binding,
        apps::v1::Deployment,
        apps::v1::ReplicaSet,
        authentication::v1::SelfSubjectReview,
        authentication::v1::TokenReview,
        authentication::v1::TokenRequest,
        authorization::v1::LocalSubjectAccessReview,
        authorization::v1::SelfSubjectAccessReview,
        authorization::v1::SelfSubjectRulesReview,
        authorization::v1::SubjectAccessReview,
        certificates::v1::CertificateSigningRequest,
        coordination::v1::Lease,
        discovery::v1::EndpointSlice,
        events::v1::Event,
        policy::v1::Eviction,
        rbac::v1::ClusterRole,
        rbac::v1::ClusterRoleBinding,
        rbac::v1::Role,
        rbac::v1::RoleBinding,
        meta::DeleteOptions,
        meta::Status,
        meta::ListMeta,
    );
    generator.take_definitions(true)
}
