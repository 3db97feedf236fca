//! Backups, and what is left of a cluster that has lost its quorum for good.

use std::path::{Path, PathBuf};

use super::*;
use crate::backup::{self, BackupError, BackupHeader};
use crate::restore::{REVISIONS_SKIPPED, restore};
use crate::{recover, watch::WatchError};

/// Writes a backup of `store` to a file.
async fn back_up(store: &Store, path: &Path) -> BackupHeader {
    let backup = store.backup(Bytes::from_static(b"keys")).await.unwrap();
    let (header, total_bytes) = (backup.header().clone(), backup.total_bytes());
    let bytes = backup.map(Result::unwrap).fold(Vec::new(), |mut all, chunk| {
        all.extend_from_slice(&chunk);
        all
    });
    assert_eq!(bytes.len() as u64, total_bytes);
    std::fs::write(path, bytes).unwrap();
    header
}

async fn open(dir: &Path, id: NodeId, cluster_id: &str) -> Store {
    let mut config = StoreConfig::new(id, dir);
    (config.cluster_id, config.joined) = (cluster_id.into(), true);
    (config.election_min, config.election_max) = (Duration::from_millis(400), Duration::from_millis(800));
    Store::open(config).await.unwrap()
}

fn ignore(_read_bytes: u64, _total_bytes: u64) {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_from_any_member_is_one_moment_of_a_cluster_that_goes_on() {
    let cluster = Cluster::start(3).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writing = {
        let (store, stop) = (cluster.store(1).clone(), stop.clone());
        tokio::spawn(async move {
            let mut last = 0;
            while !stop.is_cancelled() {
                last += 1;
                // both keys always have the same value
                let ops = [put("left", &last.to_string()).ops, put("right", &last.to_string()).ops].concat();
                revision(store.txn(Txn { ops, ..put("", "") }, PATIENCE).await.unwrap());
            }
        })
    };
    let dir = TempDir::new().unwrap();
    for id in 1..=3 {
        let seen = cluster.store(1).linearizable_view(PATIENCE).await.unwrap();
        until("something was written", || (cluster.store(1).view().revision() > seen.revision()).then_some(())).await;
        let acknowledged = cluster.store(1).view().revision();
        let file = dir.path().join(format!("{id}.backup"));
        let header = back_up(cluster.store(id), &file).await;
        assert!(header.complete && header.revision >= acknowledged, "{header:?}");
        let mut told = Vec::new();
        let verified = backup::verify(&file, &mut |read, total| told.push((read, total))).unwrap();
        assert_eq!((verified.node_id, verified.attachment.as_ref()), (id, b"keys".as_slice()));
        let size = std::fs::metadata(&file).unwrap().len();
        assert_eq!(told.last(), Some(&(size, size)));
        let restored = dir.path().join(id.to_string());
        assert_eq!(restore(&file, &restored, "new", &mut ignore).unwrap(), header);
        let store = open(&restored, id, "new").await;
        let view = store.linearizable_view(PATIENCE).await.unwrap();
        assert!(value(&view, "left").is_some() && value(&view, "left") == value(&view, "right"));
        let past = cluster.store(1).range_at(b"", header.revision).await.unwrap();
        let dump = |records: Vec<Arc<Record>>| records.iter().map(|r| (r.key.clone(), r.value.clone(), r.revision)).collect::<Vec<_>>();
        assert_eq!(dump(view.range(b"", None).cloned().collect()), dump(past));
        store.close().await;
    }
    stop.cancel();
    writing.await.unwrap();
    cluster.close_all().await;
}

#[tokio::test]
async fn a_restored_cluster_goes_on_where_no_revision_repeats() {
    let cluster = Cluster::start(3).await;
    let kept = put("kept", "1");
    let at = revision(cluster.store(1).txn(kept.clone(), PATIENCE).await.unwrap());
    let dir = TempDir::new().unwrap();
    let (file, restored) = (dir.path().join("backup"), dir.path().join("store"));
    let header = back_up(cluster.store(2), &file).await;
    let lost = revision(cluster.store(1).txn(put("lost", "1"), PATIENCE).await.unwrap());
    cluster.close_all().await;
    restore(&file, &restored, "new", &mut ignore).unwrap();
    let mut cluster =
        Cluster { dir: TempDir::new().unwrap(), stores: BTreeMap::new(), adjust: |config| config.cluster_id = "new".into(), boots: 1 };
    std::fs::rename(&restored, cluster.dir.path().join("2")).unwrap();
    cluster.open(2).await;
    let store = cluster.store(2);
    let view = store.linearizable_view(PATIENCE).await.unwrap();
    assert_eq!(view.get(b"kept").unwrap().revision, at);
    assert_eq!(value(&view, "lost"), None);
    // a retry from before is still answered, and what comes is far beyond what was
    assert_eq!(revision(store.txn(kept, PATIENCE).await.unwrap()), at);
    let next = revision(store.txn(put("next", "1"), PATIENCE).await.unwrap());
    assert!(next > header.revision + REVISIONS_SKIPPED);
    assert!(next > lost);
    for from in [0, at, lost] {
        assert!(matches!(store.watch(b"", from).await.err(), Some(WatchError::Compacted { .. })), "{from}");
    }
    // a change of what was there before the backup can be watched
    let mut watcher = store.watch(b"", next).await.unwrap();
    store.txn(delete("kept"), PATIENCE).await.unwrap();
    let events = tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
    assert_eq!((events[0].kind, events[0].previous.as_ref().unwrap().revision), (EventKind::Delete, at));
    // it grows again, but not by those that were members of the old cluster
    for id in [4, 5] {
        cluster.open(id).await;
        cluster.join(2, id).await;
    }
    cluster.until_voters(3).await;
    cluster.until_equal().await;
    cluster.open(1).await;
    let member =
        Member { id: 1, peer_address: cluster.store(1).peer_address().to_string(), api_address: String::new(), role: MemberRole::Voter };
    let refused = cluster.store(2).add_member(member, PATIENCE).await.unwrap_err();
    assert!(refused.to_string().contains("member 1 was removed"), "{refused}");
    cluster.close_all().await;
}

#[tokio::test]
async fn a_backup_that_is_not_as_it_was_written_is_refused() {
    let cluster = Cluster::start(1).await;
    revision(cluster.store(1).txn(put("a", "1"), PATIENCE).await.unwrap());
    let dir = TempDir::new().unwrap();
    let good = dir.path().join("good");
    back_up(cluster.store(1), &good).await;
    cluster.close_all().await;
    let bytes = std::fs::read(&good).unwrap();
    let target = dir.path().join("store");
    let refused = |name: &str, bytes: &[u8]| -> BackupError {
        let path: PathBuf = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = restore(&path, &target, "new", &mut ignore).unwrap_err();
        assert_eq!(backup::verify(&path, &mut ignore).unwrap_err().to_string(), error.to_string());
        assert!(!target.exists() && !dir.path().join("store.restoring").exists(), "{name}");
        error
    };
    assert!(matches!(refused("empty", b""), BackupError::Foreign(_)));
    assert!(matches!(refused("other", &[7; 4096]), BackupError::Foreign(_)));
    let mut newer = bytes.clone();
    newer[20] = 9;
    let error = refused("newer", &newer);
    assert!(matches!(&error, BackupError::TooNew { reason, .. } if reason.contains("version 9")), "{error}");
    for length in [17, 30, bytes.len() / 2, bytes.len() - 1] {
        assert!(matches!(refused("short", &bytes[..length]), BackupError::Damaged { .. }), "{length}");
    }
    assert!(matches!(refused("long", &[bytes.as_slice(), b"x"].concat()), BackupError::Damaged { .. }));
    // one bit anywhere, the checksum among it
    for at in (21..bytes.len()).step_by(bytes.len() / 200).chain([bytes.len() - 1]) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        let error = refused("flipped", &flipped);
        assert!(matches!(&error, BackupError::Damaged { .. } | BackupError::TooNew { .. }), "{at}: {error}");
    }
    // a store that is there stays
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("precious"), "1").unwrap();
    assert!(matches!(restore(&good, &target, "new", &mut ignore), Err(BackupError::Occupied(_))));
    assert!(target.join("precious").exists());
}

#[tokio::test]
async fn a_backup_without_a_quorum_says_that_it_may_lack_something() {
    let mut cluster = Cluster::start(2).await;
    let follower = cluster.follower().await;
    cluster.close(follower).await;
    let (id, store) = cluster.stores.first_key_value().unwrap();
    until("the quorum is lost", || store.status().no_quorum).await;
    let header = back_up(store, &cluster.dir.path().join("backup")).await;
    assert_eq!((header.complete, header.node_id), (false, *id));
    cluster.close_all().await;
}

#[tokio::test]
async fn a_survivor_goes_on_alone_with_everything_it_has() {
    let mut cluster = Cluster::start(3).await;
    for number in 0..20 {
        revision(cluster.store(1).txn(put(&format!("k/{number}"), "1"), PATIENCE).await.unwrap());
    }
    cluster.until_equal().await;
    let before = cluster.store(2).view();
    let in_use = recover::look(&cluster.dir.path().join("2")).unwrap_err();
    assert!(in_use.to_string().contains("another process uses it"), "{in_use}");
    // killed: what it has applied is in no flushed table, only in the log
    let survivor_dir = cluster.dir.path().join("survivor");
    copy(&cluster.dir.path().join("2"), &survivor_dir);
    let log_before = cluster.store(2).status().last_log;
    for id in 1..=3 {
        cluster.close(id).await;
    }
    let survivor = recover::look(&survivor_dir).unwrap();
    assert_eq!((survivor.node_id, survivor.cluster_id.as_str(), survivor.last.1), (2, "test", log_before));
    assert_eq!(survivor.lost.keys().copied().collect::<Vec<_>>(), [1, 3]);
    assert!(survivor.last_change_unix_ms.is_some());
    // looking has changed nothing
    assert_eq!(recover::recover(&survivor_dir, "recovered").unwrap(), survivor);
    std::fs::remove_dir_all(cluster.dir.path().join("2")).unwrap();
    std::fs::rename(&survivor_dir, cluster.dir.path().join("2")).unwrap();
    // the lost ones come back after all: they cannot talk with it
    for id in [1, 3] {
        cluster.open(id).await;
    }
    cluster.adjust = |config| config.cluster_id = "recovered".into();
    cluster.open(2).await;
    let store = cluster.store(2);
    let view = store.linearizable_view(PATIENCE).await.unwrap();
    assert_eq!(view.range(b"", None).count(), before.range(b"", None).count());
    let next = revision(store.txn(put("next", "1"), PATIENCE).await.unwrap());
    assert!(next > before.revision() + REVISIONS_SKIPPED);
    assert_eq!(store.status().members.iter().map(|member| member.id).collect::<Vec<_>>(), [2]);
    for id in [1, 3] {
        cluster.close(id).await;
    }
    // new ones join, the old ids do not
    cluster.open(4).await;
    cluster.join(2, 4).await;
    cluster.until_voters(2).await;
    let old = Member { id: 3, peer_address: "127.0.0.1:1".into(), api_address: String::new(), role: MemberRole::Voter };
    assert!(cluster.store(4).add_member(old, PATIENCE).await.unwrap_err().to_string().contains("member 3 was removed"));
    cluster.until_equal().await;
    cluster.close_all().await;
}

#[tokio::test]
async fn nothing_is_recovered_from_a_directory_without_a_member() {
    let dir = TempDir::new().unwrap();
    let error = recover::look(&dir.path().join("nothing")).unwrap_err();
    assert!(error.to_string().contains("it holds no member of a cluster"), "{error}");
    assert!(!dir.path().join("nothing").exists());
}

#[tokio::test]
async fn a_member_without_a_state_gives_no_backup() {
    let mut cluster = Cluster { dir: TempDir::new().unwrap(), stores: BTreeMap::new(), adjust: |_| {}, boots: 1 };
    cluster.open(1).await;
    let refused = cluster.store(1).backup(Bytes::new()).await.err().unwrap();
    assert!(matches!(&refused, StoreError::Unavailable(reason) if reason.contains("no state yet")), "{refused:?}");
    cluster.close_all().await;
}
