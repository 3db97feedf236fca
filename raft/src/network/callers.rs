//! Which peers hold connections to this member. When a process ends, its kernel closes them, so the other side learns it at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::command::NodeId;

/// Counts the connections over which peers send what a leader sends.
#[derive(Default)]
pub(crate) struct Callers {
    calls: watch::Sender<BTreeMap<NodeId, Calls>>,
}

/// The connections of one peer.
#[derive(Clone, Copy, Default)]
struct Calls {
    open: usize,
    /// How often the last one has ended.
    farewells: u64,
}

/// A connection from a peer, until it is dropped.
pub(crate) struct Caller {
    callers: Arc<Callers>,
    peer: NodeId,
}

/// Follows who is connected.
pub(crate) struct Connected {
    calls: watch::Receiver<BTreeMap<NodeId, Calls>>,
}

impl Callers {
    /// Counts a connection from `peer`.
    pub(crate) fn enter(self: &Arc<Self>, peer: NodeId) -> Caller {
        self.calls.send_modify(|calls| calls.entry(peer).or_default().open += 1);
        Caller { callers: Arc::clone(self), peer }
    }

    /// Follows who is connected.
    pub(crate) fn follow(&self) -> Connected {
        Connected { calls: self.calls.subscribe() }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.callers.calls.send_modify(|calls| {
            let of_peer = calls.entry(self.peer).or_default();
            of_peer.open = of_peer.open.saturating_sub(1);
            of_peer.farewells += u64::from(of_peer.open == 0);
        });
    }
}

impl Connected {
    /// How often each peer has ended its last connection.
    pub(crate) fn farewells(&mut self) -> BTreeMap<NodeId, u64> {
        self.calls.borrow_and_update().iter().map(|(peer, calls)| (*peer, calls.farewells)).collect()
    }

    /// Whether a peer holds a connection.
    pub(crate) fn holds(&self, peer: NodeId) -> bool {
        is_open(&self.calls.borrow(), peer)
    }

    /// Returns when connections have come or gone; `false` when none will any more.
    pub(crate) async fn changed(&mut self) -> bool {
        self.calls.changed().await.is_ok()
    }

    /// Returns when a peer holds no connection.
    pub(crate) async fn gone(&mut self, peer: NodeId) {
        // without a sender there are no connections either
        drop(self.calls.wait_for(|calls| !is_open(calls, peer)).await);
    }
}

fn is_open(calls: &BTreeMap<NodeId, Calls>, peer: NodeId) -> bool {
    calls.get(&peer).is_some_and(|calls| calls.open > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_is_gone_with_its_last_connection() {
        let callers = Arc::new(Callers::default());
        let mut connected = callers.follow();
        let (first, second, other) = (callers.enter(1), callers.enter(1), callers.enter(2));
        assert!(connected.changed().await);
        assert_eq!(connected.farewells(), BTreeMap::from([(1, 0), (2, 0)]));
        drop(first);
        assert!(connected.holds(1));
        drop(second);
        assert!(!connected.holds(1) && connected.holds(2));
        connected.gone(1).await;
        // what comes and goes while nobody looks is not missed
        drop(callers.enter(1));
        assert_eq!(connected.farewells(), BTreeMap::from([(1, 2), (2, 0)]));
        drop(other);
        assert!(!connected.holds(2));
    }
}
