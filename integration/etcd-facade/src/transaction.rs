//! What a transaction does to a snapshot: a pure function from the snapshot and the request to guards, operations and the answer. The guards
//! make the store refuse it if a single key that it looked at has changed meanwhile; then it is decided again on a newer snapshot. Only keys
//! that a range found are guarded, not those that it did not: a key that is made in the same moment may escape a deletion of a range.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use trierarch_raft::{Guard, Op, View};

use crate::keys::{self, Span};
use crate::messages::ResponseHeader;
use crate::messages::kv::{
    Compare, CompareResult, CompareTarget, CompareWith, DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest, PutResponse,
    RangeRequest, RangeResponse, Request, RequestOp, Response, ResponseOp, TxnRequest, TxnResponse,
};
use crate::problem::Problem;
use crate::range;
use crate::versions::{key_value, put, signed};

/// What a transaction does.
#[derive(Debug)]
pub struct Execution {
    /// What must hold for the answer to be true.
    pub guards: Vec<Guard>,
    /// Empty when it changes nothing.
    pub ops: Vec<Op>,
    /// The answer, if it is done at the header's revision.
    pub response: TxnResponse,
}

/// Executes `request` on a snapshot as if it were committed at `header.revision`.
///
/// # Errors
/// The request is not one that can be done here.
pub fn execute(view: &View, request: &TxnRequest, header: ResponseHeader) -> Result<Execution, Problem> {
    let mut draft = Draft { view, header, staged: BTreeMap::new(), seen: BTreeMap::new(), leases: BTreeSet::new() };
    let response = draft.transact(request)?;
    let leases = draft.leases.iter().map(|lease| Guard::Present { key: keys::lease(*lease) });
    let guards = draft.seen.values().cloned().chain(leases).collect();
    let ops = draft.staged.iter().filter_map(|(key, staged)| match staged {
        Some(version) => Some(put(version)),
        None => view.get(&keys::stored(key)).map(|record| Op::Delete { key: record.key.clone() }),
    });
    Ok(Execution { guards, ops: ops.collect(), response })
}

/// The snapshot with what the transaction has changed so far.
struct Draft<'a> {
    view: &'a View,
    header: ResponseHeader,
    staged: BTreeMap<Bytes, Option<KeyValue>>,
    /// Guards of the keys that were looked at.
    seen: BTreeMap<Bytes, Guard>,
    leases: BTreeSet<i64>,
}

impl Draft<'_> {
    fn transact(&mut self, request: &TxnRequest) -> Result<TxnResponse, Problem> {
        let mut succeeded = true;
        for compare in &request.compare {
            succeeded &= self.holds(compare);
        }
        let steps = if succeeded { &request.success } else { &request.failure };
        check_duplicates(steps)?;
        let mut responses = Vec::with_capacity(steps.len());
        for step in steps {
            let response = match step.request.as_ref() {
                Some(Request::Range(request)) => Response::Range(self.range(request)?),
                Some(Request::Put(request)) => Response::Put(self.put(request)?),
                Some(Request::DeleteRange(request)) => Response::DeleteRange(self.delete(request)?),
                Some(Request::Txn(request)) => Response::Txn(self.transact(request)?),
                None => return Err(Problem::EmptyKey),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: Some(self.header), succeeded, responses })
    }

    /// A key as it is now; it must still be so when the transaction is committed.
    fn get(&mut self, key: &Bytes) -> Option<KeyValue> {
        if let Some(staged) = self.staged.get(key) {
            return staged.clone();
        }
        let stored = keys::stored(key);
        let record = self.view.get(&stored);
        let guard = match &record {
            Some(record) => Guard::Revision { key: stored, revision: record.revision },
            None => Guard::Absent { key: stored },
        };
        self.seen.insert(key.clone(), guard);
        record.as_deref().map(key_value)
    }

    /// The keys of a span as they are now.
    fn found(&mut self, span: &Span) -> Vec<KeyValue> {
        if let Span::One(key) = span {
            return self.get(key).into_iter().collect();
        }
        let mut found: BTreeMap<Bytes, KeyValue> = stored(self.view, span).into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        for kv in found.values() {
            let key = keys::stored(&kv.key);
            self.seen.insert(kv.key.clone(), Guard::Revision { key, revision: crate::versions::unsigned(kv.mod_revision) });
        }
        for (key, staged) in self.staged.range(span.bounds()) {
            match staged {
                Some(version) => found.insert(key.clone(), version.clone()),
                None => found.remove(key),
            };
        }
        found.into_values().collect()
    }

    fn holds(&mut self, compare: &Compare) -> bool {
        let span = Span::new(&compare.key, &compare.range_end);
        let found = self.found(&span);
        if found.is_empty() {
            // an absent key counts as one with zeros, but has no value to compare
            return compare.target() != CompareTarget::Value && compares(compare, &KeyValue::default());
        }
        found.iter().all(|kv| compares(compare, kv))
    }

    fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, Problem> {
        if request.key.is_empty() && request.range_end.is_empty() {
            return Err(Problem::EmptyKey);
        }
        let found = self.found(&Span::new(&request.key, &request.range_end));
        Ok(RangeResponse { header: Some(self.header), ..range::answer(request, found) })
    }

    fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Problem> {
        if request.key.is_empty() {
            return Err(Problem::EmptyKey);
        }
        if request.ignore_value && !request.value.is_empty() {
            return Err(Problem::ValueProvided);
        }
        if request.ignore_lease && request.lease != 0 {
            return Err(Problem::LeaseProvided);
        }
        let before = self.get(&request.key);
        let kept = |ignored: bool| if ignored { before.as_ref().ok_or(Problem::KeyNotFound).map(Some) } else { Ok(None) };
        let value = kept(request.ignore_value)?.map_or_else(|| request.value.clone(), |before| before.value.clone());
        let lease = kept(request.ignore_lease)?.map_or(request.lease, |before| before.lease);
        if lease != 0 {
            if self.view.get(&keys::lease(lease)).is_none() {
                return Err(Problem::LeaseNotFound);
            }
            self.leases.insert(lease);
        }
        let after = KeyValue {
            key: request.key.clone(),
            create_revision: before.as_ref().map_or(self.header.revision, |before| before.create_revision),
            mod_revision: self.header.revision,
            version: before.as_ref().map_or(1, |before| before.version + 1),
            value,
            lease,
        };
        self.staged.insert(request.key.clone(), Some(after));
        Ok(PutResponse { header: Some(self.header), prev_kv: before.filter(|_| request.prev_kv) })
    }

    fn delete(&mut self, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Problem> {
        if request.key.is_empty() && request.range_end.is_empty() {
            return Err(Problem::EmptyKey);
        }
        let found = self.found(&Span::new(&request.key, &request.range_end));
        found.iter().for_each(|kv| drop(self.staged.insert(kv.key.clone(), None)));
        let deleted = signed(found.len() as u64);
        Ok(DeleteRangeResponse { header: Some(self.header), deleted, prev_kvs: if request.prev_kv { found } else { Vec::new() } })
    }
}

/// The keys of a span in a snapshot, in key order.
pub fn stored(view: &View, span: &Span) -> Vec<KeyValue> {
    let first = view.get(&keys::stored(span.from()));
    let first = first.iter().map(|record| key_value(record));
    let from = keys::stored(span.from());
    let after = view.range(keys::CLIENT, Some(&from));
    let after = after.map(|record| key_value(record)).take_while(|kv| !span.ends_before(&kv.key));
    first.chain(after).collect()
}

fn compares(compare: &Compare, kv: &KeyValue) -> bool {
    let with = |pick: fn(&CompareWith) -> Option<i64>| compare.with.as_ref().and_then(pick).unwrap_or(0);
    let ordering = match compare.target() {
        CompareTarget::Version => kv.version.cmp(&with(|with| if let CompareWith::Version(number) = with { Some(*number) } else { None })),
        CompareTarget::Create => {
            kv.create_revision.cmp(&with(|with| if let CompareWith::CreateRevision(number) = with { Some(*number) } else { None }))
        }
        CompareTarget::Mod => {
            kv.mod_revision.cmp(&with(|with| if let CompareWith::ModRevision(number) = with { Some(*number) } else { None }))
        }
        CompareTarget::Lease => kv.lease.cmp(&with(|with| if let CompareWith::Lease(number) = with { Some(*number) } else { None })),
        CompareTarget::Value => {
            let value = if let Some(CompareWith::Value(value)) = &compare.with { value.as_ref() } else { &[] };
            kv.value.as_ref().cmp(value)
        }
    };
    match compare.result() {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
        CompareResult::NotEqual => ordering.is_ne(),
    }
}

fn check_duplicates(steps: &[RequestOp]) -> Result<(), Problem> {
    let mut put = BTreeSet::new();
    let keys = steps.iter().filter_map(|step| if let Some(Request::Put(request)) = &step.request { Some(&request.key) } else { None });
    for key in keys {
        if !put.insert(key) {
            return Err(Problem::DuplicateKey);
        }
    }
    Ok(())
}
