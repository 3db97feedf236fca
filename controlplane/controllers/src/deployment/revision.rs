//! Revisions: which ReplicaSet has the Deployment's template, what a new one looks like, and the annotations they carry.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use trierarch_api::Object;

use super::scale::Wanted;
use super::snapshot::{Rollout, Set};
use crate::action::controller_reference;
use crate::names::safe_encode;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH_LABEL: &str = "pod-template-hash";
/// What belongs to a Deployment alone.
const NOT_COPIED: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED, MAX, "deprecated.deployment.rollback.to"];

/// The index of the ReplicaSet with the Deployment's template: the oldest, should there be several.
pub(super) fn find_new(rollout: &Rollout) -> Option<usize> {
    let deployment = rollout.deployment.value();
    let template = &deployment["spec"]["template"];
    let name = set_name(&rollout.deployment);
    let same = rollout.sets.iter().position(|set| without_hash(&set.value()["spec"]["template"]) == without_hash(template));
    // the name says so too; what the API filled in may differ between the two kinds
    same.or_else(|| rollout.sets.iter().position(|set| set.object.name == name && set.object.controller().is_some()))
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null());
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(HASH_LABEL);
        }
    }
    template
}

/// A short hash of the template, and of how often it has collided.
fn template_hash(deployment: &Object) -> String {
    let value = deployment.value();
    let mut hash = Sha256::new();
    hash.update(value["spec"]["template"].to_string().as_bytes());
    if let Some(collisions) = value["status"]["collisionCount"].as_i64() {
        hash.update(collisions.to_be_bytes());
    }
    let digest = hash.finalize();
    safe_encode(&hex_of(&digest[..5]))
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of the ReplicaSet for the Deployment's template.
pub(super) fn set_name(deployment: &Object) -> String {
    format!("{}-{}", deployment.name, template_hash(deployment))
}

/// The revision that a ReplicaSet carries.
pub(super) fn of(set: &Set) -> i64 {
    set.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A new ReplicaSet of this size for the Deployment's template.
pub(super) fn new_set(deployment: &Object, wanted: Wanted, replicas: i64, revision: i64) -> Value {
    let value = deployment.value();
    let spec = &value["spec"];
    let hash = template_hash(deployment);
    let mut template = spec["template"].clone();
    template["metadata"]["labels"][HASH_LABEL] = json!(hash);
    let mut selector = spec["selector"].clone();
    selector["matchLabels"][HASH_LABEL] = json!(hash);
    let mut annotations = copied(&value["metadata"]["annotations"]);
    annotations.insert(REVISION.to_owned(), json!(revision.to_string()));
    annotations.insert(DESIRED.to_owned(), json!(wanted.replicas.to_string()));
    annotations.insert(MAX.to_owned(), json!(wanted.max_total().to_string()));
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": set_name(deployment), "namespace": deployment.namespace, "labels": template["metadata"]["labels"],
            "annotations": annotations, "ownerReferences": [controller_reference(deployment)],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    });
    if let Some(seconds) = spec.get("minReadySeconds") {
        set["spec"]["minReadySeconds"] = seconds.clone();
    }
    set
}

fn copied(annotations: &Value) -> Map<String, Value> {
    let all = annotations.as_object().cloned().unwrap_or_default();
    all.into_iter().filter(|(name, _)| !NOT_COPIED.contains(&name.as_str())).collect()
}

/// The merge patch that brings the new ReplicaSet's annotations and `minReadySeconds` up to date, if any is due.
pub(super) fn refresh(deployment: &Object, set: &Set, revision: i64) -> Option<Value> {
    let (deployment, value) = (deployment.value(), set.value());
    let before = &value["metadata"]["annotations"];
    let mut changed = copied(&deployment["metadata"]["annotations"]);
    changed.retain(|name, value| before.get(name) != Some(value));
    let own = of(set);
    if own < revision {
        changed.insert(REVISION.to_owned(), json!(revision.to_string()));
        if let Some(own) = before[REVISION].as_str() {
            let history = before[REVISION_HISTORY].as_str().filter(|history| !history.is_empty());
            let history = history.map_or_else(|| own.to_owned(), |history| format!("{history},{own}"));
            changed.insert(REVISION_HISTORY.to_owned(), json!(history));
        }
    }
    let mut patch = json!({});
    if !changed.is_empty() {
        patch["metadata"]["annotations"] = Value::Object(changed);
    }
    let seconds = |object: &Value| object["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    if seconds(&deployment) != seconds(&value) {
        patch["spec"]["minReadySeconds"] = json!(seconds(&deployment));
    }
    patch.as_object().is_some_and(|members| !members.is_empty()).then_some(patch)
}
