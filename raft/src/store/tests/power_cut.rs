//! Volatile transactions, and machines that lose what they had not written: a directory is put back as it was at an earlier moment, and its
//! member is opened on another boot.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::command::Durability;

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_tree(&path, &to);
        } else if let Err(error) = fs::copy(&path, &to) {
            // the database removes files that it needs no more
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", path.display());
        }
    }
}

impl Cluster {
    fn data_dir(&self, id: NodeId) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// What the member's disk holds now is what a power cut will leave.
    fn freeze_disk(&self, id: NodeId) {
        copy_tree(&self.data_dir(id), &self.dir.path().join(format!("{id}.frozen")));
    }

    /// Ends the member, and takes its disk back to what was frozen.
    async fn cut_power(&mut self, id: NodeId) {
        self.close(id).await;
        fs::remove_dir_all(self.data_dir(id)).unwrap();
        fs::rename(self.dir.path().join(format!("{id}.frozen")), self.data_dir(id)).unwrap();
    }

    async fn put_volatile(&self, through: NodeId, key: &str, value: &str) -> Revision {
        revision(self.store(through).txn_with(put(key, value), Durability::Memory, PATIENCE).await.unwrap())
    }

    async fn put(&self, through: NodeId, key: &str, value: &str) -> Revision {
        revision(self.store(through).txn(put(key, value), PATIENCE).await.unwrap())
    }

    fn doubts(&self) -> Vec<NodeId> {
        self.stores.iter().filter(|(_, store)| store.core().doubt.lock().is_some()).map(|(id, _)| *id).collect()
    }

    /// Everybody is sure of its log.
    async fn until_sure(&self) {
        until("nobody doubts", || self.doubts().is_empty().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volatile_writes_are_ordinary_but_for_the_sync() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.put(leader, "lease", "0").await;
    cluster.until_equal().await;
    // what is committed may still be on its way to one member's disk
    until("all members have synced all entries", || {
        let status = cluster.store(leader).status();
        (status.matched.len() == 3 && status.matched.values().all(|matched| *matched == status.last_log)).then_some(())
    })
    .await;
    let syncs = |cluster: &Cluster| cluster.stores.values().map(|store| store.status().log_syncs).collect::<Vec<_>>();
    let before = syncs(&cluster);
    let mut last = 0;
    for through in [1, 2, 3, 1] {
        let now = cluster.put_volatile(through, "lease", &through.to_string()).await;
        assert!(now > last);
        last = now;
    }
    // a guard holds for them, too
    let stale = Txn { guards: vec![Guard::Revision { key: "lease".into(), revision: last - 1 }], ..put("lease", "stale") };
    let refused = cluster.store(2).txn_with(stale, Durability::Memory, PATIENCE).await.unwrap();
    assert!(matches!(refused, Committed::Refused(_)), "{refused:?}");
    assert_eq!(syncs(&cluster), before);
    // an orderly stop keeps them
    for id in [1, 2, 3] {
        cluster.close(id).await;
    }
    cluster.boots += 1;
    for id in [1, 2, 3] {
        cluster.open(id).await;
    }
    assert_eq!(cluster.doubts(), Vec::<NodeId>::new());
    let view = cluster.store(2).linearizable_view(PATIENCE).await.unwrap();
    assert_eq!((value(&view, "lease"), view.get(b"lease").map(|record| record.revision)), (Some("1".into()), Some(last)));
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_loses_nothing() {
    let mut cluster = Cluster::start(1).await;
    cluster.put_volatile(1, "lease", "kept").await;
    cluster.freeze_disk(1);
    // the same boot: the disk is what the operating system shows
    cluster.cut_power(1).await;
    cluster.open(1).await;
    assert_eq!(cluster.doubts(), Vec::<NodeId>::new());
    let view = cluster.store(1).linearizable_view(PATIENCE).await.unwrap();
    assert_eq!(value(&view, "lease").as_deref(), Some("kept"));
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_lost_its_power_takes_part_again_after_catching_up() {
    let mut cluster = Cluster::start(3).await;
    cluster.put(1, "kept", "on disk").await;
    cluster.until_equal().await;
    let victim = cluster.follower().await;
    cluster.freeze_disk(victim);
    cluster.put_volatile(victim, "lease", "in memory").await;
    cluster.boots += 1;
    cluster.cut_power(victim).await;
    cluster.open(victim).await;
    cluster.until_sure().await;
    cluster.until_equal().await;
    assert_eq!(value(&cluster.store(victim).view(), "lease").as_deref(), Some("in memory"));
    // its vote counts again
    let leader = cluster.leader().await;
    cluster.close(leader).await;
    cluster.put(victim, "after", "election").await;
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_machines_lose_their_power_and_only_volatile_writes_are_lost() {
    let mut cluster = Cluster::start(3).await;
    cluster.put(1, "kept", "on disk").await;
    cluster.until_equal().await;
    cluster.freeze_disk(1);
    cluster.put_volatile(1, "lease", "older").await;
    cluster.until_equal().await;
    cluster.freeze_disk(2);
    cluster.put_volatile(1, "lease", "newer").await;
    cluster.until_equal().await;
    cluster.freeze_disk(3);
    let lost = cluster.put_volatile(1, "lease", "lost").await;
    cluster.boots += 1;
    for id in [1, 2, 3] {
        cluster.cut_power(id).await;
    }
    cluster.open(1).await;
    cluster.open(2).await;
    // the third may know more: they wait for it
    let leader = cluster.store(1).leadership().borrow().leader;
    assert_eq!(leader, None);
    cluster.open(3).await;
    cluster.until_sure().await;
    let view = cluster.store(1).linearizable_view(PATIENCE).await.unwrap();
    assert_eq!(value(&view, "kept").as_deref(), Some("on disk"));
    assert_eq!(value(&view, "lease").as_deref(), Some("newer"));
    // the revision that the cut has taken is given to nobody, and whoever has seen it begins anew
    assert!(view.revision() > lost);
    let store = cluster.store(2);
    let stale = Txn { guards: vec![Guard::Revision { key: "lease".into(), revision: lost }], ..put("lease", "stale") };
    assert!(matches!(store.txn(stale, PATIENCE).await.unwrap(), Committed::Refused(_)));
    let oldest = view.revision();
    assert_eq!(store.watch(b"", lost).await.err().unwrap(), WatchError::Compacted { asked: lost, oldest });
    assert_eq!(store.range_at(b"", lost).await.unwrap_err(), StoreError::Compacted { asked: lost, oldest });
    // whoever has not loses nothing
    let mut watcher = store.watch(b"", lost - 1).await.unwrap();
    let after = cluster.put(2, "after", "the cut").await;
    assert!(after > oldest);
    let events = tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
    assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), [after]);
    cluster.until_equal().await;
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_the_group_went_on_without_starts_over() {
    let mut cluster = Cluster::start(3).await;
    cluster.put(1, "kept", "on disk").await;
    cluster.until_equal().await;
    cluster.freeze_disk(1);
    cluster.freeze_disk(2);
    cluster.put_volatile(3, "lease", "known to the third alone").await;
    cluster.until_equal().await;
    cluster.boots += 1;
    cluster.close(3).await;
    cluster.cut_power(1).await;
    cluster.cut_power(2).await;
    cluster.open(1).await;
    cluster.open(2).await;
    // after a while they believe that the third is gone
    cluster.put(1, "after", "without the third").await;
    cluster.put(1, "after", "again").await;
    cluster.open(3).await;
    until("the third stops", || cluster.store(3).status().read_only).await;
    assert_eq!(value(&cluster.store(1).linearizable_view(PATIENCE).await.unwrap(), "lease"), None);
    cluster.close(3).await;
    cluster.open(3).await;
    cluster.until_sure().await;
    cluster.until_equal().await;
    // and it may even lead
    until("the third leads", || cluster.store(3).leadership().borrow().leader.is_some().then_some(())).await;
    cluster.store(1).transfer_leadership(Some(3)).await.unwrap();
    cluster.put(3, "after", "all").await;
    cluster.until_equal().await;
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_from_a_lost_revision_ends_when_the_member_learns_of_the_loss() {
    let mut cluster = Cluster::start(1).await;
    cluster.put(1, "kept", "on disk").await;
    cluster.freeze_disk(1);
    let lost = cluster.put_volatile(1, "lease", "lost").await;
    cluster.boots += 1;
    cluster.cut_power(1).await;
    cluster.open(1).await;
    // whoever has seen it may come back before there is a leader, or after
    let ended = match cluster.store(1).watch(b"", lost).await {
        Ok(mut watcher) => tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(ended, WatchError::Compacted { asked, .. } if asked == lost), "{ended:?}");
    cluster.close_all().await;
}
