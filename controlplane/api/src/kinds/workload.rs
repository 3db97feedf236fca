//! ReplicationController, ReplicaSet and Deployment: what makes pods from a template.

use jiff::Timestamp;
use serde_json::Value;

use super::json::{container_cells, fill, has, inner, label_text, made, number, selector_text, word};
use super::{age, pod_spec, pod_validate, scheduling_validate};
use crate::problem::{Path, Problems};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, Rules, count_generation, first_generation, keep_all_but_status};
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
    validate: validate_replica_set,
    validate_update: selector_is_immutable,
    validate_status: replica_status,
    columns: REPLICA_COLUMNS,
    cells: replica_cells,
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
    field: |object, name| (name == "status.replicas").then(|| number(&object["status"], "replicas").to_string()),
    own_fields: true,
    validate_update: |_, _, _| {},
    ..REPLICA_SET
};

/// Deployment's decisions.
pub const DEPLOYMENT: Rules = Rules {
    default: default_deployment,
    validate: validate_deployment,
    prepare_status: |new, old, facts| {
        keep_all_but_status(new, old, facts);
        // labels are not the controller's
        crate::rules::copy_field(&mut new["metadata"], &old["metadata"], "labels");
    },
    validate_status: deployment_status,
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
    ..REPLICA_SET
};

/// PodTemplate's decisions.
pub const POD_TEMPLATE: Rules = Rules {
    default: default_template,
    prepare_create: |object, facts| first_generation(object, facts),
    prepare_update: |new, old, _| crate::rules::bump_generation(new, old, new.get("template") != old.get("template")),
    validate: |object, problems| template_alone(&object["template"], &Path::new("template"), problems),
    columns: &[
        NAME_COLUMN,
        Column::new("Containers", "string", "Names of the containers in the template."),
        Column::new("Images", "string", "Images in the template."),
        Column::new("Pod Labels", "string", "Labels that pods of the template get."),
    ],
    cells: |object, _| {
        let [containers, images] = container_cells(&object["template"]["spec"]);
        let labels = label_text(&object["template"]["metadata"]["labels"]);
        vec![super::text(object, &["metadata", "name"]).into(), containers, images, labels.into()]
    },
    has_generation: true,
    ..Rules::PLAIN
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

fn not_negative(object: &Value, path: &Path, name: &str, problems: &mut Problems) {
    if has(object, name) && number(object, name) < 0 {
        problems.invalid(&path.child(name), number(object, name), "must be greater than or equal to 0");
    }
}

/// Problems of a `selector`, and whether it fits the template.
fn selector(spec: &Value, path: &Path, problems: &mut Problems) {
    let at = path.child("selector");
    if !has(spec, "selector") {
        problems.required(&at, "");
    } else {
        scheduling_validate::label_selector(&spec["selector"], &at, problems);
        if spec["selector"].as_object().is_some_and(|map| map.values().all(is_empty)) {
            problems.invalid(&at, spec["selector"].clone(), EMPTY_SELECTOR);
        }
    }
}

const EMPTY_SELECTOR: &str = "empty selector is invalid for deployment";
const OTHER_LABELS: &str = "`selector` does not match template `labels`";

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The template: its labels fit the selector, its pods run for ever.
fn template(spec: &Value, path: &Path, problems: &mut Problems) {
    let (template, at) = (&spec["template"], path.child("template"));
    let labels = &template["metadata"]["labels"];
    match LabelSelector::from_json(&spec["selector"]) {
        Ok(selector) => {
            let nothing = has(spec, "selector") && selector.to_string().is_empty();
            if !nothing && (!has(spec, "selector") || !selector.matches_json(labels)) {
                problems.invalid(&at.child("metadata").child("labels"), labels.clone(), OTHER_LABELS);
            }
        }
        Err(_) => {
            problems.invalid(&path.child("selector"), spec["selector"].clone(), "invalid label selector");
            return;
        }
    }
    template_for_ever(template, &at, problems);
}

fn template_alone(template: &Value, path: &Path, problems: &mut Problems) {
    scheduling_validate::labels(&template["metadata"], "labels", &path.child("labels"), problems);
    for (key, _) in super::json::members(&template["metadata"], "annotations") {
        problems.all_invalid(&path.child("annotations"), key.as_str(), crate::names::qualified_name(&key.to_lowercase()));
    }
    let spec = path.child("spec");
    pod_validate::spec(&template["spec"], &spec, false, problems);
    if super::json::count(&template["spec"], "ephemeralContainers") > 0 {
        problems.forbidden(&spec.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// What runs for ever says nothing else.
fn template_for_ever(template: &Value, path: &Path, problems: &mut Problems) {
    template_alone(template, path, problems);
    let spec = path.child("spec");
    let policy = word(&template["spec"], "restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        problems.not_supported(&spec.child("restartPolicy"), policy, &["Always"]);
    }
    if has(&template["spec"], "activeDeadlineSeconds") {
        problems.forbidden(&spec.child("activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

fn validate_replica_set(object: &Value, problems: &mut Problems) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    not_negative(spec, &path, "replicas", problems);
    not_negative(spec, &path, "minReadySeconds", problems);
    selector(spec, &path, problems);
    template(spec, &path, problems);
}

fn validate_controller(object: &Value, problems: &mut Problems) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    let labels = &spec["template"]["metadata"]["labels"];
    let selector = spec.get("selector").and_then(Value::as_object).filter(|selector| !selector.is_empty());
    if selector.is_none() {
        problems.required(&path.child("selector"), "");
    }
    if !spec["template"].is_object() {
        problems.required(&path.child("template"), "");
    } else {
        if selector.is_some_and(|selector| selector.iter().any(|(key, value)| labels.get(key) != Some(value))) {
            problems.invalid(&path.child("template").child("metadata").child("labels"), labels.clone(), OTHER_LABELS);
        }
        template_for_ever(&spec["template"], &path.child("template"), problems);
    }
    not_negative(spec, &path, "replicas", problems);
    not_negative(spec, &path, "minReadySeconds", problems);
}

fn validate_deployment(object: &Value, problems: &mut Problems) {
    let (spec, path) = (&object["spec"], Path::new("spec"));
    not_negative(spec, &path, "replicas", problems);
    selector(spec, &path, problems);
    template(spec, &path, problems);
    strategy(&spec["strategy"], &path.child("strategy"), problems);
    not_negative(spec, &path, "minReadySeconds", problems);
    not_negative(spec, &path, "revisionHistoryLimit", problems);
    not_negative(spec, &path, "progressDeadlineSeconds", problems);
    if has(spec, "progressDeadlineSeconds") && number(spec, "progressDeadlineSeconds") <= number(spec, "minReadySeconds") {
        let seconds = number(spec, "progressDeadlineSeconds");
        problems.invalid(&path.child("progressDeadlineSeconds"), seconds, "must be greater than minReadySeconds");
    }
}

fn strategy(strategy: &Value, path: &Path, problems: &mut Problems) {
    match word(strategy, "type") {
        "Recreate" => {
            if has(strategy, "rollingUpdate") {
                problems.forbidden(&path.child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => rolling(&strategy["rollingUpdate"], &path.child("rollingUpdate"), problems),
        _ => problems.not_supported(path, strategy.clone(), &["Recreate", "RollingUpdate"]),
    }
}

fn rolling(rolling: &Value, path: &Path, problems: &mut Problems) {
    for field in ["maxUnavailable", "maxSurge"] {
        match &rolling[field] {
            Value::String(text) => problems.all_invalid(&path.child(field), text.as_str(), crate::names::percent(text)),
            _ => not_negative(rolling, path, field, problems),
        }
    }
    let share = |field: &str| match &rolling[field] {
        Value::String(text) => text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok()),
        value => value.as_i64(),
    };
    let at = path.child("maxUnavailable");
    if share("maxUnavailable") == Some(0) && share("maxSurge") == Some(0) {
        problems.invalid(&at, rolling["maxUnavailable"].clone(), "may not be 0 when `maxSurge` is 0");
    }
    if rolling["maxUnavailable"].is_string() && share("maxUnavailable").is_some_and(|percent| percent > 100) {
        problems.invalid(&at, rolling["maxUnavailable"].clone(), "must not be greater than 100%");
    }
}

/// Numbers of a new status agree with each other.
fn counts(status: &Value, fields: &[&str], problems: &mut Problems) {
    const MORE: &str = "cannot be greater than status.replicas";
    let path = Path::new("status");
    for field in fields {
        not_negative(status, &path, field, problems);
    }
    let replicas = number(status, "replicas");
    for field in
        ["fullyLabeledReplicas", "updatedReplicas", "readyReplicas", "availableReplicas"].into_iter().filter(|field| fields.contains(field))
    {
        if number(status, field) > replicas {
            problems.invalid(&path.child(field), number(status, field), MORE);
        }
    }
    if number(status, "availableReplicas") > number(status, "readyReplicas") {
        problems.invalid(&path.child("availableReplicas"), number(status, "availableReplicas"), "cannot be greater than readyReplicas");
    }
}

fn replica_status(new: &Value, _: &Value, problems: &mut Problems) {
    counts(
        &new["status"],
        &["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "terminatingReplicas", "observedGeneration"],
        problems,
    );
}

fn deployment_status(new: &Value, _: &Value, problems: &mut Problems) {
    counts(
        &new["status"],
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ],
        problems,
    );
}

fn selector_is_immutable(new: &Value, old: &Value, problems: &mut Problems) {
    if new["spec"].get("selector") != old["spec"].get("selector") {
        problems.invalid(&Path::new("spec").child("selector"), new["spec"]["selector"].clone(), "field is immutable");
    }
}
