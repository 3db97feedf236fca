//! What happens to a member, as it happens: elections, leaders, the log, peers that fall silent. For people who watch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::clock;
use crate::command::{NodeId, Term};
use crate::core::Core;
use crate::status::role;

/// A peer, or the leader, counts as silent after so many intervals of heartbeats without a sign.
const MISSED_HEARTBEATS: u32 = 3;
/// Happenings that wait for whoever watches; it gets no more when it is slower than that.
const WAITING_MAX: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Microseconds since the watching began, by a clock that never goes back.
    pub elapsed_us: u64,
    /// Milliseconds since the Unix epoch.
    pub time_unix_ms: i64,
    /// On which member.
    pub node_id: NodeId,
    /// In which term.
    pub term: Term,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    /// How things were when the watching began, or the member's part has changed.
    Role {
        /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
        role: String,
    },
    /// The member has voted.
    Vote {
        /// For whom.
        candidate: NodeId,
        /// A quorum has granted it.
        granted: bool,
    },
    /// Another member leads, or nobody.
    Leader {
        /// Who.
        leader: Option<NodeId>,
    },
    /// The members have changed.
    Members {
        /// Those that vote.
        voters: BTreeSet<NodeId>,
        /// The others.
        learners: BTreeSet<NodeId>,
    },
    /// The log has grown.
    Append {
        /// Index of its last entry.
        last: u64,
    },
    /// More is committed, as far as this member knows.
    Commit {
        /// Index of the last committed entry.
        committed: u64,
    },
    /// On the leader: a peer has answered no heartbeat for a while. On a follower: the leader has sent none.
    HeartbeatMissed {
        /// Who is silent.
        peer: NodeId,
    },
    /// It is heard again.
    HeartbeatHeard {
        /// Who.
        peer: NodeId,
    },
}

/// What is compared to find out what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    role: String,
    term: Term,
    vote: Option<(NodeId, bool)>,
    leader: Option<NodeId>,
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    last: u64,
    committed: u64,
    silent: BTreeSet<NodeId>,
}

/// What happened between two looks, in the order in which raft does it.
fn between(before: &Seen, after: &Seen) -> Vec<Event> {
    let mut events = Vec::new();
    let silent = after.silent.difference(&before.silent).map(|peer| Event::HeartbeatMissed { peer: *peer });
    events.extend(silent);
    if let Some((candidate, granted)) = after.vote.filter(|_| after.vote != before.vote || after.term != before.term) {
        events.push(Event::Vote { candidate, granted });
    }
    if after.role != before.role {
        events.push(Event::Role { role: after.role.clone() });
    }
    if after.leader != before.leader {
        events.push(Event::Leader { leader: after.leader });
    }
    if (&after.voters, &after.learners) != (&before.voters, &before.learners) {
        events.push(Event::Members { voters: after.voters.clone(), learners: after.learners.clone() });
    }
    if after.last != before.last {
        events.push(Event::Append { last: after.last });
    }
    if after.committed != before.committed {
        events.push(Event::Commit { committed: after.committed });
    }
    let heard = before.silent.difference(&after.silent).map(|peer| Event::HeartbeatHeard { peer: *peer });
    events.extend(heard);
    events
}

/// Watches a member until it closes or nobody listens any more. Begins with how things are.
pub(crate) fn follow(core: Arc<Core>) -> mpsc::Receiver<Happening> {
    let (told, listener) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        let mut metrics = core.raft.metrics();
        let (began, mut before) = (clock::now(), Seen::default());
        let mut ticks = tokio::time::interval(core.config.heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let after = look(&core);
            for event in between(&before, &after) {
                let happening = Happening {
                    elapsed_us: u64::try_from(clock::since(began).as_micros()).unwrap_or(u64::MAX),
                    time_unix_ms: core.config.environment.now_unix_ms(),
                    node_id: core.config.node_id,
                    term: after.term,
                    event,
                };
                // a listener that is too slow must not slow the member down
                if told.try_send(happening).is_err() {
                    return;
                }
            }
            before = after;
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() {
                    return;
                },
                _ = ticks.tick() => {}
                () = told.closed() => return,
                () = core.closing.cancelled() => return,
            }
        }
    });
    listener
}

fn look(core: &Core) -> Seen {
    let metrics = core.metrics();
    let membership = metrics.membership_config.membership();
    let own_id = core.config.node_id;
    let silence_max: Duration = core.config.heartbeat * MISSED_HEARTBEATS;
    let leads = metrics.current_leader == Some(own_id);
    let answered: BTreeMap<NodeId, bool> =
        metrics.heartbeat.iter().flatten().map(|(id, at)| (*id, at.as_ref().is_some_and(|at| at.elapsed() < silence_max))).collect();
    let silent = match metrics.current_leader {
        _ if leads => answered.into_iter().filter(|(id, answered)| !answered && *id != own_id).map(|(id, _)| id).collect(),
        Some(leader) if clock::since(*core.heard.lock()) >= silence_max => BTreeSet::from([leader]),
        _ => BTreeSet::new(),
    };
    Seen {
        role: role(&metrics).to_owned(),
        term: metrics.current_term,
        vote: (metrics.vote.leader_id.term > 0).then_some((metrics.vote.leader_id.voted_for, metrics.vote.committed)),
        leader: metrics.current_leader,
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        last: metrics.last_log_index.unwrap_or(0),
        committed: metrics.local_committed.map_or(0, |id| id.index()),
        silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_is_told_step_by_step() {
        let follower =
            Seen { role: "follower".into(), term: 1, vote: Some((2, true)), leader: Some(2), last: 7, committed: 7, ..Seen::default() };
        assert_eq!(between(&follower, &follower), []);
        let silent = Seen { silent: BTreeSet::from([2]), ..follower.clone() };
        assert_eq!(between(&follower, &silent), [Event::HeartbeatMissed { peer: 2 }]);
        let candidate = Seen { role: "candidate".into(), term: 2, vote: Some((1, false)), leader: None, ..follower.clone() };
        assert_eq!(
            between(&silent, &candidate),
            [
                Event::Vote { candidate: 1, granted: false },
                Event::Role { role: "candidate".into() },
                Event::Leader { leader: None },
                Event::HeartbeatHeard { peer: 2 },
            ]
        );
        let leader = Seen { role: "leader".into(), vote: Some((1, true)), leader: Some(1), last: 8, committed: 8, ..candidate.clone() };
        assert_eq!(
            between(&candidate, &leader),
            [
                Event::Vote { candidate: 1, granted: true },
                Event::Role { role: "leader".into() },
                Event::Leader { leader: Some(1) },
                Event::Append { last: 8 },
                Event::Commit { committed: 8 },
            ]
        );
        let grown = Seen { learners: BTreeSet::from([4]), ..leader.clone() };
        assert_eq!(between(&leader, &grown), [Event::Members { voters: BTreeSet::new(), learners: BTreeSet::from([4]) }]);
    }
}
