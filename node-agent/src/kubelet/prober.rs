//! Probing a container for as long as it runs.

use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};

use super::context::Context;
use super::handler;
use super::messages::WorkerEvent;
use super::probe::{Outcome, ProbeKind, Series};
use super::worker::PodWorker;

/// A probe that could not be made is tried as often before the attempt is given up.
const ATTEMPTS: usize = 3;

/// A background task that ends with its owner.
pub struct Task(tokio::task::JoinHandle<()>);

impl Task {
    /// Starts a task.
    pub fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a probe needs to know.
#[derive(Clone)]
pub struct Target {
    /// Shared parts of the agent.
    pub context: Arc<Context>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub container: Arc<Container>,
    /// Its runtime id.
    pub id: String,
    /// The pod's address.
    pub pod_ip: String,
    /// When it started: initial delays count from there, also after a restart of the agent.
    pub started_at: Option<Timestamp>,
    /// Who is told.
    pub worker: Addr<PodWorker>,
}

/// The probes of a container that has started: the startup probe alone first, then the other two.
pub fn start(target: &Target, started: bool) -> Vec<(ProbeKind, Task)> {
    let probes = |kind| match kind {
        ProbeKind::Startup => target.container.startup_probe.clone(),
        ProbeKind::Liveness => target.container.liveness_probe.clone(),
        ProbeKind::Readiness => target.container.readiness_probe.clone(),
    };
    let kinds: &[ProbeKind] = if !started && target.container.startup_probe.is_some() {
        &[ProbeKind::Startup]
    } else {
        &[ProbeKind::Liveness, ProbeKind::Readiness]
    };
    kinds.iter().filter_map(|kind| Some((*kind, Task::spawn(follow(target.clone(), *kind, probes(*kind)?))))).collect()
}

async fn follow(target: Target, kind: ProbeKind, probe: Probe) {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default))
    };
    let delay = Duration::from_secs(probe.initial_delay_seconds.and_then(|v| u64::try_from(v).ok()).unwrap_or(0));
    let age = target.started_at.and_then(|at| Duration::try_from(crate::clock::now().duration_since(at)).ok()).unwrap_or_default();
    let delay = delay.saturating_sub(age);
    let mut series = Series::new(&probe);
    // The period is what the user asked for; the first probe comes right after the initial delay.
    let mut ticks =
        tokio::time::interval_at(tokio::time::Instant::from_std(crate::clock::instant_now() + delay), seconds(probe.period_seconds, 10));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut believed = None;
    loop {
        ticks.tick().await;
        let mut outcome = ask(&target, &probe, seconds(probe.timeout_seconds, 1)).await;
        for _ in 1..ATTEMPTS {
            if matches!(outcome, Outcome::Error(_)) {
                outcome = ask(&target, &probe, seconds(probe.timeout_seconds, 1)).await;
            }
        }
        let name = &target.container.name;
        match &outcome {
            Outcome::Success => {}
            Outcome::Failure(text) => {
                target.context.events.pod(&target.pod, Some(name), true, "Unhealthy", format!("{} probe failed: {text}", kind.name()));
            }
            Outcome::Error(text) => {
                target.context.events.pod(
                    &target.pod,
                    Some(name),
                    true,
                    "Unhealthy",
                    format!("{} probe errored and resulted in unknown state: {text}", kind.name()),
                );
                // Nothing was learnt about the container.
                continue;
            }
        }
        let Some(success) = series.observe(outcome == Outcome::Success) else { continue };
        if believed == Some(success) {
            continue;
        }
        let event = WorkerEvent::Probed { container: name.clone(), id: target.id.clone(), kind, success };
        if target.worker.send(event).await.is_err() {
            return;
        }
        believed = Some(success);
        if kind == ProbeKind::Startup && success {
            return;
        }
    }
}

async fn ask(target: &Target, probe: &Probe, timeout: Duration) -> Outcome {
    let container = &target.container;
    if let Some(exec) = &probe.exec {
        return handler::exec(&target.context, &target.id, exec.command.clone().unwrap_or_default(), Some(timeout)).await;
    }
    if let Some(get) = &probe.http_get {
        return handler::http_get(&target.context, get, container, &target.pod_ip, timeout, "kube-probe/1.37").await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        return handler::tcp(tcp, container, &target.pod_ip, timeout).await;
    }
    if let Some(grpc) = &probe.grpc {
        return handler::grpc(grpc, &target.pod_ip, timeout).await;
    }
    Outcome::Error("missing probe handler".to_owned())
}
