//! What a member does by itself: says who leads, bounds the log. Who bounds the history: [`crate::forgetting`].

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::watch;

use crate::core::Core;
use crate::network::client::Peers;
use crate::quorum;
use crate::raft_types::Metrics;
use crate::seat::Seat;
use crate::store::Leadership;

/// So often the log is looked at while as many bytes come in as are kept for members that lag.
const LOOKS_AT_LOG: u64 = 4;
/// Nor is it looked at more often than this.
const LOG_LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Publishes who leads, who votes, and what openraft's core knows to be applied, until raft ends for good. Whoever is told of another leader is not told any
/// more that there is no quorum: one has elected it.
pub(crate) async fn follow_raft(
    seat: Arc<Seat>,
    peers: Arc<Peers>,
    leadership: watch::Sender<Leadership>,
    no_quorum: watch::Sender<Option<String>>,
    failed: impl Fn(String),
) {
    let (mut account, mut voters_at) = (seat.account(), None);
    loop {
        let (mut now, applied, snapshot, failure) = account.look(|metrics| {
            let membership = &metrics.membership_config;
            if *membership.log_id() != voters_at {
                voters_at = *membership.log_id();
                peers.thrift.lock().note_voters(membership.membership().get_joint_config().clone());
            }
            let failure = metrics.running_state.as_ref().err().map(ToString::to_string);
            let [applied, snapshot] = [metrics.last_applied, metrics.snapshot].map(|id| id.map_or(0, |id| id.index()));
            (leads(metrics), applied, snapshot, failure)
        });
        if failure.is_some() {
            now = Leadership { term: now.term, ..Leadership::default() };
        }
        seat.note_applied(applied, snapshot);
        if now.is_news_after(&leadership.borrow()) {
            quorum::publish(&no_quorum, None);
        }
        leadership.send_if_modified(|known| {
            let changed = *known != now;
            if changed && (known.leader, known.term) != (now.leader, now.term) {
                tracing::info!(raft_term = now.term, leader = now.leader, "Leadership changed");
            }
            *known = now;
            changed
        });
        let goes_on = if failure.is_none() { account.changed().await } else { account.succeeded().await };
        if !goes_on {
            failure.into_iter().for_each(failed);
            leadership.send_modify(|known| *known = Leadership { term: known.term, ..Leadership::default() });
            return;
        }
    }
}

/// Who leads. `established` only after an entry of the own term has been applied here: then the view holds all that earlier leaders committed.
fn leads(metrics: &Metrics) -> Leadership {
    let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(metrics.id);
    let applied_term = metrics.last_applied.map_or(0, |id| **id.committed_leader_id());
    Leadership { term: metrics.current_term, leader: metrics.current_leader, established: leads && applied_term == metrics.current_term }
}

/// Takes a snapshot whenever the log has grown by [`StoreConfig::log_bytes_max`], and purges what need not be kept of it (see [`crate::purging`]),
/// until the store closes.
///
/// [`StoreConfig::log_bytes_max`]: crate::StoreConfig::log_bytes_max
pub(crate) async fn bound_log(core: Arc<Core>) {
    let (mut applied, mut snapshot) = (core.shared.applied(), core.seat.snapshot());
    let bytes_max = core.config.log_bytes_max;
    let (look_entries, look_bytes) = (core.entries_kept().max(1), core.kept_bytes() / LOOKS_AT_LOG);
    let mut next_snapshot = core.appended_bytes.load(Ordering::Relaxed) + bytes_max;
    let (mut next_index, mut next_bytes) = (0, 0);
    // the last snapshot is too old, and the next one is not before this entry is applied
    let mut outgrown_at = None;
    loop {
        let grown = async {
            let changed = applied.changed().await;
            // every write is news
            tokio::time::sleep(LOG_LOOK_PAUSE).await;
            changed
        };
        let is_new = tokio::select! {
            changed = grown => changed.map(|()| false),
            changed = snapshot.changed() => changed.map(|()| true),
            () = core.closing.cancelled() => return,
        };
        let Ok(is_new) = is_new else { return };
        let (index, bytes) = (applied.borrow_and_update().index, core.appended_bytes.load(Ordering::Relaxed));
        let in_snapshot = *snapshot.borrow_and_update();
        if is_new {
            // whoever asked for a snapshot while this one was made got none
            outgrown_at = core.log.before_newest(bytes_max).filter(|before| *before > in_snapshot);
        }
        if bytes >= next_snapshot || outgrown_at.is_some_and(|before| before <= index) {
            (next_snapshot, outgrown_at) = (bytes + bytes_max, None);
            // between two cores of raft there is nobody to ask
            drop(core.raft().trigger().snapshot().await);
        }
        if is_new || index >= next_index || bytes >= next_bytes {
            (next_index, next_bytes) = (index + look_entries, bytes + look_bytes);
            core.purge().await;
        }
    }
}
