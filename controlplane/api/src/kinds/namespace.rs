//! Namespace.

use serde_json::{Value, json};

use super::age;
use super::json::{inner, made, set, word};
use crate::problem::{Path, Problems};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, NameRule, RequestFacts, Rules, copy_field, keep_all_but_status, keep_status};

/// Namespace's decisions.
pub const RULES: Rules = Rules {
    default,
    prepare_create,
    prepare_update,
    prepare_status: keep_all_but_status,
    validate,
    validate_status,
    columns: &[NAME_COLUMN, Column::new("Status", "string", "The status of the namespace"), AGE_COLUMN],
    cells: |object, now| {
        vec![super::text(object, &["metadata", "name"]).into(), word(&object["status"], "phase").into(), age::age(object, now).into()]
    },
    own_fields: true,
    field: |object, name| (name == "status.phase").then(|| word(&object["status"], "phase").to_owned()),
    name: NameRule::DnsLabel,
    ..Rules::PLAIN
};

fn default(namespace: &mut Value) {
    let name = super::text(namespace, &["metadata", "name"]).to_owned();
    if !name.is_empty() {
        set(made(made(namespace, "metadata"), "labels"), "kubernetes.io/metadata.name", name);
    }
    if let Some(status) = inner(namespace, "status") {
        super::json::fill(status, "phase", "Active");
    }
}

fn prepare_create(namespace: &mut Value, _: &RequestFacts) {
    set(namespace, "status", json!({"phase": "Active"}));
    let spec = made(namespace, "spec");
    match spec.get_mut("finalizers").and_then(Value::as_array_mut) {
        Some(finalizers) if finalizers.iter().any(|f| f == "kubernetes") => {}
        Some(finalizers) => finalizers.push(Value::from("kubernetes")),
        None => set(spec, "finalizers", json!(["kubernetes"])),
    }
}

fn prepare_update(new: &mut Value, old: &Value, facts: &RequestFacts) {
    keep_status(new, old, facts);
    let spec = made(new, "spec");
    copy_field(spec, &old["spec"], "finalizers");
}

/// What the `finalize` subresource takes from a new object: the finalizers of its spec.
pub fn take_finalizers(new: &mut Value, old: &Value) {
    let finalizers = new["spec"].get("finalizers").cloned();
    *new = old.clone();
    set(made(new, "spec"), "finalizers", finalizers.unwrap_or_else(|| json!([])));
}

fn validate(namespace: &Value, problems: &mut Problems) {
    let path = Path::new("spec").child("finalizers");
    for (index, finalizer) in super::json::items(&namespace["spec"], "finalizers").enumerate() {
        let (text, at) = (finalizer.as_str().unwrap_or_default(), path.index(index));
        problems.all_invalid(&at, text, crate::names::qualified_name(text));
        if !text.contains('/') && text != "kubernetes" {
            problems.invalid(&at, text, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

fn validate_status(new: &Value, _: &Value, problems: &mut Problems) {
    let (phase, path) = (word(&new["status"], "phase"), Path::new("status").child("Phase"));
    if super::json::has(&new["metadata"], "deletionTimestamp") {
        if phase != "Terminating" {
            problems.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
        }
    } else if phase != "Active" {
        problems.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
    }
}
