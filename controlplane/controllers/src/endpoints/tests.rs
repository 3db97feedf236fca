//! What the Endpoints of a Service say.

use std::sync::Arc;

use serde_json::{Value, json};
use trierarch_api::ObjectKey;

use super::*;
use crate::fake::FakeCluster;

pub(crate) fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default", "labels": {"tier": "front"}}, "spec": spec})
}

pub(crate) fn pod(name: &str, ip: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        },
    })
}

pub(crate) fn settle(cluster: &FakeCluster, controller: &dyn Controller, key: &ObjectKey) {
    for _ in 0..10 {
        let view = cluster.view();
        let plan = controller.decide(key, &Context { view: &view, now: cluster.now(), failure: None });
        if plan.is_empty() {
            return;
        }
        cluster.apply(plan).unwrap();
    }
    panic!("no rest");
}

fn subsets(cluster: &FakeCluster) -> Value {
    cluster.get(&ENDPOINTS, "default", "web").unwrap().value()["subsets"].clone()
}

fn world(spec: Value) -> (Arc<FakeCluster>, ObjectKey) {
    let cluster = FakeCluster::new();
    let key = cluster.add(service(spec)).key();
    (cluster, key)
}

#[test]
fn ready_pods_are_addresses_and_others_are_not() {
    let (cluster, key) = world(json!({"selector": {"app": "web"}, "ports": [{"name": "p", "port": 80, "targetPort": "http"}]}));
    settle(&cluster, &EndpointsController, &key);
    assert!(subsets(&cluster).is_null());
    cluster.add(pod("a", "10.0.0.1", true));
    cluster.add(pod("b", "10.0.0.2", false));
    let mut stranger = pod("s", "10.0.0.9", true);
    stranger["metadata"]["labels"]["app"] = json!("other");
    cluster.add(stranger);
    settle(&cluster, &EndpointsController, &key);
    let subsets = subsets(&cluster);
    assert_eq!(subsets.as_array().unwrap().len(), 1);
    assert_eq!(subsets[0]["addresses"][0]["ip"], "10.0.0.1");
    assert_eq!(subsets[0]["addresses"][0]["targetRef"]["name"], "a");
    assert_eq!(subsets[0]["notReadyAddresses"][0]["ip"], "10.0.0.2");
    assert_eq!(subsets[0]["ports"], json!([{"name": "p", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(cluster.get(&ENDPOINTS, "default", "web").unwrap().labels["tier"], "front");
}

#[test]
fn finished_and_terminating_pods_leave() {
    let (cluster, key) = world(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
    let done = cluster.add(pod("a", "10.0.0.1", true));
    let leaving = cluster.add(pod("b", "10.0.0.2", true));
    cluster.change(&done.key(), |pod| pod["status"]["phase"] = json!("Succeeded"));
    cluster.change(&leaving.key(), |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2027-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    });
    settle(&cluster, &EndpointsController, &key);
    assert!(subsets(&cluster).is_null());
    cluster.change(&key, |service| service["spec"]["publishNotReadyAddresses"] = json!(true));
    settle(&cluster, &EndpointsController, &key);
    assert_eq!(subsets(&cluster)[0]["addresses"][0]["ip"], "10.0.0.2");
}

#[test]
fn headless_services_need_no_ports_and_name_their_pods() {
    let (cluster, key) = world(json!({"selector": {"app": "web"}, "clusterIP": "None"}));
    let named = cluster.add(pod("a", "10.0.0.1", true));
    cluster.change(&named.key(), |pod| {
        pod["spec"]["hostname"] = json!("first");
        pod["spec"]["subdomain"] = json!("web");
    });
    settle(&cluster, &EndpointsController, &key);
    assert_eq!(subsets(&cluster)[0]["addresses"][0]["hostname"], "first");
    assert!(subsets(&cluster)[0].get("ports").is_none());
    assert!(cluster.get(&ENDPOINTS, "default", "web").unwrap().labels.contains_key(crate::service_pods::HEADLESS));
}

#[test]
fn a_service_without_a_selector_keeps_hand_written_endpoints() {
    let (cluster, key) = world(json!({"ports": [{"port": 80}]}));
    cluster.add(
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"}, "subsets": [{"addresses": [{"ip": "1.2.3.4"}]}]}),
    );
    settle(&cluster, &EndpointsController, &key);
    assert_eq!(subsets(&cluster)[0]["addresses"][0]["ip"], "1.2.3.4");
}

#[test]
fn endpoints_go_with_their_service() {
    let (cluster, key) = world(json!({"selector": {"app": "web"}, "ports": [{"port": 80}]}));
    settle(&cluster, &EndpointsController, &key);
    cluster.remove(&key);
    settle(&cluster, &EndpointsController, &key);
    assert!(cluster.get(&ENDPOINTS, "default", "web").is_none());
}
