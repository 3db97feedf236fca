//! What is wrong with a Node, in upstream's words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container_validate::resource_amount;
use super::json::{count, items, members, word};
use crate::names;
use crate::problem::{Path, Problems};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Problems of a Node by itself.
pub(super) fn validate(node: &Value, problems: &mut Problems) {
    let path = Path::new("metadata").child("taints");
    let mut seen = BTreeSet::new();
    for (index, taint) in items(&node["spec"], "taints").enumerate() {
        let at = path.index(index);
        let (key, effect) = (word(taint, "key"), word(taint, "effect"));
        for message in names::qualified_name(key) {
            problems.invalid(&at.child("key"), key, message);
        }
        for message in names::label_value(word(taint, "value")) {
            problems.invalid(&at.child("value"), word(taint, "value"), message);
        }
        if effect.is_empty() {
            problems.required(&at.child("effect"), "");
        } else if !EFFECTS.contains(&effect) {
            problems.not_supported(&at.child("effect"), effect, EFFECTS);
        }
        if !seen.insert((key.to_owned(), effect.to_owned())) {
            problems.duplicate_because(&at, taint.clone(), "taints must be unique by key and effect pair");
        }
    }
    let path = Path::new("spec").child("podCIDRs");
    for (index, range) in items(&node["spec"], "podCIDRs").enumerate() {
        let text = range.as_str().unwrap_or_default();
        if !names::is_cidr(text) {
            problems.invalid(&path.index(index), text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }
}

/// Problems of a change to a Node.
pub(super) fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let (spec, before, after) = (Path::new("spec"), &old["spec"], &new["spec"]);
    if count(before, "podCIDRs") > 0 && before["podCIDRs"] != after["podCIDRs"] {
        problems.forbidden(&spec.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    if !word(before, "providerID").is_empty() && word(before, "providerID") != word(after, "providerID") {
        problems.invalid(&spec.child("providerID"), Value::Null, "field cannot be modified once set");
    }
}

/// Problems of a new status.
pub(super) fn validate_status(new: &Value, _: &Value, problems: &mut Problems) {
    let (status, path) = (&new["status"], Path::new("status"));
    let mut seen = BTreeSet::new();
    for (index, address) in items(status, "addresses").enumerate() {
        if !seen.insert((word(address, "type"), word(address, "address"))) {
            problems.duplicate(&path.child("addresses").index(index), address.clone());
        }
    }
    for field in ["capacity", "allocatable"] {
        for (name, value) in members(status, field) {
            resource_amount(name, value, &path.child(field).child(name), problems);
        }
    }
}
