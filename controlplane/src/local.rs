//! The API in this process, as controllers and scheduler see it: the same pipeline as for any client, without HTTP, fenced by the leader's term.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trierarch_api::{ApiError, GroupResource, Object, ObjectKey, Reason, Registry, Snapshot, Subresource};
use trierarch_apiserver::Local;
use trierarch_apiserver::local::{DeleteOptions as LocalDelete, Heard, Patch};
use trierarch_controllers::{Cluster, DeleteOptions, PatchKind, Propagation};
use trierarch_scheduler::{PodId, SchedulerCluster};

/// Changes that may wait for a subscriber before it must look at everything again.
const BACKLOG: usize = 4096;

const PODS: GroupResource = GroupResource::new("", "pods");
const EVENTS: GroupResource = GroupResource::new("", "events");

/// The in-process client of one part.
pub struct InProcess {
    local: Local,
}

impl InProcess {
    /// Acts as `local`'s user.
    pub fn new(local: Local) -> Self {
        Self { local }
    }

    /// Makes an object unless it is there.
    ///
    /// # Errors
    /// What the API server refuses, and an unknown kind.
    pub async fn ensure(&self, object: Value) -> Result<(), ApiError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let registry = self.local.registry();
        let row = registry.by_kind(&api_version, &kind).ok_or_else(|| ApiError::internal(format!("no kind {api_version} {kind}")))?;
        let resource = row.group_resource();
        if self.local.snapshot().get(&resource, &namespace, &name).is_some() {
            return Ok(());
        }
        match self.local.create(&resource, &namespace, object).await {
            Err(error) if error.reason != Reason::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Passes changes on, in the words of the part that listens.
    fn relay<N: Send + 'static>(&self, translate: impl Fn(Heard) -> N + Send + 'static) -> mpsc::Receiver<N> {
        let mut source = self.local.subscribe(BACKLOG);
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(async move {
            while let Some(heard) = source.recv().await {
                if sender.send(translate(heard)).await.is_err() {
                    break;
                }
            }
        });
        receiver
    }
}

fn delete_options(options: &DeleteOptions) -> LocalDelete {
    LocalDelete {
        uid: options.uid.clone(),
        resource_version: options.resource_version,
        propagation: options.propagation.map(|propagation| match propagation {
            Propagation::Background => "Background".to_owned(),
            Propagation::Foreground => "Foreground".to_owned(),
            Propagation::Orphan => "Orphan".to_owned(),
        }),
        grace_period_seconds: options.grace_period_seconds,
    }
}

#[async_trait]
impl Cluster for InProcess {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.local.snapshot()
    }

    fn registry(&self) -> Arc<Registry> {
        self.local.registry()
    }

    fn subscribe(&self) -> mpsc::Receiver<trierarch_controllers::Notice> {
        self.relay(|heard| match heard {
            Heard::Changed(change) => trierarch_controllers::Notice::Changed(change),
            Heard::Resync => trierarch_controllers::Notice::Resync,
        })
    }

    async fn create(&self, resource: &GroupResource, namespace: &str, object: Value) -> Result<Arc<Object>, ApiError> {
        self.local.create(resource, namespace, object).await
    }

    async fn update(&self, key: &ObjectKey, object: Value) -> Result<Arc<Object>, ApiError> {
        self.local.update(key, object, None).await
    }

    async fn update_status(&self, key: &ObjectKey, object: Value) -> Result<Arc<Object>, ApiError> {
        self.local.update(key, object, Some(Subresource::Status)).await
    }

    async fn patch(
        &self,
        key: &ObjectKey,
        kind: PatchKind,
        patch: Value,
        subresource: Option<Subresource>,
    ) -> Result<Arc<Object>, ApiError> {
        let kind = match kind {
            PatchKind::Merge => Patch::Merge,
            PatchKind::Strategic => Patch::Strategic,
        };
        self.local.patch(key, kind, patch, subresource).await
    }

    async fn delete(&self, key: &ObjectKey, options: DeleteOptions) -> Result<u64, ApiError> {
        self.local.delete(key, delete_options(&options)).await
    }

    async fn finalize_namespace(&self, name: &str, object: Value) -> Result<(), ApiError> {
        let key = ObjectKey::new(GroupResource::new("", "namespaces"), "", name);
        self.local.update(&key, object, Some(Subresource::Finalize)).await.map(drop)
    }
}

#[async_trait]
impl SchedulerCluster for InProcess {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.local.snapshot()
    }

    fn subscribe(&self) -> mpsc::Receiver<trierarch_scheduler::Notice> {
        self.relay(|heard| match heard {
            Heard::Changed(change) => trierarch_scheduler::Notice::Changed(change),
            Heard::Resync => trierarch_scheduler::Notice::Resync,
        })
    }

    async fn bind(&self, pod: &PodId, node: &str) -> Result<(), ApiError> {
        self.local.bind(&pod.namespace, &pod.name, &pod.uid, node).await.map(drop)
    }

    async fn patch_pod_status(&self, pod: &PodId, mut patch: Value) -> Result<(), ApiError> {
        // the uid is a precondition: a pod of the same name that came later is another one
        patch["metadata"]["uid"] = json!(pod.uid);
        let key = ObjectKey::new(PODS, &pod.namespace, &pod.name);
        self.local.patch(&key, Patch::Strategic, patch, Some(Subresource::Status)).await.map(drop)
    }

    async fn delete_pod(&self, pod: &PodId) -> Result<(), ApiError> {
        let key = ObjectKey::new(PODS, &pod.namespace, &pod.name);
        self.local.delete(&key, LocalDelete { uid: Some(pod.uid.clone()), ..LocalDelete::default() }).await.map(drop)
    }

    async fn create_event(&self, namespace: &str, event: Value) -> Result<(), ApiError> {
        self.local.create(&EVENTS, namespace, event).await.map(drop)
    }
}
