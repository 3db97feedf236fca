//! Never too many pods, adoption and release, failures, and rest after a plan.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use trierarch_api::{ApiError, Object, ObjectKey, Reason};

use super::*;
use crate::fake::FakeCluster;
use crate::perform::{Failure, Step};

fn replica_set(replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    })
}

fn decide(cluster: &FakeCluster, flavour: Flavour, key: &ObjectKey, failure: Option<&Failure>) -> Plan {
    let view = cluster.view();
    ReplicaController::new(flavour).decide(key, &Context { view: &view, now: cluster.now(), failure })
}

fn settle(cluster: &FakeCluster, key: &ObjectKey) {
    for _ in 0..20 {
        let plan = decide(cluster, Flavour::ReplicaSet, key, None);
        if plan.is_empty() {
            return;
        }
        cluster.apply(plan).unwrap();
    }
    panic!("no rest");
}

fn make_ready(cluster: &FakeCluster, pod: &Object) {
    let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": crate::events::seconds(cluster.now())}]});
    cluster.set_status(&pod.key(), status);
}

fn active(cluster: &FakeCluster) -> Vec<Arc<Object>> {
    cluster.list(&PODS).into_iter().filter(|pod| crate::pod_facts::is_active(pod)).collect()
}

#[test]
fn pods_are_made_from_the_template_and_reported() {
    let cluster = FakeCluster::new();
    let owner = cluster.add(replica_set(3));
    settle(&cluster, &owner.key());
    let pods = cluster.list(&PODS);
    assert_eq!(pods.len(), 3);
    for pod in &pods {
        assert_eq!(pod.labels["app"], "web");
        assert_eq!(pod.controller().unwrap().uid, owner.uid);
        assert_eq!(pod.value()["metadata"]["generateName"], "web-");
        assert!(pod.name.starts_with("web-") && pod.name.len() == 9, "{}", pod.name);
    }
    let reports = cluster.take_reports();
    assert_eq!(reports.iter().filter(|report| report.reason == "SuccessfulCreate").count(), 3);
    let status = &cluster.get(&REPLICA_SETS, "default", "web").unwrap().value()["status"];
    assert_eq!((status["replicas"].as_i64(), status["observedGeneration"].as_i64()), (Some(3), Some(1)));
}

#[test]
fn orphans_are_adopted_and_strangers_released() {
    let cluster = FakeCluster::new();
    let orphan = cluster.add(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "o", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}));
    let owner = cluster.add(replica_set(1));
    settle(&cluster, &owner.key());
    assert_eq!(cluster.list(&PODS).len(), 1, "the orphan is enough");
    assert_eq!(cluster.list(&PODS)[0].controller().unwrap().uid, owner.uid);
    cluster.change(&orphan.key(), |pod| pod["metadata"]["labels"]["app"] = json!("other"));
    settle(&cluster, &owner.key());
    let pods = cluster.list(&PODS);
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().find(|pod| pod.name == "o").unwrap().controller().is_none());
}

#[test]
fn the_least_useful_pods_go_first() {
    let cluster = FakeCluster::new();
    let owner = cluster.add(replica_set(3));
    settle(&cluster, &owner.key());
    let pods = cluster.list(&PODS);
    make_ready(&cluster, &pods[0]);
    cluster.change(&owner.key(), |owner| owner["spec"]["replicas"] = json!(1));
    settle(&cluster, &owner.key());
    assert_eq!(active(&cluster).iter().map(|pod| pod.name.clone()).collect::<Vec<_>>(), [pods[0].name.clone()]);
}

#[test]
fn a_refused_create_becomes_a_condition_and_goes_when_it_succeeds() {
    let cluster = FakeCluster::new();
    let owner = cluster.add(replica_set(2));
    cluster.refuse_creates(vec![ApiError::new(Reason::Forbidden, "exceeded quota: q")]);
    let error = cluster.apply(decide(&cluster, Flavour::ReplicaSet, &owner.key(), None)).unwrap_err();
    let failure = Failure { step: Step::Create, message: error.message };
    cluster.refuse_creates(vec![ApiError::new(Reason::Forbidden, "exceeded quota: q")]);
    cluster.apply(decide(&cluster, Flavour::ReplicaSet, &owner.key(), Some(&failure))).unwrap_err();
    let value = cluster.get(&REPLICA_SETS, "default", "web").unwrap().value();
    let condition = crate::pod_facts::condition(&value, "ReplicaFailure").unwrap();
    assert_eq!((condition["reason"].as_str(), condition["message"].as_str()), (Some("FailedCreate"), Some("exceeded quota: q")));
    assert!(cluster.take_reports().iter().any(|report| report.message == "Error creating: exceeded quota: q"));
    settle(&cluster, &owner.key());
    let value = cluster.get(&REPLICA_SETS, "default", "web").unwrap().value();
    assert!(crate::pod_facts::condition(&value, "ReplicaFailure").is_none());
}

#[test]
fn availability_waits_for_min_ready_seconds() {
    let cluster = FakeCluster::new();
    let owner = cluster.add(replica_set(1));
    cluster.change(&owner.key(), |owner| owner["spec"]["minReadySeconds"] = json!(10));
    settle(&cluster, &owner.key());
    make_ready(&cluster, &cluster.list(&PODS)[0].clone());
    let plan = decide(&cluster, Flavour::ReplicaSet, &owner.key(), None);
    assert_eq!(plan.requeue_after, Some(Duration::from_secs(10)));
    settle(&cluster, &owner.key());
    let available = || cluster.get(&REPLICA_SETS, "default", "web").unwrap().value()["status"]["availableReplicas"].as_i64();
    assert_eq!(available(), None);
    cluster.advance(Duration::from_secs(10));
    settle(&cluster, &owner.key());
    assert_eq!(available(), Some(1));
}

#[test]
fn replication_controllers_select_by_a_map() {
    let cluster = FakeCluster::new();
    let mut owner = replica_set(2);
    owner["apiVersion"] = json!("v1");
    owner["kind"] = json!("ReplicationController");
    owner["spec"]["selector"] = json!({"app": "web"});
    let owner = cluster.add(owner);
    cluster.apply(decide(&cluster, Flavour::ReplicationController, &owner.key(), None)).unwrap();
    assert_eq!(cluster.list(&PODS).len(), 2);
    cluster.apply(decide(&cluster, Flavour::ReplicationController, &owner.key(), None)).unwrap();
    assert!(decide(&cluster, Flavour::ReplicationController, &owner.key(), None).is_empty());
}

#[derive(Clone, Debug)]
enum Event {
    Scale(i64),
    Ready(usize),
    Fail(usize),
    Remove(usize),
    Place(usize),
}

fn steps() -> impl Strategy<Value = Vec<Event>> {
    let step = prop_oneof![
        (0..8_i64).prop_map(Event::Scale),
        (0..8_usize).prop_map(Event::Ready),
        (0..8_usize).prop_map(Event::Fail),
        (0..8_usize).prop_map(Event::Remove),
        (0..8_usize).prop_map(Event::Place),
    ];
    proptest::collection::vec(step, 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn there_are_never_too_many_pods_and_it_comes_to_rest(steps in steps()) {
        let cluster = FakeCluster::new();
        let owner = cluster.add(replica_set(3));
        let mut most = 3;
        settle(&cluster, &owner.key());
        for step in steps {
            let pods = active(&cluster);
            let pick = |index: usize| (!pods.is_empty()).then(|| pods[index % pods.len()].clone());
            match step {
                Event::Scale(replicas) => {
                    most = usize::try_from(replicas).unwrap();
                    cluster.change(&owner.key(), |owner| owner["spec"]["replicas"] = json!(replicas));
                }
                Event::Ready(index) => if let Some(pod) = pick(index) { make_ready(&cluster, &pod) },
                Event::Fail(index) => if let Some(pod) = pick(index) { cluster.set_status(&pod.key(), json!({"phase": "Failed"})); },
                Event::Remove(index) => if let Some(pod) = pick(index) { cluster.remove(&pod.key()) },
                Event::Place(index) => if let Some(pod) = pick(index) { cluster.change(&pod.key(), |pod| pod["spec"]["nodeName"] = json!("n")); },
            }
            cluster.apply(decide(&cluster, Flavour::ReplicaSet, &owner.key(), None)).unwrap();
            prop_assert_eq!(active(&cluster).len(), most, "one plan is enough");
            settle(&cluster, &owner.key());
        }
    }
}
