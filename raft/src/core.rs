//! What all parts of an open member share, and what a leader does for itself and for its peers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::command::{Command, Durability, NodeId, Outcome, Txn};
use crate::doubt::{Doubt, Suffrage};
use crate::experiment::control::PAUSED;
use crate::experiment::faults::Faults;
use crate::log_store::LogHandle;
use crate::lull::{self, Activity, Written};
use crate::network::callers::Callers;
use crate::network::client::{CallError, Peers};
use crate::network::messages::{Request, Response};
use crate::quorum;
use crate::raft_types::{Metrics, Payload, Raft};
use crate::records;
use crate::seat::Seat;
use crate::state_machine::Shared;
use crate::store::{Committed, Leadership, StoreConfig, StoreError};

/// How long to wait for news of a leader before asking again.
const LEADER_PAUSE: Duration = Duration::from_millis(20);

/// How long a voter may take to answer a question about itself.
const VOTER_PATIENCE: Duration = Duration::from_millis(500);
/// How long one question for the read index may take. A leader that is heard by its peers answers at once.
const READ_INDEX_PATIENCE: Duration = Duration::from_secs(1);

/// An open member, without the runtime it runs on.
pub(crate) struct Core {
    pub(crate) config: StoreConfig,
    /// Raft itself.
    pub(crate) seat: Arc<Seat>,
    pub(crate) log: LogHandle,
    pub(crate) shared: Arc<Shared>,
    pub(crate) peers: Arc<Peers>,
    /// The peers that send what leaders send.
    pub(crate) callers: Arc<Callers>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) closing: CancellationToken,
    /// Bytes appended to the log so far.
    pub(crate) appended_bytes: Arc<AtomicU64>,
    /// How often the log was synced so far.
    pub(crate) syncs: Arc<AtomicU64>,
    /// Why new transactions are refused for now, if so.
    pub(crate) disk_full: parking_lot::Mutex<Option<String>>,
    /// Why raft has stopped on this member for good, if so.
    pub(crate) read_only: parking_lot::Mutex<Option<String>>,
    /// Why the group can decide nothing at the moment, if so.
    pub(crate) no_quorum: watch::Receiver<Option<String>>,
    /// What the log may have lost, until the member knows better.
    pub(crate) doubt: parking_lot::Mutex<Option<Doubt>>,
    /// The part in elections that this leaves it.
    pub(crate) suffrage: parking_lot::Mutex<Suffrage>,
    /// When a leader was last heard.
    pub(crate) heard: parking_lot::Mutex<Instant>,
    /// Told of each heartbeat of a leader.
    pub(crate) beat: Notify,
    /// Whether anything was written when the clock was looked after last.
    pub(crate) activity: parking_lot::Mutex<Activity>,
}

/// What became of one attempt to have the leader do something.
pub(crate) enum Attempt<T> {
    /// It is done.
    Done(T),
    /// No leader has got it: try again.
    Again,
    /// A leader may have got it: try again if that is harmless.
    Unclear,
}

/// What a call that is given up is told: why, unless an earlier attempt may still take effect.
fn given_up(unclear: bool, why: StoreError) -> StoreError {
    if unclear { StoreError::OutcomeUnknown } else { why }
}

/// Before the next attempt: none if somebody leads of whom the last one did not know.
async fn pause(leadership: &mut watch::Receiver<Leadership>, asked: Leadership) {
    drop(tokio::time::timeout(LEADER_PAUSE, leadership.wait_for(|now| now.is_news_after(&asked))).await);
}

impl Core {
    /// Raft, as it is at the moment.
    pub(crate) fn raft(&self) -> Raft {
        self.seat.raft()
    }

    /// What goes wrong on this member by intent.
    pub(crate) fn faults(&self) -> &Arc<Faults> {
        self.config.environment.faults()
    }

    /// A copy of raft's account of itself.
    pub(crate) fn metrics(&self) -> Metrics {
        self.raft().metrics().borrow_watched().clone()
    }

    /// The index of the last entry in the view.
    pub(crate) fn applied_index(&self) -> u64 {
        self.shared.applied().borrow().index
    }

    /// Waits until the view contains the entry at `index`.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] after the deadline, [`StoreError::Closed`].
    pub(crate) async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), StoreError> {
        let mut applied = self.shared.applied();
        let waiting = async { applied.wait_for(|applied| applied.index >= index).await.is_ok() };
        tokio::select! {
            caught_up = tokio::time::timeout_at(deadline.into(), waiting) => match caught_up {
                Ok(true) => Ok(()),
                Ok(false) => Err(StoreError::Closed),
                Err(_elapsed) => Err(StoreError::OutcomeUnknown),
            },
            () = self.closing.cancelled() => Err(StoreError::Closed),
        }
    }

    /// Runs `local` on the leader: here, if this member leads, or by sending `request` to it; again and again until it is done.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no leader has got it before the deadline, [`StoreError::OutcomeUnknown`] if one may have.
    pub(crate) async fn on_leader<T>(
        self: &Arc<Self>,
        deadline: Instant,
        request: impl Fn(bool) -> Request,
        interpret: impl Fn(Response) -> Result<Attempt<T>, StoreError>,
    ) -> Result<T, StoreError> {
        let (mut unclear, mut fresh) = (false, true);
        let mut leadership = self.leadership.clone();
        let mut no_quorum = self.no_quorum.clone();
        loop {
            if self.closing.is_cancelled() {
                return Err(given_up(unclear, StoreError::Closed));
            }
            if !self.faults().unpaused_before(deadline).await {
                return Err(given_up(unclear, StoreError::Unavailable(PAUSED.into())));
            }
            if let Some(reason) = no_quorum.borrow_and_update().clone() {
                return Err(given_up(unclear, StoreError::Unavailable(reason)));
            }
            let asked = *leadership.borrow();
            if asked.leader.is_none()
                && let Some(reason) = self.read_only.lock().clone()
            {
                return Err(given_up(unclear, StoreError::ReadOnly(reason)));
            }
            let attempt = match asked.leader {
                None => Attempt::Again,
                Some(leader) => {
                    let asking = self.ask_leader(leader, request(fresh));
                    let asking = async {
                        tokio::select! {
                            attempt = asking => attempt,
                            // a leader that nobody hears answers nothing
                            Ok(_) = no_quorum.wait_for(Option::is_some) => Attempt::Unclear,
                        }
                    };
                    match tokio::time::timeout_at(deadline.into(), asking).await {
                        // the request may still be on its way
                        Err(_elapsed) => return Err(StoreError::OutcomeUnknown),
                        Ok(Attempt::Done(response)) => interpret(response).map_err(|error| given_up(unclear, error))?,
                        Ok(Attempt::Again) => Attempt::Again,
                        Ok(Attempt::Unclear) => Attempt::Unclear,
                    }
                }
            };
            match attempt {
                // a member that stands still acknowledges nothing
                Attempt::Done(done) if self.faults().unpaused_before(deadline).await => return Ok(done),
                Attempt::Done(_) => return Err(StoreError::OutcomeUnknown),
                Attempt::Again => {}
                Attempt::Unclear => (unclear, fresh) = (true, false),
            }
            if tokio::time::timeout_at(deadline.into(), pause(&mut leadership, asked)).await.is_err() {
                return Err(given_up(unclear, StoreError::Unavailable("no leader was found".into())));
            }
        }
    }

    /// One attempt to get an answer from `leader`; given up when somebody else leads.
    async fn ask_leader(self: &Arc<Self>, leader: NodeId, request: Request) -> Attempt<Response> {
        if leader == self.config.node_id {
            return Attempt::Done(self.answer_as_leader(request).await);
        }
        let address = self.metrics().membership_config.get_node(&leader).map(|node| node.peer_address.clone());
        let Some(address) = address else { return Attempt::Again };
        let mut leadership = self.leadership.clone();
        let replaced = leadership.wait_for(|now| now.leader.is_some_and(|now| now != leader));
        tokio::select! {
            answered = self.peers.call(leader, &address, &request) => match answered {
                Ok(response) => Attempt::Done(response),
                Err(CallError::NotSent(error)) => {
                    tracing::debug!(node = leader, %error, "Could not reach the leader");
                    Attempt::Again
                }
                Err(CallError::Lost) => Attempt::Unclear,
            },
            Ok(_) = replaced => Attempt::Unclear,
        }
    }

    /// Asks all other voters the same at once: the answers of those that gave one in time.
    pub(crate) async fn ask_voters(&self, metrics: &Metrics, request: &Request) -> BTreeMap<NodeId, Response> {
        let membership = metrics.membership_config.membership();
        let asked = membership.voter_ids().filter(|id| *id != self.config.node_id).map(|id| async move {
            let address = &membership.get_node(&id)?.peer_address;
            let answer = tokio::time::timeout(VOTER_PATIENCE, self.peers.call(id, address, request)).await;
            Some((id, answer.ok()?.ok()?))
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    async fn answer_as_leader(self: &Arc<Self>, request: Request) -> Response {
        match request {
            Request::Propose { command, after_index, fresh } => self.propose_as_leader(command, after_index, fresh).await,
            Request::ReadIndex => self.read_index_as_leader().await,
            Request::AddMember(member) => self.add_member_as_leader(member).await,
            Request::RemoveMember(id) => self.remove_member_as_leader(id).await,
            Request::TransferLeadership(to) => self.transfer_as_leader(to).await,
            other => Response::Failed(format!("not a request to a leader: {other:?}")),
        }
    }

    /// Proposes a command, if this member leads.
    pub(crate) async fn propose_as_leader(&self, command: Bytes, after_index: u64, fresh: bool) -> Response {
        if let Some(reason) = self.disk_full.lock().clone().or_else(|| self.read_only.lock().clone()) {
            return Response::Failed(reason);
        }
        if let Err(error) = records::body(&command) {
            return Response::Failed(error.to_string());
        }
        let command = if fresh { self.freshen(command, after_index) } else { command };
        match self.raft().client_write(Payload(command)).await {
            Ok(written) => Response::Proposed { index: written.log_id.index(), outcome: written.data },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Response::NotLeader { maybe_proposed: false },
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => Response::NotLeader { maybe_proposed: true },
            Err(RaftError::APIError(other)) => Response::Failed(other.to_string()),
            // somebody else will lead
            Err(RaftError::Fatal(_)) => Response::NotLeader { maybe_proposed: true },
        }
    }

    /// The command of a proposer so far behind that its `after_index` has left the window of remembered ids: as it was never sent
    /// before, the leader's own position is as good.
    fn freshen(&self, encoded: Bytes, after_index: u64) -> Bytes {
        if after_index >= self.shared.forgotten_index() {
            return encoded;
        }
        match records::decode::<Command>(&encoded) {
            Ok(Command::Txn { txn, time_unix_ms, .. }) => self.encode_now(txn, Durability::Disk, time_unix_ms),
            Ok(Command::Volatile { txn, time_unix_ms, .. }) => self.encode_now(txn, Durability::Memory, time_unix_ms),
            _ => encoded,
        }
    }

    fn encode_now(&self, txn: Txn, durability: Durability, time_unix_ms: i64) -> Bytes {
        records::encode(&Command::new(txn, durability, self.applied_index(), time_unix_ms)).into()
    }

    /// Proposes a command and waits until the local view contains its outcome.
    ///
    /// # Errors
    /// As [`crate::Store::txn`].
    pub(crate) async fn propose(self: &Arc<Self>, command: Bytes, after_index: u64, deadline: Instant) -> Result<Committed, StoreError> {
        let request = |fresh| Request::Propose { command: command.clone(), after_index, fresh };
        let interpret = |response| match response {
            Response::Proposed { index, outcome } => Ok(Attempt::Done((index, outcome))),
            Response::NotLeader { maybe_proposed: false } => Ok(Attempt::Again),
            Response::NotLeader { maybe_proposed: true } => Ok(Attempt::Unclear),
            Response::Failed(reason) => Err(StoreError::ReadOnly(reason)),
            other => Err(StoreError::Unavailable(format!("unexpected answer {other:?}"))),
        };
        let (index, outcome) = self.on_leader(deadline, request, interpret).await?;
        // it is decided, and nobody can say so here any more
        self.wait_applied(index, deadline).await.map_err(|_not_shown| StoreError::OutcomeUnknown)?;
        match outcome {
            Outcome::At(revision) => Ok(Committed::At(revision)),
            Outcome::Refused(refusal) => Ok(Committed::Refused(refusal)),
            Outcome::Forgotten => Err(StoreError::OutcomeUnknown),
            Outcome::Nothing => Ok(Committed::At(self.shared.view().revision())),
        }
    }

    /// The log index that a linearizable read must see.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no leader answered in time.
    pub(crate) async fn read_index(self: &Arc<Self>, deadline: Instant) -> Result<u64, StoreError> {
        let interpret = |response| match response {
            Response::ReadIndex(index) => Ok(Attempt::Done(index)),
            Response::NotLeader { .. } | Response::Failed(_) => Ok(Attempt::Again),
            other => Err(StoreError::Unavailable(format!("unexpected answer {other:?}"))),
        };
        loop {
            // an answer that is lost holds back what waits for it, and all that came later, only so long
            let question = deadline.min(clock::deadline(READ_INDEX_PATIENCE));
            let asked = self.on_leader(question, |_| Request::ReadIndex, interpret).await;
            let over = clock::now() >= question;
            match asked {
                Err(StoreError::OutcomeUnknown | StoreError::Unavailable(_)) if over && question < deadline => {}
                Err(StoreError::OutcomeUnknown) => return Err(StoreError::Unavailable("the leader did not answer".into())),
                other => return other,
            }
        }
    }

    /// The answer to a leader whose entries cannot be read here. A newer format stays a condition of this member until it is started again.
    pub(crate) fn cannot_read(&self, error: &std::io::Error) -> Response {
        if error.kind() == std::io::ErrorKind::Unsupported {
            let mut read_only = self.read_only.lock();
            if read_only.is_none() {
                tracing::error!(%error, "The leader sends entries that this program cannot read, so this member takes no more of them");
                *read_only = Some(error.to_string());
            }
        }
        Response::Failed(error.to_string())
    }

    /// How much is written, as this member sees it.
    pub(crate) fn written(&self) -> Written {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let on_peers = metrics.replication.iter().flatten().filter_map(|(_, matched)| Some(matched.as_ref()?.index())).sum();
        Written { last: self.log.last(), on_peers }
    }

    /// Whether no candidate has a chance for the sake of a leader that speaks seldom at the moment.
    pub(crate) fn counts_on_leader(&self) -> bool {
        let metrics = self.metrics();
        metrics.current_leader.is_some()
            && lull::counts_on_leader(quorum::silence(self, &metrics), self.seat.timers(), *self.activity.lock())
    }

    /// A leader has spoken.
    pub(crate) fn hear(&self) {
        *self.heard.lock() = clock::now();
    }

    /// How many fsyncs of the log there were.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn what_may_still_take_effect_is_never_refused() {
        let reasons = || [StoreError::ReadOnly("the log failed".into()), StoreError::Unavailable("no leader".into()), StoreError::Closed];
        for why in reasons() {
            assert_eq!(given_up(false, why.clone()), why);
            assert_eq!(given_up(true, why), StoreError::OutcomeUnknown);
        }
    }

    #[tokio::test]
    async fn whoever_knows_the_next_leader_asks_it_at_once() {
        let led_by = |term, leader| Leadership { term, leader, established: false };
        let (announced, mut leadership) = watch::channel(led_by(1, Some(1)));
        let mut pauses_after = |asked| pause(&mut leadership, asked).now_or_never().is_none();
        assert!(pauses_after(led_by(1, Some(1))), "the leader that was asked still leads");
        announced.send(led_by(2, None)).unwrap();
        assert!(pauses_after(led_by(1, Some(1))), "nobody is elected yet");
        announced.send(led_by(2, Some(2))).unwrap();
        for seen_before in [false, true] {
            assert!(!pauses_after(led_by(1, Some(1))), "there is a new one, seen before: {seen_before}");
        }
    }
}
