//! Lease.

use serde_json::Value;

use super::age;
use super::json::{has, number, word};
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
    ..Rules::PLAIN
};

fn validate(lease: &Value, problems: &mut Problems) {
    let (spec, path) = (&lease["spec"], Path::new("spec"));
    if has(spec, "leaseDurationSeconds") && number(spec, "leaseDurationSeconds") <= 0 {
        problems.invalid(&path.child("leaseDurationSeconds"), number(spec, "leaseDurationSeconds"), "must be greater than 0");
    }
    if has(spec, "leaseTransitions") && number(spec, "leaseTransitions") < 0 {
        problems.invalid(&path.child("leaseTransitions"), number(spec, "leaseTransitions"), "must be greater than or equal to 0");
    }
}
