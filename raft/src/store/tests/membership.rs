//! Members that come, go, are lost and come back, while clients write.

use std::collections::BTreeSet;

use super::*;

/// Writes as fast as it is answered until it is told to stop; returns the keys whose writes were acknowledged.
fn writer(name: &'static str, store: Store, stop: tokio_util::sync::CancellationToken) -> tokio::task::JoinHandle<BTreeSet<String>> {
    tokio::spawn(async move {
        let mut acknowledged = BTreeSet::new();
        for number in 0_u64.. {
            if stop.is_cancelled() {
                break;
            }
            let key = format!("{name}/{number}");
            match store.txn(put(&key, "1"), PATIENCE).await {
                Ok(committed) => {
                    revision(committed);
                    acknowledged.insert(key);
                }
                Err(StoreError::OutcomeUnknown | StoreError::Unavailable(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        acknowledged
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_grows_to_five_and_shrinks_to_one_while_clients_write() {
    let mut cluster = Cluster::start(1).await;
    let stop = tokio_util::sync::CancellationToken::new();
    // the first member stays, whatever happens: clients talk to it
    let writers = [writer("a", cluster.store(1).clone(), stop.clone()), writer("b", cluster.store(1).clone(), stop.clone())];
    for (last, members) in [(3, 3), (5, 5)] {
        for id in cluster.stores.len() as u64 + 1..=last {
            cluster.open(id).await;
            cluster.join(1, id).await;
        }
        cluster.until_voters(members).await;
    }
    // the leader goes, too, wherever it is
    cluster.store(cluster.leader().await).transfer_leadership(Some(4)).await.unwrap();
    for (id, left) in [(4, 4), (5, 3), (3, 2), (2, 1)] {
        cluster.store(1).remove_member(id, PATIENCE).await.unwrap();
        cluster.close(id).await;
        cluster.until_voters(left).await;
    }
    let before = cluster.store(1).view().revision();
    until("writes go on with one member", || (cluster.store(1).view().revision() > before + 10).then_some(())).await;
    stop.cancel();
    let mut acknowledged = BTreeSet::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    cluster.close(1).await;
    cluster.open(1).await;
    let view = cluster.store(1).linearizable_view(PATIENCE).await.unwrap();
    let lost: Vec<_> = acknowledged.iter().filter(|key| value(&view, key).is_none()).collect();
    assert!(lost.is_empty(), "{lost:?}");
    cluster.close_all().await;
}

#[tokio::test]
async fn a_removal_that_would_lose_the_quorum_is_refused_with_the_reason() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let others: Vec<NodeId> = (1..=3).filter(|id| *id != leader).collect();
    cluster.close(others[0]).await;
    let refused = cluster.store(leader).remove_member(others[1], PATIENCE).await.unwrap_err();
    let expected = format!("without member {} only 1 of 2 voters would answer, 2 are needed", others[1]);
    assert_eq!(refused, StoreError::Unavailable(expected));
    // the dead one may go, and a new one take its place
    cluster.store(leader).remove_member(others[0], PATIENCE).await.unwrap();
    cluster.open(4).await;
    cluster.join(leader, 4).await;
    cluster.until_voters(3).await;
    cluster.close_all().await;
}

#[tokio::test]
async fn a_member_that_lost_its_log_votes_no_more() {
    let mut cluster = Cluster::start(3).await;
    revision(cluster.store(1).txn(put("a", "1"), PATIENCE).await.unwrap());
    cluster.until_equal().await;
    cluster.close(3).await;
    let dir = cluster.dir.path().join("3");
    std::fs::remove_dir_all(&dir).unwrap();
    // it knows by itself that it was a member
    let mut config = StoreConfig::new(3, &dir);
    (config.cluster_id, config.joined) = ("test".into(), true);
    let error = Store::open(config).await.err().unwrap();
    assert!(error.to_string().contains("its log is gone"), "{error}");
    std::fs::remove_dir_all(&dir).unwrap();
    // and if it has forgotten that, too, the others know
    cluster.open(3).await;
    let leader = cluster.leader().await;
    let reason = until("the leader says so", || cluster.store(leader).status().refused.get(&3).cloned()).await;
    assert!(reason.contains("member 3 came back with another log than it had"), "{reason}");
    // so it makes no quorum
    let other = if leader == 1 { 2 } else { 1 };
    cluster.close(other).await;
    until("the quorum is lost", || cluster.store(leader).status().no_quorum).await;
    assert!(matches!(cluster.store(leader).txn(put("b", "1"), PATIENCE).await, Err(StoreError::Unavailable(_))));
    assert_eq!(cluster.store(3).view().revision(), 0);
    cluster.open(other).await;
    // in its place comes one with a new id
    let removed = async {
        while cluster.store(other).remove_member(3, PATIENCE).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, removed).await.expect("it is removed");
    cluster.close(3).await;
    cluster.open(4).await;
    cluster.join(other, 4).await;
    cluster.until_voters(3).await;
    cluster.until_equal().await;
    cluster.close_all().await;
}

#[tokio::test]
async fn a_removed_member_never_comes_back_under_its_id() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let gone = cluster.follower().await;
    cluster.store(leader).remove_member(gone, PATIENCE).await.unwrap();
    until("the others know", || {
        let mut others = cluster.stores.iter().filter(|(id, _)| **id != gone);
        others.all(|(_, store)| store.core().shared.is_removed(gone)).then_some(())
    })
    .await;
    let term = cluster.store(leader).status().term;
    // it still runs, and starts again: nobody listens to it
    cluster.close(gone).await;
    cluster.open(gone).await;
    let again = Member {
        id: gone,
        peer_address: cluster.store(gone).peer_address().to_string(),
        api_address: String::new(),
        role: MemberRole::Voter,
    };
    let refused = cluster.store(leader).add_member(again, PATIENCE).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Unavailable(reason) if reason.contains(&format!("member {gone} was removed"))), "{refused:?}");
    until("it hears why", || cluster.store(gone).status().refused.values().find(|reason| reason.contains("was removed")).cloned()).await;
    assert_eq!(cluster.store(leader).status().term, term);
    // a new leader from a snapshot knows it, too
    for id in cluster.stores.keys().copied().filter(|id| *id != gone).collect::<Vec<_>>() {
        cluster.close(id).await;
        cluster.open(id).await;
        assert!(cluster.store(id).core().shared.is_removed(gone));
    }
    cluster.close_all().await;
}

#[tokio::test]
async fn a_member_that_moved_tells_the_group_where_it_is() {
    let mut cluster = Cluster::start(1).await;
    cluster.close(1).await;
    cluster.adjust = |config| config.api_advertise = "moved:6443".into();
    cluster.open(1).await;
    until("the membership holds the new address", || {
        let members = cluster.store(1).status().members;
        members.first().is_some_and(|member| member.api_address == "moved:6443").then_some(())
    })
    .await;
    cluster.close_all().await;
}
