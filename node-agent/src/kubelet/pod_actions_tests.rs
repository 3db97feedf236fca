//! Cases of the pod decision.

use super::*;
use crate::kubelet::observed::{Attempt, Finished, Probed, RestartWait, SandboxRecord, Waiting};
use serde_json::{Value, json};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

struct Case {
    pod: Value,
    record: PodRecord,
    live: Live,
    vanished: bool,
    now: Timestamp,
}

impl Case {
    fn new(spec: Value) -> Self {
        let record = PodRecord {
            start_time: Some(at(0)),
            volumes_ready: true,
            sandbox: Some(SandboxRecord { id: "s".into(), ready: true, ..SandboxRecord::default() }),
            sandbox_attempts: 1,
            ..PodRecord::default()
        };
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec});
        Self { pod, record, live: Live::default(), vanished: false, now: at(1) }
    }

    fn running(mut self, name: &str) -> Self {
        let attempt = Attempt { id: format!("{name}-id"), sandbox_id: "s".into(), started_at: Some(at(0)), ..Attempt::default() };
        self.record.containers.entry(name.into()).or_default().begin(attempt);
        self.live.probed.insert(name.into(), Probed { started: true, ready: true });
        self
    }

    fn exited(mut self, name: &str, code: i32) -> Self {
        self = self.running(name);
        let current = self.record.containers.get_mut(name).unwrap().current.as_mut().unwrap();
        current.finished = Some(Finished { exit_code: code, ..Finished::default() });
        self
    }

    fn deleted(mut self, grace: i64) -> Self {
        self.pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        self.pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn plan(&self) -> Plan {
        let pod: Pod = serde_json::from_value(self.pod.clone()).unwrap();
        decide(&Input { pod: &pod, record: &self.record, live: &self.live, vanished: self.vanished, now: self.now })
    }

    fn check(&self, expected: &[&str]) {
        let short: Vec<String> = self
            .plan()
            .actions
            .iter()
            .map(|a| match a {
                Action::StartContainer { name, attempt } => format!("start {name} {attempt}"),
                Action::KillContainer { name, grace_seconds, .. } => format!("kill {name} {grace_seconds}"),
                Action::ResizeContainer { name, .. } => format!("resize {name}"),
                Action::SetUpVolumes => "volumes".into(),
                Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
                Action::StopSandbox { .. } => "stop sandbox".into(),
                Action::Fail(f) => format!("fail {}", f.reason),
                Action::CleanUp => "clean up".into(),
                Action::DeleteObject => "delete".into(),
            })
            .collect();
        assert_eq!(short, expected);
    }
}

fn two() -> Value {
    json!({"containers": [{"name": "a"}, {"name": "b"}], "terminationGracePeriodSeconds": 7})
}

#[test]
fn a_new_pod_gets_volumes_and_a_sandbox_then_its_containers_in_order() {
    let bare = || Case::new(two()).with(|c| c.record = PodRecord { start_time: Some(at(0)), ..PodRecord::default() });
    bare().check(&["volumes", "sandbox 0"]);
    bare().with(|c| c.live.in_flight = [EffectKey::Volumes, EffectKey::Sandbox].into()).check(&[]);
    bare().with(|c| c.record.volumes_ready = true).check(&["sandbox 0"]);
    Case::new(two()).with(|c| c.record.volumes_ready = false).check(&["volumes"]);
    Case::new(two()).check(&["start a 0"]);
    Case::new(two()).with(|c| c.live.in_flight = [EffectKey::Start("a".into())].into()).check(&[]);
    Case::new(two()).running("a").check(&["start b 0"]);
    Case::new(two()).running("a").running("b").check(&[]);
}

#[test]
fn a_container_that_cannot_start_does_not_hold_up_the_next() {
    let waiting = Waiting { reason: "ErrImagePull".into(), message: String::new(), retry_at: Some(at(10)) };
    let case = Case::new(two()).with(|c| drop(c.live.waiting.insert("a".into(), waiting)));
    case.check(&["start b 0"]);
    assert_eq!(case.plan().wake_at, Some(at(10)));
}

#[test]
fn init_containers_run_one_after_the_other_and_sidecars_stay() {
    let spec =
        json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}], "containers": [{"name": "a"}]});
    let case = || Case::new(spec.clone());
    case().check(&["start i 0"]);
    case().running("i").check(&[]);
    case().exited("i", 1).check(&["start i 1"]);
    case().exited("i", 0).check(&["start s 0"]);
    case().exited("i", 0).running("s").with(|c| c.live.probed.clear()).check(&[]);
    case().exited("i", 0).running("s").check(&["start j 0"]);
    case().exited("i", 0).running("s").exited("j", 0).check(&["start a 0"]);
    case().exited("i", 0).exited("s", 0).exited("j", 0).running("a").check(&["start s 1"]);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}], "restartPolicy": "Never"});
    Case::new(spec.clone()).exited("i", 1).check(&["stop sandbox"]);
    Case::new(spec).exited("i", 1).with(|c| c.record.sandbox = None).check(&[]);
}

#[test]
fn a_pod_that_is_deleted_serves_until_no_client_is_sent_to_it() {
    let serving = || Case::new(two()).running("a").running("b").with(|c| c.live.serves_until = Some(at(3)));
    serving().deleted(7).check(&[]);
    assert_eq!(serving().deleted(7).plan().wake_at, Some(at(3)));
    serving().deleted(7).with(|c| c.now = at(3)).check(&["kill a 7", "kill b 7"]);
    serving().deleted(0).check(&["kill a 0", "kill b 0"]);
    serving().deleted(7).with(|c| c.vanished = true).check(&["kill a 7", "kill b 7"]);
}

#[test]
fn a_pod_that_left_its_services_ends_soon() {
    let pod = |annotations: Value| serde_json::from_value::<Pod>(json!({"metadata": {"annotations": annotations}})).unwrap();
    let (serving, left) = (pod(json!({})), pod(json!({departure::LEFT: "true"})));
    assert_eq!(serves_until(&serving, Some(at(3)), at(1)), Some(at(3)));
    let soon = serves_until(&left, Some(at(3)), at(1));
    assert_eq!(soon, Some(at(1) + UNDER_WAY));
    assert_eq!(serves_until(&left, soon, at(2)), soon, "looking again does not prolong it");
    assert_eq!(serves_until(&left, None, at(1)), None);
}

#[test]
fn a_crashed_container_waits_for_its_back_off() {
    let wait = RestartWait { at: at(20), length: SignedDuration::from_secs(10) };
    let case = Case::new(json!({"containers": [{"name": "a"}]})).exited("a", 1).with(|c| c.live.restart_at.extend([("a".into(), wait)]));
    case.check(&[]);
    assert_eq!(case.plan().wake_at, Some(at(20)));
    case.with(|c| c.now = at(20)).check(&["start a 1"]);
}

#[test]
fn completed_pods_release_their_sandbox() {
    let spec = json!({"containers": [{"name": "a"}], "restartPolicy": "OnFailure"});
    Case::new(spec.clone()).exited("a", 0).check(&["stop sandbox"]);
    Case::new(spec.clone()).exited("a", 0).with(|c| c.record.sandbox = None).check(&[]);
    Case::new(spec).exited("a", 2).check(&["start a 1"]);
}

#[test]
fn sidecars_end_after_the_containers_they_serve_in_reverse() {
    let spec = json!({"initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}], "restartPolicy": "Never"});
    let case = || Case::new(spec.clone()).running("s1").running("s2");
    case().running("a").check(&[]);
    case().exited("a", 0).check(&["kill s2 30"]);
    case().exited("a", 0).exited("s2", 0).check(&["kill s1 30"]);
    case().running("a").deleted(4).check(&["kill a 4"]);
}

#[test]
fn a_deleted_pod_goes_step_by_step() {
    Case::new(two()).running("a").running("b").deleted(5).check(&["kill a 5", "kill b 5"]);
    Case::new(two()).running("a").exited("b", 0).deleted(5).check(&["kill a 5"]);
    Case::new(two()).exited("a", 0).exited("b", 0).deleted(5).check(&["stop sandbox"]);
    let done = || Case::new(two()).exited("a", 0).exited("b", 0).deleted(5).with(|c| c.record.sandbox = None);
    done().check(&["clean up"]);
    done().with(|c| c.live.cleaned = true).check(&["delete"]);
    done().with(|c| c.live.cleaned = true).with(|c| c.vanished = true).check(&[]);
    done().with(|c| c.live.cleaned = true).with(|c| c.live.in_flight = [EffectKey::DeleteObject].into()).check(&[]);
}

#[test]
fn deletion_waits_for_a_start_that_is_in_flight() {
    let starting = |c: &mut Case| c.live.in_flight = [EffectKey::Start("a".into())].into();
    Case::new(two()).deleted(5).with(starting).check(&[]);
}

#[test]
fn a_vanished_pod_ends_like_a_deleted_one() {
    Case::new(two()).running("a").with(|c| c.vanished = true).check(&["kill a 7"]);
}

#[test]
fn the_active_deadline_fails_the_pod() {
    let spec = json!({"containers": [{"name": "a"}], "activeDeadlineSeconds": 5});
    let case = Case::new(spec).running("a");
    assert_eq!(case.plan().wake_at, Some(at(5)));
    let late = case.with(|c| c.now = at(5));
    late.check(&["fail DeadlineExceeded"]);
    late.with(|c| c.record.failure = Some(PodFailure::default())).check(&["kill a 30"]);
}

#[test]
fn a_condemned_container_is_killed_with_the_probes_grace() {
    let spec = json!({"containers": [{"name": "a", "livenessProbe": {"terminationGracePeriodSeconds": 3}}]});
    Case::new(spec).running("a").with(|c| drop(c.live.condemned.insert("a".into(), "m".into()))).check(&["kill a 3"]);
}

#[test]
fn a_lost_sandbox_is_replaced_and_initialisation_runs_again() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let lost = || Case::new(spec.clone()).exited("i", 0).exited("a", 255);
    lost().with(|c| c.record.sandbox.as_mut().unwrap().ready = false).check(&["stop sandbox"]);
    lost().with(|c| c.record.sandbox = None).check(&["sandbox 1"]);
    lost().with(|c| c.record.sandbox.as_mut().unwrap().id = "new".into()).check(&["start i 1"]);
}

#[test]
fn ephemeral_containers_start_once() {
    let spec = json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]});
    Case::new(spec.clone()).running("a").check(&["start e 0"]);
    Case::new(spec).running("a").exited("e", 1).check(&[]);
}

#[test]
fn changed_resources_are_applied_in_place() {
    let spec = json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "2"}}}]});
    let with = |cpu: &str| {
        let resources = json!({"limits": {"cpu": cpu}});
        Case::new(spec.clone())
            .running("a")
            .with(|c| c.record.containers.get_mut("a").unwrap().current.as_mut().unwrap().resources = Some(resources))
    };
    with("1").check(&["resize a"]);
    with("2000m").check(&[]);
}

#[test]
fn other_resources_are_set_in_place_or_by_a_restart() {
    let spec = |policy: &str| {
        json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "a", "resources": {"limits": {"cpu": "2", "memory": "64Mi"}},
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": policy}]}]})
    };
    let case = |policy: &str, in_force: Value| {
        Case::new(spec(policy))
            .running("a")
            .with(|c| c.record.containers.get_mut("a").unwrap().current.as_mut().unwrap().resources = Some(in_force))
    };
    let same = || json!({"limits": {"cpu": "2000m", "memory": "64Mi"}});
    case("RestartContainer", same()).check(&[]);
    case("NotRequired", json!({"limits": {"cpu": "2", "memory": "32Mi"}})).check(&["resize a"]);
    case("RestartContainer", json!({"limits": {"cpu": "1", "memory": "64Mi"}})).check(&["resize a"]);
    case("RestartContainer", json!({"limits": {"cpu": "2", "memory": "32Mi"}})).check(&["kill a 7"]);
}
