//! What controllers need of the cluster: one view to read, one stream of changes, and writes that carry what they were decided on.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc;
use trierarch_api::snapshot::Change;
use trierarch_api::{ApiError, GroupResource, Object, ObjectKey, Registry, Snapshot, Subresource};

/// What a subscriber hears.
#[derive(Clone)]
pub enum Notice {
    /// One object changed. A snapshot taken after this was received shows the change.
    Changed(Arc<Change>),
    /// Changes were lost (the subscriber lagged): look at everything again.
    Resync,
}

/// How a patch is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// Kubernetes' strategic merge patch.
    Strategic,
}

/// What happens to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The garbage collector removes them afterwards.
    Background,
    /// The object stays until its blocking dependents are gone.
    Foreground,
    /// They stay and lose the reference.
    Orphan,
}

/// The options of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Refuse with `Conflict` unless the object has this uid.
    pub uid: Option<String>,
    /// Refuse with `Conflict` unless the object has this version.
    pub resource_version: Option<u64>,
    /// What happens to dependents; `None`: the kind's default.
    pub propagation: Option<Propagation>,
    /// `None`: the object's own; 0: at once.
    pub grace_period_seconds: Option<i64>,
}

/// The cluster as controllers reach it. Every write is fenced by the implementation: after leadership is lost it fails.
///
/// Objects are JSON. An update whose `metadata.resourceVersion` is stale fails with `Conflict`, as for any client.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// All objects now. Shows at least every write of this process that has returned.
    fn snapshot(&self) -> Arc<dyn Snapshot>;

    /// All rows, those of custom resources included.
    fn registry(&self) -> Arc<Registry>;

    /// Every change from now on, Leases included. The stream ends only when the cluster stops. A subscriber that lags gets
    /// [`Notice::Resync`] in place of what it lost.
    fn subscribe(&self) -> mpsc::Receiver<Notice>;

    /// Creates an object in `namespace` (empty for cluster-scoped kinds).
    async fn create(&self, resource: &GroupResource, namespace: &str, object: Value) -> Result<Arc<Object>, ApiError>;

    /// Replaces an object.
    async fn update(&self, key: &ObjectKey, object: Value) -> Result<Arc<Object>, ApiError>;

    /// Replaces an object's status.
    async fn update_status(&self, key: &ObjectKey, object: Value) -> Result<Arc<Object>, ApiError>;

    /// Patches an object or one of its subresources. A `metadata.uid` or `metadata.resourceVersion` in the patch is a precondition.
    async fn patch(
        &self,
        key: &ObjectKey,
        kind: PatchKind,
        patch: Value,
        subresource: Option<Subresource>,
    ) -> Result<Arc<Object>, ApiError>;

    /// Deletes an object, or begins to (finalizers, grace). Returns the revision of the change.
    async fn delete(&self, key: &ObjectKey, options: DeleteOptions) -> Result<u64, ApiError>;

    /// Writes `spec.finalizers` of a namespace through its `finalize` subresource; a terminating namespace without any goes away.
    async fn finalize_namespace(&self, name: &str, object: Value) -> Result<(), ApiError>;
}
