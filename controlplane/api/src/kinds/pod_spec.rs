//! Defaults of a pod's spec, shared by pods and the templates of everything that makes pods
//! (`Spec:` Kubernetes API reference, PodSpec).

use serde_json::{Value, json};

use super::json::{fill, fill_number, inner, items_mut, word};
use crate::quantity::Quantity;

const FILE_MODE: i64 = 0o644;

/// Fills what a template's spec leaves out.
pub(super) fn default(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    let account =
        [word(spec, "serviceAccountName"), word(spec, "serviceAccount")].into_iter().find(|name| !name.is_empty()).map(str::to_owned);
    if let Some(account) = account {
        spec["serviceAccountName"] = Value::from(account.clone());
        spec["serviceAccount"] = Value::from(account);
    }
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "restartPolicy", "Always");
    fill(spec, "securityContext", json!({}));
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "schedulerName", "default-scheduler");
    round_up(spec, "overhead");
    if let Some(resources) = inner(spec, "resources") {
        round_resources(resources);
    }
    for volume in items_mut(spec, "volumes") {
        default_volume(volume);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            default_container(container);
        }
    }
}

/// Fills the `spec` of a template.
pub(super) fn default_template(template: &mut Value) {
    if let Some(spec) = inner(template, "spec") {
        default(spec);
    }
}

fn default_volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|map| map.iter().all(|(key, value)| key == "name" || value.is_null())) {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = inner(volume, source) {
            fill(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(host) = inner(volume, "hostPath")
        && !super::json::has(host, "type")
    {
        host["type"] = Value::from("");
    }
    if let Some(iscsi) = inner(volume, "iscsi") {
        fill(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = inner(volume, "rbd") {
        fill(rbd, "pool", "rbd");
        fill(rbd, "user", "admin");
        fill(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(image) = inner(volume, "image") {
        let policy = pull_policy(word(image, "reference"));
        fill(image, "pullPolicy", policy);
    }
    if let Some(claim) = inner(volume, "ephemeral").and_then(|e| inner(e, "volumeClaimTemplate")).and_then(|t| inner(t, "spec")) {
        fill(claim, "volumeMode", "Filesystem");
    }
    if let Some(downward) = inner(volume, "downwardAPI") {
        for item in items_mut(downward, "items") {
            default_field_reference(item);
        }
    }
    if let Some(projected) = inner(volume, "projected") {
        for source in items_mut(projected, "sources") {
            if let Some(token) = inner(source, "serviceAccountToken") {
                fill(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = inner(source, "downwardAPI") {
                for item in items_mut(downward, "items") {
                    default_field_reference(item);
                }
            }
        }
    }
}

fn default_field_reference(holder: &mut Value) {
    if let Some(field) = inner(holder, "fieldRef") {
        fill(field, "apiVersion", "v1");
    }
    if let Some(resource) = inner(holder, "resourceFieldRef") {
        fill(resource, "divisor", "0");
    }
}

fn default_container(container: &mut Value) {
    let policy = pull_policy(word(container, "image"));
    fill(container, "imagePullPolicy", policy);
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    fill(container, "resources", json!({}));
    for port in items_mut(container, "ports") {
        fill(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        if let Some(source) = inner(variable, "valueFrom") {
            default_field_reference(source);
        }
    }
    if let Some(resources) = inner(container, "resources") {
        round_resources(resources);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = inner(container, probe) {
            fill_number(probe, "timeoutSeconds", 1);
            fill_number(probe, "periodSeconds", 10);
            fill_number(probe, "successThreshold", 1);
            fill_number(probe, "failureThreshold", 3);
            default_http(probe);
            if let Some(grpc) = inner(probe, "grpc")
                && !super::json::has(grpc, "service")
            {
                grpc["service"] = Value::from("");
            }
        }
    }
    if let Some(lifecycle) = inner(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = inner(lifecycle, hook) {
                default_http(hook);
            }
        }
    }
}

fn default_http(action: &mut Value) {
    if let Some(http) = inner(action, "httpGet") {
        fill(http, "path", "/");
        fill(http, "scheme", "HTTP");
    }
}

fn round_resources(resources: &mut Value) {
    round_up(resources, "limits");
    round_up(resources, "requests");
}

/// Quantities are kept to a thousandth.
fn round_up(object: &mut Value, key: &str) {
    let Some(Value::Object(map)) = object.get_mut(key) else { return };
    for value in map.values_mut() {
        if let Some(Ok(quantity)) = value.as_str().map(str::parse::<Quantity>) {
            *value = Value::from(quantity.rounded_to_millis().to_string());
        }
    }
}

/// `Always` for the tag `latest` (or none), else `IfNotPresent`.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map_or("latest", |(_, tag)| tag);
    // no image: nothing could be parsed; a digest stands for itself
    if image.is_empty() || image.contains('@') || tag != "latest" { "IfNotPresent" } else { "Always" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_when_to_pull() {
        for (image, expected) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/a/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0000000000000000000000000000000000000000000000000000000000000000", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
    }

    #[test]
    fn a_plain_spec_is_filled() {
        let mut spec = json!({"containers": [{"name": "c", "image": "x:1", "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "m"}}]});
        default(&mut spec);
        let once = spec.clone();
        default(&mut spec);
        assert_eq!(spec, once);
        assert_eq!(
            once,
            json!({
                "containers": [{
                    "name": "c", "image": "x:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                        "successThreshold": 1, "failureThreshold": 3},
                }],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "m", "defaultMode": 420}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "terminationGracePeriodSeconds": 30,
                "schedulerName": "default-scheduler",
            })
        );
    }
}
