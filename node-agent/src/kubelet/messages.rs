//! What the actors of the kubelet tell each other.

use std::sync::Arc;

use actix::Message;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::context::PodSources;
use super::effects::Started;
use super::observed::{EffectKey, PodFailure, SandboxRecord};
use super::probe::ProbeKind;

/// To a pod's worker. From the kubelet (pods, runtime), from the worker's own probes, hooks and effects. Rate: a few per change of the pod.
#[derive(Message)]
#[rtype(result = "()")]
pub enum WorkerEvent {
    /// The object changed.
    PodChanged(Arc<Pod>),
    /// The object is gone.
    PodVanished,
    /// Something the pod refers to changed.
    SourcesChanged,
    /// A container of the pod ended, or its sandbox was lost: look at the runtime.
    RuntimeChanged,
    /// A probe's series changed what is believed.
    Probed {
        /// Which container.
        container: String,
        /// Its runtime id, so that a result of an earlier run is not believed.
        id: String,
        /// Which probe.
        kind: ProbeKind,
        /// What is believed now.
        success: bool,
    },
    /// The pod has to end.
    Evicted(PodFailure),
    /// An effect finished.
    Done {
        /// Which.
        key: EffectKey,
        /// How.
        result: EffectResult,
    },
    /// A write of the status finished.
    StatusWritten {
        /// Nothing more to say for this status.
        ok: bool,
        /// The object is gone.
        gone: bool,
    },
    /// It is time to look again.
    Tick,
}

/// How an effect ended.
pub enum EffectResult {
    /// The volumes are there; references are followed.
    Volumes(Result<Arc<PodSources>, Vec<String>>),
    /// The sandbox is there.
    Sandbox(Result<SandboxRecord, String>),
    /// A start.
    Start(Started),
    /// The container was ended (or could not be: the runtime knows).
    Killed,
    /// Limits changed to these.
    Resized(Result<Option<serde_json::Value>, String>),
    /// The sandbox is given back.
    SandboxStopped(Result<(), String>),
    /// Nothing is left on the node.
    CleanedUp(Result<(), String>),
    /// The object is deleted.
    Deleted(Result<(), String>),
    /// Volumes were refreshed; when tokens want renewal.
    Refreshed(Option<Timestamp>),
}

/// To the kubelet, from a worker that has nothing left to do.
#[derive(Message)]
#[rtype(result = "()")]
pub struct WorkerFinished {
    /// The pod.
    pub uid: String,
}

/// To the kubelet: the pods of the node changed. At most one per burst.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PodsChanged;

/// To the kubelet, from the runtime: something happened in this sandbox.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SandboxChanged {
    /// Its id, `UID.ATTEMPT`.
    pub sandbox_id: String,
}

/// To the kubelet, from the node's watch over its resources: end this pod.
#[derive(Message)]
#[rtype(result = "()")]
pub struct EvictPod {
    /// The pod.
    pub uid: String,
    /// Why.
    pub failure: PodFailure,
}
