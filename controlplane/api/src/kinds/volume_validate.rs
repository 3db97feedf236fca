//! What is wrong with a pod's volumes, and with what refers to fields of the pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::json::{has, items, number, word};
use crate::names;
use crate::problem::{Path, Problems};
use crate::quantity::Quantity;

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const EMPTY_DIR_MODE: &str = "must be a number between 0 and 01777 (octal), both inclusive";
const MANY_TYPES: &str = "may not specify more than 1 volume type";
const VOLUME_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const HOST_PATH_TYPES: &[&str] = &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
/// The order in which sources are looked at: the first is the volume's, another is one too many.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Problems of the volumes; those without any, by name.
pub(super) fn volumes(spec: &Value, path: &Path, problems: &mut Problems) -> Vec<(String, Value)> {
    let mut valid: Vec<(String, Value)> = Vec::new();
    for (index, volume) in items(spec, "volumes").enumerate() {
        let at = path.child("volumes").index(index);
        let name = word(volume, "name");
        let mut found = Problems::default();
        source(volume, &at, &mut found);
        if name.is_empty() {
            found.required(&at.child("name"), "");
        } else {
            found.all_invalid(&at.child("name"), name, names::dns_label(name));
        }
        if valid.iter().any(|(known, _)| known == name) {
            found.duplicate(&at.child("name"), name);
        }
        if found.is_empty() {
            valid.push((name.to_owned(), volume.clone()));
        } else {
            problems.0.extend(found.0);
        }
    }
    valid
}

fn source(volume: &Value, path: &Path, problems: &mut Problems) {
    let given: Vec<&str> = SOURCES.iter().copied().filter(|kind| has(volume, kind)).collect();
    for (position, kind) in given.iter().enumerate() {
        let (value, at) = (&volume[*kind], path.child(kind));
        if position > 0 {
            problems.forbidden(&at, MANY_TYPES);
            continue;
        }
        match *kind {
            "emptyDir" => empty_dir(value, &at, problems),
            "hostPath" => host_path(value, &at, problems),
            "secret" => {
                needs(value, "secretName", &at, problems);
                keyed(value, &at, problems);
            }
            "configMap" => {
                needs(value, "name", &at, problems);
                keyed(value, &at, problems);
            }
            "downwardAPI" => {
                mode(value, "defaultMode", &at, problems);
                for file in items(value, "items") {
                    downward_file(file, &at, problems);
                }
            }
            "projected" => projected(value, &at, problems),
            "persistentVolumeClaim" => needs(value, "claimName", &at, problems),
            "nfs" => {
                needs(value, "server", &at, problems);
                needs(value, "path", &at, problems);
                if !word(value, "path").starts_with('/') {
                    problems.invalid(&at.child("path"), word(value, "path"), "must be an absolute path");
                }
            }
            "csi" => needs(value, "driver", &at, problems),
            _ => {}
        }
    }
    if given.is_empty() {
        problems.required(path, "must specify a volume type");
    }
}

fn needs(object: &Value, field: &str, path: &Path, problems: &mut Problems) {
    if word(object, field).is_empty() {
        problems.required(&path.child(field), "");
    }
}

fn mode(object: &Value, field: &str, path: &Path, problems: &mut Problems) {
    if has(object, field) && !(0..=0o777).contains(&number(object, field)) {
        problems.invalid(&path.child(field), number(object, field), FILE_MODE);
    }
}

fn empty_dir(value: &Value, path: &Path, problems: &mut Problems) {
    let limit = value["sizeLimit"].as_str().and_then(|text| text.parse::<Quantity>().ok());
    if limit.is_some_and(Quantity::is_negative) {
        problems.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
    if has(value, "mode") && !(0..=0o1777).contains(&number(value, "mode")) {
        problems.invalid(&path.child("mode"), number(value, "mode"), EMPTY_DIR_MODE);
    }
}

fn host_path(value: &Value, path: &Path, problems: &mut Problems) {
    needs(value, "path", path, problems);
    no_backsteps(word(value, "path"), &path.child("path"), problems);
    let kind = word(value, "type");
    if !HOST_PATH_TYPES.contains(&kind) {
        problems.not_supported(&path.child("type"), kind, HOST_PATH_TYPES);
    }
}

/// A source whose keys become files.
fn keyed(value: &Value, path: &Path, problems: &mut Problems) {
    mode(value, "defaultMode", path, problems);
    for (index, item) in items(value, "items").enumerate() {
        key_to_path(item, &path.child("items").index(index), problems);
    }
}

fn key_to_path(item: &Value, path: &Path, problems: &mut Problems) {
    needs(item, "key", path, problems);
    needs(item, "path", path, problems);
    unreserved_path(word(item, "path"), &path.child("path"), problems);
    mode(item, "mode", path, problems);
}

fn downward_file(file: &Value, path: &Path, problems: &mut Problems) {
    needs(file, "path", path, problems);
    unreserved_path(word(file, "path"), &path.child("path"), problems);
    match (has(file, "fieldRef"), has(file, "resourceFieldRef")) {
        (true, both) => {
            field_reference(&file["fieldRef"], VOLUME_FIELDS, &path.child("fieldRef"), problems);
            if both {
                problems.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (false, true) => resource_reference(&file["resourceFieldRef"], true, &path.child("resourceFieldRef"), problems),
        (false, false) => problems.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file, "mode", path, problems);
}

fn projected(value: &Value, path: &Path, problems: &mut Problems) {
    const SECONDS_MIN: i64 = 600;
    const SECONDS_MAX: i64 = 1 << 32;
    mode(value, "defaultMode", path, problems);
    let mut taken = BTreeSet::new();
    let mut take = |file: &str, shown: &str, problems: &mut Problems| {
        if !file.is_empty() && !taken.insert(file.to_owned()) {
            problems.invalid(path, shown, "conflicting duplicate paths");
        }
    };
    for (index, source) in items(value, "sources").enumerate() {
        let at = path.child("sources").index(index);
        for kind in ["secret", "configMap"].into_iter().filter(|kind| has(source, kind)) {
            let (inner, below) = (&source[kind], at.child(kind));
            needs(inner, "name", &below, problems);
            for (position, item) in items(inner, "items").enumerate() {
                key_to_path(item, &below.child("items").index(position), problems);
                take(word(item, "path"), word(inner, "name"), problems);
            }
        }
        for file in items(&source["downwardAPI"], "items") {
            downward_file(file, &at.child("downwardAPI"), problems);
            take(word(file, "path"), word(file, "path"), problems);
        }
        if has(source, "serviceAccountToken") {
            let (token, below) = (&source["serviceAccountToken"], at.child("serviceAccountToken").child("expirationSeconds"));
            match token.get("expirationSeconds").and_then(Value::as_i64) {
                None => problems.required(&below, ""),
                Some(seconds) if seconds < SECONDS_MIN => {
                    problems.invalid(&below, seconds, "may not specify a duration less than 10 minutes");
                }
                Some(seconds) if seconds > SECONDS_MAX => {
                    problems.invalid(&below, seconds, "may not specify a duration larger than 2^32 seconds");
                }
                Some(_) => {}
            }
            match word(token, "path") {
                "" => problems.required(&path.child("path"), ""),
                file => unreserved_path(file, &path.child("path"), problems),
            }
        }
        let kinds = ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
        if kinds.into_iter().filter(|kind| has(source, kind)).count() > 1 {
            problems.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

fn no_backsteps(text: &str, path: &Path, problems: &mut Problems) {
    if text.split('/').any(|part| part == "..") {
        problems.invalid(path, text, "must not contain '..'");
    }
}

/// A path that stays below where it begins.
pub(super) fn local_path(text: &str, path: &Path, problems: &mut Problems) {
    if text.starts_with('/') {
        problems.invalid(path, text, "must be a relative path");
    }
    no_backsteps(text, path, problems);
}

/// A [`local_path`] that does not look like one of the volume's own files.
fn unreserved_path(text: &str, path: &Path, problems: &mut Problems) {
    local_path(text, path, problems);
    if text.starts_with("..") && !text.starts_with("../") {
        problems.invalid(path, text, "must not start with '..'");
    }
}

/// A field of the pod: `metadata.name`, `metadata.labels['KEY']` and so on.
pub(super) fn field_reference(reference: &Value, supported: &[&str], path: &Path, problems: &mut Problems) {
    const KNOWN: &[&str] = &[
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.serviceAccountName",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let (version, field) = (word(reference, "apiVersion"), word(reference, "fieldPath"));
    if version.is_empty() {
        problems.required(&path.child("apiVersion"), "");
        return;
    }
    if field.is_empty() {
        problems.required(&path.child("fieldPath"), "");
        return;
    }
    let at = path.child("fieldPath");
    if version != "v1" {
        problems.invalid(&at, field, format!("error converting fieldPath: unsupported pod version: {version}"));
        return;
    }
    let (name, subscript) = match field.split_once("['") {
        Some((name, rest)) if rest.ends_with("']") => (name, Some(&rest[..rest.len() - 2])),
        _ => (field, None),
    };
    if !KNOWN.contains(&name) {
        problems.invalid(&at, field, format!("error converting fieldPath: field label not supported: {field}"));
        return;
    }
    match (name, subscript) {
        ("metadata.annotations", Some(key)) => {
            let key = key.to_lowercase();
            problems.all_invalid(path, key.as_str(), names::qualified_name(&key));
        }
        ("metadata.labels", Some(key)) => problems.all_invalid(path, key, names::qualified_name(key)),
        (name, Some(_)) => problems.invalid(path, name, "does not support subscript"),
        (name, None) if !supported.contains(&name) => problems.not_supported(&at, name, supported),
        _ => {}
    }
}

/// A resource of a container: `limits.cpu` and so on.
pub(super) fn resource_reference(reference: &Value, volume: bool, path: &Path, problems: &mut Problems) {
    let resource = word(reference, "resource");
    if volume && word(reference, "containerName").is_empty() {
        problems.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        problems.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !resource.starts_with("limits.hugepages-") && !resource.starts_with("requests.hugepages-") {
        problems.not_supported(&path.child("resource"), resource, RESOURCES);
    }
    let divisor = reference["divisor"].as_str().unwrap_or("0");
    const SIZES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let (fits, kind) = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => (["1m", "1"].contains(&divisor), ""),
        "memory" => (SIZES.contains(&divisor), "memory"),
        "ephemeral-storage" => (SIZES.contains(&divisor), "local ephemeral storage"),
        name if name.starts_with("hugepages-") => (SIZES.contains(&divisor), "hugepages"),
        _ => (true, ""),
    };
    if divisor != "0" && !fits {
        let why = if kind.is_empty() {
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
        } else {
            format!("only divisor's values {} are supported with the {kind} resource", SIZES.join(", "))
        };
        problems.invalid(&path.child("divisor"), resource, why);
    }
}
