//! A ConfigMap `kube-root-ca.crt` in every namespace, by which pods verify the API server.

use serde_json::json;
use trierarch_api::snapshot::Change;
use trierarch_api::{ObjectKey, Snapshot};

use crate::action::{Action, Plan};
use crate::resources::{CONFIG_MAPS, NAMESPACES};
use crate::runner::{Context, Controller};

const NAME: &str = "kube-root-ca.crt";

/// The controller that publishes the root certificate. Keys are namespaces.
pub struct RootCa {
    pem: String,
}

impl RootCa {
    /// Publishes this PEM.
    pub fn new(pem: String) -> Self {
        Self { pem }
    }
}

impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        view.list(&NAMESPACES, None).iter().map(|namespace| namespace.key()).collect()
    }

    fn wake(&self, change: &Change, _: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == NAMESPACES {
            keys.extend(change.new.as_ref().map(|namespace| namespace.key()));
        } else if change.resource == CONFIG_MAPS
            && let Some(map) = change.new.as_ref().or(change.old.as_ref()).filter(|map| map.name == NAME)
        {
            keys.push(ObjectKey::new(NAMESPACES, "", &map.namespace));
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let namespace = context.view.get(&NAMESPACES, "", &key.name);
        if namespace.is_none_or(|namespace| namespace.deletion_timestamp.is_some()) {
            return plan;
        }
        let data = json!({"ca.crt": self.pem});
        match context.view.get(&CONFIG_MAPS, &key.name, NAME) {
            None => {
                let description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such \
                    as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of \
                    Kubernetes clusters.";
                let map = json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "data": data,
                    "metadata": {"name": NAME, "namespace": key.name, "annotations": {"kubernetes.io/description": description}},
                });
                plan.actions.push(Action::create(CONFIG_MAPS, &key.name, map));
            }
            Some(map) if map.value()["data"] != data => {
                let mut after = serde_json::Value::clone(&map.value());
                after["data"] = data;
                plan.actions.push(Action::Update { key: map.key(), object: after });
            }
            Some(_) => {}
        }
        plan
    }
}
