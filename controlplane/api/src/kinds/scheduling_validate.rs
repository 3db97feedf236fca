//! What is wrong with a pod's wishes about where it runs: affinity, tolerations, spread.

use serde_json::Value;

use super::json::{count, has, items, members, number, word};
use crate::names;
use crate::problem::{Path, Problems};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const WEIGHT: &str = "must be in the range 1-100";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Keys and values of labels, all under one path.
pub(super) fn labels(object: &Value, field: &str, path: &Path, problems: &mut Problems) {
    for (key, value) in members(object, field) {
        problems.all_invalid(path, key.as_str(), names::qualified_name(key));
        let text = value.as_str().unwrap_or_default();
        problems.all_invalid(path, text, names::label_value(text));
    }
}

/// Problems of a `LabelSelector`.
pub(super) fn label_selector(selector: &Value, path: &Path, problems: &mut Problems) {
    labels(selector, "matchLabels", &path.child("matchLabels"), problems);
    for (index, expression) in items(selector, "matchExpressions").enumerate() {
        let at = path.child("matchExpressions").index(index);
        let values = count(expression, "values");
        match word(expression, "operator") {
            "In" | "NotIn" if values == 0 => {
                problems.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                problems.forbidden(&at.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => problems.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
        let key = word(expression, "key");
        problems.all_invalid(&at.child("key"), key, names::qualified_name(key));
        for (position, value) in items(expression, "values").enumerate() {
            let text = value.as_str().unwrap_or_default();
            problems.all_invalid(&at.child("values").index(position), text, names::label_value(text));
        }
    }
}

/// Problems of `affinity`.
pub(super) fn affinity(affinity: &Value, path: &Path, problems: &mut Problems) {
    if has(affinity, "nodeAffinity") {
        node_affinity(&affinity["nodeAffinity"], &path.child("nodeAffinity"), problems);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let (rules, at) = (&affinity[field], path.child(field));
        for (index, term) in items(rules, REQUIRED).enumerate() {
            pod_term(term, &at.child(REQUIRED).index(index), problems);
        }
        for (index, weighted) in items(rules, PREFERRED).enumerate() {
            let at = at.child(PREFERRED).index(index);
            if !(1..=100).contains(&number(weighted, "weight")) {
                problems.invalid(&at.child("weight"), number(weighted, "weight"), WEIGHT);
            }
            pod_term(&weighted["podAffinityTerm"], &at.child("podAffinityTerm"), problems);
        }
    }
}

fn node_affinity(rules: &Value, path: &Path, problems: &mut Problems) {
    if has(rules, REQUIRED) {
        let (selector, at) = (&rules[REQUIRED], path.child(REQUIRED).child("nodeSelectorTerms"));
        if count(selector, "nodeSelectorTerms") == 0 {
            problems.required(&at, "must have at least one node selector term");
        }
        for (index, term) in items(selector, "nodeSelectorTerms").enumerate() {
            node_term(term, true, &at.index(index), problems);
        }
    }
    for (index, weighted) in items(rules, PREFERRED).enumerate() {
        let at = path.child(PREFERRED).index(index);
        if !(1..=100).contains(&number(weighted, "weight")) {
            problems.invalid(&at.child("weight"), number(weighted, "weight"), WEIGHT);
        }
        node_term(&weighted["preference"], false, &at.child("preference"), problems);
    }
}

fn node_term(term: &Value, check_values: bool, path: &Path, problems: &mut Problems) {
    for (index, expression) in items(term, "matchExpressions").enumerate() {
        let at = path.child("matchExpressions").index(index);
        let values = count(expression, "values");
        match word(expression, "operator") {
            "In" | "NotIn" if values == 0 => {
                problems.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                problems.forbidden(&at.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values != 1 => {
                problems.required(&at.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => problems.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
        let key = word(expression, "key");
        problems.all_invalid(&at.child("key"), key, names::qualified_name(key));
        for (position, value) in items(expression, "values").enumerate().filter(|_| check_values) {
            let text = value.as_str().unwrap_or_default();
            problems.all_invalid(&at.child("values").index(position), text, names::label_value(text));
        }
    }
    for (index, expression) in items(term, "matchFields").enumerate() {
        let at = path.child("matchFields").index(index);
        match word(expression, "operator") {
            "In" | "NotIn" if count(expression, "values") != 1 => {
                problems.required(&at.child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector");
            }
            "In" | "NotIn" => {}
            other => problems.invalid(&at.child("operator"), other, "not a valid selector operator"),
        }
        match word(expression, "key") {
            "metadata.name" => {
                for (position, value) in items(expression, "values").enumerate() {
                    let text = value.as_str().unwrap_or_default();
                    problems.all_invalid(&at.child("values").index(position), text, names::dns_subdomain(text));
                }
            }
            other => problems.invalid(&at.child("key"), other, "not a valid field selector key"),
        }
    }
}

fn pod_term(term: &Value, path: &Path, problems: &mut Problems) {
    label_selector(&term["labelSelector"], &path.child("labelSelector"), problems);
    label_selector(&term["namespaceSelector"], &path.child("namespaceSelector"), problems);
    for namespace in items(term, "namespaces") {
        let text = namespace.as_str().unwrap_or_default();
        problems.all_invalid(&path.child("namespace"), text, names::dns_label(text));
    }
    let key = word(term, "topologyKey");
    if key.is_empty() {
        problems.required(&path.child("topologyKey"), "can not be empty");
    }
    problems.all_invalid(&path.child("topologyKey"), key, names::qualified_name(key));
}

/// Problems of `tolerations`.
pub(super) fn tolerations(spec: &Value, path: &Path, problems: &mut Problems) {
    for (index, toleration) in items(spec, "tolerations").enumerate() {
        let at = path.index(index);
        let (key, value) = (word(toleration, "key"), word(toleration, "value"));
        let (operator, effect) = (word(toleration, "operator"), word(toleration, "effect"));
        if !key.is_empty() {
            problems.all_invalid(&at.child("key"), key, names::qualified_name(key));
        }
        if key.is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            problems.invalid(&at.child("operator"), operator, why);
        }
        if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
            problems.invalid(&at.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "" | "Equal" => {
                let complaints = names::label_value(value);
                if !complaints.is_empty() {
                    problems.invalid(&at.child("operator"), value, complaints.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                problems.invalid(&at.child("operator"), value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            other => problems.not_supported(&at.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            problems.not_supported(&at.child("effect"), effect, EFFECTS);
        }
    }
}

/// Problems of `topologySpreadConstraints`.
pub(super) fn spread(spec: &Value, path: &Path, problems: &mut Problems) {
    const POLICIES: &[&str] = &["Honor", "Ignore"];
    let constraints: Vec<&Value> = items(spec, "topologySpreadConstraints").collect();
    for (index, constraint) in constraints.iter().enumerate() {
        let at = path.index(index);
        if number(constraint, "maxSkew") <= 0 {
            problems.invalid(&at.child("maxSkew"), number(constraint, "maxSkew"), "must be greater than zero");
        }
        let (key, when) = (word(constraint, "topologyKey"), word(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            problems.required(&at.child("topologyKey"), "can not be empty");
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&when) {
            problems.not_supported(&at.child("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let same = |other: &&Value| word(other, "topologyKey") == key && word(other, "whenUnsatisfiable") == when;
        if constraints[index + 1..].iter().any(same) {
            problems.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {when}}}"));
        }
        if has(constraint, "minDomains") {
            let domains = number(constraint, "minDomains");
            if domains <= 0 {
                problems.invalid(&at.child("minDomains"), domains, "must be greater than zero");
            }
            if when != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                problems.invalid(&at.child("minDomains"), domains, why);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"].into_iter().filter(|field| has(constraint, field)) {
            let policy = word(constraint, field);
            if !POLICIES.contains(&policy) {
                problems.not_supported(&at.child(field), policy, POLICIES);
            }
        }
        label_selector(&constraint["labelSelector"], &at.child("labelSelector"), problems);
    }
}
