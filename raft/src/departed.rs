//! Notices that the leader's process has gone, and has the group elect another one without waiting for a time-out.
//!
//! When a process dies, its kernel closes its connections and refuses new ones. Both together are a sign; a machine that loses its power,
//! a process that stands still and a broken network give none, and the timers decide. Who acts on the sign is in [`crate::succession`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use openraft::raft::TransferLeaderRequest;
use tokio::io::AsyncReadExt as _;

use crate::clock;
use crate::command::NodeId;
use crate::core::Core;
use crate::doubt::Standing;
use crate::environment::{Purpose, Stream};
use crate::experiment::Direction;
use crate::happenings::Event;
use crate::network::messages::{Request, Response};
use crate::raft_types::Metrics;
use crate::records::VoteRecord;
use crate::succession::{self, Reign, Sight};

/// How long the leader's machine may take to refuse a connection. A living leader's keeps it open for so long, too.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(100);
/// A process that is just ending may accept a connection and break it: so often it is tried again.
const ATTEMPTS_MAX: usize = 3;
/// How long a member that is asked waits for the end of its own connections: all end in the same moment, but not everybody runs in it.
const ENDING_PATIENCE: Duration = Duration::from_millis(100);
/// How long the others may take to say what they see.
const WITNESS_PATIENCE: Duration = Duration::from_millis(300);
/// Once a quorum agrees, the others may still say in this time that their logs are longer.
const LATE_WITNESS_PATIENCE: Duration = Duration::from_millis(20);
/// Whoever stands next gives those before it so much time to ask for its vote.
const TURN: Duration = Duration::from_millis(100);

/// What a leader's address says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Nobody listens there.
    Gone,
    /// Its process is ending.
    Ending,
    /// It may live.
    Unclear,
}

/// Watches the leader's connections to this member until the store closes.
pub(crate) async fn watch_leader(core: Arc<Core>) {
    let mut connected = core.callers.follow();
    let mut seen = connected.farewells();
    loop {
        tokio::select! {
            goes_on = connected.changed() => if !goes_on {
                return;
            },
            () = core.closing.cancelled() => return,
        }
        let farewells = connected.farewells();
        let has_left = |reign: &Reign| farewells.get(&reign.leader) > seen.get(&reign.leader) && !connected.holds(reign.leader);
        let left = core.follows().filter(has_left);
        seen = farewells;
        if let Some(reign) = left {
            tokio::select! {
                () = core.succeed(reign) => {}
                () = core.closing.cancelled() => return,
            }
        }
    }
}

impl Core {
    /// Whom this member follows; `None` on the leader itself, and while nobody is elected.
    fn follows(&self) -> Option<Reign> {
        follows(&self.metrics()).filter(|reign| reign.leader != self.config.node_id)
    }

    /// What this member sees of the leader of `reign`, whom it follows; takes a moment.
    async fn look_at(&self, reign: Reign) -> Sight {
        let mut connected = self.callers.follow();
        let has_left = tokio::time::timeout(ENDING_PATIENCE, connected.gone(reign.leader)).await.is_ok();
        let is_refused = has_left && self.is_refused_by(reign.leader).await;
        // it may have come back, and somebody else may have been elected
        Sight { follows: self.follows(), is_connected: connected.holds(reign.leader), is_refused }
    }

    /// Whether `peer`'s machine says that nobody listens at its address. What an experiment does to messages hides that as a broken
    /// network would.
    async fn is_refused_by(&self, peer: NodeId) -> bool {
        let address = self.metrics().membership_config.get_node(&peer).map(|node| node.peer_address.clone());
        let Some(address) = address else { return false };
        for _ in 0..ATTEMPTS_MAX {
            let knocking = async {
                self.faults().cross(peer, Direction::Out).await;
                let answer = self.config.environment.connect(&address, Purpose::Request).await;
                self.faults().cross(peer, Direction::In).await;
                answer
            };
            let sign = match tokio::time::timeout(REFUSAL_PATIENCE, knocking).await {
                Ok(Ok(connection)) => {
                    if is_broken(connection).await {
                        Sign::Ending
                    } else {
                        Sign::Unclear
                    }
                }
                Ok(Err(error)) => sign(error.kind()),
                Err(_elapsed) => Sign::Unclear,
            };
            match sign {
                Sign::Gone => return true,
                Sign::Ending => {}
                Sign::Unclear => return false,
            }
        }
        false
    }

    /// The answer to a member that sees that a leader has gone: this member's standing if it sees that, too.
    pub(crate) async fn bear_witness(&self, reign: Reign) -> Response {
        if self.follows() != Some(reign) {
            return Response::Refused(format!("member {} does not follow member {}", self.config.node_id, reign.leader));
        }
        match succession::objection(reign, self.look_at(reign).await) {
            Some(why) => Response::Refused(why.to_owned()),
            None => Response::Standing(self.standing()),
        }
    }

    /// Has somebody take over from a leader whose last connection has ended, if it has gone.
    async fn succeed(self: &Arc<Self>, reign: Reign) {
        let Reign { term, leader } = reign;
        let own_id = self.config.node_id;
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        if !membership.voter_ids().any(|id| id == own_id) || succession::objection(reign, self.look_at(reign).await).is_some() {
            return;
        }
        let sets = membership.get_joint_config();
        let witnesses = self.ask_witnesses(reign, &metrics).await;
        if self.follows() != Some(reign) {
            // somebody else was faster
            return;
        }
        let Some(turn) = succession::turn(own_id, sets, &witnesses) else {
            tracing::info!(node = leader, raft_term = term, "The leader's address refuses connections, but too few others see that");
            return;
        };
        tracing::info!(node = leader, raft_term = term, turn, "The leader has gone: its address refuses connections");
        self.config.environment.tell(term, || Event::LeaderGone { leader });
        if self.is_over_before_turn(reign, turn).await || self.faults().is_paused() {
            return;
        }
        let vote = VoteRecord { term, voted_for: leader, committed: true };
        let last = witnesses.get(&own_id).and_then(|standing| standing.last);
        // to raft this is a leader that hands over: nobody's lease stands against it, and it is void if the own vote is another one by now
        let takeover = TransferLeaderRequest::new(vote.into(), own_id, last.map(Into::into));
        let taken = self.raft().handle_transfer_leader(takeover).await;
        tracing::debug!(raft_term = term, ?taken, "Stood for election after a leader that has gone");
    }

    /// Waits for this member's turn; whether somebody else leads or stands by then.
    async fn is_over_before_turn(&self, reign: Reign, turn: usize) -> bool {
        let wait = TURN.saturating_mul(u32::try_from(turn).unwrap_or(u32::MAX));
        let mut leadership = self.leadership.clone();
        let over = leadership.wait_for(|now| (now.term, now.leader) != (reign.term, Some(reign.leader)));
        tokio::time::timeout(wait, over).await.is_ok() || self.follows() != Some(reign)
    }

    /// The standings of those voters that see that the leader has gone, this member among them.
    async fn ask_witnesses(self: &Arc<Self>, reign: Reign, metrics: &Metrics) -> BTreeMap<NodeId, Standing> {
        let own_id = self.config.node_id;
        let membership = metrics.membership_config.membership();
        let request = Request::LeaderGone(reign);
        let others: BTreeSet<NodeId> = membership.voter_ids().filter(|id| ![own_id, reign.leader].contains(id)).collect();
        let mut answers: FuturesUnordered<_> = others
            .iter()
            .filter_map(|id| Some((*id, &membership.get_node(id)?.peer_address)))
            .map(|(id, address)| self.peers.call_apart(id, address, &request).map(move |answer| (id, answer)))
            .collect();
        let mut witnesses = BTreeMap::from([(own_id, self.standing())]);
        let mut deadline = clock::deadline(WITNESS_PATIENCE);
        while let Ok(Some((id, answer))) = tokio::time::timeout_at(deadline.into(), answers.next()).await {
            match answer {
                Ok(Response::Standing(standing)) => _ = witnesses.insert(id, standing),
                other => tracing::debug!(node = id, ?other, "A member does not see that the leader has gone"),
            }
            if succession::turn(own_id, membership.get_joint_config(), &witnesses).is_some() {
                deadline = deadline.min(clock::deadline(LATE_WITNESS_PATIENCE));
            }
        }
        witnesses
    }
}

/// Who leads in which term, if somebody was elected.
fn follows(metrics: &Metrics) -> Option<Reign> {
    let vote = VoteRecord::from(&metrics.vote);
    vote.committed.then_some(Reign { term: vote.term, leader: vote.voted_for })
}

/// What a failed attempt to connect says. One that meets a listener in the moment of its end is reset.
fn sign(error: ErrorKind) -> Sign {
    match error {
        ErrorKind::ConnectionRefused => Sign::Gone,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Sign::Ending,
        _ => Sign::Unclear,
    }
}

/// Whether the other side ends a connection on which nothing was said, soon: its process is ending.
async fn is_broken(mut connection: Box<dyn Stream>) -> bool {
    let ending = connection.read_u8();
    matches!(tokio::time::timeout(REFUSAL_PATIENCE, ending).await, Ok(Err(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the first in line took a reset for life, nobody stood before the timers did: about once in thirty kills.
    #[test]
    fn a_reset_is_no_sign_of_life() {
        for (error, expected) in [
            (ErrorKind::ConnectionRefused, Sign::Gone),
            (ErrorKind::ConnectionReset, Sign::Ending),
            (ErrorKind::ConnectionAborted, Sign::Ending),
            (ErrorKind::TimedOut, Sign::Unclear),
            (ErrorKind::HostUnreachable, Sign::Unclear),
            (ErrorKind::AddrNotAvailable, Sign::Unclear),
        ] {
            assert_eq!(sign(error), expected, "{error}");
        }
    }
}
