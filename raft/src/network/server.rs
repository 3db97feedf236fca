//! The listening side of peer traffic: hands requests to raft and to the leader's part of the store.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, TransferLeaderError, TransferLeaderRequest};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::frame::{self, FRAME_BYTES_MAX};
use super::link::may_double;
use super::messages::{Append, Hello, HelloReply, Purpose, Request, Response};
use super::outgoing::{Outgoing, write_frames};
use super::votes::{Ballot, cast_vote};
use super::window;
use crate::command::NodeId;
use crate::core::Core;
use crate::environment::{Environment, Listener, Stream};
use crate::experiment::Direction;
use crate::experiment::line::Line;
use crate::happenings::Event;
use crate::raft_types::{Snapshot, SnapshotMeta, TypeConfig, Vote};
use crate::records::{LogIdRecord, StoredMembershipRecord, VoteRecord};
use crate::reign_check;
use crate::snapshot::SnapshotFiles;

const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// Requests of one connection that are worked on at once.
const REQUESTS_IN_FLIGHT_MAX: usize = 8192;
/// How long the answer to an append without entries may wait for the next one.
const ANSWER_PATIENCE: Duration = Duration::from_millis(2);

/// Accepts peers until `core.closing`.
pub(crate) async fn serve(mut listener: Listener, core: Arc<Core>, snapshots_dir: PathBuf) {
    let closing = core.closing.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        match accepted {
            Ok(connection) => {
                let (core, snapshots_dir) = (Arc::clone(&core), snapshots_dir.clone());
                tokio::spawn(async move {
                    let closing = core.closing.clone();
                    let result = tokio::select! {
                        result = serve_connection(connection, core, snapshots_dir) => result,
                        () = closing.cancelled() => Ok(()),
                    };
                    if let Err(error) = result {
                        tracing::debug!(%error, "Lost a connection from a peer");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "Could not accept a peer");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection(connection: Box<dyn Stream>, core: Arc<Core>, snapshots_dir: PathBuf) -> io::Result<()> {
    let greeting = async {
        let mut stream: Box<dyn Stream> = match &core.peers.tls {
            None => connection,
            Some(tls) => Box::new(tokio_rustls::TlsAcceptor::from(Arc::clone(&tls.server)).accept(connection).await?),
        };
        let Some(hello) = frame::read_greeting::<Hello>(&mut stream).await? else {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        };
        core.faults().cross(hello.from, Direction::In).await;
        let reply = greet(&core, &hello);
        core.faults().cross(hello.from, Direction::Out).await;
        stream.write_all(&frame::encode(0, &reply)).await?;
        stream.flush().await?;
        match reply {
            HelloReply::Welcome(_) => Ok((stream, hello)),
            HelloReply::Refused(reason) => {
                tracing::warn!(node = hello.from, reason, "Refused a peer");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
            }
        }
    };
    let (stream, hello) =
        tokio::time::timeout(HELLO_PATIENCE, greeting).await.map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    let (reader, writer) = tokio::io::split(stream);
    let _caller = is_a_leaders(hello.purpose).then(|| core.callers.enter(hello.from));
    let (responses, queued) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let _stop_on_return = stop.clone().drop_guard();
    // whoever waits for an answer gets one that does not wait
    tokio::spawn(write_frames(writer, queued, Arc::default(), stop.clone()));
    // the connection may have ended
    let responses = Line::new(core.faults(), hello.from, Direction::Out, true, move |frame| drop(responses.send(frame)));
    let (overdue, mut late_requests) = mpsc::unbounded_channel();
    let requests = Line::new(core.faults(), hello.from, Direction::In, may_double(hello.purpose), move |late| drop(overdue.send(late)));
    let mut connection = Connection {
        core,
        from: hello.from,
        purpose: hello.purpose,
        responses: Arc::new(responses),
        snapshots_dir,
        slots: Arc::new(tokio::sync::Semaphore::new(REQUESTS_IN_FLIGHT_MAX)),
        pipeline: None,
        incoming: None,
    };
    let mut reader = BufReader::with_capacity(32 << 10, reader);
    loop {
        let received = {
            // read on when a late request interrupts: half a frame must not be lost
            let reading = frame::read::<Request>(&mut reader, FRAME_BYTES_MAX);
            tokio::pin!(reading);
            loop {
                tokio::select! {
                    received = &mut reading => break received?,
                    Some((id, request)) = late_requests.recv() => connection.accept(id, request).await,
                    () = stop.cancelled() => break None,
                }
            }
        };
        let Some(received) = received else { return Ok(()) };
        if let Some((id, request)) = requests.pass(received) {
            connection.accept(id, request).await;
        }
    }
}

/// Whether a leader keeps such a connection open.
fn is_a_leaders(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::Replication | Purpose::Heartbeat)
}

/// Whether a peer may talk to this member.
fn greet(core: &Core, hello: &Hello) -> HelloReply {
    if hello.cluster_id != core.peers.cluster_id {
        HelloReply::Refused(format!("this is cluster {:?}, not {:?}", core.peers.cluster_id, hello.cluster_id))
    } else if hello.to != core.peers.node_id {
        HelloReply::Refused(format!("this is member {}, not {}", core.peers.node_id, hello.to))
    } else {
        match core.peers.acquaintances.check(hello.from, &hello.introduction) {
            Ok(()) => HelloReply::Welcome(core.peers.acquaintances.own),
            Err(reason) => HelloReply::Refused(reason),
        }
    }
}

struct Connection {
    core: Arc<Core>,
    from: NodeId,
    purpose: Purpose,
    responses: Arc<Line<Outgoing>>,
    snapshots_dir: PathBuf,
    slots: Arc<tokio::sync::Semaphore>,
    pipeline: Option<Pipeline>,
    incoming: Option<Incoming>,
}

/// A session of appends that raft works on in order.
struct Pipeline {
    session: u64,
    requests: futures::channel::mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
    /// The request's id, and whether its answer may wait for the next one.
    ids: mpsc::UnboundedSender<(u64, bool)>,
}

/// A snapshot that is being received.
struct Incoming {
    vote: Vote,
    last: Option<LogIdRecord>,
    membership: StoredMembershipRecord,
    files: SnapshotFiles,
    /// What is still to come, the current file first.
    expected: std::collections::VecDeque<(fs::File, u64)>,
}

impl Connection {
    /// Works on a request; whatever must keep its order is done before this returns.
    async fn accept(&mut self, id: u64, request: Request) {
        match request {
            Request::AppendNext { session, append } => self.append_next(id, session, append).await,
            Request::SnapshotBegin { .. } | Request::SnapshotBytes(_) | Request::SnapshotEnd => {
                let response = self.receive_snapshot(request).await.unwrap_or_else(|error| {
                    self.incoming = None;
                    Response::Failed(error.to_string())
                });
                self.respond(id, &response);
            }
            Request::AppendOne(append) if is_of_own_leader(&self.core, &append) => self.respond(id, &Response::Appended(None)),
            request => {
                let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
                let (core, from, responses) = (Arc::clone(&self.core), self.from, Arc::clone(&self.responses));
                if matches!(request, Request::Propose { .. }) {
                    // it goes on when it has the entry
                    core.peers.hurry(from);
                }
                tokio::spawn(async move {
                    let response = answer(&core, request).await;
                    responses.send(Outgoing::new(id, &response));
                    if matches!(response, Response::Proposed { .. } | Response::ReadIndex(_)) {
                        // it goes on when it has heard that this is committed
                        core.peers.hurry(from);
                    }
                    drop(slot);
                });
            }
        }
    }

    fn respond(&self, id: u64, response: &Response) {
        self.responses.send(Outgoing::new(id, response));
    }

    async fn append_next(&mut self, id: u64, session: u64, append: Append) {
        let request = match take_append(&self.core, append) {
            Ok(request) => request,
            Err(refusal) => return self.respond(id, &refusal),
        };
        if self.pipeline.as_ref().is_none_or(|pipeline| pipeline.session != session) {
            self.pipeline = Some(self.start_pipeline(session));
        }
        let Some(pipeline) = &mut self.pipeline else { return };
        // where entries go, an append without any says what is committed, and the answer to that is no news; older programs beat with such
        // appends, too, and readers wait for the answers
        let may_wait = request.entries.is_empty() && self.purpose == Purpose::Replication;
        let accepted = pipeline.ids.send((id, may_wait)).is_ok() && futures::SinkExt::send(&mut pipeline.requests, request).await.is_ok();
        if !accepted {
            // ended by an earlier failure; if its task took the id, it answers, and a second answer is ignored
            self.respond(id, &Response::Failed("the pipeline has failed".into()));
        }
    }

    fn start_pipeline(&self, session: u64) -> Pipeline {
        let (requests, stream) = futures::channel::mpsc::channel(window::MAX);
        let (ids, mut waiting) = mpsc::unbounded_channel::<(u64, bool)>();
        let (raft, responses) = (self.core.raft(), Arc::clone(&self.responses));
        tokio::spawn(async move {
            let results = raft.stream_append(stream);
            futures::pin_mut!(results);
            while let Some(result) = results.next().await {
                let Some((id, may_wait)) = waiting.recv().await else { return };
                let response = match result {
                    Ok(Ok(matched)) => Response::Appended(matched.map(Into::into)),
                    Ok(Err(StreamAppendError::Conflict(at))) => Response::AppendConflict(at.into()),
                    Ok(Err(StreamAppendError::HigherVote(vote))) => Response::HigherVote(VoteRecord::from(&vote)),
                    Err(fatal) => Response::Failed(fatal.to_string()),
                };
                responses.send(match &response {
                    Response::Appended(_) if may_wait => Outgoing::patient(id, &response, ANSWER_PATIENCE),
                    _ => Outgoing::new(id, &response),
                });
            }
            waiting.close();
            while let Some((id, _)) = waiting.recv().await {
                responses.send(Outgoing::new(id, &Response::Failed("an earlier append of the pipeline failed".into())));
            }
        });
        Pipeline { session, requests, ids }
    }

    async fn receive_snapshot(&mut self, request: Request) -> io::Result<Response> {
        match request {
            Request::SnapshotBegin { vote, last, membership, files } => {
                let received = SnapshotFiles::receive_into(&self.snapshots_dir)?;
                let mut expected = std::collections::VecDeque::new();
                for (name, size) in files {
                    if !SnapshotFiles::is_plain_name(&name) {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a snapshot holds no file {name:?}")));
                    }
                    expected.push_back((fs::File::create_new(received.path().join(name))?, size));
                }
                let mut incoming = Incoming { vote: vote.into(), last, membership, files: received, expected };
                incoming.finish_empty_files()?;
                self.incoming = Some(incoming);
                Ok(Response::SnapshotContinue)
            }
            Request::SnapshotBytes(bytes) => {
                let incoming = self.incoming.as_mut().ok_or_else(|| io::Error::other("no snapshot was begun"))?;
                incoming.write(&self.core.config.environment, bytes).await?;
                Ok(Response::SnapshotContinue)
            }
            _ => {
                let incoming = self.incoming.take().ok_or_else(|| io::Error::other("no snapshot was begun"))?;
                if !incoming.expected.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot is incomplete"));
                }
                let meta = SnapshotMeta { last_log_id: incoming.last.map(Into::into), last_membership: incoming.membership.into_stored()? };
                let snapshot = Snapshot { meta, snapshot: incoming.files };
                let installed = self.core.raft().install_full_snapshot(incoming.vote, snapshot).await;
                let vote = VoteRecord::from(&installed.map_err(|fatal| io::Error::other(fatal.to_string()))?.vote);
                let index = incoming.last.map_or(0, |last| last.index);
                self.core.config.environment.tell(vote.term, || Event::SnapshotReceived { index });
                Ok(Response::SnapshotInstalled(vote))
            }
        }
    }
}

impl Incoming {
    /// Writes the next bytes; a file that has all of its own is synced and closed.
    async fn write(&mut self, environment: &Environment, bytes: Bytes) -> io::Result<()> {
        let (mut file, left) = self.expected.pop_front().ok_or_else(|| io::Error::other("more bytes than files"))?;
        let left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "more bytes than the file has"))?;
        let writing = move || {
            file.write_all(&bytes)?;
            if left == 0 {
                file.sync_all()?;
            }
            io::Result::Ok(file)
        };
        let file = environment.blocking(writing).await??;
        if left > 0 {
            self.expected.push_front((file, left));
        }
        self.finish_empty_files()
    }

    /// Closes the files at the front that have no bytes.
    fn finish_empty_files(&mut self) -> io::Result<()> {
        while let Some((file, _)) = self.expected.pop_front_if(|(_, left)| *left == 0) {
            file.sync_all()?;
        }
        Ok(())
    }
}

/// Whether a leader asks if it still reigns, and this member follows it: nobody else need be asked.
fn is_of_own_leader(core: &Core, append: &Append) -> bool {
    core.log.vote().is_some_and(|saved| reign_check::is_of_own_leader(append, saved))
}

/// What raft is asked for a leader's append, unless it contradicts what was applied here.
fn take_append(core: &Core, append: Append) -> Result<AppendEntriesRequest<TypeConfig>, Response> {
    core.hear();
    if core.contradicts(&append) {
        core.diverge();
        return Err(Response::Failed("this member has to start over".into()));
    }
    append_request(append).map_err(|error| core.cannot_read(&error))
}

fn append_request(append: Append) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    Ok(AppendEntriesRequest {
        vote: append.vote.into(),
        prev_log_id: append.previous.map(Into::into),
        entries: append.entries.into_iter().map(crate::records::EntryRecord::into_entry).collect::<io::Result<Vec<_>>>()?,
        leader_commit: append.committed.map(Into::into),
    })
}

/// The answer to a request that needs no order.
async fn answer(core: &Arc<Core>, request: Request) -> Response {
    match try_answer(core, request).await {
        Ok(response) | Err(response) => response,
    }
}

async fn try_answer(core: &Arc<Core>, request: Request) -> Result<Response, Response> {
    let failed = |error: &dyn std::fmt::Display| Response::Failed(error.to_string());
    match request {
        Request::AppendOne(append) => {
            let request = take_append(core, append)?;
            core.beat.notify_one();
            let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
            let previous = request.prev_log_id;
            match core.raft().append_entries(request).await.map_err(|error| failed(&error))? {
                AppendEntriesResponse::Success => Ok(Response::Appended(last.map(Into::into))),
                AppendEntriesResponse::PartialSuccess(matched) => Ok(Response::Appended(matched.map(Into::into))),
                AppendEntriesResponse::Conflict => Ok(Response::AppendConflict(previous.map(Into::into).unwrap_or_default())),
                AppendEntriesResponse::HigherVote(vote) => Ok(Response::HigherVote(VoteRecord::from(&vote))),
            }
        }
        Request::Vote { vote, last, transfer } => cast_vote(core, Ballot { vote, last, transfer, pre_vote: false }).await,
        Request::PreVote { vote, last } => cast_vote(core, Ballot { vote, last, transfer: false, pre_vote: true }).await,
        Request::Transfer { .. } if !core.may_vote_for(core.log.last()) => {
            Err(Response::Failed("this member abstains from elections until it has caught up".into()))
        }
        Request::Transfer { from, to, last } => {
            let request = TransferLeaderRequest::new(from.into(), to, last.map(Into::into));
            match core.raft().handle_transfer_leader(request).await.map_err(|error| failed(&error))? {
                Ok(()) => Ok(Response::Transferred),
                Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                    Ok(Response::TransferVoteChanged { expected: VoteRecord::from(&expected), actual: VoteRecord::from(&actual) })
                }
                Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                    Ok(Response::TransferLogNotFlushed { expected: expected.map(Into::into), actual: actual.map(Into::into) })
                }
            }
        }
        Request::Propose { command, after_index, fresh } => Ok(core.propose_as_leader(command, after_index, fresh).await),
        Request::ReadIndex => Ok(core.read_index_as_leader().await),
        Request::AddMember(member) => Ok(core.add_member_as_leader(member).await),
        Request::RemoveMember(id) => Ok(core.remove_member_as_leader(id).await),
        Request::TransferLeadership(to) => Ok(core.transfer_as_leader(to).await),
        Request::TakesWrites => Ok(core.takes_writes()),
        Request::Standing => Ok(Response::Standing(core.standing())),
        Request::LeaderGone(reign) => Ok(core.bear_witness(reign).await),
        // handled in order by the connection
        Request::AppendNext { .. } | Request::SnapshotBegin { .. } | Request::SnapshotBytes(_) | Request::SnapshotEnd => {
            Err(Response::Failed("out of order".into()))
        }
    }
}
