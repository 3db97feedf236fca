//! What a Deployment's status says.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::plan::Parted;
use super::scale::Wanted;
use super::snapshot::Rollout;
use crate::events::seconds;
use crate::pod_facts::{condition, number, time};

/// "No deadline", as upstream spells it.
const NO_DEADLINE: i64 = i32::MAX as i64;

/// What the decision found out that the status should say.
#[derive(Default)]
pub(super) struct StatusFacts {
    /// The ReplicaSet for the template exists.
    pub(super) found: bool,
    /// It is created by this plan, under this name.
    pub(super) created: Option<String>,
    /// Its revision.
    pub(super) revision: Option<String>,
    /// Another's ReplicaSet has the name that this one needs.
    pub(super) collided: bool,
    /// The rollout stands still.
    pub(super) paused: bool,
    /// Only sizes were looked at: progress is not judged.
    pub(super) syncing_only: bool,
    /// Why the last plan failed.
    pub(super) failure: Option<String>,
}

/// The status, and when to look again because a deadline passes.
pub(super) fn status(
    rollout: &Rollout,
    parted: &Parted<'_>,
    wanted: Wanted,
    facts: &StatusFacts,
    now: Timestamp,
) -> (Value, Option<Duration>) {
    let value = rollout.deployment.value();
    let (spec, before) = (&value["spec"], &value["status"]);
    let mut status = counts(rollout, parted, before, facts);
    let mut conditions = Conditions { list: before["conditions"].as_array().cloned().unwrap_or_default(), now };

    let available = number(&status["availableReplicas"]);
    if available >= wanted.min_available() {
        conditions.set("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.");
    } else {
        conditions.set("Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.");
    }

    let deadline = spec["progressDeadlineSeconds"].as_i64().filter(|seconds| *seconds != NO_DEADLINE);
    match deadline {
        None => conditions.remove("Progressing"),
        Some(deadline) => progress(rollout, parted, wanted, facts, deadline, &mut status, &mut conditions),
    }

    match replica_failure(parted) {
        Some(failure) => {
            let text = |field: &str| failure[field].as_str().unwrap_or_default().to_owned();
            conditions.set("ReplicaFailure", &text("status"), &text("reason"), &text("message"));
        }
        None => conditions.remove("ReplicaFailure"),
    }
    let look_again = deadline.and_then(|deadline| stuck_after(&conditions, deadline, now));
    if !conditions.list.is_empty() {
        status["conditions"] = Value::Array(conditions.list);
    }
    (status, look_again)
}

fn counts(rollout: &Rollout, parted: &Parted<'_>, before: &Value, facts: &StatusFacts) -> Value {
    let sum = |field: &str| parted.all().map(|set| number(&set.value()["status"][field])).sum::<i64>();
    let available = sum("availableReplicas");
    let asked: i64 = parted.all().map(|set| set.replicas).sum();
    let mut status = json!({"observedGeneration": rollout.deployment.generation});
    let mut put = |field: &str, count: i64| {
        if count > 0 {
            status[field] = json!(count);
        }
    };
    put("replicas", sum("replicas"));
    put("updatedReplicas", parted.new.map_or(0, |set| set.actual));
    put("readyReplicas", sum("readyReplicas"));
    put("availableReplicas", available);
    put("unavailableReplicas", asked - available);
    status["terminatingReplicas"] = json!(sum("terminatingReplicas"));
    match (facts.collided, before.get("collisionCount")) {
        (true, collisions) => status["collisionCount"] = json!(collisions.map_or(0, number) + 1),
        (false, Some(collisions)) => status["collisionCount"] = collisions.clone(),
        (false, None) => {}
    }
    status
}

fn progress(
    rollout: &Rollout,
    parted: &Parted<'_>,
    wanted: Wanted,
    facts: &StatusFacts,
    deadline: i64,
    status: &mut Value,
    conditions: &mut Conditions,
) {
    let value = rollout.deployment.value();
    let before = &value["status"];
    let reason = conditions.reason("Progressing");
    if reason.as_deref() != Some("ProgressDeadlineExceeded") {
        if facts.paused && reason.as_deref() != Some("DeploymentPaused") {
            conditions.set("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused");
        } else if !facts.paused && reason.as_deref() == Some("DeploymentPaused") {
            conditions.set("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed");
        }
    }
    if let Some(message) = &facts.failure {
        conditions.set("Progressing", "False", "ReplicaSetCreateError", message);
        return;
    }
    if facts.syncing_only {
        return;
    }
    if let Some(set) = &facts.created {
        conditions.set("Progressing", "True", "NewReplicaSetCreated", &format!("Created new replica set {set:?}"));
        return;
    }
    let name = &rollout.deployment.name;
    let who = parted.new.map_or_else(|| format!("Deployment {name:?}"), |set| format!("ReplicaSet {:?}", set.object.name));
    if facts.found && conditions.get("Progressing").is_none() {
        let set = parted.new.map(|set| set.object.name.clone()).unwrap_or_default();
        conditions.set("Progressing", "True", "FoundNewReplicaSet", &format!("Found new replica set {set:?}"));
    }
    let settled = number(&status["replicas"]) == number(&status["updatedReplicas"])
        && conditions.reason("Progressing").as_deref() == Some("NewReplicaSetAvailable");
    if settled {
        return;
    }
    if is_complete(parted, wanted) {
        conditions.set("Progressing", "True", "NewReplicaSetAvailable", &format!("{who} has successfully progressed."));
    } else if is_progressing(before, status) {
        conditions.renew("Progressing", "True", "ReplicaSetUpdated", &format!("{who} is progressing."));
    } else if timed_out(conditions, deadline) {
        conditions.set("Progressing", "False", "ProgressDeadlineExceeded", &format!("{who} has timed out progressing."));
    } else if conditions.get("Progressing").is_none() {
        // the clock of a rollout starts when it does
        conditions.set("Progressing", "True", "NewReplicaSetCreated", &format!("{who} is progressing."));
    }
}

/// Whether all replicas are new and available, and nothing old is left.
pub(super) fn is_complete(parted: &Parted<'_>, wanted: Wanted) -> bool {
    let sum = |field: &str| parted.all().map(|set| number(&set.value()["status"][field])).sum::<i64>();
    parted.new.is_some_and(|new| new.actual == wanted.replicas)
        && sum("replicas") == wanted.replicas
        && sum("availableReplicas") == wanted.replicas
}

fn is_progressing(before: &Value, after: &Value) -> bool {
    let old = |status: &Value| number(&status["replicas"]) - number(&status["updatedReplicas"]);
    let grew = |field: &str| number(&after[field]) > number(&before[field]);
    grew("updatedReplicas") || grew("readyReplicas") || grew("availableReplicas") || old(after) < old(before)
}

fn timed_out(conditions: &Conditions, deadline: i64) -> bool {
    let Some(progressing) = conditions.get("Progressing") else { return false };
    match progressing["reason"].as_str() {
        Some("NewReplicaSetAvailable") => false,
        Some("ProgressDeadlineExceeded") => true,
        _ => time(&progressing["lastUpdateTime"]).is_some_and(|from| elapsed(from, conditions.now) > SignedDuration::from_secs(deadline)),
    }
}

fn stuck_after(conditions: &Conditions, deadline: i64, now: Timestamp) -> Option<Duration> {
    let progressing = conditions.get("Progressing")?;
    if matches!(progressing["reason"].as_str(), Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded" | "DeploymentPaused")) {
        return None;
    }
    let from = time(&progressing["lastUpdateTime"])?;
    let left = SignedDuration::from_secs(deadline + 1) - elapsed(from, now);
    Some(Duration::try_from(left).unwrap_or(Duration::from_secs(1)))
}

fn elapsed(from: Timestamp, now: Timestamp) -> SignedDuration {
    now.duration_since(from)
}

fn replica_failure(parted: &Parted<'_>) -> Option<Value> {
    parted.new.into_iter().chain(parted.old.iter().copied()).find_map(|set| condition(&set.value(), "ReplicaFailure").cloned())
}

struct Conditions {
    list: Vec<Value>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, name: &str) -> Option<&Value> {
        self.list.iter().find(|condition| condition["type"] == name)
    }

    fn reason(&self, name: &str) -> Option<String> {
        self.get(name).and_then(|condition| condition["reason"].as_str()).map(str::to_owned)
    }

    fn remove(&mut self, name: &str) {
        self.list.retain(|condition| condition["type"] != name);
    }

    /// Does nothing when status and reason are as they were.
    fn set(&mut self, name: &str, status: &str, reason: &str, message: &str) {
        if self.get(name).is_some_and(|before| before["status"] == status && before["reason"] == reason) {
            return;
        }
        self.renew(name, status, reason, message);
    }

    /// Also when only the time is new.
    fn renew(&mut self, name: &str, status: &str, reason: &str, message: &str) {
        let now = seconds(self.now);
        let before = self.get(name).filter(|before| before["status"] == status);
        let since = before.map_or_else(|| json!(now), |before| before["lastTransitionTime"].clone());
        self.remove(name);
        self.list.push(json!({
            "type": name, "status": status, "reason": reason, "message": message,
            "lastUpdateTime": now, "lastTransitionTime": since,
        }));
    }
}
