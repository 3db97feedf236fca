//! Parts that many descriptions share: heads, labels, annotations, tolerations, conditions, events.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::kubectl::duration;
use crate::kubectl::last_applied;
use crate::kubectl::print::tabs;

/// Longer annotations begin on a line of their own.
const ANNOTATION_MAX: usize = 140;

/// A text, or nothing.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A value as it shows: texts bare, absence as nothing.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A number, 0 if absent.
pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// `Name:` and, if it has one, `Namespace:`.
pub fn head(object: &Value) -> String {
    let mut out = format!("Name:\t{}\n", text(&object["metadata"]["name"]));
    if let Some(namespace) = object["metadata"]["namespace"].as_str() {
        out.push_str(&format!("Namespace:\t{namespace}\n"));
    }
    out
}

/// A map, a line for each member.
pub fn map(title: &str, map: &Value) -> String {
    let members: BTreeMap<&String, &Value> = map.as_object().into_iter().flatten().collect();
    if members.is_empty() {
        return format!("{title}:\t<none>\n");
    }
    let lines: Vec<String> = members.into_iter().map(|(key, value)| format!("{key}={}\n", shown(value))).collect();
    format!("{title}:\t{}", lines.join("\t"))
}

/// Labels of an object.
pub fn labels(object: &Value) -> String {
    map("Labels", &object["metadata"]["labels"])
}

/// Annotations, without those of kubectl itself.
pub fn annotations(title: &str, annotations: &Value) -> String {
    let mut out = format!("{title}:\t");
    let members: BTreeMap<&String, &Value> =
        annotations.as_object().into_iter().flatten().filter(|(key, _)| key.as_str() != last_applied::ANNOTATION).collect();
    if members.is_empty() {
        out.push_str("<none>\n");
        return out;
    }
    for (at, (key, value)) in members.into_iter().enumerate() {
        if at > 0 {
            out.push('\t');
        }
        let value = text(value).strip_suffix('\n').unwrap_or(text(value));
        if value.len() + key.len() + 2 > ANNOTATION_MAX || value.contains('\n') {
            out.push_str(&format!("{key}:\n"));
            for line in value.split('\n') {
                let cut: String = line.chars().take(ANNOTATION_MAX - 2).collect();
                let more = if cut.len() < line.len() { "..." } else { "" };
                out.push_str(&format!("\t  {cut}{more}\n"));
            }
        } else {
            out.push_str(&format!("{key}: {value}\n"));
        }
    }
    out
}

/// `Controlled By:`, if somebody does.
pub fn controller(object: &Value) -> String {
    let owners = object["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    owners
        .iter()
        .find(|owner| owner["controller"] == true)
        .map(|owner| format!("Controlled By:\t{}/{}\n", text(&owner["kind"]), text(&owner["name"])))
        .unwrap_or_default()
}

/// Tolerations, a line each.
pub fn tolerations(title: &str, list: &Value) -> String {
    let mut list: Vec<&Value> = list.as_array().into_iter().flatten().collect();
    if list.is_empty() {
        return format!("{title}:\t<none>\n");
    }
    list.sort_by_key(|toleration| text(&toleration["key"]).to_owned());
    let mut out = format!("{title}:\t");
    for (at, toleration) in list.into_iter().enumerate() {
        if at > 0 {
            out.push('\t');
        }
        let part = |field: &str| text(&toleration[field]).to_owned();
        let (key, value, effect) = (part("key"), part("value"), part("effect"));
        out.push_str(&key);
        if !value.is_empty() {
            out.push_str(&format!("={value}"));
        }
        if !effect.is_empty() {
            out.push_str(&format!(":{effect}"));
        }
        if part("operator") == "Exists" && value.is_empty() {
            out.push_str(if key.is_empty() && effect.is_empty() { "op=Exists" } else { " op=Exists" });
        }
        if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
            out.push_str(&format!(" for {seconds}s"));
        }
        out.push('\n');
    }
    out
}

/// Conditions of a workload: type, status, reason.
pub fn conditions(object: &Value) -> String {
    let list = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return String::new();
    }
    let mut out = "Conditions:\n  Type\tStatus\tReason\n  ----\t------\t------\n".to_owned();
    for condition in list {
        out.push_str(&format!("  {} \t{}\t{}\n", text(&condition["type"]), text(&condition["status"]), text(&condition["reason"])));
    }
    out
}

/// A time as descriptions show it.
pub fn time(value: &Value) -> String {
    // Go's zero time
    value.as_str().map_or_else(|| "Mon, 01 Jan 0001 00:00:00 +0000".to_owned(), duration::rfc1123)
}

/// The events about an object, aligned on their own.
pub fn events(list: &Value, now: Timestamp) -> String {
    let mut events: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
    let latest = |event: &Value| {
        [&event["series"]["lastObservedTime"], &event["lastTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]]
            .iter()
            .find_map(|time| time.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    events.sort_by_key(|event| latest(event));
    let mut out = "Events:\n  Type\tReason\tAge\tFrom\tMessage\n  ----\t------\t----\t----\t-------\n".to_owned();
    for event in events {
        let first = if event["eventTime"].is_string() { &event["eventTime"] } else { &event["firstTimestamp"] };
        let first = duration::age(first, now);
        let interval = if event["series"].is_object() {
            format!("{} (x{} over {first})", duration::age(&event["series"]["lastObservedTime"], now), number(&event["series"]["count"]))
        } else if number(&event["count"]) > 1 {
            format!("{} (x{} over {first})", duration::age(&event["lastTimestamp"], now), number(&event["count"]))
        } else {
            first
        };
        let source =
            event["source"]["component"].as_str().filter(|source| !source.is_empty()).unwrap_or(text(&event["reportingComponent"]));
        let mut message = text(&event["message"]).trim().to_owned();
        if let Some(path) = event["involvedObject"]["fieldPath"].as_str() {
            message = format!("{path}: {message}");
        }
        out.push_str(&format!("  {}\t{}\t{interval}\t{source}\t{message}\n", text(&event["type"]), text(&event["reason"])));
    }
    tabs::describe(&out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn maps_and_annotations_are_lines() {
        assert_eq!(map("Labels", &json!({"b": "2", "a": "1"})), "Labels:\ta=1\n\tb=2\n");
        assert_eq!(map("Labels", &Value::Null), "Labels:\t<none>\n");
        let long = "x".repeat(200);
        let text = annotations("Annotations", &json!({"a": "1", "long": long, last_applied::ANNOTATION: "{}"}));
        assert_eq!(text, format!("Annotations:\ta: 1\n\tlong:\n\t  {}...\n", "x".repeat(138)));
    }

    #[test]
    fn tolerations_read_as_kubectl_writes_them() {
        let list = json!([{"operator": "Exists"}, {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}, {"key": "b", "value": "c", "effect": "NoSchedule"}]);
        assert_eq!(tolerations("Tolerations", &list), "Tolerations:\top=Exists\n\ta:NoExecute op=Exists for 300s\n\tb=c:NoSchedule\n");
    }

    #[test]
    fn events_show_how_often_and_since_when() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().expect("a time");
        let list = json!({"items": [
            {"type": "Warning", "reason": "BackOff", "count": 3, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:09:00Z",
             "source": {"component": "kubelet"}, "message": "again\n", "involvedObject": {"fieldPath": "spec.containers{a}"}},
            {"type": "Normal", "reason": "Scheduled", "eventTime": "2026-01-01T00:05:00.000000Z", "reportingComponent": "scheduler", "message": "m"}]});
        let text = events(&list, now);
        assert_eq!(
            text.lines().skip(3).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>(),
            ["Normal Scheduled 5m scheduler m", "Warning BackOff 60s (x3 over 10m) kubelet spec.containers{a}: again"]
        );
    }
}
