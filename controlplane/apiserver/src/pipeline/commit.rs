//! The commit: one transaction, compare-and-swap on the object's key, fenced when a leader-only component writes.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use trierarch_api::{ApiError, IndexTerm, Kind, Object, ObjectKey, object};
use trierarch_raft::{Cause, Committed, Durability, Guard, Op, Txn, TxnId};

use crate::apiserver::{ApiServer, object_of, store_error};
use crate::pipeline::Ctx;

/// What travels in the object's transaction beside it: allocations and their releases.
#[derive(Clone, Debug, Default)]
pub struct Companions {
    /// Further conditions.
    pub guards: Vec<Guard>,
    /// Further changes.
    pub ops: Vec<Op>,
}

/// What became of a commit.
pub enum Outcome {
    /// Done; the object as it is now.
    Done(Arc<Object>),
    /// The object's own guard failed: someone else was faster.
    Lost,
    /// A companion's guard failed; its index.
    CompanionLost(usize),
}

/// Which state of the key the write was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is not there.
    Absent,
    /// It is at this revision.
    At(u64),
}

impl Expect {
    fn guard(self, key: &Bytes) -> Guard {
        match self {
            Self::Absent => Guard::Absent { key: key.clone() },
            Self::At(revision) => Guard::Revision { key: key.clone(), revision },
        }
    }
}

/// Stores an object.
///
/// # Errors
/// The store's failures; a lost race is an outcome.
pub async fn put(
    server: &ApiServer,
    ctx: &Ctx,
    kind: &Arc<Kind>,
    value: &Value,
    expect: Expect,
    companions: Companions,
) -> Result<Outcome, ApiError> {
    let (stored, split) = object::encode(value);
    let key = key_of(kind, value).to_bytes();
    if ctx.dry_run {
        let revision = if let Expect::At(revision) = expect { revision } else { 0 };
        return decoded(kind, stored, split, revision).map(Outcome::Done);
    }
    let op = Op::Put { key: key.clone(), value: stored.clone(), split, terms: IndexTerm::of(value) };
    let durability = durability(server, kind, &key, expect, Some(value));
    match transact(server, ctx, &key, op, expect, companions, durability).await? {
        Transacted::At(revision) => {
            if let Some(record) = server.store.view().get(&key).filter(|record| record.revision == revision)
                && let Some(object) = object_of(&server.registry, &record)
            {
                return Ok(Outcome::Done(object));
            }
            decoded(kind, stored, split, revision).map(Outcome::Done)
        }
        Transacted::Lost => Ok(Outcome::Lost),
        Transacted::CompanionLost(index) => Ok(Outcome::CompanionLost(index)),
    }
}

/// Removes an object; the answer shows it as `last`, its final state.
///
/// # Errors
/// The store's failures; a lost race is an outcome.
pub async fn remove(
    server: &ApiServer,
    ctx: &Ctx,
    object: &Arc<Object>,
    last: &Value,
    companions: Companions,
) -> Result<Outcome, ApiError> {
    let (stored, split) = object::encode(last);
    let key = object.key().to_bytes();
    let op = Op::Delete { key: key.clone() };
    let expect = Expect::At(object.resource_version);
    if ctx.dry_run {
        return decoded(&object.kind, stored, split, object.resource_version).map(Outcome::Done);
    }
    let durability = durability(server, &object.kind, &key, expect, None);
    match transact(server, ctx, &key, op, expect, companions, durability).await? {
        Transacted::At(revision) => decoded(&object.kind, stored, split, revision).map(Outcome::Done),
        Transacted::Lost => Ok(Outcome::Lost),
        Transacted::CompanionLost(index) => Ok(Outcome::CompanionLost(index)),
    }
}

/// When the change from what is `expect`ed to `after` is acknowledged.
fn durability(server: &ApiServer, kind: &Kind, key: &Bytes, expect: Expect, after: Option<&Value>) -> Durability {
    let expected = |record: &Arc<trierarch_raft::Record>| expect == Expect::At(record.revision);
    let before = || server.store.view().get(key).filter(expected).and_then(|record| object_of(&server.registry, &record));
    if (kind.rules.volatile)(before().map(|object| object.value()).as_deref(), after) { Durability::Memory } else { Durability::Disk }
}

/// The key of an object's JSON.
pub fn key_of(kind: &Kind, value: &Value) -> ObjectKey {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
    ObjectKey::new(kind.storage(), if kind.namespaced_scope() { text("namespace") } else { "" }, text("name"))
}

fn decoded(kind: &Arc<Kind>, stored: Bytes, split: u32, revision: u64) -> Result<Arc<Object>, ApiError> {
    Object::decode(Arc::clone(kind), stored, split, revision).map(Arc::new).map_err(|error| ApiError::bad_request(error.to_string()))
}

enum Transacted {
    At(u64),
    Lost,
    CompanionLost(usize),
}

async fn transact(
    server: &ApiServer,
    ctx: &Ctx,
    key: &Bytes,
    op: Op,
    expect: Expect,
    companions: Companions,
    durability: Durability,
) -> Result<Transacted, ApiError> {
    let mut guards = vec![expect.guard(key)];
    guards.extend(companions.guards);
    let fence_at = guards.len();
    guards.extend(ctx.fence.map(Guard::Term));
    let mut ops = vec![op];
    ops.extend(companions.ops);
    let txn = Txn {
        id: TxnId::random(),
        guards,
        ops,
        cause: Cause {
            user: ctx.user.name.clone(),
            agent: ctx.agent.clone(),
            verb: ctx.verb.clone(),
            time_unix_ms: crate::clock::now().as_millisecond(),
        },
    };
    match server.store.txn_with(txn, durability, ctx.deadline.left()).await.map_err(|error| store_error(&error))? {
        Committed::At(revision) => Ok(Transacted::At(revision)),
        Committed::Refused(refusal) => match usize::try_from(refusal.guard).unwrap_or(usize::MAX) {
            0 => Ok(Transacted::Lost),
            index if index >= fence_at => Err(ApiError::unavailable("this master no longer leads")),
            index => Ok(Transacted::CompanionLost(index - 1)),
        },
    }
}
