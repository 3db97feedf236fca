//! Nodes.

use jiff::Timestamp;
use serde_json::Value;
use trierarch_api::Quantity;

use super::parts::{self, shown, text, time};
use crate::kubectl::duration;

const ROLE: &str = "node-role.kubernetes.io/";

/// The text of a node, without its events. `pods` are those on it that have not ended.
pub fn describe(node: &Value, lease: Option<&Value>, pods: Option<&Value>, now: Timestamp) -> String {
    let (spec, status) = (&node["spec"], &node["status"]);
    let mut out = format!("Name:\t{}\n", text(&node["metadata"]["name"]));
    let mut roles: Vec<&str> = node["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| if key == "kubernetes.io/role" { value.as_str() } else { key.strip_prefix(ROLE) })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    out.push_str(&format!("Roles:\t{}\n", if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }));
    out.push_str(&parts::labels(node));
    out.push_str(&parts::annotations("Annotations", &node["metadata"]["annotations"]));
    out.push_str(&format!("CreationTimestamp:\t{}\n", time(&node["metadata"]["creationTimestamp"])));
    out.push_str(&taints(&spec["taints"]));
    out.push_str(&format!("Unschedulable:\t{}\n", spec["unschedulable"] == true));
    match lease {
        Some(lease) => {
            let micro = |value: &Value| value.as_str().map_or_else(|| "<unset>".to_owned(), duration::rfc1123);
            out.push_str(&format!(
                "Lease:\n  HolderIdentity:\t{}\n  AcquireTime:\t{}\n  RenewTime:\t{}\n",
                lease["spec"]["holderIdentity"].as_str().unwrap_or("<unset>"),
                micro(&lease["spec"]["acquireTime"]),
                micro(&lease["spec"]["renewTime"])
            ));
        }
        None => out.push_str(&format!(
            "Lease:\tFailed to get lease: leases.coordination.k8s.io {:?} not found\n",
            text(&node["metadata"]["name"])
        )),
    }
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !conditions.is_empty() {
        out.push_str("Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage\n");
        out.push_str("  ----\t------\t-----------------\t------------------\t------\t-------\n");
        for condition in conditions {
            let part = |field: &str| text(&condition[field]).to_owned();
            out.push_str(&format!(
                "  {} \t{} \t{} \t{} \t{} \t{}\n",
                part("type"),
                part("status"),
                time(&condition["lastHeartbeatTime"]),
                time(&condition["lastTransitionTime"]),
                part("reason"),
                part("message")
            ));
        }
    }
    out.push_str("Addresses:\n");
    for address in status["addresses"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {}:\t{}\n", text(&address["type"]), text(&address["address"])));
    }
    for (title, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        if let Some(map) = status[field].as_object().filter(|map| !map.is_empty()) {
            out.push_str(&format!("{title}:\n"));
            for (name, amount) in map {
                out.push_str(&format!("  {name}:\t{}\n", shown(amount)));
            }
        }
    }
    let info = &status["nodeInfo"];
    out.push_str("System Info:\n");
    for (title, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        out.push_str(&format!("  {title}:\t{}\n", text(&info[field])));
    }
    if let Some(range) = spec["podCIDR"].as_str().filter(|range| !range.is_empty()) {
        out.push_str(&format!("PodCIDR:\t{range}\n"));
    }
    let ranges: Vec<&str> = spec["podCIDRs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !ranges.is_empty() {
        out.push_str(&format!("PodCIDRs:\t{}\n", ranges.join(",")));
    }
    if let Some(id) = spec["providerID"].as_str().filter(|id| !id.is_empty()) {
        out.push_str(&format!("ProviderID:\t{id}\n"));
    }
    match pods {
        Some(pods) => out.push_str(&resources(status, pods, now)),
        None => out.push_str("Pods:\tnot authorized\n"),
    }
    out
}

fn taints(list: &Value) -> String {
    let mut lines: Vec<(String, String)> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|taint| {
            let part = |field: &str| text(&taint[field]).to_owned();
            let (key, value, effect) = (part("key"), part("value"), part("effect"));
            let pair = if value.is_empty() { key.clone() } else { format!("{key}={value}") };
            (format!("{effect},{key}"), format!("{pair}:{effect}\n"))
        })
        .collect();
    if lines.is_empty() {
        return "Taints:\t<none>\n".to_owned();
    }
    lines.sort();
    format!("Taints:\t{}", lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\t"))
}

/// What a pod asks for: the sum of its containers, or the largest init container, and its overhead.
fn amount(pod: &Value, part: &str, resource: &str) -> Quantity {
    let spec = &pod["spec"];
    let of = |container: &Value| shown(&container["resources"][part][resource]).parse::<Quantity>().unwrap_or(Quantity::ZERO);
    let mut sum = spec["containers"].as_array().into_iter().flatten().fold(Quantity::ZERO, |sum, container| sum.plus(of(container)));
    let mut sidecars = Quantity::ZERO;
    let mut largest = Quantity::ZERO;
    for container in spec["initContainers"].as_array().into_iter().flatten() {
        if container["restartPolicy"] == "Always" {
            sidecars = sidecars.plus(of(container));
            largest = largest.max(sidecars);
        } else {
            largest = largest.max(sidecars.plus(of(container)));
        }
    }
    sum = sum.plus(sidecars).max(largest);
    if let Ok(whole) = shown(&spec["resources"][part][resource]).parse::<Quantity>() {
        sum = whole;
    }
    let overhead = shown(&spec["overhead"][resource]).parse::<Quantity>().unwrap_or(Quantity::ZERO);
    if part == "requests" || !sum.is_zero() { sum.plus(overhead) } else { sum }
}

fn percent(amount: Quantity, of: Quantity) -> i64 {
    let (amount, of) = (i128::from(amount.millis()), i128::from(of.millis()));
    if of == 0 { 0 } else { i64::try_from(amount * 100 / of).unwrap_or(i64::MAX) }
}

fn resources(status: &Value, pods: &Value, now: Timestamp) -> String {
    let allocatable =
        if status["allocatable"].as_object().is_some_and(|map| !map.is_empty()) { &status["allocatable"] } else { &status["capacity"] };
    let available = |name: &str| shown(&allocatable[name]).parse::<Quantity>().unwrap_or(Quantity::ZERO);
    let pods = pods["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let cell = |amount: Quantity, name: &str| format!("{amount} ({}%)", percent(amount, available(name)));
    let mut out = format!("Non-terminated Pods:\t({} in total)\n", pods.len());
    out.push_str("  Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge\n");
    out.push_str("  ---------\t----\t\t------------\t----------\t---------------\t-------------\t---\n");
    for pod in pods {
        out.push_str(&format!(
            "  {}\t{}\t\t{}\t{}\t{}\t{}\t{}\n",
            text(&pod["metadata"]["namespace"]),
            text(&pod["metadata"]["name"]),
            cell(amount(pod, "requests", "cpu"), "cpu"),
            cell(amount(pod, "limits", "cpu"), "cpu"),
            cell(amount(pod, "requests", "memory"), "memory"),
            cell(amount(pod, "limits", "memory"), "memory"),
            duration::age(&pod["metadata"]["creationTimestamp"], now)
        ));
    }
    out.push_str("Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)\n");
    out.push_str("  Resource\tRequests\tLimits\n  --------\t--------\t------\n");
    let total = |part: &str, name: &str| pods.iter().fold(Quantity::ZERO, |sum, pod| sum.plus(amount(pod, part, name)));
    for name in ["cpu", "memory", "ephemeral-storage"] {
        out.push_str(&format!("  {name}\t{}\t{}\n", cell(total("requests", name), name), cell(total("limits", name), name)));
    }
    let names: Vec<&String> = allocatable.as_object().into_iter().flat_map(|map| map.keys()).collect();
    for name in names.iter().filter(|name| name.starts_with("hugepages-")) {
        out.push_str(&format!("  {name}\t{}\t{}\n", cell(total("requests", name), name), cell(total("limits", name), name)));
    }
    for name in names
        .iter()
        .filter(|name| !name.starts_with("hugepages-") && !["cpu", "memory", "ephemeral-storage", "pods"].contains(&name.as_str()))
    {
        out.push_str(&format!("  {name}\t{}\t{}\n", total("requests", name), total("limits", name)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_asks_for_its_containers_or_its_largest_init_container() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let pod =
            json!({"spec": {"containers": [container("100m"), container("200m")], "initContainers": [container("250m"), container("1")]}});
        assert_eq!(amount(&pod, "requests", "cpu").to_string(), "1");
        assert_eq!(amount(&json!({"spec": {"containers": [container("100m"), container("200m")]}}), "requests", "cpu").to_string(), "300m");
        assert_eq!(percent("250m".parse().expect("a quantity"), "2".parse().expect("a quantity")), 12);
        assert_eq!(
            taints(&json!([{"key": "b", "effect": "NoSchedule"}, {"key": "a", "value": "1", "effect": "NoExecute"}])),
            "Taints:\ta=1:NoExecute\n\tb:NoSchedule\n"
        );
    }
}
