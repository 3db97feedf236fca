//! What etcd promises its clients, asked of the facade by a generic gRPC client over TLS.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity as ClientIdentity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use trierarch_etcd_facade::member::MemberArgs;
use trierarch_etcd_facade::messages::cluster::{MemberListRequest, MemberListResponse, StatusRequest, StatusResponse};
use trierarch_etcd_facade::messages::kv::{Request as Step, *};
use trierarch_etcd_facade::messages::lease::*;
use trierarch_etcd_facade::messages::watch::*;
use trierarch_etcd_facade::server;
use trierarch_etcd_facade::tls::Identity;

/// A client.
#[derive(Clone)]
struct Client {
    grpc: Grpc<Channel>,
}

/// A group of one, and a client of it.
struct Served {
    client: Client,
    store: trierarch_raft::Store,
    server: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Served {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::make(directory.path()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let args = MemberArgs {
            id: 1,
            peers: vec![(1, "127.0.0.1:0".parse().unwrap())],
            clients: vec![(1, address)],
            data_dir: directory.path().join("store"),
            identity: directory.path().to_owned(),
        };
        let store = args.open().await.unwrap();
        let served = identity.clone();
        let served_store = store.clone();
        let server = tokio::spawn(async move { server::serve(listener, &served, served_store, args.data_dir).await.unwrap() });
        let read = |path: &std::path::Path| std::fs::read(path).unwrap();
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&identity.authority)))
            .identity(ClientIdentity::from_pem(read(&identity.certificate), read(&identity.key)))
            .domain_name("localhost");
        let channel = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap().connect().await.unwrap();
        Self { client: Client { grpc: Grpc::new(channel) }, store, server, _directory: directory }
    }

    /// The databases' threads must not outlive the process.
    async fn stop(self) {
        self.server.abort();
        assert!(self.server.await.is_err_and(|error| error.is_cancelled()));
        self.store.close().await;
    }
}

impl std::ops::Deref for Served {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Served {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Client {
    async fn ask<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.unwrap();
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    async fn put(&mut self, key: &str, value: &str) -> PutResponse {
        let request = PutRequest { key: bytes(key), value: bytes(value), prev_kv: true, ..PutRequest::default() };
        self.ask("/etcdserverpb.KV/Put", request).await.unwrap()
    }

    async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.ask("/etcdserverpb.KV/Range", request).await
    }

    async fn get(&mut self, key: &str) -> Option<KeyValue> {
        self.range(RangeRequest { key: bytes(key), ..RangeRequest::default() }).await.unwrap().kvs.pop()
    }

    async fn delete(&mut self, key: &str, range_end: &str) -> DeleteRangeResponse {
        let request = DeleteRangeRequest { key: bytes(key), range_end: bytes(range_end), prev_kv: true };
        self.ask("/etcdserverpb.KV/DeleteRange", request).await.unwrap()
    }

    async fn txn(&mut self, compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> Result<TxnResponse, Status> {
        self.ask("/etcdserverpb.KV/Txn", TxnRequest { compare, success, failure }).await
    }

    async fn compact(&mut self, revision: i64) -> Result<CompactionResponse, Status> {
        self.ask("/etcdserverpb.KV/Compact", CompactionRequest { revision, physical: false }).await
    }

    async fn watch(&mut self) -> (mpsc::Sender<WatchRequest>, Streaming<WatchResponse>) {
        let (asks, stream) = mpsc::channel(8);
        self.grpc.ready().await.unwrap();
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let answers = self.grpc.streaming(Request::new(ReceiverStream::new(stream)), path, codec).await.unwrap();
        (asks, answers.into_inner())
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn compare(key: &str, target: CompareTarget, with: CompareWith) -> Compare {
    Compare { result: CompareResult::Equal.into(), target: target.into(), key: bytes(key), with: Some(with), range_end: Bytes::new() }
}

fn put_op(key: &str, value: &str) -> RequestOp {
    RequestOp { request: Some(Step::Put(PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() })) }
}

fn get_op(key: &str) -> RequestOp {
    RequestOp { request: Some(Step::Range(RangeRequest { key: bytes(key), ..RangeRequest::default() })) }
}

async fn next(answers: &mut Streaming<WatchResponse>) -> WatchResponse {
    tokio::time::timeout(std::time::Duration::from_secs(20), answers.message()).await.expect("in time").unwrap().expect("not the end")
}

fn create(key: &str, range_end: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: bytes(key), range_end: bytes(range_end), start_revision, prev_kv: true, ..WatchCreateRequest::default() }
}

fn ask(ask: WatchAsk) -> WatchRequest {
    WatchRequest { ask: Some(ask) }
}

#[tokio::test]
async fn keys_have_revisions_and_versions() {
    let mut etcd = Served::start().await;
    let first = etcd.put("a", "1").await;
    let revision = first.header.unwrap().revision;
    assert_eq!((revision, first.prev_kv), (2, None), "an empty store is at revision 1");
    let second = etcd.put("a", "2").await;
    assert_eq!(second.prev_kv.unwrap().value, "1");
    let now = etcd.get("a").await.unwrap();
    assert_eq!((now.create_revision, now.mod_revision, now.version, now.value), (revision, revision + 1, 2, bytes("2")));
    let deleted = etcd.delete("a", "").await;
    assert_eq!((deleted.deleted, deleted.header.unwrap().revision, deleted.prev_kvs.len()), (1, revision + 2, 1));
    assert_eq!(etcd.get("a").await, None);
    let none = etcd.delete("a", "").await;
    assert_eq!((none.deleted, none.header.unwrap().revision), (0, revision + 2), "nothing happened");
    etcd.put("a", "3").await;
    assert_eq!(etcd.get("a").await.unwrap().version, 1, "it begins anew");
    etcd.stop().await;
}

#[tokio::test]
async fn transactions_compare_then_choose() {
    let mut etcd = Served::start().await;
    let absent = || vec![compare("a", CompareTarget::Mod, CompareWith::ModRevision(0))];
    let made = etcd.txn(absent(), vec![put_op("a", "1"), put_op("b", "1"), get_op("b")], vec![get_op("a")]).await.unwrap();
    let revision = made.header.unwrap().revision;
    assert!(made.succeeded);
    let Some(Response::Range(seen)) = &made.responses[2].response else { panic!("{made:?}") };
    assert_eq!((seen.kvs[0].mod_revision, seen.kvs[0].version), (revision, 1), "a read sees what the transaction wrote before it");
    let again = etcd.txn(absent(), vec![put_op("a", "2")], vec![get_op("a")]).await.unwrap();
    let Some(Response::Range(found)) = &again.responses[0].response else { panic!("{again:?}") };
    assert_eq!((again.succeeded, found.kvs[0].value.clone(), found.kvs[0].mod_revision), (false, bytes("1"), revision));
    let swap = vec![compare("a", CompareTarget::Mod, CompareWith::ModRevision(revision))];
    assert!(etcd.txn(swap.clone(), vec![put_op("a", "2")], vec![]).await.unwrap().succeeded);
    assert!(!etcd.txn(swap, vec![put_op("a", "3")], vec![]).await.unwrap().succeeded);
    let value = vec![compare("none", CompareTarget::Value, CompareWith::Value(Bytes::new()))];
    assert!(!etcd.txn(value, vec![], vec![]).await.unwrap().succeeded, "an absent key has no value, not even an empty one");
    let twice = etcd.txn(vec![], vec![put_op("a", "1"), put_op("a", "2")], vec![]).await.unwrap_err();
    assert_eq!((twice.code(), twice.message()), (Code::InvalidArgument, "etcdserver: duplicate key given in txn request"));
    etcd.stop().await;
}

#[tokio::test]
async fn concurrent_swaps_of_one_key_never_both_win() {
    let mut etcd = Served::start().await;
    etcd.put("n", "0").await;
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut etcd = etcd.client.clone();
        workers.spawn(async move {
            let mut won = 0;
            while won < 10 {
                let now = etcd.get("n").await.unwrap();
                let number: u64 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
                let unchanged = vec![compare("n", CompareTarget::Mod, CompareWith::ModRevision(now.mod_revision))];
                won += u64::from(etcd.txn(unchanged, vec![put_op("n", &(number + 1).to_string())], vec![]).await.unwrap().succeeded);
            }
        });
    }
    workers.join_all().await;
    let last = etcd.get("n").await.unwrap();
    assert_eq!((last.value, last.version), (bytes("80"), 81));
    etcd.stop().await;
}

#[tokio::test]
async fn ranges_are_cut_counted_and_reach_into_the_past() {
    let mut etcd = Served::start().await;
    for key in ["p/1", "p/2", "p/3", "q"] {
        etcd.put(key, "old").await;
    }
    let past = etcd.get("q").await.unwrap().mod_revision;
    etcd.put("p/2", "new").await;
    etcd.delete("p/3", "").await;
    let prefix = || RangeRequest { key: bytes("p/"), range_end: bytes("p0"), ..RangeRequest::default() };
    let page = etcd.range(RangeRequest { limit: 1, ..prefix() }).await.unwrap();
    assert_eq!((page.kvs.len(), page.more, page.count), (1, true, 2));
    let before = etcd.range(RangeRequest { revision: past, ..prefix() }).await.unwrap();
    assert_eq!((before.count, before.kvs[1].value.clone()), (3, bytes("old")));
    let from =
        etcd.range(RangeRequest { key: bytes("p/2"), range_end: bytes("\0"), keys_only: true, ..RangeRequest::default() }).await.unwrap();
    assert_eq!(from.kvs.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), ["p/2", "q"]);
    let future = etcd.range(RangeRequest { revision: past + 100, ..prefix() }).await.unwrap_err();
    assert_eq!((future.code(), future.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"));
    etcd.compact(past + 1).await.unwrap();
    let compacted = etcd.range(RangeRequest { revision: past, ..prefix() }).await.unwrap_err();
    assert_eq!((compacted.code(), compacted.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"));
    assert_eq!(etcd.range(RangeRequest { revision: past + 1, ..prefix() }).await.unwrap().count, 3);
    assert_eq!(etcd.compact(past + 1).await.unwrap_err().code(), Code::OutOfRange, "twice");
    let nameless = etcd.range(RangeRequest::default()).await.unwrap_err();
    assert_eq!(nameless.message(), "etcdserver: key is not provided");
    etcd.stop().await;
}

#[tokio::test]
async fn watches_tell_everything_once_and_in_order() {
    let mut etcd = Served::start().await;
    let start = etcd.put("w/1", "old").await.header.unwrap().revision;
    let (asks, mut answers) = etcd.watch().await;
    asks.send(ask(WatchAsk::Create(create("w/", "w0", start)))).await.unwrap();
    let created = next(&mut answers).await;
    assert!(created.created && !created.canceled);
    etcd.put("w/2", "x").await;
    etcd.put("elsewhere", "x").await;
    etcd.delete("w/", "w0").await;
    let mut events = Vec::new();
    while events.len() < 4 {
        let answer = next(&mut answers).await;
        assert_eq!(answer.watch_id, created.watch_id);
        events.extend(answer.events);
    }
    let kinds: Vec<_> = events.iter().map(|event| (event.r#type(), event.kv.as_ref().unwrap().mod_revision)).collect();
    let (put, delete) = (EventType::Put, EventType::Delete);
    assert_eq!(kinds, [(put, start), (put, start + 1), (delete, start + 3), (delete, start + 3)]);
    assert_eq!(events[2].prev_kv.as_ref().unwrap().value, "old");
    // progress stands behind every event it speaks of
    let last = etcd.put("elsewhere", "y").await.header.unwrap().revision;
    let mut reached = 0;
    while reached < last {
        asks.send(ask(WatchAsk::Progress(WatchProgressRequest {}))).await.unwrap();
        let answer = next(&mut answers).await;
        assert_eq!((answer.watch_id, answer.events.len()), (-1, 0));
        reached = answer.header.unwrap().revision;
    }
    asks.send(ask(WatchAsk::Cancel(WatchCancelRequest { watch_id: created.watch_id }))).await.unwrap();
    assert!(next(&mut answers).await.canceled);
    // a watch that leaves puts out, on the same stream
    let filtered = WatchCreateRequest { filters: vec![Filter::NoPut.into()], ..create("w/1", "", 0) };
    asks.send(ask(WatchAsk::Create(filtered))).await.unwrap();
    assert!(next(&mut answers).await.created);
    etcd.put("w/1", "1").await;
    etcd.delete("w/1", "").await;
    let only = next(&mut answers).await.events;
    assert_eq!((only.len(), only[0].r#type()), (1, EventType::Delete));
    // from before what is kept
    etcd.compact(last).await.unwrap();
    asks.send(ask(WatchAsk::Create(create("w/", "w0", start)))).await.unwrap();
    assert!(next(&mut answers).await.created);
    let ended = next(&mut answers).await;
    assert_eq!((ended.canceled, ended.compact_revision), (true, last));
    etcd.stop().await;
}

#[tokio::test]
async fn keys_end_with_their_lease() {
    let mut etcd = Served::start().await;
    let grant = |id| LeaseGrantRequest { ttl: 60, id };
    let lease: LeaseGrantResponse = etcd.ask("/etcdserverpb.Lease/LeaseGrant", grant(7)).await.unwrap();
    assert_eq!((lease.id, lease.ttl), (7, 60));
    let twice = etcd.ask::<_, LeaseGrantResponse>("/etcdserverpb.Lease/LeaseGrant", grant(7)).await.unwrap_err();
    assert_eq!(twice.message(), "etcdserver: lease already exists");
    let attached = |key: &str, lease| PutRequest { key: bytes(key), lease, ..PutRequest::default() };
    let unknown = etcd.ask::<_, PutResponse>("/etcdserverpb.KV/Put", attached("l", 8)).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "etcdserver: requested lease not found"));
    etcd.ask::<_, PutResponse>("/etcdserverpb.KV/Put", attached("l", 7)).await.unwrap();
    assert_eq!(etcd.get("l").await.unwrap().lease, 7);
    let asked = LeaseTimeToLiveRequest { id: 7, keys: true };
    let left: LeaseTimeToLiveResponse = etcd.ask("/etcdserverpb.Lease/LeaseTimeToLive", asked).await.unwrap();
    assert_eq!((left.granted_ttl, left.keys), (60, vec![bytes("l")]));
    assert!((50..=60).contains(&left.ttl));
    etcd.ask::<_, LeaseRevokeResponse>("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest { id: 7 }).await.unwrap();
    assert_eq!(etcd.get("l").await, None);
    let gone = etcd.ask::<_, LeaseRevokeResponse>("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest { id: 7 }).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    let left: LeaseTimeToLiveResponse = etcd.ask("/etcdserverpb.Lease/LeaseTimeToLive", asked).await.unwrap();
    assert_eq!(left.ttl, -1);
    // nobody renews this one
    let short: LeaseGrantResponse = etcd.ask("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl: 1, id: 0 }).await.unwrap();
    etcd.ask::<_, PutResponse>("/etcdserverpb.KV/Put", attached("short", short.id)).await.unwrap();
    let (asks, mut answers) = etcd.watch().await;
    asks.send(ask(WatchAsk::Create(create("short", "", 0)))).await.unwrap();
    assert!(next(&mut answers).await.created);
    assert_eq!(next(&mut answers).await.events[0].r#type(), EventType::Delete);
    etcd.stop().await;
}

#[tokio::test]
async fn a_member_says_who_it_is() {
    let mut etcd = Served::start().await;
    let status: StatusResponse = etcd.ask("/etcdserverpb.Maintenance/Status", StatusRequest {}).await.unwrap();
    assert_eq!((status.leader, status.header.unwrap().member_id, status.errors.len()), (1, 1, 0));
    assert!(status.db_size > 0);
    let list: MemberListResponse = etcd.ask("/etcdserverpb.Cluster/MemberList", MemberListRequest { linearizable: true }).await.unwrap();
    assert!(list.members.len() == 1 && list.members[0].client_urls[0].starts_with("https://127.0.0.1:"));
    etcd.stop().await;
}
