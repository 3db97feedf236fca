//! ReplicaSets and ReplicationControllers: as many pods of a template as asked for.

mod plan;
mod rank;
mod snapshot;
#[cfg(test)]
mod tests;

use trierarch_api::selector::LabelSelector;
use trierarch_api::snapshot::Change;
use trierarch_api::{GroupResource, Object, ObjectKey, Snapshot};

pub use plan::plan;
pub(crate) use plan::{adopt, release};
pub use snapshot::{Replicated, snapshot};

use crate::action::Plan;
use crate::resources::{PODS, REPLICA_SETS, REPLICATION_CONTROLLERS};
use crate::runner::{Context, Controller};

/// Which of the two kinds; they differ in name and in how the selector is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `apps/v1`, with a full label selector.
    ReplicaSet,
    /// `v1`, with a map of labels.
    ReplicationController,
}

impl Flavour {
    /// The resource.
    pub fn resource(self) -> GroupResource {
        match self {
            Self::ReplicaSet => REPLICA_SETS,
            Self::ReplicationController => REPLICATION_CONTROLLERS,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::ReplicaSet => "ReplicaSet",
            Self::ReplicationController => "ReplicationController",
        }
    }

    /// Which pods an owner selects; none when its selector is unreadable.
    pub fn selector(self, owner: &Object) -> LabelSelector {
        let value = owner.value();
        let selector = &value["spec"]["selector"];
        match self {
            Self::ReplicaSet => LabelSelector::from_json(selector).unwrap_or_else(|_| LabelSelector::nothing()),
            Self::ReplicationController => LabelSelector::from_map(selector, true),
        }
    }
}

/// The controller of one of the two kinds.
pub struct ReplicaController {
    flavour: Flavour,
}

impl ReplicaController {
    /// The controller of a kind.
    pub fn new(flavour: Flavour) -> Self {
        Self { flavour }
    }
}

impl Controller for ReplicaController {
    fn name(&self) -> &'static str {
        match self.flavour {
            Flavour::ReplicaSet => "replicaset-controller",
            Flavour::ReplicationController => "replication-controller",
        }
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        view.list(&self.flavour.resource(), None).iter().map(|owner| owner.key()).collect()
    }

    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == self.flavour.resource() {
            keys.extend(change.new.as_ref().map(|owner| owner.key()));
            return;
        }
        if change.resource != PODS {
            return;
        }
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        for pod in [old, new].into_iter().flatten() {
            if let Some(owner) = pod.controller().filter(|owner| owner.kind == self.flavour.kind()) {
                keys.push(ObjectKey::new(self.flavour.resource(), &pod.namespace, &owner.name));
            }
        }
        // an orphan may be adopted when it appears, or when its labels or owners changed
        if let Some(pod) = new.filter(|pod| pod.controller().is_none())
            && old.is_none_or(|old| old.labels != pod.labels || old.controller().is_some())
        {
            let owners = view.list(&self.flavour.resource(), Some(&pod.namespace));
            keys.extend(owners.iter().filter(|owner| self.flavour.selector(owner).matches(&pod.labels)).map(|owner| owner.key()));
        }
        keys.dedup();
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        match snapshot(self.flavour, key, context.view) {
            Some(replicated) => plan(&replicated, context.now, context.failure),
            None => Plan::nothing(),
        }
    }
}
