//! Roles and their bindings (`Spec:` Kubernetes "Using RBAC Authorization").

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use super::json::{count, fill, has, items, items_mut, word};
use crate::problem::{Path, Problems};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, NameRule, Rules, as_given, as_given_update};

const GROUP: &str = "rbac.authorization.k8s.io";

const PLAIN: Rules = Rules {
    prepare_create: as_given,
    prepare_update: as_given_update,
    name: NameRule::PathSegment,
    create_on_update: true,
    ..Rules::PLAIN
};

/// Role's decisions.
pub const ROLE: Rules = Rules {
    validate: |role, problems| rules(role, true, problems),
    columns: &[NAME_COLUMN, Column::new("Created At", "date", "When it was created.")],
    cells: created_cells,
    ..PLAIN
};

/// ClusterRole's decisions.
pub const CLUSTER_ROLE: Rules = Rules {
    validate: |role, problems| {
        rules(role, false, problems);
        if has(role, "aggregationRule") && count(&role["aggregationRule"], "clusterRoleSelectors") == 0 {
            let at = Path::new("aggregationRule").child("clusterRoleSelectors");
            problems.required(&at, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
    },
    ..ROLE
};

/// RoleBinding's and ClusterRoleBinding's decisions.
pub const BINDING: Rules = Rules {
    default: default_binding,
    validate: validate_binding,
    validate_update: |new, old, problems| {
        if new.get("roleRef") != old.get("roleRef") {
            problems.invalid(&Path::new("roleRef"), new["roleRef"].clone(), "field is immutable");
        }
    },
    columns: &[
        NAME_COLUMN,
        Column::new("Role", "string", "The role that is granted."),
        AGE_COLUMN,
        Column::wide("Users", "string", "Users that have it."),
        Column::wide("Groups", "string", "Groups that have it."),
        Column::wide("ServiceAccounts", "string", "Service accounts that have it."),
    ],
    cells: binding_cells,
    ..PLAIN
};

fn created_cells(role: &Value, _: Timestamp) -> Vec<Value> {
    vec![super::text(role, &["metadata", "name"]).into(), super::text(role, &["metadata", "creationTimestamp"]).into()]
}

fn binding_cells(binding: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", word(&binding["roleRef"], "kind"), word(&binding["roleRef"], "name"));
    let subjects = |kind: &str| {
        let named = items(binding, "subjects").filter(|subject| word(subject, "kind") == kind).map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", word(subject, "namespace"), word(subject, "name")),
            _ => word(subject, "name").to_owned(),
        });
        Value::from(named.collect::<Vec<_>>().join(", "))
    };
    vec![
        super::text(binding, &["metadata", "name"]).into(),
        role.into(),
        age::age(binding, now).into(),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

fn rules(role: &Value, namespaced: bool, problems: &mut Problems) {
    for (index, rule) in items(role, "rules").enumerate() {
        let path = Path::new("rules").index(index);
        if count(rule, "verbs") == 0 {
            problems.required(&path.child("verbs"), "");
        }
        if count(rule, "nonResourceURLs") > 0 {
            if namespaced {
                problems.invalid(
                    &path.child("nonResourceURLs"),
                    rule["nonResourceURLs"].clone(),
                    "namespaced rules cannot apply to non-resource URLs",
                );
            }
            if count(rule, "apiGroups") + count(rule, "resources") + count(rule, "resourceNames") > 0 {
                problems.invalid(
                    &path.child("nonResourceURLs"),
                    rule["nonResourceURLs"].clone(),
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if count(rule, "apiGroups") == 0 {
            problems.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if count(rule, "resources") == 0 {
            problems.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn default_binding(binding: &mut Value) {
    if has(binding, "roleRef") {
        fill(&mut binding["roleRef"], "apiGroup", GROUP);
    }
    for subject in items_mut(binding, "subjects") {
        if matches!(word(subject, "kind"), "User" | "Group") {
            fill(subject, "apiGroup", GROUP);
        }
    }
}

fn validate_binding(binding: &Value, problems: &mut Problems) {
    let path = Path::new("roleRef");
    let reference = &binding["roleRef"];
    if word(reference, "apiGroup") != GROUP {
        problems.not_supported(&path.child("apiGroup"), word(reference, "apiGroup"), &[GROUP]);
    }
    let cluster = !has(&binding["metadata"], "namespace");
    let kinds: &[&str] = if cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
    if !kinds.contains(&word(reference, "kind")) {
        problems.not_supported(&path.child("kind"), word(reference, "kind"), kinds);
    }
    if word(reference, "name").is_empty() {
        problems.required(&path.child("name"), "");
    }
    for (index, subject) in items(binding, "subjects").enumerate() {
        let path = Path::new("subjects").index(index);
        if word(subject, "name").is_empty() {
            problems.required(&path.child("name"), "");
        }
        match word(subject, "kind") {
            "ServiceAccount" => {
                if !word(subject, "name").is_empty() {
                    problems.all_invalid(&path.child("name"), word(subject, "name"), crate::names::dns_subdomain(word(subject, "name")));
                }
                if cluster && word(subject, "namespace").is_empty() {
                    problems.required(&path.child("namespace"), "");
                }
                if !word(subject, "apiGroup").is_empty() {
                    problems.not_supported(&path.child("apiGroup"), json!(word(subject, "apiGroup")), &[""]);
                }
            }
            "User" | "Group" => {
                if word(subject, "apiGroup") != GROUP {
                    problems.not_supported(&path.child("apiGroup"), word(subject, "apiGroup"), &[GROUP]);
                }
            }
            other => problems.not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
        }
    }
}
