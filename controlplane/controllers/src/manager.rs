//! Starts every controller when this master leads, and stops them when it does not.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Arbiter};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::cluster::{Cluster, Notice};
use crate::events::Recorders;
use crate::runner::{Controller, Runner, Running, SharedQueue, Stop};

/// What the cluster's operator decides.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pod addresses of the whole cluster, such as `10.244.0.0/16`.
    pub cluster_cidr: String,
    /// Prefix length of one node's share.
    pub node_mask: u8,
    /// PEM that clients verify the API server by; published as `kube-root-ca.crt`.
    pub root_ca_pem: String,
    /// A node is lost when it has not renewed its Lease for this long.
    pub node_grace: Duration,
    /// Finished pods beyond this number are removed, oldest first.
    pub terminated_pods_max: usize,
    /// Events are removed so long after they last happened.
    pub event_ttl: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidr: "10.244.0.0/16".to_owned(),
            node_mask: 24,
            root_ca_pem: String::new(),
            node_grace: Duration::from_millis(2500),
            terminated_pods_max: 12_500,
            event_ttl: Duration::from_secs(3600),
        }
    }
}

/// The controllers of a leading master.
pub struct Manager {}

/// Running controllers.
pub struct Handle {
    arbiter: Arbiter,
    runners: Vec<actix::Addr<Runner>>,
    recorders: Arc<Recorders>,
    stop: Option<oneshot::Sender<()>>,
}

impl Manager {
    /// Starts all controllers on a thread of their own. Call it on the leader, after a linearizable read in its own term, inside an
    /// actix `System`.
    pub async fn start(cluster: Arc<dyn Cluster>, clock: Clock, config: Config) -> Handle {
        let controllers = crate::all_by(&cluster, &clock, &config, clock());
        Self::start_these(cluster, clock, controllers).await
    }

    /// Starts the given controllers.
    pub async fn start_these(cluster: Arc<dyn Cluster>, clock: Clock, controllers: Vec<Arc<dyn Controller>>) -> Handle {
        let arbiter = Arbiter::new();
        let (ready, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        arbiter.spawn(async move {
            // subscribe first, so that nothing falls between the first look and the first change
            let changes = cluster.subscribe();
            let recorders = Arc::new(Recorders::start(Arc::clone(&cluster), clock.clone()));
            let running: Vec<Running> = controllers
                .into_iter()
                .map(|controller| {
                    let queue = SharedQueue::default();
                    let recorder = recorders.recorder(controller.name());
                    let runner = Runner::new(Arc::clone(&controller), Arc::clone(&cluster), clock.clone(), recorder, queue.clone()).start();
                    Running { controller, queue, runner }
                })
                .collect();
            let runners = running.iter().map(|running| running.runner.clone()).collect();
            if ready.send((runners, recorders)).is_err() {
                return;
            }
            dispatch(cluster, changes, running, stopped).await;
        });
        let (runners, recorders) = started.await.expect("the arbiter was just started and its first task sends before it can end");
        Handle { arbiter, runners, recorders, stop: Some(stop) }
    }
}

async fn dispatch(
    cluster: Arc<dyn Cluster>,
    mut changes: tokio::sync::mpsc::Receiver<Notice>,
    running: Vec<Running>,
    mut stopped: oneshot::Receiver<()>,
) {
    wake_all(&*cluster, &running);
    loop {
        let notice = tokio::select! {
            _ = &mut stopped => return,
            notice = changes.recv() => notice,
        };
        match notice {
            None => return,
            Some(Notice::Resync) => wake_all(&*cluster, &running),
            Some(Notice::Changed(change)) => {
                let view = cluster.snapshot();
                for running in &running {
                    let mut keys = Vec::new();
                    running.controller.wake(&change, &*view, &mut keys);
                    running.wake(keys);
                }
            }
        }
    }
}

fn wake_all(cluster: &dyn Cluster, running: &[Running]) {
    let view = cluster.snapshot();
    for running in running {
        running.wake(running.controller.all(&*view));
    }
}

impl Handle {
    /// Ends all controllers. Writes under way finish or are refused by the fence; none begins afterwards.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take()
            && stop.send(()).is_err()
        {
            tracing::debug!("Dispatcher had already ended");
        }
        self.recorders.stop();
        for runner in &self.runners {
            if let Err(error) = runner.send(Stop).await {
                tracing::debug!(error = %error, "Controller had already stopped");
            }
        }
        self.arbiter.stop();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.recorders.stop();
        self.arbiter.stop();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fake::FakeCluster;
    use crate::resources::{CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, EVENTS, PODS, SERVICE_ACCOUNTS};

    /// Waits until the condition holds; what is waited for is announced by changes.
    async fn until(cluster: &FakeCluster, what: &str, holds: impl Fn(&FakeCluster) -> bool) {
        let mut changes = cluster.subscribe();
        let waiting = async {
            while !holds(cluster) {
                changes.recv().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
    }

    #[actix::test]
    async fn everything_below_a_deployment_appears_and_goes() {
        let cluster = FakeCluster::new();
        let handle = Manager::start(Arc::clone(&cluster) as Arc<dyn Cluster>, crate::clock::system(), Config::default()).await;
        cluster.add(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
        cluster.add(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}));
        let deployment = cluster.add(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        }));
        until(&cluster, "there are pods", |cluster| cluster.list(&PODS).len() == 3).await;
        until(&cluster, "the namespace is furnished", |cluster| {
            cluster.get(&SERVICE_ACCOUNTS, "default", "default").is_some()
                && cluster.get(&CONFIG_MAPS, "default", "kube-root-ca.crt").is_some()
        })
        .await;
        until(&cluster, "there is a slice", |cluster| cluster.list(&ENDPOINT_SLICES).len() == 1).await;
        until(&cluster, "users are told", |cluster| {
            cluster.list(&EVENTS).iter().any(|event| event.value()["reason"] == "SuccessfulCreate")
        })
        .await;
        cluster.delete(&deployment.key(), crate::cluster::DeleteOptions::default()).await.expect("the deployment can be deleted");
        until(&cluster, "dependents are gone", |cluster| cluster.list(&PODS).is_empty()).await;
        handle.stop().await;
        cluster.add(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "late"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "late"}},
                "template": {"metadata": {"labels": {"app": "late"}}, "spec": {}}},
        }));
        tokio::task::yield_now().await;
        assert!(cluster.list(&PODS).is_empty() && cluster.list(&DEPLOYMENTS).is_empty(), "nobody acts after the stop");
    }

    struct Poisoned(std::sync::atomic::AtomicUsize);

    impl Controller for Poisoned {
        fn name(&self) -> &'static str {
            "poisoned"
        }

        fn all(&self, view: &dyn trierarch_api::Snapshot) -> Vec<trierarch_api::ObjectKey> {
            view.list(&CONFIG_MAPS, None).iter().map(|map| map.key()).collect()
        }

        fn wake(&self, _: &trierarch_api::snapshot::Change, _: &dyn trierarch_api::Snapshot, _: &mut Vec<trierarch_api::ObjectKey>) {}

        fn decide(&self, key: &trierarch_api::ObjectKey, context: &crate::runner::Context<'_>) -> crate::action::Plan {
            let tries = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            assert!(key.name != "poison" || tries > 3, "poison");
            let mut plan = crate::action::Plan::nothing();
            if let Some(map) = context.view.get(&CONFIG_MAPS, &key.namespace, &key.name)
                && map.labels.is_empty()
            {
                plan.actions.push(crate::action::Action::merge(&map, json!({"metadata": {"labels": {"seen": "yes"}}})));
            }
            plan
        }
    }

    #[actix::test]
    async fn a_panic_is_caught_for_its_key_and_tried_again() {
        let cluster = FakeCluster::new();
        for name in ["other", "poison"] {
            cluster.add(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}));
        }
        let controllers: Vec<Arc<dyn Controller>> = vec![Arc::new(Poisoned(std::sync::atomic::AtomicUsize::new(0)))];
        let as_cluster = Arc::clone(&cluster) as Arc<dyn Cluster>;
        let handle = Manager::start_these(as_cluster, crate::clock::system(), controllers).await;
        until(&cluster, "both are labelled", |cluster| cluster.list(&CONFIG_MAPS).iter().all(|map| !map.labels.is_empty())).await;
        handle.stop().await;
    }
}
