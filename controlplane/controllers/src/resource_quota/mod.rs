//! Counts what a namespace uses, for the status of its ResourceQuotas. The API server raises the count when it admits something; this
//! controller sets it right when something goes, and when limits change.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use trierarch_api::quota::{self, Amounts};
use trierarch_api::snapshot::Change;
use trierarch_api::{Kind, Object, ObjectKey, Quantity, Registry, Snapshot};

use crate::action::{Plan, StatusWrite};
use crate::resources::{PODS, RESOURCE_QUOTAS, SERVICES};
use crate::runner::{Context, Controller};

/// The controller of quotas' status. Keys are ResourceQuotas.
pub struct ResourceQuotas {
    registry: Arc<Registry>,
}

impl ResourceQuotas {
    /// Counts objects of all rows in the registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    fn counted_kinds(&self) -> impl Iterator<Item = Arc<Kind>> {
        self.registry.all().into_iter().filter(|kind| quota::counts(kind))
    }
}

impl Controller for ResourceQuotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        view.list(&RESOURCE_QUOTAS, None).iter().map(|quota| quota.key()).collect()
    }

    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == RESOURCE_QUOTAS
            && let Some(quota) = &change.new
        {
            keys.push(quota.key());
        }
        let Some(object) = change.new.as_ref().or(change.old.as_ref()).filter(|object| !object.namespace.is_empty()) else { return };
        if quota::counts(&object.kind) && gives_back(change) {
            keys.extend(view.list(&RESOURCE_QUOTAS, Some(&object.namespace)).iter().map(|quota| quota.key()));
            keys.dedup();
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let Some(quota) = context.view.get(&RESOURCE_QUOTAS, &key.namespace, &key.name) else { return plan };
        if quota.deletion_timestamp.is_some() {
            return plan;
        }
        let value = quota.value();
        let hard = quota::amounts(&value["spec"]["hard"]);
        let mut used: Amounts = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
        for kind in self.counted_kinds() {
            let limits = quota::concerned(&kind, &value["spec"]["hard"]);
            if limits.is_empty() {
                continue;
            }
            for object in context.view.list(&kind.storage(), Some(&key.namespace)) {
                let object = object.value();
                if !quota::in_scope(&value, &kind, &object) {
                    continue;
                }
                let mut usage = quota::usage(&kind, &object, context.now);
                usage.retain(|name, _| limits.contains(name));
                quota::add(&mut used, &usage);
                if let Some(left) =
                    quota::ends_at(&object).map(|end| end.duration_since(context.now)).and_then(|d| Duration::try_from(d).ok())
                {
                    plan.look_again_in(left + Duration::from_secs(1));
                }
            }
        }
        let status = json!({"hard": quota::to_json(&hard), "used": quota::to_json(&used)});
        plan.status = StatusWrite::if_changed(&quota, &status);
        plan
    }
}

/// Whether a change can lower what is used, or was made by somebody who does not count (a change of a kind's own part).
fn gives_back(change: &Change) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    let spec_changed = || old.value()["spec"] != new.value()["spec"];
    if change.resource == PODS {
        let over = |pod: &Arc<Object>| (crate::pod_facts::is_finished(&pod.value()), pod.deletion_timestamp);
        over(old) != over(new) || spec_changed()
    } else {
        change.resource == SERVICES && spec_changed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::fake::FakeCluster;
    use crate::resources::CONFIG_MAPS;
    use serde_json::Value;

    fn status(cluster: &FakeCluster, controller: &ResourceQuotas, key: &ObjectKey) -> Value {
        let decide = || {
            let view = cluster.view();
            controller.decide(key, &Context { view: &view, now: cluster.now(), failure: None })
        };
        cluster.apply(decide()).unwrap();
        assert!(decide().is_empty(), "a second look changes nothing");
        cluster.get(&key.resource, &key.namespace, &key.name).unwrap().value()["status"].clone()
    }

    #[test]
    fn what_a_namespace_holds_is_counted() {
        let cluster = FakeCluster::new();
        let controller = ResourceQuotas::new(cluster.registry());
        let hard = json!({"pods": "2", "configmaps": "3", "count/secrets": "5", "requests.cpu": "1"});
        let quota = cluster.add(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "n"},
            "spec": {"hard": hard}}));
        let pod = |name: &str, namespace: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
                "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m"}}}]}})
        };
        let first = cluster.add(pod("a", "n"));
        cluster.add(pod("b", "n"));
        cluster.add(pod("c", "elsewhere"));
        cluster.add(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}}));
        let expected = json!({"hard": hard, "used": {"pods": "2", "configmaps": "1", "count/secrets": "0", "requests.cpu": "500m"}});
        assert_eq!(status(&cluster, &controller, &quota.key()), expected);
        cluster.change(&first.key(), |pod| pod["status"] = json!({"phase": "Failed"}));
        let after = status(&cluster, &controller, &quota.key());
        assert_eq!((&after["used"]["pods"], &after["used"]["requests.cpu"]), (&json!("1"), &json!("250m")));
    }

    #[test]
    fn only_what_gives_back_wakes() {
        let cluster = FakeCluster::new();
        let controller = ResourceQuotas::new(cluster.registry());
        cluster.add(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "n"}, "spec": {}}));
        let map = cluster.add(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}}));
        let woken = |old: Option<&Arc<Object>>, new: Option<&Arc<Object>>| {
            let change = Change { resource: CONFIG_MAPS, old: old.cloned(), new: new.cloned(), revision: 1 };
            let mut keys = Vec::new();
            controller.wake(&change, &cluster.view(), &mut keys);
            keys.len()
        };
        assert_eq!(woken(None, Some(&map)), 1);
        assert_eq!(woken(Some(&map), Some(&map)), 0);
        assert_eq!(woken(Some(&map), None), 1);
    }
}
