//! Tests of the whole store: one member, and three in one process over loopback.

use std::collections::BTreeMap;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::command::{Cause, Guard, Op, TxnId};
use crate::watch::{Event, EventKind};

mod power_cut;

mod departed;
mod disaster;
mod experiments;
mod formats;
mod membership;
mod upkeep;

/// Generous: what is awaited happens in milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn put(key: &str, value: &str) -> Txn {
    let op = Op::Put { key: Bytes::from(key.to_owned()), value: Bytes::from(value.to_owned()), split: 0, terms: Vec::new() };
    Txn { id: TxnId::random(), guards: Vec::new(), ops: vec![op], cause: Cause::default() }
}

fn delete(key: &str) -> Txn {
    Txn { ops: vec![Op::Delete { key: Bytes::from(key.to_owned()) }], ..put(key, "") }
}

fn revision(committed: Committed) -> Revision {
    match committed {
        Committed::At(revision) => revision,
        Committed::Refused(refusal) => panic!("refused: {refusal:?}"),
    }
}

fn value(view: &View, key: &str) -> Option<String> {
    view.get(key.as_bytes()).map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}

/// Waits until `condition` holds, looking again after every applied entry and every change of raft's state.
async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = condition() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Members in one process, each in its own directory.
struct Cluster {
    dir: TempDir,
    stores: BTreeMap<NodeId, Store>,
    adjust: fn(&mut StoreConfig),
    /// How often the machines were switched on.
    boots: u32,
}

impl Cluster {
    async fn start(members: u64) -> Self {
        Self::start_with(members, |_| {}).await
    }

    async fn start_with(members: u64, adjust: fn(&mut StoreConfig)) -> Self {
        let mut cluster = Self { dir: TempDir::new().unwrap(), stores: BTreeMap::new(), adjust, boots: 1 };
        cluster.open(1).await;
        cluster.store(1).initialize().await.unwrap();
        for id in 2..=members {
            cluster.open(id).await;
            cluster.join(1, id).await;
        }
        cluster.until_voters(members).await;
        cluster
    }

    async fn open(&mut self, id: NodeId) {
        let mut config = StoreConfig::new(id, self.dir.path().join(id.to_string()));
        config.cluster_id = "test".into();
        config.boot_id = format!("boot {}", self.boots);
        // a busy test machine must not cause elections
        (config.election_min, config.election_max) = (Duration::from_millis(400), Duration::from_millis(800));
        // a member keeps its address over restarts
        let port_file = self.dir.path().join(format!("{id}.port"));
        if let Ok(address) = std::fs::read_to_string(&port_file) {
            config.peer_listen = address.parse().unwrap();
        }
        (self.adjust)(&mut config);
        let store = Store::open(config).await.unwrap();
        std::fs::write(&port_file, store.peer_address().to_string()).unwrap();
        self.stores.insert(id, store);
    }

    async fn join(&self, through: NodeId, id: NodeId) {
        let member = Member {
            id,
            peer_address: self.store(id).peer_address().to_string(),
            api_address: format!("api-{id}"),
            role: MemberRole::Voter,
        };
        self.store(through).add_member(member, PATIENCE).await.unwrap();
    }

    async fn until_voters(&self, count: u64) {
        let voters = |store: &Store| {
            let metrics = store.core().metrics();
            let membership = metrics.membership_config.membership();
            // until there is one set of voters again, the end of the change is still on its way
            (membership.get_joint_config().len() == 1).then(|| membership.voter_ids().count() as u64)
        };
        until("all members vote", || self.stores.values().all(|store| voters(store) == Some(count)).then_some(())).await;
    }

    fn store(&self, id: NodeId) -> &Store {
        &self.stores[&id]
    }

    async fn leader(&self) -> NodeId {
        until("a leader is established", || {
            self.stores.iter().find(|(_, store)| store.leadership().borrow().established).map(|(id, _)| *id)
        })
        .await
    }

    async fn follower(&self) -> NodeId {
        let leader = self.leader().await;
        *self.stores.keys().find(|id| **id != leader).unwrap()
    }

    async fn close(&mut self, id: NodeId) {
        self.stores.remove(&id).unwrap().close().await;
    }

    async fn close_all(mut self) {
        while let Some((_, store)) = self.stores.pop_first() {
            store.close().await;
        }
    }

    /// All members show the same records.
    async fn until_equal(&self) {
        let dump = |store: &Store| {
            let view = store.view();
            view.range(b"", None).map(|record| (record.key.clone(), record.value.clone(), record.revision)).collect::<Vec<_>>()
        };
        until("all members agree", || {
            let dumps: Vec<_> = self.stores.values().map(dump).collect();
            dumps.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn one_member_writes_reads_and_watches() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store(1);
    assert_eq!(store.view().revision(), 0);
    let mut watcher = store.watch(b"g/things/", 0).await.unwrap();
    let first = revision(store.txn(put("g/things/a", "1"), PATIENCE).await.unwrap());
    assert_eq!(first, 1);
    assert_eq!(value(&store.view(), "g/things/a").as_deref(), Some("1"));
    let second = revision(store.txn(put("g/things/a", "2"), PATIENCE).await.unwrap());
    let third = revision(store.txn(delete("g/things/a"), PATIENCE).await.unwrap());
    let mut events: Vec<Arc<Event>> = Vec::new();
    while events.len() < 3 {
        events.extend(tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap().unwrap());
    }
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.kind, event.revision, event.record.value.clone(), event.previous.as_ref().map(|record| record.revision)))
        .collect();
    assert_eq!(
        seen,
        [
            (EventKind::Put, first, Bytes::from("1"), None),
            (EventKind::Put, second, Bytes::from("2"), Some(first)),
            (EventKind::Delete, third, Bytes::from("2"), Some(second)),
        ]
    );
    assert_eq!(store.linearizable_view(PATIENCE).await.unwrap().revision(), third);
    // a delete of nothing changes nothing
    assert_eq!(revision(store.txn(delete("g/things/a"), PATIENCE).await.unwrap()), third);
    // progress grows with other prefixes
    let other = revision(store.txn(put("g/others/x", ""), PATIENCE).await.unwrap());
    assert_eq!(watcher.progress(), other);
    cluster.close_all().await;
}

#[tokio::test]
async fn guards_are_all_or_nothing() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store(1);
    let at = revision(store.txn(put("a", "1"), PATIENCE).await.unwrap());
    let key = |key: &str| Bytes::from(key.to_owned());
    let guarded = |guards: Vec<Guard>| Txn { guards, ops: [put("a", "2").ops, put("b", "2").ops].concat(), ..put("", "") };
    for (guards, refused) in [
        (vec![Guard::Absent { key: key("a") }], Some((0, Some(at)))),
        (vec![Guard::Present { key: key("b") }], Some((0, None))),
        (vec![Guard::Revision { key: key("a"), revision: at }, Guard::Revision { key: key("a"), revision: at + 1 }], Some((1, Some(at)))),
        (vec![Guard::Term(99)], Some((0, None))),
        (vec![Guard::Present { key: key("a") }, Guard::Absent { key: key("b") }, Guard::Revision { key: key("a"), revision: at }], None),
    ] {
        let before = store.view().revision();
        match (store.txn(guarded(guards), PATIENCE).await.unwrap(), refused) {
            (Committed::Refused(refusal), Some((guard, actual))) => {
                assert_eq!(refusal, Refusal { guard, actual });
                assert_eq!(store.view().revision(), before);
                assert_eq!(value(&store.view(), "b"), None);
            }
            (Committed::At(revision), None) => assert_eq!(revision, before + 1),
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }
    assert_eq!(value(&store.view(), "b").as_deref(), Some("2"));
    cluster.close_all().await;
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let mut cluster = Cluster::start(1).await;
    let same = put("b", "1");
    let at = {
        let store = cluster.store(1);
        store.txn(put("a", "1"), PATIENCE).await.unwrap();
        revision(store.txn(same.clone(), PATIENCE).await.unwrap())
    };
    cluster.close(1).await;
    cluster.open(1).await;
    let store = cluster.store(1);
    assert_eq!(store.view().revision(), at);
    assert_eq!(value(&store.view(), "a").as_deref(), Some("1"));
    cluster.leader().await;
    // the window of outcomes survives, too
    assert_eq!(revision(store.txn(same, PATIENCE).await.unwrap()), at);
    // another term, other revisions
    assert_eq!(revision(store.txn(put("c", "1"), PATIENCE).await.unwrap()), at + crate::gaps::GAP + 1);
    // and so does the history
    let mut watcher = store.watch(b"", 0).await.unwrap();
    let events = tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
    assert_eq!(events.iter().map(|event| event.record.key.clone()).collect::<Vec<_>>(), ["a", "b", "c"]);
    cluster.close_all().await;
}

/// A copy of what is on the disk, as a power cut at this moment would leave it, but for what the kernel has not written back.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_crash_loses_nothing_acknowledged() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store(1);
    for number in 0..100 {
        store.txn(put(&format!("k/{number}"), "1"), PATIENCE).await.unwrap();
    }
    // nothing of this process' memory is in the copy
    let crashed = cluster.dir.path().join("crashed");
    copy(&cluster.dir.path().join("1"), &crashed);
    let mut config = StoreConfig::new(1, &crashed);
    config.cluster_id = "test".into();
    let again = Store::open(config).await.unwrap();
    let view = again.linearizable_view(PATIENCE).await.unwrap();
    assert_eq!((view.count(b"k/"), view.range(b"", None).map(|record| record.revision).max()), (100, Some(100)));
    again.close().await;
    cluster.close_all().await;
}

#[tokio::test]
async fn a_watcher_that_slept_reads_the_history() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store(1);
    let mut slow = store.watch(b"g/", 0).await.unwrap();
    let (transactions, keys) = (60_u64, 100);
    for number in 0..transactions {
        let ops = (0..keys).flat_map(|key| put(&format!("g/k{key:03}"), &number.to_string()).ops).collect();
        store.txn(Txn { ops, ..put("", "") }, PATIENCE).await.unwrap();
    }
    // more than a ring holds
    let mut seen = Vec::new();
    while seen.len() < usize::try_from(transactions * keys).unwrap() {
        let events = tokio::time::timeout(PATIENCE, slow.next()).await.unwrap().unwrap();
        let (first, last) = (events.first().unwrap().revision, events.last().unwrap().revision);
        let whole = events.iter().filter(|event| event.revision == first).count() == usize::try_from(keys).unwrap();
        assert!(whole && events.len() % usize::try_from(keys).unwrap() == 0, "{first}..{last} is cut");
        assert_eq!(slow.progress(), last);
        seen.extend(events.iter().map(|event| (event.revision, event.record.key.clone())));
    }
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(seen.last().unwrap().0, transactions);
    cluster.close_all().await;
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers() {
    let dir = TempDir::with_prefix("tritest").unwrap();
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(dir.path()).status().unwrap();
        assert!(status.success(), "{arguments:?} needs root");
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=160m", "tritest"]);
    let filled = dir.path().join("ballast");
    let result = tokio::spawn({
        let path = dir.path().join("store");
        let filled = filled.clone();
        async move {
            let store = Store::open(StoreConfig::new(1, path)).await.unwrap();
            store.initialize().await.unwrap();
            store.txn(put("a", "1"), PATIENCE).await.unwrap();
            std::fs::write(&filled, vec![1_u8; 120 << 20]).unwrap();
            let refused = loop {
                match store.txn(put("b", "1"), PATIENCE).await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => break error,
                }
            };
            assert!(matches!(&refused, StoreError::ReadOnly(reason) if reason.contains("make room")), "{refused:?}");
            let unready = store.ready(PATIENCE).await;
            assert!(matches!(&unready, Err(StoreError::ReadOnly(reason)) if reason.contains("make room")), "{unready:?}");
            // reads go on
            assert_eq!(value(&store.linearizable_view(PATIENCE).await.unwrap(), "a").as_deref(), Some("1"));
            std::fs::remove_file(&filled).unwrap();
            while store.txn(put("c", "1"), PATIENCE).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // completely full at once, before anybody has looked: raft stops on this member, the process does not
            let mut ballast = std::fs::File::create(&filled).unwrap();
            let block = vec![1_u8; 1 << 16];
            while std::io::Write::write_all(&mut ballast, &block).is_ok() {}
            // an open file would keep its room
            drop(ballast);
            let refused = loop {
                match store.txn(put("d", &"x".repeat(1 << 20)), PATIENCE).await {
                    // what was on its way to the disk may be there
                    Ok(_) | Err(StoreError::OutcomeUnknown) => {}
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, StoreError::ReadOnly(_)), "{refused:?}");
            assert_eq!(value(&store.view(), "a").as_deref(), Some("1"));
            // a new start of the process would help only once there is room
            let mut stopped = std::pin::pin!(store.stopped());
            assert!(futures::poll!(&mut stopped).is_pending());
            std::fs::remove_file(&filled).unwrap();
            assert!(!stopped.await.is_empty());
            store.close().await;
        }
    });
    let result = tokio::time::timeout(PATIENCE, result).await;
    mount(&["umount", "-l"]);
    result.unwrap().unwrap();
}

#[tokio::test]
async fn a_second_opening_is_refused_with_the_path() {
    let cluster = Cluster::start(1).await;
    let config = StoreConfig::new(1, cluster.dir.path().join("1"));
    let error = Store::open(config).await.err().unwrap();
    assert!(error.path.ends_with("1/log"), "{error}");
    assert!(error.reason.contains("another process uses it"), "{error}");
    cluster.close_all().await;
}

#[tokio::test]
async fn a_directory_of_another_member_or_cluster_is_refused() {
    let mut cluster = Cluster::start(1).await;
    cluster.close(1).await;
    for (node_id, cluster_id) in [(2, "test"), (1, "another")] {
        let mut config = StoreConfig::new(node_id, cluster.dir.path().join("1"));
        config.cluster_id = cluster_id.into();
        let error = Store::open(config).await.err().unwrap();
        assert!(error.path.ends_with("1/log"), "{error}");
        assert!(error.reason.contains("belongs to member 1 of cluster \"test\""), "{error}");
    }
    cluster.open(1).await;
    cluster.leader().await;
    cluster.close_all().await;
}

/// Changes the beginning of every file with an extension below a directory.
fn damage_files(dir: &std::path::Path, of: &str) -> usize {
    let mut damaged = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damaged += damage_files(&path, of);
        } else if path.extension().is_some_and(|extension| extension == of) {
            let mut bytes = std::fs::read(&path).unwrap();
            // all of the first block, whatever its length
            bytes.iter_mut().take(200).for_each(|byte| *byte ^= 0xff);
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    damaged
}

#[tokio::test]
async fn a_damaged_state_is_built_again_from_a_whole_log_or_refused() {
    // large values are in files of their own
    let cases = [(10_000, true, "sst", 100), (20, false, "sst", 100), (10_000, true, "blob", 5_000), (20, false, "blob", 5_000)];
    for (snapshot_after_entries, rebuilt, of, value_bytes) in cases {
        let mut cluster = Cluster::start(1).await;
        cluster.close(1).await;
        let config = |cluster: &Cluster| {
            let mut config = StoreConfig::new(1, cluster.dir.path().join("1"));
            (config.cluster_id, config.snapshot_after_entries) = ("test".into(), snapshot_after_entries);
            config
        };
        let store = Store::open(config(&cluster)).await.unwrap();
        for number in 0..200 {
            store.txn(put(&format!("k/{number:03}"), &"v".repeat(value_bytes)), PATIENCE).await.unwrap();
        }
        if !rebuilt {
            until("the log is purged", || (store.status().purged > 0).then_some(())).await;
        }
        let last = store.view().revision();
        store.close().await;
        assert!(damage_files(&cluster.dir.path().join("1/state"), of) > 0);
        match Store::open(config(&cluster)).await {
            Ok(store) => {
                assert!(rebuilt, "damage was not noticed");
                let view = store.linearizable_view(PATIENCE).await.unwrap();
                assert_eq!((view.count(b"k/"), view.range(b"", None).map(|record| record.revision).max()), (200, Some(last)));
                store.close().await;
            }
            Err(error) => {
                assert!(!rebuilt, "{error}");
                assert!(error.reason.contains("damaged") && error.reason.contains("remove this member"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn every_member_writes_and_reads_its_own_and_others_writes() {
    let cluster = Cluster::start(3).await;
    for round in 0..5 {
        for id in 1..=3 {
            let key = format!("k/{id}");
            revision(cluster.store(id).txn(put(&key, &round.to_string()), PATIENCE).await.unwrap());
            // read your own write, locally
            assert_eq!(value(&cluster.store(id).view(), &key), Some(round.to_string()));
            for reader in 1..=3 {
                let view = cluster.store(reader).linearizable_view(PATIENCE).await.unwrap();
                assert_eq!(value(&view, &key), Some(round.to_string()), "member {reader} reads what member {id} wrote");
            }
        }
    }
    let status = cluster.store(1).status();
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| member.role == MemberRole::Voter));
    cluster.until_equal().await;
    cluster.close_all().await;
}

#[tokio::test]
async fn writes_go_on_when_the_leader_goes_and_it_catches_up() {
    let mut cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    cluster.store(old).txn(put("before", "1"), PATIENCE).await.unwrap();
    cluster.close(old).await;
    let survivor = *cluster.stores.keys().next().unwrap();
    for number in 0..20 {
        cluster.store(survivor).txn(put(&format!("n/{number}"), "1"), PATIENCE).await.unwrap();
    }
    let view = cluster.store(survivor).linearizable_view(PATIENCE).await.unwrap();
    assert_eq!(value(&view, "before").as_deref(), Some("1"));
    assert_eq!(view.count(b"n/"), 20);
    cluster.open(old).await;
    cluster.until_equal().await;
    assert_eq!(cluster.store(old).view().count(b"n/"), 20);
    cluster.close_all().await;
}

#[tokio::test]
async fn a_lagging_member_is_brought_back_by_a_snapshot() {
    let mut cluster = Cluster::start_with(3, |config| config.snapshot_after_entries = 20).await;
    let lagging = cluster.follower().await;
    cluster.store(lagging).txn(put("first", "1"), PATIENCE).await.unwrap();
    let mut watcher_start = 0;
    cluster.close(lagging).await;
    let writer = *cluster.stores.keys().next().unwrap();
    for number in 0..200 {
        let at = revision(cluster.store(writer).txn(put(&format!("n/{:03}", number % 50), &number.to_string()), PATIENCE).await.unwrap());
        if number == 100 {
            watcher_start = at;
        }
    }
    let applied = cluster.store(writer).status().applied;
    until("the log is purged beyond what the absent member has", || {
        cluster.stores.values().all(|store| store.status().purged > 50).then_some(())
    })
    .await;
    cluster.open(lagging).await;
    until("the snapshot and the rest arrive", || (cluster.store(lagging).status().applied >= applied).then_some(())).await;
    cluster.until_equal().await;
    // the history came along: a watch resumes from a revision that this member never applied itself
    let mut watcher = cluster.store(lagging).watch(b"n/", watcher_start).await.unwrap();
    let mut revisions = Vec::new();
    while revisions.last() != Some(&(watcher_start + 99)) {
        let events = tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
        revisions.extend(events.iter().map(|event| event.revision));
    }
    assert_eq!(revisions, (watcher_start + 1..=watcher_start + 99).collect::<Vec<_>>());
    // and it works after a restart from the installed snapshot
    cluster.close(lagging).await;
    cluster.open(lagging).await;
    cluster.until_equal().await;
    cluster.store(lagging).txn(put("last", "1"), PATIENCE).await.unwrap();
    cluster.close_all().await;
}

#[tokio::test]
async fn a_retry_is_applied_once_wherever_it_is_sent() {
    let mut cluster = Cluster::start(3).await;
    let txn = put("a", "1");
    let first = cluster.store(1).txn(txn.clone(), PATIENCE).await.unwrap();
    for id in 1..=3 {
        assert_eq!(cluster.store(id).txn(txn.clone(), PATIENCE).await.unwrap(), first);
    }
    // a refusal is remembered, too: the world has changed, the answer has not
    let refused = Txn { guards: vec![Guard::Absent { key: Bytes::from("a") }], ..put("b", "1") };
    let answer = cluster.store(2).txn(refused.clone(), PATIENCE).await.unwrap();
    assert!(matches!(answer, Committed::Refused(_)));
    cluster.store(2).txn(delete("a"), PATIENCE).await.unwrap();
    assert_eq!(cluster.store(3).txn(refused, PATIENCE).await.unwrap(), answer);
    // by another leader, too
    let leader = cluster.leader().await;
    cluster.close(leader).await;
    let survivor = *cluster.stores.keys().next().unwrap();
    assert_eq!(cluster.store(survivor).txn(txn, PATIENCE).await.unwrap(), first);
    cluster.close_all().await;
}

#[tokio::test]
async fn leadership_moves_and_the_old_term_is_fenced() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let old_term = cluster.store(old).leadership().borrow().term;
    let fenced = |key: &str| Txn { guards: vec![Guard::Term(old_term)], ..put(key, "1") };
    revision(cluster.store(old).txn(fenced("in term"), PATIENCE).await.unwrap());
    let heir = cluster.follower().await;
    // asked of a member that may not lead
    let asked = *cluster.stores.keys().find(|id| **id != old && **id != heir).unwrap();
    cluster.store(asked).transfer_leadership(Some(heir)).await.unwrap();
    until("the heir is established", || cluster.store(heir).leadership().borrow().established.then_some(())).await;
    // the deposed leader's late write, under a new id
    let late = cluster.store(old).txn(fenced("late"), PATIENCE).await.unwrap();
    assert_eq!(late, Committed::Refused(Refusal { guard: 0, actual: None }));
    assert_eq!(value(&cluster.store(old).view(), "late"), None);
    until("the old leader knows", || (!cluster.store(old).leadership().borrow().established).then_some(())).await;
    cluster.close_all().await;
}

/// Whoever was asked and saw the new leader before the old one's answer asked the new leader, too.
#[tokio::test]
async fn a_hand_over_to_anybody_is_one_election() {
    let cluster = Cluster::start(3).await;
    for asked in [1, 2, 3, 1, 2, 3] {
        let old = cluster.leader().await;
        let before = *cluster.store(old).leadership().borrow();
        cluster.store(asked).transfer_leadership(None).await.unwrap();
        let new = until("somebody is established", || {
            let now: Vec<_> = cluster.stores.values().map(|store| *store.leadership().borrow()).collect();
            let agreed = now.iter().all(|of| (of.term, of.leader) == (now[0].term, now[0].leader));
            now.into_iter().find(|of| agreed && of.established)
        })
        .await;
        assert_eq!(new.term, before.term + 1, "member {asked} was asked");
        assert_ne!(new.leader, before.leader);
    }
    cluster.close_all().await;
}

#[tokio::test]
async fn members_come_and_go() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    // through a follower, the leader itself
    let other = cluster.follower().await;
    cluster.store(other).remove_member(leader, PATIENCE).await.unwrap();
    cluster.close(leader).await;
    cluster.until_voters(2).await;
    // of two, the last living one cannot be left alone with a dead one
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    cluster.close(follower).await;
    let refused = cluster.store(leader).remove_member(leader, Duration::from_secs(5)).await.unwrap_err();
    // whether it notices before it tries
    assert!(matches!(refused, StoreError::Unavailable(_) | StoreError::OutcomeUnknown), "{refused:?}");
    cluster.open(follower).await;
    assert_eq!(cluster.store(leader).status().members.len(), 2);
    // the leader may notice only now how long the other was silent: until it has heard it, it refuses at once
    let written = async {
        while let Err(error) = cluster.store(leader).txn(put("a", "1"), PATIENCE).await {
            assert!(matches!(error, StoreError::Unavailable(_) | StoreError::OutcomeUnknown), "{error:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("the group has a quorum again");
    // a new member under a new id, with its addresses changed afterwards
    cluster.open(7).await;
    cluster.join(follower, 7).await;
    cluster.until_voters(3).await;
    let moved = Member {
        id: 7,
        peer_address: cluster.store(7).peer_address().to_string(),
        api_address: "elsewhere".into(),
        role: MemberRole::Voter,
    };
    cluster.store(follower).add_member(moved.clone(), PATIENCE).await.unwrap();
    until("everybody knows the new address", || cluster.stores.values().all(|store| store.status().members.contains(&moved)).then_some(()))
        .await;
    cluster.until_equal().await;
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_miss_nothing_and_see_nothing_twice() {
    let cluster = Cluster::start(3).await;
    let writers = (1..=3_u64).map(|id| {
        let store = cluster.store(id).clone();
        tokio::spawn(async move {
            for number in 0..150 {
                let key = format!("g/p{}/n{}/k{}", number % 2, id % 2, number % 7);
                let txn = if number % 5 == 4 { delete(&key) } else { put(&key, &format!("{id}-{number}")) };
                store.txn(txn, PATIENCE).await.unwrap();
            }
        })
    });
    let prefixes = ["", "g/", "g/p0/", "g/p1/n1/", "g/p1/n0/k3"];
    let watchers = cluster.stores.values().flat_map(|store| prefixes.map(|prefix| (store.clone(), prefix)));
    let end = Arc::new(tokio::sync::watch::Sender::new(None::<Revision>));
    let watchers: Vec<_> = watchers
        .map(|(store, prefix)| {
            let end = end.subscribe();
            tokio::spawn(async move {
                // what a watcher builds out of events must equal what a list shows
                let mut model: BTreeMap<Bytes, (Bytes, Revision)> = BTreeMap::new();
                let mut last = 0;
                let mut watcher = store.watch(prefix.as_bytes(), 0).await.unwrap();
                loop {
                    if end.borrow().is_some_and(|end| watcher.progress() >= end) {
                        break;
                    }
                    // given up and asked again many times: nothing may get lost by that
                    let next = tokio::time::timeout(Duration::from_millis(5), watcher.next()).await;
                    let events = next.map_or_else(|_elapsed| Vec::new(), Result::unwrap);
                    for event in events {
                        assert!(event.revision >= last, "{} after {last}", event.revision);
                        last = event.revision;
                        let known = model.get(&event.record.key).map(|(_, revision)| *revision);
                        assert_eq!(event.previous.as_ref().map(|record| record.revision), known, "an event was lost");
                        match event.kind {
                            EventKind::Put => {
                                model.insert(event.record.key.clone(), (event.record.value.clone(), event.revision));
                            }
                            EventKind::Delete => {
                                model.remove(&event.record.key).unwrap();
                            }
                        }
                    }
                }
                (store, prefix, model)
            })
        })
        .collect();
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let last = cluster.store(1).linearizable_view(PATIENCE).await.unwrap().revision();
    end.send_replace(Some(last));
    for watcher in watchers {
        let (store, prefix, model) = tokio::time::timeout(PATIENCE, watcher).await.unwrap().unwrap();
        let view = store.view();
        let listed: BTreeMap<_, _> =
            view.range(prefix.as_bytes(), None).map(|record| (record.key.clone(), (record.value.clone(), record.revision))).collect();
        assert_eq!(model, listed, "prefix {prefix:?}");
    }
    cluster.close_all().await;
}

#[tokio::test]
async fn the_past_can_be_read_until_it_is_compacted() {
    let cluster = Cluster::start_with(1, |config| config.history_retention = Duration::from_secs(3600)).await;
    let store = cluster.store(1);
    // the state after every revision
    let mut states: Vec<BTreeMap<String, String>> = vec![BTreeMap::new()];
    for number in 0..60 {
        let mut state = states.last().unwrap().clone();
        let key = format!("k/{}", number % 6);
        if number % 4 == 3 && state.contains_key(&key) {
            state.remove(&key);
            store.txn(delete(&key), PATIENCE).await.unwrap();
        } else {
            state.insert(key.clone(), number.to_string());
            store.txn(put(&key, &number.to_string()), PATIENCE).await.unwrap();
        }
        states.push(state);
    }
    let check = |records: Vec<Arc<Record>>, at: usize| {
        let found: BTreeMap<String, String> = records
            .iter()
            .map(|record| (String::from_utf8(record.key.to_vec()).unwrap(), String::from_utf8(record.value.to_vec()).unwrap()))
            .collect();
        assert_eq!(found, states[at], "at revision {at}");
    };
    for at in 0..states.len() {
        check(store.range_at(b"k/", at as u64).await.unwrap(), at);
    }
    let beyond = store.range_at(b"", 1000).await.unwrap_err();
    assert_eq!(beyond, StoreError::TooLarge { asked: 1000, current: 60 });
    // in two steps, as the rows of the first step matter to the second
    for upto in [25_u64, 47] {
        let command = records::encode(&Command::Compact { upto });
        store.core().raft().client_write(crate::raft_types::Payload(command.into())).await.unwrap();
        assert_eq!(store.range_at(b"", upto - 1).await.unwrap_err(), StoreError::Compacted { asked: upto - 1, oldest: upto });
        assert_eq!(store.watch(b"", upto - 1).await.err().unwrap(), WatchError::Compacted { asked: upto - 1, oldest: upto });
        for at in usize::try_from(upto).unwrap()..states.len() {
            check(store.range_at(b"k/", at as u64).await.unwrap(), at);
        }
    }
    // keys whose row was compacted while they were current are history again after a change
    let at = store.view().revision();
    for number in 0..6 {
        store.txn(put(&format!("k/{number}"), "new"), PATIENCE).await.unwrap();
    }
    check(store.range_at(b"k/", at).await.unwrap(), usize::try_from(at).unwrap());
    let mut watcher = store.watch(b"k/", at).await.unwrap();
    let events = tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
    for event in events {
        let key = String::from_utf8(event.record.key.to_vec()).unwrap();
        let before = event.previous.as_ref().map(|record| String::from_utf8(record.value.to_vec()).unwrap());
        assert_eq!(before.as_ref(), states.last().unwrap().get(&key));
    }
    cluster.close_all().await;
}

#[tokio::test]
async fn old_history_is_forgotten_by_itself() {
    let cluster = Cluster::start_with(1, |config| config.history_retention = Duration::from_millis(200)).await;
    let store = cluster.store(1);
    let at = revision(store.txn(put("a", "1"), PATIENCE).await.unwrap());
    until("the history is compacted", || (store.core().shared.compacted() >= at).then_some(())).await;
    assert_eq!(store.watch(b"", 0).await.err().unwrap(), WatchError::Compacted { asked: 0, oldest: at });
    assert_eq!(value(&store.view(), "a").as_deref(), Some("1"));
    cluster.close_all().await;
}

#[tokio::test]
async fn history_keeps_its_size_and_the_newest_of_it() {
    const MAX: u64 = 64 << 10;
    let cluster = Cluster::start_with(1, |config| {
        (config.history_bytes_max, config.history_retention) = (MAX, Duration::from_secs(2));
    })
    .await;
    let store = cluster.store(1);
    // a retention of two seconds looks at the history often; the clock of these changes says that none of them is old
    let far = clock::now_unix_ms() + 3_600_000;
    let mut last = 0;
    for number in 0..60 {
        let command = Command::new(put(&format!("k/{}", number % 7), &"x".repeat(4 << 10)), Durability::Disk, 0, far);
        let applied = store.core().propose(records::encode(&command).into(), 0, clock::deadline(PATIENCE)).await.unwrap();
        last = revision(applied);
    }
    assert!(store.core().shared.history_bytes() > 0);
    until("the history is small enough", || (store.core().shared.history_bytes() <= MAX).then_some(())).await;
    let oldest = store.core().shared.compacted();
    assert_eq!(store.watch(b"", oldest - 1).await.err().unwrap(), WatchError::Compacted { asked: oldest - 1, oldest });
    // no more than needed: about a dozen of the newest are there
    assert!((last - 16..last - 10).contains(&oldest), "{oldest} of {last}");
    let mut watcher = store.watch(b"", oldest).await.unwrap();
    let first = tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap().unwrap()[0].revision;
    assert_eq!(first, oldest + 1);
    // what is counted is what is there, also after a restart
    let counted = store.core().shared.history_bytes();
    let rows = store.core().shared.db().unwrap().forgotten(oldest, u64::MAX).unwrap().changes;
    assert_eq!(rows.iter().map(|row| row.size_bytes).sum::<u64>(), counted);
    cluster.close_all().await;
}

#[tokio::test]
async fn an_idle_group_syncs_nothing() {
    let cluster = Cluster::start(3).await;
    cluster.store(1).txn(put("a", "1"), PATIENCE).await.unwrap();
    cluster.until_equal().await;
    // what is committed may still be on its way to one member's disk
    let leader = cluster.leader().await;
    until("all members have synced all entries", || {
        let status = cluster.store(leader).status();
        // the leader's own sync may be the last one to end
        (status.matched.len() == 3 && status.matched.values().all(|matched| *matched == status.last_log)).then_some(())
    })
    .await;
    let syncs = || cluster.stores.values().map(|store| store.status().log_syncs).collect::<Vec<_>>();
    let terms = || cluster.stores.values().map(|store| store.status().term).collect::<Vec<_>>();
    let before = (syncs(), terms());
    // thirty heartbeats
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((syncs(), terms()), before);
    cluster.close_all().await;
}

#[tokio::test]
async fn without_a_quorum_nothing_is_promised() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    for id in 1..=3 {
        if id != follower {
            cluster.close(id).await;
        }
    }
    let store = cluster.store(follower);
    let error = store.txn(put("a", "1"), Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_) | StoreError::OutcomeUnknown), "{error:?}");
    // soon everybody is told at once who is missing, however long he would wait
    until("the member knows", || store.status().no_quorum).await;
    for id in 1..=3 {
        let expected = format!("member {id} (127.0.0.1:");
        let asked = clock::now();
        let error = store.txn(put("a", "1"), PATIENCE).await.unwrap_err();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert!(matches!(&error, StoreError::Unavailable(reason) if reason.contains(&expected) == (id != follower)), "{error:?}");
        let error = store.linearizable_view(PATIENCE).await.err().unwrap();
        assert!(matches!(&error, StoreError::Unavailable(reason) if reason.contains("1 of 3 voters")), "{error:?}");
    }
    assert!(matches!(store.ready(PATIENCE).await, Err(StoreError::Unavailable(_))));
    // one more makes a quorum
    let other = (1..=3).find(|id| *id != follower).unwrap();
    cluster.open(other).await;
    until("the member knows that, too", || cluster.store(follower).status().no_quorum.is_none().then_some(())).await;
    cluster.store(follower).ready(PATIENCE).await.unwrap();
    revision(cluster.store(follower).txn(put("a", "1"), PATIENCE).await.unwrap());
    cluster.close_all().await;
}

#[tokio::test]
async fn whoever_knows_a_new_leader_takes_writes_at_once() {
    let mut cluster = Cluster::start(3).await;
    let (leader, survivor) = (cluster.leader().await, cluster.follower().await);
    // the leader goes last: there is no quorum any more that could elect another one
    let other = (1..=3).find(|id| ![leader, survivor].contains(id)).unwrap();
    cluster.close(other).await;
    cluster.close(leader).await;
    until("the member knows that it is alone", || cluster.store(survivor).status().no_quorum).await;
    cluster.open(other).await;
    let store = cluster.store(survivor);
    let before = store.status().term;
    store.campaign().await.unwrap();
    let known = || {
        // one look at a time: whoever changes it meanwhile waits for the first, and lets no second one pass
        let known = *store.leadership().borrow();
        known.leader.filter(|_| known.term > before)
    };
    until("it knows a new leader", known).await;
    // what it knew before is not held against the write
    revision(store.txn(put("a", "1"), PATIENCE).await.unwrap());
    cluster.close_all().await;
}

#[test]
fn a_leader_is_news_when_another_one_or_none_was_known() {
    let at = |term, leader| Leadership { term, leader, established: false };
    let check = |earlier, now: Leadership, expected| assert_eq!(now.is_news_after(&earlier), expected);
    check(at(3, Some(1)), at(3, Some(1)), false);
    check(at(3, Some(1)), at(4, None), false);
    check(at(4, None), at(4, Some(2)), true);
    check(at(3, Some(1)), at(4, Some(1)), true);
}

#[tokio::test]
async fn a_leader_without_followers_says_so_instead_of_waiting() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for id in 1..=3 {
        if id != leader {
            cluster.close(id).await;
        }
    }
    let store = cluster.store(leader);
    // it was the leader when this came, so nobody knows what will become of it
    let asked = clock::now();
    let error = store.txn(put("a", "1"), PATIENCE).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_) | StoreError::OutcomeUnknown), "{error:?}");
    let error = store.txn(put("b", "1"), PATIENCE).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(reason) if reason.contains("missing: member")), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    cluster.close_all().await;
}

#[tokio::test]
async fn a_leader_elected_just_now_does_not_take_silence_for_death() {
    let cluster = Cluster::start(3).await;
    let voters = [1, 2, 3].into();
    for _ in 0..5 {
        let old = cluster.leader().await;
        let heir = cluster.follower().await;
        cluster.store(old).transfer_leadership(Some(heir)).await.unwrap();
        cluster.store(heir).core().keeps_quorum_without(&voters, old).await.unwrap();
        until("the heir is established", || cluster.store(heir).leadership().borrow().established.then_some(())).await;
    }
    cluster.close_all().await;
}

#[tokio::test]
async fn a_closed_store_says_so_and_watches_end() {
    let mut cluster = Cluster::start(1).await;
    let store = cluster.store(1).clone();
    let mut watcher = store.watch(b"", 0).await.unwrap();
    let waiting = tokio::spawn(async move { watcher.next().await });
    cluster.close(1).await;
    assert_eq!(tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().err(), Some(WatchError::Closed));
    assert_eq!(store.txn(put("a", "1"), PATIENCE).await, Err(StoreError::Closed));
    assert_eq!(store.linearizable_view(PATIENCE).await.err(), Some(StoreError::Closed));
    assert_eq!(store.watch(b"", 0).await.err(), Some(WatchError::Closed));
}

#[tokio::test]
async fn a_transaction_that_is_too_large_is_refused() {
    let cluster = Cluster::start(1).await;
    let error = cluster.store(1).txn(put("a", &"x".repeat(TXN_BYTES_MAX)), PATIENCE).await.unwrap_err();
    assert!(matches!(error, StoreError::RequestTooLarge { limit_bytes: TXN_BYTES_MAX, .. }), "{error:?}");
    cluster.close_all().await;
}

#[test]
fn the_store_works_from_a_runtime_without_timers() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let dir = TempDir::new().unwrap();
        let store = Store::open(StoreConfig::new(1, dir.path())).await.unwrap();
        store.initialize().await.unwrap();
        revision(store.txn(put("a", "1"), PATIENCE).await.unwrap());
        assert_eq!(value(&store.linearizable_view(PATIENCE).await.unwrap(), "a").as_deref(), Some("1"));
        assert!(matches!(store.view_at_least(99, Duration::from_millis(50)).await, Err(StoreError::TooLarge { asked: 99, current: 1 })));
        store.close().await;
    });
}
