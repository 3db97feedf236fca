//! ConfigMap.

use serde_json::Value;

use super::age;
use super::json::{count, members};
use crate::names;
use crate::problem::{Path, Problems};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, Rules, as_given, as_given_update};

/// The bytes that a ConfigMap or Secret may hold.
pub(super) const SIZE_MAX: usize = 1024 * 1024;

/// ConfigMap's decisions.
pub const RULES: Rules = Rules {
    prepare_create: as_given,
    prepare_update: as_given_update,
    validate,
    validate_update,
    columns: &[NAME_COLUMN, Column::new("Data", "string", "How many entries it holds."), AGE_COLUMN],
    cells: |object, now| {
        vec![
            super::text(object, &["metadata", "name"]).into(),
            (count(object, "data") + count(object, "binaryData")).into(),
            age::age(object, now).into(),
        ]
    },
    ..Rules::PLAIN
};

fn validate(object: &Value, problems: &mut Problems) {
    let mut size = 0;
    for (key, value) in members(object, "data") {
        for message in names::config_key(key) {
            problems.invalid(&Path::new("data").key(key), key.as_str(), message);
        }
        if object.get("binaryData").is_some_and(|data| data.get(key).is_some()) {
            problems.invalid(&Path::new("data").key(key), key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in members(object, "binaryData") {
        for message in names::config_key(key) {
            problems.invalid(&Path::new("binaryData").key(key), key.as_str(), message);
        }
        size += decoded_len(value);
    }
    if size > SIZE_MAX {
        problems.too_long(&Path::root(), SIZE_MAX);
    }
}

/// How many bytes base64 text stands for.
pub(super) fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(2)
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    immutable(new, old, &["data", "binaryData"], problems);
}

/// Once immutable, neither that mark nor the contents change.
pub(super) fn immutable(new: &Value, old: &Value, fields: &[&str], problems: &mut Problems) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    if new.get("immutable") != Some(&Value::Bool(true)) {
        problems.forbidden(&Path::new("immutable"), WHY);
    }
    for field in fields {
        let (left, right) = (new.get(*field), old.get(*field));
        let empty = |value: Option<&Value>| value.is_none_or(|v| v.is_null() || v.as_object().is_some_and(serde_json::Map::is_empty));
        if left != right && !(empty(left) && empty(right)) {
            problems.forbidden(&Path::new(field), WHY);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(object: Value) -> Vec<String> {
        let mut problems = Problems::default();
        validate(&object, &mut problems);
        problems.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keys_and_size_are_checked() {
        assert!(told(json!({"data": {"a.b": "1"}, "binaryData": {"c": "AAAA"}})).is_empty());
        assert_eq!(
            told(json!({"data": {"a b": "1"}})),
            [
                "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  \
              or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            ]
        );
        assert_eq!(told(json!({"data": {"a": "x".repeat(SIZE_MAX + 1)}})), ["<nil>: Too long: may not be more than 1048576 bytes"]);
    }

    #[test]
    fn an_immutable_one_stays_as_it_is() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let mut problems = Problems::default();
        validate_update(&json!({"data": {"a": "2"}}), &old, &mut problems);
        let told: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }
}
