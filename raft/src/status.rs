//! What a member tells about itself and the group.

use openraft::ServerState;

use crate::core::Core;
use crate::quorum;
use crate::raft_types::Metrics;
use crate::store::{Member, MemberRole, Status};

/// The member's part, in a word.
pub(crate) fn role(metrics: &Metrics) -> &'static str {
    match (&metrics.running_state, metrics.state) {
        (Err(_), _) | (_, ServerState::Shutdown) => "shutdown",
        (_, ServerState::Leader) => "leader",
        (_, ServerState::Candidate) => "candidate",
        (_, ServerState::Follower) => "follower",
        (_, ServerState::Learner) => "learner",
    }
}

/// The state of this member and what it knows of the group.
pub(crate) fn status(core: &Core) -> Status {
    let metrics = core.metrics();
    let membership = metrics.membership_config.membership();
    let voters: Vec<_> = membership.voter_ids().collect();
    Status {
        node_id: core.config.node_id,
        role: role(&metrics).to_owned(),
        vote: (metrics.vote.leader_id.term > 0).then_some(metrics.vote.leader_id.voted_for),
        term: metrics.current_term,
        leader: core.leadership.borrow().leader,
        last_log: metrics.last_log_index.unwrap_or(0),
        committed: metrics.local_committed.map_or(0, |id| id.index()),
        applied: core.applied_index(),
        purged: metrics.purged.map_or(0, |id| id.index()),
        revision: core.shared.view().revision(),
        compacted: core.shared.compacted(),
        members: membership
            .nodes()
            .map(|(id, node)| Member {
                id: *id,
                peer_address: node.peer_address.clone(),
                api_address: node.api_address.clone(),
                role: if voters.contains(id) { MemberRole::Voter } else { MemberRole::Learner },
            })
            .collect(),
        matched: metrics.replication.iter().flatten().map(|(id, matched)| (*id, matched.map_or(0, |id| id.index()))).collect(),
        log_syncs: core.syncs(),
        heard_ms: silence_ms(core, &metrics),
        refused: core.peers.acquaintances.refusals(),
        no_quorum: core.no_quorum.borrow().clone(),
        abstains: abstains(core),
        read_only: core.disk_full.lock().clone().or_else(|| core.read_only.lock().clone()),
        faults: core.experiments().faults,
    }
}

/// Why this member does not take part in elections as others do, if so.
fn abstains(core: &Core) -> Option<String> {
    let doubt = (*core.doubt.lock())?;
    Some(doubt.reason(*core.suffrage.lock()))
}

/// For how long this member has had no sign of a working group.
fn silence_ms(core: &Core, metrics: &Metrics) -> u64 {
    u64::try_from(quorum::silence(core, metrics).as_millis()).unwrap_or(u64::MAX)
}
