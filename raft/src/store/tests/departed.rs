//! A leader whose process ends is replaced at once, however long the time-outs are; one that lives is not, whatever becomes of connections.

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::*;
use crate::experiment::{Direction, FaultKind};
use crate::happenings::Event as Happened;
use crate::network::messages::Response;
use crate::succession::Reign;

/// No test waits for the end of a lease, let alone for a time-out after it: these elect nobody.
fn slow_timers(config: &mut StoreConfig) {
    (config.election_min, config.election_max) = (PATIENCE * 10, PATIENCE * 20);
}

/// The leader, and what everybody says of it.
async fn reign(cluster: &Cluster) -> Reign {
    let leader = cluster.leader().await;
    let term = cluster.store(leader).status().term;
    until("everybody follows it", || {
        cluster.stores.values().map(Store::status).all(|status| (status.term, status.leader) == (term, Some(leader))).then_some(())
    })
    .await;
    Reign { term, leader }
}

/// Until a member has noticed that the leader's connections have come or gone.
async fn until_connected(store: &Store, leader: NodeId, expected: bool) {
    let connected = store.core().callers.follow();
    until("the leader's connections", || (connected.holds(leader) == expected).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_process_ends_is_replaced_without_a_time_out() {
    let mut cluster = Cluster::start_with(5, slow_timers).await;
    let acknowledged = revision(cluster.store(1).txn(put("a", "1"), PATIENCE).await.unwrap());
    // of five, two may go
    for left in [4, 3] {
        let before = reign(&cluster).await;
        let mut happenings: Vec<_> = cluster.stores.iter().filter(|(id, _)| **id != before.leader).map(|(_, it)| it.happenings()).collect();
        // nothing is handed over: its sockets are closed, as a kernel does it
        drop(cluster.stores.remove(&before.leader));
        let after = reign(&cluster).await;
        assert_eq!(after.term, before.term + 1, "one election");
        for store in cluster.stores.values() {
            let view = store.linearizable_view(PATIENCE).await.unwrap();
            assert!(view.revision() >= acknowledged && value(&view, "a").as_deref() == Some("1"));
            revision(store.txn(put("b", "1"), PATIENCE).await.unwrap());
        }
        let told = futures::future::select_all(happenings.iter_mut().map(|happenings| {
            Box::pin(async move {
                while happenings.recv().await.is_some_and(|happening| happening.event != Happened::LeaderGone { leader: before.leader }) {}
            })
        }));
        tokio::time::timeout(PATIENCE, told).await.expect("whoever watches is told");
        assert_eq!(cluster.stores.len(), left);
    }
    cluster.close_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_experiment_cuts_is_no_sign() {
    let mut cluster = Cluster::start_with(3, slow_timers).await;
    let reign = reign(&cluster).await;
    let (cut, other) = match reign.leader {
        1 => (2, 3),
        2 => (1, 3),
        _ => (1, 2),
    };
    let fault = Fault { peer: Some(reign.leader), direction: Some(Direction::Out), ..Fault::new(FaultKind::Drop, PATIENCE * 2) };
    let fault = cluster.store(cut).begin_fault(fault, "a test").await.unwrap();
    drop(cluster.stores.remove(&reign.leader));
    for id in [cut, other] {
        until_connected(cluster.store(id), reign.leader, false).await;
    }
    let refused = cluster.store(cut).core().bear_witness(reign).await;
    assert!(matches!(&refused, Response::Refused(why) if why.contains("does not refuse")), "{refused:?}");
    // the other one sees it, and one is no quorum of three
    assert!(matches!(cluster.store(other).core().bear_witness(reign).await, Response::Standing(_)));
    let another = Reign { term: reign.term + 1, ..reign };
    assert!(matches!(cluster.store(other).core().bear_witness(another).await, Response::Refused(_)));
    cluster.store(cut).end_fault(fault.id.unwrap(), "a test").unwrap();
    assert!(matches!(cluster.store(cut).core().bear_witness(reign).await, Response::Standing(_)));
    assert!(cluster.stores.values().all(|store| store.status().term == reign.term), "nobody stood");
    cluster.close_all().await;
}

/// The way to a member, which a test can break without the member's doing.
struct Relay {
    address: SocketAddr,
    to: watch::Sender<Option<SocketAddr>>,
    breaks: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Relay {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (to, breaks) = (watch::Sender::new(None), watch::Sender::new(0));
        let accepting = tokio::spawn(relay(listener, to.subscribe(), breaks.clone()));
        Self { address, to, breaks, accepting }
    }

    /// Ends the connections that there are.
    fn cut(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Ends them, and refuses new ones from now on.
    async fn refuse(&mut self) {
        self.accepting.abort();
        // when it has ended, nobody listens any more
        drop((&mut self.accepting).await);
        self.cut();
    }
}

async fn relay(listener: TcpListener, to: watch::Receiver<Option<SocketAddr>>, breaks: watch::Sender<u64>) {
    let mut connections = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let (mut to, mut broken) = (to.clone(), breaks.subscribe());
        connections.spawn(async move {
            let address = to.wait_for(Option::is_some).await.map(|address| *address);
            let Ok(Some(address)) = address else { return };
            let Ok(mut far) = TcpStream::connect(address).await else { return };
            tokio::select! {
                _ended = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = broken.changed() => {}
            }
        });
    }
}

/// Three members that reach each other through relays only.
async fn relayed() -> (Cluster, BTreeMap<NodeId, Relay>) {
    let mut cluster = Cluster { dir: TempDir::new().unwrap(), stores: BTreeMap::new(), adjust: slow_timers, boots: 1 };
    let mut relays = BTreeMap::new();
    for id in 1..=3 {
        let relay = Relay::open().await;
        let mut config = StoreConfig::new(id, cluster.dir.path().join(id.to_string()));
        config.cluster_id = "test".into();
        config.peer_advertise = relay.address.to_string();
        slow_timers(&mut config);
        let store = Store::open(config).await.unwrap();
        relay.to.send_replace(Some(store.peer_address()));
        if id == 1 {
            store.initialize().await.unwrap();
        }
        let (peer_address, api_address) = (relay.address.to_string(), String::new());
        cluster.stores.insert(id, store);
        relays.insert(id, relay);
        cluster.store(1).add_member(Member { id, peer_address, api_address, role: MemberRole::Voter }, PATIENCE).await.unwrap();
    }
    cluster.until_voters(3).await;
    (cluster, relays)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_lives_keeps_its_office_when_connections_break() {
    let (cluster, mut relays) = relayed().await;
    let before = reign(&cluster).await;
    let followers: Vec<NodeId> = (1..=3).filter(|id| *id != before.leader).collect();
    let (one, leader) = (followers[0], before.leader);
    let alarm = async |relays: &BTreeMap<NodeId, Relay>| {
        let mut connected = cluster.store(one).core().callers.follow();
        relays[&one].cut();
        let changed = tokio::time::timeout(PATIENCE, connected.changed()).await;
        assert_eq!(changed, Ok(true), "the follower sees connections end");
        // the leader may have come back by now
        let answer = cluster.store(one).core().bear_witness(before).await;
        assert!(matches!(answer, Response::Refused(_)), "{answer:?}");
        until_connected(cluster.store(one), leader, true).await;
    };
    for _ in 0..10 {
        alarm(&relays).await;
    }
    // from now on its address refuses everybody, as a firewall may; but it can be heard, and the other follower hears it
    relays.get_mut(&leader).unwrap().refuse().await;
    for _ in 0..10 {
        relays[&one].cut();
        until_connected(cluster.store(one), leader, true).await;
        let objection = cluster.store(followers[1]).core().bear_witness(before).await;
        assert!(matches!(&objection, Response::Refused(why) if why.contains("holds a connection")), "{objection:?}");
    }
    revision(cluster.store(leader).txn(put("a", "1"), PATIENCE).await.unwrap());
    cluster.until_equal().await;
    assert_eq!(reign(&cluster).await, before);
    cluster.close_all().await;
}
