//! Deletes what only absent owners hold, and lets owners go that wait for their dependents (`Spec:` "Garbage Collection").

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use trierarch_api::object::OwnerReference;
use trierarch_api::snapshot::Change;
use trierarch_api::{GroupResource, IndexTerm, Kind, Object, ObjectKey, Registry, Snapshot, Uid, Verb};

pub use plan::{Dependent, Owned, OwnerState, plan};

use crate::action::Plan;
use crate::runner::{Context, Controller};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// The garbage collector. Keys are objects of every kind.
pub struct GarbageCollector {
    registry: Arc<Registry>,
}

impl GarbageCollector {
    /// Collects objects of all rows in the registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// The resources whose objects can be collected.
    fn resources(&self) -> Vec<GroupResource> {
        let mut resources: Vec<GroupResource> = self
            .registry
            .all()
            .iter()
            .filter(|row| row.stored_as.is_none() && row.allows(Verb::Delete) && row.plural != "events")
            .map(|row| row.group_resource())
            .collect();
        resources.sort();
        resources.dedup();
        resources
    }

    /// The row of an owner: any version of its group will do.
    fn row(&self, owner: &OwnerReference) -> Option<Arc<Kind>> {
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        self.registry.all().into_iter().find(|row| row.stored_as.is_none() && row.group == group && row.kind == owner.kind)
    }

    fn owner_key(&self, owner: &OwnerReference, namespace: &str) -> Option<ObjectKey> {
        let row = self.row(owner)?;
        let namespace = if row.namespaced_scope() { namespace } else { "" };
        Some(ObjectKey::new(row.storage(), namespace, &owner.name))
    }

    fn dependents(&self, uid: &Uid, view: &dyn Snapshot) -> Vec<Arc<Object>> {
        let term = IndexTerm::Owner(uid.clone());
        self.resources().iter().flat_map(|resource| view.by_term(resource, None, &term)).collect()
    }

    fn owner_state(&self, object: &Object, owner: &OwnerReference, view: &dyn Snapshot) -> OwnerState {
        let Some(row) = self.row(owner) else {
            // its kind is unknown here: whether it lives cannot be told
            return OwnerState::Solid;
        };
        if row.namespaced_scope() && object.namespace.is_empty() {
            return OwnerState::Solid;
        }
        let namespace = if row.namespaced_scope() { object.namespace.as_str() } else { "" };
        match view.get(&row.storage(), namespace, &owner.name).filter(|found| found.uid == owner.uid) {
            None => OwnerState::Absent,
            Some(found) if found.deletion_timestamp.is_some() && has(&found, FOREGROUND) && owner.block_owner_deletion == Some(true) => {
                OwnerState::Waiting
            }
            Some(_) => OwnerState::Solid,
        }
    }
}

pub(crate) fn has(object: &Object, finalizer: &str) -> bool {
    object.finalizers.iter().any(|name| name == finalizer)
}

fn waits(object: &Object) -> bool {
    object.deletion_timestamp.is_some() && (has(object, FOREGROUND) || has(object, ORPHAN))
}

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        let objects = self.resources().into_iter().flat_map(|resource| view.list(&resource, None));
        objects.filter(|object| !object.owner_references.is_empty() || waits(object)).map(|object| object.key()).collect()
    }

    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        if let Some(new) = new {
            let owners_changed = old.is_none_or(|old| old.owner_references != new.owner_references);
            if (owners_changed && !new.owner_references.is_empty()) || waits(new) {
                keys.push(new.key());
            }
            if waits(new) && old.is_none_or(|old| !waits(old)) {
                keys.extend(self.dependents(&new.uid, view).iter().map(|dependent| dependent.key()));
            }
        }
        // gone, replaced by another of the same name, or no longer held by an owner: an owner may have waited for this
        if let Some(old) = old {
            let gone = new.is_none_or(|new| new.uid != old.uid);
            if gone {
                keys.extend(self.dependents(&old.uid, view).iter().map(|dependent| dependent.key()));
            }
            if gone || new.is_some_and(|new| new.owner_references != old.owner_references) {
                keys.extend(old.owner_references.iter().filter_map(|owner| self.owner_key(owner, &old.namespace)));
            }
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let Some(object) = context.view.get(&key.resource, &key.namespace, &key.name) else { return Plan::nothing() };
        let owners = object.owner_references.iter().map(|owner| (owner.clone(), self.owner_state(&object, owner, context.view))).collect();
        let dependents = self
            .dependents(&object.uid, context.view)
            .into_iter()
            .map(|dependent| {
                let blocks =
                    dependent.owner_references.iter().any(|owner| owner.uid == object.uid && owner.block_owner_deletion == Some(true));
                Dependent { object: dependent, blocks }
            })
            .collect();
        plan(&Owned { object, owners, dependents })
    }
}
