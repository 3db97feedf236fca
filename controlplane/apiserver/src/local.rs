//! The same pipeline without HTTP, for the parts of the leading master: controllers, scheduler, bootstrap.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use trierarch_api::snapshot::Change;
use trierarch_api::{ApiError, GroupResource, Kind, Object, ObjectKey, Registry, Snapshot, Subresource};
use trierarch_raft::{Event, EventKind, Term, WatchError};

use crate::apiserver::{ApiServer, object_of};
use crate::clock::Deadline;
use crate::delete::{self, Deleted, Preconditions};
use crate::identity::User;
use crate::patch::{self, Type};
use crate::pipeline::{Ctx, encode};
use crate::request::Options;
use crate::subresource::binding;
use crate::write::{self, Source, Target, object_namespace};

const TIMEOUT: Duration = Duration::from_secs(34);

/// What a subscriber hears.
#[derive(Clone)]
pub enum Heard {
    /// One object changed.
    Changed(Arc<Change>),
    /// Changes were lost: look at everything again.
    Resync,
}

pub use crate::patch::Type as Patch;

/// The options of a deletion.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Conflict unless the object has this uid.
    pub uid: Option<String>,
    /// Conflict unless it has this version.
    pub resource_version: Option<u64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<String>,
    /// `None`: the object's own.
    pub grace_period_seconds: Option<i64>,
}

/// A client in the server's own process.
#[derive(Clone)]
pub struct Local {
    server: Arc<ApiServer>,
    user: User,
    fence: Option<Term>,
}

impl Local {
    /// Acts as a user, without asking whether it may.
    pub fn new(server: Arc<ApiServer>, user: User) -> Self {
        Self { server, user, fence: None }
    }

    /// Every write is refused in any other term than this.
    #[must_use]
    pub fn fenced(mut self, term: Term) -> Self {
        self.fence = Some(term);
        self
    }

    /// All objects as this master knows them; shows every write of this process that has returned.
    pub fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(self.server.snapshot())
    }

    /// The rows.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.server.registry)
    }

    fn ctx(&self, verb: &str) -> Result<Ctx, ApiError> {
        let mut ctx = Ctx::new(self.user.clone(), "", verb, &Options::default(), Deadline::after(TIMEOUT))?;
        ctx.local = true;
        ctx.fence = self.fence;
        ctx.field_manager = self.user.name.rsplit(':').next().unwrap_or_default().to_owned();
        ctx.agent.clone_from(&ctx.field_manager);
        Ok(ctx)
    }

    fn row(&self, resource: &GroupResource) -> Result<Arc<Kind>, ApiError> {
        self.server.registry.by_storage(resource).ok_or_else(|| ApiError::internal(format!("no resource {resource}")))
    }

    /// Stores a new object.
    ///
    /// # Errors
    /// As for any client.
    pub async fn create(&self, resource: &GroupResource, namespace: &str, mut object: Value) -> Result<Arc<Object>, ApiError> {
        let kind = self.row(resource)?;
        identify(&kind, &mut object);
        write::create(&self.server, &self.ctx("create")?, &kind, namespace, object).await
    }

    /// Replaces an object, or the part of it that a subresource is for.
    ///
    /// # Errors
    /// As for any client; a stale `resourceVersion` is a conflict.
    pub async fn update(&self, key: &ObjectKey, mut object: Value, sub: Option<Subresource>) -> Result<Arc<Object>, ApiError> {
        let kind = self.row(&key.resource)?;
        identify(&kind, &mut object);
        let target = Target { kind: &kind, namespace: object_namespace(&kind, &key.namespace), name: &key.name, sub };
        Ok(write::update(&self.server, &self.ctx("update")?, &target, Source::Whole(object)).await?.object)
    }

    /// Patches an object or a subresource; `metadata.uid` and `metadata.resourceVersion` in it are preconditions.
    ///
    /// # Errors
    /// As for any client.
    pub async fn patch(&self, key: &ObjectKey, way: Type, patch: Value, sub: Option<Subresource>) -> Result<Arc<Object>, ApiError> {
        let kind = self.row(&key.resource)?;
        let ctx = self.ctx("patch")?;
        let body = encode::to_bytes(&patch);
        let namespace = object_namespace(&kind, &key.namespace);
        let change = patch::change(&ctx, &kind, way, sub, &body, namespace, &key.name)?;
        let target = Target { kind: &kind, namespace, name: &key.name, sub };
        let source = if way == Type::Apply { Source::Applied(&change) } else { Source::From(&change) };
        Ok(write::update(&self.server, &ctx, &target, source).await?.object)
    }

    /// Deletes an object or begins to; the revision of the change.
    ///
    /// # Errors
    /// As for any client.
    pub async fn delete(&self, key: &ObjectKey, options: DeleteOptions) -> Result<u64, ApiError> {
        let kind = self.row(&key.resource)?;
        let preconditions =
            Preconditions { uid: options.uid, resource_version: options.resource_version.map(|version| version.to_string()) };
        let options = delete::DeleteOptions {
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: options.propagation,
            preconditions: Some(preconditions),
            ..delete::DeleteOptions::default()
        };
        let namespace = object_namespace(&kind, &key.namespace);
        match delete::delete(&self.server, &self.ctx("delete")?, &kind, namespace, &key.name, &options).await? {
            Deleted::Gone(object) | Deleted::Pending(object) => Ok(object.resource_version),
        }
    }

    /// Gives a pod its node.
    ///
    /// # Errors
    /// Conflict when it has one, is being deleted, or is another pod of that name.
    pub async fn bind(&self, namespace: &str, name: &str, uid: &str, node: &str) -> Result<Arc<Object>, ApiError> {
        let target = json!({ "metadata": { "name": name, "uid": uid }, "target": { "kind": "Node", "name": node } });
        binding::bind(&self.server, &self.ctx("create")?, namespace, name, &target).await
    }

    /// Deletes a pod as an eviction does.
    ///
    /// # Errors
    /// As [`Local::delete`].
    pub async fn evict(&self, namespace: &str, name: &str, grace_period_seconds: Option<i64>) -> Result<u64, ApiError> {
        let key = ObjectKey::new(GroupResource::new("", "pods"), namespace, name);
        self.delete(&key, DeleteOptions { grace_period_seconds, ..DeleteOptions::default() }).await
    }

    /// Every change after this call: what it misses, a snapshot taken later shows. A subscriber that lags by more than `capacity` hears [`Heard::Resync`] in place of what it lost.
    pub fn subscribe(&self, capacity: usize) -> mpsc::Receiver<Heard> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let server = Arc::clone(&self.server);
        // here and not in the task: what is committed before its first turn must be heard, too
        let from = server.store.view().revision();
        tokio::spawn(async move { pump(&server, &sender, from).await });
        receiver
    }
}

fn identify(kind: &Kind, object: &mut Value) {
    if object["apiVersion"].is_null() || object["kind"].is_null() {
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
    }
}

/// Passes on the changes after `from`, until nobody listens or the server stops.
async fn pump(server: &Arc<ApiServer>, sender: &mpsc::Sender<Heard>, mut from: u64) {
    let mut lagged = false;
    while !server.stopping.is_cancelled() {
        let mut watcher = match server.store.watch(b"", from).await {
            Ok(watcher) => Some(watcher),
            Err(WatchError::Compacted { .. }) => None,
            Err(WatchError::Closed) => return,
        };
        if lagged && sender.send(Heard::Resync).await.is_err() {
            return;
        }
        while let Some(watcher) = &mut watcher {
            let events = tokio::select! {
                events = watcher.next() => events,
                () = sender.closed() => return,
                () = server.stopping.cancelled() => return,
            };
            let Ok(events) = events else { break };
            for event in &events {
                let Some(change) = change(server, event) else { continue };
                match sender.try_send(Heard::Changed(Arc::new(change))) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        // what is in the queue is heard first; then everything is looked at again
                        if sender.send(Heard::Resync).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
        lagged = true;
        from = server.store.view().revision();
    }
}

fn change(server: &ApiServer, event: &Event) -> Option<Change> {
    let key = ObjectKey::parse(&event.record.key).filter(|key| !key.resource.group.starts_with('~'))?;
    let previous = event.previous.as_ref().and_then(|record| object_of(&server.registry, record));
    let current = object_of(&server.registry, &event.record);
    let (old, new) = match event.kind {
        EventKind::Put => (previous, Some(current?)),
        EventKind::Delete => (previous.or(current), None),
    };
    Some(Change { resource: key.resource, revision: event.revision, old, new })
}
