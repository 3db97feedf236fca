//! The client's side of etcd's v3 API.

use std::collections::HashMap;
use std::io;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use trierarch_etcd_facade::messages::cluster::{MemberListRequest, MemberListResponse, StatusRequest, StatusResponse};
use trierarch_etcd_facade::messages::kv::{
    CompactionRequest, Compare, CompareResult, CompareTarget, CompareWith, PutRequest, PutResponse, RangeRequest, RangeResponse, Request,
    RequestOp, Response, TxnRequest, TxnResponse,
};
use trierarch_etcd_facade::messages::watch::{WatchAsk, WatchCreateRequest, WatchRequest, WatchResponse};

use super::h2::{Arrival, Connection};
use super::{Call, Codec, Reply};

/// A connection to a member that speaks etcd's API.
pub struct Grpc {
    connection: Connection,
    arrivals: Vec<Arrival>,
    pending: HashMap<u32, Pending>,
    headers: Headers,
}

/// Which answer a stream waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pending {
    Put,
    Range,
    Swap,
    Watch,
    /// Members first: a status says nothing of them.
    Members {
        call: u32,
    },
    Status {
        call: u32,
        voters: usize,
    },
    Compact,
    /// Answered; its end is still to come.
    Answered,
}

/// The ready blocks of headers, by method.
struct Headers {
    put: Vec<u8>,
    range: Vec<u8>,
    txn: Vec<u8>,
    compact: Vec<u8>,
    watch: Vec<u8>,
    status: Vec<u8>,
    members: Vec<u8>,
}

impl Grpc {
    /// A connection to `authority` (`host:port`).
    pub fn new(authority: &str) -> Self {
        let block = |path| Connection::header_block(authority, path);
        let headers = Headers {
            put: block("/etcdserverpb.KV/Put"),
            range: block("/etcdserverpb.KV/Range"),
            txn: block("/etcdserverpb.KV/Txn"),
            compact: block("/etcdserverpb.KV/Compact"),
            watch: block("/etcdserverpb.Watch/Watch"),
            status: block("/etcdserverpb.Maintenance/Status"),
            members: block("/etcdserverpb.Cluster/MemberList"),
        };
        Self { connection: Connection::default(), arrivals: Vec::new(), pending: HashMap::new(), headers }
    }

    fn answered(
        &mut self,
        stream: u32,
        message: Bytes,
        out: &mut Vec<u8>,
        replies: &mut Vec<(u64, Reply)>,
    ) -> Result<(), prost::DecodeError> {
        let Some(pending) = self.pending.get(&stream).copied() else { return Ok(()) };
        let reply = match pending {
            Pending::Put => Reply::Done { revision: revision(PutResponse::decode(message)?.header.unwrap_or_default().revision) },
            Pending::Range => {
                let response = RangeResponse::decode(message)?;
                Reply::Found { keys: response.kvs.len(), value_bytes: response.kvs.iter().map(|kv| kv.value.len()).sum() }
            }
            Pending::Swap => swapped(&TxnResponse::decode(message)?),
            Pending::Compact => Reply::Done { revision: 0 },
            Pending::Watch => {
                let response = WatchResponse::decode(message)?;
                if response.canceled {
                    Reply::Failed(response.cancel_reason)
                } else if response.created {
                    Reply::Watching
                } else {
                    Reply::Changed { values: response.events.into_iter().filter_map(|event| event.kv).map(|kv| kv.value).collect() }
                }
            }
            Pending::Members { call } => {
                let voters = MemberListResponse::decode(message)?.members.iter().filter(|member| !member.is_learner).count();
                let asked = self.connection.start(&self.headers.status, &StatusRequest {}, true, out);
                self.pending.insert(asked, Pending::Status { call, voters });
                self.pending.insert(stream, Pending::Answered);
                return Ok(());
            }
            Pending::Status { call, voters } => {
                let response = StatusResponse::decode(message)?;
                let leads = response.leader != 0 && response.leader == response.header.unwrap_or_default().member_id;
                replies.push((u64::from(call), Reply::Status { leads, voters }));
                self.pending.insert(stream, Pending::Answered);
                return Ok(());
            }
            Pending::Answered => return Ok(()),
        };
        if pending != Pending::Watch {
            self.pending.insert(stream, Pending::Answered);
        }
        replies.push((u64::from(stream), reply));
        Ok(())
    }
}

impl Codec for Grpc {
    fn hello(&mut self, out: &mut Vec<u8>) {
        Connection::hello(out);
    }

    fn call(&mut self, call: &Call, out: &mut Vec<u8>) -> u64 {
        let (connection, headers) = (&mut self.connection, &self.headers);
        let (stream, pending) = match call.clone() {
            Call::Put { key, value } => {
                (connection.start(&headers.put, &PutRequest { key, value, ..PutRequest::default() }, true, out), Pending::Put)
            }
            Call::Get { key, linearizable } => {
                let request = RangeRequest { key, serializable: !linearizable, ..RangeRequest::default() };
                (connection.start(&headers.range, &request, true, out), Pending::Range)
            }
            Call::Range { prefix, limit } => {
                let request =
                    RangeRequest { range_end: end_of_prefix(&prefix), key: prefix, limit: i64::from(limit), ..RangeRequest::default() };
                (connection.start(&headers.range, &request, true, out), Pending::Range)
            }
            Call::Swap { key, revision, value } => (connection.start(&headers.txn, &swap(key, revision, value), true, out), Pending::Swap),
            Call::Watch { prefix } => {
                let create = WatchCreateRequest { range_end: end_of_prefix(&prefix), key: prefix, ..WatchCreateRequest::default() };
                let request = WatchRequest { ask: Some(WatchAsk::Create(create)) };
                (connection.start(&headers.watch, &request, false, out), Pending::Watch)
            }
            Call::Status => {
                let stream = connection.start(&headers.members, &MemberListRequest { linearizable: false }, true, out);
                (stream, Pending::Members { call: stream })
            }
            Call::Compact { revision } => {
                let request = CompactionRequest { revision: i64::try_from(revision).unwrap_or(i64::MAX), physical: false };
                (connection.start(&headers.compact, &request, true, out), Pending::Compact)
            }
        };
        self.pending.insert(stream, pending);
        u64::from(stream)
    }

    fn take(&mut self, input: &mut BytesMut, out: &mut Vec<u8>, replies: &mut Vec<(u64, Reply)>) -> io::Result<()> {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        self.connection.take(input, out, &mut arrivals)?;
        for arrival in arrivals.drain(..) {
            match arrival {
                Arrival::Message(stream, message) => self.answered(stream, message, out, replies).map_err(io::Error::other)?,
                Arrival::End(stream) | Arrival::Reset(stream, _) => {
                    if let Some(pending) = self.pending.remove(&stream).filter(|pending| *pending != Pending::Answered) {
                        let call = if let Pending::Status { call, .. } = pending { call } else { stream };
                        replies.push((u64::from(call), Reply::Failed("the call ended without an answer".to_owned())));
                    }
                }
            }
        }
        self.arrivals = arrivals;
        Ok(())
    }
}

/// Replaces the value if the key's last change has this revision; reads the key if not.
fn swap(key: Bytes, revision: u64, value: Bytes) -> TxnRequest {
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        with: Some(CompareWith::ModRevision(i64::try_from(revision).unwrap_or(i64::MAX))),
        range_end: Bytes::new(),
    };
    let put = Request::Put(PutRequest { key: key.clone(), value, ..PutRequest::default() });
    let get = Request::Range(RangeRequest { key, keys_only: true, ..RangeRequest::default() });
    TxnRequest { compare: vec![compare], success: vec![RequestOp { request: Some(put) }], failure: vec![RequestOp { request: Some(get) }] }
}

fn swapped(response: &TxnResponse) -> Reply {
    if response.succeeded {
        return Reply::Done { revision: revision(response.header.unwrap_or_default().revision) };
    }
    let found = response.responses.iter().find_map(|op| match &op.response {
        Some(Response::Range(range)) => range.kvs.first(),
        _ => None,
    });
    Reply::Refused { revision: found.map_or(0, |kv| revision(kv.mod_revision)) }
}

fn revision(signed: i64) -> u64 {
    u64::try_from(signed).unwrap_or(0)
}

/// The first key that is greater than all keys below a prefix.
fn end_of_prefix(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end.into();
        }
    }
    // everything
    Bytes::from_static(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(end_of_prefix(b"a/"), Bytes::from_static(b"a0"));
        assert_eq!(end_of_prefix(&[1, 0xff, 0xff]), Bytes::from_static(&[2]));
        assert_eq!(end_of_prefix(&[0xff]), Bytes::from_static(&[0]));
    }
}
