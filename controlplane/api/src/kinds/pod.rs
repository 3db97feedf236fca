//! Pod (`Spec:` Kubernetes API reference, Pod).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::json::{fill, flag, has, inner, items, items_mut, made, number, or, set, unset, word};
use super::{age, pod_spec, pod_validate};
use crate::quantity::Quantity;
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, RequestFacts, Rules, bump_generation, keep_all_but_status, keep_status};

/// Pod's decisions.
pub const RULES: Rules = Rules {
    default,
    prepare_create,
    prepare_update,
    prepare_status,
    validate: pod_validate::validate,
    validate_create: pod_validate::validate_create,
    warnings: pod_validate::warnings,
    validate_update: pod_validate::validate_update,
    validate_status: pod_validate::validate_status,
    columns: &[
        NAME_COLUMN,
        Column::new("Ready", "string", "The aggregate readiness state of this pod for accepting traffic."),
        Column::new("Status", "string", "The aggregate status of the containers in this pod."),
        Column::new(
            "Restarts",
            "string",
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
        AGE_COLUMN,
        Column::wide("IP", "string", "IP address allocated to the pod."),
        Column::wide("Node", "string", "The node that this pod is scheduled to."),
        Column::wide("Nominated Node", "string", "The node on which preemption makes room for this pod."),
        Column::wide("Readiness Gates", "string", "How many of the pod's readiness gates are true."),
    ],
    cells,
    own_fields: true,
    field,
    has_generation: true,
    ..Rules::PLAIN
};

fn default(pod: &mut Value) {
    if let Some(status) = inner(pod, "status") {
        let first = status["podIPs"][0]["ip"].as_str().map(str::to_owned);
        let single = word(status, "podIP").to_owned();
        match first {
            Some(first) if single.is_empty() => set(status, "podIP", first),
            Some(first) if first == single => {}
            _ if single.is_empty() => {}
            _ => set(status, "podIPs", json!([{"ip": single}])),
        }
    }
    let spec = made(pod, "spec");
    pod_spec::default(spec);
    if number(spec, "terminationGracePeriodSeconds") < 0 {
        set(spec, "terminationGracePeriodSeconds", 1);
    }
    fill(spec, "enableServiceLinks", true);
    let host_network = flag(spec, "hostNetwork");
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            if let Some(resources) = inner(container, "resources")
                && let Some(limits) = resources.get("limits").and_then(Value::as_object).filter(|limits| !limits.is_empty()).cloned()
            {
                let requests = made(resources, "requests");
                for (name, limit) in limits {
                    fill(requests, &name, limit);
                }
            }
            if host_network {
                for port in items_mut(container, "ports") {
                    let same = number(port, "containerPort");
                    super::json::fill_number(port, "hostPort", same);
                }
            }
        }
    }
    let resources = inner(spec, "resources").and_then(|resources| resources.get("limits").cloned());
    if let Some(limits) = resources.as_ref().and_then(Value::as_object) {
        let sums = effective_requests(spec);
        let requests = made(&mut spec["resources"], "requests");
        for (name, sum) in sums {
            if matches!(name.as_str(), "cpu" | "memory") {
                fill(requests, &name, sum.to_string());
            }
        }
        for (name, limit) in limits {
            fill(requests, name, limit.clone());
        }
    }
}

/// What the containers of a pod ask for together: the sum of those that run side by side, or what one init container needs.
pub fn effective_requests(spec: &Value) -> Vec<(String, Quantity)> {
    let mut names: Vec<&String> = Vec::new();
    for list in ["initContainers", "containers"] {
        for container in items(spec, list) {
            names.extend(container["resources"]["requests"].as_object().into_iter().flatten().map(|(name, _)| name));
        }
    }
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let ask = |container: &Value| -> Quantity {
                container["resources"]["requests"][name].as_str().and_then(|text| text.parse().ok()).unwrap_or(Quantity::ZERO)
            };
            let running = items(spec, "containers").fold(Quantity::ZERO, |sum, container| sum.plus(ask(container)));
            let mut sidecars = Quantity::ZERO;
            let mut peak = Quantity::ZERO;
            for container in items(spec, "initContainers") {
                if word(container, "restartPolicy") == "Always" {
                    sidecars = sidecars.plus(ask(container));
                    peak = peak.max(sidecars);
                } else {
                    peak = peak.max(sidecars.plus(ask(container)));
                }
            }
            (name.clone(), running.plus(sidecars).max(peak))
        })
        .collect()
}

/// `Guaranteed`, `Burstable` or `BestEffort` (`Spec:` Kubernetes "Pod Quality of Service Classes").
pub fn qos_class(spec: &Value) -> &'static str {
    let parsed = |resources: &Value, kind: &str, name: &str| -> Option<Quantity> {
        resources[kind][name].as_str().and_then(|text| text.parse::<Quantity>().ok()).filter(|quantity| !quantity.is_zero())
    };
    let judge = |all: &[&Value]| {
        let (mut any, mut guaranteed) = (false, true);
        for resources in all {
            for name in ["cpu", "memory"] {
                let (request, limit) = (parsed(resources, "requests", name), parsed(resources, "limits", name));
                any |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
            }
        }
        if !any {
            "BestEffort"
        } else if guaranteed {
            "Guaranteed"
        } else {
            "Burstable"
        }
    };
    if has(spec, "resources") && (super::json::count(&spec["resources"], "limits") + super::json::count(&spec["resources"], "requests") > 0)
    {
        return judge(&[&spec["resources"]]);
    }
    let all: Vec<&Value> =
        items(spec, "containers").chain(items(spec, "initContainers")).map(|container| &container["resources"]).collect();
    judge(&all)
}

fn prepare_create(pod: &mut Value, facts: &RequestFacts) {
    crate::rules::first_generation(pod, facts);
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(&pod["spec"])});
    if super::json::count(&pod["spec"], "schedulingGates") > 0 {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastProbeTime": null,
            "lastTransitionTime": crate::decode::time_text(facts.now),
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    set(pod, "status", status);
}

fn prepare_update(new: &mut Value, old: &Value, facts: &RequestFacts) {
    keep_status(new, old, facts);
    bump_generation(new, old, new.get("spec") != old.get("spec"));
}

fn prepare_status(new: &mut Value, old: &Value, facts: &RequestFacts) {
    keep_all_but_status(new, old, facts);
    let class = old["status"]["qosClass"].clone();
    if let Some(status) = inner(new, "status")
        && class.is_string()
    {
        fill(status, "qosClass", class);
    }
}

/// What the `ephemeralcontainers` subresource takes from a new object: only its ephemeral containers.
pub fn take_ephemeral_containers(new: &mut Value, old: &Value) {
    let containers = new["spec"].get("ephemeralContainers").cloned();
    let resource_version = new["metadata"].get("resourceVersion").cloned();
    let managed = new["metadata"].get("managedFields").cloned();
    *new = old.clone();
    match containers {
        Some(containers) => set(&mut new["spec"], "ephemeralContainers", containers),
        None => {
            unset(&mut new["spec"], "ephemeralContainers");
        }
    }
    for (key, value) in [("resourceVersion", resource_version), ("managedFields", managed)] {
        if let Some(value) = value {
            set(&mut new["metadata"], key, value);
        }
    }
    bump_generation(new, old, new.get("spec") != old.get("spec"));
}

/// What the `resize` subresource takes from a new object: the resources and resize policies of its containers, and of the pod.
pub fn take_resize(new: &mut Value, old: &Value) {
    let wanted = new["spec"].clone();
    let resource_version = new["metadata"].get("resourceVersion").cloned();
    *new = old.clone();
    for list in ["containers", "initContainers"] {
        for container in items_mut(&mut new["spec"], list) {
            let Some(source) = items(&wanted, list).find(|other| other["name"] == container["name"]) else { continue };
            for key in ["resources", "resizePolicy"] {
                match source.get(key) {
                    Some(value) => set(container, key, value.clone()),
                    None => {
                        unset(container, key);
                    }
                }
            }
        }
    }
    if let Some(resources) = wanted.get("resources") {
        set(&mut new["spec"], "resources", resources.clone());
    }
    if let Some(version) = resource_version {
        set(&mut new["metadata"], "resourceVersion", version);
    }
    bump_generation(new, old, new.get("spec") != old.get("spec"));
}

fn field(pod: &Value, name: &str) -> Option<String> {
    let text = |path: &[&str]| Some(super::text(pod, path).to_owned());
    match name {
        "spec.nodeName" => text(&["spec", "nodeName"]),
        "spec.restartPolicy" => text(&["spec", "restartPolicy"]),
        "spec.schedulerName" => text(&["spec", "schedulerName"]),
        "spec.serviceAccountName" => text(&["spec", "serviceAccountName"]),
        "spec.hostNetwork" => Some(flag(&pod["spec"], "hostNetwork").to_string()),
        "status.phase" => text(&["status", "phase"]),
        "status.podIP" => text(&["status", "podIP"]),
        "status.podIPs" => Some(items(&pod["status"], "podIPs").map(|ip| word(ip, "ip")).collect::<Vec<_>>().join(",")),
        "status.nominatedNodeName" => text(&["status", "nominatedNodeName"]),
        _ => None,
    }
}

fn condition_is_true(status: &Value, kind: &str) -> bool {
    items(status, "conditions").any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn terminated_reason(terminated: &Value) -> String {
    match (word(terminated, "reason"), number(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// What `kubectl get pods` calls the pod's status, with the numbers of ready containers and restarts and the last restart.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: String,
}

fn later(latest: &mut String, container: &Value) {
    let finished = word(&container["lastState"]["terminated"], "finishedAt");
    if finished > latest.as_str() {
        *latest = finished.to_owned();
    }
}

fn summary(pod: &Value) -> Summary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let phase = word(status, "phase");
    let mut out = Summary {
        ready: 0,
        total: items(spec, "containers").count(),
        reason: or(word(status, "reason"), phase).to_owned(),
        restarts: 0,
        last_restart: String::new(),
    };
    if items(status, "conditions").any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut out.reason);
    }
    let restartable = |name: &Value| items(spec, "initContainers").any(|c| &c["name"] == name && c["restartPolicy"] == "Always");
    let inits = items(spec, "initContainers").count();
    out.total += items(spec, "initContainers").filter(|c| c["restartPolicy"] == "Always").count();
    let (mut sidecar_restarts, mut sidecar_last) = (0, String::new());
    let mut initializing = false;
    for (index, container) in items(status, "initContainerStatuses").enumerate() {
        out.restarts += number(container, "restartCount");
        later(&mut out.last_restart, container);
        let sidecar = restartable(&container["name"]);
        if sidecar {
            sidecar_restarts += number(container, "restartCount");
            later(&mut sidecar_last, container);
        }
        let state = &container["state"];
        if has(state, "terminated") && number(&state["terminated"], "exitCode") == 0 {
            continue;
        }
        if sidecar && flag(container, "started") {
            out.ready += usize::from(flag(container, "ready"));
            continue;
        }
        out.reason = if has(state, "terminated") {
            format!("Init:{}", terminated_reason(&state["terminated"]))
        } else {
            match word(&state["waiting"], "reason") {
                "" | "PodInitializing" => format!("Init:{index}/{inits}"),
                reason => format!("Init:{reason}"),
            }
        };
        initializing = true;
        break;
    }
    if !initializing || condition_is_true(status, "Initialized") {
        out.restarts = sidecar_restarts;
        out.last_restart = sidecar_last;
        let (mut running, mut error) = (false, String::new());
        let statuses: Vec<&Value> = items(status, "containerStatuses").collect();
        for container in statuses.into_iter().rev() {
            out.restarts += number(container, "restartCount");
            later(&mut out.last_restart, container);
            let state = &container["state"];
            if !word(&state["waiting"], "reason").is_empty() {
                word(&state["waiting"], "reason").clone_into(&mut out.reason);
            } else if has(state, "terminated") {
                out.reason = terminated_reason(&state["terminated"]);
                if number(&state["terminated"], "exitCode") != 0 {
                    error.clone_from(&out.reason);
                }
            } else if flag(container, "ready") && has(state, "running") {
                running = true;
                out.ready += 1;
            }
        }
        if out.reason == "Completed" {
            if running && condition_is_true(status, "Ready") {
                "Running".clone_into(&mut out.reason);
            } else if !error.is_empty() {
                out.reason = error;
            } else if running {
                "NotReady".clone_into(&mut out.reason);
            }
        }
    }
    if has(&pod["metadata"], "deletionTimestamp") {
        if word(status, "reason") == "NodeLost" {
            "Unknown".clone_into(&mut out.reason);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut out.reason);
        }
    }
    out
}

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let summary = summary(pod);
    let restarts = if summary.restarts != 0 && !summary.last_restart.is_empty() {
        format!("{} ({} ago)", summary.restarts, age::since(&summary.last_restart, now))
    } else {
        summary.restarts.to_string()
    };
    let gates: Vec<&Value> = items(spec, "readinessGates").collect();
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let met = gates.iter().filter(|gate| condition_is_true(status, word(gate, "conditionType"))).count();
        format!("{met}/{}", gates.len())
    };
    vec![
        super::text(pod, &["metadata", "name"]).into(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age::age(pod, now).into(),
        or(status["podIPs"][0]["ip"].as_str().unwrap_or_default(), "<none>").into(),
        or(word(spec, "nodeName"), "<none>").into(),
        or(word(status, "nominatedNodeName"), "<none>").into(),
        gates.into(),
    ]
}

/// Conditions of a table row: finished pods are marked, so that clients may hide them.
pub fn row_conditions(pod: &Value) -> Vec<Value> {
    match word(&pod["status"], "phase") {
        "Succeeded" => {
            vec![json!({"type": "Completed", "status": "True", "reason": "Succeeded", "message": "The pod has completed successfully."})]
        }
        "Failed" => vec![json!({"type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed."})],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pod: Value) -> Vec<String> {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        cells(&pod, now).iter().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn status_reads_as_kubectl_prints_it() {
        let pod = json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n1"},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
                 "lastState": {"terminated": {"finishedAt": "2026-01-01T00:09:00Z"}}},
                {"name": "b", "restartCount": 0, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
            ]},
        });
        assert_eq!(shown(pod), ["p", "1/2", "CrashLoopBackOff", "2 (60s ago)", "10m", "10.0.0.1", "n1", "<none>", "<none>"]);
        for (state, expected) in [
            (json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), "Completed"),
            (json!({"terminated": {"exitCode": 3}}), "ExitCode:3"),
            (json!({"terminated": {"exitCode": 137, "signal": 9}}), "Signal:9"),
            (json!({"terminated": {"exitCode": 1, "reason": "Error"}}), "Error"),
        ] {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]},
                "status": {"phase": "Succeeded", "containerStatuses": [{"name": "a", "state": state}]}});
            assert_eq!(shown(pod)[2], expected);
        }
        let init = json!({"metadata": {"name": "p"}, "spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]}});
        assert_eq!(shown(init)[1..3], ["0/1", "Init:1/2"]);
        let dying = json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(shown(dying)[2], "Terminating");
    }

    #[test]
    fn quality_of_service() {
        let class = |resources: Value| qos_class(&json!({"containers": [{"resources": resources}]}));
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}})), "Guaranteed");
        assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}})), "Burstable");
    }

    #[test]
    fn requests_follow_limits_and_host_ports_follow_container_ports() {
        let mut pod = json!({"spec": {"hostNetwork": true, "containers": [
            {"name": "c", "image": "i", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}]}});
        default(&mut pod);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
        assert_eq!(container["ports"][0]["hostPort"], 80);
        assert_eq!(pod["spec"]["enableServiceLinks"], true);
    }
}
