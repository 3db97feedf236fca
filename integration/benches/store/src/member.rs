//! The store's native side on the network: a member that answers [`crate::protocol`] over TLS. It adds as little as a server can: requests
//! are pipelined, linearizable reads that arrive together ask the leader once, answers that are ready together leave in one write.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use trierarch_raft::{Cause, Committed, Event, EventKind, Guard, MemberRole, Op, Store, Txn, TxnId, View, WatchError};

use crate::protocol::{self, Request, Response};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);
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
    loop {
        let (tcp, _) = listener.accept().await?;
        let (tls, store) = (tls.clone(), store.clone());
        tokio::spawn(async move {
            // a client that goes away is no event
            drop(serve_connection(tcp, tls, store).await);
        });
    }
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
