//! A pod's whole `status`, computed from what the agent knows; never a patch.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser,
    HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodSpec, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff;
use super::observed::{Attempt, ContainerRecord, EffectKey, Finished, Live, PodFailure, PodRecord};
use super::pod_actions::ephemeral_as_container;
use super::qos;
use super::restart::{init_restarts, is_sidecar, restarts};

/// What the status is computed from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The pod as the API server has it, its old status included.
    pub pod: &'a Pod,
    /// What happened so far.
    pub record: &'a PodRecord,
    /// What is going on.
    pub live: &'a Live,
    /// The node's addresses, first the primary one.
    pub host_ips: &'a [String],
    /// The time.
    pub now: Timestamp,
}

/// The whole status.
pub fn compute(input: &Input<'_>) -> PodStatus {
    let old = input.pod.status.clone().unwrap_or_default();
    let Some(spec) = &input.pod.spec else { return old };
    if let Some(failure) = input.record.failure.as_ref().filter(|failure| failure.rejected) {
        return rejected(failure, old, input);
    }
    let init: Vec<Container> = spec.init_containers.clone().unwrap_or_default();
    let ephemeral: Vec<Container> = spec.ephemeral_containers.iter().flatten().map(ephemeral_as_container).collect();
    let has_init = !init.is_empty();
    let init_statuses: Vec<ContainerStatus> = init.iter().map(|c| container_status(spec, c, Role::Init, has_init, input)).collect();
    let statuses: Vec<ContainerStatus> = spec.containers.iter().map(|c| container_status(spec, c, Role::Normal, has_init, input)).collect();
    let ephemeral_statuses: Vec<ContainerStatus> =
        ephemeral.iter().map(|c| container_status(spec, c, Role::Ephemeral, false, input)).collect();

    let mut phase = phase(spec, &init_statuses, &statuses, ended(input));
    // Whatever its containers said at their end: the agent ended the pod, so it failed.
    if input.record.failure.is_some() && no_process(input) {
        phase = "Failed";
    }
    if let Some(old_phase @ ("Succeeded" | "Failed")) = old.phase.as_deref() {
        // A pod that has ended never lives again.
        phase = if old_phase == "Succeeded" { "Succeeded" } else { "Failed" };
    }
    let generation = input.pod.metadata.generation;
    let conditions = conditions(spec, phase, &init_statuses, &statuses, &old, generation, input);
    let host_network = spec.host_network == Some(true);
    let sandbox_ips = input.record.sandbox.as_ref().map(|s| s.ips.clone()).unwrap_or_default();
    let pod_ips: Vec<String> = if host_network && input.record.start_time.is_some() {
        input.host_ips.to_vec()
    } else if sandbox_ips.is_empty() {
        // Ended pods keep the address they had.
        old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
    } else {
        sandbox_ips
    };
    let some = |list: Vec<ContainerStatus>| if list.is_empty() { None } else { Some(list) };
    let host_known = input.record.start_time.is_some();
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: input.record.failure.as_ref().map(|f| f.reason.clone()).or(old.reason),
        message: input.record.failure.as_ref().map(|f| f.message.clone()).or(old.message),
        conditions: Some(conditions),
        host_ip: input.host_ips.first().filter(|_| host_known).cloned(),
        host_ips: host_known.then(|| input.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: input.record.start_time.map(Time).or(old.start_time),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| qos::of_pod(input.pod).as_str().to_owned())),
        init_container_statuses: some(init_statuses),
        container_statuses: some(statuses),
        ephemeral_container_statuses: some(ephemeral_statuses),
        observed_generation: generation,
        nominated_node_name: None,
        resize: None,
        ..old
    }
}

/// The status of a pod that the node does not take: nothing of it was ever made.
fn rejected(failure: &PodFailure, old: PodStatus, input: &Input<'_>) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(failure.reason.clone()),
        message: Some(format!("Pod was rejected: {}", failure.message)),
        start_time: input.record.start_time.map(Time).or(old.start_time),
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| qos::of_pod(input.pod).as_str().to_owned())),
        observed_generation: input.pod.metadata.generation,
        ..old
    }
}

/// Whether somebody may wait for what `new` says: a phase, a readiness, or a container that began, ended or can't start.
pub fn is_urgent(old: Option<&PodStatus>, new: &PodStatus) -> bool {
    let ready = |status: &PodStatus| status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let states = |status: &PodStatus| -> Vec<String> {
        let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
        lists.into_iter().flatten().flatten().filter_map(news).collect()
    };
    match old {
        Some(old) => old.phase != new.phase || ready(old) != ready(new) || states(old) != states(new),
        None => true,
    }
}

/// What is to be told about a container; nothing while it is only being made.
fn news(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    let text = if state.running.is_some() {
        format!("running, ready: {}", status.ready)
    } else if let Some(ended) = &state.terminated {
        format!("ended: {}", ended.exit_code)
    } else {
        state.waiting.as_ref()?.reason.clone().filter(|reason| !matches!(reason.as_str(), "ContainerCreating" | "PodInitializing"))?
    };
    Some(format!("{} {} {text}", status.name, status.restart_count))
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Init,
    Normal,
    Ephemeral,
}

/// The agent starts nothing any more.
fn ended(input: &Input<'_>) -> bool {
    input.record.failure.is_some() || input.pod.metadata.deletion_timestamp.is_some()
}

/// Nothing runs or is being started.
fn no_process(input: &Input<'_>) -> bool {
    !input.record.containers.values().any(ContainerRecord::is_running)
        && !input.live.in_flight.iter().any(|k| matches!(k, EffectKey::Start(_)))
}

fn container_status(spec: &PodSpec, container: &Container, role: Role, has_init: bool, input: &Input<'_>) -> ContainerStatus {
    let empty = ContainerRecord::default();
    let record = input.record.containers.get(&container.name).unwrap_or(&empty);
    let current = record.current.as_ref();
    let waiting = input.live.waiting.get(&container.name);
    let state = state_of(spec, container, role, has_init, record, input);
    let running = state.running.is_some();
    let probed = input.live.probed.get(&container.name);
    let started = running && probed.is_some_and(|p| p.started);
    let plain_init = role == Role::Init && !is_sidecar(container);
    let ready = if plain_init {
        state.terminated.as_ref().is_some_and(|t| t.exit_code == 0)
    } else {
        started && probed.is_some_and(|p| p.ready) && role != Role::Ephemeral
    };
    // What is shown as waiting although a run ended before, shows that run as the last one.
    let shown_as_waiting = state.waiting.is_some();
    let last = match current {
        Some(attempt) if shown_as_waiting => attempt.finished.as_ref().or(record.last.as_ref()),
        _ => record.last.as_ref(),
    };
    let shown = |attempt: &&Attempt| !(attempt.id.is_empty() || (waiting.is_some() && shown_as_waiting && attempt.finished.is_none()));
    let attempt = current.filter(shown);
    let resources = attempt
        .and_then(|a| a.resources.clone())
        .and_then(|r| serde_json::from_value::<k8s_openapi::api::core::v1::ResourceRequirements>(r).ok());
    ContainerStatus {
        name: container.name.clone(),
        image: attempt.map(|a| a.image.clone()).filter(|i| !i.is_empty()).unwrap_or_else(|| container.image.clone().unwrap_or_default()),
        image_id: attempt.map(|a| a.image_id.clone()).unwrap_or_default(),
        container_id: attempt.map(|a| container_id(&a.id)),
        ready,
        started: Some(if plain_init { running } else { started }),
        restart_count: record.restart_count,
        last_state: last.map(|finished| ContainerState { terminated: Some(terminated(finished)), ..ContainerState::default() }),
        volume_mounts: mounts(container),
        user: attempt.filter(|_| running).and_then(user),
        allocated_resources: resources.as_ref().filter(|_| running).and_then(|r| r.requests.clone()).filter(|r| !r.is_empty()),
        resources: resources.filter(|_| running),
        stop_signal: attempt.and_then(|a| a.stop_signal.clone()),
        state: Some(state),
        allocated_resources_status: None,
    }
}

fn state_of(
    spec: &PodSpec,
    container: &Container,
    role: Role,
    has_init: bool,
    record: &ContainerRecord,
    input: &Input<'_>,
) -> ContainerState {
    if let Some(attempt) = &record.current {
        if attempt.is_running() {
            let running = ContainerStateRunning { started_at: attempt.started_at.map(Time) };
            return ContainerState { running: Some(running), ..ContainerState::default() };
        }
        if let Some(finished) = &attempt.finished {
            let again = !ended(input)
                && match role {
                    Role::Ephemeral => false,
                    Role::Init if is_sidecar(container) => true,
                    Role::Init => init_restarts(spec, container, finished.exit_code),
                    Role::Normal => restarts(spec, container, finished.exit_code),
                };
            let why = if again { waiting_to_restart(container, input) } else { None };
            return match why {
                Some(why) => waiting_state(&why.0, why.1),
                None => ContainerState { terminated: Some(terminated(finished)), ..ContainerState::default() },
            };
        }
    }
    if let Some(waiting) = input.live.waiting.get(&container.name) {
        return waiting_state(&waiting.reason, Some(waiting.message.clone()));
    }
    let reason = if has_init { "PodInitializing" } else { "ContainerCreating" };
    waiting_state(reason, None)
}

fn waiting_to_restart(container: &Container, input: &Input<'_>) -> Option<(String, Option<String>)> {
    if let Some(wait) = input.live.restart_at.get(&container.name).filter(|wait| input.now < wait.at) {
        let meta = &input.pod.metadata;
        let message = format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            backoff::print(wait.length),
            container.name,
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.uid.as_deref().unwrap_or_default()
        );
        return Some(("CrashLoopBackOff".to_owned(), Some(message)));
    }
    input.live.waiting.get(&container.name).map(|w| (w.reason.clone(), Some(w.message.clone())))
}

fn waiting_state(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message: message.filter(|m| !m.is_empty()) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(finished: &Finished) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: (!finished.id.is_empty()).then(|| container_id(&finished.id)),
        exit_code: finished.exit_code,
        signal: None,
        reason: Some(finished.reason.clone()),
        message: (!finished.message.is_empty()).then(|| finished.message.clone()),
        started_at: Some(Time(finished.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: Some(Time(finished.finished_at.unwrap_or(Timestamp::UNIX_EPOCH))),
    }
}

/// A container's id as the API shows it.
pub fn container_id(id: &str) -> String {
    format!("trierarch://{id}")
}

fn user(attempt: &Attempt) -> Option<ContainerUser> {
    let (uid, gid, groups) = attempt.user.clone()?;
    let groups = if groups.is_empty() { None } else { Some(groups) };
    Some(ContainerUser { linux: Some(LinuxContainerUser { uid, gid, supplemental_groups: groups }) })
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let list: Vec<VolumeMountStatus> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| {
            let read_only = mount.read_only == Some(true);
            let recursive = match mount.recursive_read_only.as_deref() {
                Some("Enabled" | "IfPossible") => "Enabled",
                _ => "Disabled",
            };
            VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: read_only.then(|| recursive.to_owned()),
                ..VolumeMountStatus::default()
            }
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

/// The phase of a pod (`Spec:` core/v1 PodStatus `phase`). `over`: the agent starts nothing any more.
pub fn phase(spec: &PodSpec, init: &[ContainerStatus], normal: &[ContainerStatus], over: bool) -> &'static str {
    let exit = |state: Option<&ContainerState>| state.and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    let mut pending_init = false;
    for (container, status) in spec.init_containers.iter().flatten().zip(init) {
        let state = status.state.as_ref();
        if is_sidecar(container) {
            pending_init |= status.started != Some(true) && exit(state).is_none() && exit(status.last_state.as_ref()).is_none();
            continue;
        }
        match exit(state) {
            Some(0) => {}
            Some(code) if !init_restarts(spec, container, code) => return "Failed",
            _ => pending_init = true,
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded, mut again) = (0, 0, 0, 0, false);
    for (container, status) in spec.containers.iter().zip(normal) {
        let state = status.state.as_ref();
        let ended = exit(state).or_else(|| state.filter(|s| s.waiting.is_some()).and(exit(status.last_state.as_ref())));
        if state.is_some_and(|s| s.running.is_some()) {
            running += 1;
        } else if let Some(code) = ended {
            stopped += 1;
            succeeded += i32::from(code == 0);
            again |= restarts(spec, container, code);
        } else {
            waiting += 1;
        }
    }
    if pending_init && !(over && running + stopped > 0) {
        return "Pending";
    }
    if waiting > 0 {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    // Sidecars still run: the pod has not ended yet.
    let sidecar_runs = spec
        .init_containers
        .iter()
        .flatten()
        .zip(init)
        .any(|(c, s)| is_sidecar(c) && s.state.as_ref().is_some_and(|s| s.running.is_some()));
    if stopped > 0 {
        return match () {
            () if again && !over => "Running",
            () if sidecar_runs => "Running",
            () if stopped == succeeded => "Succeeded",
            () => "Failed",
        };
    }
    "Pending"
}

struct Draft {
    kind: &'static str,
    status: bool,
    reason: Option<String>,
    message: Option<String>,
}

impl Draft {
    fn yes(kind: &'static str) -> Self {
        Self { kind, status: true, reason: None, message: None }
    }

    fn no(kind: &'static str, reason: &str, message: impl Into<Option<String>>) -> Self {
        Self { kind, status: false, reason: Some(reason.to_owned()), message: message.into() }
    }
}

fn conditions(
    spec: &PodSpec,
    phase: &str,
    init: &[ContainerStatus],
    normal: &[ContainerStatus],
    old: &PodStatus,
    generation: Option<i64>,
    input: &Input<'_>,
) -> Vec<PodCondition> {
    let containers_ready = containers_ready(spec, phase, init, normal);
    let ready = ready(spec, &containers_ready, old);
    let sandbox_ready = input.record.sandbox.as_ref().is_some_and(|s| s.ready);
    let mut drafts = vec![
        Draft { status: sandbox_ready, ..Draft::yes("PodReadyToStartContainers") },
        initialized(spec, phase, init, normal),
        ready,
        containers_ready,
        Draft::yes("PodScheduled"),
    ];
    if let Some(failure) = input.record.failure.as_ref().filter(|f| f.disruption) {
        drafts.push(Draft {
            kind: "DisruptionTarget",
            status: true,
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(failure.message.clone()),
        });
    }
    let mut previous: BTreeMap<&str, &PodCondition> = old.conditions.iter().flatten().map(|c| (c.type_.as_str(), c)).collect();
    let mut out: Vec<PodCondition> = drafts
        .into_iter()
        .map(|draft| {
            let status = if draft.status { "True" } else { "False" };
            let before = previous.remove(draft.kind);
            let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(input.now));
            PodCondition {
                type_: draft.kind.to_owned(),
                status: status.to_owned(),
                reason: draft.reason,
                message: draft.message,
                last_transition_time: Some(since),
                last_probe_time: None,
                observed_generation: generation,
            }
        })
        .collect();
    // Conditions of other writers (readiness gates, the scheduler, disruption) stay as they are.
    out.extend(old.conditions.iter().flatten().filter(|c| previous.contains_key(c.type_.as_str())).cloned());
    out
}

fn initialized(spec: &PodSpec, phase: &str, init: &[ContainerStatus], normal: &[ContainerStatus]) -> Draft {
    if phase == "Succeeded" {
        return Draft { reason: Some("PodCompleted".to_owned()), ..Draft::yes("Initialized") };
    }
    // Once a normal container ran, initialisation is over, whatever sidecars do later.
    let ran = normal.iter().any(|s| s.container_id.is_some());
    let missing: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .zip(init)
        .filter(|(container, status)| !ran && if is_sidecar(container) { status.started != Some(true) } else { !status.ready })
        .map(|(container, _)| container.name.as_str())
        .collect();
    if missing.is_empty() {
        return Draft::yes("Initialized");
    }
    Draft::no("Initialized", "ContainersNotInitialized", format!("containers with incomplete status: {}", list(&missing)))
}

fn containers_ready(spec: &PodSpec, phase: &str, init: &[ContainerStatus], normal: &[ContainerStatus]) -> Draft {
    match phase {
        "Succeeded" => return Draft::no("ContainersReady", "PodCompleted", None),
        "Failed" => return Draft::no("ContainersReady", "PodFailed", None),
        _ => {}
    }
    let sidecars = spec.init_containers.iter().flatten().zip(init).filter(|(c, _)| is_sidecar(c)).map(|(_, s)| s);
    let unready: Vec<&str> = sidecars.chain(normal).filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return Draft::yes("ContainersReady");
    }
    Draft::no("ContainersReady", "ContainersNotReady", format!("containers with unready status: {}", list(&unready)))
}

fn ready(spec: &PodSpec, containers: &Draft, old: &PodStatus) -> Draft {
    if !containers.status {
        return Draft { kind: "Ready", status: false, reason: containers.reason.clone(), message: containers.message.clone() };
    }
    let problems: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match old.conditions.iter().flatten().find(|c| &c.type_ == name) {
                None => Some(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
                Some(c) if c.status != "True" => {
                    Some(format!("the status of pod readiness gate {name:?} is not \"True\", but {}", c.status))
                }
                Some(_) => None,
            }
        })
        .collect();
    if problems.is_empty() { Draft::yes("Ready") } else { Draft::no("Ready", "ReadinessGatesNotReady", problems.join(", ")) }
}

fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

#[cfg(test)]
#[path = "pod_status_tests.rs"]
mod tests;
