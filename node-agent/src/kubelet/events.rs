//! Events for users: recorded in the background, repeated ones counted.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trierarch_client::{Client, PatchKind};

use crate::clock;

/// Most events that wait to be written; more are dropped, since events are a courtesy.
const QUEUE: usize = 1024;
/// Keys remembered to count repetitions.
const REMEMBERED: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Draft {
    object: String,
    namespace: String,
    kind: &'static str,
    reason: String,
    message: String,
}

/// Takes events; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Draft>,
}

impl Recorder {
    /// Starts to write events; ends when the last clone is dropped.
    pub fn start(client: Client, node: String) -> Self {
        let (queue, drafts) = mpsc::channel(QUEUE);
        tokio::spawn(write_all(client, node, drafts));
        Self { queue }
    }

    /// An event about a pod, or about one of its containers.
    pub fn pod(&self, pod: &Pod, container: Option<&str>, warning: bool, reason: &str, message: impl Into<String>) {
        let meta = &pod.metadata;
        let field = container.map(|name| {
            let init = pod.spec.as_ref().is_some_and(|s| s.init_containers.iter().flatten().any(|c| c.name == name));
            let ephemeral = pod.spec.as_ref().is_some_and(|s| s.ephemeral_containers.iter().flatten().any(|c| c.name == name));
            let list = match (init, ephemeral) {
                (true, _) => "initContainers",
                (_, true) => "ephemeralContainers",
                _ => "containers",
            };
            format!("spec.{list}{{{name}}}")
        });
        let mut object = json!({"apiVersion": "v1", "kind": "Pod", "name": meta.name, "namespace": meta.namespace, "uid": meta.uid, "resourceVersion": meta.resource_version});
        if let Some(field) = field {
            object["fieldPath"] = json!(field);
        }
        self.record(object, meta.namespace.clone().unwrap_or_default(), warning, reason, message.into());
    }

    /// An event about the node.
    pub fn node(&self, name: &str, warning: bool, reason: &str, message: impl Into<String>) {
        let object = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": name});
        self.record(object, "default".to_owned(), warning, reason, message.into());
    }

    fn record(&self, mut object: Value, namespace: String, warning: bool, reason: &str, message: String) {
        if let Some(map) = object.as_object_mut() {
            map.retain(|_, v| !v.is_null());
        }
        let kind = if warning { "Warning" } else { "Normal" };
        let draft = Draft { object: object.to_string(), namespace, kind, reason: reason.to_owned(), message };
        if self.queue.try_send(draft).is_err() {
            tracing::debug!(reason, "Dropped an event");
        }
    }
}

async fn write_all(client: Client, node: String, mut drafts: mpsc::Receiver<Draft>) {
    let mut seen: HashMap<String, (String, u32)> = HashMap::new();
    while let Some(draft) = drafts.recv().await {
        if seen.len() > REMEMBERED {
            seen.clear();
        }
        let now = k8s_time();
        let object: Value = serde_json::from_str(&draft.object).unwrap_or_default();
        let mut stable = object.clone();
        if let Some(map) = stable.as_object_mut() {
            map.remove("resourceVersion");
        }
        let key = format!("{stable}|{}|{}|{}", draft.kind, draft.reason, draft.message);
        let collection = format!("/api/v1/namespaces/{}/events", draft.namespace);
        if let Some((name, count)) = seen.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": now});
            let outcome: Result<Value, _> = client.patch(&format!("{collection}/{name}"), PatchKind::Merge, &patch).await;
            if outcome.is_ok() {
                continue;
            }
            seen.remove(&key);
        }
        let name = format!("{}.{:016x}", object["name"].as_str().unwrap_or("x"), clock::now().as_nanosecond() & i128::from(u64::MAX));
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": draft.namespace}, "involvedObject": object,
            "reason": draft.reason, "message": draft.message, "type": draft.kind, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
            "source": {"component": "kubelet", "host": node}, "reportingComponent": "kubelet", "reportingInstance": node,
        });
        match client.create::<Value>(&collection, &event).await {
            Ok(_) => drop(seen.insert(key, (name, 1))),
            Err(error) => tracing::debug!(reason = draft.reason, %error, "Could not write an event"),
        }
    }
}

fn k8s_time() -> String {
    let now = clock::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
