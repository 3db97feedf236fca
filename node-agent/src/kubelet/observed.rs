//! What the agent knows about a pod: the part that survives a restart ([`PodRecord`]) and the part that doesn't ([`Live`]).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Kept on disk beside the pod's volumes, so that a restarted agent goes on where it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodRecord {
    /// When the pod was accepted.
    pub start_time: Option<Timestamp>,
    /// The present sandbox; `None` before the first and after a stop.
    pub sandbox: Option<SandboxRecord>,
    /// How many sandboxes there were.
    pub sandbox_attempts: u32,
    /// Volumes exist on disk.
    pub volumes_ready: bool,
    /// By container name: normal, init and ephemeral ones share one name space.
    pub containers: BTreeMap<String, ContainerRecord>,
    /// Why the agent ended the pod, if it did.
    pub failure: Option<PodFailure>,
}

/// A pod's namespaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxRecord {
    /// The runtime's id.
    pub id: String,
    /// Addresses of the pod.
    pub ips: Vec<String>,
    /// Its shim answers and its network is set up.
    pub ready: bool,
    /// When it became ready.
    pub created_at: Option<Timestamp>,
}

/// Decided by the agent, terminal for the pod: eviction, deadline, refusal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodFailure {
    /// `status.reason`.
    pub reason: String,
    /// `status.message`.
    pub message: String,
    /// The pod may finish as long as this.
    pub grace_seconds: Option<i64>,
    /// A `DisruptionTarget` condition with reason `TerminationByKubelet` is due.
    pub disruption: bool,
    /// The pod never had anything started.
    pub rejected: bool,
}

/// One container's history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerRecord {
    /// How many times it was started again.
    pub restart_count: i32,
    /// The newest attempt.
    pub current: Option<Attempt>,
    /// The attempt before, if it ended.
    pub last: Option<Finished>,
}

/// One run of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// The runtime's id.
    pub id: String,
    /// `status.imageID`.
    pub image_id: String,
    /// `status.image`: the name under which the image was found.
    pub image: String,
    /// The sandbox it lives in.
    pub sandbox_id: String,
    /// When its process began; `None` while only created.
    pub started_at: Option<Timestamp>,
    /// How it ended.
    pub finished: Option<Finished>,
    /// Who runs inside: user, group, supplementary groups.
    pub user: Option<(i64, i64, Vec<i64>)>,
    /// Signal that ends it, as in `status.stopSignal`.
    pub stop_signal: Option<String>,
    /// The resources that are in force, as the spec said them.
    pub resources: Option<serde_json::Value>,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finished {
    /// The runtime's id.
    pub id: String,
    /// Exit code of the first process.
    pub exit_code: i32,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// What the container left as termination message.
    pub message: String,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl Attempt {
    /// Its process runs, as far as is known.
    pub fn is_running(&self) -> bool {
        self.started_at.is_some() && self.finished.is_none()
    }
}

impl ContainerRecord {
    /// The newest attempt runs.
    pub fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(Attempt::is_running)
    }

    /// How the newest attempt ended.
    pub fn finished(&self) -> Option<&Finished> {
        self.current.as_ref()?.finished.as_ref()
    }

    /// A new attempt takes the place of the present one.
    pub fn begin(&mut self, attempt: Attempt) {
        if let Some(old) = self.current.take() {
            self.restart_count += 1;
            if old.finished.is_some() {
                self.last = old.finished;
            }
        }
        self.current = Some(attempt);
    }
}

/// Why a container does not run at the moment, as users read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// `ErrImagePull`, `CreateContainerConfigError`, ...
    pub reason: String,
    /// For people.
    pub message: String,
    /// Not before this time again.
    pub retry_at: Option<Timestamp>,
}

/// Something the shell is doing for a pod right now; a key is never started twice at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EffectKey {
    /// Making directories, writing files, mounting.
    Volumes,
    /// Creating the sandbox with its network.
    Sandbox,
    /// Pulling, creating and starting; one container of a pod at a time, in the order of the spec.
    Start(String),
    /// Hook, signal, waiting, signal.
    Kill(String),
    /// Changing limits of a running container.
    Resize(String),
    /// Releasing namespaces and network.
    StopSandbox,
    /// Unmounting and removing files.
    CleanUp,
    /// The last DELETE.
    DeleteObject,
}

/// Results of a container's probes for its present run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The startup probe succeeded, or there is none.
    pub started: bool,
    /// The readiness probe says yes, or there is none.
    pub ready: bool,
}

/// What is known only while the agent runs.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Errors of the last attempt to start, by container.
    pub waiting: BTreeMap<String, Waiting>,
    /// Probe results, by container; no entry: no result yet.
    pub probed: BTreeMap<String, Probed>,
    /// Containers that a failed liveness or startup probe condemned: the message of the `Killing` event.
    pub condemned: BTreeMap<String, String>,
    /// Being done.
    pub in_flight: BTreeSet<EffectKey>,
    /// The last error of volumes or sandbox; retried from this time on.
    pub blocked_until: Option<Timestamp>,
    /// Crashes so far are remembered here: when a container may start again.
    pub restart_at: BTreeMap<String, RestartWait>,
    /// Everything of the pod was removed from the node.
    pub cleaned: bool,
    /// Clients may still be sent to the pod, which is being deleted: until then at most it goes on.
    pub serves_until: Option<Timestamp>,
}

/// A container that waits in `CrashLoopBackOff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartWait {
    /// When it may start.
    pub at: Timestamp,
    /// How long the wait is.
    pub length: jiff::SignedDuration,
}
