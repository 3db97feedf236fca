//! Deletes what a terminating namespace holds, then lets the namespace go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use trierarch_api::snapshot::Change;
use trierarch_api::{GroupResource, Object, ObjectKey, Registry, Snapshot, Verb};

use crate::action::{Action, Plan, StatusWrite};
use crate::events::seconds;
use crate::resources::{NAMESPACES, PODS};
use crate::runner::{Context, Controller};

/// How long to wait before content that goes by itself (pods with grace) is looked at again, should no change be heard.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The controller of terminating namespaces.
pub struct Namespaces {
    registry: Arc<Registry>,
}

impl Namespaces {
    /// Deletes the content of all rows in the registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    fn content(&self, namespace: &str, view: &dyn Snapshot) -> BTreeMap<GroupResource, Vec<Arc<Object>>> {
        let mut content = BTreeMap::new();
        for row in self.registry.all() {
            if row.namespaced_scope() && row.stored_as.is_none() && row.allows(Verb::Delete) {
                let resource = row.group_resource();
                let objects = view.list(&resource, Some(namespace));
                if !objects.is_empty() {
                    content.insert(resource, objects);
                }
            }
        }
        content
    }
}

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        view.list(&NAMESPACES, None).iter().map(|namespace| namespace.key()).collect()
    }

    fn wake(&self, change: &Change, view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == NAMESPACES {
            keys.extend(change.new.as_ref().filter(|namespace| namespace.deletion_timestamp.is_some()).map(|namespace| namespace.key()));
            return;
        }
        let object = change.new.as_ref().or(change.old.as_ref());
        if let Some(object) = object.filter(|object| !object.namespace.is_empty())
            && (change.new.is_none() || change.old.is_none())
            && let Some(namespace) = view.get(&NAMESPACES, "", &object.namespace)
            && namespace.deletion_timestamp.is_some()
        {
            keys.push(namespace.key());
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let Some(namespace) = context.view.get(&NAMESPACES, "", &key.name) else { return Plan::nothing() };
        if namespace.deletion_timestamp.is_none() {
            return Plan::nothing();
        }
        plan(&namespace, &self.content(&key.name, context.view), context)
    }
}

/// What to do about a terminating namespace that still holds this.
fn plan(namespace: &Object, content: &BTreeMap<GroupResource, Vec<Arc<Object>>>, context: &Context<'_>) -> Plan {
    let mut plan = Plan::nothing();
    let value = namespace.value();
    let ours = value["spec"]["finalizers"].as_array().is_some_and(|finalizers| finalizers.iter().any(|name| name == "kubernetes"));
    if content.is_empty() {
        if ours || value["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty) {
            let mut after = Value::clone(&value);
            let left: Vec<Value> =
                value["spec"]["finalizers"].as_array().into_iter().flatten().filter(|name| *name != "kubernetes").cloned().collect();
            after["spec"]["finalizers"] = Value::Array(left);
            plan.actions.push(Action::Finalize { name: namespace.name.clone(), object: after });
        }
        return plan;
    }
    // everything else waits until the pods that may use it are gone (`Spec:` KEP-5080, ordered namespace deletion)
    let pods = content.get(&PODS).map(|pods| BTreeMap::from([(PODS, pods.clone())]));
    let content = pods.as_ref().unwrap_or(content);
    for object in content.values().flatten().filter(|object| object.deletion_timestamp.is_none()) {
        plan.actions.push(Action::delete(object));
    }
    let status = status(namespace, content, context);
    plan.status = StatusWrite::if_changed(namespace, &status);
    plan.look_again_in(LOOK_AGAIN);
    plan
}

fn status(namespace: &Object, content: &BTreeMap<GroupResource, Vec<Arc<Object>>>, context: &Context<'_>) -> Value {
    let kinds: Vec<String> =
        content.iter().map(|(of, objects)| format!("{}.{} has {} resource instances", of.resource, of.group, objects.len())).collect();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for name in content.values().flatten().flat_map(|object| &object.finalizers) {
        *finalizers.entry(name).or_default() += 1;
    }
    let held: Vec<String> = finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let found = |yes: bool, reason: [&'static str; 2], message: [String; 2]| {
        let index = usize::from(!yes);
        (if yes { "True" } else { "False" }, reason[index], message[index].clone())
    };
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            found(false, ["", "ResourcesDiscovered"], [String::new(), "All resources successfully discovered".to_owned()]),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            found(false, ["", "ParsedGroupVersions"], [String::new(), "All legacy kube types successfully parsed".to_owned()]),
        ),
        (
            "NamespaceDeletionContentFailure",
            match context.failure {
                Some(failure) => ("True", "ContentDeletionFailed", failure.message.clone()),
                None => ("False", "ContentDeleted", "All content successfully deleted, may be waiting on finalization".to_owned()),
            },
        ),
        (
            "NamespaceContentRemaining",
            found(
                true,
                ["SomeResourcesRemain", "ContentRemoved"],
                [format!("Some resources are remaining: {}", kinds.join(", ")), "All content successfully removed".to_owned()],
            ),
        ),
        (
            "NamespaceFinalizersRemaining",
            found(
                !held.is_empty(),
                ["SomeFinalizersRemain", "ContentHasNoFinalizers"],
                [
                    format!("Some content in the namespace has finalizers remaining: {}", held.join(", ")),
                    "All content-preserving finalizers finished".to_owned(),
                ],
            ),
        ),
    ];
    let mut status = namespace.value()["status"].clone();
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    for (name, (state, reason, message)) in wanted {
        let before = conditions.iter().position(|condition| condition["type"] == name);
        let same = before.is_some_and(|index| {
            conditions[index]["status"] == state && conditions[index]["reason"] == reason && conditions[index]["message"] == message
        });
        if same {
            continue;
        }
        let kept =
            before.filter(|index| conditions[*index]["status"] == state).map(|index| conditions[index]["lastTransitionTime"].clone());
        let condition = json!({
            "type": name, "status": state, "reason": reason, "message": message,
            "lastTransitionTime": kept.unwrap_or_else(|| json!(seconds(context.now))),
        });
        match before {
            Some(index) => conditions[index] = condition,
            None => conditions.push(condition),
        }
    }
    status["phase"] = json!("Terminating");
    status["conditions"] = Value::Array(conditions);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Cluster, DeleteOptions};
    use crate::fake::FakeCluster;

    #[actix::test]
    async fn a_namespace_goes_after_its_content() {
        let cluster = FakeCluster::new();
        let controller = Namespaces::new(cluster.registry());
        let namespace = cluster
            .add(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}, "spec": {"finalizers": ["kubernetes"]}}));
        cluster.add(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}}));
        let pod = cluster.add(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "finalizers": ["example.com/wait"]}, "spec": {},
        }));
        cluster.delete(&namespace.key(), DeleteOptions::default()).await.unwrap();
        let round = || {
            let view = cluster.view();
            let plan = controller.decide(&namespace.key(), &Context { view: &view, now: cluster.now(), failure: None });
            let empty = plan.is_empty();
            cluster.apply(plan).unwrap();
            empty
        };
        let maps = || cluster.list(&crate::resources::CONFIG_MAPS).len();
        assert!(!round());
        while !round() {}
        assert_eq!(maps(), 1, "what a pod may use stays until the pod is gone");
        let status = cluster.get(&NAMESPACES, "", "n").unwrap().value()["status"].clone();
        let message = |kind: &str| {
            let conditions = status["conditions"].as_array().unwrap();
            conditions.iter().find(|condition| condition["type"] == kind).map(|condition| condition["message"].as_str().unwrap())
        };
        assert_eq!(message("NamespaceContentRemaining"), Some("Some resources are remaining: pods. has 1 resource instances"));
        let held = "Some content in the namespace has finalizers remaining: example.com/wait in 1 resource instances";
        assert_eq!(message("NamespaceFinalizersRemaining"), Some(held));
        cluster.change(&pod.key(), |pod| pod["metadata"]["finalizers"] = json!([]));
        assert!(!round());
        assert_eq!(maps(), 0);
        assert!(!round());
        assert!(cluster.get(&NAMESPACES, "", "n").is_none());
    }
}
