//! openraft's network over [`Link`]s, and requests to the leader.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, Read as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, entry::RaftEntry as _};

use super::acquaintances::Acquaintances;
use super::link::Link;
use super::messages::{Append, Hello, Purpose, Request, Response};
use super::pace::unhurried;
use super::window::{self, Window};
use crate::ballot;
use crate::clock;
use crate::command::NodeId;
use crate::environment::Environment;
use crate::happenings::Event;
use crate::purging::Holds;
use crate::raft_types::{Entry, MemberInfo, Snapshot, TypeConfig, Vote};
use crate::records::{EntryRecord, VoteRecord};
use crate::snapshot::SnapshotFiles;
use crate::store::PeerTls;
use crate::thrift::Thrift;
use crate::told::Told;

/// How long a follower may take to store entries before the connection is given up.
const APPEND_PATIENCE: Duration = Duration::from_secs(2);
/// How long the news of what is committed may wait for the next entries, unless a follower waits for it.
const COMMIT_PATIENCE: Duration = Duration::from_millis(1);
/// A follower that owes so many answers is not asked any more: it may stand still for long, and whoever reads goes on asking.
const UNANSWERED_MAX: usize = 256;
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// A peer that could not be reached is not tried again before.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);
const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

/// Numbers the append pipelines of this process.
static NEXT_SESSION: AtomicU64 = AtomicU64::new(1);

/// This member as its peers see it, and the connections for requests to them.
pub(crate) struct Peers {
    pub(crate) node_id: NodeId,
    pub(crate) cluster_id: String,
    pub(crate) tls: Option<PeerTls>,
    pub(crate) acquaintances: Acquaintances,
    /// What peers need of the log that are sent a snapshot.
    pub(crate) holds: Holds,
    environment: Environment,
    requests: parking_lot::Mutex<HashMap<NodeId, (String, Arc<Link>)>>,
    /// The connections over which raft sends at the moment.
    kept: parking_lot::Mutex<HashMap<(NodeId, Purpose), Weak<Link>>>,
    /// What followers know from this member as their leader.
    pub(crate) told: parking_lot::Mutex<Told>,
    /// Which followers may have to wait for entries.
    pub(crate) thrift: parking_lot::Mutex<Thrift>,
    /// Those that were the first to confirm that this member leads.
    pub(crate) prompt: parking_lot::Mutex<BTreeSet<NodeId>>,
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// It never left.
    NotSent(io::Error),
    /// It may have arrived.
    Lost,
}

impl Peers {
    pub(crate) fn new(
        node_id: NodeId,
        cluster_id: String,
        tls: Option<PeerTls>,
        acquaintances: Acquaintances,
        environment: Environment,
    ) -> Self {
        Self {
            node_id,
            cluster_id,
            tls,
            acquaintances,
            holds: Holds::default(),
            environment,
            requests: parking_lot::Mutex::default(),
            kept: parking_lot::Mutex::default(),
            told: parking_lot::Mutex::default(),
            thrift: parking_lot::Mutex::default(),
            prompt: parking_lot::Mutex::default(),
        }
    }

    async fn connect(&self, target: NodeId, address: &str, purpose: Purpose, patience: Duration) -> io::Result<Arc<Link>> {
        let introduction = self.acquaintances.own;
        let hello = Hello { cluster_id: self.cluster_id.clone(), from: self.node_id, to: target, purpose, introduction };
        let connected = Link::connect(&self.environment, address, &hello, self.tls.as_ref(), patience).await.and_then(|link| {
            let checked = self.acquaintances.check(target, &link.introduction);
            checked.map(|()| link).map_err(|reason| io::Error::new(io::ErrorKind::PermissionDenied, reason))
        });
        self.acquaintances.note(target, &connected);
        connected
    }

    /// Notes the connection that raft uses for `purpose`.
    fn keep(&self, target: NodeId, purpose: Purpose, link: &Arc<Link>) {
        self.kept.lock().insert((target, purpose), Arc::downgrade(link));
    }

    fn kept(&self, target: NodeId, purpose: Purpose) -> Option<Arc<Link>> {
        self.kept.lock().get(&(target, purpose)).and_then(Weak::upgrade)
    }

    /// Has a follower be sent at once what is there for it: something on it waits for that.
    pub(crate) fn hurry(&self, target: NodeId) {
        if let Some(link) = self.kept(target, Purpose::Replication) {
            link.hurry();
        }
    }

    /// The connection of raft's heartbeats to a follower, on which nothing waits. `None` if there is none at the moment, or the follower owes too
    /// many answers.
    pub(crate) fn prompt_link(&self, target: NodeId) -> Option<Arc<Link>> {
        self.kept(target, Purpose::Heartbeat).filter(|link| link.is_open() && link.unanswered() < UNANSWERED_MAX)
    }

    /// Asks a peer something on the shared request connection.
    ///
    /// # Errors
    /// [`CallError`] says whether the peer may have got it.
    pub(crate) async fn call(&self, target: NodeId, address: &str, request: &Request) -> Result<Response, CallError> {
        let known = {
            let links = self.requests.lock();
            links.get(&target).filter(|(known, link)| known == address && link.is_open()).map(|(_, link)| Arc::clone(link))
        };
        let link = match known {
            Some(link) => link,
            None => {
                let link = self.connect(target, address, Purpose::Request, CONNECT_PATIENCE).await.map_err(CallError::NotSent)?;
                // two that connect at once both succeed; the later connection is kept
                self.requests.lock().insert(target, (address.to_owned(), Arc::clone(&link)));
                link
            }
        };
        link.start(request).await.map_err(|_closed| CallError::Lost)
    }

    /// Asks a peer something on a connection of its own: a program that cannot read the question ends only that.
    ///
    /// # Errors
    /// The peer cannot be reached, or ends the connection without an answer.
    pub(crate) async fn call_apart(&self, target: NodeId, address: &str, request: &Request) -> io::Result<Response> {
        let link = self.connect(target, address, Purpose::Request, CONNECT_PATIENCE).await?;
        link.start(request).await.map_err(|_closed| io::Error::from(io::ErrorKind::ConnectionReset))
    }

    /// Ends all request connections.
    pub(crate) fn close(&self) {
        self.requests.lock().drain().for_each(|(_, (_, link))| link.close());
    }
}

/// Makes a [`PeerClient`] for each peer and purpose.
pub(crate) struct ClientFactory {
    pub(crate) peers: Arc<Peers>,
}

impl ClientFactory {
    fn client(&self, target: NodeId, node: &MemberInfo, purpose: Purpose) -> PeerClient {
        PeerClient { peers: Arc::clone(&self.peers), target, address: node.peer_address.clone(), purpose, link: None, missed: None }
    }
}

impl RaftNetworkFactory<TypeConfig> for ClientFactory {
    type Network = PeerClient;

    async fn new_client(&mut self, target: NodeId, node: &MemberInfo) -> PeerClient {
        self.client(target, node, Purpose::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &MemberInfo) -> PeerClient {
        self.client(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &MemberInfo) -> PeerClient {
        self.client(target, node, Purpose::Snapshot)
    }
}

/// openraft's way to one peer.
pub(crate) struct PeerClient {
    peers: Arc<Peers>,
    target: NodeId,
    address: String,
    purpose: Purpose,
    link: Option<Arc<Link>>,
    /// When the peer could not be reached, if that was the last attempt.
    missed: Option<Instant>,
}

type RpcError = RPCError<TypeConfig>;

impl PeerClient {
    async fn link(&mut self, patience: Duration) -> Result<Arc<Link>, RpcError> {
        let link = match self.link.as_ref().filter(|link| link.is_open()) {
            Some(link) => Arc::clone(link),
            None => self.connect(patience).await?,
        };
        // every time: of two that take turns, the one that is used counts
        self.peers.keep(self.target, self.purpose, &link);
        Ok(link)
    }

    async fn connect(&mut self, patience: Duration) -> Result<Arc<Link>, RpcError> {
        if self.missed.is_some_and(|missed| clock::since(missed) < RECONNECT_PAUSE) {
            return Err(RpcError::Unreachable(Unreachable::from_string("the peer could not be reached a moment ago")));
        }
        let patience = patience.clamp(Duration::from_millis(10), CONNECT_PATIENCE);
        match self.peers.connect(self.target, &self.address, self.purpose, patience).await {
            Ok(link) => {
                self.missed = None;
                self.link = Some(Arc::clone(&link));
                Ok(link)
            }
            Err(error) => {
                self.missed = Some(clock::now());
                tracing::debug!(node = self.target, %error, "Could not connect to a peer");
                Err(RpcError::Unreachable(Unreachable::new(&error)))
            }
        }
    }

    async fn ask(&mut self, request: &Request, action: RPCTypes, patience: Duration) -> Result<Response, RpcError> {
        let link = self.link(patience).await?;
        match tokio::time::timeout(patience, link.start(request)).await {
            Ok(answer) => answer.map_err(|_closed| connection_ended()),
            Err(_elapsed) => Err(RpcError::Timeout(self.timed_out(action, patience))),
        }
    }

    /// Gives the beat. Raft does not wait for the answer for longer than to the next one, and no clock but its own need be wound up for that.
    async fn beat(&mut self, append: Append, patience: Duration) -> Result<Response, RpcError> {
        let link = self.link(patience).await?;
        link.start(&Request::AppendOne(append)).await.map_err(|_closed| connection_ended())
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout { action, id: self.peers.node_id, target: self.target, timeout }
    }

    async fn send_snapshot(&mut self, vote: Vote, snapshot: Snapshot) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let read_failed = |error: io::Error| StreamingError::Unreachable(Unreachable::new(&error));
        let files = snapshot.snapshot.list().map_err(read_failed)?;
        let begin = Request::SnapshotBegin {
            vote: VoteRecord::from(&vote),
            last: snapshot.meta.last_log_id.map(Into::into),
            membership: (&snapshot.meta.last_membership).into(),
            files: files.clone(),
        };
        self.expect_continue(&begin).await?;
        for (name, _) in files {
            let mut file = fs::File::open(snapshot.snapshot.path().join(name)).map_err(read_failed)?;
            loop {
                let reading = self.peers.environment.blocking(move || read_chunk(file));
                let (rest, chunk) = reading.await.flatten().map_err(read_failed)?;
                file = rest;
                if chunk.is_empty() {
                    break;
                }
                self.expect_continue(&Request::SnapshotBytes(Bytes::from(chunk))).await?;
            }
        }
        match self.ask(&Request::SnapshotEnd, RPCTypes::InstallSnapshot, SNAPSHOT_PATIENCE).await? {
            Response::SnapshotInstalled(vote) => Ok(SnapshotResponse::new(vote.into())),
            other => Err(unexpected(&other).into()),
        }
    }

    async fn expect_continue(&mut self, request: &Request) -> Result<(), StreamingError<TypeConfig>> {
        match self.ask(request, RPCTypes::InstallSnapshot, SNAPSHOT_PATIENCE).await? {
            Response::SnapshotContinue => Ok(()),
            other => Err(unexpected(&other).into()),
        }
    }

    /// Asks for a vote, or whether there would be one, and tells those who watch.
    async fn ask_vote(
        &mut self,
        rpc: &VoteRequest<TypeConfig>,
        pre_vote: bool,
        patience: Duration,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let (vote, last) = (VoteRecord::from(&rpc.vote), rpc.last_log_id.map(Into::into));
        let (term, peer) = (vote.term, self.target);
        let request = match pre_vote {
            true => Request::PreVote { vote, last },
            false => Request::Vote { vote, last, transfer: rpc.leadership_transfer },
        };
        self.peers.environment.tell(term, || Event::VoteAsked { peer, pre_vote });
        match self.ask(&request, RPCTypes::Vote, patience).await? {
            Response::Voted { vote: answered, last: their_last, granted } => {
                self.peers.environment.tell(term, || {
                    let asked = (vote.voted_for, term, last);
                    let why = (!granted).then(|| ballot::why_refused(asked, &answered, their_last));
                    Event::VoteAnswered { peer, pre_vote, granted, why }
                });
                Ok(VoteResponse::new(Vote::from(answered), their_last.map(Into::into), granted))
            }
            other => {
                let why = Some(reason(&other));
                self.peers.environment.tell(term, || Event::VoteAnswered { peer, pre_vote, granted: false, why });
                Err(unexpected(&other))
            }
        }
    }
}

/// Entries on their way to a follower, over one connection.
struct Appending {
    peers: Arc<Peers>,
    target: NodeId,
    session: u64,
    window: Arc<Window>,
}

impl Appending {
    fn begin(peers: &Arc<Peers>, target: NodeId, session: u64) -> Self {
        peers.thrift.lock().begin(target, session, clock::now());
        Self { peers: Arc::clone(peers), target, session, window: Arc::default() }
    }

    fn asked(&self, last: Option<u64>) {
        self.peers.thrift.lock().asked(self.target, last, clock::now());
    }

    fn answered(&self, response: &Response) {
        let has = if let Response::Appended(Some(matched)) = response { matched.index } else { 0 };
        self.peers.thrift.lock().answered(self.target, has, clock::now());
        self.window.leave();
    }

    /// Whether it may have to wait after these entries.
    fn may_wait(&self, entries: &[Entry]) -> bool {
        let prompt = self.peers.prompt.lock();
        self.peers.thrift.lock().may_wait(self.target, entries, self.peers.node_id, &prompt, clock::now())
    }
}

impl Drop for Appending {
    fn drop(&mut self) {
        self.peers.thrift.lock().end(self.target, self.session);
    }
}

/// The next bytes of a file, none at its end.
fn read_chunk(file: fs::File) -> io::Result<(fs::File, Vec<u8>)> {
    let mut chunk = Vec::with_capacity(SNAPSHOT_CHUNK_BYTES);
    (&file).take(SNAPSHOT_CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
    Ok((file, chunk))
}

fn connection_ended() -> RpcError {
    RpcError::Network(NetworkError::from_string("the connection ended"))
}

fn unexpected(response: &Response) -> RpcError {
    RpcError::Network(NetworkError::from_string(reason(response)))
}

/// Why a peer did not do what it was asked.
fn reason(response: &Response) -> String {
    match response {
        Response::Failed(reason) | Response::Refused(reason) => reason.clone(),
        other => format!("unexpected answer {other:?}"),
    }
}

/// What a follower is sent, noted as told: nothing may leave before that.
fn append(peers: &Peers, request: &AppendEntriesRequest<TypeConfig>) -> Append {
    let append = Append {
        vote: VoteRecord::from(&request.vote),
        previous: request.prev_log_id.map(Into::into),
        entries: request.entries.iter().map(EntryRecord::from).collect(),
        committed: request.leader_commit.map(Into::into),
    };
    peers.told.lock().note(&append);
    append
}

/// What became of an append.
fn appended(response: Response) -> Result<StreamAppendResult<TypeConfig>, RpcError> {
    match response {
        Response::Appended(matched) => Ok(Ok(matched.map(Into::into))),
        Response::AppendConflict(at) => Ok(Err(StreamAppendError::Conflict(at.into()))),
        Response::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote.into()))),
        other => Err(unexpected(&other)),
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotFiles;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let last = rpc.entries.last().map(|entry| entry.log_id()).or(rpc.prev_log_id);
        match self.ask(&Request::AppendOne(append(&self.peers, &rpc)), RPCTypes::AppendEntries, option.soft_ttl()).await? {
            Response::Appended(matched) if matched == last.map(Into::into) => Ok(AppendEntriesResponse::Success),
            Response::Appended(matched) => Ok(AppendEntriesResponse::PartialSuccess(matched.map(Into::into))),
            Response::AppendConflict(_) => Ok(AppendEntriesResponse::Conflict),
            Response::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(vote.into())),
            other => Err(unexpected(&other)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: futures::Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.purpose == Purpose::Heartbeat {
                // one request now and then: a pipeline would be begun and ended for each
                let patience = option.soft_ttl();
                let answers = futures::stream::unfold((self, input), move |(client, mut input)| async move {
                    let beat = append(&client.peers, &input.next().await?);
                    let answer = client.beat(beat, patience).await.and_then(appended);
                    Some((answer, (client, input)))
                });
                return Ok(Box::pin(answers) as BoxStream<'s, _>);
            }
            // raft's pause after a failure comes before the next request: whoever connects without one tries again and again without a pause
            let mut input = input;
            let Some(first) = input.next().await else { return Ok(Box::pin(futures::stream::empty()) as BoxStream<'s, _>) };
            let input = futures::stream::once(std::future::ready(first)).chain(input);
            let link = self.link(option.soft_ttl()).await?;
            let session = NEXT_SESSION.fetch_add(1, Ordering::Relaxed);
            let patience = option.soft_ttl().max(APPEND_PATIENCE);
            let client = &*self;
            let appending = Arc::new(Appending::begin(&client.peers, client.target, session));
            let may_wait = {
                let appending = Arc::clone(&appending);
                move |request: &AppendEntriesRequest<TypeConfig>| appending.may_wait(&request.entries)
            };
            let input = Box::pin(window::within(input, Arc::clone(&appending.window)));
            let answers = unhurried(input, may_wait, Arc::clone(&link.hurried))
                .map(move |request| {
                    // where entries go, one without any says only what is committed
                    let only_commits = request.entries.is_empty();
                    appending.asked(request.entries.last().map(Entry::index));
                    let request = Request::AppendNext { session, append: append(&client.peers, &request) };
                    let answer = if only_commits { link.start_patiently(&request, COMMIT_PATIENCE) } else { link.start(&request) };
                    let (link, appending) = (Arc::clone(&link), Arc::clone(&appending));
                    async move {
                        match tokio::time::timeout(patience, answer).await {
                            Ok(Ok(response)) => {
                                appending.answered(&response);
                                appended(response)
                            }
                            Ok(Err(_closed)) => Err(connection_ended()),
                            Err(_elapsed) => {
                                link.close();
                                Err(RpcError::Timeout(client.timed_out(RPCTypes::AppendEntries, patience)))
                            }
                        }
                    }
                })
                .buffered(window::MAX)
                .scan(false, |ended, answer| {
                    let answer = (!*ended).then_some(answer);
                    *ended = !matches!(answer, Some(Ok(Ok(_))));
                    std::future::ready(answer)
                });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(&rpc, false, option.soft_ttl()).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(&rpc, true, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let peers = Arc::clone(&self.peers);
        let sending = peers.holds.begin(self.target, snapshot.meta.last_log_id.map_or(0, |id| id.index()));
        tokio::select! {
            result = self.send_snapshot(vote, snapshot) => {
                match result {
                    Ok(_) => sending.arrived(),
                    Err(_) => self.link = None,
                }
                result
            }
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let request = Request::Transfer {
            from: VoteRecord::from(req.from_leader()),
            to: *req.to_node_id(),
            last: req.last_log_id().copied().map(Into::into),
        };
        match self.ask(&request, RPCTypes::TransferLeader, option.soft_ttl()).await? {
            Response::Transferred => Ok(Ok(())),
            Response::TransferVoteChanged { expected, actual } => {
                Ok(Err(TransferLeaderError::VoteChanged { expected: expected.into(), actual: actual.into() }))
            }
            Response::TransferLogNotFlushed { expected, actual } => {
                Ok(Err(TransferLeaderError::LogNotFlushed { expected: expected.map(Into::into), actual: actual.map(Into::into) }))
            }
            other => Err(unexpected(&other)),
        }
    }
}
