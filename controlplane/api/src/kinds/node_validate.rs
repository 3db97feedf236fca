//! What is wrong with a Node, in upstream's words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::json::{has, items, word};
use crate::names;
use crate::problem::{Path, Problems};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Problems of a Node by itself.
pub(super) fn validate(node: &Value, problems: &mut Problems) {
    let path = Path::new("spec").child("taints");
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
            problems.duplicate(&at, taint.clone());
        }
    }
}

/// Problems of a change to a Node.
pub(super) fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let spec = Path::new("spec");
    for field in ["podCIDR", "providerID"] {
        if has(&old["spec"], field) && !word(&old["spec"], field).is_empty() && old["spec"].get(field) != new["spec"].get(field) {
            let detail = if field == "podCIDR" {
                "node updates may not change podCIDR except from \"\" to valid"
            } else {
                "node updates may not change providerID except from \"\" to valid"
            };
            problems.forbidden(&spec.child(field), detail);
        }
    }
}
