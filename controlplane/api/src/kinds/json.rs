//! Small ways to read and fill JSON, in the terms that kinds' rules speak of.

use serde_json::{Map, Value};

/// Sets `object[key]` unless something is there; null and empty text count as nothing.
pub(super) fn fill(object: &mut Value, key: &str, value: impl Into<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    let absent = match map.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if absent {
        map.insert(key.to_owned(), value.into());
    }
}

/// [`fill`] where 0 counts as nothing, too.
pub(super) fn fill_number(object: &mut Value, key: &str, value: i64) {
    if object.get(key).is_none_or(|found| found.is_null() || found.as_i64() == Some(0)) {
        set(object, key, value);
    }
}

/// Sets `object[key]`.
pub(super) fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value.into());
    }
}

/// Removes `object[key]`.
pub(super) fn unset(object: &mut Value, key: &str) -> Option<Value> {
    object.as_object_mut().and_then(|map| map.remove(key))
}

/// The object at `object[key]`, if there is one.
pub(super) fn inner<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    object.get_mut(key).filter(|value| value.is_object())
}

/// The object at `object[key]`, made if there is none.
pub(super) fn made<'a>(object: &'a mut Value, key: &str) -> &'a mut Value {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let slot = &mut object[key];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot
}

/// The items of the list at `object[key]`.
pub(super) fn items<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// The items of the list at `object[key]`, to be changed.
pub(super) fn items_mut<'a>(object: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The members of the object at `object[key]`.
pub(super) fn members<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    object.get(key).and_then(Value::as_object).into_iter().flatten()
}

/// The text at `object[key]`, empty if there is none.
pub(super) fn word<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at `object[key]`, 0 if there is none.
pub(super) fn number(object: &Value, key: &str) -> i64 {
    object.get(key).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether `object[key]` is true.
pub(super) fn flag(object: &Value, key: &str) -> bool {
    object.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// Whether `object[key]` is there and not null.
pub(super) fn has(object: &Value, key: &str) -> bool {
    object.get(key).is_some_and(|value| !value.is_null())
}

/// How many items or members `object[key]` has.
pub(super) fn count(object: &Value, key: &str) -> usize {
    match object.get(key) {
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    }
}

/// `text`, or `none` when it is empty.
pub(super) fn or<'a>(text: &'a str, none: &'a str) -> &'a str {
    if text.is_empty() { none } else { text }
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn label_text(labels: &Value) -> String {
    let text = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",");
    or(&text, "<none>").to_owned()
}

/// A `LabelSelector` as tables show it.
pub(super) fn selector_text(selector: &Value) -> String {
    match crate::selector::LabelSelector::from_json(selector) {
        Ok(selector) => or(&selector.to_string(), "<none>").to_owned(),
        Err(_) => "<error>".to_owned(),
    }
}

/// The cells "containers" and "images" of a pod template's spec.
pub(super) fn container_cells(spec: &Value) -> [Value; 2] {
    ["name", "image"].map(|key| Value::from(items(spec, "containers").map(|c| word(c, key)).collect::<Vec<_>>().join(",")))
}
