//! Each fault does what it says, and heals by itself; other timers come and go while the member stays open.

use super::*;
use crate::experiment::{Direction, FaultKind, Problem, Timers};
use crate::happenings::{Event as Happened, Happenings};
use crate::lull::Activity;

/// Long enough for a busy machine to see it, short enough to wait for its end.
const LASTS: Duration = Duration::from_secs(3);
/// Ended by the test.
const LONG: Duration = Duration::from_secs(600);

fn fault(kind: FaultKind) -> Fault {
    Fault::new(kind, LASTS)
}

async fn begin(store: &Store, fault: Fault) -> u64 {
    store.begin_fault(fault, "a test").await.unwrap().id.unwrap()
}

/// Waits until nothing goes wrong on the member any more, without anybody ending it.
async fn until_healed(store: &Store) {
    until("the faults heal by themselves", || store.experiments().faults.is_empty().then_some(())).await;
}

/// The next happening of which `wanted` makes something.
async fn until_happens<T>(happenings: &mut Happenings, what: &str, wanted: impl Fn(&Happened) -> Option<T>) -> T {
    let waiting = async {
        loop {
            let happening = happenings.recv().await.expect("the member is open");
            if let Some(found) = wanted(&happening.event) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("did not happen: {what}"))
}

async fn write_takes(store: &Store, key: &str) -> Duration {
    let begun = clock::now();
    store.txn(put(key, "v"), PATIENCE).await.unwrap();
    clock::since(begun)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_cut_off_misses_what_happens_and_disturbs_nobody() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let term = cluster.store(leader).status().term;
    let mut happenings = cluster.store(follower).happenings();
    let id = begin(cluster.store(follower), Fault::new(FaultKind::Drop, LONG)).await;
    cluster.store(leader).txn(put("k", "v"), PATIENCE).await.unwrap();
    until_happens(&mut happenings, "it misses the leader", |event| (*event == Happened::HeartbeatMissed { peer: leader }).then_some(()))
        .await;
    assert_eq!(value(&cluster.store(follower).view(), "k"), None);
    // it asks for votes, but only whether it would get them, and nobody answers
    until_happens(&mut happenings, "it stands", |event| matches!(event, Happened::VoteAsked { pre_vote: true, .. }).then_some(())).await;
    cluster.store(follower).end_fault(id, "a test").unwrap();
    until("it catches up", || value(&cluster.store(follower).view(), "k")).await;
    assert_eq!(cluster.store(leader).status().term, term, "nobody's term was raised");
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_heals_by_itself_and_says_so() {
    let cluster = Cluster::start(2).await;
    let store = cluster.store(1);
    let mut happenings = store.happenings();
    let short = Duration::from_millis(200);
    begin(store, Fault { delay_ms: Some(1), ..Fault::new(FaultKind::Delay, short) }).await;
    let began = until_happens(&mut happenings, "it begins", |event| match event {
        Happened::FaultBegan { fault, by } if by == "a test" => fault.id,
        _ => None,
    })
    .await;
    let (ended, why) = until_happens(&mut happenings, "it ends", |event| match event {
        Happened::FaultEnded { fault, why } => Some((fault.id, why.clone())),
        _ => None,
    })
    .await;
    assert_eq!((ended, why.as_str()), (Some(began), "its time is over"));
    assert!(store.experiments().faults.is_empty());
    // no message is looked at any more
    until("what was held back has arrived", || (!store.core().faults().any()).then_some(())).await;
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_one_peer_and_one_direction_leaves_the_others_alone() {
    let cluster = Cluster::start(3).await;
    let (leader, deaf) = (cluster.leader().await, cluster.follower().await);
    let other = (1..=3).find(|id| ![leader, deaf].contains(id)).unwrap();
    let mut happenings = cluster.store(deaf).happenings();
    let cut = Fault { peer: Some(deaf), direction: Some(Direction::Out), ..Fault::new(FaultKind::Drop, LONG) };
    let id = begin(cluster.store(leader), cut).await;
    until_happens(&mut happenings, "it misses the leader", |event| (*event == Happened::HeartbeatMissed { peer: leader }).then_some(()))
        .await;
    // its question reaches the leader, whose answer does not come back; the other one still counts on the leader
    let why = until_happens(&mut happenings, "it is refused", |event| match event {
        Happened::VoteAnswered { peer, granted: false, why, .. } if *peer == other => why.clone(),
        _ => None,
    })
    .await;
    assert!(why.contains(&format!("counts on member {leader}")), "{why}");
    let Committed::At(revision) = cluster.store(leader).txn(put("k", "v"), PATIENCE).await.unwrap() else { panic!("refused") };
    cluster.store(other).view_at_least(revision, PATIENCE).await.unwrap();
    assert!(cluster.store(deaf).view().revision() < revision);
    cluster.store(leader).end_fault(id, "a test").unwrap();
    assert_eq!(cluster.store(leader).end_fault(id, "a test"), Err(ExperimentError::NotFound(id)));
    until_happens(&mut happenings, "it hears the leader", |event| (*event == Happened::HeartbeatHeard { peer: leader }).then_some(()))
        .await;
    cluster.store(deaf).view_at_least(revision, PATIENCE).await.unwrap();
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_holds_back_no_read_for_long() {
    let cluster = Cluster::start(3).await;
    let (leader, deaf) = (cluster.leader().await, cluster.follower().await);
    let mut happenings = cluster.store(deaf).happenings();
    let cut = Fault { peer: Some(deaf), direction: Some(Direction::Out), ..Fault::new(FaultKind::Drop, LONG) };
    begin(cluster.store(leader), cut).await;
    let store = cluster.store(deaf).clone();
    let reading = tokio::spawn(async move { store.linearizable_view(LONG).await });
    until_happens(&mut happenings, "it misses the leader", |event| (*event == Happened::HeartbeatMissed { peer: leader }).then_some(()))
        .await;
    cluster.store(leader).end_faults("a test");
    tokio::time::timeout(PATIENCE, reading).await.expect("it asks again").unwrap().unwrap();
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_answers_delay_a_commit() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let late = Fault { direction: Some(Direction::Out), delay_ms: Some(150), jitter_ms: Some(20), ..Fault::new(FaultKind::Delay, LONG) };
    for id in (1..=3).filter(|id| *id != leader) {
        begin(cluster.store(id), late.clone()).await;
    }
    let took = write_takes(cluster.store(leader), "k").await;
    assert!(took >= Duration::from_millis(130), "{took:?}");
    for id in (1..=3).filter(|id| *id != leader) {
        assert_eq!(cluster.store(id).end_faults("a test").len(), 1);
    }
    cluster.store(leader).txn(put("k", "w"), PATIENCE).await.unwrap();
    cluster.until_equal().await;
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doubled_lost_and_overtaken_messages_change_no_outcome() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let before = cluster.store(follower).linearizable_view(PATIENCE).await.unwrap().revision();
    let some = |kind, probability| Fault { probability: Some(probability), ..Fault::new(kind, LONG) };
    for store in cluster.stores.values() {
        begin(store, some(FaultKind::Duplicate, 1.0)).await;
        begin(store, Fault { delay_ms: Some(10), ..some(FaultKind::Reorder, 0.3) }).await;
        begin(store, some(FaultKind::Drop, 0.01)).await;
    }
    for number in 0..30 {
        // an unclear outcome is repeated under the same id
        let txn = put(&format!("k{number}"), "v");
        let deadline = clock::deadline(PATIENCE);
        while cluster.store(follower).txn(txn.clone(), Duration::from_secs(2)).await.is_err() {
            assert!(clock::now() < deadline, "write {number} was never acknowledged");
        }
    }
    for store in cluster.stores.values() {
        assert_eq!(store.end_faults("a test").len(), 3);
    }
    let view = cluster.store(follower).linearizable_view(PATIENCE).await.unwrap();
    let records: Vec<_> = view.range(b"k", None).map(|record| record.revision).collect();
    assert_eq!(records.len(), 30);
    assert!(view.revision() >= before + 30);
    let distinct: std::collections::BTreeSet<_> = records.iter().collect();
    assert_eq!(distinct.len(), 30, "each write has a revision of its own: {records:?}");
    cluster.until_equal().await;
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_is_replaced_and_promises_nothing() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    cluster.store(old).txn(put("k", "old"), PATIENCE).await.unwrap();
    let id = begin(cluster.store(old), Fault::new(FaultKind::Pause, LONG)).await;
    let successor = until("another leads", || {
        let stores = cluster.stores.iter().filter(|(id, _)| **id != old);
        stores.into_iter().find(|(_, store)| store.leadership().borrow().established).map(|(id, _)| *id)
    })
    .await;
    cluster.store(successor).txn(put("k", "new"), PATIENCE).await.unwrap();
    let paused = cluster.store(old);
    // it still believes that it leads: what it says must be none of what it does not know
    assert_eq!(paused.leadership().borrow().leader, Some(old));
    let short = Duration::from_millis(300);
    assert!(matches!(paused.linearizable_view(short).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(paused.txn(put("k", "stale"), short).await, Err(StoreError::Unavailable(reason)) if reason.contains("paused")));
    assert!(matches!(paused.ready(short).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(paused.campaign().await, Err(StoreError::Unavailable(_))));
    // what may be stale is read, and its state is told
    assert_eq!(value(&paused.view(), "k").as_deref(), Some("old"));
    assert_eq!(paused.status().faults.len(), 1);
    paused.end_fault(id, "a test").unwrap();
    until("it follows", || (paused.leadership().borrow().leader.is_some_and(|leader| leader != old)).then_some(())).await;
    let view = paused.linearizable_view(PATIENCE).await.unwrap();
    assert_eq!(value(&view, "k").as_deref(), Some("new"));
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_member_goes_on_by_itself() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store(1);
    begin(store, Fault::new(FaultKind::Pause, Duration::from_millis(700))).await;
    // alone it has a quorum, and still acknowledges nothing before the end
    let took = write_takes(store, "k").await;
    assert!(took >= Duration::from_millis(600), "{took:?}");
    until_healed(store).await;
    assert_eq!(value(&store.linearizable_view(PATIENCE).await.unwrap(), "k").as_deref(), Some("v"));
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_is_slow_until_it_heals() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store(1);
    let slow = Fault { delay_ms: Some(300), ..fault(FaultKind::SlowSync) };
    begin(store, slow.clone()).await;
    let took = write_takes(store, "a").await;
    assert!(took >= Duration::from_millis(300), "{took:?}");
    until_healed(store).await;
    // a sync that waits for the end of a fault waits no longer than that
    let id = begin(store, Fault { delay_ms: Some(60_000), for_ms: 60_000, ..slow }).await;
    let writing = tokio::spawn({
        let store = store.clone();
        async move { store.txn(put("b", "v"), PATIENCE).await }
    });
    until("the write is in the log", || (store.status().last_log > store.status().committed).then_some(())).await;
    store.end_fault(id, "a test").unwrap();
    assert!(writing.await.unwrap().is_ok());
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_with_every_field() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store(1);
    let nonsense = Fault { peer: Some(9), delay_ms: Some(5), for_ms: 0, ..fault(FaultKind::Drop) };
    let Err(ExperimentError::Invalid(problems)) = store.begin_fault(nonsense, "a test").await else { panic!("accepted") };
    assert_eq!(problems.len(), 3, "{problems:?}");
    let change = TimersChange { election_min_ms: Some(5000), for_ms: 1000, ..TimersChange::default() };
    let Err(ExperimentError::Invalid(problems)) = store.change_timers(change, "a test").await else { panic!("accepted") };
    assert!(matches!(problems.as_slice(), [Problem::Invalid { field: "electionMaxMs", .. }]), "{problems:?}");
    assert!(store.experiments().faults.is_empty());
    for _ in 0..crate::experiment::FAULTS_MAX {
        begin(store, Fault { delay_ms: Some(1), ..fault(FaultKind::SlowSync) }).await;
    }
    assert_eq!(store.begin_fault(fault(FaultKind::Pause), "a test").await, Err(ExperimentError::TooMany));
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_timers_come_and_go_while_the_member_stays_open() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    cluster.store(leader).txn(put("before", "v"), PATIENCE).await.unwrap();
    let configured = cluster.store(follower).experiments().timers;
    assert_eq!(configured.ends_in_ms, None);
    let change = TimersChange {
        heartbeat_ms: Some(150),
        election_min_ms: Some(500),
        election_max_ms: Some(900),
        pre_vote: Some(false),
        for_ms: crate::experiment::millis(LASTS),
    };
    let wanted = Timers { heartbeat_ms: 150, election_min_ms: 500, election_max_ms: 900, pre_vote: false };
    until("the follower is up to date", || value(&cluster.store(follower).view(), "before")).await;
    let mut watcher = cluster.store(follower).watch(b"", cluster.store(follower).view().revision()).await.unwrap();
    let mut happenings = cluster.store(follower).happenings();
    // on a follower nobody else notices
    let (term, syncs) = (cluster.store(leader).status().term, cluster.store(follower).status().log_syncs);
    let changed = cluster.store(follower).change_timers(change, "a test").await.unwrap();
    assert_eq!(changed.timers, wanted);
    assert!(changed.ends_in_ms.is_some_and(|left| left > 0 && left <= change.for_ms));
    assert!(cluster.store(follower).status().log_syncs >= syncs, "it is the same log");
    assert_eq!(value(&cluster.store(follower).view(), "before").as_deref(), Some("v"));
    let told = until_happens(&mut happenings, "it is told", |event| match event {
        Happened::TimersChanged { timers, why } => Some((*timers, why.clone())),
        _ => None,
    })
    .await;
    assert_eq!(told, (wanted, "a test".to_owned()));
    // watchers and writers on it go on
    cluster.store(follower).txn(put("during", "v"), PATIENCE).await.unwrap();
    let events = tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap().unwrap();
    assert_eq!(events.iter().map(|event| event.record.key.clone()).collect::<Vec<_>>(), ["during"]);
    assert_eq!(cluster.store(leader).status().term, term);
    // the leader hands over before
    cluster.store(leader).change_timers(TimersChange { for_ms: 600_000, ..change }, "a test").await.unwrap();
    let successor = until("another leads", || {
        let leads = |(id, store): &(&NodeId, &Store)| **id != leader && store.leadership().borrow().established;
        cluster.stores.iter().find(leads).map(|(id, _)| *id)
    })
    .await;
    cluster.store(successor).txn(put("after", "v"), PATIENCE).await.unwrap();
    until("the old leader follows", || value(&cluster.store(leader).view(), "after")).await;
    // and the configured ones come back by themselves
    until("the configured timers are back", || (cluster.store(follower).experiments().timers == configured).then_some(())).await;
    assert_eq!(cluster.store(leader).experiments().timers.timers, wanted, "there they last longer");
    cluster.store(follower).txn(put("again", "v"), PATIENCE).await.unwrap();
    cluster.until_equal().await;
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_change_of_timers_counts() {
    let cluster = Cluster::start(1).await;
    let store = cluster.store(1);
    store.txn(put("k", "v"), PATIENCE).await.unwrap();
    let change = TimersChange { election_max_ms: Some(900), for_ms: 300, ..TimersChange::default() };
    store.change_timers(change, "a test").await.unwrap();
    let longer = TimersChange { election_max_ms: Some(1000), for_ms: 2000, ..TimersChange::default() };
    store.change_timers(longer, "a test").await.unwrap();
    let mut happenings = store.happenings();
    let back = until_happens(&mut happenings, "the configured ones come back", |event| match event {
        Happened::TimersChanged { timers, .. } => Some(*timers),
        _ => None,
    })
    .await;
    assert_eq!((back, store.experiments().timers.ends_in_ms), (store.core().config.timers(), None));
    // alone it leads again, over the same log and state
    assert_eq!(value(&store.linearizable_view(PATIENCE).await.unwrap(), "k").as_deref(), Some("v"));
    store.txn(put("k", "w"), PATIENCE).await.unwrap();
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_lull_nobody_is_elected_while_another_one_hears_the_leader() {
    // in a lull the leader speaks every 1.5 s, and raft's lease lasts for 0.8 s
    let cluster = Cluster::start_with(3, |config| config.heartbeat = Duration::from_millis(300)).await;
    let (leader, deaf) = (cluster.leader().await, cluster.follower().await);
    let other = (1..=3).find(|id| ![leader, deaf].contains(id)).unwrap();
    let term = cluster.store(leader).status().term;
    for id in 1..=3 {
        let quiet = || (*cluster.store(id).core().activity.lock() == Activity::Quiet).then_some(());
        until("a lull begins", quiet).await;
    }
    let mut happenings = cluster.store(deaf).happenings();
    begin(cluster.store(leader), Fault { peer: Some(deaf), ..Fault::new(FaultKind::Drop, LONG) }).await;
    for _ in 0..10 {
        let why = until_happens(&mut happenings, "it is answered", |event| match event {
            Happened::VoteAnswered { peer, why, .. } if *peer == other => Some(why.clone()),
            _ => None,
        })
        .await;
        let why = why.expect("it is refused");
        assert!(why.contains(&format!("counts on member {leader}")), "{why}");
    }
    let status = cluster.store(other).status();
    assert_eq!((status.term, status.leader), (term, Some(leader)));
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_pre_vote_whoever_comes_back_raises_the_term() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let change = TimersChange { pre_vote: Some(false), for_ms: 600_000, ..TimersChange::default() };
    cluster.store(follower).change_timers(change, "a test").await.unwrap();
    let term = cluster.store(leader).status().term;
    let id = begin(cluster.store(follower), Fault::new(FaultKind::Drop, LONG)).await;
    until("it stands for election again and again", || (cluster.store(follower).status().term >= term + 2).then_some(())).await;
    assert_eq!(cluster.store(leader).status().term, term);
    cluster.store(follower).end_fault(id, "a test").unwrap();
    until("the others are in a later term", || (cluster.store(leader).status().term >= term + 2).then_some(())).await;
    // a member that had lost its quorum believes so for a moment longer
    let writing = async {
        while cluster.store(cluster.leader().await).txn(put("k", "v"), PATIENCE).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, writing).await.unwrap();
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_election_is_told_by_whoever_asks_and_whoever_answers() {
    let cluster = Cluster::start(3).await;
    let (leader, candidate) = (cluster.leader().await, cluster.follower().await);
    let other = (1..=3).find(|id| ![leader, candidate].contains(id)).unwrap();
    let mut asking = cluster.store(candidate).happenings();
    let mut asked = cluster.store(other).happenings();
    cluster.store(candidate).campaign().await.unwrap();
    until_happens(&mut asking, "it asks", |event| (*event == Happened::VoteAsked { peer: other, pre_vote: false }).then_some(())).await;
    // a leader lives
    let why = until_happens(&mut asked, "it answers", |event| match event {
        Happened::VoteCast { candidate: who, pre_vote: false, granted: false, why } if *who == candidate => why.clone(),
        _ => None,
    })
    .await;
    assert!(why.contains(&format!("counts on member {leader}")), "{why}");
    until_happens(&mut asking, "it is told why", |event| match event {
        Happened::VoteAnswered { peer, granted: false, why, .. } if *peer == other => why.clone(),
        _ => None,
    })
    .await;
    cluster.close_all().await;
}
