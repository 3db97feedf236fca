//! A ServiceAccount `default` in every namespace.

use serde_json::json;
use trierarch_api::snapshot::Change;
use trierarch_api::{ObjectKey, Snapshot};

use crate::action::{Action, Plan};
use crate::resources::{NAMESPACES, SERVICE_ACCOUNTS};
use crate::runner::{Context, Controller};

const NAME: &str = "default";

/// The controller of default ServiceAccounts. Keys are namespaces.
pub struct ServiceAccounts;

impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        view.list(&NAMESPACES, None).iter().map(|namespace| namespace.key()).collect()
    }

    fn wake(&self, change: &Change, _: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == NAMESPACES {
            keys.extend(change.new.as_ref().map(|namespace| namespace.key()));
        } else if change.resource == SERVICE_ACCOUNTS
            && change.new.is_none()
            && let Some(account) = change.old.as_ref().filter(|account| account.name == NAME)
        {
            keys.push(ObjectKey::new(NAMESPACES, "", &account.namespace));
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let mut plan = Plan::nothing();
        if let Some(namespace) = context.view.get(&NAMESPACES, "", &key.name)
            && namespace.deletion_timestamp.is_none()
            && context.view.get(&SERVICE_ACCOUNTS, &key.name, NAME).is_none()
        {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": key.name}});
            plan.actions.push(Action::create(SERVICE_ACCOUNTS, &key.name, account));
        }
        plan
    }
}
