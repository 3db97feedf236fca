//! The handle: propose, read, watch, and the state of the group. All methods may be called from any thread and any tokio runtime.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::errors::{Fatal, InitializeError, RaftError};
use tokio::sync::{mpsc, oneshot};

use crate::backup::{About, Backup};
use crate::clock;
use crate::command::{Command, Durability, NodeId, Refusal, Revision, Term, Txn};
use crate::core::Core;
use crate::environment::Environment;
use crate::experiment::control::PAUSED;
use crate::experiment::{ExperimentError, Experiments, Fault, TimersChange, TimersInForce};
use crate::format::Formats;
use crate::happenings::{self, Happenings};
use crate::network::messages::Request;
use crate::own_runtime::OwnRuntime;
use crate::raft_types::MemberInfo;
use crate::read_index::{self, ReadRequest};
use crate::state_db::StateDb;
use crate::view::{Record, View};
use crate::watch::{WatchError, Watcher};
use crate::{disk, members, open, past, records, status};

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
    /// The address that peers are told (`host:port`); empty: the one that `peer_listen` got.
    pub peer_advertise: String,
    /// The API address that clients and other masters are told (`host:port`), kept in the membership.
    pub api_advertise: String,
    /// Mutual TLS for peers; swapped when certificates rotate. `None` only in tests on loopback.
    pub tls: Option<PeerTls>,
    /// Lower bound of the randomized election time-out, which begins when the leader's lease ends.
    pub election_min: Duration,
    /// Upper bound of it, and the length of a leader's lease: a dead leader is replaced after between `max + min` and `2 * max`.
    pub election_max: Duration,
    /// Interval of the leader's heartbeats.
    pub heartbeat: Duration,
    /// Before it raises the term, a member asks whether it would be elected.
    pub pre_vote: bool,
    /// How long history is kept for watches and reads of the past.
    pub history_retention: Duration,
    /// How much of it is kept, in bytes of changed values: beyond this the oldest is forgotten before its time.
    pub history_bytes_max: u64,
    /// A snapshot is taken after so many entries, and the log before it purged.
    pub snapshot_after_entries: u64,
    /// A snapshot is also taken when the log has grown by so many bytes. A quarter of that is kept for members that lag.
    pub log_bytes_max: u64,
    /// This member has taken part before: a directory without its log is refused, as it would forget what it promised.
    pub joined: bool,
    /// What this program reads and writes; tests play other programs.
    pub formats: Formats,
    /// Names the machine's boot: when a run was not ended orderly, volatile entries have survived exactly if this is still the same.
    pub boot_id: String,
    /// The machine it runs on.
    pub environment: Environment,
}

impl StoreConfig {
    /// A member with the usual timers (heartbeat 100 ms, a silent leader replaced after 450 to 600 ms, or 850 to 1,000 ms where nothing was written for a second
    /// before: `docs/decisions/0020-fewer-beats-while-nothing-is-written.md`), a history of one hour or 256 MiB, no TLS, and any free port on loopback for peers. The
    /// caller sets the rest: at least `cluster_id`, and for a group of several the addresses and TLS.
    pub fn new(node_id: NodeId, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_id,
            cluster_id: String::new(),
            data_dir: data_dir.into(),
            peer_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            peer_advertise: String::new(),
            api_advertise: String::new(),
            tls: None,
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            heartbeat: Duration::from_millis(100),
            pre_vote: true,
            history_retention: Duration::from_secs(3600),
            history_bytes_max: 256 << 20,
            snapshot_after_entries: 10_000,
            log_bytes_max: 64 << 20,
            joined: false,
            formats: Formats::OURS,
            boot_id: boot_id(),
            environment: Environment::default(),
        }
    }
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

impl Leadership {
    /// Whether a leader is known now that was not known at `earlier`: a quorum has elected it.
    pub(crate) fn is_news_after(&self, earlier: &Self) -> bool {
        self.leader.is_some() && (self.term, self.leader) != (earlier.term, earlier.leader)
    }
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
    /// For whom it voted last.
    #[serde(default)]
    pub vote: Option<NodeId>,
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
    /// History holds the changes after this revision.
    #[serde(default)]
    pub compacted: Revision,
    /// All members.
    pub members: Vec<Member>,
    /// On the leader: the matched log index of each peer.
    pub matched: BTreeMap<NodeId, u64>,
    /// How often this member has synced its log since it was opened; an idle group adds nothing.
    pub log_syncs: u64,
    /// Milliseconds since this member had a sign of a working group: so old may be what it knows.
    #[serde(default)]
    pub heard_ms: u64,
    /// The peers with which this member cannot talk although they are there, and why.
    #[serde(default)]
    pub refused: BTreeMap<NodeId, String>,
    /// Why the group can decide nothing at the moment, as this member sees it.
    #[serde(default)]
    pub no_quorum: Option<String>,
    /// Why this member takes no writes, if so.
    #[serde(default)]
    pub read_only: Option<String>,
    /// What goes wrong on this member by intent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// Why this member does not take part in elections as others do, and what it waits for, if so.
    #[serde(default)]
    pub abstains: Option<String>,
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
    /// The leader, or this member, cannot write (full disk and the like), with the reason; the transaction was not applied and never will be by
    /// this call. A full disk is looked at again every second.
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

/// The largest transaction, encoded.
pub const TXN_BYTES_MAX: usize = 4 << 20;
/// How long a backup waits for the group to say what it must hold.
const BACKUP_PATIENCE: Duration = Duration::from_secs(2);
/// How long [`Store::initialize`] waits for the first election, and closing for the databases.
const PATIENCE: Duration = Duration::from_secs(10);
/// Reads that may wait for the next question to the leader.
const READS_WAITING_MAX: usize = 16_384;

/// A member of the group. Cheap to clone.
///
/// [`Store::close`] it before the process ends. When the last clone is dropped its files are closed as well, but nobody knows when: RocksDB
/// aborts a process that ends meanwhile.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    peer_address: SocketAddr,
    reads: mpsc::Sender<ReadRequest>,
    /// It has answered a linearizable read.
    was_current: AtomicBool,
    handle: tokio::runtime::Handle,
    /// Taken when it closes; a simulated member has none of its own.
    runtime: parking_lot::Mutex<Option<OwnRuntime>>,
    databases_closed: parking_lot::Mutex<Vec<oneshot::Receiver<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.closing.cancel();
        self.core.shared.close();
        drop(self.runtime.lock().take());
    }
}

impl Store {
    /// Opens (or creates) a member and starts its raft runtime. A new member is alone and idle until [`Store::initialize`] or until a
    /// leader adds it.
    ///
    /// # Errors
    /// [`OpenError`] with path and reason (damaged log, another process holds the lock, port taken).
    pub async fn open(config: StoreConfig) -> Result<Self, OpenError> {
        let path = config.data_dir.clone();
        let failed = |error: &dyn std::fmt::Display| OpenError { path: path.clone(), reason: error.to_string() };
        let runtime = match config.environment.simulation() {
            None => Some(OwnRuntime::start(config.node_id).map_err(|error| failed(&error))?),
            Some(_) => None,
        };
        let handle = runtime.as_ref().map_or_else(tokio::runtime::Handle::current, |runtime| runtime.handle().clone());
        let opened = handle.spawn(open::open(config)).await.map_err(|error| failed(&error)).flatten()?;
        let (reads, requests) = mpsc::channel(READS_WAITING_MAX);
        handle.spawn(read_index::serve_reads(Arc::clone(&opened.core), requests));
        let inner = Inner {
            core: opened.core,
            peer_address: opened.peer_address,
            reads,
            was_current: AtomicBool::new(false),
            handle,
            runtime: parking_lot::Mutex::new(runtime),
            databases_closed: parking_lot::Mutex::new(opened.databases_closed),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The address on which peers are accepted.
    pub fn peer_address(&self) -> SocketAddr {
        self.inner.peer_address
    }

    /// This member's id.
    pub fn node_id(&self) -> NodeId {
        self.inner.core.config.node_id
    }

    /// Makes this member the first of a new cluster, and returns when it leads. Does nothing if the store already belongs to one.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::ReadOnly`] when the disk fails, [`StoreError::Unavailable`] if it was not elected in time.
    pub async fn initialize(&self) -> Result<(), StoreError> {
        let core = Arc::clone(&self.inner.core);
        self.run(async move {
            let own = MemberInfo {
                peer_address: core.config.peer_advertise.clone(),
                api_address: core.config.api_advertise.clone(),
                wants_vote: true,
            };
            match core.raft().initialize(BTreeMap::from([(core.config.node_id, own)])).await {
                Ok(()) => {}
                Err(RaftError::APIError(InitializeError::NotAllowed(_))) => return Ok(()),
                Err(RaftError::APIError(error)) => return Err(StoreError::Unavailable(error.to_string())),
                Err(RaftError::Fatal(Fatal::Stopped)) => return Err(StoreError::Closed),
                Err(RaftError::Fatal(fatal)) => return Err(StoreError::ReadOnly(fatal.to_string())),
            }
            let mut leadership = core.leadership.clone();
            match tokio::time::timeout(PATIENCE, leadership.wait_for(|now| now.established)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_ended)) => Err(StoreError::Closed),
                Err(_elapsed) => Err(StoreError::Unavailable("the first election did not end".into())),
            }
        })
        .await
    }

    /// Proposes a transaction; forwarded to the leader when this member does not lead, retried through elections until `deadline`
    /// has passed. Returns after this member's own view contains the outcome.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it was not applied and never will be. [`StoreError::OutcomeUnknown`]: look, or repeat it with the same
    /// id. [`StoreError::RequestTooLarge`], [`StoreError::ReadOnly`], [`StoreError::Closed`].
    pub async fn txn(&self, txn: Txn, deadline: Duration) -> Result<Committed, StoreError> {
        self.txn_with(txn, Durability::Disk, deadline).await
    }

    /// As [`Store::txn`], acknowledged when `durability` says.
    ///
    /// # Errors
    /// As [`Store::txn`].
    pub async fn txn_with(&self, txn: Txn, durability: Durability, deadline: Duration) -> Result<Committed, StoreError> {
        let core = Arc::clone(&self.inner.core);
        let after_index = core.applied_index();
        let time_unix_ms = core.config.environment.now_unix_ms();
        let command = records::encode(&Command::new(txn, durability, after_index, time_unix_ms));
        if command.len() > TXN_BYTES_MAX {
            return Err(StoreError::RequestTooLarge { size_bytes: command.len(), limit_bytes: TXN_BYTES_MAX });
        }
        let deadline = clock::deadline(deadline);
        self.run(async move { core.propose(command.into(), after_index, deadline).await }).await
    }

    /// The current snapshot, local and possibly stale.
    pub fn view(&self) -> View {
        self.inner.core.shared.view()
    }

    /// A snapshot that contains every write acknowledged anywhere before the call (read index).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no leader could confirm it in time, [`StoreError::Closed`].
    pub async fn linearizable_view(&self, deadline: Duration) -> Result<View, StoreError> {
        #[cfg(feature = "planted")]
        if crate::planted::is_planted(crate::planted::Bug::SkipReadIndex) {
            return Ok(self.view());
        }
        let core = Arc::clone(&self.inner.core);
        let reads = self.inner.reads.clone();
        let deadline = clock::deadline(deadline);
        self.run(async move {
            let (answer, index) = oneshot::channel();
            reads.send(ReadRequest { deadline, answer }).await.map_err(|_gone| StoreError::Closed)?;
            let late = || StoreError::Unavailable("no leader confirmed the read in time".into());
            let index = tokio::time::timeout_at(deadline.into(), index).await.map_err(|_elapsed| late())?;
            let index = index.map_err(|_gone| StoreError::Closed)??;
            match core.wait_applied(index, deadline).await {
                Ok(()) => Ok(core.shared.view()),
                Err(StoreError::OutcomeUnknown) => Err(late()),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Whether this member can serve: it was up to date once, has not stopped, its disk has room, and the group has a quorum. Asks nobody
    /// after the first time.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with who is missing, [`StoreError::ReadOnly`], [`StoreError::Closed`].
    pub async fn ready(&self, deadline: Duration) -> Result<(), StoreError> {
        let core = &self.inner.core;
        if let Some(reason) = core.disk_full.lock().clone().or_else(|| core.read_only.lock().clone()) {
            return Err(StoreError::ReadOnly(reason));
        }
        if let Some(reason) = core.no_quorum.borrow().clone() {
            return Err(StoreError::Unavailable(reason));
        }
        if core.closing.is_cancelled() {
            return Err(StoreError::Closed);
        }
        if core.faults().is_paused() {
            return Err(StoreError::Unavailable(PAUSED.into()));
        }
        if !self.inner.was_current.load(Ordering::Relaxed) {
            self.linearizable_view(deadline).await?;
            self.inner.was_current.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A snapshot of at least this revision, waiting for it.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] when it was not applied here in time, [`StoreError::Closed`].
    pub async fn view_at_least(&self, revision: Revision, deadline: Duration) -> Result<View, StoreError> {
        let view = self.view();
        if view.revision() >= revision {
            return Ok(view);
        }
        let core = Arc::clone(&self.inner.core);
        let deadline = clock::deadline(deadline);
        self.run(async move {
            let mut applied = core.shared.applied();
            let waiting = tokio::time::timeout_at(deadline.into(), applied.wait_for(|applied| applied.revision >= revision));
            let waited = tokio::select! {
                waited = waiting => waited.map(|applied| applied.is_ok()),
                () = core.closing.cancelled() => Ok(false),
            };
            match waited {
                Ok(true) => Ok(core.shared.view()),
                Ok(false) => Err(StoreError::Closed),
                Err(_elapsed) => Err(StoreError::TooLarge { asked: revision, current: core.shared.view().revision() }),
            }
        })
        .await
    }

    /// The records below `prefix` as they were at `revision`, in key order, from the history.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::TooLarge`] when this member has not got that far, [`StoreError::Closed`].
    pub async fn range_at(&self, prefix: &[u8], revision: Revision) -> Result<Vec<Arc<Record>>, StoreError> {
        let core = Arc::clone(&self.inner.core);
        let prefix = prefix.to_vec();
        let environment = core.config.environment.clone();
        let reading = move || past::range_at(&core.shared, &prefix, revision);
        environment.blocking_on(&self.inner.handle, reading).await.unwrap_or(Err(StoreError::Closed))
    }

    /// Changes below `prefix` after `after` (exclusive).
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when the history does not reach back that far, [`WatchError::Closed`].
    #[expect(clippy::unused_async, reason = "the interface allows a watch that waits for its start")]
    pub async fn watch(&self, prefix: &[u8], after: Revision) -> Result<Watcher, WatchError> {
        Watcher::new(Arc::clone(&self.inner.core.shared), self.inner.handle.clone(), prefix, after)
    }

    /// Follows who leads.
    pub fn leadership(&self) -> tokio::sync::watch::Receiver<Leadership> {
        self.inner.core.leadership.clone()
    }

    /// Adds a member as a learner, or updates the addresses of a known one. Returns when that is committed; a member whose role is
    /// [`MemberRole::Voter`] is promoted by the leader as soon as it has caught up, which [`Store::status`] shows.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it is refused or no leader did it in time, [`StoreError::Closed`].
    pub async fn add_member(&self, member: Member, deadline: Duration) -> Result<(), StoreError> {
        self.change_members(Request::AddMember(member), deadline).await
    }

    /// Removes a member. Refused when it would lose quorum.
    ///
    /// # Errors
    /// As [`Store::add_member`].
    pub async fn remove_member(&self, id: NodeId, deadline: Duration) -> Result<(), StoreError> {
        self.change_members(Request::RemoveMember(id), deadline).await
    }

    /// Has the leader hand over to a member, or to the most advanced of the others, and returns when somebody else leads.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when there is nobody to hand over to or it did not take over, [`StoreError::Closed`].
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<(), StoreError> {
        let core = Arc::clone(&self.inner.core);
        let deadline = clock::deadline(PATIENCE);
        self.run(async move { core.hand_over(to, deadline).await }).await
    }

    /// As the leader, hands leadership to the most advanced of the others and follows it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when this member does not lead, or nobody took over.
    pub async fn step_down(&self) -> Result<(), StoreError> {
        let core = &self.inner.core;
        let leader = core.leadership.borrow().leader;
        if leader != Some(core.config.node_id) {
            return Err(StoreError::Unavailable("this member does not lead".into()));
        }
        self.transfer_leadership(None).await
    }

    /// Begins an election in which this member is the candidate, even though a leader lives; returns at once. It raises the term, so whoever
    /// leads steps down; who wins is open.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it leads already or does not vote, [`StoreError::Closed`].
    pub async fn campaign(&self) -> Result<(), StoreError> {
        let core = Arc::clone(&self.inner.core);
        self.run(async move {
            let (metrics, own_id) = (core.metrics(), core.config.node_id);
            if metrics.current_leader == Some(own_id) {
                return Err(StoreError::Unavailable("this member leads already".into()));
            }
            if !metrics.membership_config.membership().voter_ids().any(|id| id == own_id) {
                return Err(StoreError::Unavailable("this member does not vote".into()));
            }
            if core.faults().is_paused() {
                return Err(StoreError::Unavailable(PAUSED.into()));
            }
            core.raft().trigger().elect(false).await.map_err(|_stopped| StoreError::Closed)
        })
        .await
    }

    /// What happens on this member from now on, beginning with how things are. Ends when the store closes. Whoever reads too slowly loses the
    /// oldest, and is told how many.
    pub fn happenings(&self) -> Happenings {
        let _on_its_runtime = self.inner.handle.enter();
        happenings::follow(Arc::clone(&self.inner.core))
    }

    /// The experiments on this member.
    pub fn experiments(&self) -> Experiments {
        self.inner.core.experiments()
    }

    /// Lets a fault begin on this member, which ends by itself. `by` wanted it.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`] with every problem, [`ExperimentError::TooMany`], [`StoreError::Closed`].
    pub async fn begin_fault(&self, fault: Fault, by: &str) -> Result<Fault, ExperimentError> {
        let (core, by) = (Arc::clone(&self.inner.core), by.to_owned());
        self.run(async move { Ok(core.begin_fault(fault, &by)) }).await?
    }

    /// Ends a fault before its time.
    ///
    /// # Errors
    /// [`ExperimentError::NotFound`]: it may have ended.
    pub fn end_fault(&self, id: u64, by: &str) -> Result<Fault, ExperimentError> {
        self.inner.core.end_fault(id, by)
    }

    /// Ends all faults of this member before their time: those that there were.
    pub fn end_faults(&self, by: &str) -> Vec<Fault> {
        self.inner.core.end_faults(by)
    }

    /// Has this member go on with other timers for a while; the configured ones come back by themselves. Where raft has to be started again
    /// for that, a leader hands leadership over before, and what is in flight is retried as after an election.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`] with every problem; [`StoreError::ReadOnly`] when raft has stopped, [`StoreError::Closed`].
    pub async fn change_timers(&self, change: TimersChange, by: &str) -> Result<TimersInForce, ExperimentError> {
        let (core, by) = (Arc::clone(&self.inner.core), by.to_owned());
        self.run(async move { Ok(core.change_timers(change, &by).await) }).await?
    }

    /// A consistent copy of the state, while members go on. It holds everything that was acknowledged before, as far as there is a quorum to
    /// say what that is. `attachment` goes into its header as it is.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] when the disk fails, [`StoreError::Unavailable`] on a member that has nothing yet, [`StoreError::Closed`].
    pub async fn backup(&self, attachment: bytes::Bytes) -> Result<Backup, StoreError> {
        let complete = self.linearizable_view(BACKUP_PATIENCE).await.is_ok();
        let core = Arc::clone(&self.inner.core);
        self.run(async move {
            let about = About {
                cluster_id: core.config.cluster_id.clone(),
                node_id: core.config.node_id,
                time_unix_ms: core.config.environment.now_unix_ms(),
                complete,
                attachment,
            };
            let db = core.shared.db().map_err(|_closed| StoreError::Closed)?;
            let snapshots_dir = core.config.data_dir.join("snapshots");
            let taking = core.config.environment.blocking(move || Backup::take(&db, &snapshots_dir, about)).await;
            taking.flatten().map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => StoreError::Unavailable(error.to_string()),
                _ => StoreError::ReadOnly(error.to_string()),
            })
        })
        .await
    }

    /// The state of this member and what it knows of the group.
    pub fn status(&self) -> Status {
        status::status(&self.inner.core)
    }

    /// The voters that live: on the leader, those that have answered its heartbeats lately, itself among them. Empty elsewhere: only a leader
    /// hears everybody.
    pub fn answering(&self) -> std::collections::BTreeSet<NodeId> {
        members::answering(&self.inner.core)
    }

    /// Returns why Raft has stopped on this member, once it has and a new start of the process would help: while the disk is full it would
    /// not.
    pub async fn stopped(&self) -> String {
        let core = &self.inner.core;
        let mut leadership = core.leadership.clone();
        while leadership.changed().await.is_ok() {}
        let Some(reason) = core.read_only.lock().clone() else { return std::future::pending().await };
        disk::has_room(core).await;
        reason
    }

    /// Flushes and stops. Everything asked afterwards gets [`StoreError::Closed`]; watches end.
    pub async fn close(&self) {
        let core = Arc::clone(&self.inner.core);
        let databases: Vec<_> = std::mem::take(&mut *self.inner.databases_closed.lock());
        let closing = self.inner.handle.spawn(async move {
            core.closing.cancel();
            // a core that is being exchanged is waited for
            let _turn = core.seat.turn.lock().await;
            if let Err(error) = core.raft().shutdown().await {
                tracing::warn!(%error, "Raft did not end cleanly");
            }
            if let Ok(db) = core.shared.db() {
                // a full disk would keep RocksDB waiting for room
                let flushing = async { if disk::look_at_disk(&core).is_some() { Ok(()) } else { flush(&core, db).await } };
                match tokio::time::timeout(PATIENCE, flushing).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "Could not flush the state; it will be replayed from the log"),
                    Err(_elapsed) => tracing::warn!("Could not flush the state in time; it will be replayed from the log"),
                }
            }
            core.shared.close();
            core.peers.close();
            for closed in databases {
                if tokio::time::timeout(PATIENCE, closed).await.is_err() {
                    tracing::warn!("A database is still in use after closing");
                }
            }
        });
        // it ends with an error only if the runtime is already gone
        drop(closing.await);
        drop(self.inner.runtime.lock().take());
    }

    async fn change_members(&self, request: Request, deadline: Duration) -> Result<(), StoreError> {
        let core = Arc::clone(&self.inner.core);
        let deadline = clock::deadline(deadline);
        self.run(async move { core.change_members(request, deadline).await }).await
    }

    /// Runs on the store's own runtime: timers and connections belong there, whatever the caller runs on.
    async fn run<T: Send + 'static>(&self, future: impl Future<Output = Result<T, StoreError>> + Send + 'static) -> Result<T, StoreError> {
        self.inner.handle.spawn(future).await.unwrap_or(Err(StoreError::Closed))
    }

    /// What the store is made of, for tests.
    #[cfg(test)]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }
}

/// `Spec:` `/proc/sys/kernel/random/boot_id`, random(4). Where it cannot be read, every stop without warning counts as a reboot.
fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map_or_else(|_| uuid::Uuid::new_v4().to_string(), |id| id.trim().to_owned())
}

async fn flush(core: &Core, db: Arc<StateDb>) -> std::io::Result<()> {
    core.config.environment.blocking(move || db.flush()).await?
}

#[cfg(test)]
mod tests;
