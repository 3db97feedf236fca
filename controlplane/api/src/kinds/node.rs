//! Node.

use jiff::Timestamp;
use serde_json::Value;

use super::json::{count, flag, inner, items, members, or, set, word};
use super::{age, node_validate};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, RequestFacts, Rules, as_given, keep_status};

/// Node's decisions.
pub const RULES: Rules = Rules {
    default,
    // agents create their node with its status
    prepare_create: as_given,
    prepare_update,
    validate: node_validate::validate,
    validate_update: node_validate::validate_update,
    validate_status: node_validate::validate_status,
    columns: &[
        NAME_COLUMN,
        Column::new("Status", "string", "The status of the node"),
        Column::new("Roles", "string", "The roles of the node"),
        AGE_COLUMN,
        Column::new("Version", "string", "The version of the node's agent."),
        Column::wide("Internal-IP", "string", "The node's address inside the cluster."),
        Column::wide("External-IP", "string", "The node's address outside the cluster."),
        Column::wide("OS-Image", "string", "The operating system."),
        Column::wide("Kernel-Version", "string", "The kernel."),
        Column::wide("Container-Runtime", "string", "The container runtime and its version."),
    ],
    cells,
    own_fields: true,
    field: |node, name| (name == "spec.unschedulable").then(|| flag(&node["spec"], "unschedulable").to_string()),
    ..Rules::PLAIN
};

fn default(node: &mut Value) {
    pod_ranges(node);
    if let Some(status) = inner(node, "status")
        && count(status, "allocatable") == 0
        && count(status, "capacity") > 0
    {
        let capacity = status["capacity"].clone();
        set(status, "allocatable", capacity);
    }
}

/// The range and the first of the list say the same.
fn pod_ranges(node: &mut Value) {
    let Some(spec) = inner(node, "spec") else { return };
    let single = word(spec, "podCIDR").to_owned();
    match spec["podCIDRs"][0].as_str().map(str::to_owned) {
        None if !single.is_empty() => set(spec, "podCIDRs", serde_json::json!([single])),
        Some(first) if single.is_empty() => set(spec, "podCIDR", first),
        _ => {}
    }
    if spec.get("podCIDRs").is_some_and(Value::is_null) {
        super::json::unset(spec, "podCIDRs");
    }
}

fn prepare_update(new: &mut Value, old: &Value, facts: &RequestFacts) {
    keep_status(new, old, facts);
    // the field is from the days of dynamic configuration and no longer kept
    if let Some(spec) = inner(new, "spec")
        && !super::json::has(&old["spec"], "configSource")
    {
        super::json::unset(spec, "configSource");
    }
}

fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    items(&node["status"], "addresses").find(|address| address["type"] == kind).map_or("<none>", |address| word(address, "address"))
}

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = &node["status"]["nodeInfo"];
    let mut status = items(&node["status"], "conditions")
        .find(|condition| condition["type"] == "Ready")
        .map_or("Unknown", |condition| if condition["status"] == "True" { "Ready" } else { "NotReady" })
        .to_owned();
    if flag(&node["spec"], "unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = members(&node["metadata"], "labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    let mut kernel = or(word(info, "kernelVersion"), "<unknown>").to_owned();
    if !word(info, "architecture").is_empty() {
        kernel.push_str(&format!(" ({})", word(info, "architecture")));
    }
    vec![
        super::text(node, &["metadata", "name"]).into(),
        status.into(),
        or(&roles.join(","), "<none>").into(),
        age::age(node, now).into(),
        word(info, "kubeletVersion").into(),
        address(node, "InternalIP").into(),
        address(node, "ExternalIP").into(),
        or(word(info, "osImage"), "<unknown>").into(),
        kernel.into(),
        or(word(info, "containerRuntimeVersion"), "<unknown>").into(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_reads_as_kubectl_prints_it() {
        let node = json!({
            "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "False"}], "addresses": [{"type": "InternalIP", "address": "10.1.1.1"}],
                "nodeInfo": {"kubeletVersion": "v1.37.2", "kernelVersion": "6.1", "architecture": "amd64", "osImage": "Debian"}},
        });
        let shown: Vec<Value> = cells(&node, Timestamp::UNIX_EPOCH);
        assert_eq!(
            shown,
            [
                "n1",
                "NotReady,SchedulingDisabled",
                "worker",
                "<unknown>",
                "v1.37.2",
                "10.1.1.1",
                "<none>",
                "Debian",
                "6.1 (amd64)",
                "<unknown>"
            ]
        );
    }
}
