//! Built-in admission: what the cluster adds to an object and what it refuses, beyond the kind's own rules.

use bytes::Bytes;
use serde_json::{Value, json};
use trierarch_api::status::Cause;
use trierarch_api::{ApiError, GroupResource, Kind, Object, ObjectKey, Snapshot, Subresource};

use crate::apiserver::{ApiServer, StoreSnapshot};
use crate::pipeline::{Ctx, metadata, node_restriction, pod_admission, role_escalation};

const NAMESPACES: GroupResource = GroupResource::new("", "namespaces");
/// Namespaces that no one deletes.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

fn is(kind: &Kind, group: &str, plural: &str) -> bool {
    kind.group == group && kind.plural == plural
}

/// The key of the namespace that must exist while the object is created.
pub fn namespace_key(kind: &Kind, object: &Value) -> Option<Bytes> {
    kind.namespaced_scope().then(|| ObjectKey::new(NAMESPACES, "", metadata::text(object, "namespace")).to_bytes())
}

/// `NamespaceLifecycle`: nothing is created in a namespace that is missing or on its way out.
///
/// # Errors
/// 404, 403
pub fn namespace_lives(snapshot: &dyn Snapshot, kind: &Kind, object: &Value) -> Result<(), ApiError> {
    if !kind.namespaced_scope() {
        return Ok(());
    }
    let name = metadata::text(object, "namespace");
    let Some(namespace) = snapshot.get(&NAMESPACES, "", name) else {
        return Err(ApiError::not_found(&NAMESPACES, name));
    };
    if namespace.deletion_timestamp.is_some() {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let shown = [metadata::text(object, "name"), metadata::text(object, "generateName")].into_iter().find(|text| !text.is_empty());
        let mut error = ApiError::forbidden(&kind.group_resource(), shown.unwrap_or_default(), &why);
        error.causes.push(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
        return Err(error);
    }
    Ok(())
}

/// Adds what the cluster adds to new objects.
///
/// # Errors
/// 403 when what should be added is not there.
pub async fn mutate_create(
    server: &ApiServer,
    snapshot: &StoreSnapshot,
    ctx: &Ctx,
    kind: &Kind,
    object: &mut Value,
) -> Result<(), ApiError> {
    if is(kind, "", "pods") {
        pod_admission::service_account(server, snapshot, ctx, object).await?;
        pod_admission::priority(object)?;
        pod_admission::tolerations(object, server.settings.toleration_seconds);
    } else if is(kind, "", "nodes") {
        taint_not_ready(object);
    } else if is(kind, "", "namespaces") {
        let name = metadata::text(object, "name").to_owned();
        label(object, "kubernetes.io/metadata.name", &name);
    } else if is(kind, "certificates.k8s.io", "certificatesigningrequests") {
        csr_user(ctx, object);
    }
    Ok(())
}

/// `TaintNodesByCondition`: a new node takes no pods before it is ready.
fn taint_not_ready(node: &mut Value) {
    const KEY: &str = "node.kubernetes.io/not-ready";
    let taints = &mut node["spec"]["taints"];
    if !taints.is_array() {
        *taints = json!([]);
    }
    if let Some(list) = taints.as_array_mut()
        && !list.iter().any(|taint| taint["key"] == KEY && taint["effect"] == "NoSchedule")
    {
        list.push(json!({ "key": KEY, "effect": "NoSchedule" }));
    }
}

fn label(object: &mut Value, key: &str, value: &str) {
    let labels = metadata::of(object).entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.insert(key.to_owned(), value.into());
    }
}

/// A signing request says who made it; the server decides that.
fn csr_user(ctx: &Ctx, object: &mut Value) {
    let user = ctx.user.to_json();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        for (from, to) in [("username", "username"), ("uid", "uid"), ("groups", "groups"), ("extra", "extra")] {
            match user.get(from) {
                Some(value) => spec.insert(to.to_owned(), value.clone()),
                None => spec.remove(to),
            };
        }
    }
}

/// Adds what the cluster adds to changed objects.
///
/// # Errors
/// None at present.
pub fn mutate_update(
    _snapshot: &StoreSnapshot,
    ctx: &Ctx,
    kind: &Kind,
    sub: Option<Subresource>,
    new: &mut Value,
    old: &Value,
) -> Result<(), ApiError> {
    if is(kind, "", "namespaces") {
        let name = metadata::text(old, "name").to_owned();
        label(new, "kubernetes.io/metadata.name", &name);
    }
    if is(kind, "certificates.k8s.io", "certificatesigningrequests") && sub == Some(Subresource::Approval) {
        for condition in new["status"]["conditions"].as_array_mut().into_iter().flatten() {
            if condition["lastUpdateTime"].is_null() {
                condition["lastUpdateTime"] = json!(ctx.now.to_string());
            }
            if condition["lastTransitionTime"].is_null() {
                condition["lastTransitionTime"] = json!(ctx.now.to_string());
            }
        }
    }
    Ok(())
}

/// Refuses what a caller may not create although RBAC lets it.
///
/// # Errors
/// 403
pub fn validate_create(server: &ApiServer, snapshot: &StoreSnapshot, ctx: &Ctx, kind: &Kind, object: &Value) -> Result<(), ApiError> {
    node_restriction::create(snapshot, ctx, kind, object)?;
    if kind.group == "rbac.authorization.k8s.io" {
        role_escalation::check(server, snapshot, ctx, kind, object)?;
    }
    Ok(())
}

/// Refuses what a caller may not change although RBAC lets it.
///
/// # Errors
/// 403
pub fn validate_update(
    server: &ApiServer,
    snapshot: &StoreSnapshot,
    ctx: &Ctx,
    kind: &Kind,
    sub: Option<Subresource>,
    new: &Value,
    old: &Value,
) -> Result<(), ApiError> {
    node_restriction::update(snapshot, ctx, kind, sub, new, old)?;
    if kind.group == "rbac.authorization.k8s.io" && sub.is_none() && grants(new) != grants(old) {
        role_escalation::check(server, snapshot, ctx, kind, new)?;
    }
    if kind.group == "certificates.k8s.io"
        && sub == Some(Subresource::Approval)
        && new["status"]["conditions"] != old["status"]["conditions"]
    {
        signer_allowed(server, ctx, new, "approve")?;
    }
    if kind.group == "certificates.k8s.io"
        && sub == Some(Subresource::Status)
        && new["status"]["certificate"] != old["status"]["certificate"]
    {
        signer_allowed(server, ctx, new, "sign")?;
    }
    Ok(())
}

fn grants(value: &Value) -> (&Value, &Value, &Value) {
    (&value["rules"], &value["subjects"], &value["roleRef"])
}

fn signer_allowed(server: &ApiServer, ctx: &Ctx, request: &Value, verb: &str) -> Result<(), ApiError> {
    let signer = request["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    let may = |name: &str| {
        let info = crate::request::RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: "certificates.k8s.io".to_owned(),
            version: "v1".to_owned(),
            resource: "signers".to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        server.decide(&ctx.user, &info).allowed()
    };
    if ctx.local || may(signer) || may(&format!("{domain}/*")) {
        return Ok(());
    }
    let resource = GroupResource::new("certificates.k8s.io", "certificatesigningrequests");
    Err(ApiError::forbidden(
        &resource,
        metadata::text(request, "name"),
        &format!("user not permitted to {verb} requests with signerName {signer:?}"),
    ))
}

/// Refuses what nobody deletes, and what a node may not.
///
/// # Errors
/// 403
pub fn validate_delete(snapshot: &StoreSnapshot, ctx: &Ctx, kind: &Kind, object: &Object) -> Result<(), ApiError> {
    if is(kind, "", "namespaces") && IMMORTAL.contains(&object.name.as_str()) {
        return Err(ApiError::forbidden(&kind.group_resource(), &object.name, "this namespace may not be deleted"));
    }
    node_restriction::delete(snapshot, ctx, kind, object)
}
