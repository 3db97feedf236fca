//! Decides which pods to create, delete, adopt and release, and what the status says.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use trierarch_api::Object;

use super::rank;
use super::snapshot::Replicated;
use crate::action::{Action, Plan, Report, Reports, StatusWrite, controller_reference};
use crate::cluster::DeleteOptions;
use crate::events::seconds;
use crate::perform::{Failure, Step};
use crate::pod_facts::{self, Availability, availability, number};
use crate::resources::PODS;

/// Writes of one plan; more follow in the next.
const BURST: usize = 500;

/// What to do about one owner of replicas.
pub fn plan(replicated: &Replicated, now: Timestamp, failure: Option<&Failure>) -> Plan {
    let owner = &replicated.owner;
    let spec = &owner.value()["spec"];
    let deleting = owner.deletion_timestamp.is_some();
    let mut plan = Plan::nothing();

    let mut active = Vec::new();
    let mut terminating = 0_usize;
    for pod in &replicated.pods {
        let matches = replicated.selector.matches(&pod.labels);
        match pod.controller() {
            Some(_) if matches => {}
            Some(_) => {
                // it keeps running, and no longer counts
                if !deleting && pod_facts::is_active(pod) {
                    plan.actions.push(release(pod, owner));
                }
                continue;
            }
            None if deleting || !pod_facts::is_active(pod) => continue,
            None => plan.actions.push(adopt(pod, owner)),
        }
        if pod_facts::is_active(pod) {
            active.push(Arc::clone(pod));
        } else if pod.deletion_timestamp.is_some() && !pod_facts::is_finished(&pod.value()) {
            terminating += 1;
        }
    }

    let wanted = usize::try_from(spec["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
    if !deleting {
        if active.len() < wanted {
            let missing = (wanted - active.len()).min(BURST);
            plan.actions.extend((0..missing).map(|index| create(replicated, spec, index)));
        } else if active.len() > wanted {
            let surplus = (active.len() - wanted).min(BURST);
            let ordered = rank::in_deletion_order(&active, &replicated.related_on_node, now);
            plan.actions.extend(ordered.into_iter().take(surplus).map(|pod| delete(&pod, owner)));
        }
    }

    let (status, look_again) = status(replicated, &active, terminating, now, failure);
    plan.status = StatusWrite::if_changed(owner, &status);
    if let Some(delay) = look_again {
        plan.look_again_in(delay);
    }
    plan
}

fn create(replicated: &Replicated, spec: &Value, index: usize) -> Action {
    let owner = &replicated.owner;
    let prefix = format!("{}-", owner.name);
    let name = crate::names::derived(&prefix, &[&owner.uid.0, &replicated.revision.to_string(), &index.to_string()]);
    let template = &spec["template"];
    let mut metadata = json!({
        "name": name, "generateName": prefix, "namespace": owner.namespace, "ownerReferences": [controller_reference(owner)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    Action::Create {
        resource: PODS,
        namespace: owner.namespace.clone(),
        reports: Reports {
            success: Some(Report::normal(owner, "SuccessfulCreate", format!("Created pod: {name}"))),
            failure: Some(Report::warning(owner, "FailedCreate", "Error creating: ".to_owned())),
        },
        object: json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}),
    }
}

fn delete(pod: &Object, owner: &Object) -> Action {
    Action::Delete {
        key: pod.key(),
        options: DeleteOptions { uid: Some(pod.uid.0.clone()), ..DeleteOptions::default() },
        reports: Reports {
            success: Some(Report::normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name))),
            failure: Some(Report::warning(owner, "FailedDelete", "Error deleting: ".to_owned())),
        },
    }
}

/// The references of an object, with the owner managing it.
pub(crate) fn adopt(object: &Object, owner: &Object) -> Action {
    let mut references = others(object, owner);
    references.push(controller_reference(owner));
    Action::merge(object, json!({"metadata": {"ownerReferences": references}}))
}

/// The references of an object without the owner.
pub(crate) fn release(object: &Object, owner: &Object) -> Action {
    let references = others(object, owner);
    let references = if references.is_empty() { Value::Null } else { Value::Array(references) };
    Action::merge(object, json!({"metadata": {"ownerReferences": references}}))
}

fn others(object: &Object, owner: &Object) -> Vec<Value> {
    let value = object.value();
    let references = value["metadata"]["ownerReferences"].as_array();
    references.into_iter().flatten().filter(|reference| reference["uid"] != owner.uid.0).cloned().collect()
}

fn status(
    replicated: &Replicated,
    active: &[Arc<Object>],
    terminating: usize,
    now: Timestamp,
    failure: Option<&Failure>,
) -> (Value, Option<Duration>) {
    let value = replicated.owner.value();
    let spec = &value["spec"];
    let min_ready_seconds = number(&spec["minReadySeconds"]);
    let (mut labelled, mut ready, mut available) = (0, 0, 0);
    let mut look_again: Option<Duration> = None;
    for pod in active {
        if pod_facts::has_labels(&pod.labels, &spec["template"]["metadata"]["labels"]) {
            labelled += 1;
        }
        let pod = pod.value();
        if pod_facts::is_ready(&pod) {
            ready += 1;
        }
        match availability(&pod, min_ready_seconds, now) {
            Availability::Available => available += 1,
            Availability::In(left) => look_again = Some(look_again.map_or(left, |before| before.min(left))),
            Availability::NotReady => {}
        }
    }
    let mut status = json!({"replicas": active.len(), "observedGeneration": replicated.owner.generation});
    for (field, count) in [("fullyLabeledReplicas", labelled), ("readyReplicas", ready), ("availableReplicas", available)] {
        if count > 0 {
            status[field] = json!(count);
        }
    }
    if replicated.flavour == super::Flavour::ReplicaSet {
        status["terminatingReplicas"] = json!(terminating);
    }
    let conditions = conditions(&value["status"]["conditions"], now, failure);
    if !conditions.is_empty() {
        status["conditions"] = Value::Array(conditions);
    }
    (status, look_again)
}

fn conditions(before: &Value, now: Timestamp, failure: Option<&Failure>) -> Vec<Value> {
    let before = before.as_array().cloned().unwrap_or_default();
    let is_failure = |condition: &Value| condition["type"] == "ReplicaFailure";
    let reason = match failure {
        Some(Failure { step: Step::Create, .. }) => "FailedCreate",
        Some(Failure { step: Step::Delete, .. }) => "FailedDelete",
        Some(_) => return before,
        None => return before.into_iter().filter(|condition| !is_failure(condition)).collect(),
    };
    if before.iter().any(is_failure) {
        return before;
    }
    let mut after = before;
    after.push(json!({
        "type": "ReplicaFailure", "status": "True", "reason": reason, "lastTransitionTime": seconds(now),
        "message": failure.map(|failure| failure.message.as_str()).unwrap_or_default(),
    }));
    after
}
