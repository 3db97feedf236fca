//! What happened, found by comparing what raft says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::Instant as _;

use super::Event;
use super::announcer::{Happenings, Queue};
use crate::clock;
use crate::command::{NodeId, Term};
use crate::core::Core;
use crate::lull;
use crate::records::LogIdRecord;
use crate::status::role;

/// What is compared to find out what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    role: String,
    term: Term,
    vote: Option<(NodeId, bool)>,
    leader: Option<NodeId>,
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    last: Option<LogIdRecord>,
    committed: u64,
    snapshot: u64,
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
    if let Some(last) = after.last.filter(|_| after.last != before.last) {
        events.push(Event::Append { last: last.index, last_term: last.term });
    }
    if after.committed != before.committed {
        events.push(Event::Commit { committed: after.committed });
    }
    if after.snapshot != before.snapshot {
        events.push(Event::Snapshot { index: after.snapshot });
    }
    // under another leader, others are listened to
    if after.leader == before.leader {
        events.extend(before.silent.difference(&after.silent).map(|peer| Event::HeartbeatHeard { peer: *peer }));
    }
    events
}

/// The peers that are silent, of those whose last sign was so long ago, or never was. Under a leader of whom nobody could have missed
/// `silence_max` yet, nobody is.
fn silent(signs: impl Iterator<Item = (NodeId, Option<Duration>)>, reign: Duration, silence_max: Duration) -> BTreeSet<NodeId> {
    if reign < silence_max {
        return BTreeSet::new();
    }
    signs.filter(|(_, ago)| ago.is_none_or(|ago| ago >= silence_max)).map(|(id, _)| id).collect()
}

/// Watches a member until it closes or the watcher goes. Begins with how things are.
pub(crate) fn follow(core: Arc<Core>) -> Happenings {
    let queue = Arc::new(Queue::default());
    let happenings = Happenings::new(Arc::clone(&queue));
    core.config.environment.announcer().add(&queue);
    tokio::spawn(async move {
        let mut account = core.seat.account();
        let (mut before, mut reign) = (Seen::default(), (None, clock::now()));
        loop {
            let after = look(&core, &mut reign);
            for event in between(&before, &after) {
                queue.push(|| core.config.environment.happening(after.term, event));
            }
            before = after;
            let heartbeat = Duration::from_millis(core.seat.timers().heartbeat_ms);
            tokio::select! {
                goes_on = account.changed() => if !goes_on {
                    break;
                },
                () = tokio::time::sleep(heartbeat) => {}
                () = queue.gone.cancelled() => break,
                () = core.closing.cancelled() => break,
            }
        }
        core.config.environment.announcer().remove(&queue);
        queue.end();
    });
    happenings
}

/// How things are. `reign`: who leads, and since when this is known.
fn look(core: &Core, reign: &mut (Option<NodeId>, Instant)) -> Seen {
    let metrics = core.metrics();
    let membership = metrics.membership_config.membership();
    let own_id = core.config.node_id;
    let leader = metrics.current_leader;
    if reign.0 != leader {
        *reign = (leader, clock::now());
    }
    let silence_max = lull::missed_after(core.seat.timers(), *core.activity.lock());
    let signs: BTreeMap<NodeId, Option<Duration>> = match leader {
        None => BTreeMap::new(),
        Some(leader) if leader != own_id => BTreeMap::from([(leader, Some(clock::since(*core.heard.lock())))]),
        Some(_) => metrics
            .heartbeat
            .iter()
            .flatten()
            .filter(|(id, _)| **id != own_id)
            .map(|(id, at)| (*id, at.as_ref().map(|at| at.elapsed())))
            .collect(),
    };
    Seen {
        role: role(&metrics).to_owned(),
        term: metrics.current_term,
        vote: (metrics.vote.leader_id.term > 0).then_some((metrics.vote.leader_id.voted_for, metrics.vote.committed)),
        leader,
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        last: core.log.last(),
        committed: metrics.local_committed.map_or(0, |id| id.index()),
        snapshot: metrics.snapshot.map_or(0, |id| id.index()),
        silent: silent(signs.into_iter(), clock::since(reign.1), silence_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(term: Term, index: u64) -> Option<LogIdRecord> {
        Some(LogIdRecord { term, index })
    }

    #[test]
    fn an_election_is_told_step_by_step() {
        let follower = Seen {
            role: "follower".into(),
            term: 1,
            vote: Some((2, true)),
            leader: Some(2),
            last: last(1, 7),
            committed: 7,
            ..Seen::default()
        };
        assert_eq!(between(&follower, &follower), []);
        let silent = Seen { silent: BTreeSet::from([2]), ..follower.clone() };
        assert_eq!(between(&follower, &silent), [Event::HeartbeatMissed { peer: 2 }]);
        assert_eq!(between(&silent, &follower), [Event::HeartbeatHeard { peer: 2 }]);
        let candidate = Seen { role: "candidate".into(), term: 2, vote: Some((1, false)), leader: None, ..follower.clone() };
        assert_eq!(
            between(&silent, &candidate),
            [Event::Vote { candidate: 1, granted: false }, Event::Role { role: "candidate".into() }, Event::Leader { leader: None }]
        );
        let leader =
            Seen { role: "leader".into(), vote: Some((1, true)), leader: Some(1), last: last(2, 8), committed: 8, ..candidate.clone() };
        assert_eq!(
            between(&candidate, &leader),
            [
                Event::Vote { candidate: 1, granted: true },
                Event::Role { role: "leader".into() },
                Event::Leader { leader: Some(1) },
                Event::Append { last: 8, last_term: 2 },
                Event::Commit { committed: 8 },
            ]
        );
        let grown = Seen { learners: BTreeSet::from([4]), snapshot: 8, ..leader.clone() };
        assert_eq!(
            between(&leader, &grown),
            [Event::Members { voters: BTreeSet::new(), learners: BTreeSet::from([4]) }, Event::Snapshot { index: 8 }]
        );
    }

    #[test]
    fn nobody_is_silent_under_a_leader_of_this_moment() {
        let of = Duration::from_millis;
        let signs = [(2, None), (3, Some(of(299))), (4, Some(of(5000)))];
        assert_eq!(silent(signs.into_iter(), of(299), of(300)), BTreeSet::new());
        assert_eq!(silent(signs.into_iter(), of(300), of(300)), BTreeSet::from([2, 4]));
    }
}
