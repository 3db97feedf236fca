//! On the leader: history that is older than the retention, or too large, is forgotten, a slice at a time. The next slice does not wait until
//! the last one is committed: with many large writes on the way that takes a quarter of a second, in which more comes in than a slice has.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::clock;
use crate::command::{Command, Revision};
use crate::core::Core;
use crate::raft_types::Payload;
use crate::records;
use crate::state_db::ToForget;

/// How much of the retention passes between two looks at the history, but no more than [`LOOK_PAUSE_MAX`].
const LOOKS_PER_RETENTION: u32 = 20;
/// So long it may grow beyond its limit.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(5);
/// After a look that found more than a slice the next one comes so soon: much comes in.
const NEXT_LOOK_PAUSE: Duration = Duration::from_millis(100);
/// What one command forgets, about: so little that no write notices it.
const SLICE_CHANGES: usize = 500;
/// So many of these commands are on their way to a majority at most.
const ON_THE_WAY_MAX: usize = 64;
/// The longest pause before the next such command.
const REST_MAX: Duration = Duration::from_millis(5);
/// The pause is halved so often at most.
const HALVINGS_MAX: u32 = 2;

/// On the leader, forgets history that is older than the retention or too large, until the store closes. An idle store proposes nothing.
pub(crate) async fn bound_history(core: Arc<Core>) {
    let usual = (core.config.history_retention / LOOKS_PER_RETENTION).clamp(Duration::from_millis(100), LOOK_PAUSE_MAX);
    let mut pause = usual;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.closing.cancelled() => return,
        }
        tokio::select! {
            found_more = forget(&core) => pause = if found_more { usual.min(NEXT_LOOK_PAUSE) } else { usual },
            () = core.closing.cancelled() => return,
        }
    }
}

/// Forgets all that is too much now, and whether it was more than a slice.
async fn forget(core: &Arc<Core>) -> bool {
    let (mut commands, mut on_the_way) = (JoinSet::new(), OnTheWay::default());
    let (mut pace, mut slices) = (Pace::default(), 0_u64);
    let mut came_bytes = core.appended_bytes.load(Ordering::Relaxed);
    while core.leadership.borrow().established && !core.faults().is_paused() {
        let begun = clock::now();
        let look = {
            let (looking, on_the_way) = (Arc::clone(core), on_the_way);
            core.config.environment.blocking(move || to_forget(&looking, on_the_way)).await
        };
        let looked = clock::since(begun);
        let found = match look {
            Ok(Ok(found)) if found.bytes > 0 => found,
            Ok(Ok(_)) | Err(_) => break,
            Ok(Err(error)) => {
                tracing::warn!(%error, "Could not look at the history");
                break;
            }
        };
        on_the_way.begin(&found);
        slices += 1;
        let (raft, command) = (core.raft(), records::encode(&Command::Compact { upto: found.upto }));
        commands.spawn(async move { raft.client_write(Payload(command.into())).await.map(|_applied| found.bytes) });
        if !found.more {
            break;
        }
        let came = std::mem::replace(&mut came_bytes, core.appended_bytes.load(Ordering::Relaxed));
        tokio::time::sleep(pace.rest(looked, found.bytes, came_bytes - came)).await;
        while let Some(ended) = if commands.len() < ON_THE_WAY_MAX { commands.try_join_next() } else { commands.join_next().await } {
            // who leads now looks for itself
            let Ok(Ok(bytes)) = ended else { return false };
            on_the_way.end(bytes);
        }
    }
    // the next look counts what these have not taken away yet
    while commands.join_next().await.is_some() {}
    slices > 1
}

/// What commands on their way will forget.
#[derive(Clone, Copy, Debug, Default)]
struct OnTheWay {
    /// The last revision of the last one; 0 if there was none.
    upto: Revision,
    /// Of the rows of all of them that have not come back.
    bytes: u64,
}

impl OnTheWay {
    fn begin(&mut self, found: &ToForget) {
        self.upto = found.upto;
        self.bytes += found.bytes;
    }

    fn end(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// How long writes have the store for themselves between two commands that forget. Every member looks for what to forget once more when it applies
/// such a command, and removes it, on the thread of its raft.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    halvings: u32,
}

impl Pace {
    /// The pause after a command that forgets `bytes`, if looking for it took `looked` and `came_bytes` came into the log since the one before.
    /// What is forgotten must stay more than what is written, or the history grows without end.
    fn rest(&mut self, looked: Duration, bytes: u64, came_bytes: u64) -> Duration {
        self.halvings = if came_bytes >= bytes { (self.halvings + 1).min(HALVINGS_MAX) } else { self.halvings.saturating_sub(1) };
        (looked * 4).min(REST_MAX) / (1 << self.halvings)
    }
}

/// What should be forgotten now, beyond what is on the way.
fn to_forget(core: &Core, on_the_way: OnTheWay) -> io::Result<ToForget> {
    let db = core.shared.db()?;
    let after = core.shared.compacted().max(on_the_way.upto);
    if after >= core.shared.view().revision() {
        return Ok(ToForget::nothing(after));
    }
    let retention_ms = i64::try_from(core.config.history_retention.as_millis()).unwrap_or(i64::MAX);
    let before = core.config.environment.now_unix_ms().saturating_sub(retention_ms);
    let excess_bytes = core.shared.history_bytes().saturating_sub(core.config.history_bytes_max).saturating_sub(on_the_way.bytes);
    db.to_forget(after, before, excess_bytes, SLICE_CHANGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_pause_after_a_look_is_longer_than_it_but_bounded() {
        assert_eq!(Pace::default().rest(MS / 2, 100, 0), 2 * MS);
        assert_eq!(Pace::default().rest(MS, 100, 99), 4 * MS);
        assert_eq!(Pace::default().rest(Duration::from_secs(1), 100, 0), REST_MAX);
    }

    #[test]
    fn pauses_become_shorter_while_more_comes_than_is_forgotten() {
        let mut pace = Pace::default();
        let rests: Vec<_> = [100, 500, 100, 99, 0, 0].map(|came_bytes| pace.rest(MS, 100, came_bytes)).into();
        assert_eq!(rests, [2 * MS, MS, MS, 2 * MS, 4 * MS, 4 * MS]);
    }

    #[test]
    fn what_is_on_the_way_is_not_forgotten_twice() {
        let mut on_the_way = OnTheWay::default();
        on_the_way.begin(&ToForget { upto: 7, bytes: 10, more: true });
        on_the_way.begin(&ToForget { upto: 9, bytes: 5, more: true });
        assert_eq!((on_the_way.upto, on_the_way.bytes), (9, 15));
        on_the_way.end(10);
        assert_eq!((on_the_way.upto, on_the_way.bytes), (9, 5));
    }
}
