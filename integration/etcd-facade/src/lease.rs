//! The service `Lease`, and what ends leases.
//!
//! A lease is a record below `l/` that holds its length; a renewal writes it again, without waiting for a disk, so that every member learns
//! of it. The leader ends those that nobody renewed, fenced by its term.

use std::time::Duration;

use bytes::Bytes;
use trierarch_raft::{Committed, Durability, EventKind, Guard, Op, Term, Txn, TxnId, View, WatchError};

use crate::clock;
use crate::facade::{Facade, PATIENCE, cause};
use crate::keys;
use crate::messages::lease::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::problem::Problem;
use crate::versions::{attached, signed};

/// Shorter ones would end during an election.
const SECONDS_MIN: i64 = 2;
/// As etcd's limit.
const SECONDS_MAX: i64 = 9_000_000_000;
/// How long to wait before looking for new leases: less than the shortest lasts.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait before an overdue lease is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

impl Facade {
    /// Makes a lease.
    ///
    /// # Errors
    /// There is one with that id, or the store does not answer.
    pub async fn lease_grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Problem> {
        if request.ttl > SECONDS_MAX {
            return Err(Problem::LeaseTooLong);
        }
        let seconds = request.ttl.max(SECONDS_MIN);
        let id = if request.id == 0 { random_id() } else { request.id };
        let key = keys::lease(id);
        let txn = Txn {
            id: TxnId::random(),
            guards: vec![Guard::Absent { key: key.clone() }],
            ops: vec![record(key, seconds)],
            cause: cause("lease-grant"),
        };
        match self.store.txn(txn, PATIENCE).await? {
            Committed::At(revision) => {
                Ok(LeaseGrantResponse { header: Some(self.header(revision)), id, ttl: seconds, error: String::new() })
            }
            Committed::Refused(_) => Err(Problem::LeaseExists),
        }
    }

    /// Ends a lease and all keys that hang on it.
    ///
    /// # Errors
    /// There is none with that id, or the store does not answer.
    pub async fn lease_revoke(&self, request: LeaseRevokeRequest) -> Result<LeaseRevokeResponse, Problem> {
        self.end(request.id, None).await?;
        Ok(LeaseRevokeResponse { header: Some(self.header_now()) })
    }

    /// Starts a lease's time again; an answer of 0 seconds says that it is not there.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn lease_keep_alive(&self, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Problem> {
        let key = keys::lease(request.id);
        let mut seconds = granted(&self.store.view(), &key);
        if seconds.is_none() {
            seconds = granted(&self.store.linearizable_view(PATIENCE).await?, &key);
        }
        let Some(seconds) = seconds else { return Ok(self.kept_alive(request.id, 0)) };
        let txn = Txn {
            id: TxnId::random(),
            guards: vec![Guard::Present { key: key.clone() }],
            ops: vec![record(key, seconds)],
            cause: cause("lease-keep-alive"),
        };
        // a renewal may be forgotten if all members crash: the lease then ends as if it had come too late
        let committed = self.store.txn_with(txn, Durability::Memory, PATIENCE).await?;
        Ok(self.kept_alive(request.id, if matches!(committed, Committed::At(_)) { seconds } else { 0 }))
    }

    fn kept_alive(&self, id: i64, ttl: i64) -> LeaseKeepAliveResponse {
        LeaseKeepAliveResponse { header: Some(self.header_now()), id, ttl }
    }

    /// How much time a lease has left.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn lease_time_to_live(&self, request: LeaseTimeToLiveRequest) -> Result<LeaseTimeToLiveResponse, Problem> {
        let view = self.store.linearizable_view(PATIENCE).await?;
        let header = Some(self.header(view.revision()));
        let Some(granted_ttl) = granted(&view, &keys::lease(request.id)) else {
            return Ok(LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..LeaseTimeToLiveResponse::default() });
        };
        let left = self.leases.left(request.id, clock::now()).map_or(granted_ttl, |(_, left)| signed(left.as_secs()));
        let keys = if request.keys { attached(&view, request.id).into_iter().map(|kv| kv.key).collect() } else { Vec::new() };
        Ok(LeaseTimeToLiveResponse { header, id: request.id, ttl: left, granted_ttl, keys })
    }

    /// All leases.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn lease_leases(&self, _request: LeaseLeasesRequest) -> Result<LeaseLeasesResponse, Problem> {
        let view = self.store.linearizable_view(PATIENCE).await?;
        let leases = view.range(keys::LEASES, None).filter_map(|record| keys::lease_id(&record.key));
        Ok(LeaseLeasesResponse { header: Some(self.header(view.revision())), leases: leases.map(|id| LeaseStatus { id }).collect() })
    }

    /// Ends a lease with its keys; `fence` is the term of a leader that does it by itself.
    async fn end(&self, id: i64, fence: Option<Term>) -> Result<(), Problem> {
        let key = keys::lease(id);
        let mut view = self.store.view();
        let mut tries = 0_u32;
        loop {
            let attached = attached(&view, id);
            let is_there = view.get(&key).is_some();
            if !is_there && attached.is_empty() {
                // perhaps this member is behind
                if tries > 0 {
                    return Ok(());
                }
                view = self.store.linearizable_view(PATIENCE).await?;
                if view.get(&key).is_none() {
                    return Err(Problem::LeaseNotFound);
                }
                continue;
            }
            let mut guards: Vec<Guard> = fence.map(Guard::Term).into_iter().collect();
            let mut ops = vec![Op::Delete { key: key.clone() }];
            for kv in attached {
                let key = keys::stored(&kv.key);
                guards.push(Guard::Revision { key: key.clone(), revision: crate::versions::unsigned(kv.mod_revision) });
                ops.push(Op::Delete { key });
            }
            let txn = Txn { id: TxnId::random(), guards, ops, cause: cause("lease-end") };
            if let Committed::Refused(refusal) = self.store.txn(txn, PATIENCE).await?
                && fence.is_some()
                && refusal.guard == 0
            {
                // somebody else leads, and decides
                return Ok(());
            }
            // once the record is gone nobody attaches a key any more, but one may have been attached just before
            view = self.store.view();
            tries += 1;
        }
    }

    /// Follows the leases' records; returns when the store closes.
    pub async fn follow_leases(self) {
        loop {
            let view = self.store.view();
            for record in view.range(keys::LEASES, None) {
                if let (Some(id), Some(seconds)) = (keys::lease_id(&record.key), seconds(&record.value)) {
                    self.leases.renewed(id, seconds, clock::now());
                }
            }
            match self.follow_from(view.revision()).await {
                WatchError::Closed => return,
                // so far behind that only a new beginning helps
                WatchError::Compacted { .. } => {}
            }
        }
    }

    async fn follow_from(&self, revision: u64) -> WatchError {
        let mut watcher = match self.store.watch(keys::LEASES, revision).await {
            Ok(watcher) => watcher,
            Err(error) => return error,
        };
        loop {
            let events = match watcher.next().await {
                Ok(events) => events,
                Err(error) => return error,
            };
            for event in events {
                let Some(id) = keys::lease_id(&event.record.key) else { continue };
                match (event.kind, seconds(&event.record.value)) {
                    (EventKind::Put, Some(seconds)) => self.leases.renewed(id, seconds, clock::now()),
                    _ => self.leases.ended(id),
                }
            }
        }
    }

    /// While this member leads, ends the leases that nobody renewed. Returns when the store closes.
    pub async fn end_overdue_leases(self) {
        let mut leadership = self.store.leadership();
        loop {
            let now = *leadership.borrow_and_update();
            if now.established {
                self.leases.restart(clock::now());
                self.end_overdue_in(now.term, &mut leadership).await;
            } else if leadership.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns when leadership changes.
    async fn end_overdue_in(&self, term: Term, leadership: &mut tokio::sync::watch::Receiver<trierarch_raft::Leadership>) {
        loop {
            let overdue = self.leases.overdue(clock::now());
            for id in &overdue {
                if let Err(error) = self.end(*id, Some(term)).await
                    && error != Problem::LeaseNotFound
                {
                    tracing::warn!(lease = id, %error, "Could not end a lease");
                }
            }
            let now = clock::now();
            let look = now + LOOK_PAUSE;
            let wake = if overdue.is_empty() { self.leases.next_end().map_or(look, |end| end.clamp(now, look)) } else { now + RETRY_PAUSE };
            if let Ok(_changed) = tokio::time::timeout_at(wake.into(), leadership.changed()).await {
                return;
            }
        }
    }
}

fn record(key: Bytes, seconds: i64) -> Op {
    Op::Put { key, value: Bytes::copy_from_slice(&seconds.to_be_bytes()), split: 0, terms: Vec::new() }
}

fn granted(view: &View, key: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(view.get(key)?.value.as_ref().try_into().ok()?))
}

fn seconds(value: &[u8]) -> Option<Duration> {
    Some(Duration::from_secs(u64::try_from(i64::from_be_bytes(value.try_into().ok()?)).ok()?))
}

/// Positive, and not taken but by a miracle.
fn random_id() -> i64 {
    i64::try_from(TxnId::random().0 >> 65).unwrap_or(i64::MAX).max(1)
}
