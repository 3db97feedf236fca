//! Whether a configuration fits the schema, in upstream's words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Shape, element};
use crate::merge::field_set::Element;
use crate::schema::{Field, ListType, Schema, Type};

/// The problems of a configuration, joined as upstream joins them.
///
/// # Errors
/// Such as `.spec.foo: field not declared in schema`.
pub fn validate(schema: &Schema, config: &Value) -> Result<(), String> {
    let mut found = Vec::new();
    fields(schema, config, String::new(), &mut found);
    match found.as_slice() {
        [] => Ok(()),
        [only] => Err(only.clone()),
        many => {
            Err(std::iter::once("errors:".to_owned()).chain(many.iter().map(|each| format!("  {each}"))).collect::<Vec<_>>().join("\n"))
        }
    }
}

fn report(out: &mut Vec<String>, path: &str, text: &str) {
    out.push(if path.is_empty() { text.to_owned() } else { format!("{path}: {text}") });
}

fn fields(schema: &Schema, value: &Value, path: String, out: &mut Vec<String>) {
    let Some(map) = object(value, &path, out) else { return };
    for (name, value) in map {
        let path = format!("{path}.{name}");
        match schema.field(name) {
            Some(field) => of_type(&field.kind, Some(field), value, path, out),
            None if schema.open => {}
            None => {
                report(out, &path, "field not declared in schema");
                return;
            }
        }
    }
}

fn object<'a>(value: &'a Value, path: &str, out: &mut Vec<String>) -> Option<&'a serde_json::Map<String, Value>> {
    match value {
        Value::Null => None,
        Value::Object(map) => Some(map),
        other => {
            report(out, path, &format!("expected map, got &{{{}}}", go_value(other)));
            None
        }
    }
}

fn of_type(kind: &Type, field: Option<&Field>, value: &Value, path: String, out: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    match kind.base() {
        Type::Any => {}
        Type::Struct(reference) => fields(reference.schema(), value, path, out),
        Type::Map(inner) => {
            let Some(map) = object(value, &path, out) else { return };
            for (name, value) in map {
                of_type(inner, None, value, format!("{path}.{name}"), out);
            }
        }
        Type::List(item) => match value {
            Value::Array(list) => items(item, field, list, &path, out),
            other => report(out, &path, &format!("expected list, got &{{{}}}", go_value(other))),
        },
        Type::Int32 | Type::Int64 | Type::Float64 => {
            if !value.is_number() {
                report(out, &path, &format!("expected numeric (int or float), got {}", go_type(value)));
            }
        }
        Type::Bool => {
            if !value.is_boolean() {
                report(out, &path, &format!("expected boolean, got &{{{}}}", go_value(value)));
            }
        }
        Type::String | Type::Bytes | Type::Duration => {
            if !value.is_string() {
                report(out, &path, &format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(value)));
            }
        }
        _ => {
            if value.is_object() || value.is_array() {
                report(out, &path, &format!("expected any scalar, got &{{{}}}", go_value(value)));
            }
        }
    }
}

fn items(item: &Type, field: Option<&Field>, list: &[Value], path: &str, out: &mut Vec<String>) {
    let shape = field.map_or(Shape::Leaf, |field| match &field.list {
        ListType::Atomic => Shape::Leaf,
        ListType::Set => Shape::Set,
        ListType::Map(keys) => Shape::Items(item, keys),
    });
    let mut seen = BTreeSet::new();
    for (at, value) in list.iter().enumerate() {
        let name = if matches!(shape, Shape::Leaf) {
            Element::Index(i64::try_from(at).unwrap_or(i64::MAX))
        } else {
            match element(shape, value) {
                Ok(name) => name,
                Err(why) => {
                    report(out, path, &format!("element {at}: {why}"));
                    return;
                }
            }
        };
        let shown = name.to_display();
        if !seen.insert(name) {
            report(out, path, &format!("duplicate entries for key {shown}"));
        }
        of_type(item, None, value, format!("{path}{shown}"), out);
    }
}

/// `%v`
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            format!("map[{}]", map.iter().map(|(key, value)| format!("{key}:{}", go_value(value))).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

/// `%#v`
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(list) => format!("[]interface {{}}{{{}}}", list.iter().map(go_syntax).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => format!(
            "map[string]interface {{}}{{{}}}",
            map.iter().map(|(key, value)| format!("{key:?}:{}", go_syntax(value))).collect::<Vec<_>>().join(", ")
        ),
        other => other.to_string(),
    }
}

/// `%T`
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
