//! The kubelet: keeps one worker per pod that is bound to this node, or was.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actix::{Actor, Addr, AsyncContext, Context as ActorContext, Handler};
use k8s_openapi::api::core::v1::Pod;
use trierarch_client::Reflector;

use super::admission::{self, Room};
use super::context::Context;
use super::messages::{EvictPod, PodsChanged, SandboxChanged, WorkerEvent, WorkerFinished};
use super::observed::{PodFailure, PodRecord};
use super::worker::PodWorker;

/// One message per burst of changes plus one per container exit; a full mailbox only delays, since the next tick looks at everything.
const MAILBOX: usize = 1024;

/// The kubelet.
pub struct Kubelet {
    context: Arc<Context>,
    pods: Reflector<Pod>,
    workers: HashMap<String, Worker>,
    // Pods of earlier agents, by uid, until their workers start.
    recorded: HashMap<String, (Pod, PodRecord)>,
}

struct Worker {
    address: Addr<PodWorker>,
    // What the worker was told last.
    version: Option<String>,
    vanished: bool,
    // The node did not take the pod.
    refused: bool,
}

impl Kubelet {
    /// A kubelet of the pods in `pods`, whose first list is complete.
    pub fn new(context: Arc<Context>, pods: Reflector<Pod>) -> Self {
        let recorded = read_records(&context);
        Self { context, pods, workers: HashMap::new(), recorded }
    }

    fn sync(&mut self, ctx: &mut ActorContext<Self>) {
        let objects = self.pods.objects();
        let mut present = HashSet::new();
        let mut fresh: Vec<(String, Arc<Pod>)> = Vec::new();
        for pod in objects.values() {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            present.insert(uid.clone());
            match self.workers.get_mut(&uid) {
                Some(worker) => {
                    if worker.version != pod.metadata.resource_version
                        && worker.address.try_send(WorkerEvent::PodChanged(Arc::clone(pod))).is_ok()
                    {
                        worker.version = pod.metadata.resource_version.clone();
                    }
                }
                None => {
                    let record = self.recorded.remove(&uid).map(|(_, record)| record);
                    let over = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
                    match record {
                        Some(record) => self.begin(uid, Arc::clone(pod), false, record, ctx),
                        None if pod.metadata.deletion_timestamp.is_some() => {
                            self.begin(uid, Arc::clone(pod), false, PodRecord::default(), ctx);
                        }
                        // Ended long ago and cleaned up; only its deletion concerns the node.
                        None if over => {}
                        None => fresh.push((uid, Arc::clone(pod))),
                    }
                }
            }
        }
        // who came first is taken first
        fresh.sort_by_key(|(uid, pod)| (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), uid.clone()));
        for (uid, pod) in fresh {
            let failure = self.refusal(&pod);
            self.begin(uid, pod, false, PodRecord { failure, ..PodRecord::default() }, ctx);
        }
        for (uid, worker) in &mut self.workers {
            if !present.contains(uid) && !worker.vanished && worker.address.try_send(WorkerEvent::PodVanished).is_ok() {
                worker.vanished = true;
            }
        }
        let orphans: Vec<String> = self.recorded.keys().cloned().collect();
        for uid in orphans {
            if let Some((pod, record)) = self.recorded.remove(&uid) {
                tracing::info!(uid, pod = pod.metadata.name, "Found a pod that was deleted while the agent was away");
                self.begin(uid, Arc::new(pod), true, record, ctx);
            }
        }
    }

    /// Why the node does not take a pod, if it does not.
    fn refusal(&self, pod: &Pod) -> Option<PodFailure> {
        let objects = self.pods.objects();
        let taken = |pod: &&Pod| {
            let ended = matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
            let worker = pod.metadata.uid.as_ref().and_then(|uid| self.workers.get(uid));
            !ended && worker.is_some_and(|worker| !worker.refused)
        };
        let pods: Vec<&Pod> = objects.values().map(|pod| &**pod).filter(taken).collect();
        let node = self.context.nodes.get("", &self.context.config.node_name);
        admission::refusal(pod, &Room { node: node.as_deref(), allocatable: &self.context.allocatable, pods: &pods })
    }

    fn begin(&mut self, uid: String, pod: Arc<Pod>, vanished: bool, record: PodRecord, ctx: &mut ActorContext<Self>) {
        let version = pod.metadata.resource_version.clone();
        let refused = record.failure.as_ref().is_some_and(|failure| failure.rejected);
        let address = PodWorker::new(Arc::clone(&self.context), pod, vanished, record, ctx.address().recipient()).start();
        self.workers.insert(uid, Worker { address, version, vanished, refused });
    }
}

/// The pods that an earlier agent ran on this node.
fn read_records(context: &Context) -> HashMap<String, (Pod, PodRecord)> {
    let mut found = HashMap::new();
    let Ok(entries) = std::fs::read_dir(context.config.data_dir.join("pods")) else { return found };
    for entry in entries.flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        let read = |file: &str| std::fs::read(entry.path().join(file)).ok();
        let pod: Option<Pod> = read("pod.json").and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let record: Option<PodRecord> = read("record.json").and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match (pod, record) {
            (Some(pod), Some(record)) => drop(found.insert(uid, (pod, record))),
            _ => tracing::warn!(uid, "Ignored an unreadable pod record"),
        }
    }
    found
}

impl Actor for Kubelet {
    type Context = ActorContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        self.sync(ctx);
        let mut changes = self.pods.changes();
        let address = ctx.address();
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                if address.send(PodsChanged).await.is_err() {
                    return;
                }
            }
        });
    }
}

impl Handler<PodsChanged> for Kubelet {
    type Result = ();

    fn handle(&mut self, _: PodsChanged, ctx: &mut Self::Context) {
        self.sync(ctx);
    }
}

impl Handler<SandboxChanged> for Kubelet {
    type Result = ();

    fn handle(&mut self, change: SandboxChanged, _: &mut Self::Context) {
        let uid = change.sandbox_id.split('.').next().unwrap_or_default();
        if let Some(worker) = self.workers.get(uid)
            && worker.address.try_send(WorkerEvent::RuntimeChanged).is_err()
        {
            tracing::warn!(uid, "A pod's worker was too busy for a runtime event");
        }
    }
}

impl Handler<EvictPod> for Kubelet {
    type Result = ();

    fn handle(&mut self, eviction: EvictPod, _: &mut Self::Context) {
        if let Some(worker) = self.workers.get(&eviction.uid) {
            let _ = worker.address.try_send(WorkerEvent::Evicted(eviction.failure));
        }
    }
}

impl Handler<WorkerFinished> for Kubelet {
    type Result = ();

    fn handle(&mut self, finished: WorkerFinished, ctx: &mut Self::Context) {
        self.workers.remove(&finished.uid);
        // A pod may have come back under the same uid only by a stale list; the next change decides.
        let _ = ctx;
    }
}
