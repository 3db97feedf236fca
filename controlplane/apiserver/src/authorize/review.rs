//! Questions about access and identity: kinds that are answered, not stored (`Spec:` authorization.k8s.io/v1, authentication.k8s.io/v1).

use std::sync::Arc;

use serde_json::{Value, json};
use trierarch_api::{ApiError, Kind, Path, Problems};

use crate::authorize::{Decision, rbac};
use crate::dispatch::{Admitted, Answer};
use crate::identity::User;
use crate::pipeline::decode;
use crate::request::RequestInfo;

/// `POST` of a question.
pub(crate) fn create(admitted: &Admitted<'_>, kind: &Arc<Kind>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(false)?;
    let ctx = admitted.ctx()?;
    let mut review = decode::body(&ctx, kind, admitted.call)?;
    if !review["metadata"].is_object() {
        review["metadata"] = json!({});
    }
    check(kind, &review, &admitted.info.namespace)?;
    review["status"] = match kind.kind.as_ref() {
        "SelfSubjectAccessReview" => access(admitted, admitted.user, &review),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let local = kind.kind == "LocalSubjectAccessReview";
            if local {
                review["metadata"]["namespace"] = json!(admitted.info.namespace);
            }
            access(admitted, &asked_user(&review["spec"]), &review)
        }
        "SelfSubjectRulesReview" => {
            let rules = rules(admitted, review["spec"]["namespace"].as_str().unwrap_or_default())?;
            review["spec"] = json!({});
            rules
        }
        "SelfSubjectReview" => json!({ "userInfo": admitted.user.to_json() }),
        "TokenReview" => token(admitted, &review["spec"])?,
        other => return Err(ApiError::internal(format!("no answer for {other}"))),
    };
    if kind.kind == "SelfSubjectReview" {
        review["metadata"]["creationTimestamp"] = json!(ctx.now.to_string());
    }
    Ok(Answer::document(201, &review, chosen))
}

/// Problems of a question about access.
fn check(kind: &Kind, review: &Value, namespace: &str) -> Result<(), ApiError> {
    if kind.group != "authorization.k8s.io" || kind.kind == "SelfSubjectRulesReview" {
        return Ok(());
    }
    let (spec, path) = (&review["spec"], Path::new("spec"));
    let mut problems = Problems::default();
    if spec["resourceAttributes"].is_null() == spec["nonResourceAttributes"].is_null() {
        let shown = spec["nonResourceAttributes"].clone();
        problems.invalid(&path, shown, "exactly one of nonResourceAttributes or resourceAttributes must be specified");
    }
    let user = asked_user(spec);
    if !kind.kind.starts_with("Self") && user.name.is_empty() && user.groups.is_empty() {
        problems.invalid(&path.child("user"), "", "at least one of user or group must be specified");
    }
    let mut bare = review["metadata"].clone();
    for field in ["managedFields", "creationTimestamp", "namespace"] {
        bare.as_object_mut().map(|map| map.remove(field));
    }
    if bare.as_object().is_some_and(|map| !map.is_empty()) {
        problems.invalid(&Path::new("metadata"), bare, "must be empty");
    }
    let local = kind.kind == "LocalSubjectAccessReview";
    if local && spec["resourceAttributes"]["namespace"] != namespace && spec["nonResourceAttributes"].is_null() {
        let at = path.child("resourceAttributes").child("namespace");
        problems.invalid(&at, spec["resourceAttributes"]["namespace"].clone(), "must match metadata.namespace");
    }
    if local && !spec["nonResourceAttributes"].is_null() {
        problems.forbidden(&path.child("nonResourceAttributes"), "may not be set for a namespaced review");
    }
    // upstream's error names the group alone
    let nameless = Kind::cluster("authorization.k8s.io", "v1", "", "", "");
    if problems.is_empty() { Ok(()) } else { Err(ApiError::invalid(&nameless, "", &problems)) }
}

fn asked_user(spec: &Value) -> User {
    let list =
        |value: &Value| value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect::<Vec<_>>();
    let mut user = User {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: list(&spec["groups"]),
        ..User::default()
    };
    for (key, values) in spec["extra"].as_object().into_iter().flatten() {
        user.extra.insert(key.clone(), list(values));
    }
    user
}

fn access(admitted: &Admitted<'_>, user: &User, review: &Value) -> Value {
    let spec = &review["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let info = if path.is_null() {
        RequestInfo {
            is_resource: true,
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            version: text(resource, "version"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            ..RequestInfo::default()
        }
    } else {
        RequestInfo { verb: text(path, "verb"), path: text(path, "path"), ..RequestInfo::default() }
    };
    let decision = admitted.server.decide(user, &info);
    let mut status = json!({ "allowed": decision.allowed() });
    match decision {
        Decision::Allow(reason) | Decision::NoOpinion(reason) if !reason.is_empty() => status["reason"] = json!(reason),
        _ => {}
    }
    status
}

fn rules(admitted: &Admitted<'_>, namespace: &str) -> Result<Value, ApiError> {
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let snapshot = admitted.server.snapshot();
    let (mut rules, missing) = rbac::rules_for(&snapshot, admitted.user, namespace);
    if admitted.user.in_group(crate::identity::MASTERS) {
        let all = || vec!["*".to_owned()];
        rules.push(rbac::PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..Default::default() });
        rules.push(rbac::PolicyRule { verbs: all(), non_resource_urls: all(), ..Default::default() });
    }
    let mut resource_rules = Vec::new();
    let mut path_rules = Vec::new();
    for rule in &rules {
        let value = serde_json::to_value(rule).unwrap_or_default();
        if rule.non_resource_urls.is_empty() { resource_rules.push(value) } else { path_rules.push(value) }
    }
    let mut status = json!({ "resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": !missing.is_empty() });
    if !missing.is_empty() {
        status["evaluationError"] = json!(missing.join(", "));
    }
    Ok(status)
}

fn token(admitted: &Admitted<'_>, spec: &Value) -> Result<Value, ApiError> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(|each| each.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        audiences.clone_from(&admitted.server.settings.service_account.audiences);
    }
    Ok(match admitted.server.authenticate_token_for(token, &audiences) {
        Ok(found) => json!({ "authenticated": true, "user": found.user.to_json(), "audiences": found.audiences }),
        Err(error) => {
            tracing::debug!(error = error.detail, "Reviewed a token that is not valid");
            json!({ "user": {}, "error": "invalid bearer token" })
        }
    })
}
