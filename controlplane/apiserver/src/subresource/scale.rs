//! `scale`: replicas of any workload, in one shape (`Spec:` autoscaling/v1 Scale).

use std::sync::Arc;

use serde_json::{Value, json};
use trierarch_api::managed_fields::{self, Model, scale as managers};
use trierarch_api::merge::apply::{self, Writer};
use trierarch_api::merge::field_set::FieldSet;
use trierarch_api::merge::json as json_merge;
use trierarch_api::{ApiError, Kind, Object, Path, Problems, Snapshot as _, schema};

use crate::dispatch::{Admitted, Answer};
use crate::patch::{self, Type};
use crate::pipeline::{Ctx, decode, metadata};
use crate::read;
use crate::write::{Source, Target, update};

/// `GET`, `PUT` and `PATCH` of `scale`.
pub(crate) async fn request(admitted: &Admitted<'_>, kind: &Arc<Kind>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(false)?;
    let info = admitted.info;
    if info.verb == "get" {
        let snapshot = read::state(admitted).await?;
        let object = snapshot
            .get(&kind.storage(), &info.namespace, &info.name)
            .ok_or_else(|| ApiError::not_found(&kind.group_resource(), &info.name))?;
        return Ok(Answer::document(200, &of(&object), chosen));
    }
    let ctx = admitted.ctx()?;
    let object = if info.verb == "update" {
        let scale = decode::body(&ctx, &row(), admitted.call)?;
        put(admitted.server, &ctx, kind, &info.namespace, &info.name, &Change::To(&move |_| Ok(scale.clone()))).await?
    } else {
        let way = patch::way(admitted, &ctx)?;
        let body = admitted.call.body.clone();
        if way == Type::Apply {
            let config = patch::config(&body)?;
            put(admitted.server, &ctx, kind, &info.namespace, &info.name, &Change::Applied(&config)).await?
        } else {
            let change = |scale: &Value| {
                if way == Type::Json {
                    return decode::patched(&ctx, &row(), json_merge::patch(scale, &body)?);
                }
                let patch: Value =
                    serde_json::from_slice(&body).map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
                let mut scale = scale.clone();
                json_merge::merge(&mut scale, &patch);
                decode::patched(&ctx, &row(), scale)
            };
            put(admitted.server, &ctx, kind, &info.namespace, &info.name, &Change::To(&change)).await?
        }
    };
    Ok(Answer::document(200, &of(&object), chosen))
}

/// What a scale is checked against.
fn row() -> Kind {
    Kind::namespaced("autoscaling", "v1", "Scale", "scales", "scale")
}

/// How a scale changes.
pub enum Change<'a> {
    /// To what follows from the present one.
    To(&'a (dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync)),
    /// By server-side apply of this configuration.
    Applied(&'a Value),
}

/// Changes an object through its scale.
///
/// # Errors
/// As an update.
pub async fn put(
    server: &crate::ApiServer,
    ctx: &Ctx,
    kind: &Arc<Kind>,
    namespace: &str,
    name: &str,
    change: &Change<'_>,
) -> Result<Arc<Object>, ApiError> {
    let apply = |old: Option<&Value>| {
        let old = old.ok_or_else(|| ApiError::not_found(&kind.group_resource(), name))?;
        let scale = changed(ctx, kind, old, change)?;
        let stated = scale["metadata"]["name"].as_str().unwrap_or_default();
        if !stated.is_empty() && stated != name {
            return Err(ApiError::bad_request(format!("the name of the object ({stated}) does not match the name on the URL ({name})")));
        }
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let mut problems = Problems::default();
            problems.invalid(&Path::new("spec").child("replicas"), replicas, "must be greater than or equal to 0");
            return Err(ApiError::invalid(&row(), name, &problems));
        }
        let mut new = old.clone();
        new["spec"]["replicas"] = json!(replicas);
        for field in ["resourceVersion", "uid"] {
            if let Some(stated) = scale["metadata"][field].as_str().filter(|text| !text.is_empty()) {
                new["metadata"][field] = json!(stated);
            }
        }
        let managers =
            managers::to_parent(old["metadata"].get("managedFields"), scale["metadata"].get("managedFields"), &kind.api_version());
        match managers {
            Some(list) => metadata::of(&mut new).insert("managedFields".to_owned(), list),
            None => metadata::of(&mut new).remove("managedFields"),
        };
        Ok(new)
    };
    let target = Target { kind, namespace, name, sub: None };
    Ok(update(server, ctx, &target, Source::Applied(&apply)).await?.object)
}

/// The new scale of an object, with who owns its replicas.
fn changed(ctx: &Ctx, kind: &Kind, parent: &Value, change: &Change<'_>) -> Result<Value, ApiError> {
    let schema = schema::named("autoscaling.v1.Scale").ok_or_else(|| ApiError::internal("no schema of Scale"))?;
    let model = Model { schema: &schema, api_version: managers::API_VERSION, kind: "Scale", reset: FieldSet::default() };
    let writer = Writer { manager: &ctx.field_manager, subresource: "scale", now: ctx.now };
    let mut old = scale_of(parent);
    if let Some(list) = managers::of_parent(parent["metadata"].get("managedFields"), &kind.api_version()) {
        metadata::of(&mut old).insert("managedFields".to_owned(), list);
    }
    let read = |mut scale: Value| {
        trierarch_api::decode::typed(&schema, &mut scale, &mut Vec::new())
            .map_err(|why| ApiError::bad_request(format!("Scale in version \"v1\" cannot be handled as a Scale: {why}")))?;
        Ok::<Value, ApiError>(scale)
    };
    match change {
        Change::To(change) => {
            let mut new = read(change(&old)?)?;
            managed_fields::track(&model, Some(&old), &mut new, &writer);
            Ok(new)
        }
        Change::Applied(config) => read(apply::to(&model, Some(&old), config, &writer, ctx.force)?),
    }
}

/// An object's scale.
pub fn of(object: &Object) -> Value {
    scale_of(&object.value())
}

fn scale_of(value: &Value) -> Value {
    let metadata = &value["metadata"];
    let mut kept = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(found) = metadata.get(field) {
            kept[field] = found.clone();
        }
    }
    let replicas = value["status"]["replicas"].as_i64().unwrap_or(0);
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept,
        "spec": {}, "status": { "replicas": replicas },
    });
    if let Some(wanted) = value["spec"]["replicas"].as_i64().filter(|wanted| *wanted != 0) {
        scale["spec"]["replicas"] = json!(wanted);
    }
    if let Some(selector) = selector_text(&value["spec"]["selector"]) {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

/// A selector as its query parameter.
fn selector_text(selector: &Value) -> Option<String> {
    let map = selector.as_object()?;
    let plain = !map.contains_key("matchLabels") && !map.contains_key("matchExpressions");
    let mut terms = Vec::new();
    let labels = if plain { Some(map) } else { selector["matchLabels"].as_object() };
    for (key, value) in labels.into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        terms.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.sort();
    Some(terms.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_show_the_selector_as_text() {
        let value = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"b": "2", "a": "1"}}}, "status": {"replicas": 2}});
        let scale = scale_of(&value);
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=1,b=2"}));
        assert_eq!(scale["spec"]["replicas"], 3);
        assert_eq!(selector_text(&json!({"app": "x"})).as_deref(), Some("app=x"));
    }
}
