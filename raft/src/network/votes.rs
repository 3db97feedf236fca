//! Candidates that ask this member for its vote.

use openraft::raft::VoteRequest;

use super::acquaintances::removed;
use super::messages::Response;
use crate::ballot;
use crate::core::Core;
use crate::happenings::Event;
use crate::records::{LogIdRecord, VoteRecord};

/// A candidate's question.
pub(crate) struct Ballot {
    pub(crate) vote: VoteRecord,
    pub(crate) last: Option<LogIdRecord>,
    /// The leader itself wants this election.
    pub(crate) transfer: bool,
    /// Only whether there would be a vote.
    pub(crate) pre_vote: bool,
}

/// Answers a candidate, and tells those who watch.
///
/// # Errors
/// The answer when there is none to give.
pub(crate) async fn cast_vote(core: &Core, ballot: Ballot) -> Result<Response, Response> {
    let Ballot { vote, last, pre_vote, .. } = ballot;
    let answer = decide_vote(core, ballot).await;
    core.config.environment.tell(vote.term, || {
        let why = match &answer {
            Ok(Response::Voted { granted: true, .. }) => None,
            Ok(Response::Voted { vote: own, last: own_last, .. }) => {
                Some(ballot::why_refused((vote.voted_for, vote.term, last), own, *own_last))
            }
            Ok(other) => Some(format!("{other:?}")),
            Err(Response::Failed(reason)) => Some(reason.clone()),
            Err(other) => Some(format!("{other:?}")),
        };
        Event::VoteCast { candidate: vote.voted_for, pre_vote, granted: why.is_none(), why }
    });
    answer
}

async fn decide_vote(core: &Core, ballot: Ballot) -> Result<Response, Response> {
    let Ballot { vote, last, transfer, pre_vote } = ballot;
    if core.shared.is_removed(vote.voted_for) {
        return Err(Response::Failed(removed(vote.voted_for)));
    }
    if !core.may_vote_for(last) || (!transfer && core.counts_on_leader()) {
        return Ok(abstained(core));
    }
    let mut request = VoteRequest::new(vote.into(), last.map(Into::into));
    request.leadership_transfer = transfer;
    let raft = core.raft();
    let voted = if pre_vote { raft.pre_vote(request).await } else { raft.vote(request).await };
    let response = voted.map_err(|error| Response::Failed(error.to_string()))?;
    Ok(Response::Voted {
        vote: VoteRecord::from(&response.vote),
        last: response.last_log_id.map(Into::into),
        granted: response.vote_granted,
    })
}

/// The answer of a member that must not vote: its own vote as it is, and no grant.
fn abstained(core: &Core) -> Response {
    Response::Voted { vote: VoteRecord::from(&core.metrics().vote), last: core.log.last(), granted: false }
}
