//! Lease.

use serde_json::Value;

use super::age;
use super::json::{has, number, word};
use crate::departure;
use crate::problem::{Path, Problems};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, Rules, as_given, as_given_update};

/// Lease's decisions.
pub const RULES: Rules = Rules {
    prepare_create: as_given,
    prepare_update: as_given_update,
    validate,
    validate_update: |new, _, problems| validate(new, problems),
    columns: &[NAME_COLUMN, Column::new("Holder", "string", "Who holds the lease."), AGE_COLUMN],
    cells: |object, now| {
        vec![
            super::text(object, &["metadata", "name"]).into(),
            word(&object["spec"], "holderIdentity").into(),
            age::age(object, now).into(),
        ]
    },
    create_on_update: true,
    unconditional_update: false,
    volatile,
    ..Rules::PLAIN
};

/// A renewal changes nothing but the time, and what its holder reports beside it. Who holds the lease, and for how long, is for ever.
fn volatile(before: Option<&Value>, after: Option<&Value>) -> bool {
    let (Some(before), Some(after)) = (before, after) else { return false };
    lasting(before) == lasting(after)
}

fn lasting(lease: &Value) -> Value {
    let mut lasting = lease.clone();
    let fields: [(&[&str], &[&str]); 3] = [
        (&["spec"], &["renewTime"]),
        (&["metadata"], &["managedFields", "resourceVersion"]),
        (&["metadata", "annotations"], &[departure::APPLIED]),
    ];
    for (parent, names) in fields {
        let parent = parent.iter().try_fold(&mut lasting, |value, name| value.get_mut(name));
        if let Some(parent) = parent.and_then(Value::as_object_mut) {
            parent.retain(|name, _| !names.contains(&name.as_str()));
        }
    }
    lasting
}

fn validate(lease: &Value, problems: &mut Problems) {
    let (spec, path) = (&lease["spec"], Path::new("spec"));
    if has(spec, "leaseDurationSeconds") && number(spec, "leaseDurationSeconds") <= 0 {
        problems.invalid(&path.child("leaseDurationSeconds"), number(spec, "leaseDurationSeconds"), "must be greater than 0");
    }
    if has(spec, "leaseTransitions") && number(spec, "leaseTransitions") < 0 {
        problems.invalid(&path.child("leaseTransitions"), number(spec, "leaseTransitions"), "must be greater than or equal to 0");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_renewal_is_volatile() {
        let held = json!({
            "metadata": {"name": "n1", "uid": "u", "resourceVersion": "7", "annotations": {departure::APPLIED: "5", "kept": "yes"}},
            "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 4, "renewTime": "2026-01-01T00:00:00.000000Z"},
        });
        let changed = |path: &str, value: Value| {
            let mut lease = held.clone();
            *lease.pointer_mut(path).unwrap() = value;
            volatile(Some(&held), Some(&lease))
        };
        assert!(changed("/spec/renewTime", json!("2026-01-01T00:00:01.000000Z")));
        assert!(changed("/metadata/resourceVersion", json!("8")));
        assert!(changed("/metadata/annotations/trierarch.io~1services-applied", json!("6")));
        assert!(!changed("/metadata/annotations/kept", json!("no")));
        assert!(!changed("/spec/holderIdentity", json!("n2")));
        assert!(!changed("/spec/leaseDurationSeconds", json!(5)));
        assert!(!volatile(None, Some(&held)));
        assert!(!volatile(Some(&held), None));
        let mut first = held.clone();
        first["metadata"]["managedFields"] = json!([{"manager": "agent", "time": "2026-01-01T00:00:01Z"}]);
        assert!(volatile(Some(&held), Some(&first)));
    }
}
