//! What an object counts for in its namespace's quotas, and whether there is room for it. Pure.
//!
//! `Spec:` Kubernetes "Resource Quotas". The API server admits by it, in the transaction that stores the object; a controller counts
//! everything again when something goes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::kind::Kind;
use crate::kinds::pod::qos_class;
use crate::quantity::{Format, Quantity};
use crate::selector::LabelSelector;

/// Amounts by the names that quotas know them by.
pub type Amounts = BTreeMap<String, Quantity>;

/// What a pod's requests and limits count as, besides extended resources and huge pages.
const COMPUTE: [(&str, &[&str], &str); 3] = [
    ("cpu", &["cpu", "requests.cpu"], "limits.cpu"),
    ("memory", &["memory", "requests.memory"], "limits.memory"),
    ("ephemeral-storage", &["ephemeral-storage", "requests.ephemeral-storage"], "limits.ephemeral-storage"),
];
/// A quota for one of these demands that every container states it.
const MUST_BE_STATED: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
/// Kinds whose number is also counted under their plain name.
const PLAIN_COUNTS: [&str; 5] = ["configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets"];
const HUGE_PAGES: &str = "hugepages-";

/// Whether objects of a kind are counted at all.
pub fn counts(kind: &Kind) -> bool {
    kind.namespaced_scope() && kind.stored_as.is_none() && kind.plural != "events"
}

/// What an object uses.
pub fn usage(kind: &Kind, object: &Value, now: Timestamp) -> Amounts {
    let mut used = Amounts::from([(count_name(kind), one())]);
    match (kind.group.as_ref(), kind.plural.as_ref()) {
        ("", "pods") if !is_over(object, now) => add(&mut used, &pod_usage(&object["spec"])),
        ("", "services") => add(&mut used, &service_usage(&object["spec"])),
        ("", plural) if PLAIN_COUNTS.contains(&plural) => {
            used.insert(plural.to_owned(), one());
        }
        _ => {}
    }
    used
}

/// The limits of a quota that an object of a kind can touch.
pub fn concerned(kind: &Kind, hard: &Value) -> BTreeSet<String> {
    let names = hard.as_object().into_iter().flatten().map(|(name, _)| name);
    let touches = |name: &str| match (kind.group.as_ref(), kind.plural.as_ref()) {
        ("", "pods") => {
            name == "pods"
                || name.strip_prefix("requests.").unwrap_or(name).starts_with(HUGE_PAGES)
                || COMPUTE.iter().any(|(_, requests, limits)| requests.contains(&name) || *limits == name)
                || name.strip_prefix("requests.").is_some_and(|rest| rest.contains('/') && !rest.starts_with("kubernetes.io/"))
        }
        ("", "services") => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        ("", plural) => PLAIN_COUNTS.contains(&plural) && name == plural,
        _ => false,
    };
    let count = count_name(kind);
    names.filter(|name| **name == count || touches(name)).cloned().collect()
}

/// Whether an object is of those a quota is about.
pub fn in_scope(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let spec = &quota["spec"];
    let is_pod = kind.group.is_empty() && kind.plural == "pods";
    let mut plain = spec["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    plain.all(|scope| is_pod && pod_is_in(object, scope, &Value::Null))
        && spec["scopeSelector"]["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|requirement| is_pod && pod_is_in(object, requirement["scopeName"].as_str().unwrap_or_default(), requirement))
}

/// What a quota's `status.used` becomes when `new` is stored in place of `old`; `None` when it stays.
///
/// # Errors
/// Why there is no room, in Kubernetes' words.
pub fn charge(quota: &Value, kind: &Kind, new: &Value, old: Option<&Value>, now: Timestamp) -> Result<Option<Value>, String> {
    let (hard, used) = (&quota["status"]["hard"], &quota["status"]["used"]);
    let limits = concerned(kind, hard);
    if limits.is_empty() || !in_scope(quota, kind, new) {
        return Ok(None);
    }
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    if kind.group.is_empty() && kind.plural == "pods" {
        all_stated(&new["spec"], &limits).map_err(|why| format!("failed quota: {name}: {why}"))?;
    }
    if limits.iter().any(|limit| used[limit.as_str()].is_null()) {
        return Err(format!("status unknown for quota: {name}, resources: {}", limits.into_iter().collect::<Vec<_>>().join(",")));
    }
    let mut wanted = usage(kind, new, now);
    let negative: Vec<&str> = wanted.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    if let Some(old) = old.filter(|old| in_scope(quota, kind, old)) {
        for (name, before) in usage(kind, old, now) {
            if let Some(amount) = wanted.get_mut(&name) {
                // what is given back is counted by the controller
                *amount = if before >= *amount { Quantity::ZERO } else { amount.minus(before) };
            }
        }
    }
    wanted.retain(|name, amount| !amount.is_zero() && limits.contains(name));
    if wanted.is_empty() {
        return Ok(None);
    }
    let (hard, before) = (amounts(hard), amounts(used));
    let mut after = before.clone();
    add(&mut after, &wanted);
    let exceeded: Vec<&String> = wanted.keys().filter(|name| hard.get(*name).is_some_and(|limit| after[*name] > *limit)).collect();
    if !exceeded.is_empty() {
        let show = |all: &Amounts| {
            let shown = exceeded.iter().map(|name| format!("{name}={}", all.get(*name).copied().unwrap_or(Quantity::ZERO)));
            shown.collect::<Vec<_>>().join(",")
        };
        return Err(format!("exceeded quota: {name}, requested: {}, used: {}, limited: {}", show(&wanted), show(&before), show(&hard)));
    }
    Ok(Some(to_json(&after)))
}

/// Reads a `ResourceList`.
pub fn amounts(list: &Value) -> Amounts {
    let entries = list.as_object().into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), amount.as_str()?.parse().ok()?))).collect()
}

/// Writes a `ResourceList`.
pub fn to_json(amounts: &Amounts) -> Value {
    Value::Object(amounts.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect())
}

/// Adds amounts to others.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = to.entry(name.clone()).or_insert(Quantity::ZERO);
        *entry = entry.plus(*amount);
    }
}

/// Whether a pod counts for nothing but its existence: it has ended, or should have.
fn is_over(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return true;
    }
    ends_at(pod).is_some_and(|end| now > end)
}

/// When a pod that is being deleted stops to count.
pub fn ends_at(pod: &Value) -> Option<Timestamp> {
    let metadata = &pod["metadata"];
    let deleted: Timestamp = metadata["deletionTimestamp"].as_str()?.parse().ok()?;
    let grace = SignedDuration::from_secs(metadata["deletionGracePeriodSeconds"].as_i64()?);
    Some(deleted.saturating_add(grace).unwrap_or(deleted))
}

fn one() -> Quantity {
    Quantity::from_units(1, Format::DecimalSi)
}

fn count_name(kind: &Kind) -> String {
    if kind.group.is_empty() { format!("count/{}", kind.plural) } else { format!("count/{}.{}", kind.plural, kind.group) }
}

fn service_usage(spec: &Value) -> Amounts {
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let all = ports.len();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (all, 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            (ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count(), 1)
        }
        Some("LoadBalancer") => (all, 1),
        _ => (0, 0),
    };
    let number = |count: usize| Quantity::from_units(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi);
    [("services", 1), ("services.nodeports", node_ports), ("services.loadbalancers", balancers)]
        .map(|(name, count)| (name.to_owned(), number(count)))
        .into()
}

fn pod_usage(spec: &Value) -> Amounts {
    let mut used = compute(&together(spec, "requests"), &together(spec, "limits"));
    used.insert("pods".to_owned(), one());
    used
}

/// Requests and limits by the names of quotas.
fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::new();
    for (name, as_requests, as_limit) in COMPUTE {
        if let Some(amount) = requests.get(name) {
            used.extend(as_requests.iter().map(|name| ((*name).to_owned(), *amount)));
        }
        if let Some(amount) = limits.get(name) {
            used.insert(as_limit.to_owned(), *amount);
        }
    }
    for (name, amount) in requests {
        if name.starts_with(HUGE_PAGES) {
            used.insert(name.clone(), *amount);
        }
        if name.starts_with(HUGE_PAGES) || name.contains('/') {
            used.insert(format!("requests.{name}"), *amount);
        }
    }
    used
}

/// What a pod asks for as a whole: containers run together, init containers one after the other, sidecars beside what follows them
/// (`Spec:` KEP-753).
fn together(spec: &Value, which: &str) -> Amounts {
    let of = |container: &Value| amounts(&container["resources"][which]);
    let list = |name: &str| spec[name].as_array().cloned().unwrap_or_default();
    let mut total = Amounts::new();
    for container in list("containers") {
        add(&mut total, &of(&container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in list("initContainers") {
        let own = of(&container);
        let mut now = sidecars.clone();
        add(&mut now, &own);
        if container["restartPolicy"] == "Always" {
            add(&mut total, &own);
            sidecars.clone_from(&now);
        }
        raise(&mut peak, now);
    }
    raise(&mut total, peak);
    // what is stated for the whole pod replaces the sum
    total.extend(amounts(&spec["resources"][which]));
    let overhead = amounts(&spec["overhead"]);
    if which == "limits" {
        // overhead limits only what is limited
        let limited: Amounts = overhead.into_iter().filter(|(name, _)| total.contains_key(name)).collect();
        add(&mut total, &limited);
    } else {
        add(&mut total, &overhead);
    }
    total
}

fn raise(to: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        let entry = to.entry(name).or_insert(amount);
        *entry = (*entry).max(amount);
    }
}

/// Every container states what the quota limits.
fn all_stated(spec: &Value, limits: &BTreeSet<String>) -> Result<(), String> {
    if spec["resources"].as_object().is_some_and(|whole| !whole.is_empty()) {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|field| spec[*field].as_array().into_iter().flatten()) {
        let stated = compute(&amounts(&container["resources"]["requests"]), &amounts(&container["resources"]["limits"]));
        for name in MUST_BE_STATED.into_iter().filter(|name| limits.contains(*name) && !stated.contains_key(*name)) {
            missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or_default().to_owned());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let each =
        missing.into_iter().map(|(name, containers)| format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(",")));
    Err(format!("must specify {}", each.collect::<Vec<_>>().join("; ")))
}

fn pod_is_in(pod: &Value, scope: &str, requirement: &Value) -> bool {
    let spec = &pod["spec"];
    let ends = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    let best_effort = || qos_class(spec) == "BestEffort";
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => has_priority_class(spec, requirement),
        "CrossNamespacePodAffinity" => looks_across_namespaces(&spec["affinity"]),
        _ => false,
    }
}

fn has_priority_class(spec: &Value, requirement: &Value) -> bool {
    let class = spec["priorityClassName"].as_str().filter(|class| !class.is_empty());
    let operator = requirement["operator"].as_str().unwrap_or("Exists");
    if operator == "Exists" {
        return class.is_some();
    }
    let mut expression = requirement.clone();
    expression["key"] = "PriorityClass".into();
    let selector = LabelSelector::from_json(&serde_json::json!({ "matchExpressions": [expression] }));
    let labels = class.map(|class| ("PriorityClass".to_owned(), class.to_owned())).into_iter().collect();
    selector.is_ok_and(|selector| selector.matches(&labels))
}

fn looks_across_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|list| !list.is_empty()) || term.get("namespaceSelector").is_some_and(Value::is_object)
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        list(&affinity[*kind]["requiredDuringSchedulingIgnoredDuringExecution"]).iter().any(crosses)
            || list(&affinity[*kind]["preferredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests;
