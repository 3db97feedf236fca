//! The handle: propose, read, watch, and the state of the group. All methods may be called from any thread and any tokio runtime.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::command::{NodeId, Refusal, Revision, Term, Txn};
use crate::view::{Record, View};
use crate::watch::{WatchError, Watcher};

/// How to open a member.
#[derive(Clone)]
pub struct StoreConfig {
    /// This member's id.
    pub node_id: NodeId,
    /// Names the cluster; peers of another one are refused.
    pub cluster_id: String,
    /// Holds `log/` and `state/`.
    pub data_dir: PathBuf,
    /// Where peers reach this member.
    pub peer_listen: SocketAddr,
    /// The address that peers are told (`host:port`).
    pub peer_advertise: String,
    /// The API address that clients and other masters are told (`host:port`), kept in the membership.
    pub api_advertise: String,
    /// Mutual TLS for peers; swapped when certificates rotate. `None` only in tests on loopback.
    pub tls: Option<PeerTls>,
    /// Lower bound of the randomized election time-out.
    pub election_min: Duration,
    /// Upper bound of it.
    pub election_max: Duration,
    /// Interval of the leader's heartbeats.
    pub heartbeat: Duration,
    /// How long history is kept for watches and reads of the past.
    pub history_retention: Duration,
}

/// The rustls configurations of peer traffic.
#[derive(Clone)]
pub struct PeerTls {
    /// For accepted connections; demands a client certificate of the peer authority.
    pub server: Arc<rustls::ServerConfig>,
    /// For connections to peers.
    pub client: Arc<rustls::ClientConfig>,
}

/// Who leads, as this member believes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The current term.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// This member leads, and has committed an entry of its term: leader-only components may start.
    pub established: bool,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It applied at this revision.
    At(Revision),
    /// A guard did not hold; nothing changed.
    Refused(Refusal),
}

/// A member of the group.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Where clients reach its API.
    pub api_address: String,
    /// Voter or learner.
    pub role: MemberRole,
}

/// A member's part in elections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum MemberRole {
    /// Counts for quorum.
    Voter,
    /// Receives the log only.
    Learner,
}

/// What `trierarch raft status` shows.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// This member.
    pub node_id: NodeId,
    /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
    pub role: String,
    /// Current term.
    pub term: Term,
    /// Known leader.
    pub leader: Option<NodeId>,
    /// Index of the last log entry.
    pub last_log: u64,
    /// Index of the last committed entry.
    pub committed: u64,
    /// Index of the last applied entry.
    pub applied: u64,
    /// Index up to which the log was purged.
    pub purged: u64,
    /// Last revision.
    pub revision: Revision,
    /// All members.
    pub members: Vec<Member>,
    /// On the leader: the matched log index of each peer.
    pub matched: BTreeMap<NodeId, u64>,
}

/// Why the store did not answer. A refusal by a guard is an outcome, not an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No leader could be reached before the deadline; the transaction was not applied and never will be by this call.
    #[error("no quorum: {0}")]
    Unavailable(String),
    /// The deadline passed after the proposal was sent: it may or may not apply.
    #[error("deadline exceeded, outcome unknown")]
    OutcomeUnknown,
    /// The revision was not applied here in time.
    #[error("revision {asked} is not applied here yet (now {current})")]
    TooLarge {
        /// What was asked for.
        asked: Revision,
        /// What is here.
        current: Revision,
    },
    /// The transaction is larger than the store takes.
    #[error("request is too large: {size_bytes} bytes, the limit is {limit_bytes}")]
    RequestTooLarge {
        /// Size of it.
        size_bytes: usize,
        /// What is allowed.
        limit_bytes: usize,
    },
    /// The history no longer holds that revision.
    #[error("revision {asked} is compacted; the oldest one kept is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// What is there.
        oldest: Revision,
    },
    /// The member cannot write (full disk and the like), with the reason.
    #[error("read-only: {0}")]
    ReadOnly(String),
    /// The store is closing.
    #[error("the store is shutting down")]
    Closed,
}

/// Why a member did not open. The text names the path and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the store in {path}: {reason}")]
pub struct OpenError {
    /// Which directory.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// A member of the group. Cheap to clone.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens (or creates) a member and starts its raft runtime. A new member is alone and idle until [`Store::initialize`] or until a
    /// leader adds it.
    ///
    /// # Errors
    /// [`OpenError`] with path and reason (damaged log, another process holds the lock, port taken).
    pub async fn open(_config: StoreConfig) -> Result<Self, OpenError> {
        unimplemented!()
    }

    /// Makes this member the first of a new cluster. Does nothing if the store already belongs to one.
    pub async fn initialize(&self) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Proposes a transaction; forwarded to the leader when this member does not lead, retried through elections until `deadline`
    /// has passed. Returns after this member's own view contains the outcome.
    pub async fn txn(&self, _txn: Txn, _deadline: Duration) -> Result<Committed, StoreError> {
        unimplemented!()
    }

    /// The current snapshot, local and possibly stale.
    pub fn view(&self) -> View {
        unimplemented!()
    }

    /// A snapshot that contains every write acknowledged anywhere before the call (read index).
    pub async fn linearizable_view(&self, _deadline: Duration) -> Result<View, StoreError> {
        unimplemented!()
    }

    /// A snapshot of at least this revision, waiting for it.
    pub async fn view_at_least(&self, _revision: Revision, _deadline: Duration) -> Result<View, StoreError> {
        unimplemented!()
    }

    /// The records below `prefix` as they were at `revision`, in key order, from the history.
    pub async fn range_at(&self, _prefix: &[u8], _revision: Revision) -> Result<Vec<Arc<Record>>, StoreError> {
        unimplemented!()
    }

    /// Changes below `prefix` after `after` (exclusive).
    pub async fn watch(&self, _prefix: &[u8], _after: Revision) -> Result<Watcher, WatchError> {
        unimplemented!()
    }

    /// Follows who leads.
    pub fn leadership(&self) -> tokio::sync::watch::Receiver<Leadership> {
        unimplemented!()
    }

    /// Adds a member (first as a learner, promoted when caught up), or updates the addresses of a known one.
    pub async fn add_member(&self, _member: Member, _deadline: Duration) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Removes a member. Refused when it would lose quorum.
    pub async fn remove_member(&self, _id: NodeId, _deadline: Duration) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Hands leadership to a member, or to the most advanced one.
    pub async fn transfer_leadership(&self, _to: Option<NodeId>) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// The state of this member and what it knows of the group.
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// Flushes and stops.
    pub async fn close(&self) {
        unimplemented!()
    }
}
