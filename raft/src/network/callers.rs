//! Which peers hold connections to this member. When a process ends, its kernel closes them, so the other side learns it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

use crate::command::NodeId;

/// Counts the connections over which peers send what a leader sends.
#[derive(Default)]
pub(crate) struct Callers {
    open: watch::Sender<BTreeMap<NodeId, usize>>,
}

/// A connection from a peer, until it is dropped.
pub(crate) struct Caller {
    callers: Arc<Callers>,
    peer: NodeId,
}

/// Follows who is connected.
pub(crate) struct Connected {
    open: watch::Receiver<BTreeMap<NodeId, usize>>,
}

impl Callers {
    /// Counts a connection from `peer`.
    pub(crate) fn enter(self: &Arc<Self>, peer: NodeId) -> Caller {
        self.open.send_modify(|open| *open.entry(peer).or_default() += 1);
        Caller { callers: Arc::clone(self), peer }
    }

    /// Follows who is connected.
    pub(crate) fn follow(&self) -> Connected {
        Connected { open: self.open.subscribe() }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.callers.open.send_modify(|open| {
            if let Some(count) = open.get_mut(&self.peer) {
                *count -= 1;
                if *count == 0 {
                    open.remove(&self.peer);
                }
            }
        });
    }
}

impl Connected {
    /// Those that are connected now.
    pub(crate) fn peers(&mut self) -> BTreeSet<NodeId> {
        self.open.borrow_and_update().keys().copied().collect()
    }

    /// Whether a peer is.
    pub(crate) fn holds(&self, peer: NodeId) -> bool {
        self.open.borrow().contains_key(&peer)
    }

    /// Returns when connections have come or gone; `false` when none will any more.
    pub(crate) async fn changed(&mut self) -> bool {
        self.open.changed().await.is_ok()
    }

    /// Returns when a peer holds no connection.
    pub(crate) async fn gone(&mut self, peer: NodeId) {
        // without a sender there are no connections either
        drop(self.open.wait_for(|open| !open.contains_key(&peer)).await);
    }
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
        assert_eq!(connected.peers(), BTreeSet::from([1, 2]));
        drop(first);
        assert!(connected.holds(1));
        drop(second);
        assert!(!connected.holds(1) && connected.holds(2));
        connected.gone(1).await;
        drop(other);
        assert_eq!(connected.peers(), BTreeSet::new());
    }
}
