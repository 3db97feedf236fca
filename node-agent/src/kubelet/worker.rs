//! The actor of one pod: collects what is known, asks [`pod_actions`] and [`pod_status`], carries out and reports.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context as ActorContext, Handler, Recipient, SpawnHandle, WrapFuture};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use trierarch_api::departure;
use trierarch_client::PatchKind;
use trierarch_runtime::SandboxState;

use super::backoff::{Backoff, KUBELET};
use super::context::{Context, PodSources};
use super::effects::{self, Started};
use super::messages::{EffectResult, WorkerEvent, WorkerFinished};
use super::observed::{EffectKey, Live, PodFailure, PodRecord, Probed, RestartWait, SandboxRecord};
use super::pod_actions::{self, Action, find_container};
use super::pod_status;
use super::probe::ProbeKind;
use super::prober::{self, Target, Task};
use super::{restart, runs, sweep, volumes};
use crate::clock;

/// A pod has a few events at a time; the kubelet repeats what did not fit.
const MAILBOX: usize = 256;
/// After a failed effect.
const RETRY: SignedDuration = SignedDuration::from_secs(1);
/// A status without news for anybody waits so long for more: a pod that starts says so once, not three times.
const GATHER: SignedDuration = SignedDuration::from_millis(100);
/// A pod whose clients are still sent to it goes on for so long after its deletion.
const HOLD_MAX: SignedDuration = SignedDuration::from_secs(departure::HOLD_MAX.as_secs().cast_signed());

/// One pod's worker.
pub struct PodWorker {
    context: Arc<Context>,
    pod: Arc<Pod>,
    vanished: bool,
    record: PodRecord,
    saved: PodRecord,
    live: Live,
    backoff: Backoff<String>,
    sources: Arc<PodSources>,
    watching: Vec<Task>,
    probes: HashMap<String, Vec<(ProbeKind, Task)>>,
    starts: HashMap<String, tokio::sync::oneshot::Sender<()>>,
    status_in_flight: bool,
    status_retry_at: Option<Timestamp>,
    /// A status that differs only in details is written at this time, together with what else has changed by then.
    status_due: Option<Timestamp>,
    renew_at: Option<Timestamp>,
    refreshing: bool,
    wake: Option<SpawnHandle>,
    parent: Recipient<WorkerFinished>,
}

impl PodWorker {
    /// A worker that goes on from `record`.
    pub fn new(context: Arc<Context>, pod: Arc<Pod>, vanished: bool, record: PodRecord, parent: Recipient<WorkerFinished>) -> Self {
        let mut record = record;
        if record.start_time.is_none() {
            record.start_time = Some(pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or_else(clock::now, |t| t.0));
        }
        Self {
            context,
            pod,
            vanished,
            saved: PodRecord::default(),
            record,
            live: Live::default(),
            backoff: Backoff::new(KUBELET),
            sources: Arc::default(),
            watching: Vec::new(),
            probes: HashMap::new(),
            starts: HashMap::new(),
            status_in_flight: false,
            status_retry_at: None,
            status_due: None,
            renew_at: None,
            refreshing: false,
            wake: None,
            parent,
        }
    }

    fn uid(&self) -> String {
        self.pod.metadata.uid.clone().unwrap_or_default()
    }

    fn sandbox(&self) -> SandboxRecord {
        self.record.sandbox.clone().unwrap_or_default()
    }

    /// Decides, acts, reports, sleeps.
    fn drive(&mut self, ctx: &mut ActorContext<Self>) {
        let now = clock::now();
        let decided = catch_unwind(AssertUnwindSafe(|| {
            pod_actions::decide(&pod_actions::Input {
                pod: &self.pod,
                record: &self.record,
                live: &self.live,
                vanished: self.vanished,
                now,
            })
        }));
        let mut wake = self.renew_at.into_iter().chain(self.status_retry_at).min();
        match decided {
            Ok(plan) => {
                wake = wake.into_iter().chain(plan.wake_at).min();
                for action in plan.actions {
                    if let Action::Fail(failure) = action {
                        self.fail(failure);
                        ctx.address().try_send(WorkerEvent::Tick).unwrap_or_else(|_| wake = Some(now));
                        continue;
                    }
                    self.perform(action, ctx);
                }
            }
            Err(_) => {
                tracing::error!(pod = self.pod.metadata.name, uid = self.uid(), "Caught a panic while deciding about a pod");
                wake = Some(now + SignedDuration::from_secs(30));
            }
        }
        self.save();
        self.report(ctx, now);
        wake = wake.into_iter().chain(self.status_due).min();
        if let Some(old) = self.wake.take() {
            ctx.cancel_future(old);
        }
        if let Some(at) = wake {
            let after = Duration::try_from(at.duration_since(clock::now())).unwrap_or(Duration::ZERO).max(Duration::from_millis(5));
            self.wake = Some(ctx.run_later(after, |act, ctx| {
                act.wake = None;
                act.renew(ctx);
                act.drive(ctx);
            }));
        }
        if self.vanished && self.live.cleaned {
            let _ = self.parent.try_send(WorkerFinished { uid: self.uid() });
        }
    }

    fn is_complete(&self) -> bool {
        self.pod.spec.as_ref().is_some_and(|spec| restart::is_complete(spec, |name| self.record.containers.get(name).cloned()))
    }

    fn fail(&mut self, failure: PodFailure) {
        self.context.events.pod(&self.pod, None, true, &failure.reason, failure.message.clone());
        self.record.failure = Some(failure);
    }

    fn perform(&mut self, action: Action, ctx: &mut ActorContext<Self>) {
        let Some(key) = action.key() else { return };
        self.live.in_flight.insert(key.clone());
        let (context, pod) = (Arc::clone(&self.context), Arc::clone(&self.pod));
        match action {
            Action::SetUpVolumes => {
                let old = Arc::clone(&self.sources);
                self.run(ctx, key, async move { EffectResult::Volumes(effects::set_up_volumes(&context, &pod, old).await) });
            }
            Action::CreateSandbox { attempt } => {
                self.record.sandbox_attempts = attempt + 1;
                self.run(ctx, key, async move { EffectResult::Sandbox(effects::create_sandbox(&context, &pod, attempt).await) });
            }
            Action::StartContainer { name, attempt } => {
                if attempt > 0 {
                    self.backoff.failed(name.clone(), clock::now());
                }
                self.live.restart_at.remove(&name);
                let (sandbox, sources) = (self.sandbox(), Arc::clone(&self.sources));
                let (cancel, cancelled) = tokio::sync::oneshot::channel();
                self.starts.insert(name.clone(), cancel);
                self.run(ctx, key, async move {
                    EffectResult::Start(effects::start_container(&context, &pod, &name, attempt, &sandbox, &sources, cancelled).await)
                });
            }
            Action::KillContainer { name, id, message, grace_seconds } => {
                self.context.events.pod(&self.pod, Some(&name), false, "Killing", message.clone());
                let sandbox = self.sandbox();
                self.probe_only_readiness(&name);
                self.run(ctx, key, async move {
                    effects::kill(&context, &pod, &name, &id, grace_seconds, &message, &sandbox).await;
                    EffectResult::Killed
                });
            }
            Action::ResizeContainer { name, id } => {
                let sandbox = self.sandbox().id;
                self.run(ctx, key, async move { EffectResult::Resized(effects::resize(&context, &pod, &name, &id, &sandbox).await) });
            }
            Action::StopSandbox { id } => {
                self.run(ctx, key, async move { EffectResult::SandboxStopped(effects::stop_sandbox(&context, &id).await) });
            }
            Action::CleanUp => self.run(ctx, key, async move { EffectResult::CleanedUp(effects::clean_up(&context, &pod).await) }),
            Action::DeleteObject => self.run(ctx, key, async move { EffectResult::Deleted(delete(&context, &pod).await) }),
            Action::Fail(_) => {}
        }
    }

    fn run(&mut self, ctx: &mut ActorContext<Self>, key: EffectKey, work: impl Future<Output = EffectResult> + 'static) {
        let began = clock::instant_now();
        ctx.spawn(work.into_actor(self).map(move |result, act, ctx| {
            let elapsed_ms = began.elapsed().as_millis();
            tracing::debug!(pod = act.pod.metadata.name, effect = ?key, elapsed_ms, "Finished an effect");
            act.done(key, result, ctx);
        }));
    }

    fn done(&mut self, key: EffectKey, result: EffectResult, ctx: &mut ActorContext<Self>) {
        self.live.in_flight.remove(&key);
        let now = clock::now();
        match result {
            EffectResult::Volumes(Ok(sources)) => {
                self.record.volumes_ready = true;
                self.follow(sources, ctx);
            }
            EffectResult::Volumes(Err(problems)) => {
                for problem in problems {
                    self.context.events.pod(&self.pod, None, true, "FailedMount", problem);
                }
                self.live.blocked_until = Some(now + RETRY);
            }
            EffectResult::Sandbox(Ok(sandbox)) => self.record.sandbox = Some(sandbox),
            EffectResult::Sandbox(Err(message)) => {
                self.context.events.pod(
                    &self.pod,
                    None,
                    true,
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {message}"),
                );
                self.live.blocked_until = Some(now + RETRY);
            }
            EffectResult::Start(started) => {
                if let EffectKey::Start(name) = &key {
                    self.starts.remove(name);
                    self.started(name, started, ctx);
                }
                self.look_at_runtime();
            }
            EffectResult::Killed => {
                if let EffectKey::Kill(name) = &key {
                    self.live.condemned.remove(name);
                }
                self.look_at_runtime();
            }
            EffectResult::Resized(Ok(resources)) => {
                if let EffectKey::Resize(name) = &key
                    && let Some(attempt) = self.record.containers.get_mut(name).and_then(|r| r.current.as_mut())
                {
                    attempt.resources = resources;
                }
            }
            EffectResult::Resized(Err(error)) => {
                self.context.events.pod(&self.pod, None, true, "ResizeError", error);
                self.live.blocked_until = Some(now + RETRY);
            }
            EffectResult::SandboxStopped(Ok(())) => {
                self.look_at_runtime();
                self.record.sandbox = None;
            }
            EffectResult::CleanedUp(Ok(())) => {
                self.live.cleaned = true;
                self.saved = self.record.clone();
            }
            EffectResult::SandboxStopped(Err(error)) | EffectResult::CleanedUp(Err(error)) => {
                tracing::warn!(pod = self.pod.metadata.name, error, "Could not release a pod's resources");
                self.context.events.pod(&self.pod, None, true, "FailedKillPod", format!("error killing pod: {error}"));
                self.live.in_flight.insert(key.clone());
                ctx.run_later(Duration::from_secs(1), move |act, ctx| {
                    act.live.in_flight.remove(&key);
                    act.drive(ctx);
                });
            }
            EffectResult::Deleted(Ok(())) => {
                self.vanished = true;
            }
            EffectResult::Deleted(Err(error)) => {
                tracing::info!(pod = self.pod.metadata.name, error, "Could not delete a pod's object yet");
                self.live.blocked_until = Some(now + RETRY);
            }
            EffectResult::Refreshed(renew_at) => {
                self.refreshing = false;
                self.renew_at = renew_at;
            }
        }
        self.drive(ctx);
    }

    fn started(&mut self, name: &str, started: Started, ctx: &mut ActorContext<Self>) {
        self.live.condemned.remove(name);
        match started {
            Started::Yes(attempt) => {
                self.live.waiting.remove(name);
                let id = attempt.id.clone();
                self.record.containers.entry(name.to_owned()).or_default().begin(*attempt);
                self.probe(name, &id, false, ctx);
            }
            Started::Failed(attempt, waiting) => {
                self.record.containers.entry(name.to_owned()).or_default().begin(*attempt);
                self.live.waiting.insert(name.to_owned(), waiting);
                self.ended(name);
            }
            Started::No(mut waiting) => {
                // A pull that failed shows its error first and the waiting afterwards.
                let before = self.live.waiting.get(name).map(|w| w.reason.clone());
                if waiting.reason == "ErrImagePull" && matches!(before.as_deref(), Some("ErrImagePull" | "ImagePullBackOff")) {
                    let image = self.pod.spec.as_ref().and_then(|s| find_container(s, name)).and_then(|c| c.image).unwrap_or_default();
                    let until = waiting.retry_at.unwrap_or_else(clock::now);
                    waiting = super::image_manager::back_off(&image, &waiting.message, until);
                    self.context.events.pod(&self.pod, Some(name), false, "BackOff", format!("Back-off pulling image {image:?}"));
                    self.context.events.pod(&self.pod, Some(name), true, "Failed", "Error: ImagePullBackOff");
                }
                self.live.waiting.insert(name.to_owned(), waiting);
            }
        }
    }

    /// Begins probing a container that runs.
    fn probe(&mut self, name: &str, id: &str, known_started: bool, ctx: &mut ActorContext<Self>) {
        let Some(container) = self.pod.spec.as_ref().and_then(|s| find_container(s, name)) else { return };
        let started = known_started || container.startup_probe.is_none();
        let ready = started && container.readiness_probe.is_none();
        self.live.probed.insert(name.to_owned(), Probed { started, ready });
        let host_network = self.pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
        let own = self.sandbox().ips.first().cloned().unwrap_or_default();
        let target = Target {
            context: Arc::clone(&self.context),
            pod: Arc::clone(&self.pod),
            container: Arc::new(container),
            id: id.to_owned(),
            pod_ip: if host_network { self.context.config.node_ip.to_string() } else { own },
            started_at: self.record.containers.get(name).and_then(|r| r.current.as_ref()).and_then(|a| a.started_at),
            worker: ctx.address(),
        };
        self.probes.insert(name.to_owned(), prober::start(&target, started));
    }

    /// Notes that a container's present run has ended: how long must it wait?
    fn ended(&mut self, name: &str) {
        self.probes.remove(name);
        self.live.probed.remove(name);
        self.live.condemned.remove(name);
        let now = clock::now();
        let finished = self.record.containers.get(name).and_then(|r| r.finished()).and_then(|f| f.finished_at).unwrap_or(now);
        let Some(wait) = self.backoff.get(&name.to_owned()) else { return };
        let calm = finished.duration_since(wait.since) > KUBELET.most * 2;
        let at = finished + wait.length;
        if !calm && now < at {
            self.live.restart_at.insert(name.to_owned(), RestartWait { at, length: wait.length });
            let message = format!(
                "Back-off restarting failed container {name} in pod {}_{}({})",
                self.pod.metadata.name.as_deref().unwrap_or_default(),
                self.pod.metadata.namespace.as_deref().unwrap_or_default(),
                self.uid()
            );
            self.context.events.pod(&self.pod, Some(name), true, "BackOff", message);
        }
    }

    /// Brings the record in line with what the runtime knows.
    fn look_at_runtime(&mut self) {
        if let Some(sandbox) = &mut self.record.sandbox {
            let ready = self.context.runtime.sandbox(&sandbox.id).is_ok_and(|s| s.state == SandboxState::Ready);
            sandbox.ready &= ready;
        }
        let running: Vec<(String, String)> = self
            .record
            .containers
            .iter()
            .filter(|(_, record)| record.is_running())
            .filter_map(|(name, record)| Some((name.clone(), record.current.as_ref()?.id.clone())))
            .collect();
        for (name, id) in running {
            let finished = match self.context.runtime.container(&id) {
                Ok(status) => effects::finished(&self.context, &self.pod, &name, &status),
                // The runtime has lost it, with the machine or by hand.
                Err(_) => Some(super::observed::Finished {
                    id,
                    exit_code: 137,
                    reason: "ContainerStatusUnknown".to_owned(),
                    message: "The container could not be located when the pod was terminated".to_owned(),
                    finished_at: Some(clock::now()),
                    ..Default::default()
                }),
            };
            let Some(finished) = finished else { continue };
            if let Some(attempt) = self.record.containers.get_mut(&name).and_then(|r| r.current.as_mut()) {
                attempt.finished = Some(finished);
            }
            self.ended(&name);
        }
    }

    /// Follows the sources of the pod: a change of any refreshes its volumes.
    fn follow(&mut self, sources: Arc<PodSources>, ctx: &mut ActorContext<Self>) {
        self.watching.clear();
        for followed in sources.followed.values() {
            let mut changes = followed.changes();
            let address = ctx.address();
            changes.mark_unchanged();
            self.watching.push(Task::spawn(async move {
                while changes.changed().await.is_ok() {
                    if address.send(WorkerEvent::SourcesChanged).await.is_err() {
                        return;
                    }
                }
            }));
        }
        self.sources = sources;
        self.renew(ctx);
    }

    /// Renews tokens and rewrites the files that come from the API.
    fn renew(&mut self, ctx: &mut ActorContext<Self>) {
        let has_files = self.pod.spec.as_ref().is_some_and(|s| {
            s.volumes
                .iter()
                .flatten()
                .any(|v| v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some())
        });
        if !has_files || self.refreshing || !self.record.volumes_ready || self.vanished || self.live.cleaned {
            return;
        }
        if self.live.in_flight.contains(&EffectKey::CleanUp) {
            return;
        }
        self.refreshing = true;
        let (context, pod, sources) = (Arc::clone(&self.context), Arc::clone(&self.pod), Arc::clone(&self.sources));
        let work = async move {
            let next = sources.renew_tokens(&context, &pod).await.unwrap_or_else(|error| {
                tracing::warn!(pod = pod.metadata.name, error, "Could not renew a token");
                Some(clock::now() + SignedDuration::from_secs(10))
            });
            if let Err(problems) = effects::write_volumes(&context, &pod, &sources, false).await {
                tracing::warn!(pod = pod.metadata.name, error = problems.join(", "), "Could not refresh volumes");
            }
            next
        };
        ctx.spawn(work.into_actor(self).map(|next, act, ctx| act.done(EffectKey::Volumes, EffectResult::Refreshed(next), ctx)));
    }

    /// Writes the record beside the pod's volumes when it changed.
    fn save(&mut self) {
        if self.record == self.saved || self.live.cleaned || self.live.in_flight.contains(&EffectKey::CleanUp) {
            return;
        }
        let dir = self.context.pod_dir(&self.uid());
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(&dir)?;
            for (file, text) in [("record.json", serde_json::to_vec(&self.record)?), ("pod.json", serde_json::to_vec(&*self.pod)?)] {
                std::fs::write(dir.join(format!("{file}.new")), text)?;
                std::fs::rename(dir.join(format!("{file}.new")), dir.join(file))?;
            }
            Ok(())
        };
        match write() {
            Ok(()) => self.saved = self.record.clone(),
            Err(error) => tracing::warn!(pod = self.pod.metadata.name, %error, "Could not save a pod's record"),
        }
    }

    /// Sends the status if the API server has another one.
    fn report(&mut self, ctx: &mut ActorContext<Self>, now: Timestamp) {
        if self.vanished
            || self.status_in_flight
            || self.status_retry_at.is_some_and(|at| now < at)
            || (self.live.cleaned && self.record.containers.is_empty())
        {
            return;
        }
        self.status_retry_at = None;
        let host_ips = self.context.host_ips();
        let status =
            pod_status::compute(&pod_status::Input { pod: &self.pod, record: &self.record, live: &self.live, host_ips: &host_ips, now });
        let old = serde_json::to_value(self.pod.status.clone().unwrap_or_default()).unwrap_or_default();
        let new = serde_json::to_value(&status).unwrap_or_default();
        let Some(patch) = status_patch(&old, &new) else {
            self.status_due = None;
            return;
        };
        if !pod_status::is_urgent(self.pod.status.as_ref(), &status) {
            let due = *self.status_due.get_or_insert(now + GATHER);
            if now < due {
                return;
            }
        }
        self.status_due = None;
        self.status_in_flight = true;
        // Until the watch brings it back, this is what the server has.
        let meta = &self.pod.metadata;
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/status",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        );
        let body = json!({"metadata": {"uid": meta.uid}, "status": patch});
        let client = self.context.client().clone();
        let work = async move {
            let outcome: Result<Value, _> = client.patch(&path, PatchKind::Strategic, &body).await;
            match outcome {
                Ok(answer) => (true, false, serde_json::from_value::<PodStatus>(answer["status"].clone()).ok()),
                Err(error) => {
                    let gone = error.is_not_found() || error.is_conflict();
                    tracing::debug!(%error, "Could not write a pod's status");
                    (false, gone, None)
                }
            }
        };
        ctx.spawn(work.into_actor(self).map(|(ok, gone, stored), act, ctx| {
            if let Some(stored) = stored {
                let mut pod = (*act.pod).clone();
                pod.status = Some(stored);
                act.pod = Arc::new(pod);
            }
            act.handle(WorkerEvent::StatusWritten { ok, gone }, ctx);
        }));
    }

    fn pod_changed(&mut self, pod: Arc<Pod>, ctx: &mut ActorContext<Self>) {
        let old = std::mem::replace(&mut self.pod, pod);
        let (was, is) = (old.metadata.deletion_timestamp.is_some(), self.pod.metadata.deletion_timestamp.is_some());
        if is && !was {
            if self.context.serves(&self.pod) {
                self.live.serves_until = Some(clock::now() + HOLD_MAX);
            }
            self.live.condemned.clear();
            let probed: Vec<String> = self.probes.keys().cloned().collect();
            probed.iter().for_each(|name| self.probe_only_readiness(name));
            for (_, cancel) in self.starts.drain() {
                // Refused only when the start is over already.
                let _ = cancel.send(());
            }
        }
        self.live.serves_until = pod_actions::serves_until(&self.pod, self.live.serves_until, clock::now());
        let (before, after) = (old.metadata.deletion_grace_period_seconds, self.pod.metadata.deletion_grace_period_seconds);
        if let (true, true, Some(before), Some(after)) = (was, is, before, after)
            && after < before
        {
            self.hurry(after);
        }
        if old.metadata.labels != self.pod.metadata.labels || old.metadata.annotations != self.pod.metadata.annotations {
            self.renew(ctx);
        }
    }

    /// Liveness no longer matters to a container that ends; readiness still does.
    fn probe_only_readiness(&mut self, name: &str) {
        if let Some(tasks) = self.probes.get_mut(name) {
            tasks.retain(|(kind, _)| *kind == ProbeKind::Readiness);
        }
    }

    /// A shorter grace period applies to what is being ended already.
    fn hurry(&self, grace_seconds: i64) {
        for key in &self.live.in_flight {
            if let EffectKey::Kill(name) = key
                && let Some(attempt) = self.record.containers.get(name).and_then(|r| r.current.as_ref())
            {
                let (runtime, id) = (Arc::clone(&self.context.runtime), attempt.id.clone());
                let grace = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = runtime.stop_container(&id, None, grace) {
                        tracing::warn!(container = id, %error, "Could not hurry the end of a container");
                    }
                });
            }
        }
    }

    fn probed(&mut self, name: &str, id: &str, kind: ProbeKind, success: bool, ctx: &mut ActorContext<Self>) {
        let current = self.record.containers.get(name).and_then(|r| r.current.as_ref()).is_some_and(|a| a.id == id && a.is_running());
        if !current {
            return;
        }
        match (kind, success) {
            (ProbeKind::Startup, true) => self.probe(name, id, true, ctx),
            (ProbeKind::Readiness, ready) => {
                if let Some(probed) = self.live.probed.get_mut(name) {
                    probed.ready = ready;
                }
            }
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                let message = format!("Container {name} failed {} probe, will be restarted", kind.name().to_lowercase());
                self.live.condemned.insert(name.to_owned(), message);
            }
        }
    }

    /// Ends what began while an earlier agent died. Until that is done, nothing else begins under the same name.
    fn end_strays(&mut self, ctx: &mut ActorContext<Self>) {
        let all = self.context.runtime.list_containers();
        for run in sweep::strays(&all, &self.uid(), &self.record) {
            let name = run.spec.labels.get(runs::CONTAINER_NAME).cloned().unwrap_or_default();
            tracing::info!(pod = self.pod.metadata.name, container = name, "Found a container that an earlier agent did not get to report");
            let key = EffectKey::Kill(name.clone());
            self.live.in_flight.insert(key.clone());
            let (context, pod, run) = (Arc::clone(&self.context), Arc::clone(&self.pod), run.clone());
            self.run(ctx, key, async move {
                let done = effects::blocking(move || effects::forget(&context, &pod, &name, &run)).await.and_then(|done| done);
                if let Err(error) = done {
                    tracing::warn!(error, "Could not end a container");
                }
                EffectResult::Killed
            });
        }
    }

    /// After a restart of the agent: what runs is probed again, references are followed again.
    fn adopt(&mut self, ctx: &mut ActorContext<Self>) {
        self.look_at_runtime();
        self.end_strays(ctx);
        self.record.volumes_ready &= volumes::present(&self.context.volume_dirs(&self.uid()), &self.pod);
        let reported: BTreeMap<String, (bool, bool)> = self
            .pod
            .status
            .iter()
            .flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()))
            .map(|c| (c.name.clone(), (c.started == Some(true), c.ready)))
            .collect();
        let running: Vec<(String, String)> = self
            .record
            .containers
            .iter()
            .filter(|(_, r)| r.is_running())
            .filter_map(|(n, r)| Some((n.clone(), r.current.as_ref()?.id.clone())))
            .collect();
        for (name, id) in running {
            let (started, ready) = reported.get(&name).copied().unwrap_or_default();
            self.probe(&name, &id, started, ctx);
            if let Some(probed) = self.live.probed.get_mut(&name) {
                // What was ready stays so until a probe says otherwise.
                probed.ready |= ready;
            }
        }
        if self.record.volumes_ready && self.pod.metadata.deletion_timestamp.is_none() && !self.vanished {
            let (context, pod) = (Arc::clone(&self.context), Arc::clone(&self.pod));
            let work = async move {
                let sources = PodSources::of(&context, &pod, &PodSources::default());
                sources.ready(&context).await;
                Arc::new(sources)
            };
            ctx.spawn(work.into_actor(self).map(|sources, act, ctx| act.follow(sources, ctx)));
        }
    }
}

impl Actor for PodWorker {
    type Context = ActorContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        if let Some(failure) = self.record.failure.as_ref().filter(|failure| failure.rejected) {
            self.context.events.pod(&self.pod, None, true, &failure.reason, failure.message.clone());
        }
        self.adopt(ctx);
        self.drive(ctx);
    }
}

impl Handler<WorkerEvent> for PodWorker {
    type Result = ();

    fn handle(&mut self, event: WorkerEvent, ctx: &mut Self::Context) {
        match event {
            WorkerEvent::PodChanged(pod) => self.pod_changed(pod, ctx),
            WorkerEvent::PodVanished => {
                self.vanished = true;
                for (_, cancel) in self.starts.drain() {
                    let _ = cancel.send(());
                }
            }
            WorkerEvent::SourcesChanged => self.renew(ctx),
            WorkerEvent::RuntimeChanged => self.look_at_runtime(),
            WorkerEvent::Probed { container, id, kind, success } => self.probed(&container, &id, kind, success, ctx),
            WorkerEvent::Evicted(failure) if self.record.failure.is_none() && !self.is_complete() => self.fail(failure),
            WorkerEvent::Evicted(_) | WorkerEvent::Tick => {}
            WorkerEvent::Done { key, result } => return self.done(key, result, ctx),
            WorkerEvent::StatusWritten { ok, gone } => {
                self.status_in_flight = false;
                if !ok {
                    self.status_retry_at = Some(clock::now() + SignedDuration::from_millis(if gone { 1000 } else { 200 }));
                }
            }
        }
        self.drive(ctx);
    }
}

/// Deletes the object for good, if it is still the same one.
async fn delete(context: &Context, pod: &Pod) -> Result<(), String> {
    let meta = &pod.metadata;
    let path =
        format!("/api/v1/namespaces/{}/pods/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": meta.uid}});
    match context.client().delete(&path, Some(&options)).await {
        Ok(_) => Ok(()),
        // Gone already, or replaced by another pod of the same name.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// A value without what carries no meaning: members that are null or empty objects, and the order of conditions. The API server writes
/// `lastState: {}` where nothing is, and keeps conditions in the order in which they came.
fn comparable(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let members = map.iter().map(|(key, value)| (key.clone(), comparable(value)));
            Value::Object(members.filter(|(_, value)| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty())).collect())
        }
        Value::Array(list) => {
            let mut items: Vec<Value> = list.iter().map(comparable).collect();
            if items.iter().all(|item| item["type"].is_string() && item["status"].is_string()) {
                items.sort_by(|a, b| a["type"].as_str().cmp(&b["type"].as_str()));
            }
            Value::Array(items)
        }
        other => other.clone(),
    }
}

/// What turns the old status into the new one, as a strategic merge patch; nothing when they agree.
fn status_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return None };
    let mut patch = serde_json::Map::new();
    for (key, value) in new {
        if old.get(key).map(comparable) != Some(comparable(value)) {
            patch.insert(key.clone(), value.clone());
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (list, key) in [("podIPs", "ip"), ("hostIPs", "ip"), ("conditions", "type")] {
        // These lists merge by key: entries that vanish must be named, and so must members that vanish from an entry.
        let (Some(Value::Array(before)), Some(Value::Array(after))) = (old.get(list), patch.get_mut(list)) else { continue };
        for entry in after.iter_mut() {
            let Some(earlier) = before.iter().find(|b| b[key] == entry[key]).and_then(Value::as_object) else { continue };
            let Some(entry) = entry.as_object_mut() else { continue };
            for member in earlier.keys() {
                entry.entry(member.clone()).or_insert(Value::Null);
            }
        }
        let gone: Vec<Value> =
            before.iter().filter(|b| !after.iter().any(|a| a[key] == b[key])).map(|b| json!({key: b[key], "$patch": "delete"})).collect();
        after.extend(gone);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_patch_names_what_changed_and_what_vanished() {
        let old = json!({"phase": "Pending", "message": "m", "podIPs": [{"ip": "1"}], "hostIP": "h"});
        let new = json!({"phase": "Running", "podIPs": [{"ip": "2"}], "hostIP": "h"});
        let expected = json!({"phase": "Running", "message": null, "podIPs": [{"ip": "2"}, {"ip": "1", "$patch": "delete"}]});
        assert_eq!(status_patch(&old, &new), Some(expected));
        assert_eq!(status_patch(&new, &new), None);
    }

    #[test]
    fn what_the_server_writes_differently_is_no_change() {
        let stored = json!({"conditions": [{"type": "B", "status": "True"}, {"type": "A", "status": "True", "lastProbeTime": null}],
            "containerStatuses": [{"name": "c", "lastState": {}}]});
        let computed =
            json!({"conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}], "containerStatuses": [{"name": "c"}]});
        assert_eq!(status_patch(&stored, &computed), None);
    }

    #[test]
    fn a_condition_that_became_true_loses_its_reason() {
        let old = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady"}, {"type": "Gone", "status": "True"}]});
        let new = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let expected = json!({"conditions": [{"type": "Ready", "status": "True", "reason": null}, {"type": "Gone", "$patch": "delete"}]});
        assert_eq!(status_patch(&old, &new), Some(expected));
    }
}
