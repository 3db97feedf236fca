//! The actor in front of a cluster in memory: pods get nodes, users are told, and nothing happens after the stop.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trierarch_api::snapshot::Change;
use trierarch_api::{ApiError, GroupResource, IndexTerm, Object, ObjectKey, Registry, Snapshot};
use trierarch_scheduler::{Config, Notice, PodId, Scheduler, SchedulerCluster};

const PODS: GroupResource = GroupResource::new("", "pods");
const NODES: GroupResource = GroupResource::new("", "nodes");

#[derive(Clone, Default)]
struct View(BTreeMap<ObjectKey, Arc<Object>>);

impl Snapshot for View {
    fn revision(&self) -> u64 {
        0
    }

    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.get(&ObjectKey::new(resource.clone(), namespace, name)).cloned()
    }

    fn list(&self, resource: &GroupResource, _: Option<&str>) -> Vec<Arc<Object>> {
        self.0.iter().filter(|(key, _)| key.resource == *resource).map(|(_, object)| Arc::clone(object)).collect()
    }

    fn by_term(&self, _: &GroupResource, _: Option<&str>, _: &IndexTerm) -> Vec<Arc<Object>> {
        Vec::new()
    }
}

#[derive(Default)]
struct Fake {
    view: Mutex<View>,
    subscribers: Mutex<Vec<mpsc::Sender<Notice>>>,
    events: Mutex<Vec<Value>>,
    statuses: Mutex<Vec<Value>>,
    refuse_next_bind: Mutex<bool>,
    wrote: tokio::sync::Notify,
}

impl Fake {
    fn put(&self, resource: GroupResource, value: &Value) -> Arc<Object> {
        let kind = Registry::with_builtins().by_storage(&resource).unwrap();
        let new = Arc::new(Object::from_value(kind, value, 1).unwrap());
        let old = self.view.lock().0.insert(new.key(), Arc::clone(&new));
        let change = Arc::new(Change { resource, revision: 1, old, new: Some(Arc::clone(&new)) });
        self.subscribers.lock().retain(|subscriber| subscriber.try_send(Notice::Changed(Arc::clone(&change))).is_ok());
        new
    }

    fn node_of(&self, pod: &str) -> Option<String> {
        let pod = self.view.lock().get(&PODS, "default", pod)?;
        pod.value()["spec"]["nodeName"].as_str().map(str::to_owned)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            loop {
                let wrote = self.wrote.notified();
                if holds(self) {
                    return;
                }
                wrote.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
    }
}

#[async_trait]
impl SchedulerCluster for Fake {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(self.view.lock().clone())
    }

    fn subscribe(&self) -> mpsc::Receiver<Notice> {
        let (sender, receiver) = mpsc::channel(1024);
        self.subscribers.lock().push(sender);
        receiver
    }

    async fn bind(&self, pod: &PodId, node: &str) -> Result<(), ApiError> {
        if std::mem::take(&mut *self.refuse_next_bind.lock()) {
            return Err(ApiError::unavailable("not now"));
        }
        let before = self.view.lock().get(&PODS, &pod.namespace, &pod.name).unwrap();
        assert_eq!(before.uid.0, pod.uid);
        let mut value = Value::clone(&before.value());
        assert!(value["spec"]["nodeName"].is_null(), "bound twice");
        value["spec"]["nodeName"] = json!(node);
        self.put(PODS, &value);
        self.wrote.notify_waiters();
        Ok(())
    }

    async fn patch_pod_status(&self, _: &PodId, patch: Value) -> Result<(), ApiError> {
        self.statuses.lock().push(patch);
        self.wrote.notify_waiters();
        Ok(())
    }

    async fn delete_pod(&self, _: &PodId) -> Result<(), ApiError> {
        Ok(())
    }

    async fn create_event(&self, _: &str, event: Value) -> Result<(), ApiError> {
        self.events.lock().push(event);
        self.wrote.notify_waiters();
        Ok(())
    }
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"containers": [{"name": "c", "image": "i",
        "resources": {"requests": {"cpu": "1"}}}]}})
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "110"}}})
}

#[actix::test]
async fn pods_get_nodes_and_users_are_told() {
    let cluster = Arc::new(Fake::default());
    cluster.put(PODS, &pod("before"));
    *cluster.refuse_next_bind.lock() = true;
    let clock: trierarch_scheduler::Clock = Arc::new(jiff::Timestamp::now);
    let handle = Scheduler::start(Arc::clone(&cluster) as Arc<dyn SchedulerCluster>, clock, Config::default()).await;
    cluster.until("the lonely pod is refused", |cluster| !cluster.statuses.lock().is_empty()).await;
    let condition = cluster.statuses.lock()[0]["status"]["conditions"][0].clone();
    assert_eq!((condition["type"].as_str(), condition["reason"].as_str()), (Some("PodScheduled"), Some("Unschedulable")));
    cluster.put(NODES, &node("n1"));
    cluster.put(PODS, &pod("after"));
    cluster.until("both are placed", |cluster| cluster.node_of("before").is_some() && cluster.node_of("after").is_some()).await;
    cluster
        .until("users are told", |cluster| {
            cluster.events.lock().iter().any(|event| event["message"] == "Successfully assigned default/after to n1")
        })
        .await;
    cluster.put(PODS, &pod("full"));
    cluster
        .until("the last is refused", |cluster| {
            cluster.events.lock().iter().any(|event| {
                event["reason"] == "FailedScheduling"
                    && event["message"].as_str().unwrap().starts_with("0/1 nodes are available: 1 Insufficient cpu.")
            })
        })
        .await;
    handle.stop().await;
    cluster.put(NODES, &node("n2"));
    tokio::task::yield_now().await;
    assert!(cluster.node_of("full").is_none(), "nobody acts after the stop");
}
