//! Rollouts from beginning to end: bounds hold at every moment, and it comes to rest.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use trierarch_api::{Object, ObjectKey};

use super::*;
use crate::fake::FakeCluster;
use crate::pod_facts;
use crate::replica_set::{Flavour, ReplicaController};

fn deployment(replicas: i64, strategy: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "strategy": strategy,
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 1,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
        },
    })
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

struct World {
    cluster: Arc<FakeCluster>,
    key: ObjectKey,
}

impl World {
    fn new(deployment: Value) -> Self {
        let cluster = FakeCluster::new();
        let key = cluster.add(deployment).key();
        Self { cluster, key }
    }

    fn decide(&self) -> Plan {
        let view = self.cluster.view();
        DeploymentController.decide(&self.key, &Context { view: &view, now: self.cluster.now(), failure: None })
    }

    fn step(&self) -> bool {
        let plan = self.decide();
        let quiet = plan.is_empty();
        self.cluster.apply(plan).unwrap();
        quiet
    }

    fn step_sets(&self) -> bool {
        let mut quiet = true;
        for set in self.cluster.list(&REPLICA_SETS) {
            let view = self.cluster.view();
            let plan = ReplicaController::new(Flavour::ReplicaSet)
                .decide(&set.key(), &Context { view: &view, now: self.cluster.now(), failure: None });
            quiet &= plan.is_empty();
            self.cluster.apply(plan).unwrap();
        }
        quiet
    }

    /// One pod that is not ready yet becomes ready.
    fn step_node(&self, at: usize) -> bool {
        let waiting: Vec<Arc<Object>> = self.cluster.list(&PODS).into_iter().filter(|pod| !pod_facts::is_ready(&pod.value())).collect();
        let Some(pod) = waiting.get(at % waiting.len().max(1)) else { return true };
        let status =
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2027-01-01T00:00:00Z"}]});
        self.cluster.set_status(&pod.key(), status);
        false
    }

    fn settle(&self) {
        for _ in 0..300 {
            let quiet = [self.step(), self.step_sets(), self.step_node(0)];
            if quiet == [true; 3] {
                return;
            }
        }
        panic!("no rest: {:?}", self.decide());
    }

    fn set_image(&self, image: &str) {
        self.cluster.change(&self.key, |deployment| deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
    }

    fn value(&self) -> Arc<Value> {
        self.cluster.get(&DEPLOYMENTS, "default", "web").unwrap().value()
    }

    fn images(&self) -> Vec<String> {
        let pods = self.cluster.list(&PODS).into_iter();
        pods.map(|pod| pod.value()["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()).collect()
    }

    fn progressing(&self) -> String {
        let value = self.value();
        pod_facts::condition(&value, "Progressing").unwrap()["reason"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_rollout_replaces_all_pods_and_keeps_its_history() {
    let world = World::new(deployment(3, rolling(json!("25%"), json!("25%"))));
    world.settle();
    assert_eq!(world.progressing(), "NewReplicaSetAvailable");
    assert_eq!(world.value()["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    world.set_image("i:2");
    world.settle();
    assert_eq!(world.images(), ["i:2"; 3]);
    assert_eq!(world.value()["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    assert_eq!(world.cluster.list(&REPLICA_SETS).len(), 2);
    world.set_image("i:3");
    world.settle();
    assert_eq!(world.cluster.list(&REPLICA_SETS).len(), 2, "the history holds one old revision");
    // an undo is a change of the template to a former one: its ReplicaSet comes back under a new revision
    world.set_image("i:2");
    world.settle();
    let names: Vec<String> = world.cluster.list(&REPLICA_SETS).iter().map(|set| set.name.clone()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(world.value()["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "4");
    let reports = world.cluster.take_reports();
    assert!(reports.iter().any(|report| report.reason == "ScalingReplicaSet" && report.message.ends_with("from 0 to 3")), "{reports:?}");
}

#[test]
fn labels_and_selector_carry_the_hash_and_status_counts() {
    let world = World::new(deployment(2, rolling(json!(1), json!(0))));
    world.settle();
    let set = &world.cluster.list(&REPLICA_SETS)[0];
    let hash = &set.labels["pod-template-hash"];
    assert_eq!(set.name, format!("web-{hash}"));
    assert_eq!(set.value()["spec"]["selector"]["matchLabels"]["pod-template-hash"], **hash);
    let status = &world.value()["status"];
    for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        assert_eq!(status[field], 2, "{field}");
    }
    assert!(pod_facts::is_true(&world.value(), "Available"));
}

#[test]
fn recreate_stops_everything_before_it_starts_anything() {
    let world = World::new(deployment(3, json!({"type": "Recreate"})));
    world.settle();
    world.set_image("i:2");
    for _ in 0..100 {
        let quiet = [world.step(), world.step_sets(), world.step_node(0)] == [true; 3];
        let mut images = world.images();
        images.sort();
        images.dedup();
        assert!(images.len() <= 1, "old and new at once: {images:?}");
        if quiet {
            break;
        }
    }
    assert_eq!(world.images(), ["i:2"; 3]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let world = World::new(deployment(2, rolling(json!(1), json!(1))));
    world.settle();
    world.cluster.change(&world.key, |deployment| {
        deployment["spec"]["paused"] = json!(true);
        deployment["spec"]["replicas"] = json!(4);
    });
    world.set_image("i:2");
    world.settle();
    assert_eq!(world.images(), ["i:1"; 4]);
    assert_eq!(world.progressing(), "DeploymentPaused");
    world.cluster.change(&world.key, |deployment| deployment["spec"]["paused"] = json!(false));
    world.settle();
    assert_eq!(world.images(), ["i:2"; 4]);
    assert_eq!(world.progressing(), "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_without_progress_times_out() {
    let world = World::new(deployment(2, rolling(json!(1), json!(1))));
    world.step();
    world.step_sets();
    for _ in 0..5 {
        world.step();
    }
    assert!(world.step(), "{:?}", world.decide());
    assert!(world.decide().requeue_after.is_some(), "the deadline is looked at");
    world.cluster.advance(Duration::from_secs(602));
    world.step();
    assert_eq!(world.progressing(), "ProgressDeadlineExceeded");
    world.settle();
    assert_eq!(world.progressing(), "NewReplicaSetAvailable", "late is better than never");
}

#[test]
fn a_foreign_replica_set_of_the_same_name_is_avoided() {
    let world = World::new(deployment(1, rolling(json!(1), json!(1))));
    let view = world.cluster.view();
    let rollout = snapshot(&world.key, &view).unwrap();
    let name = revision::set_name(&rollout.deployment);
    world.cluster.add(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "other"}}, "template": {"metadata": {"labels": {"app": "other"}}, "spec": {}}},
    }));
    for _ in 0..10 {
        world.step();
    }
    assert_eq!(world.value()["status"]["collisionCount"], 1);
    assert_eq!(world.cluster.list(&REPLICA_SETS).len(), 2);
}

#[test]
fn orphaned_replica_sets_are_adopted_again() {
    let world = World::new(deployment(1, rolling(json!(1), json!(1))));
    world.settle();
    let set = world.cluster.list(&REPLICA_SETS)[0].clone();
    world.cluster.change(&set.key(), |set| set["metadata"]["ownerReferences"] = json!([]));
    world.settle();
    let sets = world.cluster.list(&REPLICA_SETS);
    assert_eq!(sets.len(), 1);
    assert_eq!(sets[0].controller().unwrap().name, "web");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whoever acts next, at no moment are there more pods than allowed, and availability given up is at most what was allowed.
    #[test]
    fn a_rolling_update_keeps_its_bounds(
        replicas in 1..7_i64, surge in 0..4_i64, unavailable in 0..4_i64, order in proptest::collection::vec(0..3_u8, 400), pick in 0..5_usize,
    ) {
        prop_assume!(surge + unavailable > 0);
        let world = World::new(deployment(replicas, rolling(json!(surge), json!(unavailable))));
        world.settle();
        world.set_image("i:2");
        for actor in order {
            match actor {
                0 => { world.step(); }
                1 => { world.step_sets(); }
                _ => { world.step_node(pick); }
            }
            let pods = world.cluster.list(&PODS);
            let ready = pods.iter().filter(|pod| pod_facts::is_ready(&pod.value())).count();
            prop_assert!(i64::try_from(pods.len()).unwrap() <= replicas + surge, "{} pods", pods.len());
            prop_assert!(i64::try_from(ready).unwrap() >= replicas - unavailable, "{ready} ready");
        }
        world.settle();
        prop_assert_eq!(world.images(), vec!["i:2".to_owned(); usize::try_from(replicas).unwrap()]);
        prop_assert!(world.decide().is_empty());
    }
}
