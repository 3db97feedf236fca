//! Brings the default roles and bindings into the store and keeps them there: what is missing is added, what was added stays.

use serde_json::{Value, json};
use trierarch_api::{ApiError, GroupResource, Object, ObjectKey, Reason};

use crate::authorize::policy::{self, Binding, Role, Rule};
use crate::authorize::rbac;
use crate::local::Local;

const GROUP: &str = "rbac.authorization.k8s.io";
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Reconciles the defaults, then the roles that aggregate others. For a leader, after its namespaces exist.
///
/// # Errors
/// The store's; those of one object are logged and the rest goes on.
pub async fn reconcile(local: &Local) -> Result<(), ApiError> {
    for role in policy::CLUSTER_ROLES.iter().chain(policy::CONTROLLER_ROLES).chain(policy::NAMESPACE_ROLES) {
        one(local, role_object(role)).await?;
    }
    for binding in policy::CLUSTER_ROLE_BINDINGS.iter().chain(policy::NAMESPACE_ROLE_BINDINGS).chain(policy::OWN_BINDINGS) {
        one(local, binding_object(binding)).await?;
    }
    // an aggregate of aggregates (admin of edit of view) settles from the inside out
    for _ in 0..3 {
        if !aggregate(local).await? {
            break;
        }
    }
    Ok(())
}

async fn one(local: &Local, wanted: Value) -> Result<(), ApiError> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let namespace = wanted["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let resource = resource_of(wanted["kind"].as_str().unwrap_or_default());
    for _ in 0..3 {
        let outcome = match local.snapshot().get(&resource, &namespace, &name) {
            None => local.create(&resource, &namespace, wanted.clone()).await,
            Some(found) => match merged(&found, &wanted) {
                None => return Ok(()),
                Some(new) => local.update(&ObjectKey::new(resource.clone(), &namespace, &name), new, None).await,
            },
        };
        match outcome {
            Ok(_) => return Ok(()),
            Err(error) if matches!(error.reason, Reason::Conflict | Reason::AlreadyExists) => {}
            Err(error) if matches!(error.reason, Reason::ServiceUnavailable | Reason::Timeout) => return Err(error),
            Err(error) => {
                tracing::warn!(name, namespace, error = %error, "Could not reconcile a default role");
                return Ok(());
            }
        }
    }
    Ok(())
}

fn resource_of(kind: &str) -> GroupResource {
    match kind {
        "ClusterRole" => rbac::CLUSTER_ROLES,
        "ClusterRoleBinding" => rbac::CLUSTER_ROLE_BINDINGS,
        "Role" => rbac::ROLES,
        _ => rbac::ROLE_BINDINGS,
    }
}

/// The found object with what it lacks, or nothing to do.
fn merged(found: &Object, wanted: &Value) -> Option<Value> {
    let value = found.value();
    if value["metadata"]["annotations"][AUTO_UPDATE] == "false" {
        return None;
    }
    let mut new = (*value).clone();
    for part in ["labels", "annotations"] {
        for (key, text) in wanted["metadata"][part].as_object().into_iter().flatten() {
            if new["metadata"][part].get(key).is_none() {
                new["metadata"][part][key] = text.clone();
            }
        }
    }
    if wanted["aggregationRule"].is_null() {
        let read = |value: &Value| serde_json::from_value::<Vec<rbac::PolicyRule>>(value["rules"].clone()).unwrap_or_default();
        let missing = rbac::uncovered(&read(&value), &read(wanted));
        if !missing.is_empty() {
            let mut rules = new["rules"].as_array().cloned().unwrap_or_default();
            rules.extend(missing.iter().filter_map(|rule| serde_json::to_value(rule).ok()));
            new["rules"] = json!(rules);
        }
    }
    for subject in wanted["subjects"].as_array().into_iter().flatten() {
        let mut subjects = new["subjects"].as_array().cloned().unwrap_or_default();
        let same = |other: &Value| ["kind", "name", "namespace"].iter().all(|field| other[*field] == subject[*field]);
        if !subjects.iter().any(same) {
            subjects.push(subject.clone());
            new["subjects"] = json!(subjects);
        }
    }
    (new != *value).then_some(new)
}

/// Fills roles with an aggregation rule; true when something changed.
///
/// # Errors
/// The store's.
pub async fn aggregate(local: &Local) -> Result<bool, ApiError> {
    let snapshot = local.snapshot();
    let roles = snapshot.list(&rbac::CLUSTER_ROLES, None);
    let mut changed = false;
    for role in &roles {
        let value = role.value();
        let Some(selectors) = value["aggregationRule"]["clusterRoleSelectors"].as_array() else { continue };
        let mut rules: Vec<Value> = Vec::new();
        for selector in selectors {
            let Ok(selector) = trierarch_api::LabelSelector::from_json(selector) else { continue };
            for other in roles.iter().filter(|other| other.name != role.name && selector.matches(&other.labels)) {
                for rule in other.value()["rules"].as_array().into_iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
        if value["rules"].as_array().map_or(&[][..], Vec::as_slice) == rules.as_slice() {
            continue;
        }
        let mut new = (*value).clone();
        new["rules"] = json!(rules);
        match local.update(&role.key(), new, None).await {
            Ok(_) => changed = true,
            Err(error) if error.reason == Reason::Conflict => changed = true,
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
}

fn split(list: &str) -> Vec<&str> {
    list.split(',').collect()
}

fn rule_value(rule: &Rule) -> Value {
    if !rule.urls.is_empty() {
        return json!({ "nonResourceURLs": split(rule.urls), "verbs": split(rule.verbs) });
    }
    let mut value = json!({ "apiGroups": split(rule.groups), "resources": split(rule.resources), "verbs": split(rule.verbs) });
    if !rule.names.is_empty() {
        value["resourceNames"] = json!(split(rule.names));
    }
    value
}

fn role_object(role: &Role) -> Value {
    let mut labels = json!({ "kubernetes.io/bootstrapping": "rbac-defaults" });
    for label in role.labels.split(',').filter(|label| !label.is_empty()) {
        labels[label] = json!("true");
    }
    let mut metadata = json!({ "name": role.name, "labels": labels, "annotations": { AUTO_UPDATE: "true" } });
    if !role.namespace.is_empty() {
        metadata["namespace"] = json!(role.namespace);
    }
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": if role.namespace.is_empty() { "ClusterRole" } else { "Role" },
        "metadata": metadata,
        "rules": role.rules.iter().map(rule_value).collect::<Vec<_>>(),
    });
    if !role.aggregates.is_empty() {
        object["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { role.aggregates: "true" } }] });
    }
    object
}

fn binding_object(binding: &Binding) -> Value {
    let subjects: Vec<Value> = binding
        .subjects
        .iter()
        .filter_map(|subject| {
            let (kind, name) = subject.split_once(':')?;
            Some(match kind {
                "user" => json!({ "apiGroup": GROUP, "kind": "User", "name": name }),
                "group" => json!({ "apiGroup": GROUP, "kind": "Group", "name": name }),
                _ => {
                    let (namespace, name) = name.split_once('/')?;
                    json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace })
                }
            })
        })
        .collect();
    let mut metadata = json!({ "name": binding.name, "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" }, "annotations": { AUTO_UPDATE: "true" } });
    if !binding.namespace.is_empty() {
        metadata["namespace"] = json!(binding.namespace);
    }
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": if binding.namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" },
        "metadata": metadata,
        "roleRef": { "apiGroup": GROUP, "kind": binding.role_kind, "name": binding.role },
    });
    if !subjects.is_empty() {
        object["subjects"] = json!(subjects);
    }
    object
}

/// The row of a default's kind; for tests.
#[cfg(test)]
fn row(value: &Value) -> trierarch_api::Kind {
    let registry = trierarch_api::Registry::with_builtins();
    let found = registry.by_kind(value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default());
    (*found.expect("a row")).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn subjects_with_colons_in_their_names_are_read_whole() {
        let binding = policy::CLUSTER_ROLE_BINDINGS.iter().find(|binding| binding.name == "system:basic-user").expect("is there");
        assert_eq!(binding_object(binding)["subjects"][0]["name"], "system:authenticated");
    }

    #[test]
    fn what_was_added_stays_and_what_is_missing_returns() {
        let wanted = role_object(policy::CLUSTER_ROLES.iter().find(|role| role.name == "system:kube-dns").expect("is there"));
        let mut found = wanted.clone();
        found["rules"] = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }]);
        let object = Object::from_value(Arc::new(row(&wanted)), &found, 1).expect("an object");
        let new = merged(&object, &wanted).expect("something is missing");
        assert!(new["rules"].as_array().expect("a list").len() > 1);
        let whole = Object::from_value(Arc::new(row(&wanted)), &wanted, 1).expect("an object");
        assert_eq!(merged(&whole, &wanted), None);
    }
}
