//! The store's native side on the network: a member that answers [`crate::protocol`] over TLS. It adds as little as a server can: requests
//! are pipelined, linearizable reads that arrive together ask the leader once, answers that are ready together leave in one write.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use trierarch_raft::{Cause, Committed, Event, EventKind, Guard, Member, MemberRole, Op, Store, Txn, TxnId, View, WatchError};

use crate::protocol::{self, Account, Digest, Request, Response};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Threads that serve connections.
const WORKERS: usize = 2;
/// Answers that leave in one write, about.
const WRITE_BYTES: usize = 64 << 10;
/// Under which number the encoded row is kept with an event.
const ENCODING: u32 = 1;

type Answers = mpsc::UnboundedSender<Bytes>;

/// Serves clients until the listener fails.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, store: Store) -> io::Result<()> {
    let workers: Vec<Handle> = (0..WORKERS).map(worker).collect::<io::Result<_>>()?;
    for worker in workers.iter().cycle() {
        let tcp = listener.accept().await?.0.into_std()?;
        let (tls, store) = (tls.clone(), store.clone());
        worker.spawn(async move {
            // a client that goes away is no event
            drop(serve_connection(TcpStream::from_std(tcp)?, tls, store).await);
            io::Result::Ok(())
        });
    }
    Ok(())
}

/// A thread that serves its own connections, as the API server's do: nothing of a connection moves between threads.
fn worker(number: usize) -> io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let serving = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name(format!("native-{number}")).spawn(serving)?;
    Ok(handle)
}

async fn serve_connection(tcp: TcpStream, tls: TlsAcceptor, store: Store) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let (mut reader, writer) = tokio::io::split(tls.accept(tcp).await?);
    let (answers, queued) = mpsc::unbounded_channel();
    tokio::spawn(write_answers(writer, queued));
    let mut input = BytesMut::with_capacity(WRITE_BYTES);
    while reader.read_buf(&mut input).await? > 0 {
        let mut reads = Vec::new();
        while let Some((id, request)) = protocol::next_request(&mut input)? {
            accept(&store, &answers, &mut reads, id, request);
        }
        if !reads.is_empty() {
            tokio::spawn(answer_reads(store.clone(), answers.clone(), reads));
        }
    }
    Ok(())
}

/// Answers what needs no waiting, starts what does, and puts linearizable reads aside.
fn accept(store: &Store, answers: &Answers, reads: &mut Vec<(u64, Request)>, id: u64, request: Request) {
    match request {
        Request::Get { linearizable: true, .. } | Request::Range { linearizable: true, .. } => reads.push((id, request)),
        Request::Get { .. } | Request::Range { .. } => respond(answers, id, &read(&store.view(), &request)),
        Request::Put { key, value } => write(store, answers, id, Vec::new(), key, value),
        Request::Swap { revision: 0, key, value } => write(store, answers, id, vec![Guard::Absent { key: key.clone() }], key, value),
        Request::Swap { revision, key, value } => {
            write(store, answers, id, vec![Guard::Revision { key: key.clone(), revision }], key, value)
        }
        Request::Watch { prefix } => drop(tokio::spawn(watch(store.clone(), answers.clone(), id, prefix))),
        Request::Status => respond(answers, id, &status(store)),
        Request::Account => respond(answers, id, &account(store)),
        Request::Digest { prefix } => {
            let (store, answers) = (store.clone(), answers.clone());
            tokio::spawn(async move { respond(&answers, id, &digest(&store, prefix).await) });
        }
        Request::AddMember { id: member, peer } => {
            let (store, answers) = (store.clone(), answers.clone());
            tokio::spawn(async move { respond(&answers, id, &add_member(&store, member, &peer).await) });
        }
    }
}

fn respond(answers: &Answers, id: u64, response: &Response) {
    let mut frame = BytesMut::new();
    protocol::encode_response(id, response, &mut frame);
    // the client may have gone
    drop(answers.send(frame.freeze()));
}

fn write(store: &Store, answers: &Answers, id: u64, guards: Vec<Guard>, key: Bytes, value: Bytes) {
    let (store, answers) = (store.clone(), answers.clone());
    tokio::spawn(async move {
        let op = Op::Put { key, value, split: 0, terms: Vec::new() };
        let txn = Txn { id: TxnId::random(), guards, ops: vec![op], cause: Cause::default() };
        let response = match store.txn(txn, PATIENCE).await {
            Ok(Committed::At(revision)) => Response::Done { revision },
            Ok(Committed::Refused(refusal)) => Response::Refused { revision: refusal.actual.unwrap_or(0) },
            Err(error) => Response::Failed(error.to_string()),
        };
        respond(&answers, id, &response);
    });
}

async fn answer_reads(store: Store, answers: Answers, reads: Vec<(u64, Request)>) {
    let view = store.linearizable_view(PATIENCE).await;
    for (id, request) in reads {
        match &view {
            Ok(view) => respond(&answers, id, &read(view, &request)),
            Err(error) => respond(&answers, id, &Response::Failed(error.to_string())),
        }
    }
}

fn read(view: &View, request: &Request) -> Response {
    match request {
        Request::Get { key, .. } => {
            let record = view.get(key);
            Response::Value {
                revision: record.as_ref().map_or(0, |record| record.revision),
                value: record.map(|record| record.value.clone()),
            }
        }
        Request::Range { limit, prefix, .. } => {
            let limit = usize::try_from(*limit).unwrap_or(usize::MAX);
            let records = view.range(prefix, None).take(limit);
            Response::Values(records.map(|record| (record.key.clone(), record.revision, record.value.clone())).collect())
        }
        other => Response::Failed(format!("not a read: {other:?}")),
    }
}

fn status(store: &Store) -> Response {
    let status = store.status();
    let voters = status.members.iter().filter(|member| member.role == MemberRole::Voter).count();
    Response::Status { member: status.node_id, leader: status.leader.unwrap_or(0), voters: u32::try_from(voters).unwrap_or(u32::MAX) }
}

fn account(store: &Store) -> Response {
    let status = store.status();
    Response::Account(Account {
        term: status.term,
        leader: status.leader.unwrap_or(0),
        applied: status.applied,
        revision: status.revision,
        compacted: status.compacted,
        log_syncs: status.log_syncs,
        votes: status.members.iter().any(|member| member.id == status.node_id && member.role == MemberRole::Voter),
    })
}

async fn digest(store: &Store, prefix: Bytes) -> Response {
    let view = match store.linearizable_view(PATIENCE).await {
        Ok(view) => view,
        Err(error) => return Response::Failed(error.to_string()),
    };
    let hashing = tokio::task::spawn_blocking(move || {
        let (mut digest, mut hasher) = (Digest::default(), DefaultHasher::new());
        for record in view.range(&prefix, None) {
            (&record.key, record.revision, &record.value).hash(&mut hasher);
            digest.keys += 1;
            digest.value_bytes += record.value.len() as u64;
        }
        Digest { hash: hasher.finish(), ..digest }
    });
    hashing.await.map_or_else(|error| Response::Failed(error.to_string()), Response::Digest)
}

async fn add_member(store: &Store, id: u64, peer: &Bytes) -> Response {
    let peer_address = String::from_utf8_lossy(peer).into_owned();
    let member = Member { id, peer_address, api_address: String::new(), role: MemberRole::Voter };
    match store.add_member(member, PATIENCE).await {
        Ok(()) => Response::Done { revision: 0 },
        Err(error) => Response::Failed(error.to_string()),
    }
}

async fn watch(store: Store, answers: Answers, id: u64, prefix: Bytes) {
    let watching = async {
        let mut watcher = store.watch(&prefix, store.view().revision()).await?;
        // an empty answer says that nothing is missed from now on
        respond(&answers, id, &Response::Events(Vec::new()));
        loop {
            let rows: Vec<Bytes> = watcher.next().await?.iter().filter(|event| event.kind == EventKind::Put).map(row).collect();
            let mut frame = BytesMut::new();
            protocol::encode_events_header(id, rows.iter().map(Bytes::len).sum(), &mut frame);
            rows.iter().for_each(|row| frame.extend_from_slice(row));
            if answers.send(frame.freeze()).is_err() {
                return Ok::<(), WatchError>(());
            }
        }
    };
    if let Err(error) = watching.await {
        respond(&answers, id, &Response::Failed(error.to_string()));
    }
}

/// The event as a row, encoded once for all watchers.
fn row(event: &Arc<Event>) -> Bytes {
    let mut encoded = event.encoded.lock();
    if let Some((_, row)) = encoded.iter().find(|(encoding, _)| *encoding == ENCODING) {
        return row.clone();
    }
    let (key, value) = (&event.record.key, &event.record.value);
    let mut row = BytesMut::with_capacity(protocol::row_bytes(key, value));
    protocol::encode_row(key, event.revision, value, &mut row);
    let row = row.freeze();
    encoded.push((ENCODING, row.clone()));
    row
}

async fn write_answers(mut writer: impl AsyncWrite + Unpin, mut queued: mpsc::UnboundedReceiver<Bytes>) -> io::Result<()> {
    let mut out = BytesMut::with_capacity(WRITE_BYTES);
    while let Some(first) = queued.recv().await {
        out.extend_from_slice(&first);
        while out.len() < WRITE_BYTES
            && let Ok(next) = queued.try_recv()
        {
            out.extend_from_slice(&next);
        }
        writer.write_all(&out).await?;
        writer.flush().await?;
        out.clear();
    }
    Ok(())
}
