//! Workloads: Deployment, ReplicaSet, ReplicationController, DaemonSet, StatefulSet.

use serde_json::Value;

use super::parts::{self, number, shown, text, time};
use super::pod;
use crate::kubectl::pods;

fn selector(object: &Value) -> String {
    pods::selector_of(object).unwrap_or_else(|| "<none>".to_owned())
}

/// The text of a Deployment, without its events. `sets` are its ReplicaSets.
pub fn deployment(object: &Value, sets: &[Value]) -> String {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut out = parts::head(object);
    out.push_str(&format!("CreationTimestamp:\t{}\n", time(&object["metadata"]["creationTimestamp"])));
    out.push_str(&parts::labels(object));
    out.push_str(&parts::annotations("Annotations", &object["metadata"]["annotations"]));
    out.push_str(&format!("Selector:\t{}\n", selector(object)));
    out.push_str(&format!(
        "Replicas:\t{} desired | {} updated | {} total | {} available | {} unavailable\n",
        number(&spec["replicas"]),
        number(&status["updatedReplicas"]),
        number(&status["replicas"]),
        number(&status["availableReplicas"]),
        number(&status["unavailableReplicas"])
    ));
    out.push_str(&format!("StrategyType:\t{}\nMinReadySeconds:\t{}\n", text(&spec["strategy"]["type"]), number(&spec["minReadySeconds"])));
    let rolling = &spec["strategy"]["rollingUpdate"];
    if rolling.is_object() {
        out.push_str(&format!(
            "RollingUpdateStrategy:\t{} max unavailable, {} max surge\n",
            shown(&rolling["maxUnavailable"]),
            shown(&rolling["maxSurge"])
        ));
    }
    out.push_str(&pod::template_lines(&spec["template"]));
    out.push_str(&parts::conditions(object));
    let (new, old): (Vec<&Value>, Vec<&Value>) = sets.iter().partition(|set| is_current(object, set));
    if !sets.is_empty() {
        let names = |sets: &[&Value]| {
            let texts: Vec<String> = sets
                .iter()
                .map(|set| {
                    format!(
                        "{} ({}/{} replicas created)",
                        text(&set["metadata"]["name"]),
                        number(&set["status"]["replicas"]),
                        number(&set["spec"]["replicas"])
                    )
                })
                .collect();
            if texts.is_empty() { "<none>".to_owned() } else { texts.join(", ") }
        };
        out.push_str(&format!("OldReplicaSets:\t{}\nNewReplicaSet:\t{}\n", names(&old), names(&new)));
    }
    out
}

/// Whether a ReplicaSet has the Deployment's template.
fn is_current(deployment: &Value, set: &Value) -> bool {
    let bare = |template: &Value| {
        let mut template = template.clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove("pod-template-hash");
        }
        template
    };
    bare(&deployment["spec"]["template"]) == bare(&set["spec"]["template"])
}

/// The text of a workload that counts its pods, without its events.
pub fn counted(object: &Value, pods: &[Value]) -> String {
    let (kind, spec, status) = (text(&object["kind"]), &object["spec"], &object["status"]);
    let count = |phase: &str| pods.iter().filter(|pod| pod["status"]["phase"] == phase).count();
    let counts = format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count("Running"),
        count("Pending"),
        count("Succeeded"),
        count("Failed")
    );
    let mut out = parts::head(object);
    if kind == "StatefulSet" {
        out.push_str(&format!("CreationTimestamp:\t{}\n", time(&object["metadata"]["creationTimestamp"])));
    }
    out.push_str(&format!("Selector:\t{}\n", selector(object)));
    if kind == "DaemonSet" {
        out.push_str(&format!("Node-Selector:\t{}\n", selector_text(&spec["template"]["spec"]["nodeSelector"])));
    }
    out.push_str(&parts::labels(object));
    out.push_str(&parts::annotations("Annotations", &object["metadata"]["annotations"]));
    match kind {
        "DaemonSet" => {
            for (title, field) in [
                ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
                ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
                ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
                ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
                ("Number of Nodes Misscheduled", "numberMisscheduled"),
            ] {
                out.push_str(&format!("{title}: {}\n", number(&status[field])));
            }
        }
        "StatefulSet" => {
            for (title, field) in [("Service Name", "serviceName"), ("Pod Management Policy", "podManagementPolicy")] {
                if let Some(value) = spec[field].as_str().filter(|value| !value.is_empty()) {
                    out.push_str(&format!("{title}:\t{value}\n"));
                }
            }
            out.push_str(&format!("Replicas:\t{} desired | {} total\n", number(&spec["replicas"]), number(&status["replicas"])));
            out.push_str(&format!("Update Strategy:\t{}\n", text(&spec["updateStrategy"]["type"])));
            if let Some(partition) = spec["updateStrategy"]["rollingUpdate"]["partition"].as_i64() {
                out.push_str(&format!("  Partition:\t{partition}\n"));
            }
        }
        _ => {
            out.push_str(&parts::controller(object));
            out.push_str(&format!("Replicas:\t{} current / {} desired\n", number(&status["replicas"]), number(&spec["replicas"])));
        }
    }
    out.push_str(&format!("Pods Status:\t{counts}\n"));
    out.push_str(&pod::template_lines(&spec["template"]));
    if kind == "StatefulSet" {
        out.push_str(&claims(&spec["volumeClaimTemplates"]));
    } else {
        out.push_str(&parts::conditions(object));
    }
    out
}

fn selector_text(map: &Value) -> String {
    let pairs: Vec<String> = map.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value))).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

fn claims(list: &Value) -> String {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return "Volume Claims:\t<none>\n".to_owned();
    }
    let mut out = "Volume Claims:\n".to_owned();
    for claim in list {
        out.push_str(&format!("  Name:\t{}\n", text(&claim["metadata"]["name"])));
        out.push_str(&format!("  StorageClass:\t{}\n", text(&claim["spec"]["storageClassName"])));
        out.push_str(&parts::map("  Labels", &claim["metadata"]["labels"]));
        out.push_str(&parts::annotations("  Annotations", &claim["metadata"]["annotations"]));
        out.push_str(&format!("  Capacity:\t{}\n", shown(&claim["spec"]["resources"]["requests"]["storage"])));
        out.push_str(&format!("  Access Modes:\t{}\n", crate::kubectl::print::jsonpath::go_text(&claim["spec"]["accessModes"])));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_deployment_tells_its_sets_apart() {
        let template = |image: &str, hash: Option<&str>| {
            let mut template = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
            if let Some(hash) = hash {
                template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
            }
            template
        };
        let set = |name: &str, image: &str| json!({"metadata": {"name": name}, "spec": {"replicas": 1, "template": template(image, Some("h"))}, "status": {"replicas": 1}});
        let object = json!({"metadata": {"name": "x", "namespace": "n"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": template("i:2", None)}});
        let text = deployment(&object, &[set("x-old", "i:1"), set("x-new", "i:2")]);
        assert!(text.contains("OldReplicaSets:\tx-old (1/1 replicas created)\nNewReplicaSet:\tx-new (1/1 replicas created)\n"), "{text}");
    }
}
