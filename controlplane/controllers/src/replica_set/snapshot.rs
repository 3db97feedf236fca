//! What the decision about one ReplicaSet or ReplicationController looks at.

use std::collections::HashMap;
use std::sync::Arc;

use trierarch_api::selector::LabelSelector;
use trierarch_api::{IndexTerm, Object, ObjectKey, Snapshot};

use super::Flavour;
use crate::pod_facts;
use crate::resources::{PODS, REPLICA_SETS};

/// An owner of replicas with the pods that concern it.
pub struct Replicated {
    /// Which kind.
    pub flavour: Flavour,
    /// The ReplicaSet or ReplicationController.
    pub owner: Arc<Object>,
    /// Its selector.
    pub selector: LabelSelector,
    /// Pods that it owns or that it selects and nobody owns, in key order.
    pub pods: Vec<Arc<Object>>,
    /// Active pods on each node that belong to it or to a sibling under the same Deployment.
    pub related_on_node: HashMap<String, usize>,
    /// Revision of the view: part of the names of new pods.
    pub revision: u64,
}

/// Reads what concerns an owner; `None` when it is gone.
pub fn snapshot(flavour: Flavour, key: &ObjectKey, view: &dyn Snapshot) -> Option<Replicated> {
    let owner = view.get(&flavour.resource(), &key.namespace, &key.name)?;
    let selector = flavour.selector(&owner);
    let pods: Vec<Arc<Object>> = view
        .list(&PODS, Some(&key.namespace))
        .into_iter()
        .filter(|pod| match pod.controller() {
            Some(controller) => controller.uid == owner.uid,
            None => selector.matches(&pod.labels),
        })
        .collect();
    let related_on_node = related_on_node(flavour, &owner, view);
    Some(Replicated { flavour, owner, selector, pods, related_on_node, revision: view.revision() })
}

fn related_on_node(flavour: Flavour, owner: &Object, view: &dyn Snapshot) -> HashMap<String, usize> {
    let mut siblings = vec![owner.uid.clone()];
    if let (Flavour::ReplicaSet, Some(controller)) = (flavour, owner.controller()) {
        let same = view.by_term(&REPLICA_SETS, Some(&owner.namespace), &IndexTerm::Owner(controller.uid.clone()));
        siblings = same.iter().map(|sibling| sibling.uid.clone()).collect();
    }
    let mut on_node = HashMap::new();
    for uid in siblings {
        for pod in view.by_term(&PODS, Some(&owner.namespace), &IndexTerm::Owner(uid)) {
            if pod_facts::is_active(&pod) {
                *on_node.entry(pod_facts::node(&pod.value()).to_owned()).or_default() += 1;
            }
        }
    }
    on_node
}
