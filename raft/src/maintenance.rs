//! What a member does by itself: says who leads, bounds history and log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;

use crate::command::Command;
use crate::core::Core;
use crate::raft_types::{Metrics, Payload, Raft};
use crate::records;
use crate::store::Leadership;

/// A snapshot is taken when the log has grown by so many bytes, however few entries they are.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// History beyond this is forgotten before its time.
const HISTORY_BYTES_MAX: u64 = 256 << 20;
/// How much of the retention passes between two looks at the history.
const LOOKS_PER_RETENTION: u32 = 20;
/// History rows that one command forgets, about.
const COMPACTION_ROWS_MAX: usize = 5_000;

/// Publishes who leads, and what openraft's core knows to be applied, until raft ends.
pub(crate) async fn follow_raft(
    raft: Raft,
    leadership: watch::Sender<Leadership>,
    core_applied: watch::Sender<Option<u64>>,
    failed: impl Fn(String),
) {
    let mut metrics = raft.metrics();
    loop {
        let (now, applied, failure) = {
            let metrics = metrics.borrow_watched();
            let failure = metrics.running_state.as_ref().err().map(ToString::to_string);
            (leads(&metrics), metrics.last_applied.map_or(0, |id| id.index()), failure)
        };
        core_applied.send_replace(Some(applied));
        let ended = failure.is_some();
        if let Some(failure) = failure {
            failed(failure);
        }
        leadership.send_if_modified(|known| {
            let now = if ended { Leadership { term: now.term, ..Leadership::default() } } else { now };
            let changed = *known != now;
            if changed && (known.leader, known.term) != (now.leader, now.term) {
                tracing::info!(raft_term = now.term, leader = now.leader, "Leadership changed");
            }
            *known = now;
            changed
        });
        if ended || metrics.changed().await.is_err() {
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

/// Takes a snapshot whenever the log has grown by [`LOG_BYTES_MAX`], until the store closes.
pub(crate) async fn bound_log(core: Arc<Core>) {
    let mut applied = core.shared.applied();
    let mut next = core.appended_bytes.load(Ordering::Relaxed) + LOG_BYTES_MAX;
    loop {
        tokio::select! {
            changed = applied.changed() => if changed.is_err() {
                return;
            },
            () = core.closing.cancelled() => return,
        }
        let appended = core.appended_bytes.load(Ordering::Relaxed);
        if appended >= next {
            next = appended + LOG_BYTES_MAX;
            if core.raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
    }
}

/// On the leader, forgets history that is older than the retention or too large, until the store closes. An idle store proposes nothing.
pub(crate) async fn bound_history(core: Arc<Core>) {
    let pause = (core.config.history_retention / LOOKS_PER_RETENTION).clamp(Duration::from_millis(100), Duration::from_secs(300));
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.closing.cancelled() => return,
        }
        loop {
            if !core.leadership.borrow().established {
                break;
            }
            let look = {
                let looking = Arc::clone(&core);
                core.config.environment.blocking(move || to_forget(&looking)).await
            };
            let (upto, more) = match look {
                Ok(Ok(Some(found))) => found,
                Ok(Ok(None)) | Err(_) => break,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "Could not look at the history");
                    break;
                }
            };
            let command = records::encode(&Command::Compact { upto });
            if core.raft.client_write(Payload(command.into())).await.is_err() || !more {
                break;
            }
        }
    }
}

/// Up to which revision history should be forgotten now, and whether more should follow.
fn to_forget(core: &Core) -> std::io::Result<Option<(u64, bool)>> {
    let db = core.shared.db()?;
    let (compacted, revision) = (core.shared.compacted(), core.shared.view().revision());
    if compacted >= revision {
        return Ok(None);
    }
    let retention_ms = i64::try_from(core.config.history_retention.as_millis()).unwrap_or(i64::MAX);
    let before = core.config.environment.now_unix_ms().saturating_sub(retention_ms);
    let (mut upto, more) = db.last_older_than(compacted, before, COMPACTION_ROWS_MAX)?;
    if db.history_bytes() > HISTORY_BYTES_MAX {
        upto = upto.max(compacted + ((revision - compacted) / 10).max(1));
    }
    Ok((upto > compacted).then_some((upto, more)))
}
