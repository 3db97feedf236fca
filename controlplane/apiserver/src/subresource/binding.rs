//! `binding`: a pod gets its node, once.

use serde_json::{Value, json};
use trierarch_api::{ApiError, GroupResource, Subresource, decode as schema_decode};

use crate::apiserver::ApiServer;
use crate::dispatch::{Admitted, Answer};
use crate::pipeline::{Ctx, decode, metadata};
use crate::write::{Source, Target, update};

const PODS: GroupResource = GroupResource::new("", "pods");

/// `POST` of `pods/NAME/binding`.
pub(crate) async fn request(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    let binding = body(admitted)?;
    if metadata::text(&binding, "name") != admitted.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    answer(admitted, &admitted.info.name, &binding).await
}

/// `POST` of `bindings`, the older way to say it.
pub(crate) async fn legacy(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    let binding = body(admitted)?;
    let name = metadata::text(&binding, "name").to_owned();
    answer(admitted, &name, &binding).await
}

fn body(admitted: &Admitted<'_>) -> Result<Value, ApiError> {
    let value = decode::any_body(admitted.call)?;
    schema_decode::named("core.v1.Binding", &crate::pipeline::encode::to_bytes(&value))
}

async fn answer(admitted: &Admitted<'_>, name: &str, binding: &Value) -> Result<Answer, ApiError> {
    let ctx = admitted.ctx()?;
    bind(admitted.server, &ctx, &admitted.info.namespace, name, binding).await?;
    let done = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    Ok(Answer::document(201, &done, admitted.choose(false)?))
}

/// Binds a pod to the node that a Binding names.
///
/// # Errors
/// 404, 409 when the pod has a node or is being deleted, 422 without a target.
pub async fn bind(
    server: &ApiServer,
    ctx: &Ctx,
    namespace: &str,
    name: &str,
    binding: &Value,
) -> Result<std::sync::Arc<trierarch_api::Object>, ApiError> {
    let target_kind = binding["target"]["kind"].as_str().unwrap_or_default();
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    if !target_kind.is_empty() && target_kind != "Node" {
        return Err(ApiError::bad_request(format!(
            "Binding \"\" is invalid: target.kind: Unsupported value: {target_kind:?}: supported values: \"Node\", \"<empty>\""
        )));
    }
    if node.is_empty() {
        return Err(ApiError::new(trierarch_api::Reason::Invalid, format!("Binding {name:?} is invalid: target.name: Required value")));
    }
    let kind = server.registry.by_resource("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
    let now = ctx.now.to_string();
    let annotations = binding["metadata"]["annotations"].clone();
    let stated_uid = metadata::text(binding, "uid").to_owned();
    let stated_version = metadata::text(binding, "resourceVersion").to_owned();
    let change = |old: Option<&Value>| {
        let old = old.ok_or_else(|| ApiError::not_found(&PODS, name))?;
        let refuse = |why: &str| ApiError::conflict(&GroupResource::new("", "pods/binding"), name, why);
        if !metadata::text(old, "deletionTimestamp").is_empty() {
            return Err(refuse(&format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        if let Some(held) = old["spec"]["nodeName"].as_str().filter(|held| !held.is_empty()) {
            return Err(refuse(&format!("pod {name} is already assigned to node {held:?}")));
        }
        if old["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
            return Err(refuse(&format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        let mut new = old.clone();
        if !stated_uid.is_empty() {
            new["metadata"]["uid"] = json!(stated_uid);
        }
        if !stated_version.is_empty() {
            new["metadata"]["resourceVersion"] = json!(stated_version);
        }
        new["spec"]["nodeName"] = json!(node);
        for (key, value) in annotations.as_object().into_iter().flatten() {
            new["metadata"]["annotations"][key] = value.clone();
        }
        scheduled(&mut new, &now);
        Ok(new)
    };
    let target = Target { kind: &kind, namespace, name, sub: Some(Subresource::Binding) };
    Ok(update(server, ctx, &target, Source::From(&change)).await?.object)
}

/// The pod's `PodScheduled` condition becomes true.
fn scheduled(pod: &mut Value, now: &str) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    let mut conditions: Vec<Value> = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let condition = json!({ "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now });
    match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(found) if found["status"] == "True" => {}
        Some(found) => *found = condition,
        None => conditions.push(condition),
    }
    pod["status"]["conditions"] = json!(conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_pod_says_that_it_is_scheduled() {
        let mut pod = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}});
        scheduled(&mut pod, "2026-01-01T00:00:00Z");
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
        assert!(pod["status"]["conditions"][0]["reason"].is_null());
        let mut fresh = json!({});
        scheduled(&mut fresh, "2026-01-01T00:00:00Z");
        assert_eq!(fresh["status"]["conditions"].as_array().map(Vec::len), Some(1));
    }
}
