//! What members do by themselves: the log stays small, and a clock that is not needed rests.

use super::*;
use crate::experiment::FaultKind;
use crate::happenings::Event as Happened;

/// Bytes of a value that is large beside all that is written with it.
const LARGE_BYTES: usize = 16 << 10;

#[tokio::test]
async fn what_is_kept_of_the_log_is_bounded_by_its_bytes() {
    // by entries all of it would be kept
    let cluster = Cluster::start_with(1, |config| config.log_bytes_max = 1 << 20).await;
    let store = cluster.store(1);
    let value = "v".repeat(LARGE_BYTES);
    for number in 0..400 {
        store.txn(put(&format!("n/{:02}", number % 4), &value), PATIENCE).await.unwrap();
    }
    let kept_bytes = || {
        let status = store.status();
        (status.last_log - status.purged) * LARGE_BYTES as u64
    };
    // what the last snapshot does not hold, and the share for members that lag
    until("the log is purged", || (kept_bytes() < 2 << 20).then_some(())).await;
    assert!(kept_bytes() > 128 << 10, "nothing is left for members that lag");
    cluster.close_all().await;
}

#[tokio::test]
async fn a_snapshot_that_was_outgrown_while_it_was_made_is_followed_by_another() {
    let cluster = Cluster::start_with(1, |config| config.log_bytes_max = 1 << 20).await;
    let store = cluster.store(1);
    let value = "v".repeat(LARGE_BYTES);
    let mut writes = tokio::task::JoinSet::new();
    // far more than the limit at once, and nothing afterwards
    for number in 0..800 {
        let (store, write) = (store.clone(), put(&format!("n/{:02}", number % 4), &value));
        writes.spawn(async move { store.txn(write, PATIENCE).await });
    }
    writes.join_all().await.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    until("the log is purged", || {
        let status = store.status();
        ((status.last_log - status.purged) * (LARGE_BYTES as u64) < 2 << 20).then_some(())
    })
    .await;
    cluster.close_all().await;
}

#[tokio::test]
async fn forgetting_goes_on_while_what_is_to_be_forgotten_is_on_its_way_to_a_majority() {
    const ROWS: u64 = 3_000;
    // late answers elect nobody
    let cluster = Cluster::start_with(3, |config| {
        (config.election_min, config.election_max) = (PATIENCE * 10, PATIENCE * 20);
        config.history_retention = Duration::from_secs(2);
    })
    .await;
    let leader = cluster.leader().await;
    let store = cluster.store(leader);
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..ROWS {
        let store = store.clone();
        writes.spawn(async move { store.txn(put(&format!("n/{number:04}"), "v"), PATIENCE).await.map(revision) });
    }
    let revisions = writes.join_all().await.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    let (last, last_log) = (revisions.into_iter().max().unwrap(), store.status().last_log);
    // more than three slices take
    let slow = Fault { delay_ms: Some(300), ..Fault::new(FaultKind::Delay, PATIENCE) };
    store.begin_fault(slow, "a test").await.unwrap();
    until("more is to be forgotten while some is on its way", || {
        let status = store.status();
        let committed = status.matched.iter().filter(|(id, _)| **id != leader).map(|(_, matched)| *matched).max()?;
        (status.last_log >= committed.max(last_log) + 3).then_some(())
    })
    .await;
    store.end_faults("a test");
    until("all of it is forgotten", || (store.core().shared.compacted() >= last).then_some(())).await;
    cluster.close_all().await;
}

#[tokio::test]
async fn clocks_rest_while_the_leader_is_heard_and_tick_when_it_is_not() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let ticking = |cluster: &Cluster| cluster.stores.values().filter(|store| store.core().seat.ticks()).count();
    until("all clocks rest", || (ticking(&cluster) == 0).then_some(())).await;
    let term = cluster.store(leader).status().term;
    // longer than any time-out: that nothing happens cannot be waited for
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.store(leader).status().term, term);
    // who hears nobody, and has nobody to ask, looks at its timers
    for id in [1, 2, 3].into_iter().filter(|id| *id != leader).take(2) {
        cluster.close(id).await;
    }
    let (id, _) = cluster.stores.iter().next().map(|(id, store)| (*id, store.clone())).unwrap();
    assert_eq!(id, leader);
    cluster.close(leader).await;
    cluster.open(leader).await;
    until("the clock ticks", || cluster.store(leader).core().seat.ticks().then_some(())).await;
    cluster.close_all().await;
}

/// Waits until a follower has heard the leader several times in a row, each time so long after the last.
async fn until_beats(store: &Store, what: &str, wanted: std::ops::Range<Duration>) {
    let (mut heard, mut in_a_row) = (*store.core().heard.lock(), 0);
    until(what, || {
        let now = *store.core().heard.lock();
        if now != heard {
            in_a_row = if wanted.contains(&now.saturating_duration_since(heard)) { in_a_row + 1 } else { 0 };
            heard = now;
        }
        (in_a_row >= 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_leader_speaks_seldom_while_nothing_is_written_and_its_silence_is_noticed() {
    let cluster = Cluster::start(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let (usual, seldom) = (Duration::from_millis(50)..Duration::from_millis(200), Duration::from_millis(200)..PATIENCE);
    until_beats(cluster.store(follower), "it speaks seldom", seldom.clone()).await;
    let writing = async {
        loop {
            cluster.store(leader).txn(put("k", "v"), PATIENCE).await.unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    };
    tokio::select! {
        () = until_beats(cluster.store(follower), "it speaks as usual", usual) => {}
        () = writing => {}
    }
    until_beats(cluster.store(follower), "it speaks seldom", seldom).await;
    cluster.store(leader).begin_fault(Fault::new(FaultKind::Pause, PATIENCE), "a test").await.unwrap();
    let leadership = cluster.store(follower).leadership();
    until("another one leads", || leadership.borrow().leader.filter(|other| *other != leader)).await;
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_needs_one_snapshot_however_much_is_written_meanwhile() {
    let mut cluster = Cluster::start_with(1, |config| config.snapshot_after_entries = 20).await;
    let writer = {
        let store = cluster.store(1).clone();
        tokio::spawn(async move {
            // some of them are in files for large values
            for number in 0_u64.. {
                let value = if number % 4 == 0 { "v".repeat(LARGE_BYTES) } else { "v".into() };
                store.txn(put(&format!("n/{}", number % 10), &value), PATIENCE).await.unwrap();
            }
        })
    };
    until("the log is purged", || (cluster.store(1).status().purged > 0).then_some(())).await;
    // so that more is written while a snapshot is on its way than is usually kept
    let slow = Fault { delay_ms: Some(30), ..Fault::new(FaultKind::Delay, PATIENCE) };
    cluster.store(1).begin_fault(slow, "a test").await.unwrap();
    cluster.open(2).await;
    let mut happenings = cluster.store(2).happenings();
    cluster.join(1, 2).await;
    let mut snapshots = Vec::new();
    let mut goal = None;
    let following = async {
        loop {
            if let Ok(Some(happening)) = tokio::time::timeout(Duration::from_millis(5), happenings.recv()).await
                && let Happened::SnapshotReceived { index } = happening.event
            {
                snapshots.push(index);
                goal.get_or_insert(cluster.store(1).status().applied + 200);
            }
            if goal.is_some_and(|goal| cluster.store(2).status().applied >= goal) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, following).await.expect("it follows");
    writer.abort();
    assert_eq!(snapshots.len(), 1, "it got one snapshot after the other: {snapshots:?}");
    cluster.store(1).end_faults("a test");
    cluster.until_equal().await;
    cluster.close_all().await;
}
