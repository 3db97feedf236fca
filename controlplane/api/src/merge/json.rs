//! JSON merge patch (`Spec:` RFC 7386) and JSON patch (`Spec:` RFC 6902).

use serde_json::{Map, Value};

use crate::status::{ApiError, Cause};

/// What is said to bytes that are no JSON.
pub const NO_PATCH: &str = "invalid JSON patch";

/// Changes `target` as `patch` says: null removes, objects merge, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

/// The smallest merge patch that makes `new` of `old`.
pub fn diff(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => {
                patch.insert(key.clone(), diff(before, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

/// The operations of a JSON patch applied in order, all or none.
///
/// # Errors
/// `BadRequest` when it is no JSON patch, `Invalid` (422) when an operation does not fit the object.
pub fn patch(target: &Value, operations: &[u8]) -> Result<Value, ApiError> {
    const OPERATIONS_MAX: usize = 10_000;
    let parsed: Value = serde_json::from_slice(operations).map_err(|_ignored| ApiError::bad_request(NO_PATCH))?;
    if !parsed.is_array() {
        let found = crate::decode::json_type(&parsed);
        let why = format!("json: cannot unmarshal {found} into Go value of type []handlers.jsonPatchOp");
        return Err(ApiError::bad_request(format!("error decoding patch: {why}")));
    }
    let operations: Vec<json_patch::PatchOperation> =
        serde_json::from_value(parsed).map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if operations.len() > OPERATIONS_MAX {
        return Err(ApiError::new(
            crate::Reason::RequestEntityTooLarge,
            format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}", operations.len()),
        ));
    }
    let mut value = target.clone();
    json_patch::patch(&mut value, &operations).map_err(|error| {
        let why = match &error.kind {
            json_patch::PatchErrorKind::TestFailed => format!("testing value {} failed: test failed", error.path),
            json_patch::PatchErrorKind::InvalidPointer => {
                format!("remove operation does not apply: doc is missing path: {:?}", error.path.to_string())
            }
            other => other.to_string(),
        };
        // the words are upstream's; which operation failed is told beside them
        ApiError {
            causes: vec![Cause { reason: String::new(), message: why, field: "patch".to_owned() }],
            ..ApiError::new(crate::Reason::Invalid, "the server rejected our request due to an error in our request")
        }
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn examples_of_the_rfc() {
        for (target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut result = target.clone();
            merge(&mut result, &patch);
            assert_eq!(result, expected, "{target} + {patch}");
        }
    }

    #[test]
    fn json_patches_apply_in_order_or_not_at_all() {
        let target = json!({"metadata": {"labels": {"a": "1"}}});
        let ops = br#"[{"op":"test","path":"/metadata/labels/a","value":"1"},{"op":"replace","path":"/metadata/labels/a","value":"2"}]"#;
        assert_eq!(patch(&target, ops).unwrap()["metadata"]["labels"]["a"], "2");
        let failing = br#"[{"op":"remove","path":"/metadata/missing"}]"#;
        assert_eq!(patch(&target, failing).unwrap_err().reason, crate::Reason::Invalid);
        assert_eq!(patch(&target, b"{}").unwrap_err().reason, crate::Reason::BadRequest);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), (0_i64..5).prop_map(Value::from), "[a-c]{0,2}".prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_diff_leads_from_old_to_new(old in any_json(), new in any_json()) {
            let mut result = old.clone();
            merge(&mut result, &diff(&old, &new));
            prop_assert_eq!(result, new);
        }

        #[test]
        fn merging_twice_is_merging_once(target in any_json(), patch in any_json()) {
            let mut once = target;
            merge(&mut once, &patch);
            let mut twice = once.clone();
            merge(&mut twice, &patch);
            prop_assert_eq!(once, twice);
        }
    }
}
