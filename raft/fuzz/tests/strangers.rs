//! Garbage over real connections: a member that is spoken to by strangers, and by peers that have gone mad, serves its clients as before and takes
//! no memory for what they claim.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use trierarch_raft::{Cause, Committed, Op, Store, StoreConfig, Txn, TxnId};
use trierarch_raft_fuzz::corpus;
use trierarch_raft_fuzz::mutate::{Dice, mutate};

const PATIENCE: Duration = Duration::from_secs(30);
/// Connections that are open at the same time, each of which claims a frame of 16 MiB.
const CONNECTIONS: usize = 64;
/// What they may take together, with all that a member does meanwhile.
const GROWTH_BYTES_MAX: u64 = 48 << 20;

/// `Spec:` proc(5): the second number of statm, in pages of 4 KiB.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("this process has one");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("the second number") * 4096
}

/// To whom a recorded greeting is addressed: its cluster, and the member's id. `Spec:` a frame's header of twelve bytes, the version, the length of the
/// name, the name, the sender, the receiver.
fn addressee(hello: &[u8]) -> (String, u64) {
    let name_end = 14 + usize::from(hello[13]);
    (String::from_utf8(hello[14..name_end].to_vec()).expect("a name"), hello[name_end + 1].into())
}

async fn put(store: &Store, key: &str) -> Committed {
    let op = Op::Put { key: key.to_owned().into(), value: "v".into(), split: 0, terms: Vec::new() };
    let txn = Txn { id: TxnId::random(), guards: Vec::new(), ops: vec![op], cause: Cause::default() };
    store.txn(txn, PATIENCE).await.expect("it is written")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_survives_strangers_and_mad_peers() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = {
        let dir = dir.path().to_owned();
        tokio::task::spawn_blocking(move || corpus::gather(&dir).unwrap()).await.unwrap()
    };
    let hello = corpus["Hello"].first().unwrap();
    let (cluster_id, id) = addressee(hello);
    let mut config = StoreConfig::new(id, dir.path().join("member"));
    config.cluster_id = cluster_id;
    let store = Store::open(config).await.unwrap();
    store.initialize().await.unwrap();
    put(&store, "before").await;
    let address = store.peer_address();
    // the recorded greeting is a good one
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.write_all(hello).await.unwrap();
    let mut header = [0; 12];
    tokio::time::timeout(PATIENCE, peer.read_exact(&mut header)).await.unwrap().unwrap();
    drop(peer);
    let before = resident_bytes();
    // claims: to a stranger's greeting, and after a good one
    let claim = [&(16_u32 << 20).to_be_bytes()[..], &[0; 8], &[1; 64]].concat();
    let mut open = Vec::new();
    for number in 0..CONNECTIONS {
        let mut connection = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            connection.write_all(hello).await.unwrap();
        }
        connection.write_all(&claim).await.unwrap();
        open.push(connection);
    }
    put(&store, "meanwhile").await;
    let growth_bytes = resident_bytes().saturating_sub(before);
    assert!(growth_bytes < GROWTH_BYTES_MAX, "{CONNECTIONS} claims took {growth_bytes} bytes");
    drop(open);
    // garbage in place of a greeting, and of requests
    let mut dice = Dice::new(7);
    for number in 0..200 {
        let mut connection = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            let _refused = connection.write_all(&mutate(&mut dice, &corpus["Hello"])).await;
        } else {
            connection.write_all(hello).await.unwrap();
            let _ended = connection.write_all(&mutate(&mut dice, &corpus["Response"])).await;
        }
    }
    assert!(matches!(put(&store, "after").await, Committed::At(_)));
    assert_eq!(store.view().count(b""), 3);
    store.close().await;
}
