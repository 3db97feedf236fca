//! What a member that is in doubt about its log does until it knows again what the group has committed: it asks a leader, and if there is
//! none, the other voters. The rules are in [`crate::doubt`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver as _;

use crate::clock;
use crate::command::NodeId;
use crate::core::Core;
use crate::doubt::{self, Standing, Suffrage};
use crate::network::messages::{Append, Request, Response};
use crate::records::LogIdRecord;

/// Between two rounds of questions.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// How long a leader may take to answer.
const ASK_PATIENCE: Duration = Duration::from_millis(500);

impl Core {
    /// What this member says of its log.
    pub(crate) fn standing(&self) -> Standing {
        Standing { last: self.log.last(), doubt: *self.doubt.lock() }
    }

    /// Whether a candidate with this last entry may be voted for, as far as the own doubt goes.
    pub(crate) fn may_vote_for(&self, last: Option<LogIdRecord>) -> bool {
        self.suffrage.lock().allows(last)
    }
}

impl Core {
    /// Whether a leader's append contradicts what was applied here.
    pub(crate) fn contradicts(&self, append: &Append) -> bool {
        let (applied, term) = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            (metrics.last_applied.map(LogIdRecord::from), metrics.current_term)
        };
        // raft answers a deposed leader
        let Some(applied) = applied.filter(|_| append.vote.term >= term) else { return false };
        let entries = append.entries.iter().map(|entry| entry.log_id);
        doubt::rewrites_applied(applied, append.previous, entries, |index| self.log.term_at(index))
    }

    /// Stops raft on this member, which starts over when it is opened again.
    pub(crate) fn diverge(&self) {
        if self.read_only.lock().is_some() {
            // it is stopping already
            return;
        }
        let reason = "the group has gone on without entries that this member had applied; started again, it takes over the group's state";
        tracing::error!("Stopping: {reason}");
        *self.read_only.lock() = Some(reason.into());
        if let Err(error) = self.log.note_diverged() {
            tracing::error!(%error, "Could not note that this member has to start over");
        }
        let raft = self.raft();
        tokio::spawn(async move { raft.shutdown().await });
    }
}

/// Ends the member's doubt, or returns when the store closes.
pub(crate) async fn recollect(core: Arc<Core>) {
    let Some(doubt) = *core.doubt.lock() else { return };
    tracing::warn!(?doubt, "The machine stopped without warning: this member abstains from elections until it has caught up");
    let since = clock::now();
    let catching_up = async {
        while !has_caught_up(&core).await {
            ask_around(&core, since).await;
            tokio::time::sleep(ASK_PAUSE).await;
        }
    };
    tokio::select! {
        () = catching_up => {}
        () = core.closing.cancelled() => return,
    }
    *core.doubt.lock() = None;
    set_suffrage(&core, Suffrage::Full);
    if let Err(error) = core.log.end_doubt() {
        tracing::warn!(%error, "Could not note that this member has caught up");
    }
    tracing::info!("This member has caught up and votes again");
}

/// Whether everything that the group had committed when this was called is applied here.
async fn has_caught_up(core: &Arc<Core>) -> bool {
    if core.leadership.borrow().leader.is_none() {
        return false;
    }
    match core.read_index(clock::deadline(ASK_PATIENCE)).await {
        Ok(index) => core.wait_applied(index, clock::deadline(ASK_PATIENCE)).await.is_ok(),
        Err(_) => false,
    }
}

/// Asks the voters what they have, and acts on it.
async fn ask_around(core: &Arc<Core>, since: Instant) {
    let metrics = core.metrics();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
    if !voters.contains(&core.config.node_id) {
        if let Some(doubt) = *core.doubt.lock() {
            set_suffrage(core, doubt.suffrage_outside());
        }
        return;
    }
    let answers = core.ask_voters(&metrics, &Request::Standing).await.into_iter();
    let standings = answers.filter_map(|(id, answer)| if let Response::Standing(standing) = answer { Some((id, standing)) } else { None });
    let heard: BTreeMap<NodeId, Standing> = standings.chain([(core.config.node_id, core.standing())]).collect();
    let now = doubt::suffrage(membership.get_joint_config(), &heard, clock::since(since));
    if *core.suffrage.lock() != now {
        tracing::info!(suffrage = ?now, heard = ?heard, "No leader was found, but the other voters answered");
        set_suffrage(core, now);
    }
}

fn set_suffrage(core: &Core, suffrage: Suffrage) {
    *core.suffrage.lock() = suffrage;
    core.let_elect();
}
