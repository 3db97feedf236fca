//! What a plan is made of: actions that the runner performs in order.

use std::time::Duration;

use serde_json::{Value, json};
use trierarch_api::{GroupResource, Object, ObjectKey, Subresource};

use crate::cluster::{DeleteOptions, PatchKind};

/// What a controller decided for one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Performed in order; neighbouring creates run in batches of 1, 2, 4, ..., neighbouring deletes all at once. The first
    /// failure ends them.
    pub actions: Vec<Action>,
    /// The whole object with its new status, if that differs. Written after the actions, whether or not they succeeded.
    pub status: Option<StatusWrite>,
    /// Look again after this time even if nothing changes.
    pub requeue_after: Option<Duration>,
}

impl Plan {
    /// A plan that does nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty() && self.status.is_none()
    }

    /// The earlier of the time already asked for and this one.
    pub fn look_again_in(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |before| before.min(delay)));
    }
}

/// A new status.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusWrite {
    /// Whose.
    pub key: ObjectKey,
    /// The whole object, its `resourceVersion` included.
    pub object: Value,
}

impl StatusWrite {
    /// The object with this status, unless it has it already.
    pub fn if_changed(object: &Object, status: &impl serde::Serialize) -> Option<Self> {
        let before = object.value();
        let status = serde_json::to_value(status).unwrap_or_default();
        if before.get("status").is_some_and(|old| *old == status) {
            return None;
        }
        let mut after = Value::clone(&before);
        after["status"] = status;
        Some(Self { key: object.key(), object: after })
    }
}

/// One write, or one event for users.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Creates an object.
    Create {
        /// Of this resource.
        resource: GroupResource,
        /// In this namespace, empty for cluster-scoped kinds.
        namespace: String,
        /// The object, with its name.
        object: Value,
        /// What users hear.
        reports: Reports,
    },
    /// Replaces an object.
    Update {
        /// Which.
        key: ObjectKey,
        /// By this.
        object: Value,
    },
    /// Patches an object.
    Patch {
        /// Which.
        key: ObjectKey,
        /// How the patch is read.
        kind: PatchKind,
        /// The patch.
        patch: Value,
        /// Below the object.
        subresource: Option<Subresource>,
    },
    /// Deletes an object. One that is gone already counts as deleted.
    Delete {
        /// Which.
        key: ObjectKey,
        /// How.
        options: DeleteOptions,
        /// What users hear.
        reports: Reports,
    },
    /// Writes a namespace's finalizers.
    Finalize {
        /// Name of the namespace.
        name: String,
        /// The namespace, with the finalizers that are left.
        object: Value,
    },
    /// Tells users something.
    Record(Report),
}

impl Action {
    /// A create that users are told nothing about.
    pub fn create(resource: GroupResource, namespace: &str, object: Value) -> Self {
        Self::Create { resource, namespace: namespace.to_owned(), object, reports: Reports::default() }
    }

    /// A merge patch of the object as it was seen: fails with `Conflict` if it has changed since.
    pub fn merge(object: &Object, mut patch: Value) -> Self {
        patch["metadata"]["uid"] = json!(object.uid.0);
        patch["metadata"]["resourceVersion"] = json!(object.resource_version.to_string());
        Self::Patch { key: object.key(), kind: PatchKind::Merge, patch, subresource: None }
    }

    /// A delete of exactly this object (by uid) that users are told nothing about.
    pub fn delete(object: &Object) -> Self {
        Self::Delete {
            key: object.key(),
            options: DeleteOptions { uid: Some(object.uid.0.clone()), ..DeleteOptions::default() },
            reports: Reports::default(),
        }
    }

    /// A delete without grace of exactly this object.
    pub fn delete_now(object: &Object) -> Self {
        Self::Delete {
            key: object.key(),
            options: DeleteOptions { uid: Some(object.uid.0.clone()), grace_period_seconds: Some(0), ..DeleteOptions::default() },
            reports: Reports::default(),
        }
    }
}

/// What users hear of a write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reports {
    /// When it succeeds.
    pub success: Option<Report>,
    /// When it fails; the error is appended to the message.
    pub failure: Option<Report>,
}

/// A message for users: becomes an Event.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// About whom: an `ObjectReference`.
    pub about: Value,
    /// Whether something is wrong (`Warning`) or not (`Normal`).
    pub warning: bool,
    /// One of a fixed list, in CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Report {
    /// Something went as it should.
    pub fn normal(about: &Object, reason: &'static str, message: String) -> Self {
        Self { about: reference(about), warning: false, reason, message }
    }

    /// Something is wrong.
    pub fn warning(about: &Object, reason: &'static str, message: String) -> Self {
        Self { about: reference(about), warning: true, reason, message }
    }
}

/// An `ObjectReference` to an object.
pub fn reference(object: &Object) -> Value {
    let mut about = json!({
        "apiVersion": object.kind.api_version(), "kind": object.kind.kind, "name": object.name,
        "uid": object.uid.0, "resourceVersion": object.resource_version.to_string(),
    });
    if !object.namespace.is_empty() {
        about["namespace"] = json!(object.namespace);
    }
    about
}

/// An owner reference by which an object manages another.
pub fn controller_reference(owner: &Object) -> Value {
    json!({
        "apiVersion": owner.kind.api_version(), "kind": owner.kind.kind, "name": owner.name, "uid": owner.uid.0,
        "controller": true, "blockOwnerDeletion": true,
    })
}
