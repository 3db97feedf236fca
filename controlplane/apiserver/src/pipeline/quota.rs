//! Quotas: an object and the counts it raises are stored in one transaction, so that no two writers can take the same room.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;
use trierarch_api::{ApiError, GroupResource, IndexTerm, Kind, Snapshot, Subresource, object, quota};
use trierarch_raft::{Guard, Op};

use crate::apiserver::StoreSnapshot;
use crate::pipeline::commit::Companions;
use crate::pipeline::{Ctx, metadata};

const QUOTAS: GroupResource = GroupResource::new("", "resourcequotas");

/// Writers of a namespace that lost a race for its quotas and now stand in line.
#[derive(Default)]
pub struct Lines(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Lines {
    /// The caller's turn in a namespace; it ends when this is dropped.
    pub async fn turn(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let line = {
            let mut lines = self.0.lock();
            // nobody stands in a line that only this map knows
            lines.retain(|_, line| Arc::strong_count(line) > 1);
            Arc::clone(lines.entry(namespace.to_owned()).or_default())
        };
        line.lock_owned().await
    }
}

/// Charges a new object.
///
/// # Errors
/// 403 when a quota has no room.
pub fn on_create(snapshot: &StoreSnapshot, ctx: &Ctx, kind: &Kind, object: &Value, companions: &mut Companions) -> Result<(), ApiError> {
    charge(snapshot, ctx, kind, object, None, companions)
}

/// Charges what a change adds.
///
/// # Errors
/// As [`on_create`].
pub fn on_update(
    snapshot: &StoreSnapshot,
    ctx: &Ctx,
    kind: &Kind,
    sub: Option<Subresource>,
    new: &Value,
    old: &Value,
    companions: &mut Companions,
) -> Result<(), ApiError> {
    let can_grow = match (kind.group.as_ref(), kind.plural.as_ref(), sub) {
        ("", "pods", None) => new["spec"]["activeDeadlineSeconds"].is_null() != old["spec"]["activeDeadlineSeconds"].is_null(),
        ("", "pods", Some(Subresource::Resize)) | ("", "services", None) => true,
        _ => false,
    };
    if can_grow { charge(snapshot, ctx, kind, new, Some(old), companions) } else { Ok(()) }
}

fn charge(
    snapshot: &StoreSnapshot,
    ctx: &Ctx,
    kind: &Kind,
    new: &Value,
    old: Option<&Value>,
    companions: &mut Companions,
) -> Result<(), ApiError> {
    if !quota::counts(kind) {
        return Ok(());
    }
    for found in snapshot.list(&QUOTAS, Some(metadata::text(new, "namespace"))) {
        let value = found.value();
        let charged = quota::charge(&value, kind, new, old, ctx.now)
            .map_err(|why| ApiError::forbidden(&kind.group_resource(), metadata::text(new, "name"), &why))?;
        if let Some(used) = charged {
            let mut after = Value::clone(&value);
            after["status"]["used"] = used;
            let (stored, split) = object::encode(&after);
            let key = found.key().to_bytes();
            companions.guards.push(Guard::Revision { key: key.clone(), revision: found.resource_version });
            companions.ops.push(Op::Put { key, value: stored, split, terms: IndexTerm::of(&after) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_is_served_one_after_the_other() {
        let lines = Lines::default();
        let first = lines.turn("a").await;
        let _other = lines.turn("b").await;
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), lines.turn("a")).await.is_err());
        drop(first);
        let _second = lines.turn("a").await;
        assert_eq!(lines.0.lock().len(), 2);
    }
}
