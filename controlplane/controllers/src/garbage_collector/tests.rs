//! Owners go, dependents follow, or are let go.

use serde_json::{Value, json};

use super::*;
use crate::cluster::{Cluster, DeleteOptions, Propagation};
use crate::fake::FakeCluster;
use crate::resources::{CONFIG_MAPS, PODS, REPLICA_SETS};

struct World {
    cluster: Arc<FakeCluster>,
    collector: GarbageCollector,
}

impl World {
    fn new() -> Self {
        let cluster = FakeCluster::new();
        let collector = GarbageCollector::new(cluster.registry());
        Self { cluster, collector }
    }

    fn map(&self, name: &str, owners: &[(&Object, bool)]) -> Arc<Object> {
        let owners: Vec<Value> = owners
            .iter()
            .map(|(owner, blocks)| {
                json!({"apiVersion": owner.kind.api_version(), "kind": owner.kind.kind, "name": owner.name, "uid": owner.uid.0,
                    "blockOwnerDeletion": blocks})
            })
            .collect();
        self.cluster.add(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}}))
    }

    async fn delete(&self, object: &Object, propagation: Propagation) {
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        self.cluster.delete(&object.key(), options).await.unwrap();
    }

    /// Decides on every object until nothing is left to do.
    fn settle(&self) {
        for _ in 0..50 {
            let view = self.cluster.view();
            let keys: Vec<ObjectKey> = [CONFIG_MAPS, PODS, REPLICA_SETS].iter().flat_map(|r| view.list(r, None)).map(|o| o.key()).collect();
            let mut quiet = true;
            for key in keys {
                let view = self.cluster.view();
                let plan = self.collector.decide(&key, &Context { view: &view, now: self.cluster.now(), failure: None });
                quiet &= plan.is_empty();
                self.cluster.apply(plan).unwrap();
            }
            if quiet {
                return;
            }
        }
        panic!("the garbage collector does not come to rest");
    }

    fn names(&self) -> Vec<String> {
        self.cluster.list(&CONFIG_MAPS).iter().map(|map| map.name.clone()).collect()
    }
}

#[actix::test]
async fn background_deletion_reaches_the_whole_tree() {
    let world = World::new();
    let root = world.map("root", &[]);
    let child = world.map("child", &[(&root, true)]);
    world.map("grandchild", &[(&child, true)]);
    world.settle();
    assert_eq!(world.names().len(), 3, "nothing goes while the owner is there");
    world.delete(&root, Propagation::Background).await;
    world.settle();
    assert!(world.names().is_empty());
}

#[actix::test]
async fn foreground_deletion_waits_for_blocking_dependents() {
    let world = World::new();
    let root = world.map("root", &[]);
    let child = world.map("child", &[(&root, true)]);
    world.cluster.change(&child.key(), |map| map["metadata"]["finalizers"] = json!(["example.com/wait"]));
    world.delete(&root, Propagation::Foreground).await;
    world.settle();
    assert_eq!(world.names(), ["child", "root"]);
    world.cluster.change(&child.key(), |map| map["metadata"]["finalizers"] = json!([]));
    world.settle();
    assert!(world.names().is_empty());
}

#[actix::test]
async fn orphans_lose_the_reference_and_stay() {
    let world = World::new();
    let root = world.map("root", &[]);
    world.map("child", &[(&root, true)]);
    world.delete(&root, Propagation::Orphan).await;
    world.settle();
    assert_eq!(world.names(), ["child"]);
    assert!(world.cluster.list(&CONFIG_MAPS)[0].owner_references.is_empty());
}

#[actix::test]
async fn a_second_owner_keeps_the_object() {
    let world = World::new();
    let (first, second) = (world.map("first", &[]), world.map("second", &[]));
    world.map("child", &[(&first, true), (&second, true)]);
    world.delete(&first, Propagation::Foreground).await;
    world.settle();
    assert_eq!(world.names(), ["child", "second"]);
}

#[actix::test]
async fn an_owner_of_the_same_name_but_another_uid_is_absent() {
    let world = World::new();
    let root = world.map("root", &[]);
    world.map("child", &[(&root, true)]);
    world.cluster.remove(&root.key());
    world.map("root", &[]);
    world.settle();
    assert_eq!(world.names(), ["root"]);
}

#[actix::test]
async fn a_circle_of_dependents_does_not_block_for_ever() {
    let world = World::new();
    let first = world.map("a", &[]);
    let second = world.map("b", &[(&first, true)]);
    let third = world.map("c", &[(&second, true)]);
    world.cluster.change(&first.key(), |map| {
        map["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": third.uid.0, "blockOwnerDeletion": true}]);
    });
    world.delete(&first, Propagation::Foreground).await;
    world.settle();
    assert!(world.names().is_empty(), "{:?}", world.names());
}
