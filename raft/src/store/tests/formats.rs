//! Programs of several releases in one group, and what a newer one has written.

use super::*;
use crate::command::Command;
use crate::network::acquaintances::Introduction;
use crate::network::link::Link;
use crate::network::messages::{Append, Hello, Purpose, Request, Response};
use crate::records::{EntryRecord, LogIdRecord, PayloadRecord, VoteRecord};

/// A version that no program of today reads.
const UNKNOWN: u8 = 9;

const NEXT: Formats = Formats { newest: Formats::OURS.newest + 1, ..Formats::OURS };
const AFTER_NEXT: Formats = Formats { written: Formats::OURS.newest + 1, ..NEXT };

#[tokio::test]
async fn neighbouring_releases_form_a_group_and_distant_ones_say_who_is_to_be_upgraded() {
    let mut cluster = Cluster::start_with(3, |config| {
        config.formats = match config.node_id {
            1 | 2 => Formats::OURS,
            3 => NEXT,
            _ => AFTER_NEXT,
        };
    })
    .await;
    for id in 1..=3 {
        revision(cluster.store(id).txn(put(&format!("k/{id}"), "1"), PATIENCE).await.unwrap());
    }
    // either kind leads
    for id in [3, 1] {
        cluster.store(2).transfer_leadership(Some(id)).await.unwrap();
        until("it leads", || cluster.store(id).leadership().borrow().established.then_some(())).await;
        revision(cluster.store(2).txn(put("led", &id.to_string()), PATIENCE).await.unwrap());
    }
    cluster.until_equal().await;
    // one that is two releases ahead gets nothing and harms nobody
    cluster.open(4).await;
    let member =
        Member { id: 4, peer_address: cluster.store(4).peer_address().to_string(), api_address: String::new(), role: MemberRole::Voter };
    cluster.store(1).add_member(member, PATIENCE).await.unwrap();
    let reason = until("the leader says so", || cluster.store(1).status().refused.get(&4).cloned()).await;
    assert!(reason.contains("reads 1 to 2: upgrade"), "{reason}");
    assert_eq!(cluster.store(4).status().last_log, 0);
    revision(cluster.store(1).txn(put("still", "1"), PATIENCE).await.unwrap());
    cluster.close_all().await;
}

/// A command as a newer program would write it.
fn newer_command() -> Bytes {
    let mut bytes = records::encode(&Command::new(put("a", "1"), Durability::Disk, 0, 0));
    bytes[0] = UNKNOWN;
    bytes.into()
}

#[tokio::test]
async fn a_greeting_of_a_newer_program_is_understood() {
    use tokio::io::AsyncWriteExt as _;
    let cluster = Cluster::start(1).await;
    let introduction = Introduction { log: 9, formats: NEXT };
    let hello = Hello { cluster_id: "test".into(), from: 9, to: 1, purpose: Purpose::Request, introduction };
    let mut record = records::encode(&hello);
    record[0] = UNKNOWN;
    record.extend_from_slice(b"what a later release tells of itself");
    let mut frame = u32::try_from(record.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(&record);
    let mut stream = tokio::net::TcpStream::connect(cluster.store(1).peer_address()).await.unwrap();
    stream.write_all(&frame).await.unwrap();
    let reply = crate::network::frame::read_greeting::<crate::network::messages::HelloReply>(&mut stream).await.unwrap();
    assert!(matches!(reply, Some(crate::network::messages::HelloReply::Welcome(_))), "{reply:?}");
    cluster.close_all().await;
}

#[tokio::test]
async fn entries_of_a_newer_program_do_not_enter_the_log() {
    let mut cluster = Cluster { dir: TempDir::new().unwrap(), stores: BTreeMap::new(), adjust: |_| {}, boots: 1 };
    cluster.open(1).await;
    let store = cluster.store(1);
    let introduction = Introduction { log: 9, formats: Formats::OURS };
    let hello = Hello { cluster_id: "test".into(), from: 9, to: 1, purpose: Purpose::Replication, introduction };
    let link = Link::connect(&store.core().config.environment, &store.peer_address().to_string(), &hello, None, PATIENCE).await.unwrap();
    let entry = EntryRecord { log_id: LogIdRecord { term: 1, index: 0 }, payload: PayloadRecord::Command(newer_command()) };
    let vote = VoteRecord { term: 1, voted_for: 9, committed: true };
    let append = Append { vote, previous: None, entries: vec![entry], committed: None };
    for request in [Request::AppendOne(append.clone()), Request::AppendNext { session: 1, append }] {
        let answer = link.start(&request).await.unwrap();
        assert!(matches!(&answer, Response::Failed(reason) if reason.contains("cannot read format version 9")), "{answer:?}");
    }
    assert_eq!(store.core().log.last(), None);
    let condition = store.status().read_only.unwrap();
    assert!(condition.contains("start a newer one"), "{condition}");
    cluster.close_all().await;
}

#[tokio::test]
async fn a_leader_takes_no_command_that_it_cannot_read() {
    let cluster = Cluster::start(1).await;
    let core = cluster.store(1).core();
    let answer = core.propose_as_leader(newer_command(), 0, true).await;
    assert!(matches!(&answer, Response::Failed(reason) if reason.contains("cannot read format version 9")), "{answer:?}");
    revision(cluster.store(1).txn(put("a", "1"), PATIENCE).await.unwrap());
    cluster.close_all().await;
}

#[tokio::test]
async fn what_a_newer_program_has_written_is_left_as_it_is() {
    for (database, family, key) in [("log", "meta", crate::keys::LOG_VOTE), ("state/000001", "meta", crate::keys::STATE_META)] {
        let mut cluster = Cluster::start(1).await;
        revision(cluster.store(1).txn(put("a", "1"), PATIENCE).await.unwrap());
        cluster.close(1).await;
        let dir = cluster.dir.path().join("1");
        let set_version = |version: u8| {
            let path = dir.join(database);
            let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), &path).unwrap();
            let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, families).unwrap();
            let column = db.cf_handle(family).unwrap();
            let mut record = db.get_cf(column, key).unwrap().unwrap();
            record[0] = version;
            db.put_cf(column, key, record).unwrap();
            db.flush_cf(column).unwrap();
        };
        set_version(UNKNOWN);
        let mut config = StoreConfig::new(1, &dir);
        config.cluster_id = "test".into();
        let error = Store::open(config.clone()).await.err().unwrap().to_string();
        assert!(error.contains("cannot read format version 9, only 1 to 2: nothing was changed, start a newer one"), "{error}");
        assert!(!error.contains("damaged"), "{error}");
        // the newer program finds everything
        set_version(Formats::OURS.written);
        let store = Store::open(config).await.unwrap();
        assert_eq!(value(&store.linearizable_view(PATIENCE).await.unwrap(), "a").as_deref(), Some("1"), "{database}");
        store.close().await;
    }
}
