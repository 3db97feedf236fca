//! Strategic merge patch (`Spec:` Kubernetes "Update API Objects in Place Using kubectl patch"; directives of apimachinery's
//! `strategicpatch`): like a merge patch, but lists merge by their items' keys.

use serde_json::{Map, Value};

use crate::schema::{Field, Schema, Type};
use crate::status::{ApiError, Reason};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// `original` changed as `patch` says.
///
/// # Errors
/// `BadRequest` for patches that contradict themselves or lack a merge key.
pub fn apply(schema: &Schema, original: &Value, patch: &Value) -> Result<Value, ApiError> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(ApiError::bad_request("invalid JSON document"));
    };
    Ok(Value::Object(merge_object(Some(schema), original.clone(), patch)?))
}

fn refuse<T>(message: impl Into<String>) -> Result<T, ApiError> {
    Err(ApiError::new(Reason::Invalid, message))
}

/// What the schema says of a member.
fn lookup<'a>(schema: Option<&'a Schema>, name: &str) -> (Option<&'a Field>, Option<&'a Type>) {
    let field = schema.and_then(|schema| schema.field(name));
    (field, field.map(|field| field.kind.base()))
}

fn merge_object(
    schema: Option<&Schema>,
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, ApiError> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            let mut replaced = patch.clone();
            replaced.remove(DIRECTIVE);
            return Ok(replaced);
        }
        Some("delete") => return Ok(Map::new()),
        Some("merge") | None => {}
        Some(other) => return refuse(format!("unknown patch type: {other}")),
    }
    if let Some(retain) = patch.get(RETAIN_KEYS) {
        let Some(retain) = retain.as_array() else { return refuse("$retainKeys must be a list") };
        for key in patch.keys().filter(|key| !key.starts_with('$') && !patch[*key].is_null()) {
            if !retain.iter().any(|kept| kept == key.as_str()) {
                return refuse("$retainKeys must contain all the keys of the patch");
            }
        }
        original.retain(|key, _| retain.iter().any(|kept| kept == key.as_str()));
    }
    for (key, change) in patch {
        if key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(ELEMENT_ORDER) {
            continue;
        }
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVE) {
            if let (Some(Value::Array(items)), Some(gone)) = (original.get_mut(list), change.as_array()) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if change.is_null() {
            original.remove(key);
            continue;
        }
        let (field, kind) = lookup(schema, key);
        let order = patch.get(&format!("{ELEMENT_ORDER}{key}")).and_then(Value::as_array);
        let before = original.remove(key);
        let after = match (before, change) {
            (before, Value::Object(change)) => {
                let start = match before {
                    Some(Value::Object(before)) => before,
                    _ => Map::new(),
                };
                merge_value_object(kind, start, change)?
            }
            (before, Value::Array(change)) if field.is_some_and(|field| field.patch_merge) => {
                let start = match before {
                    Some(Value::Array(before)) => before,
                    _ => Vec::new(),
                };
                Some(Value::Array(merge_list(field, kind, start, change, order)?))
            }
            // a list that does not merge has no directives: what looks like one is an unknown field
            (_, change) => Some(change.clone()),
        };
        if let Some(after) = after {
            original.insert(key.clone(), after);
        }
    }
    // an order may stand alone: the list is only rearranged, or holds deletions of simple values
    for (key, order) in patch.iter().filter_map(|(key, value)| key.strip_prefix(ELEMENT_ORDER).map(|name| (name, value))) {
        if patch.contains_key(key) {
            continue;
        }
        let (field, kind) = lookup(schema, key);
        if let (Some(Value::Array(items)), Some(order), Some(field)) = (original.get_mut(key), order.as_array(), field) {
            let taken = std::mem::take(items);
            *items = in_order(merge_key(field, kind), taken, order, &[]);
        }
    }
    Ok(original)
}

/// `None` when the object is deleted.
fn merge_value_object(kind: Option<&Type>, start: Map<String, Value>, change: &Map<String, Value>) -> Result<Option<Value>, ApiError> {
    match kind {
        Some(Type::Map(value)) => {
            // a map's values follow the value's type
            let holder = value.schema().cloned();
            if change.get(DIRECTIVE).is_some() || holder.is_none() {
                return Ok(deleted_or(change, merge_object(None, start, change)?));
            }
            let mut out = start;
            for (key, member) in change {
                match member {
                    Value::Null => {
                        out.remove(key);
                    }
                    Value::Object(member) => {
                        let before = match out.remove(key) {
                            Some(Value::Object(before)) => before,
                            _ => Map::new(),
                        };
                        out.insert(key.clone(), Value::Object(merge_object(holder.as_deref(), before, member)?));
                    }
                    other => {
                        out.insert(key.clone(), other.clone());
                    }
                }
            }
            Ok(Some(Value::Object(out)))
        }
        other => {
            let schema = other.and_then(Type::schema).cloned();
            Ok(deleted_or(change, merge_object(schema.as_deref(), start, change)?))
        }
    }
}

fn deleted_or(change: &Map<String, Value>, merged: Map<String, Value>) -> Option<Value> {
    if change.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
        Some(Value::Object(Map::new()))
    } else {
        Some(Value::Object(merged))
    }
}

/// A merging list that is replaced as a whole holds the directive that says so.
fn replaced_list(change: &[Value]) -> Vec<Value> {
    change.iter().filter(|item| item.get(DIRECTIVE).is_none()).cloned().collect()
}

/// The key by which items merge; `None` for lists of simple values.
fn merge_key<'a>(field: &'a Field, kind: Option<&Type>) -> Option<&'a str> {
    match kind {
        Some(Type::List(item)) if item.schema().is_none() => None,
        _ => field.merge_key.as_deref(),
    }
}

fn merge_list(
    field: Option<&Field>,
    kind: Option<&Type>,
    original: Vec<Value>,
    change: &[Value],
    order: Option<&Vec<Value>>,
) -> Result<Vec<Value>, ApiError> {
    let Some(field) = field else { return Ok(change.to_vec()) };
    let Some(key) = merge_key(field, kind) else {
        let mut merged = original.clone();
        for item in change {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(in_order(None, merged, order.map_or(change, Vec::as_slice), &original));
    };
    if change.iter().any(|item| item.get(DIRECTIVE).and_then(Value::as_str) == Some("replace")) {
        return Ok(replaced_list(change));
    }
    let item_schema = match kind {
        Some(Type::List(item)) => item.schema().cloned(),
        _ => None,
    };
    let mut merged = original.clone();
    for item in change {
        let Value::Object(item) = item else {
            return refuse(format!("expected an object in the list merged by {key:?}"));
        };
        let Some(name) = item.get(key) else {
            return refuse(format!("map: {} does not contain declared merge key: {key}", go_map(item)));
        };
        let at = merged.iter().position(|existing| existing.get(key) == Some(name));
        match (item.get(DIRECTIVE).and_then(Value::as_str), at) {
            (Some("delete"), _) => merged.retain(|existing| existing.get(key) != Some(name)),
            (_, Some(at)) => {
                let before = match std::mem::take(&mut merged[at]) {
                    Value::Object(before) => before,
                    _ => Map::new(),
                };
                merged[at] = Value::Object(merge_object(item_schema.as_deref(), before, item)?);
            }
            (_, None) => merged.push(Value::Object(merge_object(item_schema.as_deref(), Map::new(), item)?)),
        }
    }
    // without a stated order, the patch's own counts: what it adds stands before what only the server knows
    Ok(in_order(Some(key), merged, order.map_or(change, Vec::as_slice), &original))
}

/// Items named by `order` in that order; the others keep their place relative to their former neighbours.
fn in_order(key: Option<&str>, items: Vec<Value>, order: &[Value], original: &[Value]) -> Vec<Value> {
    let same = |left: &Value, right: &Value| match key {
        Some(key) => left.get(key).is_some() && left.get(key) == right.get(key),
        None => left == right,
    };
    let rank = |item: &Value| order.iter().position(|named| same(named, item));
    let (mut listed, unlisted): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|item| rank(item).is_some());
    listed.sort_by_key(|item| rank(item));
    let former = |item: &Value| original.iter().position(|before| same(before, item));
    let mut out = Vec::with_capacity(listed.len() + unlisted.len());
    let (mut listed, mut unlisted) = (listed.into_iter().peekable(), unlisted.into_iter().peekable());
    // two ordered lists are merged; a server-only item goes first if it stood before the other in the original
    while let (Some(left), Some(right)) = (listed.peek(), unlisted.peek()) {
        let server_first = match (former(right), former(left)) {
            (Some(right), Some(left)) => right < left,
            (Some(_), None) => false,
            (None, _) => false,
        };
        out.extend(if server_first { unlisted.next() } else { listed.next() });
    }
    out.extend(listed);
    out.extend(unlisted);
    out
}

/// A map as Go's `%v` prints it.
fn go_map(map: &Map<String, Value>) -> String {
    let inner: Vec<String> = map
        .iter()
        .map(|(key, value)| match value {
            Value::String(text) => format!("{key}:{text}"),
            Value::Object(inner) => format!("{key}:{}", go_map(inner)),
            other => format!("{key}:{other}"),
        })
        .collect();
    format!("map[{}]", inner.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
    }

    fn check(original: Value, patch: Value, expected: Value) {
        let schema = crate::schema::named("core.v1.Pod").unwrap();
        let result = apply(&schema, &pod(original), &json!({"spec": patch})).unwrap();
        assert_eq!(result["spec"], expected);
        let again = apply(&schema, &result, &json!({"spec": patch})).unwrap();
        assert_eq!(again, result, "a patch applied twice changes nothing more");
    }

    #[test]
    fn lists_merge_by_key() {
        check(
            json!({"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}]}),
            json!({"containers": [{"name": "b", "image": "y:2"}, {"name": "c", "image": "z"}]}),
            json!({"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"}, {"name": "c", "image": "z"}]}),
        );
    }

    #[test]
    fn new_items_stand_before_those_of_the_server() {
        check(
            json!({"containers": [{"name": "old", "image": "x"}]}),
            json!({"containers": [{"name": "new", "image": "y"}]}),
            json!({"containers": [{"name": "new", "image": "y"}, {"name": "old", "image": "x"}]}),
        );
    }

    #[test]
    fn items_are_deleted_and_lists_replaced_by_directive() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        );
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
            json!({"containers": [{"name": "c"}]}),
        );
    }

    #[test]
    fn retain_keys_drop_the_rest() {
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        );
    }

    #[test]
    fn the_order_of_elements_is_kept() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "i"}]}),
            json!({"containers": [{"name": "server"}, {"name": "b"}, {"name": "a", "image": "i"}]}),
        );
    }

    #[test]
    fn simple_values_merge_as_a_set() {
        let schema = crate::schema::named("core.v1.Pod").unwrap();
        let original = json!({"metadata": {"finalizers": ["a/b", "c/d"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"], "finalizers": ["e/f"]}});
        let result = apply(&schema, &original, &patch).unwrap();
        assert_eq!(result["metadata"]["finalizers"], json!(["e/f", "c/d"]));
    }

    #[test]
    fn atomic_lists_and_nulls_replace_and_remove() {
        check(
            json!({"containers": [{"name": "a", "args": ["1", "2"], "command": ["x"]}], "hostname": "h"}),
            json!({"containers": [{"name": "a", "args": ["3"], "command": null}], "hostname": null}),
            json!({"containers": [{"name": "a", "args": ["3"]}]}),
        );
    }

    #[test]
    fn a_missing_merge_key_is_refused() {
        let schema = crate::schema::named("core.v1.Pod").unwrap();
        let error = apply(&schema, &pod(json!({})), &json!({"spec": {"containers": [{"image": "x"}]}})).unwrap_err();
        assert_eq!(error.message, "map: map[image:x] does not contain declared merge key: name");
    }
}
