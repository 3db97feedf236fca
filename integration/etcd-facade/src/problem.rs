//! What can go wrong, in etcd's words: clients compare the text.

use tonic::{Code, Status};
use trierarch_raft::{StoreError, WatchError};

/// A request that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The request names no key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// A transaction puts a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// `ignore_value` or `ignore_lease` on a key that is not there.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// A lease that is not there.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A lease that is there already.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A lease beyond 9,000,000,000 seconds.
    #[error("etcdserver: too large lease TTL")]
    LeaseTooLong,
    /// The history no longer reaches that far.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// That has not happened yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    Future,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let code = match &problem {
            Problem::EmptyKey | Problem::DuplicateKey | Problem::KeyNotFound | Problem::ValueProvided | Problem::LeaseProvided => {
                Code::InvalidArgument
            }
            Problem::LeaseNotFound => Code::NotFound,
            Problem::LeaseExists => Code::FailedPrecondition,
            Problem::LeaseTooLong | Problem::Compacted | Problem::Future => Code::OutOfRange,
            Problem::Store(error) => return of_store(error),
        };
        Self::new(code, problem.to_string())
    }
}

fn of_store(error: &StoreError) -> Status {
    match error {
        StoreError::Unavailable(_) => Status::unavailable("etcdserver: no leader"),
        StoreError::OutcomeUnknown => Status::unavailable("etcdserver: request timed out"),
        StoreError::Compacted { .. } => Problem::Compacted.into(),
        StoreError::TooLarge { .. } => Problem::Future.into(),
        StoreError::RequestTooLarge { .. } => Status::invalid_argument("etcdserver: request is too large"),
        StoreError::ReadOnly(_) => Status::resource_exhausted("etcdserver: mvcc: database space exceeded"),
        StoreError::Closed => Status::unavailable("etcdserver: server stopped"),
    }
}

impl From<WatchError> for Problem {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Compacted { .. } => Self::Compacted,
            WatchError::Closed => Self::Store(StoreError::Closed),
        }
    }
}
