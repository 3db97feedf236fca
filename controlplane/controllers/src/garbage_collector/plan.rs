//! Decides what becomes of one object, given its owners and dependents.

use std::sync::Arc;

use serde_json::{Value, json};
use trierarch_api::Object;
use trierarch_api::object::OwnerReference;

use super::{FOREGROUND, ORPHAN, has};
use crate::action::{Action, Plan, Reports};
use crate::cluster::{DeleteOptions, Propagation};

/// How it stands with an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there.
    Solid,
    /// It is gone, or another has its name.
    Absent,
    /// It is being deleted and waits for this object.
    Waiting,
}

/// An object that names this one as an owner.
pub struct Dependent {
    /// The object.
    pub object: Arc<Object>,
    /// Whether foreground deletion waits for it.
    pub blocks: bool,
}

/// An object with its owners and dependents.
pub struct Owned {
    /// The object.
    pub object: Arc<Object>,
    /// Its owners.
    pub owners: Vec<(OwnerReference, OwnerState)>,
    /// What it owns.
    pub dependents: Vec<Dependent>,
}

/// What to do about an object.
pub fn plan(owned: &Owned) -> Plan {
    let object = &owned.object;
    let mut plan = Plan::nothing();
    if object.deletion_timestamp.is_some() {
        if has(object, ORPHAN) {
            plan.actions = owned.dependents.iter().map(|dependent| disown(&dependent.object, &[&object.uid.0])).collect();
            plan.actions.push(drop_finalizer(object, ORPHAN));
        } else if has(object, FOREGROUND) && !owned.dependents.iter().any(|dependent| dependent.blocks) {
            plan.actions.push(drop_finalizer(object, FOREGROUND));
        }
        return plan;
    }
    let with = |wanted: OwnerState| owned.owners.iter().filter(move |(_, state)| *state == wanted).map(|(owner, _)| owner);
    let (solid, absent, waiting) = (with(OwnerState::Solid).count(), with(OwnerState::Absent).count(), with(OwnerState::Waiting).count());
    if absent + waiting == 0 {
        return plan;
    }
    if solid > 0 {
        // somebody else still holds it: only the lost references go
        let lost: Vec<&str> = with(OwnerState::Absent).chain(with(OwnerState::Waiting)).map(|owner| owner.uid.0.as_str()).collect();
        plan.actions.push(disown(object, &lost));
        return plan;
    }
    let propagation = if waiting > 0 && !owned.dependents.is_empty() {
        // two objects that each wait for the other would wait for ever
        let mutual =
            owned.dependents.iter().any(|dependent| dependent.object.deletion_timestamp.is_some() && has(&dependent.object, FOREGROUND));
        if mutual {
            plan.actions.push(unblock(object));
            return plan;
        }
        Propagation::Foreground
    } else if has(object, ORPHAN) {
        Propagation::Orphan
    } else if has(object, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    plan.actions.push(Action::Delete {
        key: object.key(),
        options: DeleteOptions {
            uid: Some(object.uid.0.clone()),
            // the decision rests on its owners: if they changed, decide again
            resource_version: Some(object.resource_version),
            propagation: Some(propagation),
            grace_period_seconds: None,
        },
        reports: Reports::default(),
    });
    plan
}

fn disown(object: &Object, uids: &[&str]) -> Action {
    let left = references(object, |reference| !uids.iter().any(|uid| reference["uid"] == *uid));
    let left = if left.is_empty() { Value::Null } else { Value::Array(left) };
    Action::merge(object, json!({"metadata": {"ownerReferences": left}}))
}

fn unblock(object: &Object) -> Action {
    let mut references = references(object, |_| true);
    for reference in &mut references {
        reference["blockOwnerDeletion"] = json!(false);
    }
    Action::merge(object, json!({"metadata": {"ownerReferences": references}}))
}

fn references(object: &Object, keep: impl Fn(&Value) -> bool) -> Vec<Value> {
    let value = object.value();
    value["metadata"]["ownerReferences"].as_array().into_iter().flatten().filter(|reference| keep(reference)).cloned().collect()
}

fn drop_finalizer(object: &Object, finalizer: &str) -> Action {
    let left: Vec<&String> = object.finalizers.iter().filter(|name| *name != finalizer).collect();
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    Action::merge(object, json!({"metadata": {"finalizers": left}}))
}
