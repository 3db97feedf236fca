//! Who owns `spec.replicas`, as the `scale` subresource and its parent see it.

use serde_json::Value;

use super::{Managers, Owned};
use crate::merge::field_set::{Element, FieldSet};

/// The version of every scale.
pub const API_VERSION: &str = "autoscaling/v1";

fn replicas() -> FieldSet {
    FieldSet::of_fields(&[&["spec", "replicas"]])
}

fn owns_replicas(owned: &Owned) -> bool {
    owned.fields.contains(&["spec", "replicas"].map(|name| Element::Field(name.to_owned())))
}

/// The scale's `managedFields`: those of the parent's managers that own its replicas.
pub fn of_parent(parent: Option<&Value>, api_version: &str) -> Option<Value> {
    let mut managers = Managers::parse(parent).ok()?;
    managers.forget_other_groups(api_version);
    managers.0.retain(|_, owned| owns_replicas(owned));
    for owned in managers.0.values_mut() {
        owned.api_version = API_VERSION.to_owned();
        owned.fields = replicas();
    }
    managers.to_value()
}

/// The parent's `managedFields` after a write through its scale.
pub fn to_parent(parent: Option<&Value>, scale: Option<&Value>, api_version: &str) -> Option<Value> {
    let mut managers = Managers::parse(parent).unwrap_or_default();
    let mut scalers = Managers::parse(scale).unwrap_or_default();
    managers.forget_other_groups(api_version);
    scalers.0.retain(|_, owned| owns_replicas(owned));
    managers.0.retain(|id, owned| {
        let mut seen = id.clone();
        if !seen.api_version.is_empty() {
            seen.api_version = API_VERSION.to_owned();
        }
        if owns_replicas(owned) && scalers.0.remove(&seen).is_none() {
            owned.fields.subtract(&replicas());
        }
        !owned.fields.is_empty()
    });
    for (mut id, _) in scalers.0 {
        if !id.api_version.is_empty() {
            id.api_version = api_version.to_owned();
        }
        let new = Owned { api_version: api_version.to_owned(), time: None, fields: FieldSet::default() };
        managers.0.entry(id).or_insert(new).fields.unite(&replicas());
    }
    managers.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, operation: &str, version: &str, subresource: &str, fields: Value) -> Value {
        let mut entry =
            json!({"manager": manager, "operation": operation, "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": fields});
        if !subresource.is_empty() {
            entry["subresource"] = subresource.into();
        }
        entry
    }

    #[test]
    fn a_scaler_takes_the_replicas_and_leaves_the_rest() {
        let parent = json!([
            entry("one", "Apply", "apps/v1", "", json!({"f:spec": {"f:replicas": {}, "f:selector": {}}})),
            entry("two", "Update", "apps/v1", "", json!({"f:spec": {"f:paused": {}}})),
        ]);
        let scale = of_parent(Some(&parent), "apps/v1").unwrap();
        assert_eq!(scale, json!([entry("one", "Apply", "autoscaling/v1", "", json!({"f:spec": {"f:replicas": {}}}))]));
        // nothing changed hands
        assert_eq!(to_parent(Some(&parent), Some(&scale), "apps/v1").unwrap(), parent);
        let taken = json!([entry("scaler", "Update", "autoscaling/v1", "scale", json!({"f:spec": {"f:replicas": {}}}))]);
        assert_eq!(
            to_parent(Some(&parent), Some(&taken), "apps/v1").unwrap(),
            json!([
                entry("one", "Apply", "apps/v1", "", json!({"f:spec": {"f:selector": {}}})),
                entry("scaler", "Update", "apps/v1", "scale", json!({"f:spec": {"f:replicas": {}}})),
                entry("two", "Update", "apps/v1", "", json!({"f:spec": {"f:paused": {}}})),
            ])
        );
    }

    #[test]
    fn an_updater_that_owned_the_replicas_keeps_its_entry() {
        let parent = json!([entry("two", "Update", "apps/v1", "", json!({"f:spec": {"f:paused": {}, "f:replicas": {}}}))]);
        let scale = of_parent(Some(&parent), "apps/v1").unwrap();
        assert_eq!(to_parent(Some(&parent), Some(&scale), "apps/v1").unwrap(), parent);
    }
}
