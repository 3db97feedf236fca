//! Linearizable reads: all that wait at the same time share one question to the leader, and the leader asks its peers whether it still reigns.
//! [`crate::reign_check`] says why their answers suffice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::{mpsc, oneshot};

use crate::command::{NodeId, Term};
use crate::core::Core;
use crate::majority::is_majority;
use crate::network::link::Link;
use crate::network::messages::{Request, Response};
#[cfg(feature = "planted")]
use crate::planted;
use crate::raft_types::LogId;
use crate::records::VoteRecord;
use crate::reign_check;
use crate::store::StoreError;

/// After so long without an answer all voters are asked: a peer that is not busy answers sooner.
const PROMPT: Duration = Duration::from_millis(1);

/// Somebody who wants to know the read index.
pub(crate) struct ReadRequest {
    /// Until when.
    pub(crate) deadline: Instant,
    /// Where to tell it.
    pub(crate) answer: oneshot::Sender<Result<u64, StoreError>>,
}

/// Answers read requests until the store closes. A request that arrives while a question is on its way takes part in the next one: the
/// index must be one that was current after the request.
pub(crate) async fn serve_reads(core: Arc<Core>, mut requests: mpsc::Receiver<ReadRequest>) {
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            received = requests.recv_many(&mut batch, 4096) => received,
            () = core.closing.cancelled() => 0,
        };
        if received == 0 {
            return;
        }
        let Some(deadline) = batch.iter().map(|request: &ReadRequest| request.deadline).max() else { continue };
        let index = core.read_index(deadline).await;
        for request in batch.drain(..) {
            // whoever asked may have given up
            drop(request.answer.send(index.clone()));
        }
    }
}

impl Core {
    /// The index that a linearizable read must see, if this member leads. Without an answer for as long as a lease lasts it does not.
    pub(crate) async fn read_index_as_leader(&self) -> Response {
        let patience = Duration::from_millis(self.seat.timers().election_max_ms);
        match tokio::time::timeout(patience, self.confirmed_index()).await {
            Ok(Some(index)) => Response::ReadIndex(index),
            Ok(None) | Err(_) => Response::NotLeader { maybe_proposed: false },
        }
    }

    /// The last index that anybody may have seen, once a majority has confirmed that this member reigns; `None` if too few do.
    async fn confirmed_index(&self) -> Option<u64> {
        let own = self.config.node_id;
        let mut leadership = self.leadership.clone();
        // a leader that was just elected is established within a round trip
        let leadership = *leadership.wait_for(|now| now.established || now.leader != Some(own)).await.ok()?;
        let vote = self.log.vote().filter(|vote| reign_check::may_ask(own, leadership, *vote))?;
        let (index, sets) = self.last_known(vote.term);
        #[cfg(feature = "planted")]
        if planted::is_planted(planted::Bug::TrustReign) {
            return Some(index);
        }
        self.is_confirmed(vote, &sets).await.then_some(index)
    }

    /// Whether a majority of each set confirms that the leader with this vote reigns: `false` when everybody has answered, or cannot be asked. As
    /// few are asked as can do, since each question wakes a machine up; the others when those do not answer at once.
    async fn is_confirmed(&self, vote: VoteRecord, sets: &[BTreeSet<NodeId>]) -> bool {
        let own = self.config.node_id;
        let question = Request::AppendOne(reign_check::question(vote));
        let mut links: BTreeMap<NodeId, Arc<Link>> =
            reign_check::others(own, sets).into_iter().filter_map(|id| Some((id, self.peers.prompt_link(id)?))).collect();
        let first = reign_check::first_asked(own, sets, &links.keys().copied().collect(), &self.peers.prompt.lock());
        let ask = |(id, link): (NodeId, Arc<Link>)| link.start(&question).map(move |answer| (id, answer));
        let mut answers: FuturesUnordered<_> = links.extract_if(.., |id, _| first.contains(id)).map(ask).collect();
        let mut agreeing = BTreeSet::from([own]);
        let mut late = std::pin::pin!(tokio::time::sleep(PROMPT));
        while !is_majority(sets, |id| agreeing.contains(&id)) {
            tokio::select! {
                // the same order in every run of a simulation
                biased;
                Some((id, answer)) = answers.next() => if let Ok(Response::Appended(_)) = answer {
                    agreeing.insert(id);
                },
                () = &mut late, if !links.is_empty() => answers.extend(std::mem::take(&mut links).into_iter().map(ask)),
                else => return false,
            }
        }
        self.peers.prompt.lock().clone_from(&agreeing);
        true
    }

    /// The last index that is committed, as far as anybody can know, and the sets of voters by the last change in the log of this member, which
    /// leads in `term`. Raft's account of both may be a moment old. Nobody shows a later entry, and nobody is elected by a later change, of which
    /// this member has not told somebody before.
    fn last_known(&self, term: Term) -> (u64, Vec<BTreeSet<NodeId>>) {
        let told = self.peers.told.lock();
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let index_of = |id: Option<&LogId>| id.map_or(0, |id| id.index());
        let committed = index_of(metrics.cluster_committed.as_ref()).max(told.committed(term)).max(self.applied_index());
        let changed = index_of(metrics.membership_config.log_id().as_ref());
        let voters = told.voters_after(term, changed).unwrap_or_else(|| metrics.membership_config.membership().get_joint_config());
        (committed, voters.to_vec())
    }
}
