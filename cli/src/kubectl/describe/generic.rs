//! Everything that is not a workload, a node or a part of the network, and kinds that nobody here knows.

use base64::Engine as _;
use serde_json::Value;

use super::parts::{self, shown, text, time};

fn top(object: &Value) -> String {
    let mut out = parts::head(object);
    out.push_str(&parts::labels(object));
    out.push_str(&parts::annotations("Annotations", &object["metadata"]["annotations"]));
    out
}

/// The text of a ConfigMap, without its events.
pub fn config_map(object: &Value) -> String {
    let mut out = top(object);
    out.push_str("\nData\n====\n");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        out.push_str(&format!("{key}:\n----\n{}\n\n", text(value)));
    }
    out.push_str("\nBinaryData\n====\n");
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        out.push_str(&format!("{key}: {} bytes\n", decoded(value).len()));
    }
    out.push('\n');
    out
}

fn decoded(value: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text(value)).unwrap_or_default()
}

/// The text of a Secret: how long its values are, not what they are.
pub fn secret(object: &Value) -> String {
    let mut out = top(object);
    let kind = text(&object["type"]);
    out.push_str(&format!("\nType:\t{kind}\n\nData\n====\n"));
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let bytes = decoded(value);
        if key == "token" && kind == "kubernetes.io/service-account-token" {
            out.push_str(&format!("{key}:\t{}\n", String::from_utf8_lossy(&bytes)));
        } else {
            out.push_str(&format!("{key}:\t{} bytes\n", bytes.len()));
        }
    }
    out
}

/// The text of a ServiceAccount, without its events.
pub fn service_account(object: &Value) -> String {
    let mut out = top(object);
    let secrets: Vec<&str> = object["imagePullSecrets"].as_array().into_iter().flatten().map(|secret| text(&secret["name"])).collect();
    if secrets.is_empty() {
        out.push_str("Image pull secrets:\t<none>\n");
    }
    for (at, secret) in secrets.into_iter().enumerate() {
        out.push_str(&format!("{}\t{secret}\n", if at == 0 { "Image pull secrets:" } else { "                   " }));
    }
    out
}

/// The text of a Namespace with its quotas and limits (`None` if they may not be read).
pub fn namespace(object: &Value, quotas: Option<&Value>, limits: Option<&Value>) -> String {
    let mut out = top(object);
    out.push_str(&format!("Status:\t{}\n", text(&object["status"]["phase"])));
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !conditions.is_empty() {
        out.push_str(
            "Conditions:\n  Type\tStatus\tLastTransitionTime\tReason\tMessage\n  ----\t------\t------------------\t------\t-------\n",
        );
        for condition in conditions {
            let part = |field: &str| text(&condition[field]).to_owned();
            out.push_str(&format!(
                "  {}\t{}\t{}\t{}\t{}\n",
                part("type"),
                part("status"),
                time(&condition["lastTransitionTime"]),
                part("reason"),
                part("message")
            ));
        }
    }
    if let Some(quotas) = quotas {
        out.push('\n');
        out.push_str(&resource_quotas(quotas));
    }
    if let Some(limits) = limits {
        out.push('\n');
        out.push_str(&limit_ranges(limits));
    }
    out
}

fn resource_quotas(list: &Value) -> String {
    let list = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return "No resource quota.\n".to_owned();
    }
    let mut out = "Resource Quotas\n".to_owned();
    for quota in list {
        out.push_str(&format!("  Name:\t{}\n  Resource\tUsed\tHard\n  --------\t---\t---\n", text(&quota["metadata"]["name"])));
        for (name, hard) in quota["status"]["hard"].as_object().into_iter().flatten() {
            out.push_str(&format!("  {name}\t{}\t{}\n", shown(&quota["status"]["used"][name]), shown(hard)));
        }
    }
    out
}

fn limit_ranges(list: &Value) -> String {
    let list = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return "No LimitRange resource.\n".to_owned();
    }
    let mut out = "Resource Limits\n Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio\n".to_owned();
    out.push_str(" ----\t--------\t---\t---\t---------------\t-------------\t-----------------------\n");
    for limit in list.iter().flat_map(|range| range["spec"]["limits"].as_array().into_iter().flatten()) {
        let fields = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
        let mut names: Vec<&String> =
            fields.iter().flat_map(|field| limit[field].as_object().into_iter().flat_map(|map| map.keys())).collect();
        names.sort();
        names.dedup();
        for name in names {
            let cells: Vec<String> = fields.iter().map(|field| limit[field].get(name).map_or_else(|| "-".to_owned(), shown)).collect();
            out.push_str(&format!(" {}\t{name}\t{}\n", text(&limit["type"]), cells.join("\t")));
        }
    }
    out
}

/// The text of a Role or ClusterRole.
pub fn role(object: &Value) -> String {
    let mut out = format!("Name:\t{}\n", text(&object["metadata"]["name"]));
    out.push_str(&parts::labels(object));
    out.push_str(&parts::annotations("Annotations", &object["metadata"]["annotations"]));
    out.push_str(
        "PolicyRule:\n  Resources\tNon-Resource URLs\tResource Names\tVerbs\n  ---------\t-----------------\t--------------\t-----\n",
    );
    for line in super::rules::lines(object["rules"].as_array().into_iter().flatten()) {
        out.push_str(&format!("  {}\n", line.cells().join("\t")));
    }
    out
}

/// The text of a RoleBinding or ClusterRoleBinding.
pub fn binding(object: &Value) -> String {
    let mut out = format!("Name:\t{}\n", text(&object["metadata"]["name"]));
    out.push_str(&parts::labels(object));
    out.push_str(&parts::annotations("Annotations", &object["metadata"]["annotations"]));
    out.push_str(&format!("Role:\n  Kind:\t{}\n  Name:\t{}\n", text(&object["roleRef"]["kind"]), text(&object["roleRef"]["name"])));
    out.push_str("Subjects:\n  Kind\tName\tNamespace\n  ----\t----\t---------\n");
    for subject in object["subjects"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {}\t{}\t{}\n", text(&subject["kind"]), text(&subject["name"]), text(&subject["namespace"])));
    }
    out
}

/// The text of a PriorityClass, without its events.
pub fn priority_class(object: &Value) -> String {
    let policy = object["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority");
    let mut out = format!("Name:\t{}\nValue:\t{}\n", text(&object["metadata"]["name"]), shown(&object["value"]));
    out.push_str(&format!("GlobalDefault:\t{}\nPreemptionPolicy:\t{policy}\n", object["globalDefault"] == true));
    out.push_str(&format!("Description:\t{}\n", text(&object["description"])));
    out.push_str(&parts::annotations("Annotations", &object["metadata"]["annotations"]));
    out
}

/// The text of any object: every field, without its events.
pub fn any(object: &Value) -> String {
    let mut out = format!("Name:\t{}\nNamespace:\t{}\n", text(&object["metadata"]["name"]), text(&object["metadata"]["namespace"]));
    out.push_str(&parts::labels(object));
    out.push_str(&parts::annotations("Annotations", &object["metadata"]["annotations"]));
    fields(object, 0, "", &mut out);
    out
}

const SKIPPED: &[&str] = &[".metadata.managedFields", ".metadata.name", ".metadata.namespace", ".metadata.labels", ".metadata.annotations"];

fn fields(object: &Value, level: usize, path: &str, out: &mut String) {
    let pad = "  ".repeat(level);
    for (key, value) in object.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        if SKIPPED.contains(&path.as_str()) {
            continue;
        }
        match value {
            Value::Object(_) => {
                out.push_str(&format!("{pad}{}:\n", label(key)));
                fields(value, level + 1, &path, out);
            }
            Value::Array(list) => {
                out.push_str(&format!("{pad}{}:\n", label(key)));
                for item in list {
                    if item.is_object() {
                        fields(item, level + 1, &path, out);
                    } else {
                        out.push_str(&format!("{pad}  {}\n", crate::kubectl::print::jsonpath::go_text(item)));
                    }
                }
            }
            other => out.push_str(&format!("{pad}{}:\t{}\n", label(key), crate::kubectl::print::jsonpath::go_text(other))),
        }
    }
}

/// `apiVersion` becomes `API Version`.
fn label(field: &str) -> String {
    if !field.chars().all(|letter| letter.is_alphabetic() || letter == '-') {
        return field.to_owned();
    }
    let letters: Vec<char> = field.chars().collect();
    let mut words: Vec<String> = Vec::new();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let after = letters.get(at + 1);
        // a word begins where small letters end, and at the last capital of several
        let begins = match before {
            None => true,
            Some(before) if letter.is_uppercase() => !before.is_uppercase() || after.is_some_and(|after| after.is_lowercase()),
            Some(before) => letter.is_alphabetic() != before.is_alphabetic(),
        };
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(*letter);
        }
    }
    let words: Vec<String> = words
        .into_iter()
        .map(|word| {
            if ["API", "URL", "UID", "GUID"].contains(&word.to_uppercase().as_str()) {
                return word.to_uppercase();
            }
            if word.to_lowercase() != word {
                return word;
            }
            let mut letters = word.chars();
            letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubectl::print::tabs;
    use serde_json::json;

    #[test]
    fn fields_get_labels_for_people() {
        for (field, expected) in [
            ("apiVersion", "API Version"),
            ("kind", "Kind"),
            ("uid", "UID"),
            ("creationTimestamp", "Creation Timestamp"),
            ("podCIDR", "Pod CIDR"),
            ("a.b", "a.b"),
        ] {
            assert_eq!(label(field), expected);
        }
    }

    #[test]
    fn any_object_can_be_described() {
        let text = tabs::describe(&any(
            &json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x", "uid": "u"}, "spec": {"list": [1, {"a": "b"}]}}),
        ));
        assert_eq!(
            text,
            "Name:         x\nNamespace:    \nLabels:       <none>\nAnnotations:  <none>\nAPI Version:  v1\nKind:         Thing\nMetadata:\n  UID:  u\nSpec:\n  List:\n    1\n    A:  b\n"
        );
    }

    #[test]
    fn secrets_show_lengths_only() {
        let text = tabs::describe(&secret(&json!({"metadata": {"name": "x", "namespace": "n"}, "type": "Opaque", "data": {"k": "YWJj"}})));
        assert!(text.ends_with("\nType:  Opaque\n\nData\n====\nk:  3 bytes\n"), "{text}");
    }
}
