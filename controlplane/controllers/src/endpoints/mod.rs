//! Endpoints: the addresses behind a Service, in the old form.

mod plan;
#[cfg(test)]
pub(crate) mod tests;

use trierarch_api::snapshot::Change;
use trierarch_api::{ObjectKey, Snapshot};

pub use plan::plan;

use crate::action::{Action, Plan};
use crate::resources::{ENDPOINTS, PODS, SERVICES};
use crate::runner::{Context, Controller};
use crate::service_pods;

/// The controller of Endpoints. Keys are Services.
pub struct EndpointsController;

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        let mut keys: Vec<ObjectKey> = view.list(&SERVICES, None).iter().map(|service| service.key()).collect();
        // what a Service left behind while nobody led
        for endpoints in view.list(&ENDPOINTS, None) {
            if plan::is_ours(&endpoints) && view.get(&SERVICES, &endpoints.namespace, &endpoints.name).is_none() {
                keys.push(ObjectKey::new(SERVICES, &endpoints.namespace, &endpoints.name));
            }
        }
        keys
    }

    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == SERVICES {
            keys.extend(change.new.as_ref().or(change.old.as_ref()).map(|service| service.key()));
        } else if change.resource == PODS {
            service_pods::wake_services(change, view, keys);
        } else if change.resource == ENDPOINTS
            && let Some(endpoints) = change.new.as_ref().or(change.old.as_ref())
        {
            keys.push(ObjectKey::new(SERVICES, &endpoints.namespace, &endpoints.name));
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let current = context.view.get(&ENDPOINTS, &key.namespace, &key.name);
        let Some(service) = context.view.get(&SERVICES, &key.namespace, &key.name) else {
            let mut plan = Plan::nothing();
            plan.actions.extend(current.filter(|endpoints| plan::is_ours(endpoints)).map(|endpoints| Action::delete(&endpoints)));
            return plan;
        };
        let Some(selector) = service_pods::selector(&service.value()) else { return Plan::nothing() };
        let with_terminating = service.value()["spec"]["publishNotReadyAddresses"] == true;
        let pods = service_pods::pods(&service, &selector, with_terminating, context.view);
        plan(&service, &pods, current.as_deref())
    }
}
