//! Cases of the status.

use super::*;
use crate::kubelet::observed::{PodFailure, Probed, RestartWait, SandboxRecord, Waiting};
use serde_json::{Value, json};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

struct Case {
    pod: Value,
    record: PodRecord,
    live: Live,
}

impl Case {
    fn new(spec: Value) -> Self {
        let sandbox = SandboxRecord { id: "s".into(), ips: vec!["10.244.0.3".into()], ready: true, created_at: None };
        Self {
            pod: json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 2}, "spec": spec}),
            record: PodRecord { start_time: Some(at(0)), volumes_ready: true, sandbox: Some(sandbox), ..PodRecord::default() },
            live: Live::default(),
        }
    }

    fn running(mut self, name: &str, ready: bool) -> Self {
        let attempt = Attempt { id: format!("{name}-id"), sandbox_id: "s".into(), started_at: Some(at(0)), ..Attempt::default() };
        self.record.containers.entry(name.into()).or_default().begin(attempt);
        self.live.probed.insert(name.into(), Probed { started: true, ready });
        self
    }

    fn exited(mut self, name: &str, code: i32) -> Self {
        self = self.running(name, true);
        let reason = if code == 0 { "Completed" } else { "Error" };
        let current = self.record.containers.get_mut(name).unwrap().current.as_mut().unwrap();
        current.finished = Some(Finished { id: format!("{name}-id"), exit_code: code, reason: reason.into(), ..Finished::default() });
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn status(&self) -> PodStatus {
        let pod: Pod = serde_json::from_value(self.pod.clone()).unwrap();
        compute(&Input { pod: &pod, record: &self.record, live: &self.live, host_ips: &["10.0.0.1".to_owned()], now: at(9) })
    }

    fn phase(&self, expected: &str) {
        assert_eq!(self.status().phase.as_deref(), Some(expected));
    }

    fn condition(&self, kind: &str) -> (String, Option<String>, Option<String>) {
        let found = self.status().conditions.unwrap().into_iter().find(|c| c.type_ == kind).unwrap();
        (found.status, found.reason, found.message)
    }
}

fn no(reason: &str, message: &str) -> (String, Option<String>, Option<String>) {
    ("False".into(), Some(reason.into()), (!message.is_empty()).then(|| message.into()))
}

fn yes() -> (String, Option<String>, Option<String>) {
    ("True".into(), None, None)
}

fn one(policy: &str) -> Value {
    json!({"containers": [{"name": "a", "image": "img"}], "restartPolicy": policy})
}

#[test]
fn phases_of_a_pod_with_one_container() {
    Case::new(one("Always")).phase("Pending");
    Case::new(one("Always")).running("a", true).phase("Running");
    Case::new(one("Always")).exited("a", 0).phase("Running");
    Case::new(one("Always")).exited("a", 1).phase("Running");
    Case::new(one("OnFailure")).exited("a", 0).phase("Succeeded");
    Case::new(one("OnFailure")).exited("a", 1).phase("Running");
    Case::new(one("Never")).exited("a", 0).phase("Succeeded");
    Case::new(one("Never")).exited("a", 1).phase("Failed");
}

#[test]
fn phases_with_init_containers_and_sidecars() {
    let spec = |policy: &str| json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}], "restartPolicy": policy});
    Case::new(spec("Always")).running("i", true).phase("Pending");
    Case::new(spec("Always")).exited("i", 1).phase("Pending");
    Case::new(spec("Never")).exited("i", 1).phase("Failed");
    Case::new(spec("Never")).exited("i", 0).phase("Pending");
    Case::new(spec("Never")).exited("i", 0).running("a", true).phase("Running");
    let side =
        json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}], "restartPolicy": "Never"});
    Case::new(side.clone()).running("s", true).exited("a", 0).phase("Running");
    Case::new(side.clone()).exited("s", 137).exited("a", 0).phase("Succeeded");
    Case::new(side).exited("s", 137).exited("a", 2).phase("Failed");
}

#[test]
fn an_ended_pod_stays_ended() {
    Case::new(one("Always")).with(|c| c.pod["status"] = json!({"phase": "Failed"})).running("a", true).phase("Failed");
}

#[test]
fn a_deleted_pod_whose_containers_ended_is_over() {
    let deleted = |c: &mut Case| c.pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    Case::new(one("Always")).exited("a", 0).with(deleted).phase("Succeeded");
    Case::new(one("Always")).exited("a", 137).with(deleted).phase("Failed");
    Case::new(one("Always")).running("a", true).with(deleted).phase("Running");
}

#[test]
fn conditions_of_a_pod_on_its_way() {
    let case =
        Case::new(json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}, {"name": "b"}]})).exited("i", 0);
    assert_eq!(case.condition("Initialized"), no("ContainersNotInitialized", "containers with incomplete status: [j]"));
    assert_eq!(case.condition("Ready"), no("ContainersNotReady", "containers with unready status: [a b]"));
    assert_eq!(case.condition("PodScheduled"), yes());
    assert_eq!(case.condition("PodReadyToStartContainers"), yes());
    let case = case.exited("j", 0).running("a", true).running("b", false);
    assert_eq!(case.condition("Initialized"), yes());
    assert_eq!(case.condition("ContainersReady"), no("ContainersNotReady", "containers with unready status: [b]"));
    let case = case.running("b", true);
    assert_eq!((case.condition("Ready"), case.condition("ContainersReady")), (yes(), yes()));
    let types: Vec<String> = case.status().conditions.unwrap().into_iter().map(|c| c.type_).collect();
    assert_eq!(types, ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]);
}

#[test]
fn conditions_of_ended_pods_say_so() {
    let done = Case::new(one("Never")).exited("a", 0);
    assert_eq!(done.condition("Ready"), no("PodCompleted", ""));
    assert_eq!(done.condition("Initialized").1.as_deref(), Some("PodCompleted"));
    assert_eq!(Case::new(one("Never")).exited("a", 1).condition("ContainersReady"), no("PodFailed", ""));
}

#[test]
fn readiness_gates_hold_back_ready_only() {
    let spec = json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x/y"}]});
    let case = Case::new(spec).running("a", true);
    assert_eq!(case.condition("ContainersReady"), yes());
    assert_eq!(
        case.condition("Ready"),
        no("ReadinessGatesNotReady", "corresponding condition of pod readiness gate \"x/y\" does not exist.")
    );
    let gate = |status: &'static str| move |c: &mut Case| c.pod["status"] = json!({"conditions": [{"type": "x/y", "status": status}]});
    let case = case.with(gate("False"));
    assert_eq!(
        case.condition("Ready"),
        no("ReadinessGatesNotReady", "the status of pod readiness gate \"x/y\" is not \"True\", but False")
    );
    let case = case.with(gate("True"));
    assert_eq!((case.condition("Ready"), case.condition("x/y").0), (yes(), "True".to_owned()));
}

#[test]
fn a_transition_time_changes_only_with_the_status() {
    let case = Case::new(one("Always")).running("a", true).with(|c| {
        c.pod["status"] = json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            {"type": "ContainersReady", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"}]});
    });
    let conditions = case.status().conditions.unwrap();
    let since = |kind: &str| conditions.iter().find(|c| c.type_ == kind).unwrap().last_transition_time.clone().unwrap().0;
    assert_eq!(since("Ready").to_string(), "2020-01-01T00:00:00Z");
    assert_eq!(since("ContainersReady"), at(9));
}

#[test]
fn waiting_containers_say_why() {
    let state = |case: &Case| case.status().container_statuses.unwrap()[0].state.clone().unwrap();
    let reason = |case: &Case| state(case).waiting.unwrap().reason.unwrap();
    assert_eq!(reason(&Case::new(one("Always"))), "ContainerCreating");
    assert_eq!(reason(&Case::new(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}))), "PodInitializing");
    let pull = Waiting { reason: "ErrImagePull".into(), message: "no".into(), retry_at: None };
    let case = Case::new(one("Always")).with(|c| drop(c.live.waiting.insert("a".into(), pull)));
    assert_eq!((reason(&case), state(&case).waiting.unwrap().message), ("ErrImagePull".into(), Some("no".into())));
}

#[test]
fn a_crash_loop_shows_the_last_run() {
    let wait = RestartWait { at: at(20), length: jiff::SignedDuration::from_secs(20) };
    let case = Case::new(one("Always")).exited("a", 1).exited("a", 3).with(|c| c.live.restart_at.extend([("a".into(), wait)]));
    let status = case.status().container_statuses.unwrap().remove(0);
    let waiting = status.state.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(waiting.message.as_deref(), Some("back-off 20s restarting failed container=a pod=p_n(u)"));
    assert_eq!((status.restart_count, status.last_state.unwrap().terminated.unwrap().exit_code), (1, 3));
    case.phase("Running");
}

#[test]
fn a_restarted_container_shows_both_runs() {
    let status = Case::new(one("Always")).exited("a", 1).running("a", true).status().container_statuses.unwrap().remove(0);
    assert!(status.state.unwrap().running.is_some() && status.ready && status.started == Some(true));
    assert_eq!((status.restart_count, status.last_state.unwrap().terminated.unwrap().exit_code), (1, 1));
    assert_eq!(status.container_id.as_deref(), Some("trierarch://a-id"));
}

#[test]
fn addresses_and_generation() {
    let status = Case::new(one("Always")).running("a", true).status();
    assert_eq!(
        (status.pod_ip.as_deref(), status.host_ip.as_deref(), status.observed_generation),
        (Some("10.244.0.3"), Some("10.0.0.1"), Some(2))
    );
    let host = Case::new(json!({"hostNetwork": true, "containers": [{"name": "a"}]})).status();
    assert_eq!(host.pod_ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
}

#[test]
fn a_failure_of_the_agents_making_ends_the_pod_once_nothing_runs() {
    let failure = PodFailure {
        reason: "Evicted".into(),
        message: "The node was low on resource: memory.".into(),
        disruption: true,
        ..PodFailure::default()
    };
    let case = |c: Case| c.with(|c| c.record.failure = Some(failure.clone()));
    case(Case::new(one("Always")).running("a", true)).phase("Running");
    case(Case::new(one("Always")).exited("a", 0)).phase("Failed");
    let gone = case(Case::new(one("Always")).exited("a", 137));
    gone.phase("Failed");
    assert_eq!(gone.status().reason.as_deref(), Some("Evicted"));
    assert_eq!(gone.condition("DisruptionTarget").1.as_deref(), Some("TerminationByKubelet"));
}

#[test]
fn only_news_is_urgent() {
    let creating = Case::new(one("Always"));
    let bare = PodStatus { phase: Some("Pending".into()), ..PodStatus::default() };
    assert!(!is_urgent(Some(&bare), &creating.status()), "a pod that is being made is no news");
    let running = Case::new(one("Always")).running("a", false).status();
    assert!(is_urgent(Some(&creating.status()), &running));
    assert!(!is_urgent(Some(&running), &running));
    assert!(is_urgent(Some(&running), &Case::new(one("Always")).running("a", true).status()));
    assert!(is_urgent(Some(&running), &Case::new(one("Always")).exited("a", 1).status()));
    let waiting = Waiting { reason: "ErrImagePull".into(), message: String::new(), retry_at: None };
    let failing = Case::new(one("Always")).with(|c| c.live.waiting.extend([("a".into(), waiting)]));
    assert!(is_urgent(Some(&creating.status()), &failing.status()));
}

#[test]
fn a_pod_that_the_node_refuses_has_no_containers() {
    let failure =
        PodFailure { reason: "SysctlForbidden".into(), message: "forbidden sysctl".into(), rejected: true, ..PodFailure::default() };
    let status = Case::new(one("Always")).with(|c| c.record.failure = Some(failure)).status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("SysctlForbidden")));
    assert_eq!(status.message.as_deref(), Some("Pod was rejected: forbidden sysctl"));
    assert_eq!((status.container_statuses, status.observed_generation), (None, Some(2)));
}
