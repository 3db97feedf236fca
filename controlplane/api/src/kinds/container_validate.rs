//! What is wrong with a container: its name and image, ports, environment, mounts, resources, probes and rights.

use std::collections::BTreeSet;

use serde_json::Value;

use super::json::{count, flag, has, items, members, number, word};
use super::volume_validate::{field_reference, local_path, resource_reference};
use crate::names;
use crate::problem::{Path, Problems};
use crate::quantity::Quantity;

/// What a container may refer to in its pod.
pub(super) struct Surroundings<'a> {
    /// The pod's spec.
    pub spec: &'a Value,
    /// Volumes that are valid, with their objects.
    pub volumes: &'a [(String, Value)],
}

impl Surroundings<'_> {
    fn volume(&self, name: &str) -> Option<&Value> {
        self.volumes.iter().find(|(known, _)| known == name).map(|(_, volume)| volume)
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Problems of the ordinary containers.
pub(super) fn containers(around: &Surroundings<'_>, path: &Path, problems: &mut Problems) {
    let path = path.child("containers");
    if count(around.spec, "containers") == 0 {
        problems.required(&path, "");
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, container) in items(around.spec, "containers").enumerate() {
        let at = path.index(index);
        common(container, around, &at, problems);
        let name = word(container, "name");
        if !seen.insert(name) {
            problems.duplicate(&at.child("name"), name);
        }
        lifecycle(container, around.spec, &at, problems);
        probes(container, around.spec, &at, problems);
        restart_policy(container, &at, problems);
    }
    host_ports(items(around.spec, "containers"), &path, problems);
}

/// Problems of the init containers.
pub(super) fn init_containers(around: &Surroundings<'_>, path: &Path, problems: &mut Problems) {
    const WHY: &str = "may not be set for init containers without restartPolicy=Always";
    let path = path.child("initContainers");
    let mut seen: BTreeSet<&str> = items(around.spec, "containers").map(|container| word(container, "name")).collect();
    for (index, container) in items(around.spec, "initContainers").enumerate() {
        let at = path.index(index);
        common(container, around, &at, problems);
        restart_policy(container, &at, problems);
        let name = word(container, "name");
        if seen.contains(name) {
            problems.duplicate(&at.child("name"), name);
        } else if !name.is_empty() {
            seen.insert(name);
        }
        host_ports(std::iter::once(container), &path, problems);
        let sidecar = word(container, "restartPolicy") == "Always";
        if sidecar {
            lifecycle(container, around.spec, &at, problems);
            probes(container, around.spec, &at, problems);
        } else {
            for field in std::iter::once("lifecycle").chain(PROBES).filter(|field| has(container, field)) {
                problems.forbidden(&at.child(field), WHY);
            }
            for (position, policy) in items(container, "resizePolicy").enumerate() {
                if word(policy, "restartPolicy") == "RestartContainer" {
                    problems.invalid(
                        &at.child("resizePolicy").index(position).child("restartPolicy"),
                        "RestartContainer",
                        "must not be set to 'RestartContainer' for non-sidecar initContainers",
                    );
                }
            }
        }
    }
}

/// Problems of the ephemeral containers.
pub(super) fn ephemeral_containers(around: &Surroundings<'_>, path: &Path, problems: &mut Problems) {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    let path = path.child("ephemeralContainers");
    let others: BTreeSet<&str> =
        items(around.spec, "containers").chain(items(around.spec, "initContainers")).map(|container| word(container, "name")).collect();
    let mut seen = others.clone();
    for (index, container) in items(around.spec, "ephemeralContainers").enumerate() {
        let at = path.index(index);
        common(container, around, &at, problems);
        only_for_pods(container, &at, problems);
        let name = word(container, "name");
        if !seen.insert(name) {
            problems.duplicate(&at.child("name"), name);
        }
        let target = word(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            problems.not_found(&at.child("targetContainerName"), target);
        }
        let set = |field: &str| match field {
            "ports" | "resizePolicy" => count(container, field) > 0,
            "resources" => container["resources"].as_object().is_some_and(|map| !map.is_empty()),
            _ => has(container, field),
        };
        for field in ["ports", "resources", "resizePolicy", "restartPolicy", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"]
        {
            if set(field) {
                problems.forbidden(&at.child(field), WHY);
            }
        }
        for (position, mount) in items(container, "volumeMounts").enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !word(mount, field).is_empty() {
                    problems.forbidden(&at.child("volumeMounts").index(position).child(field), WHY);
                }
            }
        }
    }
}

/// What a template may have, but no pod.
pub(super) fn only_for_pods(container: &Value, path: &Path, problems: &mut Problems) {
    let image = word(container, "image");
    if image.trim() != image {
        problems.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn common(container: &Value, around: &Surroundings<'_>, path: &Path, problems: &mut Problems) {
    match word(container, "name") {
        "" => problems.required(&path.child("name"), ""),
        name => problems.all_invalid(&path.child("name"), name, names::dns_label(name)),
    }
    if word(container, "image").is_empty() {
        problems.required(&path.child("image"), "");
    }
    one_of(container, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], path, problems);
    ports(container, &path.child("ports"), problems);
    environment(container, &path.child("env"), problems);
    environment_sources(container, &path.child("envFrom"), problems);
    mounts(container, around, &path.child("volumeMounts"), problems);
    devices(container, around, &path.child("volumeDevices"), problems);
    one_of(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, problems);
    resources(&container["resources"], &path.child("resources"), problems);
    resize_policy(container, word(around.spec, "restartPolicy"), &path.child("resizePolicy"), problems);
    security_context(&container["securityContext"], !is_false(around.spec, "hostUsers"), &path.child("securityContext"), problems);
}

/// A field that must have one of these values.
pub(super) fn one_of(object: &Value, field: &str, supported: &[&str], path: &Path, problems: &mut Problems) {
    match word(object, field) {
        "" => problems.required(&path.child(field), ""),
        value if !supported.contains(&value) => problems.not_supported(&path.child(field), value, supported),
        _ => {}
    }
}

pub(super) fn is_false(object: &Value, field: &str) -> bool {
    object.get(field) == Some(&Value::Bool(false))
}

fn ports(container: &Value, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, port) in items(container, "ports").enumerate() {
        let at = path.index(index);
        let name = word(port, "name");
        if !name.is_empty() {
            let complaints = names::port_name(name);
            if !complaints.is_empty() {
                problems.all_invalid(&at.child("name"), name, complaints);
            } else if !seen.insert(name) {
                problems.duplicate(&at.child("name"), name);
            }
        }
        match number(port, "containerPort") {
            0 => problems.required(&at.child("containerPort"), ""),
            number => problems.all_invalid(&at.child("containerPort"), number, names::port_number(number)),
        }
        match number(port, "hostPort") {
            0 => {}
            number => problems.all_invalid(&at.child("hostPort"), number, names::port_number(number)),
        }
        one_of(port, "protocol", PROTOCOLS, &at, problems);
    }
}

fn host_ports<'a>(containers: impl Iterator<Item = &'a Value>, path: &Path, problems: &mut Problems) {
    let mut taken = BTreeSet::new();
    for (index, container) in containers.enumerate() {
        for (position, port) in items(container, "ports").enumerate().filter(|(_, port)| number(port, "hostPort") != 0) {
            let key = format!("{}/{}/{}", word(port, "protocol"), word(port, "hostIP"), number(port, "hostPort"));
            if taken.contains(&key) {
                problems.duplicate(&path.index(index).child("ports").index(position).child("hostPort"), key);
            } else {
                taken.insert(key);
            }
        }
    }
}

fn environment(container: &Value, path: &Path, problems: &mut Problems) {
    for (index, variable) in items(container, "env").enumerate() {
        let at = path.index(index);
        match word(variable, "name") {
            "" => problems.required(&at.child("name"), ""),
            name => problems.all_invalid(&at.child("name"), name, names::env_var_name(name)),
        }
        if !has(variable, "valueFrom") {
            continue;
        }
        let (source, from) = (&variable["valueFrom"], at.child("valueFrom"));
        let mut given = 0;
        for kind in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
            if !has(source, kind) {
                continue;
            }
            given += 1;
            let inner = from.child(kind);
            match kind {
                "fieldRef" => field_reference(&source[kind], ENV_FIELDS, &inner, problems),
                "resourceFieldRef" => resource_reference(&source[kind], false, &inner, problems),
                "configMapKeyRef" | "secretKeyRef" => key_reference(&source[kind], &inner, problems),
                _ => {}
            }
        }
        if given == 0 {
            let expected = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            problems.invalid(&from, "", expected);
        } else if !word(variable, "value").is_empty() {
            problems.invalid(&from, "", "may not be specified when `value` is not empty");
        } else if given > 1 {
            problems.invalid(&from, "", "may not have more than one field specified at a time");
        }
    }
}

fn key_reference(reference: &Value, path: &Path, problems: &mut Problems) {
    let name = word(reference, "name");
    problems.all_invalid(&path.child("name"), name, names::dns_subdomain(name));
    match word(reference, "key") {
        "" => problems.required(&path.child("key"), ""),
        key => problems.all_invalid(&path.child("key"), key, names::config_key(key)),
    }
}

fn environment_sources(container: &Value, path: &Path, problems: &mut Problems) {
    for (index, source) in items(container, "envFrom").enumerate() {
        let at = path.index(index);
        let prefix = word(source, "prefix");
        if !prefix.is_empty() {
            problems.all_invalid(&at.child("prefix"), prefix, names::env_var_name(prefix));
        }
        let given: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|kind| has(source, kind)).collect();
        for kind in &given {
            match word(&source[*kind], "name") {
                "" => problems.required(&at.child(kind).child("name"), ""),
                name => problems.all_invalid(&at.child(kind).child("name"), name, names::dns_subdomain(name)),
            }
        }
        match given.len() {
            0 => problems.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => problems.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(container: &Value, around: &Surroundings<'_>, path: &Path, problems: &mut Problems) {
    const PROPAGATIONS: &[&str] = &["Bidirectional", "HostToContainer", "None"];
    let device = |field: &str, value: &str| items(container, "volumeDevices").any(|device| word(device, field) == value);
    let mut targets = BTreeSet::new();
    for (index, mount) in items(container, "volumeMounts").enumerate() {
        let at = path.index(index);
        let (name, target) = (word(mount, "name"), word(mount, "mountPath"));
        if name.is_empty() {
            problems.required(&at.child("name"), "");
        }
        if around.volume(name).is_none() {
            problems.not_found(&at.child("name"), name);
        }
        if target.is_empty() {
            problems.required(&at.child("mountPath"), "");
        }
        if !targets.insert(target) {
            problems.invalid(&at.child("mountPath"), target, "must be unique");
        }
        if device("name", name) {
            problems.invalid(&at.child("name"), name, "must not already exist in volumeDevices");
        }
        if device("devicePath", target) {
            problems.invalid(&at.child("mountPath"), target, "must not already exist as a path in volumeDevices");
        }
        let (sub_path, expression) = (word(mount, "subPath"), word(mount, "subPathExpr"));
        if !sub_path.is_empty() {
            local_path(sub_path, &path.child("subPath"), problems);
        }
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                problems.invalid(&at.child("subPathExpr"), expression, "subPathExpr and subPath are mutually exclusive");
            }
            local_path(expression, &path.child("subPathExpr"), problems);
        }
        if has(mount, "mountPropagation") {
            let propagation = word(mount, "mountPropagation");
            if !PROPAGATIONS.contains(&propagation) {
                problems.not_supported(&path.child("mountPropagation"), propagation, PROPAGATIONS);
            }
            if propagation == "Bidirectional" && !flag(&container["securityContext"], "privileged") {
                let why = "Bidirectional mount propagation is available only to privileged containers";
                problems.forbidden(&path.child("mountPropagation"), why);
            }
        }
        if has(mount, "recursiveReadOnly") {
            recursive_read_only(mount, &path.child("recursiveReadOnly"), problems);
        }
    }
}

fn recursive_read_only(mount: &Value, path: &Path, problems: &mut Problems) {
    match word(mount, "recursiveReadOnly") {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !flag(mount, "readOnly") {
                problems.forbidden(path, "may only be specified when readOnly is true");
            }
            if !matches!(word(mount, "mountPropagation"), "" | "None") {
                problems.forbidden(path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        other => problems.not_supported(path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(container: &Value, around: &Surroundings<'_>, path: &Path, problems: &mut Problems) {
    let mount = |field: &str, value: &str| items(container, "volumeMounts").any(|mount| word(mount, field) == value);
    let (mut seen_names, mut seen_paths) = (BTreeSet::new(), BTreeSet::new());
    for (index, device) in items(container, "volumeDevices").enumerate() {
        let at = path.index(index);
        let (name, target) = (word(device, "name"), word(device, "devicePath"));
        if name.is_empty() {
            problems.required(&at.child("name"), "");
        } else if !seen_names.insert(name) {
            problems.invalid(&at.child("name"), name, "must be unique");
        }
        match around.volume(name) {
            Some(volume) if !has(volume, "persistentVolumeClaim") && !has(volume, "ephemeral") => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                problems.invalid(&at.child("name"), name, why);
            }
            Some(_) => {}
            None => problems.not_found(&at.child("name"), name),
        }
        if target.is_empty() {
            problems.required(&at.child("devicePath"), "");
        } else if target.split('/').any(|part| part == "..") {
            problems.invalid(&at.child("devicePath"), target, "can not contain backsteps ('..')");
        } else if !seen_paths.insert(target) {
            problems.invalid(&at.child("devicePath"), target, "must be unique");
        }
        if mount("name", name) {
            problems.invalid(&at.child("name"), name, "must not already exist in volumeMounts");
        }
        if mount("mountPath", target) {
            problems.invalid(&at.child("devicePath"), target, "must not already exist as a path in volumeMounts");
        }
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned).parse().ok()
}

/// Whether more of the resource may be promised than there is.
fn overcommits(name: &str) -> bool {
    !name.starts_with("hugepages-") && (!name.contains('/') || name.contains("kubernetes.io/"))
}

fn resource_name(name: &str, path: &Path, problems: &mut Problems) {
    let complaints = names::qualified_name(name);
    if !complaints.is_empty() {
        problems.all_invalid(path, name, complaints);
        return;
    }
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        problems.invalid(path, name, "must be a standard resource type or fully qualified");
        problems.invalid(path, name, "must be a standard resource for containers");
    }
}

/// What is wrong with an amount of a resource.
pub(super) fn resource_amount(name: &str, value: &Value, path: &Path, problems: &mut Problems) {
    let Some(quantity) = amount(value) else { return };
    if quantity.is_negative() {
        problems.invalid(path, quantity.to_string(), "must be greater than or equal to 0");
    }
    let whole = !overcommits(name) && !name.starts_with("hugepages-");
    if whole && !quantity.is_integer() {
        problems.invalid(path, quantity.to_string(), "must be an integer");
    }
    if let Some(page) = name.strip_prefix("hugepages-").and_then(|size| size.parse::<Quantity>().ok()) {
        let (page, bytes) = (page.units(), quantity.units());
        if page > 0 && bytes % page != 0 {
            problems.invalid(path, quantity.to_string(), format!("{quantity} is not positive integer multiple of {name}"));
        }
    }
}

/// Problems of `resources`.
pub(super) fn resources(resources: &Value, path: &Path, problems: &mut Problems) {
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    let (mut huge, mut ordinary) = (false, false);
    let mut see = |name: &str| {
        huge |= name.starts_with("hugepages-");
        ordinary |= matches!(name, "cpu" | "memory");
    };
    for (name, value) in members(resources, "limits") {
        resource_name(name, &limits.key(name), problems);
        resource_amount(name, value, &limits.key(name), problems);
        see(name);
    }
    for (name, value) in members(resources, "requests") {
        resource_name(name, &requests.key(name), problems);
        resource_amount(name, value, &requests.key(name), problems);
        see(name);
        let (request, limit) = (amount(value), resources["limits"].get(name).and_then(amount));
        match (request, limit) {
            (Some(request), Some(limit)) if request != limit && !overcommits(name) => {
                problems.invalid(&requests, request.to_string(), format!("must be equal to {name} limit of {limit}"));
            }
            (Some(request), Some(limit)) if request > limit => {
                problems.invalid(&requests, request.to_string(), format!("must be less than or equal to {name} limit of {limit}"));
            }
            (_, None) if !overcommits(name) => problems.required(&limits, "Limit must be set for non overcommitable resources"),
            _ => {}
        }
    }
    if huge && !ordinary {
        problems.forbidden(path, "HugePages require cpu or memory");
    }
}

fn resize_policy(container: &Value, pod_policy: &str, path: &Path, problems: &mut Problems) {
    const POLICIES: &[&str] = &["NotRequired", "RestartContainer"];
    let mut seen = BTreeSet::new();
    for (index, policy) in items(container, "resizePolicy").enumerate() {
        let (resource, restart) = (word(policy, "resourceName"), word(policy, "restartPolicy"));
        if !seen.insert(resource) {
            problems.duplicate(&path.index(index), resource);
        }
        match resource {
            "cpu" | "memory" => {}
            "" => problems.required(path, ""),
            other => problems.not_supported(path, other, &["cpu", "memory"]),
        }
        match restart {
            "" => problems.required(path, ""),
            other if !POLICIES.contains(&other) => problems.not_supported(path, other, POLICIES),
            _ => {}
        }
        if pod_policy == "Never" && restart != "NotRequired" {
            problems.invalid(path, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

fn restart_policy(container: &Value, path: &Path, problems: &mut Problems) {
    const POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
    if !has(container, "restartPolicy") {
        if count(container, "restartPolicyRules") > 0 {
            problems.required(&path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
        }
        return;
    }
    let policy = word(container, "restartPolicy");
    if !POLICIES.contains(&policy) {
        problems.not_supported(&path.child("restartPolicy"), policy, POLICIES);
    }
}

fn lifecycle(container: &Value, spec: &Value, path: &Path, problems: &mut Problems) {
    for hook in ["postStart", "preStop"] {
        if has(&container["lifecycle"], hook) {
            handler(&container["lifecycle"][hook], spec, &path.child("lifecycle").child(hook), problems);
        }
    }
}

fn probes(container: &Value, spec: &Value, path: &Path, problems: &mut Problems) {
    for name in PROBES {
        if !has(container, name) {
            continue;
        }
        let (probe, at) = (&container[name], path.child(name));
        handler(probe, spec, &at, problems);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
            if number(probe, field) < 0 {
                problems.invalid(&at.child(field), number(probe, field), "must be greater than or equal to 0");
            }
        }
        let grace = at.child("terminationGracePeriodSeconds");
        let seconds = probe.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
        if let Some(seconds) = seconds.filter(|seconds| *seconds <= 0) {
            problems.invalid(&grace, seconds, "must be greater than 0");
        }
        if name == "readinessProbe" {
            if let Some(seconds) = seconds {
                problems.invalid(&grace, seconds, "must not be set for readinessProbes");
            }
        } else if number(probe, "successThreshold") != 1 {
            problems.invalid(&at.child("successThreshold"), number(probe, "successThreshold"), "must be 1");
        }
    }
}

fn handler(holder: &Value, spec: &Value, path: &Path, problems: &mut Problems) {
    let mut given = false;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        if !has(holder, kind) {
            continue;
        }
        let (action, at) = (&holder[kind], path.child(kind));
        if given {
            problems.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        given = true;
        match kind {
            "exec" if count(action, "command") == 0 => problems.required(&at.child("command"), ""),
            "httpGet" => {
                if word(action, "path").is_empty() {
                    problems.required(&at.child("path"), "");
                }
                port(&action["port"], &at.child("port"), problems);
                let scheme = word(action, "scheme");
                if !["HTTP", "HTTPS"].contains(&scheme) {
                    problems.not_supported(&at.child("scheme"), scheme, &["HTTP", "HTTPS"]);
                }
                for header in items(action, "httpHeaders") {
                    let name = word(header, "name");
                    problems.all_invalid(&at.child("httpHeaders"), name, names::http_header_name(name));
                }
            }
            "tcpSocket" | "grpc" => port(&action["port"], &at.child("port"), problems),
            "sleep" => {
                let (seconds, grace) = (number(action, "seconds"), number(spec, "terminationGracePeriodSeconds"));
                if has(spec, "terminationGracePeriodSeconds") && !(0..=grace).contains(&seconds) {
                    let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    problems.invalid(&at, seconds, why);
                }
            }
            _ => {}
        }
    }
    if !given {
        problems.required(path, "must specify a handler type");
    }
}

/// A port by number or by name.
pub(super) fn port(value: &Value, path: &Path, problems: &mut Problems) {
    match value {
        Value::String(name) => problems.all_invalid(path, name.as_str(), names::port_name(name)),
        value => {
            let number = value.as_i64().unwrap_or(0);
            problems.all_invalid(path, number, names::port_number(number));
        }
    }
}

/// A user's or group's number.
pub(super) fn identity(context: &Value, field: &str, path: &Path, problems: &mut Problems) {
    let Some(number) = context.get(field).and_then(Value::as_i64) else { return };
    if !(0..=i64::from(i32::MAX)).contains(&number) {
        problems.invalid(&path.child(field), number, names::range_error(0, i64::from(i32::MAX)));
    }
}

/// Problems of `seccompProfile` and `appArmorProfile`.
pub(super) fn profiles(context: &Value, path: &Path, problems: &mut Problems) {
    const SECCOMP: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
    if has(context, "seccompProfile") {
        let (profile, at) = (&context["seccompProfile"], path.child("seccompProfile"));
        let kind = word(profile, "type");
        if kind.is_empty() {
            problems.required(&at.child("type"), "type is required when seccompProfile is set");
        } else if !SECCOMP.contains(&kind) {
            problems.not_supported(&at.child("type"), kind, SECCOMP);
        }
        match (kind == "Localhost", has(profile, "localhostProfile")) {
            (true, false) => problems.required(&at.child("localhostProfile"), "must be set when seccomp type is Localhost"),
            (true, true) => local_path(word(profile, "localhostProfile"), &at.child("localhostProfile"), problems),
            (false, true) => {
                problems.invalid(&at.child("localhostProfile"), profile.clone(), "can only be set when seccomp type is Localhost");
            }
            (false, false) => {}
        }
    }
    if has(context, "appArmorProfile") {
        let (profile, at) = (&context["appArmorProfile"], path.child("appArmorProfile"));
        let (kind, text) = (word(profile, "type"), word(profile, "localhostProfile"));
        let given = has(profile, "localhostProfile");
        let local = at.child("localhostProfile");
        match kind {
            "Localhost" if text.trim() != text => problems.invalid(&local, text, "must not be padded with whitespace"),
            "Localhost" if text.is_empty() => problems.required(&local, "must be set when AppArmor type is Localhost"),
            "Localhost" => {}
            "RuntimeDefault" | "Unconfined" if given => {
                problems.invalid(&local, text, "can only be set when AppArmor type is Localhost");
            }
            "RuntimeDefault" | "Unconfined" => {}
            "" => problems.required(&at.child("type"), "type is required when appArmorProfile is set"),
            other => problems.not_supported(&at.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
        }
    }
}

fn security_context(context: &Value, host_users: bool, path: &Path, problems: &mut Problems) {
    if !context.is_object() {
        return;
    }
    identity(context, "runAsUser", path, problems);
    identity(context, "runAsGroup", path, problems);
    if has(context, "procMount") {
        match word(context, "procMount") {
            "Default" => {}
            "Unmasked" if host_users => {
                problems.invalid(&path.child("procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`");
            }
            "Unmasked" => {}
            other => problems.not_supported(&path.child("procMount"), other, &["Default", "Unmasked"]),
        }
    }
    let mut profile = Problems::default();
    profiles(context, path, &mut profile);
    let (seccomp, app_armor): (Vec<_>, Vec<_>) =
        profile.0.into_iter().partition(|problem| problem.path.as_str().contains("seccompProfile"));
    problems.0.extend(seccomp);
    if is_false(context, "allowPrivilegeEscalation") {
        if flag(context, "privileged") {
            problems.invalid(path, context.clone(), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if items(&context["capabilities"], "add").any(|capability| capability == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            problems.invalid(path, context.clone(), why);
        }
    }
    problems.0.extend(app_armor);
}
