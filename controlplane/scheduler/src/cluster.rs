//! What the scheduler needs of the cluster.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc;
use trierarch_api::snapshot::Change;
use trierarch_api::{ApiError, Snapshot};

/// What a subscriber hears.
#[derive(Clone)]
pub enum Notice {
    /// One object changed. A snapshot taken after this was received shows the change.
    Changed(Arc<Change>),
    /// Changes were lost (the subscriber lagged): look at everything again.
    Resync,
}

/// Names one pod, and no later one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// The cluster as the scheduler reaches it. Every write is fenced by the implementation: after leadership is lost it fails.
#[async_trait]
pub trait SchedulerCluster: Send + Sync + 'static {
    /// All objects now.
    fn snapshot(&self) -> Arc<dyn Snapshot>;

    /// Every change from now on (those of Leases and Events may be left out). The stream ends only when the cluster stops.
    fn subscribe(&self) -> mpsc::Receiver<Notice>;

    /// Posts a Binding: sets `spec.nodeName` and the `PodScheduled` condition. Fails with `Conflict` when the pod is bound, is being
    /// deleted, or has another uid.
    async fn bind(&self, pod: &PodId, node: &str) -> Result<(), ApiError>;

    /// Strategic merge patch (`{"status": {...}}`) of a pod's `status` subresource; the uid is a precondition.
    async fn patch_pod_status(&self, pod: &PodId, patch: Value) -> Result<(), ApiError>;

    /// Deletes a pod with its own grace period (a victim of preemption); the uid is a precondition.
    async fn delete_pod(&self, pod: &PodId) -> Result<(), ApiError>;

    /// Creates a core/v1 Event.
    async fn create_event(&self, namespace: &str, event: Value) -> Result<(), ApiError>;
}
