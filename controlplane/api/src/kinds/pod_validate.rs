//! What is wrong with a pod, in upstream's words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::json::{count, flag, has, items, number, word};
use crate::names;
use crate::problem::{Path, Problems};

/// Problems of a pod by itself.
pub(super) fn validate(pod: &Value, problems: &mut Problems) {
    spec(&pod["spec"], &Path::new("spec"), problems);
    if count(&pod["spec"], "ephemeralContainers") > 0 && pod["metadata"].get("uid").is_none() {
        problems.forbidden(&Path::new("spec").child("ephemeralContainers"), "cannot be set on create");
    }
}

/// Problems of a pod's spec or a template's.
pub(super) fn spec(spec: &Value, path: &Path, problems: &mut Problems) {
    let volumes = volumes(spec, path, problems);
    if count(spec, "containers") == 0 {
        problems.required(&path.child("containers"), "");
    }
    let mut seen = BTreeSet::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in items(spec, list).enumerate() {
            let at = path.child(list).index(index);
            validate_container(container, list, &at, &volumes, problems);
            let name = word(container, "name");
            if !name.is_empty() && !seen.insert(name.to_owned()) {
                problems.duplicate(&at.child("name"), name);
            }
        }
    }
    host_ports(spec, path, problems);
    for (field, supported) in [
        ("restartPolicy", &["Always", "Never", "OnFailure"][..]),
        ("dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]),
    ] {
        let value = word(spec, field);
        if value.is_empty() {
            problems.required(&path.child(field), "");
        } else if !supported.contains(&value) {
            problems.not_supported(&path.child(field), value, supported);
        }
    }
    if has(spec, "activeDeadlineSeconds") && !(1..=i64::from(i32::MAX)).contains(&number(spec, "activeDeadlineSeconds")) {
        problems.invalid(
            &path.child("activeDeadlineSeconds"),
            number(spec, "activeDeadlineSeconds"),
            names::range_error(1, i64::from(i32::MAX)),
        );
    }
    for (field, check) in [
        ("serviceAccountName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        let value = word(spec, field);
        if !value.is_empty() {
            for message in check(value) {
                problems.invalid(&path.child(field), value, message);
            }
        }
    }
}

fn volumes(spec: &Value, path: &Path, problems: &mut Problems) -> BTreeSet<String> {
    let mut names_seen = BTreeSet::new();
    for (index, volume) in items(spec, "volumes").enumerate() {
        let at = path.child("volumes").index(index);
        let name = word(volume, "name");
        if name.is_empty() {
            problems.required(&at.child("name"), "");
        } else {
            for message in names::dns_label(name) {
                problems.invalid(&at.child("name"), name, message);
            }
            if !names_seen.insert(name.to_owned()) {
                problems.duplicate(&at.child("name"), name);
            }
        }
        match volume.as_object().map_or(0, |members| members.len().saturating_sub(usize::from(members.contains_key("name")))) {
            0 => problems.required(&at, "must specify a volume type"),
            1 => {}
            _ => {
                let second = volume.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "name").nth(1);
                problems.forbidden(&at.child(second.map_or("", String::as_str)), "may not specify more than 1 volume type");
            }
        }
    }
    names_seen
}

fn validate_container(container: &Value, list: &str, path: &Path, volumes: &BTreeSet<String>, problems: &mut Problems) {
    let name = word(container, "name");
    if name.is_empty() {
        problems.required(&path.child("name"), "");
    } else {
        for message in names::dns_label(name) {
            problems.invalid(&path.child("name"), name, message);
        }
    }
    let image = word(container, "image");
    if image.is_empty() {
        problems.required(&path.child("image"), "");
    } else if image.trim() != image {
        problems.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    let policy = word(container, "imagePullPolicy");
    if policy.is_empty() {
        problems.required(&path.child("imagePullPolicy"), "");
    } else if !["Always", "IfNotPresent", "Never"].contains(&policy) {
        problems.not_supported(&path.child("imagePullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
    }
    ports(container, path, problems);
    for (index, variable) in items(container, "env").enumerate() {
        let at = path.child("env").index(index);
        let name = word(variable, "name");
        if name.is_empty() {
            problems.required(&at.child("name"), "");
        } else {
            for message in names::env_var_name(name) {
                problems.invalid(&at.child("name"), name, message);
            }
        }
        if has(variable, "valueFrom") && !word(variable, "value").is_empty() {
            problems.invalid(&at.child("valueFrom"), "", "may not be specified when `value` is not empty");
        }
    }
    let mut mounted = BTreeSet::new();
    for (index, mount) in items(container, "volumeMounts").enumerate() {
        let at = path.child("volumeMounts").index(index);
        let name = word(mount, "name");
        if name.is_empty() {
            problems.required(&at.child("name"), "");
        } else if !volumes.contains(name) {
            problems.not_found(&at.child("name"), name);
        }
        let target = word(mount, "mountPath");
        if target.is_empty() {
            problems.required(&at.child("mountPath"), "");
        } else if !mounted.insert(target.to_owned()) {
            problems.invalid(&at.child("mountPath"), target, "must be unique");
        }
        let sub_path = word(mount, "subPath");
        if sub_path.starts_with('/') {
            problems.invalid(&at.child("subPath"), sub_path, "must be a relative path");
        }
        if sub_path.split('/').any(|part| part == "..") {
            problems.invalid(&at.child("subPath"), sub_path, "must not contain '..'");
        }
    }
    resources(&container["resources"], &path.child("resources"), problems);
    let may_probe = list == "containers" || word(container, "restartPolicy") == "Always";
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !has(container, probe) {
            continue;
        }
        let at = path.child(probe);
        if !may_probe {
            let why = if list == "initContainers" {
                "may not be set for init containers without restartPolicy=Always"
            } else {
                "cannot be set for an Ephemeral Container"
            };
            problems.forbidden(&at, why);
            continue;
        }
        handler(&container[probe], &at, problems);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
            if number(&container[probe], field) < 0 {
                problems.invalid(&at.child(field), number(&container[probe], field), "must be greater than or equal to 0");
            }
        }
        if probe != "readinessProbe" && has(&container[probe], "successThreshold") && number(&container[probe], "successThreshold") != 1 {
            problems.invalid(&at.child("successThreshold"), number(&container[probe], "successThreshold"), "must be 1");
        }
    }
    security(container, path, problems);
}

fn handler(holder: &Value, path: &Path, problems: &mut Problems) {
    let given: Vec<&str> = ["exec", "httpGet", "tcpSocket", "grpc"].into_iter().filter(|kind| has(holder, kind)).collect();
    match given.as_slice() {
        [] => problems.required(path, "must specify a handler type"),
        [_] => {}
        [_, second, ..] => problems.forbidden(&path.child(second), "may not specify more than 1 handler type"),
    }
    if has(holder, "exec") && count(&holder["exec"], "command") == 0 {
        problems.required(&path.child("exec").child("command"), "");
    }
}

fn ports(container: &Value, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, port) in items(container, "ports").enumerate() {
        let at = path.child("ports").index(index);
        let name = word(port, "name");
        if !name.is_empty() {
            for message in names::port_name(name) {
                problems.invalid(&at.child("name"), name, message);
            }
            if !seen.insert(name.to_owned()) {
                problems.duplicate(&at.child("name"), name);
            }
        }
        if number(port, "containerPort") == 0 {
            problems.required(&at.child("containerPort"), "");
        } else {
            for message in names::port_number(number(port, "containerPort")) {
                problems.invalid(&at.child("containerPort"), number(port, "containerPort"), message);
            }
        }
        if number(port, "hostPort") != 0 {
            for message in names::port_number(number(port, "hostPort")) {
                problems.invalid(&at.child("hostPort"), number(port, "hostPort"), message);
            }
        }
        let protocol = word(port, "protocol");
        if !protocol.is_empty() && !["SCTP", "TCP", "UDP"].contains(&protocol) {
            problems.not_supported(&at.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        }
    }
}

fn host_ports(spec: &Value, path: &Path, problems: &mut Problems) {
    let mut taken = BTreeSet::new();
    for (index, container) in items(spec, "containers").enumerate() {
        for (position, port) in items(container, "ports").enumerate() {
            let host_port = number(port, "hostPort");
            let at = path.child("containers").index(index).child("ports").index(position).child("hostPort");
            if host_port == 0 {
                continue;
            }
            if flag(spec, "hostNetwork") && host_port != number(port, "containerPort") {
                problems.invalid(&at, host_port, "must match `containerPort` when `hostNetwork` is true");
            }
            let key = format!("{}/{}/{host_port}", word(port, "protocol"), word(port, "hostIP"));
            if !taken.insert(key.clone()) {
                problems.duplicate(&at, key);
            }
        }
    }
}

fn resources(resources: &Value, path: &Path, problems: &mut Problems) {
    let amount =
        |value: &Value| value.as_str().map(str::to_owned).unwrap_or_else(|| value.to_string()).parse::<crate::quantity::Quantity>().ok();
    for (name, request) in super::json::members(resources, "requests") {
        let Some(limit) = resources["limits"].get(name) else { continue };
        if let (Some(request), Some(limit)) = (amount(request), amount(limit))
            && request > limit
        {
            problems.invalid(
                &path.child("requests"),
                request.to_string(),
                format!("must be less than or equal to {name} limit of {limit}"),
            );
        }
    }
    for list in ["requests", "limits"] {
        for (name, value) in super::json::members(resources, list) {
            if value.as_str().is_some_and(|text| text.starts_with('-')) {
                problems.invalid(&path.child(list).key(name), value.clone(), "must be greater than or equal to 0");
            }
        }
    }
}

fn security(container: &Value, path: &Path, problems: &mut Problems) {
    let context = &container["securityContext"];
    let at = path.child("securityContext");
    if context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) && flag(context, "privileged") {
        problems.invalid(&at, context.clone(), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
    }
    for field in ["runAsUser", "runAsGroup"] {
        if number(context, field) < 0 {
            problems.invalid(&at.child(field), number(context, field), names::range_error(0, i64::from(i32::MAX)));
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
        let images: Vec<Value> = items(before, list).map(|container| container["image"].clone()).collect();
        if count(&after, list) != images.len() {
            problems.forbidden(&path.child(list), "pod updates may not add or remove containers");
            return;
        }
        for (container, image) in super::json::items_mut(&mut after, list).zip(images) {
            container["image"] = image;
        }
    }
    let kept = |list: &Value, item: &Value| list.as_array().into_iter().flatten().any(|found| found == item);
    if items(before, "tolerations").all(|toleration| kept(&new["spec"]["tolerations"], toleration)) {
        crate::rules::copy_field(&mut after, before, "tolerations");
    }
    let deadline = |spec: &Value| has(spec, "activeDeadlineSeconds").then(|| number(spec, "activeDeadlineSeconds"));
    match (deadline(&after), deadline(before)) {
        (Some(now), Some(then)) if now > then => {
            problems.invalid(&path.child("activeDeadlineSeconds"), now, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            problems.invalid(&path.child("activeDeadlineSeconds"), Value::Null, "must not update from a positive integer to nil value")
        }
        _ => {}
    }
    crate::rules::copy_field(&mut after, before, "activeDeadlineSeconds");
    if count(before, "schedulingGates") > 0 {
        let shrunk = items(&after, "schedulingGates").all(|gate| kept(&before["schedulingGates"], gate));
        if shrunk {
            for field in ["schedulingGates", "nodeSelector", "affinity"] {
                crate::rules::copy_field(&mut after, before, field);
            }
        }
    }
    if after != *before {
        problems.forbidden(&path, MUTABLE);
    }
}

/// Problems of a new status.
pub(super) fn validate_status(new: &Value, old: &Value, problems: &mut Problems) {
    if word(&old["spec"], "nodeName") != word(&new["spec"], "nodeName") {
        problems.forbidden(&Path::new("status").child("nodeName"), "may not be changed directly");
    }
}
