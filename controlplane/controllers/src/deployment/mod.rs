//! Deployments: a ReplicaSet for each template, and the steps from one to the next.

mod plan;
mod revision;
mod scale;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;

use trierarch_api::selector::LabelSelector;
use trierarch_api::snapshot::Change;
use trierarch_api::{ObjectKey, Snapshot};

pub use plan::plan;
pub use snapshot::{Rollout, Set, snapshot};

use crate::action::Plan;
use crate::resources::{DEPLOYMENTS, PODS, REPLICA_SETS};
use crate::runner::{Context, Controller};

/// The controller of Deployments.
pub struct DeploymentController;

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        view.list(&DEPLOYMENTS, None).iter().map(|deployment| deployment.key()).collect()
    }

    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == DEPLOYMENTS {
            keys.extend(change.new.as_ref().map(|deployment| deployment.key()));
        } else if change.resource == REPLICA_SETS {
            for set in [&change.old, &change.new].into_iter().flatten() {
                if let Some(owner) = set.controller().filter(|owner| owner.kind == "Deployment") {
                    keys.push(ObjectKey::new(DEPLOYMENTS, &set.namespace, &owner.name));
                }
            }
            if let Some(set) = change.new.as_ref().filter(|set| set.controller().is_none()) {
                let deployments = view.list(&DEPLOYMENTS, Some(&set.namespace));
                keys.extend(deployments.iter().filter(|deployment| selector(deployment).matches(&set.labels)).map(|d| d.key()));
            }
            keys.dedup();
        } else if change.resource == PODS
            && change.new.is_none()
            && let Some(pod) = &change.old
            && let Some(owner) = pod.controller().filter(|owner| owner.kind == "ReplicaSet")
            && let Some(set) = view.get(&REPLICA_SETS, &pod.namespace, &owner.name)
            && let Some(owner) = set.controller().filter(|owner| owner.kind == "Deployment")
        {
            // Recreate waits for the last old pod
            keys.push(ObjectKey::new(DEPLOYMENTS, &set.namespace, &owner.name));
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        match snapshot(key, context.view) {
            Some(rollout) => plan(&rollout, context.now, context.failure),
            None => Plan::nothing(),
        }
    }
}

fn selector(deployment: &trierarch_api::Object) -> LabelSelector {
    LabelSelector::from_json(&deployment.value()["spec"]["selector"]).unwrap_or_else(|_| LabelSelector::nothing())
}
