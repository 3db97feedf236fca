//! Peers that do not belong, and mutual TLS.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openraft::errors::RPCError;
use openraft::network::{RPCOption, RaftNetworkFactory as _, RaftNetworkV2 as _};
use openraft::raft::AppendEntriesRequest;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::acquaintances::Introduction;
use super::client::ClientFactory;
use super::frame;
use super::link::Link;
use super::messages::{Hello, HelloReply, Purpose, Request, Response};
use crate::environment::Environment;
use crate::format::Formats;
use crate::raft_types::{MemberInfo, Vote};
use crate::records::VoteRecord;
use crate::reign_check;
use crate::store::{Member, MemberRole, PeerTls, Store, StoreConfig};

const PATIENCE: Duration = Duration::from_secs(60);

async fn store(dir: &TempDir, id: u64, tls: Option<PeerTls>) -> Store {
    let mut config = StoreConfig::new(id, dir.path().join(id.to_string()));
    config.cluster_id = "ours".into();
    (config.election_min, config.election_max) = (Duration::from_millis(400), Duration::from_millis(800));
    config.tls = tls;
    Store::open(config).await.unwrap()
}

fn hello(cluster_id: &str, to: u64) -> Hello {
    let introduction = Introduction { log: 9, formats: Formats::OURS };
    Hello { cluster_id: cluster_id.into(), from: 9, to, purpose: Purpose::Request, introduction }
}

#[tokio::test]
async fn strangers_are_refused_and_harm_nobody() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir, 1, None).await;
    store.initialize().await.unwrap();
    let address = store.peer_address().to_string();
    for (hello, expected) in [(hello("theirs", 1), "this is cluster \"ours\""), (hello("ours", 2), "this is member 1, not 2")] {
        let error = Link::connect(&Environment::default(), &address, &hello, None, PATIENCE).await.err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
    // garbage, a claim of 4 GiB, and nothing at all
    for bytes in [vec![0xff_u8; 64], [vec![0xff; 4], vec![0; 8]].concat(), Vec::new()] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // closed or reset, without an answer
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(ended.is_err() || answer.is_empty());
    }
    // after a proper greeting, too
    let link = Link::connect(&Environment::default(), &address, &hello("ours", 1), None, PATIENCE).await.unwrap();
    assert!(matches!(link.start(&Request::SnapshotEnd).await.unwrap(), Response::Failed(_)));
    for name in ["../escape", ".hidden", "a/b", ""] {
        let begin = Request::SnapshotBegin {
            vote: VoteRecord { term: 1, voted_for: 9, committed: true },
            last: None,
            membership: crate::records::StoredMembershipRecord::default(),
            files: vec![(name.to_owned(), 1)],
        };
        assert!(matches!(link.start(&begin).await.unwrap(), Response::Failed(_)), "{name:?}");
    }
    assert!(matches!(link.start(&Request::ReadIndex).await.unwrap(), Response::ReadIndex(_)));
    store.linearizable_view(PATIENCE).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_question_that_cannot_be_read_ends_its_own_connection_only() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir, 1, None).await;
    store.initialize().await.unwrap();
    let address = store.peer_address().to_string();
    let shared = Link::connect(&Environment::default(), &address, &hello("ours", 1), None, PATIENCE).await.unwrap();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(&frame::encode(0, &hello("ours", 1))).await.unwrap();
    let reply = frame::read_greeting::<HelloReply>(&mut stream).await.unwrap();
    assert!(matches!(reply, Some(HelloReply::Welcome(_))), "{reply:?}");
    // what a program of tomorrow asks
    stream.write_all(&frame::encode(1, &200_u8)).await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(ended.is_err() || answer.is_empty(), "{answer:?}");
    assert!(matches!(shared.start(&Request::ReadIndex).await.unwrap(), Response::ReadIndex(_)));
    store.close().await;
}

#[tokio::test]
async fn whether_its_leader_reigns_a_member_says_without_raft() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir, 1, None).await;
    store.initialize().await.unwrap();
    let link = Link::connect(&Environment::default(), &store.peer_address().to_string(), &hello("ours", 1), None, PATIENCE).await.unwrap();
    let own = store.core().log.vote().unwrap();
    assert!(own.committed && own.voted_for == 1);
    let ask = |vote| link.start(&Request::AppendOne(reign_check::question(vote)));
    let before = VoteRecord { term: own.term - 1, ..own };
    assert_eq!(ask(own).await.unwrap(), Response::Appended(None));
    assert_eq!(ask(before).await.unwrap(), Response::HigherVote(own));
    let log = store.core().log.open();
    store.core().raft().shutdown().await.unwrap();
    assert_eq!(ask(own).await.unwrap(), Response::Appended(None));
    assert!(matches!(ask(before).await.unwrap(), Response::Failed(_)), "raft alone answers that");
    drop(log);
    assert!(matches!(ask(own).await.unwrap(), Response::Failed(_)), "a member whose raft has ended says nothing");
    store.close().await;
}

#[tokio::test]
async fn nobody_connects_before_there_is_something_to_send() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir, 1, None).await;
    // nobody listens there any more
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let node = MemberInfo { peer_address: address, ..MemberInfo::default() };
    let mut client = ClientFactory { peers: Arc::clone(&store.core().peers) }.new_client(2, &node).await;
    let option = || RPCOption::new(PATIENCE);
    let idle = client.stream_append(futures::stream::pending(), option());
    assert!(
        tokio::time::timeout(Duration::from_millis(300), idle).await.is_err(),
        "raft pauses before it sends, so it must be asked first"
    );
    let request = AppendEntriesRequest { vote: Vote::new_committed(1, 1), prev_log_id: None, entries: Vec::new(), leader_commit: None };
    let failed = client.stream_append(futures::stream::iter([request]), option()).await;
    assert!(matches!(failed, Err(RPCError::Unreachable(_))));
    store.close().await;
}

#[tokio::test]
async fn a_peer_that_ends_connections_at_once_is_not_called_for_every_beat() {
    let dir = TempDir::new().unwrap();
    let store = store(&dir, 1, None).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = MemberInfo { peer_address: listener.local_addr().unwrap().to_string(), ..MemberInfo::default() };
    let called = Arc::new(AtomicUsize::new(0));
    let counting = tokio::spawn({
        let called = Arc::clone(&called);
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                called.fetch_add(1, Ordering::Relaxed);
                drop(stream);
            }
        }
    });
    let mut client = ClientFactory { peers: Arc::clone(&store.core().peers) }.new_heartbeat_client(2, &node).await;
    for _ in 0..1000 {
        let beat = AppendEntriesRequest { vote: Vote::new_committed(1, 1), prev_log_id: None, entries: Vec::new(), leader_commit: None };
        let failed = client.append_entries(beat, RPCOption::new(PATIENCE)).await;
        assert!(matches!(failed, Err(RPCError::Unreachable(_))), "{failed:?}");
    }
    let called = called.load(Ordering::Relaxed);
    assert!((1..100).contains(&called), "called {called} times");
    counting.abort();
    store.close().await;
}

/// An authority and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn tls(&self) -> PeerTls {
        self.tls_until(4096)
    }

    fn tls_until(&self, year: i32) -> PeerTls {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build().unwrap();
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        PeerTls { server: Arc::new(server), client: Arc::new(client) }
    }
}

#[tokio::test]
async fn members_talk_over_mutual_tls_and_to_nobody_else() {
    let dir = TempDir::new().unwrap();
    let ours = Authority::new();
    let (first, second) = (store(&dir, 1, Some(ours.tls())).await, store(&dir, 2, Some(ours.tls())).await);
    first.initialize().await.unwrap();
    let member = Member { id: 2, peer_address: second.peer_address().to_string(), api_address: String::new(), role: MemberRole::Voter };
    first.add_member(member, PATIENCE).await.unwrap();
    let view = second.linearizable_view(PATIENCE).await.unwrap();
    assert_eq!(view.revision(), 0);
    let address = first.peer_address().to_string();
    // no TLS, and another authority's TLS
    assert!(Link::connect(&Environment::default(), &address, &hello("ours", 1), None, PATIENCE).await.is_err());
    assert!(Link::connect(&Environment::default(), &address, &hello("ours", 1), Some(&Authority::new().tls()), PATIENCE).await.is_err());
    // ours, without a certificate of its own
    let mut anonymous = ours.tls();
    let mut roots = RootCertStore::empty();
    roots.add(ours.certificate.clone()).unwrap();
    anonymous.client = Arc::new(
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    );
    assert!(Link::connect(&Environment::default(), &address, &hello("ours", 1), Some(&anonymous), PATIENCE).await.is_err());
    assert!(Link::connect(&Environment::default(), &address, &hello("ours", 1), Some(&ours.tls()), PATIENCE).await.is_ok());
    first.close().await;
    second.close().await;
}

#[tokio::test]
async fn an_expired_certificate_opens_no_door_on_either_side() {
    let dir = TempDir::new().unwrap();
    let ours = Authority::new();
    let expired = || ours.tls_until(2020);
    let (good, bad) = (store(&dir, 1, Some(ours.tls())).await, store(&dir, 2, Some(expired())).await);
    for (member, shown) in [(&good, expired()), (&bad, ours.tls())] {
        let (address, hello) = (member.peer_address().to_string(), hello("ours", member.node_id()));
        let error = Link::connect(&Environment::default(), &address, &hello, Some(&shown), PATIENCE).await.err().unwrap();
        assert!(error.to_string().to_lowercase().contains("expired"), "{error}");
    }
    good.initialize().await.unwrap();
    good.close().await;
    bad.close().await;
}
