//! ReplicationController, ReplicaSet and Deployment: what makes pods from a template.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::json::{container_cells, fill, has, inner, label_text, made, number, selector_text, word};
use super::{age, pod_spec, pod_validate};
use crate::problem::{Path, Problems};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, Rules, count_generation, first_generation};
use crate::selector::LabelSelector;

const REPLICA_COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column::new("Desired", "integer", "How many pods are wanted."),
    Column::new("Current", "integer", "How many pods there are."),
    Column::new("Ready", "integer", "How many of them are ready."),
    AGE_COLUMN,
    Column::wide("Containers", "string", "Names of the containers in the template."),
    Column::wide("Images", "string", "Images in the template."),
    Column::wide("Selector", "string", "Which pods are counted."),
];

/// ReplicaSet's decisions.
pub const REPLICA_SET: Rules = Rules {
    default: |object| {
        let spec = made(object, "spec");
        fill(spec, "replicas", 1);
        default_template(spec);
    },
    prepare_create: first_generation,
    prepare_update: count_generation,
    validate: |object, problems| validate(object, problems),
    validate_update: selector_is_immutable,
    columns: REPLICA_COLUMNS,
    cells: replica_cells,
    field: |object, name| (name == "status.replicas").then(|| number(&object["status"], "replicas").to_string()),
    has_generation: true,
    ..Rules::PLAIN
};

/// ReplicationController's decisions.
pub const REPLICATION_CONTROLLER: Rules = Rules {
    default: |object| {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        if labels.as_object().is_some_and(|map| !map.is_empty()) {
            let spec = made(object, "spec");
            if spec.get("selector").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
                spec["selector"] = labels.clone();
            }
            let metadata = made(object, "metadata");
            if metadata.get("labels").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty) {
                metadata["labels"] = labels;
            }
        }
        let spec = made(object, "spec");
        fill(spec, "replicas", 1);
        default_template(spec);
    },
    validate: validate_controller,
    validate_update: |_, _, _| {},
    ..REPLICA_SET
};

/// Deployment's decisions.
pub const DEPLOYMENT: Rules = Rules {
    default: default_deployment,
    validate: validate_deployment,
    columns: &[
        NAME_COLUMN,
        Column::new("Ready", "string", "How many of the wanted pods are ready."),
        Column::new("Up-to-date", "string", "How many pods have the newest template."),
        Column::new("Available", "string", "How many pods have been ready long enough."),
        AGE_COLUMN,
        Column::wide("Containers", "string", "Names of the containers in the template."),
        Column::wide("Images", "string", "Images in the template."),
        Column::wide("Selector", "string", "Which pods are counted."),
    ],
    cells: deployment_cells,
    field: |_, _| None,
    ..REPLICA_SET
};

fn default_template(spec: &mut Value) {
    if let Some(template) = inner(spec, "template") {
        pod_spec::default_template(template);
    }
}

fn default_deployment(object: &mut Value) {
    let spec = made(object, "spec");
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
    let strategy = made(spec, "strategy");
    fill(strategy, "type", "RollingUpdate");
    if word(strategy, "type") == "RollingUpdate" {
        let rolling = made(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", "25%");
        fill(rolling, "maxSurge", "25%");
    }
    default_template(spec);
}

fn replica_cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = container_cells(&spec["template"]["spec"]);
    let selector = if object["kind"] == "ReplicationController" { label_text(&spec["selector"]) } else { selector_text(&spec["selector"]) };
    vec![
        super::text(object, &["metadata", "name"]).into(),
        number(spec, "replicas").into(),
        number(status, "replicas").into(),
        number(status, "readyReplicas").into(),
        age::age(object, now).into(),
        containers,
        images,
        selector.into(),
    ]
}

fn deployment_cells(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let [containers, images] = container_cells(&spec["template"]["spec"]);
    vec![
        super::text(object, &["metadata", "name"]).into(),
        format!("{}/{}", number(status, "readyReplicas"), number(spec, "replicas")).into(),
        number(status, "updatedReplicas").into(),
        number(status, "availableReplicas").into(),
        age::age(object, now).into(),
        containers,
        images,
        selector_text(&spec["selector"]).into(),
    ]
}

fn not_negative(spec: &Value, path: &Path, name: &str, problems: &mut Problems) {
    if has(spec, name) && number(spec, name) < 0 {
        problems.invalid(&path.child(name), number(spec, name), "must be greater than or equal to 0");
    }
}

/// What ReplicaSet and Deployment have in common.
fn validate(object: &Value, problems: &mut Problems) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    not_negative(spec, &path, "replicas", problems);
    not_negative(spec, &path, "minReadySeconds", problems);
    let template = &spec["template"];
    if !has(spec, "selector") {
        problems.required(&path.child("selector"), "");
    } else {
        match LabelSelector::from_json(&spec["selector"]) {
            Ok(selector) if selector.matches_json(&json!({})) && selector.to_string().is_empty() => {
                problems.invalid(&path.child("selector"), spec["selector"].clone(), "empty selector is invalid for deployment");
            }
            Ok(selector) => {
                if !selector.matches_json(&template["metadata"]["labels"]) {
                    let labels = template["metadata"].get("labels").cloned().unwrap_or_else(|| json!({}));
                    problems.invalid(
                        &path.child("template").child("metadata").child("labels"),
                        labels,
                        "`selector` does not match template `labels`",
                    );
                }
            }
            Err(error) => problems.invalid(&path.child("selector"), spec["selector"].clone(), error.to_string()),
        }
    }
    validate_template(template, &path.child("template"), problems);
}

fn validate_template(template: &Value, path: &Path, problems: &mut Problems) {
    if !template.is_object() {
        problems.required(path, "");
        return;
    }
    let spec = path.child("spec");
    pod_validate::spec(&template["spec"], &spec, problems);
    let policy = word(&template["spec"], "restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        problems.not_supported(&spec.child("restartPolicy"), policy, &["Always"]);
    }
    if has(&template["spec"], "activeDeadlineSeconds") {
        problems.forbidden(&spec.child("activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

fn validate_controller(object: &Value, problems: &mut Problems) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    not_negative(spec, &path, "replicas", problems);
    not_negative(spec, &path, "minReadySeconds", problems);
    let labels = &spec["template"]["metadata"]["labels"];
    match spec.get("selector").and_then(Value::as_object).filter(|selector| !selector.is_empty()) {
        None => problems.required(&path.child("selector"), ""),
        Some(selector) => {
            if selector.iter().any(|(key, value)| labels.get(key) != Some(value)) {
                problems.invalid(
                    &path.child("template").child("metadata").child("labels"),
                    labels.clone(),
                    "`selector` does not match template `labels`",
                );
            }
        }
    }
    validate_template(&spec["template"], &path.child("template"), problems);
}

fn validate_deployment(object: &Value, problems: &mut Problems) {
    validate(object, problems);
    let (spec, path) = (&object["spec"], Path::new("spec"));
    not_negative(spec, &path, "revisionHistoryLimit", problems);
    let strategy = path.child("strategy");
    match word(&spec["strategy"], "type") {
        "Recreate" => {
            if has(&spec["strategy"], "rollingUpdate") {
                problems.forbidden(&strategy.child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            let rolling = &spec["strategy"]["rollingUpdate"];
            let is_zero = |name: &str| match &rolling[name] {
                Value::String(text) => text.trim_end_matches('%').parse() == Ok(0),
                value => value.as_i64() == Some(0),
            };
            if is_zero("maxUnavailable") && is_zero("maxSurge") {
                problems.invalid(
                    &strategy.child("rollingUpdate").child("maxUnavailable"),
                    rolling["maxUnavailable"].clone(),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
        }
        other => problems.not_supported(&strategy.child("type"), other, &["Recreate", "RollingUpdate"]),
    }
    if has(spec, "progressDeadlineSeconds") && number(spec, "progressDeadlineSeconds") <= number(spec, "minReadySeconds") {
        problems.invalid(
            &path.child("progressDeadlineSeconds"),
            number(spec, "progressDeadlineSeconds"),
            "must be greater than minReadySeconds",
        );
    }
}

fn selector_is_immutable(new: &Value, old: &Value, problems: &mut Problems) {
    if new["spec"].get("selector") != old["spec"].get("selector") {
        problems.invalid(&Path::new("spec").child("selector"), new["spec"]["selector"].clone(), "field is immutable");
    }
}
