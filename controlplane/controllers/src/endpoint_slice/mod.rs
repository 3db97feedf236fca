//! EndpointSlices: the addresses behind a Service, at most 100 in each object.

pub(crate) mod pack;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use trierarch_api::snapshot::Change;
use trierarch_api::{IndexTerm, ObjectKey, Snapshot};

pub use plan::plan;

use crate::action::{Action, Plan};
use crate::pod_facts;
use crate::resources::{ENDPOINT_SLICES, NODES, PODS, SERVICES};
use crate::runner::{Context, Controller};
use crate::service_pods;

pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The controller of EndpointSlices. Keys are Services.
pub struct EndpointSliceController;

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        view.list(&SERVICES, None).iter().map(|service| service.key()).collect()
    }

    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == SERVICES {
            keys.extend(change.new.as_ref().or(change.old.as_ref()).map(|service| service.key()));
        } else if change.resource == PODS {
            service_pods::wake_services(change, view, keys);
        } else if change.resource == ENDPOINT_SLICES
            && let Some(slice) = change.new.as_ref().or(change.old.as_ref())
            && slice.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
            && let Some(service) = slice.labels.get(SERVICE_NAME)
        {
            keys.push(ObjectKey::new(SERVICES, &slice.namespace, service));
        } else if change.resource == NODES {
            let zone = |node: &Option<std::sync::Arc<trierarch_api::Object>>| node.as_ref().and_then(|node| node.labels.get(ZONE).cloned());
            if zone(&change.old) != zone(&change.new) {
                keys.extend(self.all(view));
            }
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let term = IndexTerm::Service(key.name.clone());
        let slices: Vec<_> = context
            .view
            .by_term(&ENDPOINT_SLICES, Some(&key.namespace), &term)
            .into_iter()
            .filter(|slice| slice.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER))
            .collect();
        let Some(service) = context.view.get(&SERVICES, &key.namespace, &key.name) else {
            let mut plan = Plan::nothing();
            plan.actions = slices.iter().map(|slice| Action::delete(slice)).collect();
            return plan;
        };
        let Some(selector) = service_pods::selector(&service.value()) else { return Plan::nothing() };
        if service.deletion_timestamp.is_some() {
            return Plan::nothing();
        }
        let pods = service_pods::pods(&service, &selector, true, context.view);
        let mut zones = HashMap::new();
        for pod in &pods {
            let node = pod_facts::node(&pod.value()).to_owned();
            if let Some(zone) = context.view.get(&NODES, "", &node).and_then(|node| node.labels.get(ZONE).cloned()) {
                zones.insert(node, zone);
            }
        }
        plan(&service, &pods, &zones, &slices, context.view.revision())
    }
}
