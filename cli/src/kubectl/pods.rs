//! Which pod and which container a command means: `NAME`, `pod/NAME`, `deploy/NAME`, `svc/NAME`.

use std::time::Duration;

use anyhow::bail;
use serde_json::Value;

use super::discovery::escape;
use super::output::note;
use super::select::{self, Found, Narrow, Wanted};
use super::session::Session;
use super::waiting::{self, Look};

/// The annotation that names the container to take when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pod of a word; of a workload or Service, the one that serves best.
///
/// # Errors
/// When there is none.
pub async fn one(session: &Session, word: &str, timeout: Duration) -> anyhow::Result<Value> {
    let name = match word.split_once('/') {
        None => Some(word),
        Some((kind, name)) if ["pod", "pods", "po"].contains(&kind) => Some(name),
        Some(_) => None,
    };
    if let Some(name) = name {
        return session.get(&format!("/api/v1/namespaces/{}/pods/{}", session.namespace, escape(name))).await;
    }
    let owner = object(session, word).await?;
    let Some(selector) = selector_of(&owner.object) else {
        bail!("cannot attach to *v1.{}: selector for *v1.{} not implemented", owner.resource.kind, owner.resource.kind);
    };
    let path = format!("/api/v1/namespaces/{}/pods", session.namespace);
    let narrow = Narrow { labels: Some(selector), ..Narrow::default() };
    let look = async {
        loop {
            let mut list = select::list(session, &path, &narrow, None, "").await?;
            let mut pods = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
            pods.sort_by_key(preference);
            if let Some(pod) = pods.into_iter().next() {
                return anyhow::Ok(pod);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    match tokio::time::timeout(timeout, look).await {
        Ok(pod) => pod,
        Err(_elapsed) => bail!("timed out waiting for the condition"),
    }
}

/// All pods of a workload or of a word that names a pod.
///
/// # Errors
/// When the object cannot be read.
pub async fn all(session: &Session, word: &str) -> anyhow::Result<Vec<Value>> {
    let owner = object(session, word).await?;
    if owner.resource.plural == "pods" {
        return Ok(vec![owner.object]);
    }
    let Some(selector) = selector_of(&owner.object) else { bail!("cannot get the logs from {}: it has no pods", owner.title()) };
    by_labels(session, &selector).await
}

/// The pods with these labels, the best first.
///
/// # Errors
/// When they cannot be listed.
pub async fn by_labels(session: &Session, selector: &str) -> anyhow::Result<Vec<Value>> {
    let path = format!("/api/v1/namespaces/{}/pods", session.namespace);
    let narrow = Narrow { labels: Some(selector.to_owned()), ..Narrow::default() };
    let mut list = select::list(session, &path, &narrow, None, "").await?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// The object of `TYPE/NAME`, or of a pod's name.
///
/// # Errors
/// When it does not exist.
pub async fn object(session: &Session, word: &str) -> anyhow::Result<Found> {
    let discovery = session.discovery().await?;
    let word = if word.contains('/') { word.to_owned() } else { format!("pods/{word}") };
    let wanted: Vec<Wanted> = select::arguments(&discovery, &[word], &session.namespace, &Narrow::default())?;
    let (mut found, mut failures) = select::fetch(session, wanted, &Narrow::default()).await;
    match (found.pop(), failures.pop()) {
        (Some(found), _) => Ok(found),
        (None, Some(error)) => Err(error),
        (None, None) => bail!("nothing was named"),
    }
}

/// The label selector of a workload or Service, as text.
pub fn selector_of(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let labels =
        if selector["matchLabels"].is_object() || selector["matchExpressions"].is_array() { &selector["matchLabels"] } else { selector };
    let mut parts: Vec<String> =
        labels.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    for term in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = term["key"].as_str()?;
        let values: Vec<&str> = term["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        parts.push(match term["operator"].as_str()? {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    (!parts.is_empty()).then(|| parts.join(","))
}

/// Running and ready pods come first, of those the oldest.
fn preference(pod: &Value) -> (bool, u8, bool, String) {
    let phase = match pod["status"]["phase"].as_str() {
        Some("Running") => 0,
        Some("Pending") => 1,
        _ => 2,
    };
    let ready = pod["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    (pod["spec"]["nodeName"].is_null(), phase, !ready, pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned())
}

/// The names of a pod's containers: init, ordinary, ephemeral.
pub fn container_names(pod: &Value) -> Vec<String> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|part| pod["spec"][part].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str().map(str::to_owned))
        .collect()
}

/// The container to take: the named one, the pod's default, the first. Says so when there was a choice.
///
/// # Errors
/// When the named one does not exist.
pub fn container(pod: &Value, named: Option<&str>, quiet: bool) -> anyhow::Result<String> {
    let all = container_names(pod);
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        if !all.iter().any(|name| name == named) {
            bail!("container {named} is not valid for pod {pod_name} out of: {}", described(pod));
        }
        return Ok(named.to_owned());
    }
    if let Some(default) = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str()
        && all.iter().any(|name| name == default)
    {
        return Ok(default.to_owned());
    }
    let ordinary: Vec<&str> = pod["spec"]["containers"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
    let Some(first) = ordinary.first() else { bail!("no container found in pod {pod_name}") };
    if all.len() > 1 && !quiet {
        note(format!("Defaulted container {first:?} out of: {}", described(pod)));
    }
    Ok((*first).to_owned())
}

fn described(pod: &Value) -> String {
    let names = |part: &str, kind: &str| -> Vec<String> {
        pod["spec"][part].as_array().into_iter().flatten().map(|c| format!("{}{kind}", c["name"].as_str().unwrap_or_default())).collect()
    };
    [names("containers", ""), names("ephemeralContainers", " (ephem)"), names("initContainers", " (init)")].concat().join(", ")
}

/// Waits until a pod runs (or has ended, if that will do).
///
/// # Errors
/// When it fails first or the time is over.
pub async fn until_running(session: &Session, pod: &Value, timeout: Duration, ended_will_do: bool) -> anyhow::Result<Value> {
    let discovery = session.discovery().await?;
    let target = Found {
        resource: discovery.resource("pods")?,
        namespace: pod["metadata"]["namespace"].as_str().map(str::to_owned),
        name: pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        object: Value::Null,
        source: None,
    };
    waiting::until(session, &target, timeout, |seen| {
        Ok(match seen.map(|pod| pod["status"]["phase"].as_str().unwrap_or_default()) {
            None => Look::Never(format!("pods {:?} not found", target.name)),
            Some("Running") => Look::Done,
            Some("Succeeded" | "Failed") if ended_will_do => Look::Done,
            Some(phase @ ("Succeeded" | "Failed")) => Look::Never(format!("pod {} has ended: {phase}", target.name)),
            Some(_) => Look::Wait,
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_of_workloads_and_services() {
        assert_eq!(selector_of(&json!({"spec": {"selector": {"app": "x"}}})).as_deref(), Some("app=x"));
        let set = json!({"spec": {"selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v", "w"]}]}}});
        assert_eq!(selector_of(&set).as_deref(), Some("a=b,k in (v,w)"));
        assert_eq!(selector_of(&json!({"spec": {}})), None);
    }

    #[test]
    fn the_container_is_the_named_the_default_or_the_first() {
        let mut pod =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&pod, None, true).expect("one"), "a");
        assert_eq!(container(&pod, Some("i"), true).expect("one"), "i");
        assert_eq!(
            container(&pod, Some("z"), true).expect_err("none").to_string(),
            "container z is not valid for pod p out of: a, b, i (init)"
        );
        assert_eq!(described(&pod), "a, b, i (init)");
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(container(&pod, None, true).expect("one"), "b");
    }

    #[test]
    fn ready_pods_come_first() {
        let pod = |phase: &str, ready: &str| json!({"spec": {"nodeName": "n"}, "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
        let mut pods = [pod("Pending", "False"), pod("Running", "False"), pod("Running", "True")];
        pods.sort_by_key(preference);
        assert_eq!(pods[0]["status"]["conditions"][0]["status"], "True");
    }
}
