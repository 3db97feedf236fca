//! Event, in both groups: stored as core/v1, served as events.k8s.io/v1 by renaming fields.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use super::json::{has, number, or, set, unset, word};
use crate::kind::Kind;
use crate::names;
use crate::problem::{Path, Problems};
use crate::rules::{Column, Rules, as_given, as_given_update};

const COLUMNS: &[Column] = &[
    Column::new("Last Seen", "string", "When the event was last seen."),
    Column::new("Type", "string", "Normal or Warning."),
    Column::new("Reason", "string", "Why it happened, in a word."),
    Column::new("Object", "string", "What it is about."),
    Column::wide("Subobject", "string", "Which part of it."),
    Column::wide("Source", "string", "Who reported it."),
    Column::new("Message", "string", "What happened."),
    Column::wide("First Seen", "string", "When it was first seen."),
    Column::wide("Count", "string", "How often."),
    Column { name: "Name", kind: "string", format: "name", priority: 1, description: "Name of the event." },
];

/// Event's decisions in core/v1.
pub const RULES: Rules = Rules {
    prepare_create: as_given,
    prepare_update: as_given_update,
    validate,
    columns: COLUMNS,
    cells,
    field,
    own_fields: true,
    create_on_update: true,
    volatile: |_, _| true,
    ..Rules::PLAIN
};

/// Event's decisions in events.k8s.io/v1.
pub const EVENTS_RULES: Rules = Rules {
    validate: validate_events,
    validate_create: validate_new_event,
    validate_update: validate_events_update,
    cells: |event, now| {
        let mut core = event.clone();
        to_core(&mut core);
        cells(&core, now)
    },
    field: |event, name| match name.strip_prefix("regarding.") {
        Some(part) => known_part(part).then(|| word(&event["regarding"], part).to_owned()),
        None => matches!(name, "reason" | "type" | "reportingController").then(|| word(event, name).to_owned()),
    },
    ..RULES
};

/// Names that differ: events.k8s.io/v1, core/v1.
const RENAMED: [(&str, &str); 6] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Makes an Event of one group an Event of the other.
pub fn convert(to: &Kind, event: &mut Value) {
    if to.group.is_empty() { to_core(event) } else { to_events(event) }
}

/// Makes an events.k8s.io/v1 Event a core/v1 one.
pub fn to_core(event: &mut Value) {
    for (events, core) in RENAMED {
        if let Some(value) = unset(event, events) {
            set(event, core, value);
        }
    }
    if let Some(controller) = unset(event, "reportingController") {
        set(event, "reportingComponent", controller);
    }
    set(event, "apiVersion", "v1");
    // core/v1 writes these even when they are empty
    for (key, empty) in [("involvedObject", json!({})), ("source", json!({})), ("eventTime", Value::Null)] {
        if event.get(key).is_none() {
            set(event, key, empty);
        }
    }
    for key in ["firstTimestamp", "lastTimestamp"] {
        if event.get(key).is_none() {
            set(event, key, Value::Null);
        }
    }
    for key in ["reportingComponent", "reportingInstance"] {
        if event.get(key).is_none() {
            set(event, key, "");
        }
    }
}

/// Makes a core/v1 Event an events.k8s.io/v1 one.
pub fn to_events(event: &mut Value) {
    for (events, core) in RENAMED {
        if let Some(value) = unset(event, core) {
            set(event, events, value);
        }
    }
    if let Some(component) = unset(event, "reportingComponent")
        && component != ""
    {
        set(event, "reportingController", component);
    }
    if word(event, "reportingInstance").is_empty() {
        unset(event, "reportingInstance");
    }
    set(event, "apiVersion", "events.k8s.io/v1");
}

/// Whether Events can be selected by this part of what they are about.
fn known_part(part: &str) -> bool {
    matches!(part, "kind" | "namespace" | "name" | "uid" | "apiVersion" | "resourceVersion" | "fieldPath")
}

fn field(event: &Value, name: &str) -> Option<String> {
    if let Some(part) = name.strip_prefix("involvedObject.") {
        return known_part(part).then(|| word(&event["involvedObject"], part).to_owned());
    }
    match name {
        "reason" | "type" | "reportingComponent" => Some(word(event, name).to_owned()),
        "source" => Some(or(word(&event["source"], "component"), word(event, "reportingComponent")).to_owned()),
        _ => None,
    }
}

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let since = |key: &str| if has(event, key) { Some(age::since(word(event, key), now)) } else { None };
    let first = since("firstTimestamp").or_else(|| since("eventTime")).unwrap_or_else(|| "<unknown>".to_owned());
    let mut last = since("lastTimestamp").unwrap_or_else(|| first.clone());
    let mut count = number(event, "count").max(1);
    if has(event, "series") {
        last = age::since(word(&event["series"], "lastObservedTime"), now);
        count = number(&event["series"], "count");
    }
    let object = &event["involvedObject"];
    let kind = word(object, "kind").to_lowercase();
    let about = if word(object, "name").is_empty() { kind } else { format!("{kind}/{}", word(object, "name")) };
    let component = or(word(&event["source"], "component"), word(event, "reportingComponent"));
    let host = or(word(&event["source"], "host"), word(event, "reportingInstance"));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        last.into(),
        word(event, "type").into(),
        word(event, "reason").into(),
        about.into(),
        word(object, "fieldPath").into(),
        source.into(),
        word(event, "message").trim().into(),
        first.into(),
        count.into(),
        super::text(event, &["metadata", "name"]).into(),
    ]
}

fn validate(event: &Value, problems: &mut Problems) {
    let namespace = super::text(event, &["metadata", "namespace"]);
    let about = word(&event["involvedObject"], "namespace");
    let path = Path::new("involvedObject").child("namespace");
    if about.is_empty() {
        if !matches!(namespace, "" | "default" | "kube-system") {
            problems.invalid(&path, about, "does not match event.namespace");
        }
    } else if about != namespace {
        problems.invalid(&path, about, "does not match event.namespace");
    }
    for message in names::dns_subdomain(namespace) {
        problems.invalid(&Path::new("namespace"), namespace, message);
    }
    if has(event, "eventTime") && !word(event, "eventTime").is_empty() {
        new_style(event, "reportingComponent", "message", problems);
    }
}

fn new_style(event: &Value, controller: &str, note: &str, problems: &mut Problems) {
    if word(event, controller).is_empty() {
        problems.required(&Path::new("reportingController"), "");
    }
    for message in names::qualified_name(word(event, controller)) {
        problems.invalid(&Path::new("reportingController"), word(event, controller), message);
    }
    for (key, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        let text = word(event, key);
        if text.is_empty() {
            problems.required(&Path::new(key), "");
        } else if text.len() > max {
            problems.invalid(&Path::new(key), text, format!("can have at most {max} characters"));
        }
    }
    if word(event, note).len() > 1024 {
        problems.invalid(&Path::new("message"), word(event, note), "can have at most 1024 characters");
    }
    let kind = word(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        problems.invalid(&Path::new("type"), "", format!("has invalid value: {kind}"));
    }
    if has(event, "series") {
        if !has(&event["series"], "count") || number(&event["series"], "count") < 2 {
            problems.invalid(&Path::new("series.count"), "", "should be at least 2");
        }
        if word(&event["series"], "lastObservedTime").is_empty() {
            problems.required(&Path::new("series.lastObservedTime"), "");
        }
    }
}

fn validate_events(event: &Value, problems: &mut Problems) {
    let mut core = event.clone();
    to_core(&mut core);
    validate(&core, problems);
}

/// What only a new Event of the newer group must be: the older fields are for Events that come from the other group.
fn validate_new_event(event: &Value, problems: &mut Problems) {
    if word(event, "eventTime").is_empty() {
        problems.required(&Path::new("eventTime"), "");
        return;
    }
    const UNSET: &str = "needs to be unset";
    for (key, shown) in [("deprecatedFirstTimestamp", "firstTimestamp"), ("deprecatedLastTimestamp", "lastTimestamp")] {
        if has(event, key) {
            problems.invalid(&Path::new(shown), "", UNSET);
        }
    }
    if number(event, "deprecatedCount") != 0 {
        problems.invalid(&Path::new("count"), "", UNSET);
    }
    if event["deprecatedSource"].as_object().is_some_and(|source| !source.is_empty()) {
        problems.invalid(&Path::new("source"), "", UNSET);
    }
}

fn validate_events_update(new: &Value, old: &Value, problems: &mut Problems) {
    for key in ["regarding", "reason", "reportingController", "reportingInstance", "action", "note", "type", "related", "eventTime"] {
        if new.get(key) != old.get(key) {
            problems.invalid(&Path::new(key), new.get(key).cloned().unwrap_or(Value::Null), "field is immutable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_groups_say_the_same() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "d"}, "involvedObject": {"kind": "Pod", "name": "p"},
            "message": "m", "source": {"component": "c"}, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:01:00Z",
            "count": 3, "reportingComponent": "x", "reportingInstance": "y", "eventTime": null, "type": "Normal", "reason": "R",
        });
        let mut event = core.clone();
        to_events(&mut event);
        assert_eq!(event["apiVersion"], "events.k8s.io/v1");
        assert_eq!((&event["regarding"]["name"], &event["note"], &event["deprecatedCount"]), (&json!("p"), &json!("m"), &json!(3)));
        assert_eq!(event["reportingController"], "x");
        to_core(&mut event);
        assert_eq!(event, core);
        let now: Timestamp = "2026-01-01T00:02:00Z".parse().unwrap();
        assert_eq!(
            cells(&core, now),
            [
                json!("60s"),
                json!("Normal"),
                json!("R"),
                json!("pod/p"),
                json!(""),
                json!("c, y"),
                json!("m"),
                json!("2m"),
                json!(3),
                json!("e")
            ]
        );
    }
}
