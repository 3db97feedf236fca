//! The service `KV`.

use bytes::Bytes;
use trierarch_raft::{Committed, Guard, Op, Revision, StoreError, Txn, TxnId};

use crate::clock;
use crate::facade::{Facade, PATIENCE, cause};
use crate::keys::{self, Span};
use crate::messages::kv::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RangeStreamResponse, Request, RequestOp, Response, TxnRequest, TxnResponse,
};
use crate::problem::Problem;
use crate::range;
use crate::transaction::{self, execute};
use crate::versions::{key_value, unsigned};

impl Facade {
    /// Reads, at the newest revision or an earlier one.
    ///
    /// # Errors
    /// The revision is compacted or still to come, or the store does not answer.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Problem> {
        if request.key.is_empty() && request.range_end.is_empty() {
            return Err(Problem::EmptyKey);
        }
        let view = if request.serializable { self.store.view() } else { self.store.linearizable_view(PATIENCE).await? };
        let span = Span::new(&request.key, &request.range_end);
        let asked = unsigned(request.revision);
        let found = if request.revision <= 0 || asked == view.revision() {
            transaction::stored(&view, &span)
        } else if asked > view.revision() {
            return Err(Problem::Future);
        } else if asked < self.compacted() {
            return Err(Problem::Compacted);
        } else {
            self.range_at(&span, asked).await?
        };
        Ok(RangeResponse { header: Some(self.header(view.revision())), ..range::answer(&request, found) })
    }

    /// The answer of [`Facade::range`] as a stream of one part.
    ///
    /// # Errors
    /// As [`Facade::range`].
    pub async fn range_stream(&self, request: RangeRequest) -> Result<RangeStreamResponse, Problem> {
        Ok(RangeStreamResponse { range_response: Some(self.range(request).await?) })
    }

    async fn range_at(&self, span: &Span, revision: Revision) -> Result<Vec<KeyValue>, Problem> {
        let records = self.store.range_at(&span.stored_prefix(), revision).await?;
        Ok(records.iter().map(|record| key_value(record)).filter(|kv| span.covers(&kv.key)).collect())
    }

    /// Puts one key.
    ///
    /// # Errors
    /// As [`Facade::txn`].
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Problem> {
        match self.one("put", Request::Put(request)).await? {
            Some(Response::Put(response)) => Ok(response),
            _ => Err(Problem::EmptyKey),
        }
    }

    /// Deletes keys.
    ///
    /// # Errors
    /// As [`Facade::txn`].
    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Problem> {
        match self.one("delete", Request::DeleteRange(request)).await? {
            Some(Response::DeleteRange(response)) => Ok(response),
            _ => Err(Problem::EmptyKey),
        }
    }

    async fn one(&self, verb: &str, step: Request) -> Result<Option<Response>, Problem> {
        let request = TxnRequest { success: vec![RequestOp { request: Some(step) }], ..TxnRequest::default() };
        Ok(self.transact(verb, &request).await?.responses.into_iter().next().and_then(|op| op.response))
    }

    /// Compares, then changes or reads.
    ///
    /// # Errors
    /// The request is not one that can be done, or the store does not answer.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Problem> {
        self.transact("txn", &request).await
    }

    /// Decides on this member's own snapshot and lets the guards tell whether that was too old; what changes nothing, or cannot be done, is
    /// decided on a linearizable snapshot.
    async fn transact(&self, verb: &str, request: &TxnRequest) -> Result<TxnResponse, Problem> {
        let deadline = clock::now() + PATIENCE;
        let (mut view, mut linearizable) = (self.store.view(), false);
        loop {
            let expected = view.revision() + 1;
            let execution = match execute(&view, request, self.header(expected)) {
                Ok(execution) if !execution.ops.is_empty() => execution,
                Ok(_) if linearizable => return Ok(execute(&view, request, self.header(view.revision()))?.response),
                Err(problem) if linearizable => return Err(problem),
                Ok(_) | Err(_) => {
                    (view, linearizable) = (self.store.linearizable_view(PATIENCE).await?, true);
                    continue;
                }
            };
            let txn = Txn { id: TxnId::random(), guards: execution.guards, ops: execution.ops, cause: cause(verb) };
            match self.store.txn(txn, PATIENCE).await? {
                Committed::At(revision) if revision == expected => return Ok(execution.response),
                Committed::At(revision) => return Ok(execute(&view, request, self.header(revision))?.response),
                Committed::Refused(_) if clock::now() >= deadline => return Err(Problem::Store(StoreError::OutcomeUnknown)),
                // this member has applied what refused it
                Committed::Refused(_) => (view, linearizable) = (self.store.view(), false),
            }
        }
    }

    /// Forgets what was before a revision: reads and watches from before it are refused from now on. The store frees the room when its own
    /// retention says so.
    ///
    /// # Errors
    /// The revision is compacted already or still to come, or the store does not answer.
    pub async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Problem> {
        let asked = unsigned(request.revision);
        loop {
            let view = self.store.linearizable_view(PATIENCE).await?;
            if asked <= self.compacted() {
                return Err(Problem::Compacted);
            }
            if asked > view.revision() {
                return Err(Problem::Future);
            }
            let key = Bytes::from_static(keys::COMPACTED);
            let guard = match view.get(&key) {
                Some(record) => Guard::Revision { key: key.clone(), revision: record.revision },
                None => Guard::Absent { key: key.clone() },
            };
            let value = Bytes::copy_from_slice(&asked.to_be_bytes());
            let op = Op::Put { key, value, split: 0, terms: Vec::new() };
            let txn = Txn { id: TxnId::random(), guards: vec![guard], ops: vec![op], cause: cause("compact") };
            if let Committed::At(revision) = self.store.txn(txn, PATIENCE).await? {
                return Ok(CompactionResponse { header: Some(self.header(revision)) });
            }
        }
    }

    /// Up to where a client asked to forget.
    pub fn compacted(&self) -> Revision {
        let record = self.store.view().get(keys::COMPACTED);
        record.and_then(|record| record.value.as_ref().try_into().ok()).map_or(0, Revision::from_be_bytes)
    }
}
