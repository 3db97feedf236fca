//! Schemas, from the table of facts.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Form, descriptions};
use crate::kind::Kind;
use crate::schema::{self, Field, ListType, Schema, Type};

/// The schemas of these types, of the rows' kinds and lists, and of whatever they refer to, by their OpenAPI names.
pub(super) fn reachable(rows: &[&Kind], wanted: BTreeSet<String>, form: Form) -> Map<String, Value> {
    let texts = descriptions::all();
    let mut open: Vec<String> = wanted.into_iter().collect();
    for row in rows {
        let name = schema::table_name(row);
        open.push(format!("{name}List"));
        open.push(name);
    }
    let mut done = Map::new();
    for (name, mut definition) in scalars(form) {
        if let Some(text) = texts.get(name).and_then(|found| found.get("description")) {
            definition["description"] = text.clone();
        }
        done.insert(name.to_owned(), definition);
    }
    while let Some(name) = open.pop() {
        let public = schema::openapi_name(&name);
        if done.contains_key(&public) {
            continue;
        }
        let mut definition = match schema::named(&name) {
            Some(schema) => of_struct(&schema, form, texts.get(&public), &mut open),
            // what the table does not hold is an object of any shape
            None => json!({"type": "object"}),
        };
        if let Some(text) = texts.get(&public).and_then(|found| found.get("description")) {
            definition["description"] = text.clone();
        }
        if let Some(groups) = group_version_kinds(&name, rows) {
            definition["x-kubernetes-group-version-kind"] = groups;
        }
        done.insert(public, definition);
    }
    done
}

fn group_version_kinds(name: &str, rows: &[&Kind]) -> Option<Value> {
    let row = rows.iter().find(|row| schema::table_name(row) == name.strip_suffix("List").unwrap_or(name))?;
    let kind = if name == schema::table_name(row) { row.kind.to_string() } else { format!("{}List", row.kind) };
    Some(json!([{"group": row.group, "version": row.version, "kind": kind}]))
}

/// Types that JSON writes as one value.
fn scalars(form: Form) -> Vec<(&'static str, Value)> {
    let either = |first: &str, format: Option<&str>| match form {
        Form::Two => json!({"type": "string"}),
        Form::Three => {
            let mut first = json!({"type": first});
            if let Some(format) = format {
                first["format"] = json!(format);
            }
            json!({"oneOf": [{"type": "string"}, first]})
        }
    };
    let mut int_or_string = either("integer", None);
    int_or_string["format"] = json!("int-or-string");
    vec![
        ("io.k8s.apimachinery.pkg.api.resource.Quantity", either("number", None)),
        ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", int_or_string),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", json!({"type": "string", "format": "date-time"})),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", json!({"type": "string", "format": "date-time"})),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", json!({"type": "string"})),
        ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", json!({"type": "object"})),
        ("io.k8s.apimachinery.pkg.runtime.RawExtension", json!({"type": "object"})),
        (
            "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
            json!({"type": "object", "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body."}),
        ),
    ]
}

fn of_struct(schema: &Schema, form: Form, texts: Option<&Value>, open: &mut Vec<String>) -> Value {
    let mut properties = Map::new();
    let mut required: Vec<&str> = Vec::new();
    for field in &schema.fields {
        let mut property = of_field(field, form, open);
        if let Some(text) = texts.and_then(|found| found.pointer(&format!("/properties/{}/description", field.name))) {
            property["description"] = text.clone();
        }
        properties.insert(field.name.to_string(), property);
        if field.required {
            required.push(&field.name);
        }
    }
    let mut definition = json!({"type": "object"});
    if !properties.is_empty() {
        definition["properties"] = Value::Object(properties);
    }
    if !required.is_empty() {
        definition["required"] = json!(required);
    }
    if schema.atomic {
        definition["x-kubernetes-map-type"] = json!("atomic");
    }
    definition
}

fn of_field(field: &Field, form: Form, open: &mut Vec<String>) -> Value {
    let mut property = of_type(&field.kind, form, open);
    // a reference may stand beside nothing else: 3.0 wraps it
    if form == Form::Three && property.get("$ref").is_some() {
        property = json!({"allOf": [property]});
    }
    if let Type::Named(named) = &field.kind
        && !named.values.is_empty()
    {
        property["enum"] = json!(named.values);
    }
    if let Some(default) = &field.default {
        property["default"] = default.clone();
    }
    if matches!(field.kind.base(), Type::List(_)) {
        match &field.list {
            ListType::Map(keys) => {
                property["x-kubernetes-list-type"] = json!("map");
                property["x-kubernetes-list-map-keys"] = json!(keys);
            }
            ListType::Set => property["x-kubernetes-list-type"] = json!("set"),
            ListType::Atomic if field.list_stated => property["x-kubernetes-list-type"] = json!("atomic"),
            ListType::Atomic => {}
        }
    }
    if field.atomic {
        property["x-kubernetes-map-type"] = json!("atomic");
    }
    let strategy = match (field.patch_merge, field.patch_retain_keys) {
        (true, true) => Some("merge,retainKeys"),
        (true, false) => Some("merge"),
        (false, true) => Some("retainKeys"),
        (false, false) => None,
    };
    if let Some(strategy) = strategy {
        property["x-kubernetes-patch-strategy"] = json!(strategy);
    }
    if let Some(key) = &field.merge_key {
        property["x-kubernetes-patch-merge-key"] = json!(key);
    }
    property
}

fn of_type(kind: &Type, form: Form, open: &mut Vec<String>) -> Value {
    match kind {
        Type::String => json!({"type": "string"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Float64 => json!({"type": "number", "format": "double"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Quantity => form.reference("io.k8s.apimachinery.pkg.api.resource.Quantity"),
        Type::IntOrString => form.reference("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
        Type::Time => form.reference("io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
        Type::MicroTime => form.reference("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"),
        Type::Duration => form.reference("io.k8s.apimachinery.pkg.apis.meta.v1.Duration"),
        Type::Any => json!({"type": "object"}),
        Type::List(item) => json!({"type": "array", "items": inner(item, form, open)}),
        Type::Map(value) => json!({"type": "object", "additionalProperties": inner(value, form, open)}),
        Type::Struct(reference) => {
            open.push(reference.name().to_owned());
            form.reference(&schema::openapi_name(reference.name()))
        }
        Type::Named(named) if matches!(named.base, Type::Any) => form.reference(&schema::openapi_name(named.name)),
        Type::Named(named) => of_type(&named.base, form, open),
    }
}

/// The schema of an item; 3.0 wraps references here, too.
fn inner(kind: &Type, form: Form, open: &mut Vec<String>) -> Value {
    let value = of_type(kind, form, open);
    if form == Form::Three && value.get("$ref").is_some() { json!({"allOf": [value]}) } else { value }
}
