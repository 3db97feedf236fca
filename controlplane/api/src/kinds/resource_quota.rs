//! ResourceQuota.

use serde_json::Value;

use super::age;
use super::json::{has, items, members, word};
use crate::names;
use crate::problem::{Path, Problems};
use crate::quantity::Quantity;
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, Rules};

/// ResourceQuota's decisions.
pub const RULES: Rules = Rules {
    validate,
    validate_update,
    validate_status: |new, _, problems| {
        for field in ["hard", "used"] {
            amounts(&new["status"], &Path::new("status").child(field), field, problems);
        }
    },
    columns: &[
        NAME_COLUMN,
        Column::new("Request", "string", "How much is asked for, and how much may be."),
        Column::new("Limit", "string", "How far use may grow, and how far it might."),
        AGE_COLUMN,
    ],
    cells: |object, now| {
        let [request, limit] = cells(&object["status"]);
        vec![super::text(object, &["metadata", "name"]).into(), request.into(), limit.into(), age::age(object, now).into()]
    },
    ..Rules::PLAIN
};

/// Names that quotas know without a prefix.
const STANDARD: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
/// Of these, the ones that are numbers of objects.
const WHOLE: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
/// Of these, the ones that a pod's requests and limits count as.
const COMPUTE: [&str; 9] = [
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const CONFLICTS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-")
}

fn validate(quota: &Value, problems: &mut Problems) {
    let (spec, path) = (&quota["spec"], Path::new("spec"));
    amounts(spec, &path.child("hard"), "hard", problems);
    let scopes = path.child("scopes");
    let mut found = Vec::new();
    for scope in items(spec, "scopes").filter_map(Value::as_str) {
        if !is_scope(scope) {
            problems.invalid(&scopes, spec["scopes"].clone(), "unsupported scope");
        }
        for _ in members(spec, "hard").filter(|(name, _)| is_standard(name) && !fits(scope, name)) {
            problems.invalid(&scopes, spec["scopes"].clone(), "unsupported scope applied to resource");
        }
        found.push(scope);
    }
    if conflict(&found) {
        problems.invalid(&scopes, spec["scopes"].clone(), "conflicting scopes");
    }
    if has(spec, "scopeSelector") {
        selector(spec, &path.child("scopeSelector").child("matchExpressions"), problems);
    }
}

fn selector(spec: &Value, path: &Path, problems: &mut Problems) {
    let mut found = Vec::new();
    for requirement in items(&spec["scopeSelector"], "matchExpressions") {
        let (scope, operator) = (word(requirement, "scopeName"), word(requirement, "operator"));
        if !is_scope(scope) {
            problems.invalid(&path.child("scopeName"), scope, "unsupported scope");
        }
        for _ in members(spec, "hard").filter(|(name, _)| is_standard(name) && !fits(scope, name)) {
            problems.invalid(path, spec["scopeSelector"].clone(), "unsupported scope applied to resource");
        }
        if is_scope(scope) && !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && operator != "Exists" {
            problems.invalid(
                &path.child("operator"),
                operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                 ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            );
        }
        let values = items(requirement, "values").count();
        match operator {
            "In" | "NotIn" if values == 0 => {
                problems.required(&path.child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
            }
            "Exists" | "DoesNotExist" if values > 0 => problems.invalid(
                &path.child("values"),
                requirement["values"].clone(),
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => problems.invalid(&path.child("operator"), operator, "not a valid selector operator"),
        }
        found.push(scope);
    }
    if conflict(&found) {
        problems.invalid(path, spec["scopes"].clone(), "conflicting scopes");
    }
}

fn is_scope(scope: &str) -> bool {
    matches!(
        scope,
        "Terminating"
            | "NotTerminating"
            | "BestEffort"
            | "NotBestEffort"
            | "PriorityClass"
            | "CrossNamespacePodAffinity"
            | "VolumeAttributesClass"
    )
}

/// Whether a scope makes sense for a limit.
fn fits(scope: &str, name: &str) -> bool {
    match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ if is_scope(scope) => name == "pods" || COMPUTE.contains(&name),
        _ => true,
    }
}

fn conflict(scopes: &[&str]) -> bool {
    CONFLICTS.iter().any(|pair| pair.iter().all(|scope| scopes.contains(scope)))
}

fn amounts(holder: &Value, path: &Path, field: &str, problems: &mut Problems) {
    for (name, amount) in members(holder, field) {
        let path = path.key(name);
        for message in names::qualified_name(name) {
            problems.invalid(&path, name.as_str(), message);
        }
        if !name.contains('/') && !is_standard(name) {
            problems.invalid(&path, name.as_str(), "must be a standard resource for quota");
        }
        let Some(amount) = amount.as_str().and_then(|text| text.parse::<Quantity>().ok()) else { continue };
        if amount.is_negative() {
            problems.invalid(&path, amount.to_string(), "must be greater than or equal to 0");
        }
        if WHOLE.contains(&name.as_str()) && !amount.is_integer() {
            problems.invalid(&path, amount.to_string(), "must be an integer");
        }
    }
}

fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let scopes = |quota: &Value| items(&quota["spec"], "scopes").filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let (mut after, mut before) = (scopes(new), scopes(old));
    after.sort_unstable();
    before.sort_unstable();
    if after != before {
        problems.invalid(&Path::new("spec").child("scopes"), new["spec"]["scopes"].clone(), "field is immutable");
    }
}

/// Uses beside limits, those of `limits.` apart.
fn cells(status: &Value) -> [String; 2] {
    let mut columns = [Vec::new(), Vec::new()];
    for (name, hard) in members(status, "hard") {
        let used = status["used"][name].as_str().unwrap_or("0");
        columns[usize::from(name.starts_with("limits."))].push(format!("{name}: {used}/{}", hard.as_str().unwrap_or("0")));
    }
    columns.map(|column| column.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn problems_are_named_as_upstream_names_them() {
        let check = |spec: Value, expected: &[&str]| {
            let mut problems = Problems::default();
            validate(&json!({ "spec": spec }), &mut problems);
            assert_eq!(problems.0.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{spec}");
        };
        check(json!({"hard": {"pods": "2", "requests.cpu": "1500m", "count/deployments.apps": "1", "hugepages-2Mi": "4Mi"}}), &[]);
        check(
            json!({"hard": {"pods": "2500m", "potatoes": "1", "cpu": "-1"}}),
            &[
                "spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "spec.hard[pods]: Invalid value: \"2500m\": must be an integer",
                "spec.hard[potatoes]: Invalid value: \"potatoes\": must be a standard resource for quota",
            ],
        );
        check(
            json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}),
            &["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"],
        );
        check(
            json!({"hard": {"pods": "1"}, "scopes": ["Terminating", "NotTerminating"]}),
            &["spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes"],
        );
        check(
            json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}}),
            &["spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' \
               for scope selector"],
        );
    }

    #[test]
    fn the_table_shows_use_beside_limits() {
        let status = json!({"hard": {"limits.cpu": "2", "pods": "3", "cpu": "1"}, "used": {"pods": "2", "cpu": "500m", "limits.cpu": "1"}});
        assert_eq!(cells(&status), ["cpu: 500m/1, pods: 2/3".to_owned(), "limits.cpu: 1/2".to_owned()]);
    }
}
