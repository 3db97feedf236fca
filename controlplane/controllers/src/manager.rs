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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidr: "10.244.0.0/16".to_owned(),
            node_mask: 24,
            root_ca_pem: String::new(),
            node_grace: Duration::from_millis(2500),
            terminated_pods_max: 12_500,
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
