//! Pods and pod templates.

use jiff::Timestamp;
use serde_json::Value;

use super::parts::{self, number, shown, text, time};
use crate::kubectl::duration;
use crate::kubectl::print::jsonpath;

/// The text of a pod, without its events.
pub fn describe(pod: &Value, now: Timestamp) -> String {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let mut out = parts::head(pod);
    if let Some(priority) = spec["priority"].as_i64() {
        out.push_str(&format!("Priority:\t{priority}\n"));
    }
    for (title, field) in [
        ("Priority Class Name", "priorityClassName"),
        ("Runtime Class Name", "runtimeClassName"),
        ("Service Account", "serviceAccountName"),
    ] {
        if let Some(value) = spec[field].as_str().filter(|value| !value.is_empty()) {
            out.push_str(&format!("{title}:\t{value}\n"));
        }
    }
    match spec["nodeName"].as_str() {
        Some(node) => out.push_str(&format!("Node:\t{node}/{}\n", text(&status["hostIP"]))),
        None => out.push_str("Node:\t<none>\n"),
    }
    if status["startTime"].is_string() {
        out.push_str(&format!("Start Time:\t{}\n", time(&status["startTime"])));
    }
    out.push_str(&parts::labels(pod));
    out.push_str(&parts::annotations("Annotations", &pod["metadata"]["annotations"]));
    let phase = text(&status["phase"]);
    if pod["metadata"]["deletionTimestamp"].is_string() && !["Failed", "Succeeded"].contains(&phase) {
        out.push_str(&format!("Status:\tTerminating (lasts {})\n", duration::age(&pod["metadata"]["deletionTimestamp"], now)));
        out.push_str(&format!("Termination Grace Period:\t{}s\n", number(&pod["metadata"]["deletionGracePeriodSeconds"])));
    } else {
        out.push_str(&format!("Status:\t{phase}\n"));
    }
    for (title, field) in [("Reason", "reason"), ("Message", "message")] {
        if let Some(value) = status[field].as_str().filter(|value| !value.is_empty()) {
            out.push_str(&format!("{title}:\t{value}\n"));
        }
    }
    out.push_str(&seccomp(&spec["securityContext"], ""));
    out.push_str(&format!("IP:\t{}\n", text(&status["podIP"])));
    let addresses = status["podIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if addresses.is_empty() {
        out.push_str("IPs:\t<none>\n");
    } else {
        out.push_str("IPs:\n");
        for address in addresses {
            out.push_str(&format!("  IP:\t{}\n", text(&address["ip"])));
        }
    }
    out.push_str(&parts::controller(pod));
    if let Some(node) = status["nominatedNodeName"].as_str().filter(|node| !node.is_empty()) {
        out.push_str(&format!("NominatedNodeName:\t{node}\n"));
    }
    if spec["resources"].is_object() {
        out.push_str("Resources:\n");
        out.push_str(&resources(&spec["resources"], "  "));
    }
    for (title, field, statuses, always) in [
        ("Init Containers", "initContainers", "initContainerStatuses", false),
        ("Containers", "containers", "containerStatuses", true),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses", false),
    ] {
        if always || spec[field].as_array().is_some_and(|list| !list.is_empty()) {
            out.push_str(&containers(title, &spec[field], Some((&status[statuses], pod)), ""));
        }
    }
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let gates = spec["readinessGates"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !gates.is_empty() {
        out.push_str("Readiness Gates:\n  Type\tStatus\n");
        for gate in gates {
            let found = conditions.iter().find(|condition| condition["type"] == gate["conditionType"]);
            out.push_str(&format!(
                "  {} \t{} \n",
                text(&gate["conditionType"]),
                found.map_or("<none>", |condition| text(&condition["status"]))
            ));
        }
    }
    if !conditions.is_empty() {
        out.push_str("Conditions:\n  Type\tStatus\n");
        for condition in conditions {
            out.push_str(&format!("  {} \t{} \n", text(&condition["type"]), text(&condition["status"])));
        }
    }
    out.push_str(&volumes(&spec["volumes"], ""));
    out.push_str(&format!("QoS Class:\t{}\n", text(&status["qosClass"])));
    out.push_str(&parts::map("Node-Selectors", &spec["nodeSelector"]));
    out.push_str(&parts::tolerations("Tolerations", &spec["tolerations"]));
    out.push_str(&spread(&spec["topologySpreadConstraints"], ""));
    out
}

/// The lines of a pod template inside a workload.
pub fn template_lines(template: &Value) -> String {
    let spec = &template["spec"];
    let mut out = "Pod Template:\n".to_owned();
    out.push_str(&parts::map("  Labels", &template["metadata"]["labels"]));
    if template["metadata"]["annotations"].as_object().is_some_and(|map| !map.is_empty()) {
        out.push_str(&parts::annotations("  Annotations", &template["metadata"]["annotations"]));
    }
    if let Some(account) = spec["serviceAccountName"].as_str().filter(|account| !account.is_empty()) {
        out.push_str(&format!("  Service Account:\t{account}\n"));
    }
    if spec["initContainers"].as_array().is_some_and(|list| !list.is_empty()) {
        out.push_str(&containers("Init Containers", &spec["initContainers"], None, "  "));
    }
    out.push_str(&containers("Containers", &spec["containers"], None, "  "));
    out.push_str(&volumes(&spec["volumes"], "  "));
    out.push_str(&spread(&spec["topologySpreadConstraints"], "  "));
    if let Some(class) = spec["priorityClassName"].as_str().filter(|class| !class.is_empty()) {
        out.push_str(&format!("  Priority Class Name:\t{class}\n"));
    }
    out.push_str(&parts::map("  Node-Selectors", &spec["nodeSelector"]));
    out.push_str(&parts::tolerations("  Tolerations", &spec["tolerations"]));
    out
}

/// A pod template on its own, as the history of a rollout shows it.
pub fn template(template: &Value, cause: Option<&str>) -> String {
    let mut template = template.clone();
    if let Some(cause) = cause {
        template["metadata"]["annotations"]["kubernetes.io/change-cause"] = Value::String(cause.to_owned());
    }
    template_lines(&template) + "\n"
}

fn seccomp(context: &Value, indent: &str) -> String {
    let profile = &context["seccompProfile"];
    let Some(kind) = profile["type"].as_str() else {
        return String::new();
    };
    let mut out = format!("{indent}SeccompProfile:\t{kind}\n");
    if kind == "Localhost" {
        let deeper = if indent.is_empty() { "" } else { "      " };
        out.push_str(&format!("{deeper}LocalhostProfile:\t{}\n", text(&profile["localhostProfile"])));
    }
    out
}

/// Containers; `live` holds their statuses and the pod, a template has none.
fn containers(title: &str, list: &Value, live: Option<(&Value, &Value)>, space: &str) -> String {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = format!("{space}{title}:{}\n", if list.is_empty() { " <none>" } else { "" });
    let name_indent = if space.is_empty() { "" } else { " " };
    for container in list {
        let status = live
            .and_then(|(statuses, _)| statuses.as_array())
            .and_then(|statuses| statuses.iter().find(|status| status["name"] == container["name"]));
        out.push_str(&format!("  {name_indent}{}:\n", text(&container["name"])));
        if let Some(status) = status {
            out.push_str(&format!("    Container ID:\t{}\n", text(&status["containerID"])));
        }
        out.push_str(&format!("    Image:\t{}\n", text(&container["image"])));
        if let Some(status) = status {
            out.push_str(&format!("    Image ID:\t{}\n", text(&status["imageID"])));
        }
        for (one, many, field) in [("Port", "Ports", "containerPort"), ("Host Port", "Host Ports", "hostPort")] {
            let ports = ports(&container["ports"], field);
            let title = if ports.contains(',') { many } else { one };
            out.push_str(&format!("    {title}:\t{}\n", if ports.is_empty() { "<none>" } else { &ports }));
        }
        out.push_str(&seccomp(&container["securityContext"], "    "));
        for (title, field) in [("Command", "command"), ("Args", "args")] {
            if let Some(words) = container[field].as_array().filter(|words| !words.is_empty()) {
                out.push_str(&format!("    {title}:\n"));
                for line in words.iter().flat_map(|word| text(word).split('\n')) {
                    out.push_str(&format!("      {line}\n"));
                }
            }
        }
        if let Some(status) = status {
            out.push_str(&state("State", &status["state"]));
            if status["lastState"]["terminated"].is_object() {
                out.push_str(&state("Last State", &status["lastState"]));
            }
            let ready = if status["ready"] == true { "True" } else { "False" };
            out.push_str(&format!("    Ready:\t{ready}\n    Restart Count:\t{}\n", number(&status["restartCount"])));
        }
        out.push_str(&resources(&container["resources"], "    "));
        for (title, field) in [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")] {
            if container[field].is_object() {
                out.push_str(&format!("    {title}:\t{}\n", probe(&container[field])));
            }
        }
        out.push_str(&environment(container, live.map(|(_, pod)| pod)));
        out.push_str(&mounts(container));
    }
    out
}

fn ports(list: &Value, field: &str) -> String {
    let ports: Vec<String> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let text = format!("{}/{}", number(&port[field]), text(&port["protocol"]));
            port["name"].as_str().filter(|name| !name.is_empty()).map_or(text.clone(), |name| format!("{text} ({name})"))
        })
        .collect();
    ports.join(", ")
}

fn state(title: &str, state: &Value) -> String {
    if state["running"].is_object() {
        return format!("    {title}:\tRunning\n      Started:\t{}\n", time(&state["running"]["startedAt"]));
    }
    let ended = &state["terminated"];
    if !ended.is_object() {
        let reason = state["waiting"]["reason"].as_str().filter(|reason| !reason.is_empty());
        return format!("    {title}:\tWaiting\n{}", reason.map(|reason| format!("      Reason:\t{reason}\n")).unwrap_or_default());
    }
    let mut out = format!("    {title}:\tTerminated\n");
    for (title, field) in [("Reason", "reason"), ("Message", "message")] {
        if let Some(value) = ended[field].as_str().filter(|value| !value.is_empty()) {
            out.push_str(&format!("      {title}:\t{value}\n"));
        }
    }
    out.push_str(&format!("      Exit Code:\t{}\n", number(&ended["exitCode"])));
    if number(&ended["signal"]) > 0 {
        out.push_str(&format!("      Signal:\t{}\n", number(&ended["signal"])));
    }
    out.push_str(&format!("      Started:\t{}\n      Finished:\t{}\n", time(&ended["startedAt"]), time(&ended["finishedAt"])));
    out
}

fn resources(resources: &Value, indent: &str) -> String {
    let mut out = String::new();
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        if let Some(map) = resources[field].as_object().filter(|map| !map.is_empty()) {
            out.push_str(&format!("{indent}{title}:\n"));
            for (name, amount) in map {
                out.push_str(&format!("{indent}  {name}:\t{}\n", shown(amount)));
            }
        }
    }
    out
}

fn probe(probe: &Value) -> String {
    let timing = format!(
        "delay={}s timeout={}s period={}s successThreshold={} failureThreshold={}",
        number(&probe["initialDelaySeconds"]),
        number(&probe["timeoutSeconds"]),
        number(&probe["periodSeconds"]),
        number(&probe["successThreshold"]),
        number(&probe["failureThreshold"])
    );
    if probe["exec"].is_object() {
        return format!("exec {} {timing}", jsonpath::go_text(&probe["exec"]["command"]));
    }
    let get = &probe["httpGet"];
    if get.is_object() {
        let path = text(&get["path"]);
        let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
        return format!(
            "http-get {}://{}:{}{slash}{path} {timing}",
            text(&get["scheme"]).to_lowercase(),
            text(&get["host"]),
            shown(&get["port"])
        );
    }
    let socket = &probe["tcpSocket"];
    if socket.is_object() {
        return format!("tcp-socket {}:{} {timing}", text(&socket["host"]), shown(&socket["port"]));
    }
    if probe["grpc"].is_object() {
        return format!("grpc <pod>:{} {} {timing}", shown(&probe["grpc"]["port"]), text(&probe["grpc"]["service"]));
    }
    format!("unknown {timing}")
}

fn environment(container: &Value, pod: Option<&Value>) -> String {
    let mut out = String::new();
    let flag = |value: &Value| value["optional"] == true;
    if let Some(sources) = container["envFrom"].as_array().filter(|sources| !sources.is_empty()) {
        out.push_str("    Environment Variables from:\n");
        for source in sources {
            let (kind, from) =
                if source["configMapRef"].is_object() { ("ConfigMap", &source["configMapRef"]) } else { ("Secret", &source["secretRef"]) };
            let prefix = source["prefix"]
                .as_str()
                .filter(|prefix| !prefix.is_empty())
                .map(|prefix| format!(" with prefix '{prefix}'"))
                .unwrap_or_default();
            out.push_str(&format!("      {}\t{kind}{prefix}\tOptional: {}\n", text(&from["name"]), flag(from)));
        }
    }
    let variables = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    out.push_str(if variables.is_empty() { "    Environment:\t<none>\n" } else { "    Environment:\n" });
    for variable in variables {
        let (name, from) = (text(&variable["name"]), &variable["valueFrom"]);
        if from["fieldRef"].is_object() {
            let field = &from["fieldRef"];
            let value = pod.map(|pod| field_of(pod, text(&field["fieldPath"]))).unwrap_or_default();
            let version = field["apiVersion"].as_str().unwrap_or("v1");
            out.push_str(&format!("      {name}:\t{value} ({version}:{})\n", text(&field["fieldPath"])));
        } else if from["resourceFieldRef"].is_object() {
            let resource = text(&from["resourceFieldRef"]["resource"]);
            let (part, kind) = resource.split_once('.').unwrap_or((resource, ""));
            let value = shown(&container["resources"][part][kind]);
            let value = match value.parse::<trierarch_api::Quantity>() {
                Ok(amount) if !value.is_empty() => amount.units().to_string(),
                _ if part == "limits" => "node allocatable".to_owned(),
                _ => "0".to_owned(),
            };
            out.push_str(&format!("      {name}:\t{value} ({resource})\n"));
        } else if from["secretKeyRef"].is_object() {
            let key = &from["secretKeyRef"];
            out.push_str(&format!(
                "      {name}:\t<set to the key '{}' in secret '{}'>\tOptional: {}\n",
                text(&key["key"]),
                text(&key["name"]),
                flag(key)
            ));
        } else if from["configMapKeyRef"].is_object() {
            let key = &from["configMapKeyRef"];
            out.push_str(&format!(
                "      {name}:\t<set to the key '{}' of config map '{}'>\tOptional: {}\n",
                text(&key["key"]),
                text(&key["name"]),
                flag(key)
            ));
        } else if !from.is_object() {
            for (at, line) in text(&variable["value"]).split('\n').enumerate() {
                if at == 0 {
                    out.push_str(&format!("      {name}:\t{line}\n"));
                } else {
                    out.push_str(&format!("      \t{line}\n"));
                }
            }
        }
    }
    out
}

/// A field of a pod as the downward API names it.
fn field_of(pod: &Value, path: &str) -> String {
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let fields = map.split('.').fold(pod, |value, part| &value[part]);
        return shown(&fields[key]);
    }
    shown(path.split('.').fold(pod, |value, part| &value[part]))
}

fn mounts(container: &Value) -> String {
    let mut list: Vec<&Value> = container["volumeMounts"].as_array().into_iter().flatten().collect();
    let mut out = if list.is_empty() { "    Mounts:\t<none>\n" } else { "    Mounts:\n" }.to_owned();
    list.sort_by_key(|mount| text(&mount["mountPath"]).to_owned());
    for mount in list {
        let mut flags = if mount["readOnly"] == true { "ro" } else { "rw" }.to_owned();
        if let Some(path) = mount["subPath"].as_str().filter(|path| !path.is_empty()) {
            flags.push_str(&format!(",path={path:?}"));
        }
        out.push_str(&format!("      {} from {} ({flags})\n", text(&mount["mountPath"]), text(&mount["name"])));
    }
    out
}

fn spread(list: &Value, space: &str) -> String {
    let mut list: Vec<&Value> = list.as_array().into_iter().flatten().collect();
    if list.is_empty() {
        return String::new();
    }
    list.sort_by_key(|constraint| text(&constraint["topologyKey"]).to_owned());
    let lines: Vec<String> = list
        .into_iter()
        .map(|constraint| {
            let selector = crate::kubectl::pods::selector_of(&serde_json::json!({"spec": {"selector": constraint["labelSelector"]}}));
            let selector = if constraint["labelSelector"].is_object() {
                format!(" for selector {}", selector.unwrap_or_default())
            } else {
                String::new()
            };
            format!(
                "{}:{} when max skew {} is exceeded{selector}\n",
                text(&constraint["topologyKey"]),
                text(&constraint["whenUnsatisfiable"]),
                number(&constraint["maxSkew"])
            )
        })
        .collect();
    format!("{space}Topology Spread Constraints:\t{}", lines.join(&format!("{space}\t")))
}

fn volumes(list: &Value, space: &str) -> String {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return format!("{space}Volumes:\t<none>\n");
    }
    let mut out = format!("{space}Volumes:\n");
    let name_indent = if space.is_empty() { "" } else { " " };
    for volume in list {
        out.push_str(&format!("  {name_indent}{}:\n", text(&volume["name"])));
        out.push_str(&volume_source(volume));
    }
    out
}

fn volume_source(volume: &Value) -> String {
    let optional = |value: &Value| value["optional"] == true;
    let lines = |kind: &str, fields: &[(&str, String)]| {
        let mut out = format!("    Type:\t{kind}\n");
        for (title, value) in fields {
            out.push_str(&format!("    {title}:\t{value}\n"));
        }
        out
    };
    let source = |name: &str| Some(&volume[name]).filter(|source| source.is_object());
    if let Some(s) = source("hostPath") {
        let kind = s["type"].as_str().unwrap_or("<none>").to_owned();
        return lines("HostPath (bare host directory volume)", &[("Path", shown(&s["path"])), ("HostPathType", kind)]);
    }
    if let Some(s) = source("emptyDir") {
        let limit = s["sizeLimit"].as_str().unwrap_or("<unset>").to_owned();
        return lines(
            "EmptyDir (a temporary directory that shares a pod's lifetime)",
            &[("Medium", shown(&s["medium"])), ("SizeLimit", limit)],
        );
    }
    if let Some(s) = source("secret") {
        return lines(
            "Secret (a volume populated by a Secret)",
            &[("SecretName", shown(&s["secretName"])), ("Optional", optional(s).to_string())],
        );
    }
    if let Some(s) = source("configMap") {
        return lines(
            "ConfigMap (a volume populated by a ConfigMap)",
            &[("Name", shown(&s["name"])), ("Optional", optional(s).to_string())],
        );
    }
    if let Some(s) = source("persistentVolumeClaim") {
        return lines(
            "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
            &[("ClaimName", shown(&s["claimName"])), ("ReadOnly", (s["readOnly"] == true).to_string())],
        );
    }
    if let Some(s) = source("nfs") {
        return lines(
            "NFS (an NFS mount that lasts the lifetime of a pod)",
            &[("Server", shown(&s["server"])), ("Path", shown(&s["path"])), ("ReadOnly", (s["readOnly"] == true).to_string())],
        );
    }
    if let Some(s) = source("image") {
        return lines(
            "Image (a container image or OCI artifact)",
            &[("Reference", shown(&s["reference"])), ("PullPolicy", shown(&s["pullPolicy"]))],
        );
    }
    if let Some(s) = source("csi") {
        return lines(
            "CSI (a Container Storage Interface (CSI) volume source)",
            &[("Driver", shown(&s["driver"])), ("FSType", shown(&s["fsType"])), ("ReadOnly", (s["readOnly"] == true).to_string())],
        );
    }
    if let Some(s) = source("downwardAPI") {
        let mut out = "    Type:\tDownwardAPI (a volume populated by information about the pod)\n    Items:\n".to_owned();
        for item in s["items"].as_array().into_iter().flatten() {
            let from = if item["fieldRef"].is_object() { &item["fieldRef"]["fieldPath"] } else { &item["resourceFieldRef"]["resource"] };
            out.push_str(&format!("      {} -> {}\n", text(from), text(&item["path"])));
        }
        return out;
    }
    if let Some(s) = source("projected") {
        let mut out = "    Type:\tProjected (a volume that contains injected data from multiple sources)\n".to_owned();
        for part in s["sources"].as_array().into_iter().flatten() {
            if part["secret"].is_object() {
                out.push_str(&format!(
                    "    SecretName:\t{}\n    Optional:\t{}\n",
                    text(&part["secret"]["name"]),
                    optional(&part["secret"])
                ));
            } else if part["downwardAPI"].is_object() {
                out.push_str("    DownwardAPI:\ttrue\n");
            } else if part["configMap"].is_object() {
                out.push_str(&format!(
                    "    ConfigMapName:\t{}\n    Optional:\t{}\n",
                    text(&part["configMap"]["name"]),
                    optional(&part["configMap"])
                ));
            } else if part["serviceAccountToken"].is_object() {
                out.push_str(&format!("    TokenExpirationSeconds:\t{}\n", number(&part["serviceAccountToken"]["expirationSeconds"])));
            }
        }
        return out;
    }
    match volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name") {
        Some((kind, _)) => format!("    Type:\t{kind}\n"),
        None => "  <unknown>\n".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_reads_as_kubectl_writes_it() {
        let pod = json!({"metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "default", "containers": [{"name": "c", "image": "shop:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "value": "1"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "livenessProbe": {"httpGet": {"path": "/ok", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
                "volumes": [{"name": "v", "emptyDir": {}}]},
            "status": {"phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}], "qosClass": "BestEffort",
                "containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff"}}, "ready": false, "restartCount": 2}]}});
        let text = crate::kubectl::print::tabs::describe(&describe(&pod, "2026-01-01T00:00:00Z".parse().expect("a time")));
        for line in [
            "Name:             web",
            "Service Account:  default",
            "Node:             n1/10.0.0.1",
            "    Port:           80/TCP",
            "    Host Port:      0/TCP",
            "      Reason:       ImagePullBackOff",
            "    Restart Count:  2",
            "    Liveness:       http-get http://:80/ok delay=0s timeout=1s period=10s successThreshold=1 failureThreshold=3",
            "      A:      1",
            "      N:      web (v1:metadata.name)",
            "    Mounts:   <none>",
            "QoS Class:        BestEffort",
            "Tolerations:      <none>",
        ] {
            let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.lines().any(|have| squeezed(have) == squeezed(line)), "{line:?} is missing in\n{text}");
        }
        assert!(text.starts_with("Name:             web\nNamespace:        shop\n"), "{text}");
    }
}
