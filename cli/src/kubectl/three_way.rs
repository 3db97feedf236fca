//! What `apply` sends: the difference between the new file and the live object, and the fields that the last file had and the new one lacks.
//!
//! `Spec:` strategic merge patch for kinds whose schema is known, JSON merge patch (RFC 7386) for all others.

use serde_json::{Map, Value, json};
use trierarch_api::schema::{self, Field, Schema};

/// The schema of a built-in kind; `None` for one that the server alone knows.
pub fn schema_of(group: &str, version: &str, kind: &str) -> Option<std::sync::Arc<Schema>> {
    let built_in = !group.contains('.') || group.ends_with(".k8s.io");
    let short = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or_default() };
    if built_in { schema::named(&format!("{short}.{version}.{kind}")) } else { None }
}

/// The patch that turns `current` into what `modified` asks for; `{}` if it is that already.
pub fn patch(schema: Option<&Schema>, original: &Value, modified: &Value, current: &Value) -> Value {
    let empty = Map::new();
    let (original, modified, current) =
        (original.as_object().unwrap_or(&empty), modified.as_object().unwrap_or(&empty), current.as_object().unwrap_or(&empty));
    Value::Object(maps(schema, original, modified, current))
}

type Members = Map<String, Value>;

fn maps(schema: Option<&Schema>, original: &Members, modified: &Members, current: &Members) -> Members {
    let mut out = Map::new();
    let empty = Map::new();
    for (key, new) in modified {
        let Some(live) = current.get(key) else {
            if !new.is_null() {
                out.insert(key.clone(), new.clone());
            }
            continue;
        };
        let field = schema.and_then(|schema| schema.field(key));
        match (new, live) {
            (Value::Null, _) => {
                out.insert(key.clone(), Value::Null);
            }
            (Value::Object(new), Value::Object(live)) => {
                let old = original.get(key).and_then(Value::as_object).unwrap_or(&empty);
                let below = field.and_then(|field| field.kind.schema());
                let mut inner = maps(below.map(AsRef::as_ref), old, new, live);
                if !inner.is_empty() {
                    if field.is_some_and(|field| field.patch_retain_keys) {
                        retain_keys(&mut inner, new);
                    }
                    out.insert(key.clone(), Value::Object(inner));
                }
            }
            (Value::Array(new), Value::Array(live)) if field.is_some_and(|field| field.patch_merge) => {
                let old = original.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                if let Some(field) = field {
                    lists(key, field, old, new, live, &mut out);
                }
            }
            _ if new != live => {
                out.insert(key.clone(), new.clone());
            }
            _ => {}
        }
    }
    for key in original.keys().filter(|key| !modified.contains_key(*key)) {
        out.insert(key.clone(), Value::Null);
    }
    out
}

/// Of several alternatives only those of the new file stay.
fn retain_keys(patch: &mut Members, modified: &Members) {
    let keys: Vec<&String> = modified.keys().collect();
    patch.insert("$retainKeys".to_owned(), json!(keys));
}

fn lists(key: &str, field: &Field, original: &[Value], modified: &[Value], current: &[Value], out: &mut Members) {
    let Some(merge_key) = field.merge_key.as_deref() else {
        return sets(key, original, modified, current, out);
    };
    let below = match field.kind.base() {
        schema::Type::List(item) => item.schema(),
        _ => None,
    };
    let find = |list: &[Value], name: &Value| list.iter().find(|item| item[merge_key] == *name).cloned();
    let empty = Map::new();
    let mut items = Vec::new();
    for new in modified {
        let Some(live) = find(current, &new[merge_key]) else {
            items.push(new.clone());
            continue;
        };
        let old = find(original, &new[merge_key]).unwrap_or_default();
        let (Some(new_map), Some(live)) = (new.as_object(), live.as_object()) else {
            continue;
        };
        let mut inner = maps(below.map(AsRef::as_ref), old.as_object().unwrap_or(&empty), new_map, live);
        if !inner.is_empty() {
            if field.patch_retain_keys {
                retain_keys(&mut inner, new_map);
            }
            inner.insert(merge_key.to_owned(), new[merge_key].clone());
            items.push(Value::Object(inner));
        }
    }
    for old in original.iter().filter(|old| find(modified, &old[merge_key]).is_none()) {
        items.push(json!({"$patch": "delete", merge_key: old[merge_key]}));
    }
    let order: Vec<Value> = modified.iter().map(|item| json!({merge_key: item[merge_key]})).collect();
    let live_order: Vec<&Value> =
        current.iter().map(|item| &item[merge_key]).filter(|name| modified.iter().any(|item| item[merge_key] == **name)).collect();
    let moved = !modified.iter().map(|item| &item[merge_key]).filter(|name| live_order.contains(name)).eq(live_order.iter().copied());
    if items.is_empty() && !moved {
        return;
    }
    out.insert(format!("$setElementOrder/{key}"), Value::Array(order));
    if !items.is_empty() {
        out.insert(key.to_owned(), Value::Array(items));
    }
}

fn sets(key: &str, original: &[Value], modified: &[Value], current: &[Value], out: &mut Members) {
    let added: Vec<&Value> = modified.iter().filter(|item| !current.contains(item)).collect();
    let removed: Vec<&Value> = original.iter().filter(|item| !modified.contains(item)).collect();
    if added.is_empty() && removed.is_empty() {
        return;
    }
    out.insert(format!("$setElementOrder/{key}"), json!(modified));
    if !added.is_empty() {
        out.insert(key.to_owned(), json!(added));
    }
    if !removed.is_empty() {
        out.insert(format!("$deleteFromPrimitiveList/{key}"), json!(removed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(containers: &Value, more: &Value) -> Value {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": {"spec": {"containers": containers}}}});
        for (key, value) in more.as_object().expect("members") {
            object["spec"][key] = value.clone();
        }
        object
    }

    fn check(original: &Value, modified: &Value, current: &Value, expected: &Value) {
        let schema = schema_of("apps", "v1", "Deployment").expect("a built-in kind");
        assert_eq!(patch(Some(&schema), original, modified, current), *expected);
    }

    #[test]
    fn defaults_of_the_server_are_no_difference() {
        let file = deployment(&json!([{"name": "a", "image": "i"}]), &json!({"replicas": 2}));
        let mut live = file.clone();
        live["spec"]["strategy"] = json!({"type": "RollingUpdate"});
        live["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
        check(&file, &file, &live, &json!({}));
    }

    #[test]
    fn what_the_last_file_had_and_this_one_lacks_goes() {
        let old = deployment(&json!([{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]), &json!({"replicas": 2, "paused": true}));
        let new = deployment(&json!([{"name": "a", "image": "k"}]), &json!({"replicas": 3}));
        check(
            &old,
            &new,
            &old,
            &json!({"spec": {"replicas": 3, "paused": null, "template": {"spec": {
                "$setElementOrder/containers": [{"name": "a"}],
                "containers": [{"name": "a", "image": "k"}, {"$patch": "delete", "name": "b"}]}}}}),
        );
    }

    #[test]
    fn what_others_added_stays() {
        let file = deployment(&json!([{"name": "a", "image": "i"}]), &json!({}));
        let mut live = deployment(&json!([{"name": "sidecar", "image": "s"}, {"name": "a", "image": "old"}]), &json!({"replicas": 9}));
        live["metadata"]["labels"] = json!({"by": "others"});
        check(
            &file,
            &file,
            &live,
            &json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "image": "i"}]}}}}),
        );
    }

    #[test]
    fn alternatives_replace_each_other() {
        let old = deployment(&json!([]), &json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}));
        let new = deployment(&json!([]), &json!({"strategy": {"type": "Recreate"}}));
        check(&old, &new, &old, &json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate", "rollingUpdate": null}}}));
    }

    #[test]
    fn unknown_kinds_get_a_json_merge_patch() {
        assert!(schema_of("example.com", "v1", "Thing").is_none() && schema_of("apps.example.com", "v1", "Deployment").is_none());
        let (old, new) = (json!({"a": [1], "b": {"c": 1, "d": 2}}), json!({"a": [2], "b": {"c": 1}}));
        assert_eq!(patch(None, &old, &new, &json!({"a": [1], "b": {"c": 1, "d": 2, "e": 3}, "f": 4})), json!({"a": [2], "b": {"d": null}}));
    }

    #[test]
    fn a_patch_brings_the_live_object_to_the_file() {
        let schema = schema_of("apps", "v1", "Deployment").expect("a built-in kind");
        let old = deployment(&json!([{"name": "a", "image": "i", "env": [{"name": "X", "value": "1"}]}]), &json!({"replicas": 2}));
        let new = deployment(
            &json!([{"name": "a", "image": "i", "env": [{"name": "Y", "value": "2"}]}, {"name": "b", "image": "j"}]),
            &json!({}),
        );
        let change = patch(Some(&schema), &old, &new, &old);
        let result = trierarch_api::merge::strategic::apply(&schema, &old, &change).expect("it applies");
        assert_eq!(result, new);
        assert_eq!(patch(Some(&schema), &new, &new, &result), json!({}));
    }
}
