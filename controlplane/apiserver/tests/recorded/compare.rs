//! Where two answers differ, in words.

use serde_json::Value;

use super::sequence::{Answer, Step};

/// Every difference between what was recorded and what we answer.
pub(crate) fn differences(step: &Step, recorded: &Answer, ours: &Answer) -> Vec<String> {
    let (mut recorded, mut ours) = (recorded.clone(), ours.clone());
    for pointer in step.leave.keys() {
        if pointer == "warnings" {
            recorded.warnings.clear();
            ours.warnings.clear();
            continue;
        }
        let path: Vec<&str> = pointer.split('/').skip(1).collect();
        remove(&mut recorded.body, &path);
        remove(&mut ours.body, &path);
    }
    // an object in a list says what it is here, too: a stored object is sent as it is
    for (theirs, own) in items(&mut recorded.body).into_iter().zip(items(&mut ours.body)) {
        for field in ["apiVersion", "kind"] {
            if theirs.get(field).is_none()
                && let Some(own) = own.as_object_mut()
            {
                own.remove(field);
            }
        }
    }
    // Go walks maps in any order, and what it complains of follows
    if complaints(&recorded.body) == complaints(&ours.body) && !complaints(&ours.body).is_empty() {
        for body in [&mut recorded.body, &mut ours.body] {
            body["details"]["causes"] = Value::Null;
            body["message"] = Value::Null;
        }
    }
    let mut found = Vec::new();
    let mut check = |what: &str, recorded: &Value, ours: &Value| values(what, recorded, ours, &mut found);
    check("code", &recorded.code.into(), &ours.code.into());
    check("type", &recorded.content_type.into(), &ours.content_type.into());
    check("warnings", &recorded.warnings.into(), &ours.warnings.into());
    check("", &recorded.body, &ours.body);
    found
}

fn items(body: &mut Value) -> Vec<&mut Value> {
    body.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().collect()
}

/// The causes of a refusal, sorted, with the words that stand before them.
fn complaints(body: &Value) -> Vec<String> {
    let Some(causes) = body["details"]["causes"].as_array().filter(|causes| causes.len() > 1) else { return Vec::new() };
    let mut all: Vec<String> = causes.iter().map(Value::to_string).collect();
    all.sort();
    let message = body["message"].as_str().unwrap_or_default();
    all.push(message.split(" is invalid: ").next().unwrap_or_default().to_owned());
    all
}

/// Takes out what a pointer leads to; a body of its own (pointer without segments) becomes null.
fn remove(value: &mut Value, path: &[&str]) {
    match (path, value) {
        ([], value) => *value = Value::Null,
        (["*", rest @ ..], Value::Array(items)) => {
            for item in items {
                remove(item, rest);
            }
        }
        (["*", rest @ ..], Value::Object(map)) => {
            for item in map.values_mut() {
                remove(item, rest);
            }
        }
        ([last], Value::Object(map)) => {
            map.remove(&last.replace("~1", "/"));
        }
        ([first, rest @ ..], Value::Object(map)) => {
            if let Some(inner) = map.get_mut(&first.replace("~1", "/")) {
                remove(inner, rest);
            }
        }
        ([first, rest @ ..], Value::Array(items)) => {
            if let Some(inner) = first.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
                remove(inner, rest);
            }
        }
        _ => {}
    }
}

fn values(path: &str, recorded: &Value, ours: &Value, found: &mut Vec<String>) {
    match (recorded, ours) {
        (Value::Object(recorded), Value::Object(ours)) => {
            for (key, value) in recorded {
                match ours.get(key) {
                    Some(other) => values(&format!("{path}/{key}"), value, other, found),
                    None => found.push(format!("{path}/{key}: missing, recorded {value}")),
                }
            }
            for (key, value) in ours.iter().filter(|(key, _)| !recorded.contains_key(*key)) {
                found.push(format!("{path}/{key}: not recorded, ours {value}"));
            }
        }
        (Value::Array(recorded), Value::Array(ours)) if recorded.len() == ours.len() => {
            for (index, (recorded, ours)) in recorded.iter().zip(ours).enumerate() {
                values(&format!("{path}/{index}"), recorded, ours, found);
            }
        }
        (recorded, ours) if recorded == ours => {}
        (recorded, ours) => found.push(format!("{path}:\n      recorded {recorded}\n      ours     {ours}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_difference_is_named() {
        let mut found = Vec::new();
        values("", &json!({"a": 1, "b": [1, 2], "c": 3}), &json!({"a": 2, "b": [1, 3], "d": 4}), &mut found);
        assert_eq!(found.len(), 4, "{found:?}");
        let mut same = Vec::new();
        values("", &json!({"a": [{}]}), &json!({"a": [{}]}), &mut same);
        assert!(same.is_empty());
    }
}
