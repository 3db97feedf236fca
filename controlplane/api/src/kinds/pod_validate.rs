//! What is wrong with a pod, in upstream's words.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::container_validate::{self as container, Surroundings, is_false, one_of};
use super::json::{count, flag, has, items, items_mut, members, number, word};
use super::scheduling_validate as scheduling;
use super::volume_validate as volume;
use crate::names;
use crate::problem::{Path, Problems};

/// Problems of a pod by itself.
pub(super) fn validate(pod: &Value, problems: &mut Problems) {
    let path = Path::new("spec");
    spec(&pod["spec"], &path, true, problems);
    for list in ["containers", "initContainers"] {
        for (index, found) in items(&pod["spec"], list).enumerate() {
            container::only_for_pods(found, &path.child(list).index(index), problems);
        }
    }
}

/// Problems of a new pod beside those of any.
pub(super) fn validate_create(pod: &Value, problems: &mut Problems) {
    if count(&pod["spec"], "ephemeralContainers") > 0 {
        problems.forbidden(&Path::new("spec").child("ephemeralContainers"), "cannot be set on create");
    }
}

/// What a client should know although it is allowed.
pub(super) fn warnings(pod: &Value) -> Vec<String> {
    let complaints = names::dns_label(super::text(pod, &["metadata", "name"]));
    if complaints.is_empty() {
        return Vec::new();
    }
    const WHY: &str =
        "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended";
    vec![format!("{WHY}: [{}]", complaints.join(" "))]
}

/// Problems of a pod's spec, or of a template's (`is_pod` is false).
pub(super) fn spec(spec: &Value, path: &Path, is_pod: bool, problems: &mut Problems) {
    let volumes = volume::volumes(spec, path, problems);
    let around = Surroundings { spec, volumes: &volumes };
    container::containers(&around, path, problems);
    container::init_containers(&around, path, problems);
    container::ephemeral_containers(&around, path, problems);
    if has(spec, "resources") {
        container::resources(&spec["resources"], &path.child("resources"), problems);
    }
    host_network(spec, path, is_pod, problems);
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, problems);
    one_of(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], path, problems);
    scheduling::labels(spec, "nodeSelector", &path.child("nodeSelector"), problems);
    security_context(&spec["securityContext"], &path.child("securityContext"), problems);
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        problems.invalid(&path.child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    scheduling::affinity(&spec["affinity"], &path.child("affinity"), problems);
    dns_config(spec, &path.child("dnsConfig"), problems);
    gates(spec, path, problems);
    scheduling::spread(spec, &path.child("topologySpreadConstraints"), problems);
    host_users(spec, path, problems);
    texts(spec, path, problems);
    scheduling::tolerations(spec, &path.child("tolerations"), problems);
    for (index, alias) in items(spec, "hostAliases").enumerate() {
        let at = path.child("hostAliases").index(index);
        problems.all_invalid(&at.child("ip"), word(alias, "ip"), names::ip(word(alias, "ip")));
        for (position, name) in items(alias, "hostnames").enumerate() {
            let text = name.as_str().unwrap_or_default();
            problems.all_invalid(&at.child("hostnames").index(position), text, names::dns_subdomain(text));
        }
    }
    last_fields(spec, path, problems);
}

fn host_network(spec: &Value, path: &Path, is_pod: bool, problems: &mut Problems) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    for (index, container) in items(spec, "containers").enumerate() {
        for (position, port) in items(container, "ports").enumerate() {
            let (host, inside) = (number(port, "hostPort"), number(port, "containerPort"));
            if (is_pod || host != 0) && host != inside {
                let at = path.child("containers").index(index).child("ports").index(position).child("hostPort");
                problems.invalid(&at, host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn security_context(context: &Value, path: &Path, problems: &mut Problems) {
    if !context.is_object() {
        return;
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        container::identity(context, field, path, problems);
    }
    for (index, group) in items(context, "supplementalGroups").enumerate() {
        let number = group.as_i64().unwrap_or(0);
        if !(0..=i64::from(i32::MAX)).contains(&number) {
            let why = names::range_error(0, i64::from(i32::MAX));
            problems.invalid(&path.child("supplementalGroups").index(index), number, why);
        }
    }
    let mut seen = BTreeSet::new();
    for (index, sysctl) in items(context, "sysctls").enumerate() {
        let (name, at) = (word(sysctl, "name"), path.child("sysctls").index(index).child("name"));
        if name.is_empty() {
            problems.required(&at, "");
        } else if !is_sysctl(name) {
            const REGEX: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            problems.invalid(&at, name, format!("must have at most 253 characters and match regex {REGEX}"));
        } else if !seen.insert(name) {
            problems.duplicate(&at, name);
        }
    }
    for (field, supported) in [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"][..]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &["MountOption", "Recursive"]),
    ] {
        if has(context, field) && !supported.contains(&word(context, field)) {
            problems.not_supported(&path.child(field), word(context, field), supported);
        }
    }
    container::profiles(context, path, problems);
}

fn is_sysctl(name: &str) -> bool {
    let part = |text: &str| {
        let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        match (bytes.first(), bytes.last()) {
            (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|byte| edge(*byte) || matches!(byte, b'-' | b'_')),
            _ => false,
        }
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

fn dns_config(spec: &Value, path: &Path, problems: &mut Problems) {
    const SERVERS_MAX: usize = 3;
    const SEARCHES_MAX: usize = 32;
    const SEARCH_CHARACTERS_MAX: usize = 2048;
    let config = &spec["dnsConfig"];
    let nameservers = path.child("nameservers");
    if word(spec, "dnsPolicy") == "None" && count(config, "nameservers") == 0 {
        let at = if has(spec, "dnsConfig") { &nameservers } else { path };
        let why = if has(spec, "dnsConfig") {
            "must provide at least one DNS nameserver when `dnsPolicy` is None".to_owned()
        } else {
            "must provide `dnsConfig` when `dnsPolicy` is None".to_owned()
        };
        problems.required(at, why);
        return;
    }
    if count(config, "nameservers") > SERVERS_MAX {
        problems.invalid(&nameservers, config["nameservers"].clone(), format!("must not have more than {SERVERS_MAX} nameservers"));
    }
    for (index, server) in items(config, "nameservers").enumerate() {
        let text = server.as_str().unwrap_or_default();
        problems.all_invalid(&nameservers.index(index), text, names::ip(text));
    }
    let searches: Vec<&str> = items(config, "searches").filter_map(Value::as_str).collect();
    let at = path.child("searches");
    if searches.len() > SEARCHES_MAX {
        problems.invalid(&at, config["searches"].clone(), format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    if searches.join(" ").len() > SEARCH_CHARACTERS_MAX {
        let why = format!("must not have more than {SEARCH_CHARACTERS_MAX} characters (including spaces) in the search list");
        problems.invalid(&at, config["searches"].clone(), why);
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let text = search.strip_suffix('.').unwrap_or(search);
        // underscores are allowed here
        if !names::dns_subdomain(&text.replace('_', "a")).is_empty() {
            problems.all_invalid(&at.index(index), text, names::dns_subdomain_with_underscore(text));
        }
    }
    for (index, option) in items(config, "options").enumerate() {
        if word(option, "name").is_empty() {
            problems.required(&path.child("options").index(index), "must not be empty");
        }
    }
}

fn gates(spec: &Value, path: &Path, problems: &mut Problems) {
    for (index, gate) in items(spec, "readinessGates").enumerate() {
        let kind = word(gate, "conditionType");
        let at = path.child("readinessGates").index(index).child("conditionType");
        problems.all_invalid(&at, kind, names::qualified_name(kind));
    }
    let mut seen = BTreeSet::new();
    for (index, gate) in items(spec, "schedulingGates").enumerate() {
        let (name, at) = (word(gate, "name"), path.child("schedulingGates").index(index));
        problems.all_invalid(&at, name, names::qualified_name(name));
        if !seen.insert(name) {
            problems.duplicate(&at, name);
        }
    }
}

fn host_users(spec: &Value, path: &Path, problems: &mut Problems) {
    if !is_false(spec, "hostUsers") {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, field) {
            problems.forbidden(&path.child(shown), "when `hostUsers` is false");
        }
    }
}

/// Names that a spec refers to, and its deadline.
fn texts(spec: &Value, path: &Path, problems: &mut Problems) {
    for field in ["serviceAccountName", "nodeName"] {
        let value = word(spec, field);
        if !value.is_empty() {
            problems.all_invalid(&path.child(field), value, names::dns_subdomain(value));
        }
    }
    if has(spec, "activeDeadlineSeconds") {
        let seconds = number(spec, "activeDeadlineSeconds");
        if !(1..=i64::from(i32::MAX)).contains(&seconds) {
            problems.invalid(&path.child("activeDeadlineSeconds"), seconds, names::range_error(1, i64::from(i32::MAX)));
        }
    }
    for field in ["hostname", "subdomain"] {
        let value = word(spec, field);
        if !value.is_empty() {
            problems.all_invalid(&path.child(field), value, names::dns_label(value));
        }
    }
}

fn last_fields(spec: &Value, path: &Path, problems: &mut Problems) {
    for field in ["priorityClassName", "runtimeClassName"] {
        let value = word(spec, field);
        if !value.is_empty() {
            problems.all_invalid(&path.child(field), value, names::dns_subdomain(value));
        }
    }
    if has(spec, "preemptionPolicy") {
        one_of(spec, "preemptionPolicy", &["PreemptLowerPriority", "Never"], path, problems);
    }
    for (name, value) in members(spec, "overhead") {
        container::resource_amount(name, value, &path.child("overhead").key(name), problems);
    }
    if has(spec, "os") {
        match word(&spec["os"], "name") {
            "" => problems.required(&path.child("os").child("name"), ""),
            "linux" | "windows" => {}
            other => problems.not_supported(&path.child("os"), other, &["linux", "windows"]),
        }
    }
}

/// The fields that may change on a pod that exists.
const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Problems of a change to a pod.
pub(super) fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let path = Path::new("spec");
    let (mut after, before) = (new["spec"].clone(), &old["spec"]);
    for list in ["containers", "initContainers"] {
        if count(&after, list) != count(before, list) {
            problems.forbidden(&path.child(list), "pod updates may not add or remove containers");
            return;
        }
    }
    for list in ["containers", "initContainers"] {
        let images: Vec<Value> = items(before, list).map(|container| container["image"].clone()).collect();
        for (container, image) in items_mut(&mut after, list).zip(images) {
            container["image"] = image;
        }
    }
    deadline(&after, before, &path, problems);
    crate::rules::copy_field(&mut after, before, "activeDeadlineSeconds");
    tolerations(&new["spec"], before, &path.child("tolerations"), problems);
    crate::rules::copy_field(&mut after, before, "tolerations");
    let kept = |list: &Value, item: &Value| list.as_array().into_iter().flatten().any(|found| found == item);
    for (index, gate) in items(&new["spec"], "schedulingGates").enumerate() {
        if !kept(&before["schedulingGates"], gate) {
            let name = word(gate, "name");
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            problems.forbidden(&path.child("schedulingGates").index(index).child("name"), why);
        }
    }
    crate::rules::copy_field(&mut after, before, "schedulingGates");
    // a pod that is not scheduled yet may narrow where it runs
    if count(before, "schedulingGates") > 0 {
        for field in ["nodeSelector", "affinity"] {
            crate::rules::copy_field(&mut after, before, field);
        }
    }
    if number(before, "terminationGracePeriodSeconds") < 0 && number(&after, "terminationGracePeriodSeconds") == 1 {
        crate::rules::copy_field(&mut after, before, "terminationGracePeriodSeconds");
    }
    if after != *before {
        problems.forbidden(&path, MUTABLE);
    }
}

fn deadline(after: &Value, before: &Value, path: &Path, problems: &mut Problems) {
    let at = path.child("activeDeadlineSeconds");
    let deadline = |spec: &Value| has(spec, "activeDeadlineSeconds").then(|| number(spec, "activeDeadlineSeconds"));
    match (deadline(after), deadline(before)) {
        (Some(now), Some(then)) if now > then => {
            problems.invalid(&at, now, "must be less than or equal to previous value");
        }
        (None, Some(_)) => problems.invalid(&at, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
}

/// Tolerations may be added, and those that are there may change only for how long they hold.
fn tolerations(after: &Value, before: &Value, path: &Path, problems: &mut Problems) {
    let bare = |toleration: &Value| {
        let mut copy = toleration.clone();
        copy["tolerationSeconds"] = json!(null);
        copy
    };
    let all_kept = items(before, "tolerations").all(|old| items(after, "tolerations").any(|new| bare(new) == bare(old)));
    if !all_kept {
        problems.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

/// Problems of a new status.
pub(super) fn validate_status(new: &Value, old: &Value, problems: &mut Problems) {
    let (status, path) = (&new["status"], Path::new("status"));
    for (index, condition) in items(status, "conditions").enumerate() {
        let kind = word(condition, "type");
        problems.all_invalid(&path.child("conditions").index(index).child("Type"), kind, condition_type(kind));
    }
    if word(&old["spec"], "nodeName") != word(&new["spec"], "nodeName") {
        problems.forbidden(&path.child("nodeName"), "may not be changed directly");
    }
    let (nominated, before) = (word(status, "nominatedNodeName"), word(&old["status"], "nominatedNodeName"));
    if nominated != before && !nominated.is_empty() {
        problems.all_invalid(&path.child("nominatedNodeName"), nominated, names::dns_subdomain(nominated));
    }
    let class = word(status, "qosClass");
    if class != word(&old["status"], "qosClass") {
        problems.invalid(&path.child("qosClass"), class, "field is immutable");
    }
    containers_stay_ended(new, old, &path, problems);
    for (field, inner) in [("podIPs", "ip"), ("hostIPs", "ip")] {
        for (index, address) in items(status, field).enumerate() {
            let text = word(address, inner);
            problems.all_invalid(&path.child(field).index(index), text, names::ip(text));
        }
    }
}

/// Well-known condition types are plain words, others qualified names.
fn condition_type(kind: &str) -> Vec<String> {
    names::qualified_name(kind)
}

/// A container that ended and is not to run again stays ended.
fn containers_stay_ended(new: &Value, old: &Value, path: &Path, problems: &mut Problems) {
    let policy = word(&old["spec"], "restartPolicy");
    for (list, specs) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        for (index, before) in items(&old["status"], list).enumerate() {
            let ended = &before["state"]["terminated"];
            let failed = number(ended, "exitCode") != 0;
            let own = items(&old["spec"], specs).find(|container| container["name"] == before["name"]);
            let restarts = own.is_some_and(|container| !word(container, "restartPolicy").is_empty());
            let sticks = !ended.is_null() && !restarts && (policy == "Never" || (policy == "OnFailure" && !failed));
            let now = items(&new["status"], list).find(|status| status["name"] == before["name"]);
            if sticks && now.is_some_and(|now| now["state"]["terminated"].is_null()) {
                problems.forbidden(&path.child(list).index(index).child("state"), "may not be transitioned to non-terminated state");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec_text: Value, expected: &[&str]) {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec_text});
        (super::super::pod::RULES.default)(&mut pod);
        let mut problems = Problems::default();
        validate(&pod, &mut problems);
        assert_eq!(problems.0.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn every_problem_has_its_path() {
        check(json!({"containers": [{"name": "c", "image": "i"}]}), &[]);
        check(json!({"containers": []}), &["spec.containers: Required value"]);
        check(
            json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/a"}]}],
                "volumes": [{"name": "v", "hostPath": {"path": "/a/../b"}}]}),
            &[
                "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ],
        );
        check(
            json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]}),
            &["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
        );
    }

    #[test]
    fn tolerations_grow_only() {
        let old = json!({"spec": {"containers": [], "tolerations": [{"key": "a", "operator": "Exists"}]}});
        let mut more = old.clone();
        more["spec"]["tolerations"] =
            json!([{"key": "a", "operator": "Exists", "tolerationSeconds": 5}, {"key": "b", "operator": "Exists"}]);
        let mut problems = Problems::default();
        validate_update(&more, &old, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        validate_update(&json!({"spec": {"containers": [], "tolerations": []}}), &old, &mut problems);
        assert_eq!(problems.0.len(), 1);
    }
}
