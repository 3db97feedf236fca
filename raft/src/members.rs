//! Who is in the group: what a leader does to add, promote and remove members and to hand over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::Instant as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, ServerState};

use crate::clock;
use crate::command::NodeId;
use crate::core::{Attempt, Core};
use crate::network::messages::{Request, Response};
use crate::raft_types::{MemberInfo, Membership, Metrics, TypeConfig};
use crate::store::{Member, MemberRole, StoreError};

/// A learner that lacks no more entries than this becomes a voter: the rest arrives within a round trip.
const PROMOTION_LAG_ENTRIES: u64 = 64;
/// Between two attempts to promote a learner.
const PROMOTION_PAUSE: Duration = Duration::from_millis(100);
/// Whoever began a change of voters has so much time for its second half before another one does it.
const SECOND_HALF_PATIENCE: Duration = Duration::from_secs(1);
/// Learners are not looked at more often than this.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// A peer that has answered within this time counts as living.
const LIVING: Duration = Duration::from_secs(2);
/// Between two attempts to change the membership.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a hand-over may take.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(3);

impl Core {
    /// Has the leader change the members.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also when the change is refused, with the reason.
    pub(crate) async fn change_members(self: &Arc<Self>, request: Request, deadline: Instant) -> Result<(), StoreError> {
        let interpret = |response| match response {
            Response::Done => Ok(Attempt::Done(())),
            Response::NotLeader { .. } | Response::Failed(_) => Ok(Attempt::Again),
            Response::Refused(reason) => Err(StoreError::Unavailable(reason)),
            other => Err(StoreError::Unavailable(format!("unexpected answer {other:?}"))),
        };
        self.on_leader(deadline, |_| request.clone(), interpret).await
    }

    /// Has whoever leads hand over to a member, or to the most advanced one. That is one election: where the request may have got lost with the
    /// old leader, the new one is not asked to hand over again.
    ///
    /// # Errors
    /// As [`Core::change_members`].
    pub(crate) async fn hand_over(self: &Arc<Self>, to: Option<NodeId>, deadline: Instant) -> Result<(), StoreError> {
        let mut leadership = self.leadership.clone();
        let handed_over = async {
            let old = leadership.wait_for(|now| now.leader.is_some()).await?.leader;
            let is_wanted = |leader: NodeId| Some(leader) != old && to.is_none_or(|to| to == leader);
            leadership.wait_for(|now| now.leader.is_some_and(is_wanted)).await.map(drop)
        };
        tokio::select! {
            biased;
            Ok(()) = handed_over => Ok(()),
            done = self.change_members(Request::TransferLeadership(to), deadline) => done,
        }
    }

    /// Adds a member as a learner, or changes a known one's addresses. Harmless when repeated.
    pub(crate) async fn add_member_as_leader(&self, member: Member) -> Response {
        let info =
            MemberInfo { peer_address: member.peer_address, api_address: member.api_address, wants_vote: member.role == MemberRole::Voter };
        if let Err(reason) = self.peers.acquaintances.check_not_removed(member.id) {
            return Response::Refused(reason);
        }
        let known = self.metrics().membership_config.get_node(&member.id).cloned();
        let changed = match known {
            Some(known) if known == info => return Response::Done,
            Some(_) => {
                let changes = ChangeMembers::SetNodes(BTreeMap::from([(member.id, info)]));
                self.raft().change_membership(changes, true).await
            }
            None => self.raft().add_learner(member.id, info, false).await,
        };
        membership_response(changed.map(drop))
    }

    /// Removes a member if the others can go on without it. Harmless when repeated.
    pub(crate) async fn remove_member_as_leader(self: &Arc<Self>, id: NodeId) -> Response {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        if membership.get_node(&id).is_none() {
            return Response::Done;
        }
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        if voters.contains(&id) {
            if let Err(reason) = self.keeps_quorum_without(&voters, id).await {
                return Response::Refused(reason);
            }
            if id == self.config.node_id {
                // a successor removes this member; whoever asked is sent there
                return match self.transfer_as_leader(None).await {
                    Response::Done => Response::NotLeader { maybe_proposed: false },
                    other => other,
                };
            }
            let changed = self.raft().change_membership(ChangeMembers::RemoveVoters(BTreeSet::from([id])), false).await;
            return membership_response(changed.map(drop));
        }
        membership_response(self.raft().change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([id])), false).await.map(drop))
    }

    /// Whether the group can go on without `id`. Only what the others answer from now on counts: one that died a moment ago would make a
    /// quorum that cannot decide anything. Silence counts after [`LIVING`].
    pub(crate) async fn keeps_quorum_without(&self, voters: &BTreeSet<NodeId>, id: NodeId) -> Result<(), String> {
        let mut account = self.seat.account();
        let asked = clock::now();
        let deadline = clock::deadline(LIVING);
        loop {
            let living = account.look(|metrics| living(metrics, clock::since(asked)));
            let Some(reason) = loses_quorum(self.config.node_id, voters, &living, id) else { return Ok(()) };
            match tokio::time::timeout_at(deadline.into(), account.changed()).await {
                Ok(true) => {}
                // silent for too long, or raft has ended
                Ok(false) | Err(_) => return Err(reason),
            }
        }
    }

    /// Hands leadership over and waits until somebody else leads.
    pub(crate) async fn transfer_as_leader(self: &Arc<Self>, to: Option<NodeId>) -> Response {
        let metrics = self.metrics();
        let own_id = self.config.node_id;
        let voters: BTreeSet<NodeId> = metrics.membership_config.membership().voter_ids().collect();
        let most_advanced = || {
            let matched = metrics.replication.iter().flatten().filter(|(id, _)| voters.contains(id) && **id != own_id);
            matched.max_by_key(|(id, matched)| (**matched, std::cmp::Reverse(**id))).map(|(id, _)| *id)
        };
        let Some(to) = to.or_else(most_advanced) else {
            return Response::Refused("there is no other voter to hand over to".into());
        };
        if to == own_id {
            return Response::Done;
        }
        if !voters.contains(&to) {
            return Response::Refused(format!("member {to} is not a voter"));
        }
        if self.raft().trigger().transfer_leader(to).await.is_err() {
            return Response::NotLeader { maybe_proposed: true };
        }
        let mut leadership = self.leadership.clone();
        let moved = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != own_id));
        match tokio::time::timeout(TRANSFER_PATIENCE, moved).await {
            Ok(_) => Response::Done,
            Err(_elapsed) => Response::Refused(format!("member {to} did not take over")),
        }
    }

    /// As the leader, promotes learners that want to vote and have caught up, and finishes changes of voters that stopped half-way. Returns when the
    /// store closes.
    pub(crate) async fn promote_learners(self: Arc<Self>) {
        let (mut account, mut members) = (self.seat.account(), self.seat.account_of_members());
        loop {
            let step = account.look(next_step);
            tokio::select! {
                () = self.take_step(step) => {}
                () = self.closing.cancelled() => return,
            }
            let news = async {
                if !members.look(|metrics| is_to_act(metrics.state, metrics.membership_config.membership())) {
                    return members.changed().await;
                }
                let goes_on = account.changed().await;
                // every write is news
                tokio::time::sleep(LOOK_PAUSE).await;
                goes_on
            };
            tokio::select! {
                goes_on = news => if !goes_on {
                    return;
                },
                () = self.closing.cancelled() => return,
            }
        }
    }

    async fn take_step(&self, step: Option<Step>) {
        let (changes, keeps_learning) = match step {
            None => return,
            Some(Step::Promote(id)) => (ChangeMembers::AddVoterIds(BTreeSet::from([id])), true),
            Some(Step::Finish) => {
                let changed_at = *self.metrics().membership_config.log_id();
                tokio::time::sleep(SECOND_HALF_PATIENCE).await;
                if *self.metrics().membership_config.log_id() != changed_at {
                    return;
                }
                // whoever votes no more was to be removed: nobody becomes a learner again
                (ChangeMembers::AddVoterIds(BTreeSet::new()), false)
            }
        };
        match self.raft().change_membership(changes, keeps_learning).await {
            Ok(_) => tracing::info!(?step, "Changed who votes"),
            // a change is under way, or leadership is: look again at the next news
            Err(error) => {
                tracing::debug!(?step, %error, "Could not change who votes yet");
                // asking is news, too
                tokio::time::sleep(PROMOTION_PAUSE).await;
            }
        }
    }

    /// As the leader, makes its own addresses known to the group when they are not those that it was given this time. Returns when the
    /// store closes.
    pub(crate) async fn keep_own_addresses(self: Arc<Self>) {
        let mut leadership = self.leadership.clone();
        while leadership.wait_for(|now| now.established).await.is_ok() {
            let own = self.config.node_id;
            let known = self.metrics().membership_config.get_node(&own).cloned();
            let (peer_address, api_address) = (self.config.peer_advertise.clone(), self.config.api_advertise.clone());
            if let Some(known) = known.filter(|known| known.peer_address != peer_address || known.api_address != api_address) {
                let changes = ChangeMembers::SetNodes(BTreeMap::from([(own, MemberInfo { peer_address, api_address, ..known })]));
                if let Err(error) = self.raft().change_membership(changes, true).await {
                    tracing::debug!(%error, "Could not tell the group this member's addresses yet");
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            }
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() {
                    return;
                },
                () = self.closing.cancelled() => return,
            }
        }
    }
}

/// Whether a leader has somebody to promote, or a change to finish, sooner or later.
fn is_to_act(state: ServerState, membership: &Membership) -> bool {
    let stopped_half_way = membership.get_joint_config().len() > 1;
    state == ServerState::Leader && (stopped_half_way || candidates(membership).next().is_some())
}

/// The learners that want to vote.
fn candidates(membership: &Membership) -> impl Iterator<Item = NodeId> {
    membership.learner_ids().filter(|id| membership.get_node(id).is_some_and(|node| node.wants_vote))
}

/// What a leader does next about who votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There are two sets of voters: whoever began the change led no more, or heard too few, before its second half.
    Finish,
    /// This learner is to vote.
    Promote(NodeId),
}

/// What the leader should do next, if anything.
fn next_step(metrics: &Metrics) -> Option<Step> {
    let replication = metrics.replication.as_ref()?;
    let membership = metrics.membership_config.membership();
    // one change at a time: the last one must be committed
    let changed_at = metrics.membership_config.log_id().map(|id| id.index());
    if changed_at > metrics.last_applied.map(|id| id.index()) {
        return None;
    }
    if membership.get_joint_config().len() > 1 {
        return Some(Step::Finish);
    }
    let last = metrics.last_log_index.unwrap_or(0);
    let is_ready = |id: &NodeId| {
        let matched = replication.get(id).copied().flatten();
        matched.is_some_and(|matched| matched.index() + PROMOTION_LAG_ENTRIES >= last)
    };
    candidates(membership).find(is_ready).map(Step::Promote)
}

/// The peers that have answered the leader within the last `recent`.
fn living(metrics: &Metrics, recent: Duration) -> BTreeSet<NodeId> {
    metrics
        .heartbeat
        .iter()
        .flatten()
        .filter(|(_, answered)| answered.as_ref().is_some_and(|at| at.elapsed() < recent))
        .map(|(id, _)| *id)
        .collect()
}

/// The voters that live as the leader hears them; nobody on another member.
pub(crate) fn answering(core: &Core) -> BTreeSet<NodeId> {
    let (metrics, own_id) = (core.metrics(), core.config.node_id);
    if metrics.current_leader != Some(own_id) {
        return BTreeSet::new();
    }
    let living = living(&metrics, LIVING);
    metrics.membership_config.membership().voter_ids().filter(|id| *id == own_id || living.contains(id)).collect()
}

/// Why removing `id` would leave a group that cannot commit, if so.
fn loses_quorum(own_id: NodeId, voters: &BTreeSet<NodeId>, living: &BTreeSet<NodeId>, id: NodeId) -> Option<String> {
    let remaining: Vec<NodeId> = voters.iter().copied().filter(|voter| *voter != id).collect();
    if remaining.is_empty() {
        return Some(format!("member {id} is the only voter"));
    }
    let answering = remaining.iter().filter(|voter| **voter == own_id || living.contains(voter)).count();
    let needed = remaining.len() / 2 + 1;
    (answering < needed)
        .then(|| format!("without member {id} only {answering} of {} voters would answer, {needed} are needed", remaining.len()))
}

fn membership_response(changed: Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>>) -> Response {
    match changed {
        Ok(()) => Response::Done,
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_))) => {
            Response::NotLeader { maybe_proposed: true }
        }
        // the last: a change was proposed between openraft's look at the members and its own proposal
        Err(RaftError::APIError(
            ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_))
            | ClientWriteError::PreconditionFailed(_),
        )) => Response::Failed("another change of members is under way".into()),
        Err(RaftError::APIError(error)) => Response::Refused(error.to_string()),
        Err(RaftError::Fatal(_)) => Response::NotLeader { maybe_proposed: true },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::raft_types::{LogId, StoredMembership};

    fn check(voters: &[NodeId], living: &[NodeId], id: NodeId, expected: Option<&str>) {
        let set = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(loses_quorum(1, &set(voters), &set(living), id).as_deref(), expected);
    }

    #[test]
    fn a_change_that_another_one_overtook_is_tried_again() {
        let overtaken = openraft::errors::PreconditionFailed::LastMembershipLogIdMismatch { expected: None, actual: None };
        let answer = membership_response(Err(RaftError::APIError(ClientWriteError::PreconditionFailed(overtaken))));
        assert_eq!(answer, Response::Failed("another change of members is under way".into()));
    }

    #[test]
    fn only_a_leader_waits_for_learners_and_only_for_those_that_want_to_vote() {
        let membership = |learner_wants_vote| {
            let member = |wants_vote| MemberInfo { wants_vote, ..MemberInfo::default() };
            let nodes = BTreeMap::from([(1, member(true)), (2, member(learner_wants_vote))]);
            Membership::new(vec![BTreeSet::from([1])], nodes).unwrap()
        };
        assert!(is_to_act(ServerState::Leader, &membership(true)));
        assert!(!is_to_act(ServerState::Leader, &membership(false)));
        assert!(!is_to_act(ServerState::Follower, &membership(true)));
    }

    /// What a member with these sets of voters, members that want to vote and entries does next, when the members changed at entry 7.
    fn next(leads: bool, sets: &[&[NodeId]], applied: u64, learner_has: u64) -> Option<Step> {
        let member = || MemberInfo { wants_vote: true, ..MemberInfo::default() };
        let nodes: BTreeMap<NodeId, MemberInfo> = (1..=4).map(|id| (id, member())).collect();
        let sets: Vec<BTreeSet<NodeId>> = sets.iter().map(|voters| voters.iter().copied().collect()).collect();
        let at = |index| LogId::new_term_index(1, index);
        let mut metrics = Metrics::new_initial(1);
        metrics.membership_config = Arc::new(StoredMembership::new(Some(at(7)), Membership::new(sets, nodes).unwrap()));
        metrics.last_log_index = Some(100);
        metrics.last_applied = Some(at(applied));
        metrics.replication = leads.then(|| BTreeMap::from([(4, Some(at(learner_has)))]));
        next_step(&metrics)
    }

    #[test]
    fn a_leader_promotes_whoever_has_caught_up_and_finishes_what_stopped_half_way() {
        let (one, two): (&[&[NodeId]], &[&[NodeId]]) = (&[&[1, 2, 3]], &[&[1, 2], &[1, 2, 3]]);
        assert_eq!(next(true, one, 100, 100 - PROMOTION_LAG_ENTRIES), Some(Step::Promote(4)));
        assert_eq!(next(true, one, 100, 99 - PROMOTION_LAG_ENTRIES), None);
        assert_eq!(next(true, two, 100, 100), Some(Step::Finish));
        // before that is committed there is nothing to finish, and others do not lead
        assert_eq!((next(true, two, 6, 100), next(true, one, 6, 100)), (None, None));
        assert_eq!((next(false, two, 100, 100), next(false, one, 100, 100)), (None, None));
    }

    #[test]
    fn removal_keeps_a_quorum() {
        check(&[1], &[], 1, Some("member 1 is the only voter"));
        check(&[1, 2], &[2], 2, None);
        check(&[1, 2, 3], &[2], 3, None);
        check(&[1, 2, 3], &[2, 3], 3, None);
        check(&[1, 2, 3], &[3], 3, Some("without member 3 only 1 of 2 voters would answer, 2 are needed"));
        check(&[1, 2, 3, 4], &[2], 4, None);
        check(&[1, 2, 3, 4, 5], &[2], 5, Some("without member 5 only 2 of 4 voters would answer, 3 are needed"));
    }
}
