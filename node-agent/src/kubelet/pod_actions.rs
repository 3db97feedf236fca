//! The decision at the centre of the agent: what to do next for one pod.
//!
//! It is asked after every change and answers with everything that may be done at once. Asked again while those things are in flight, it
//! answers with nothing new; asked when all is as it should be, it answers with nothing.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

use trierarch_api::departure;

use super::observed::{ContainerRecord, EffectKey, Live, PodFailure, PodRecord};
use super::restart::{init_restarts, is_complete, is_sidecar, restarts};

/// Requests that were under way when the last node stopped to send new ones have this long before the signal, which may end them.
const UNDER_WAY: SignedDuration = SignedDuration::from_millis(200);

/// What the decision looks at.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// As the API server has it (or had it, for a pod that vanished).
    pub pod: &'a Pod,
    /// What happened so far.
    pub record: &'a PodRecord,
    /// What is going on.
    pub live: &'a Live,
    /// The object is gone from the API: end the pod at once.
    pub vanished: bool,
    /// The time.
    pub now: Timestamp,
}

/// Something for the shell to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the pod's volumes.
    SetUpVolumes,
    /// Make namespaces, cgroup and network.
    CreateSandbox {
        /// Counts from 0.
        attempt: u32,
    },
    /// Pull if needed, create, start, run the postStart hook.
    StartContainer {
        /// Which.
        name: String,
        /// How many runs there were.
        attempt: i32,
    },
    /// Run the preStop hook, signal, wait, kill.
    KillContainer {
        /// Which.
        name: String,
        /// The runtime's id.
        id: String,
        /// Message of the `Killing` event.
        message: String,
        /// How long it may take, hook included.
        grace_seconds: i64,
    },
    /// Bring a running container's limits in line with the spec.
    ResizeContainer {
        /// Which.
        name: String,
        /// The runtime's id.
        id: String,
    },
    /// Give up a sandbox that is dead or needed no more.
    StopSandbox {
        /// The runtime's id.
        id: String,
    },
    /// End the pod for good with this reason.
    Fail(PodFailure),
    /// Remove everything of the pod from the node.
    CleanUp,
    /// Tell the API server that nothing is left.
    DeleteObject,
}

impl Action {
    /// Under which key it is in flight; `Fail` is done at once.
    pub fn key(&self) -> Option<EffectKey> {
        Some(match self {
            Self::SetUpVolumes => EffectKey::Volumes,
            Self::CreateSandbox { .. } => EffectKey::Sandbox,
            Self::StartContainer { name, .. } => EffectKey::Start(name.clone()),
            Self::KillContainer { name, .. } => EffectKey::Kill(name.clone()),
            Self::ResizeContainer { name, .. } => EffectKey::Resize(name.clone()),
            Self::StopSandbox { .. } => EffectKey::StopSandbox,
            Self::CleanUp => EffectKey::CleanUp,
            Self::DeleteObject => EffectKey::DeleteObject,
            Self::Fail(_) => return None,
        })
    }
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// Look again at this time at the latest, even if nothing happens.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
    }
}

/// What to do next.
pub fn decide(input: &Input<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &input.pod.spec else { return plan };
    if input.record.failure.is_none()
        && !is_ending(input)
        && let Some(failure) = deadline(spec, input, &mut plan)
    {
        plan.actions.push(Action::Fail(failure));
        return plan;
    }
    let complete = is_complete(spec, |name| input.record.containers.get(name).cloned());
    if is_ending(input) || input.record.failure.is_some() || complete {
        end(spec, input, &mut plan);
    } else {
        run(spec, input, &mut plan);
    }
    plan.actions.retain(|action| action.key().is_none_or(|key| !input.live.in_flight.contains(&key)));
    plan
}

fn is_ending(input: &Input<'_>) -> bool {
    input.vanished || input.pod.metadata.deletion_timestamp.is_some()
}

fn deadline(spec: &PodSpec, input: &Input<'_>, plan: &mut Plan) -> Option<PodFailure> {
    let seconds = spec.active_deadline_seconds?;
    let end = input.record.start_time? + SignedDuration::from_secs(seconds);
    if input.now < end {
        plan.wake(end);
        return None;
    }
    if is_complete(spec, |name| input.record.containers.get(name).cloned()) {
        return None;
    }
    Some(PodFailure {
        reason: "DeadlineExceeded".to_owned(),
        message: "Pod was active on the node longer than the specified deadline".to_owned(),
        ..PodFailure::default()
    })
}

/// How long the containers of a pod that ends may take.
pub fn grace_seconds(input: &Input<'_>) -> i64 {
    let spec = input.pod.spec.as_ref();
    let own = spec.and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
    let asked = input.pod.metadata.deletion_grace_period_seconds;
    let failure = input.record.failure.as_ref().and_then(|f| f.grace_seconds);
    let grace = if input.vanished { asked.unwrap_or(own) } else { asked.or(failure).unwrap_or(own) };
    grace.max(0)
}

/// Until when a pod goes on that was to go on until `before`: if no node sends it new clients any more, for as long as a request may take
/// that is under way.
pub fn serves_until(pod: &Pod, before: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let left = pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(departure::LEFT));
    before.map(|until| if left { until.min(now + UNDER_WAY) } else { until })
}

/// Until when the pod goes on although it is being deleted.
fn goes_on_until(input: &Input<'_>) -> Option<Timestamp> {
    let hurried = input.vanished || grace_seconds(input) == 0;
    input.live.serves_until.filter(|until| !hurried && input.now < *until)
}

fn end(spec: &PodSpec, input: &Input<'_>, plan: &mut Plan) {
    if let Some(until) = goes_on_until(input) {
        plan.wake(until);
        return;
    }
    let grace = grace_seconds(input);
    let running = |name: &str| input.record.containers.get(name).is_some_and(ContainerRecord::is_running);
    let starting = input.live.in_flight.iter().any(|key| matches!(key, EffectKey::Start(_) | EffectKey::Sandbox | EffectKey::Volumes));
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.name.as_str());
    let plain_init = spec.init_containers.iter().flatten().filter(|c| !is_sidecar(c)).map(|c| c.name.as_str());
    let first: Vec<&str> =
        spec.containers.iter().map(|c| c.name.as_str()).chain(ephemeral).chain(plain_init).filter(|n| running(n)).collect();
    // Sidecars end after the containers they serve, the last one first.
    let sidecar = spec.init_containers.iter().flatten().rev().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).find(|n| running(n));
    let due: Vec<&str> = if first.is_empty() && !starting { sidecar.into_iter().collect() } else { first };
    for name in &due {
        if let Some(attempt) = input.record.containers.get(*name).and_then(|r| r.current.as_ref()) {
            plan.actions.push(Action::KillContainer {
                name: (*name).to_owned(),
                id: attempt.id.clone(),
                message: format!("Stopping container {name}"),
                grace_seconds: grace,
            });
        }
    }
    if !due.is_empty() || sidecar.is_some() || starting || input.live.in_flight.iter().any(|k| matches!(k, EffectKey::Kill(_))) {
        return;
    }
    if let Some(sandbox) = &input.record.sandbox {
        plan.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
        return;
    }
    if !is_ending(input) {
        return;
    }
    if !input.live.cleaned {
        plan.actions.push(Action::CleanUp);
    } else if !input.vanished {
        match input.live.blocked_until {
            Some(until) if input.now < until => plan.wake(until),
            _ => plan.actions.push(Action::DeleteObject),
        }
    }
}

fn run(spec: &PodSpec, input: &Input<'_>, plan: &mut Plan) {
    if let Some(until) = input.live.blocked_until.filter(|until| input.now < *until) {
        plan.wake(until);
        return;
    }
    // Volumes and namespaces do not need each other, so they are made at the same time.
    if !input.record.volumes_ready {
        plan.actions.push(Action::SetUpVolumes);
    }
    match &input.record.sandbox {
        None => plan.actions.push(Action::CreateSandbox { attempt: input.record.sandbox_attempts }),
        Some(sandbox) if !sandbox.ready => plan.actions.push(Action::StopSandbox { id: sandbox.id.clone() }),
        Some(_) => {}
    }
    if !plan.actions.is_empty() {
        return;
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        if container_record(input, &container.name).is_none_or(|r| r.current.is_none()) && may_start(input, plan, &container.name, None) {
            plan.actions.push(Action::StartContainer { name: container.name.clone(), attempt: 0 });
        }
    }
    if initialize(spec, input, plan) {
        for container in &spec.containers {
            keep(spec, container, input, plan);
        }
    }
    one_start_at_a_time(input, plan);
}

/// Brings the init containers forward; true once the normal containers may run.
fn initialize(spec: &PodSpec, input: &Input<'_>, plan: &mut Plan) -> bool {
    let sandbox = input.record.sandbox.as_ref().map(|s| s.id.as_str());
    let main_ran = spec
        .containers
        .iter()
        .any(|c| container_record(input, &c.name).and_then(|r| r.current.as_ref()).is_some_and(|a| Some(a.sandbox_id.as_str()) == sandbox));
    for container in spec.init_containers.iter().flatten() {
        let record = container_record(input, &container.name);
        if is_sidecar(container) {
            keep(spec, container, input, plan);
            let up = record.is_some_and(ContainerRecord::is_running) && input.live.probed.get(&container.name).is_some_and(|p| p.started);
            if !up && !main_ran {
                return false;
            }
            continue;
        }
        if main_ran {
            continue;
        }
        // A new sandbox runs the initialisation again: what earlier runs left in the old namespaces is gone.
        let current = record.and_then(|r| r.current.as_ref()).filter(|a| Some(a.sandbox_id.as_str()) == sandbox);
        match current {
            Some(attempt) if attempt.is_running() => return false,
            Some(attempt) => match &attempt.finished {
                Some(finished) if finished.exit_code == 0 => {}
                Some(finished) => {
                    if init_restarts(spec, container, finished.exit_code) {
                        start(container, input, plan);
                    }
                    return false;
                }
                None => return false,
            },
            None => {
                start(container, input, plan);
                return false;
            }
        }
    }
    true
}

/// Keeps a normal container or a sidecar as its policy says.
fn keep(spec: &PodSpec, container: &Container, input: &Input<'_>, plan: &mut Plan) {
    let Some(record) = container_record(input, &container.name) else { return start(container, input, plan) };
    match &record.current {
        None => start(container, input, plan),
        Some(attempt) if attempt.is_running() => {
            if let Some(message) = input.live.condemned.get(&container.name) {
                let grace = [&container.liveness_probe, &container.startup_probe]
                    .into_iter()
                    .flatten()
                    .find_map(|p| p.termination_grace_period_seconds)
                    .or(spec.termination_grace_period_seconds)
                    .unwrap_or(30);
                plan.actions.push(Action::KillContainer {
                    name: container.name.clone(),
                    id: attempt.id.clone(),
                    message: message.clone(),
                    grace_seconds: grace.max(0),
                });
                return;
            }
            let changed = resized(container, attempt.resources.as_ref());
            if changed.iter().any(|name| resize_restarts(container, name)) {
                plan.actions.push(Action::KillContainer {
                    name: container.name.clone(),
                    id: attempt.id.clone(),
                    message: format!("Container {} resize requires restart", container.name),
                    grace_seconds: spec.termination_grace_period_seconds.unwrap_or(30).max(0),
                });
            } else if !changed.is_empty() {
                plan.actions.push(Action::ResizeContainer { name: container.name.clone(), id: attempt.id.clone() });
            }
        }
        Some(attempt) => {
            let code = attempt.finished.as_ref().map_or(255, |f| f.exit_code);
            if is_sidecar(container) || restarts(spec, container, code) {
                start(container, input, plan);
            }
        }
    }
}

/// The container may take another amount of this resource only by starting anew.
fn resize_restarts(container: &Container, resource: &str) -> bool {
    container.resize_policy.iter().flatten().any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
}

/// The resources of which the spec asks for other amounts than those in force.
fn resized(container: &Container, in_force: Option<&serde_json::Value>) -> Vec<&'static str> {
    let Some(in_force) = in_force else { return Vec::new() };
    let wanted = container.resources.clone().unwrap_or_default();
    let old: k8s_openapi::api::core::v1::ResourceRequirements = serde_json::from_value(in_force.clone()).unwrap_or_default();
    let differs = |name: &str| {
        let get = |list: &Option<super::quantity::ResourceList>| super::quantity::get_millis(list.as_ref(), name);
        get(&wanted.limits) != get(&old.limits) || get(&wanted.requests) != get(&old.requests)
    };
    ["cpu", "memory"].into_iter().filter(|name| differs(name)).collect()
}

fn start(container: &Container, input: &Input<'_>, plan: &mut Plan) {
    let attempt = container_record(input, &container.name).map_or(0, |r| if r.current.is_some() { r.restart_count + 1 } else { 0 });
    let restart = input.live.restart_at.get(&container.name).map(|wait| wait.at);
    if may_start(input, plan, &container.name, restart) {
        plan.actions.push(Action::StartContainer { name: container.name.clone(), attempt });
    }
}

fn may_start(input: &Input<'_>, plan: &mut Plan, name: &str, restart_at: Option<Timestamp>) -> bool {
    let retry_at = input.live.waiting.get(name).and_then(|w| w.retry_at);
    let until = restart_at.into_iter().chain(retry_at).max();
    match until {
        Some(until) if input.now < until => {
            plan.wake(until);
            false
        }
        _ => !input.live.in_flight.contains(&EffectKey::Kill(name.to_owned())),
    }
}

/// Containers start in the order of the spec, each after the one before has started.
fn one_start_at_a_time(input: &Input<'_>, plan: &mut Plan) {
    let mut busy = input.live.in_flight.iter().any(|key| matches!(key, EffectKey::Start(_)));
    plan.actions.retain(|action| match action {
        Action::StartContainer { .. } if busy => false,
        Action::StartContainer { .. } => {
            busy = true;
            true
        }
        _ => true,
    });
}

fn container_record<'a>(input: &Input<'a>, name: &str) -> Option<&'a ContainerRecord> {
    input.record.containers.get(name)
}

/// An ephemeral container seen as a normal one.
pub fn ephemeral_as_container(container: &EphemeralContainer) -> Container {
    let mut value = serde_json::to_value(container).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.remove("targetContainerName");
    }
    serde_json::from_value(value).unwrap_or_default()
}

/// The named container of a spec, of whichever kind.
pub fn find_container(spec: &PodSpec, name: &str) -> Option<Container> {
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .find(|c| c.name == name)
        .cloned()
        .or_else(|| spec.ephemeral_containers.iter().flatten().find(|c| c.name == name).map(ephemeral_as_container))
}

#[cfg(test)]
#[path = "pod_actions_tests.rs"]
mod tests;
