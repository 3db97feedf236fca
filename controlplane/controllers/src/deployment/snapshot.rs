//! What the decision about one Deployment looks at.

use std::sync::Arc;

use serde_json::Value;
use trierarch_api::selector::LabelSelector;
use trierarch_api::{IndexTerm, Object, ObjectKey, Snapshot};

use crate::pod_facts::{self, number};
use crate::resources::{DEPLOYMENTS, PODS, REPLICA_SETS};

/// A ReplicaSet of a Deployment.
#[derive(Clone)]
pub struct Set {
    /// The ReplicaSet.
    pub object: Arc<Object>,
    /// `spec.replicas`.
    pub replicas: i64,
    /// `status.replicas`.
    pub actual: i64,
    /// `status.availableReplicas`.
    pub available: i64,
    /// Pods of it that have not ended, those being deleted included.
    pub living_pods: usize,
}

impl Set {
    /// The ReplicaSet's JSON.
    pub fn value(&self) -> Arc<Value> {
        self.object.value()
    }

    /// An annotation.
    pub fn annotation(&self, name: &str) -> Option<String> {
        self.value()["metadata"]["annotations"][name].as_str().map(str::to_owned)
    }
}

/// A Deployment with everything below it.
pub struct Rollout {
    /// The Deployment.
    pub deployment: Arc<Object>,
    /// Its selector.
    pub selector: LabelSelector,
    /// ReplicaSets that it owns or that it selects and nobody owns, oldest first.
    pub sets: Vec<Set>,
    /// Names of all ReplicaSets in the namespace.
    pub taken_names: Vec<String>,
}

/// Reads what concerns a Deployment; `None` when it is gone.
pub fn snapshot(key: &ObjectKey, view: &dyn Snapshot) -> Option<Rollout> {
    let deployment = view.get(&DEPLOYMENTS, &key.namespace, &key.name)?;
    let selector = super::selector(&deployment);
    let all = view.list(&REPLICA_SETS, Some(&key.namespace));
    let taken_names = all.iter().map(|set| set.name.clone()).collect();
    let mut sets: Vec<Set> = all
        .into_iter()
        .filter(|set| match set.controller() {
            Some(controller) => controller.uid == deployment.uid,
            None => selector.matches(&set.labels),
        })
        .map(|object| {
            let value = object.value();
            let pods = view.by_term(&PODS, Some(&object.namespace), &IndexTerm::Owner(object.uid.clone()));
            Set {
                replicas: value["spec"]["replicas"].as_i64().unwrap_or(1),
                actual: number(&value["status"]["replicas"]),
                available: number(&value["status"]["availableReplicas"]),
                living_pods: pods.iter().filter(|pod| !pod_facts::is_finished(&pod.value())).count(),
                object,
            }
        })
        .collect();
    sets.sort_by(|left, right| {
        (left.object.creation_timestamp, &left.object.name).cmp(&(right.object.creation_timestamp, &right.object.name))
    });
    Some(Rollout { deployment, selector, sets, taken_names })
}
