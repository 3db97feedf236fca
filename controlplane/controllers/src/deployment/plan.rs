//! Decides the next step of a rollout.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::revision::{self, DESIRED, MAX, REVISION};
use super::scale::{self, Share, Size, Wanted};
use super::snapshot::{Rollout, Set};
use super::status::{self, StatusFacts};
use crate::action::{Action, Plan, Report, Reports, StatusWrite};
use crate::perform::Failure;
use crate::pod_facts;
use crate::resources::REPLICA_SETS;

/// The new ReplicaSet and the others.
pub(super) struct Parted<'a> {
    pub(super) new: Option<&'a Set>,
    pub(super) old: Vec<&'a Set>,
}

impl Parted<'_> {
    pub(super) fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().copied().chain(self.new)
    }

    fn total(&self) -> i64 {
        self.all().map(|set| set.replicas).sum()
    }
}

/// What to do about one Deployment.
pub fn plan(rollout: &Rollout, now: Timestamp, failure: Option<&Failure>) -> Plan {
    let deployment = &rollout.deployment;
    let value = deployment.value();
    let spec = &value["spec"];
    let mut plan = Plan::nothing();
    if rollout.selector.is_everything() {
        plan.actions.push(Action::Record(Report::warning(
            deployment,
            "SelectingAll",
            "This deployment is selecting all pods. A non-empty selector is required.".to_owned(),
        )));
        return plan;
    }
    let claims = claims(rollout);
    if !claims.is_empty() {
        // the changed ReplicaSets wake this key again
        plan.actions = claims;
        return plan;
    }
    let wanted = Wanted::of(spec);
    let new_index = revision::find_new(rollout);
    let parted = Parted {
        new: new_index.map(|index| &rollout.sets[index]),
        old: rollout.sets.iter().enumerate().filter(|(index, _)| Some(*index) != new_index).map(|(_, set)| set).collect(),
    };
    let mut facts = StatusFacts::default();
    if deployment.deletion_timestamp.is_none() {
        decide(rollout, &parted, wanted, &mut plan, &mut facts);
    }
    facts.failure = failure.map(|failure| failure.message.clone());
    let (status, look_again) = status::status(rollout, &parted, wanted, &facts, now);
    if let Some(delay) = look_again {
        plan.look_again_in(delay);
    }
    plan.status = status_write(rollout, &status, facts.revision.as_deref());
    plan
}

fn decide(rollout: &Rollout, parted: &Parted<'_>, wanted: Wanted, plan: &mut Plan, facts: &mut StatusFacts) {
    let deployment = &rollout.deployment;
    let spec = &deployment.value()["spec"];
    let recreate = scale::is_recreate(spec);
    let max_old = parted.old.iter().map(|set| revision::of(set)).max().unwrap_or(0);
    let paused = spec["paused"] == true;
    facts.paused = paused;

    if let Some(new) = parted.new {
        if let Some(patch) = revision::refresh(deployment, new, max_old + 1) {
            plan.actions.push(Action::merge(&new.object, patch));
            return;
        }
        facts.revision = new.annotation(REVISION);
        facts.found = true;
    }
    if paused || is_scaling(parted, wanted) {
        facts.syncing_only = true;
        scale_all(rollout, parted, wanted, recreate, plan);
        if paused {
            clean_up(rollout, parted, plan);
        }
        return;
    }
    if recreate && stop_old_first(rollout, parted, wanted, plan) {
        return;
    }
    let Some(new) = parted.new else {
        create_new(rollout, parted, wanted, recreate, max_old + 1, plan, facts);
        return;
    };
    let size = scale::new_size(wanted, new.replicas, parted.total(), recreate);
    if size != new.replicas {
        plan.actions.extend(resize(rollout, new, size, wanted));
        return;
    }
    if !recreate {
        // pods beyond the size that was asked for are on their way out, whatever the status still says
        let size = |set: &Set| Size { replicas: set.replicas, available: set.available.min(set.replicas) };
        let old: Vec<Size> = parted.old.iter().map(|set| size(set)).collect();
        let sizes = scale::old_sizes(wanted, size(new), &old);
        for (set, size) in parted.old.iter().zip(sizes) {
            if size != set.replicas {
                plan.actions.extend(resize(rollout, set, size, wanted));
            }
        }
        if !plan.actions.is_empty() {
            return;
        }
    }
    if status::is_complete(parted, wanted) {
        clean_up(rollout, parted, plan);
    }
}

/// Whether the Deployment's size changed since its ReplicaSets were last scaled.
fn is_scaling(parted: &Parted<'_>, wanted: Wanted) -> bool {
    parted
        .all()
        .filter(|set| set.replicas > 0)
        .any(|set| set.annotation(DESIRED).and_then(|text| text.parse::<i64>().ok()).is_some_and(|desired| desired != wanted.replicas))
}

fn scale_all(rollout: &Rollout, parted: &Parted<'_>, wanted: Wanted, recreate: bool, plan: &mut Plan) {
    let mut active: Vec<&Set> = parted.all().filter(|set| set.replicas > 0).collect();
    let only = match active.as_slice() {
        [only] => Some(*only),
        [] => parted.new.or(parted.old.last().copied()),
        _ => None,
    };
    if let Some(only) = only {
        // a ReplicaSet that is right already still learns the new size of the Deployment
        plan.actions.extend(resize(rollout, only, wanted.replicas, wanted));
        return;
    }
    let saturated = parted.new.is_some_and(|new| {
        new.replicas == wanted.replicas
            && new.available == wanted.replicas
            && new.annotation(DESIRED).is_some_and(|desired| desired == wanted.replicas.to_string())
    });
    if saturated {
        for set in parted.old.iter().filter(|set| set.replicas > 0) {
            plan.actions.extend(resize(rollout, set, 0, wanted));
        }
        return;
    }
    if recreate {
        return;
    }
    let growing = wanted.max_total() > parted.total();
    // largest first; among equals the newest when growing, the oldest when shrinking
    active.sort_by(|left, right| {
        let by_age = (left.object.creation_timestamp, &left.object.name).cmp(&(right.object.creation_timestamp, &right.object.name));
        right.replicas.cmp(&left.replicas).then(if growing { by_age.reverse() } else { by_age })
    });
    let fallback = rollout.deployment.value()["status"]["replicas"].as_i64().unwrap_or(0);
    let shares: Vec<Share> = active
        .iter()
        .map(|set| Share { replicas: set.replicas, former_max: set.annotation(MAX).and_then(|text| text.parse().ok()).unwrap_or(fallback) })
        .collect();
    for (set, size) in active.iter().zip(scale::proportional(wanted, &shares)) {
        plan.actions.extend(resize(rollout, set, size, wanted));
    }
}

/// Recreate: everything old goes, and is gone, before anything new comes. Whether there is still something to wait for.
fn stop_old_first(rollout: &Rollout, parted: &Parted<'_>, wanted: Wanted, plan: &mut Plan) -> bool {
    for set in parted.old.iter().filter(|set| set.replicas > 0) {
        plan.actions.extend(resize(rollout, set, 0, wanted));
    }
    !plan.actions.is_empty() || parted.old.iter().any(|set| set.actual > 0 || set.living_pods > 0)
}

fn create_new(
    rollout: &Rollout,
    parted: &Parted<'_>,
    wanted: Wanted,
    recreate: bool,
    revision: i64,
    plan: &mut Plan,
    facts: &mut StatusFacts,
) {
    let deployment = &rollout.deployment;
    let name = revision::set_name(deployment);
    if rollout.taken_names.contains(&name) {
        // somebody else's: another hash, another name
        facts.collided = true;
        return;
    }
    let replicas = scale::new_size(wanted, 0, parted.total(), recreate);
    let success = (replicas > 0)
        .then(|| Report::normal(deployment, "ScalingReplicaSet", format!("Scaled up replica set {name} from 0 to {replicas}")));
    facts.created = Some(name.clone());
    plan.actions.push(Action::Create {
        resource: REPLICA_SETS,
        namespace: deployment.namespace.clone(),
        object: revision::new_set(deployment, wanted, replicas, revision),
        reports: Reports {
            success,
            failure: Some(Report::warning(deployment, "ReplicaSetCreateError", format!("Failed to create new replica set {name:?}: "))),
        },
    });
}

fn resize(rollout: &Rollout, set: &Set, size: i64, wanted: Wanted) -> Vec<Action> {
    let (desired, max) = (wanted.replicas.to_string(), wanted.max_total().to_string());
    let annotated = set.annotation(DESIRED).as_ref() == Some(&desired) && set.annotation(MAX).as_ref() == Some(&max);
    if size == set.replicas && annotated {
        return Vec::new();
    }
    let patch = json!({"metadata": {"annotations": {DESIRED: desired, MAX: max}}, "spec": {"replicas": size}});
    let mut actions = vec![Action::merge(&set.object, patch)];
    if size != set.replicas {
        let direction = if size > set.replicas { "up" } else { "down" };
        actions.push(Action::Record(Report::normal(
            &rollout.deployment,
            "ScalingReplicaSet",
            format!("Scaled {direction} replica set {} from {} to {size}", set.object.name, set.replicas),
        )));
    }
    actions
}

/// Deletes the oldest ReplicaSets beyond `revisionHistoryLimit` that have no pods.
fn clean_up(rollout: &Rollout, parted: &Parted<'_>, plan: &mut Plan) {
    let Some(limit) = rollout.deployment.value()["spec"]["revisionHistoryLimit"].as_i64() else { return };
    let mut old: Vec<&&Set> = parted.old.iter().filter(|set| set.object.deletion_timestamp.is_none()).collect();
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.sort_by_key(|set| (revision::of(set), set.object.creation_timestamp));
    for set in old.into_iter().take(surplus) {
        let seen = pod_facts::number(&set.value()["status"]["observedGeneration"]);
        if set.replicas == 0 && set.actual == 0 && set.object.generation <= seen {
            plan.actions.push(Action::delete(&set.object));
        }
    }
}

/// Adopts ReplicaSets that are selected and nobody's, releases those no longer selected.
fn claims(rollout: &Rollout) -> Vec<Action> {
    let deployment = &rollout.deployment;
    if deployment.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut actions = Vec::new();
    for set in &rollout.sets {
        let selected = rollout.selector.matches(&set.object.labels);
        match set.object.controller() {
            Some(_) if !selected => actions.push(crate::replica_set::release(&set.object, deployment)),
            None if set.object.deletion_timestamp.is_none() => actions.push(crate::replica_set::adopt(&set.object, deployment)),
            _ => {}
        }
    }
    actions
}

fn status_write(rollout: &Rollout, status: &Value, revision: Option<&str>) -> Option<StatusWrite> {
    let deployment = &rollout.deployment;
    let before = deployment.value();
    let mut after = Value::clone(&before);
    after["status"] = status.clone();
    if let Some(revision) = revision {
        after["metadata"]["annotations"][REVISION] = json!(revision);
    }
    (after != *before).then(|| StatusWrite { key: deployment.key(), object: after })
}
