//! Whether the group can decide anything, as this member sees it: who answers, and what to tell callers when too few do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use tokio::sync::watch;

use crate::alarm::Alarm;
use crate::clock;
use crate::command::NodeId;
use crate::core::Core;
use crate::network::messages::Request;
use crate::raft_types::Metrics;

/// How often a member looks whether a group that has fallen silent speaks again.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Silence for so long is no election any more: those take half a second.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Keeps `no_quorum` current until the store closes: why nothing can be decided, or `None`. Peers are asked only after a silence.
pub(crate) async fn watch_quorum(core: Arc<Core>, no_quorum: watch::Sender<Option<String>>) {
    let alarm = Alarm::new(&core.config.environment);
    loop {
        tokio::select! {
            () = alarm.after(rest(silence(&core, &core.metrics()))) => {}
            () = core.closing.cancelled() => return,
        }
        let (metrics, before) = (core.metrics(), *core.leadership.borrow());
        let now = if silence(&core, &metrics) < SILENCE_MAX { None } else { ask_around(&core, &metrics).await };
        // what was true before an election is not news after it
        if !core.leadership.borrow().is_news_after(&before) {
            publish(&no_quorum, now);
        }
    }
}

/// How long a member that has had no sign of a working group for `silence` need not look: until that has lasted too long.
fn rest(silence: Duration) -> Duration {
    SILENCE_MAX.checked_sub(silence).filter(|left| !left.is_zero()).unwrap_or(LOOK_PAUSE)
}

/// Makes known why nothing can be decided, or that something can.
pub(crate) fn publish(no_quorum: &watch::Sender<Option<String>>, now: Option<String>) {
    no_quorum.send_if_modified(|known| {
        let changed = *known != now;
        match &now {
            Some(reason) if changed => tracing::warn!(reason, "The group has no quorum"),
            None if changed => tracing::info!("The group has a quorum again"),
            _ => {}
        }
        *known = now;
        changed
    });
}

/// For how long this member has had no sign of a working group.
pub(crate) fn silence(core: &Core, metrics: &Metrics) -> Duration {
    if metrics.current_leader == Some(core.config.node_id) {
        let alone = metrics.membership_config.membership().voter_ids().count() <= 1;
        let acknowledged = metrics.last_quorum_acked.as_ref().map_or(SILENCE_MAX, |at| at.elapsed());
        if alone { Duration::ZERO } else { acknowledged.min(clock::since(*core.heard.lock())) }
    } else {
        clock::since(*core.heard.lock())
    }
}

/// Asks every voter whether it lives; why that is too few, if so.
async fn ask_around(core: &Arc<Core>, metrics: &Metrics) -> Option<String> {
    let membership = metrics.membership_config.membership();
    let voters: BTreeMap<NodeId, String> = membership
        .voter_ids()
        .map(|id| (id, membership.get_node(&id).map_or_else(String::new, |node| node.peer_address.clone())))
        .collect();
    let mut answering: BTreeSet<NodeId> = core.ask_voters(metrics, &Request::ReadIndex).await.into_keys().collect();
    answering.insert(core.config.node_id);
    too_few(&voters, &answering)
}

/// Why these voters cannot decide anything, if so.
fn too_few(voters: &BTreeMap<NodeId, String>, answering: &BTreeSet<NodeId>) -> Option<String> {
    let missing: Vec<String> =
        voters.iter().filter(|(id, _)| !answering.contains(id)).map(|(id, address)| format!("member {id} ({address})")).collect();
    let (present, needed) = (voters.len() - missing.len(), voters.len() / 2 + 1);
    (!voters.is_empty() && present < needed).then(|| {
        let answer = if present == 1 { "answers" } else { "answer" };
        format!("{present} of {} voters {answer}, {needed} are needed; missing: {}", voters.len(), missing.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(voters: u64, answering: &[NodeId], expected: Option<&str>) {
        let voters: BTreeMap<NodeId, String> = (1..=voters).map(|id| (id, format!("h{id}:1"))).collect();
        assert_eq!(too_few(&voters, &answering.iter().copied().collect()).as_deref(), expected);
    }

    #[test]
    fn a_group_that_speaks_is_looked_at_when_its_silence_could_last_too_long() {
        let check =
            |silence_ms, rest_ms| assert_eq!(rest(Duration::from_millis(silence_ms)), Duration::from_millis(rest_ms), "{silence_ms} ms");
        check(0, 2000);
        check(250, 1750);
        check(1999, 1);
        check(2000, 500);
        check(60_000, 500);
    }

    #[test]
    fn a_lost_quorum_names_the_missing() {
        check(3, &[1, 2], None);
        check(3, &[1], Some("1 of 3 voters answers, 2 are needed; missing: member 2 (h2:1), member 3 (h3:1)"));
        check(5, &[1, 4], Some("2 of 5 voters answer, 3 are needed; missing: member 2 (h2:1), member 3 (h3:1), member 5 (h5:1)"));
        check(2, &[2], Some("1 of 2 voters answers, 2 are needed; missing: member 1 (h1:1)"));
        check(1, &[1], None);
        // a new member that knows of no group yet
        check(0, &[7], None);
    }
}
