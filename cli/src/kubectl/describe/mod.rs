//! `describe`: an object and what belongs to it, for people. The texts are pure functions; this file collects what they need.

pub mod generic;
pub mod network;
pub mod node;
pub mod parts;
pub mod pod;
pub mod rules;
pub mod workload;

use serde_json::Value;

use super::clock;
use super::discovery::escape;
use super::pods;
use super::print::tabs;
use super::select::{self, Found, Narrow};
use super::session::Session;

/// The text of an object.
///
/// # Errors
/// When what belongs to it cannot be read.
pub async fn describe(session: &Session, found: &Found, show_events: bool) -> anyhow::Result<String> {
    let object = &found.object;
    let now = clock::now();
    let namespace = found.namespace.as_deref();
    let mut with_events = show_events;
    let mut text = match (found.resource.group.as_str(), found.resource.kind.as_str()) {
        ("", "Pod") => pod::describe(object, now),
        ("", "Node") => {
            let selector = format!("spec.nodeName={},status.phase!=Failed,status.phase!=Succeeded", found.name);
            let narrow = Narrow { fields: Some(selector), ..Narrow::default() };
            let on_node = select::list(session, "/api/v1/pods", &narrow, None, "").await.ok();
            let lease =
                session.get(&format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", escape(&found.name))).await.ok();
            node::describe(object, lease.as_ref(), on_node.as_ref(), now)
        }
        ("", "Service") => {
            let narrow = Narrow { labels: Some(format!("kubernetes.io/service-name={}", found.name)), ..Narrow::default() };
            let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", namespace.unwrap_or_default());
            let slices = select::list(session, &path, &narrow, None, "").await.unwrap_or_default();
            network::service(object, &slices)
        }
        ("", "Endpoints") => network::endpoints(object),
        ("discovery.k8s.io", "EndpointSlice") => network::endpoint_slice(object),
        ("", "ConfigMap") => generic::config_map(object),
        ("", "Secret") => {
            with_events = false;
            generic::secret(object)
        }
        ("", "ServiceAccount") => generic::service_account(object),
        ("", "Namespace") => {
            with_events = false;
            let quotas = session.get(&format!("/api/v1/namespaces/{}/resourcequotas", escape(&found.name))).await.ok();
            let limits = session.get(&format!("/api/v1/namespaces/{}/limitranges", escape(&found.name))).await.ok();
            generic::namespace(object, quotas.as_ref(), limits.as_ref())
        }
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            with_events = false;
            generic::role(object)
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            with_events = false;
            generic::binding(object)
        }
        ("apps", "Deployment") => {
            let sets = related(session, "replicasets", found).await?;
            workload::deployment(object, &sets)
        }
        ("apps", "ReplicaSet" | "DaemonSet" | "StatefulSet") | ("", "ReplicationController") => {
            let own = match pods::selector_of(object) {
                Some(selector) => {
                    let path = format!("/api/v1/namespaces/{}/pods", namespace.unwrap_or_default());
                    let narrow = Narrow { labels: Some(selector), ..Narrow::default() };
                    let list = select::list(session, &path, &narrow, None, "").await?;
                    owned(&list, object)
                }
                None => Vec::new(),
            };
            workload::counted(object, &own)
        }
        ("scheduling.k8s.io", "PriorityClass") => generic::priority_class(object),
        _ => generic::any(object),
    };
    if with_events && let Some(events) = events(session, found).await {
        if events["items"].as_array().is_some_and(|list| !list.is_empty()) {
            return Ok(tabs::describe(&text) + &parts::events(&events, now));
        }
        text.push_str("Events:\t<none>\n");
    }
    Ok(tabs::describe(&text))
}

async fn related(session: &Session, plural: &str, found: &Found) -> anyhow::Result<Vec<Value>> {
    let Some(selector) = pods::selector_of(&found.object) else {
        return Ok(Vec::new());
    };
    let path = format!("/apis/apps/v1/namespaces/{}/{plural}", found.namespace.as_deref().unwrap_or_default());
    let list = select::list(session, &path, &Narrow { labels: Some(selector), ..Narrow::default() }, None, "").await?;
    Ok(owned(&list, &found.object))
}

/// The objects of a list that an object controls.
fn owned(list: &Value, owner: &Value) -> Vec<Value> {
    let uid = &owner["metadata"]["uid"];
    list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|item| {
            item["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|reference| reference["uid"] == *uid && reference["controller"] == true)
        })
        .cloned()
        .collect()
}

/// The events about an object; `None` when they may not be read.
async fn events(session: &Session, found: &Found) -> Option<Value> {
    let mut terms = vec![format!("involvedObject.name={}", found.name)];
    if let Some(namespace) = &found.namespace {
        terms.push(format!("involvedObject.namespace={namespace}"));
    }
    if found.resource.kind == "Node" {
        // a node's own events carry its name as uid
        terms.push("involvedObject.kind=Node".to_owned());
    } else if let Some(uid) = found.object["metadata"]["uid"].as_str() {
        terms.push(format!("involvedObject.uid={uid}"));
    }
    let path = match &found.namespace {
        Some(namespace) => format!("/api/v1/namespaces/{}/events", escape(namespace)),
        None => "/api/v1/events".to_owned(),
    };
    select::list(session, &path, &Narrow { fields: Some(terms.join(",")), chunk: select::CHUNK, ..Narrow::default() }, None, "").await.ok()
}
