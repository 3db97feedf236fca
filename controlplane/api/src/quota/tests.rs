use super::*;
use crate::kind::Registry;
use serde_json::json;
use std::sync::Arc;

fn kind(group: &str, plural: &str) -> Arc<Kind> {
    let registry = Registry::with_builtins();
    registry.all().into_iter().find(|kind| kind.group == group && kind.plural == plural).expect("a built-in kind")
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000).unwrap()
}

fn pod(request: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": request}}}]}})
}

fn quota(hard: &Value, used: &Value) -> Value {
    json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
}

#[test]
fn room_is_taken_until_there_is_none() {
    let pods = kind("", "pods");
    let hard = json!({"pods": "2", "requests.cpu": "1"});
    let used = charge(&quota(&hard, &json!({"pods": "0", "requests.cpu": "0"})), &pods, &pod("400m"), None, now()).unwrap().unwrap();
    assert_eq!(used, json!({"pods": "1", "requests.cpu": "400m"}));
    let used = charge(&quota(&hard, &used), &pods, &pod("600m"), None, now()).unwrap().unwrap();
    assert_eq!(used, json!({"pods": "2", "requests.cpu": "1"}));
    let refused = charge(&quota(&hard, &used), &pods, &pod("100m"), None, now()).unwrap_err();
    assert_eq!(
        refused,
        "exceeded quota: q, requested: pods=1,requests.cpu=100m, used: pods=2,requests.cpu=1, limited: pods=2,requests.cpu=1"
    );
    let silent = json!({"spec": {"containers": [{"name": "c"}, {"name": "d"}]}});
    assert_eq!(
        charge(&quota(&hard, &json!({"pods": "0", "requests.cpu": "0"})), &pods, &silent, None, now()).unwrap_err(),
        "failed quota: q: must specify requests.cpu for: c,d"
    );
    assert_eq!(
        charge(&quota(&json!({"pods": "2"}), &json!({})), &pods, &silent, None, now()).unwrap_err(),
        "status unknown for quota: q, resources: pods"
    );
}

#[test]
fn only_growth_is_charged_on_change() {
    let pods = kind("", "pods");
    let state = quota(&json!({"requests.cpu": "1"}), &json!({"requests.cpu": "800m"}));
    let grown = charge(&state, &pods, &pod("600m"), Some(&pod("500m")), now()).unwrap().unwrap();
    assert_eq!(grown, json!({"requests.cpu": "900m"}));
    assert_eq!(charge(&state, &pods, &pod("100m"), Some(&pod("500m")), now()), Ok(None));
    let services = kind("", "services");
    let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{"port": 80}, {"port": 81}]}});
    let state = quota(&json!({"services": "1", "services.nodeports": "1"}), &json!({"services": "1", "services.nodeports": "0"}));
    let refused = charge(&state, &services, &service("NodePort"), Some(&service("ClusterIP")), now()).unwrap_err();
    assert_eq!(refused, "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1");
}

#[test]
fn a_quota_is_about_what_it_names() {
    let others =
        quota(&json!({"configmaps": "1", "count/deployments.apps": "0"}), &json!({"configmaps": "1", "count/deployments.apps": "0"}));
    assert_eq!(charge(&others, &kind("", "pods"), &pod("1"), None, now()), Ok(None));
    assert!(charge(&others, &kind("apps", "deployments"), &json!({}), None, now()).is_err());
    assert!(charge(&others, &kind("", "configmaps"), &json!({}), None, now()).is_err());
    assert_eq!(charge(&others, &kind("apps", "replicasets"), &json!({}), None, now()), Ok(None));
}

#[test]
fn scopes_choose_pods() {
    let pods = kind("", "pods");
    let full = |extra: Value| {
        let mut quota = quota(&json!({"pods": "0"}), &json!({"pods": "0"}));
        crate::merge::json::merge(&mut quota["spec"], &extra);
        quota
    };
    let mut short = pod("1");
    short["spec"]["activeDeadlineSeconds"] = json!(5);
    short["spec"]["priorityClassName"] = json!("high");
    let idle = json!({"spec": {"containers": [{"name": "c"}]}});
    let check =
        |quota: Value, object: &Value, chosen: bool| assert_eq!(charge(&quota, &pods, object, None, now()).is_err(), chosen, "{quota}");
    check(full(json!({"scopes": ["Terminating"]})), &short, true);
    check(full(json!({"scopes": ["Terminating"]})), &idle, false);
    check(full(json!({"scopes": ["NotTerminating", "BestEffort"]})), &idle, true);
    check(full(json!({"scopes": ["NotBestEffort"]})), &idle, false);
    let class = |operator: &str, values: Value| {
        full(json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}}))
    };
    check(class("In", json!(["high"])), &short, true);
    check(class("In", json!(["low"])), &short, false);
    check(class("Exists", json!([])), &idle, false);
    check(class("NotIn", json!(["low"])), &idle, true);
}

#[test]
fn a_pod_that_is_over_counts_as_an_object_only() {
    let pods = kind("", "pods");
    let mut ended = pod("1");
    ended["status"] = json!({"phase": "Succeeded"});
    assert_eq!(to_json(&usage(&pods, &ended, now())), json!({"count/pods": "1"}));
    let mut late = pod("1");
    late["metadata"] = json!({"deletionTimestamp": "1970-01-01T00:16:00Z", "deletionGracePeriodSeconds": 30});
    assert_eq!(usage(&pods, &late, now()).len(), 1);
    late["metadata"]["deletionGracePeriodSeconds"] = json!(60);
    assert!(usage(&pods, &late, now()).contains_key("pods"));
}

#[test]
fn init_containers_run_alone_and_sidecars_beside() {
    let container =
        |cpu: &str, restart: Option<&str>| json!({"name": "c", "restartPolicy": restart, "resources": {"requests": {"cpu": cpu}}});
    let pod = json!({"spec": {
        "containers": [container("200m", None), container("300m", None)],
        "initContainers": [container("100m", Some("Always")), container("700m", None)], "overhead": {"cpu": "50m"}}});
    assert_eq!(usage(&kind("", "pods"), &pod, now())["requests.cpu"].to_string(), "850m");
}
