//! How much of the log is kept: what no snapshot holds, something for members that lag, and everything that a member needs that is being sent a
//! snapshot. While a large one is on its way, more is written than is usually kept; without the log since then it would need another
//! snapshot when it has the first, and so on for as long as clients write.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;
use crate::command::NodeId;
use crate::core::Core;

/// This share of [`crate::StoreConfig::log_bytes_max`], in newest entries, is kept for members that lag.
const KEPT_SHARE: u64 = 4;
/// So many times of it are kept at most for members that are being sent a snapshot.
const HELD_TIMES: u64 = 16;
/// Whoever has a snapshot, but gets no further for so long, is not waited for any more.
const HOLD_PATIENCE: Duration = Duration::from_secs(30);

/// What bounds the log.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// The last entry in the snapshot.
    snapshot: u64,
    /// So many entries before that are kept.
    entries_kept: u64,
    /// The last entry before the newest ones that are kept by their bytes.
    before_kept: Option<u64>,
    /// Somebody needs all entries after this one.
    needed_after: Option<u64>,
    /// The last entry before the newest ones that are kept even for him.
    before_held: Option<u64>,
}

impl Extent {
    /// The last entry to purge.
    fn upto(self) -> u64 {
        let by_entries = self.snapshot.saturating_sub(self.entries_kept);
        let usual = by_entries.max(self.before_kept.unwrap_or(0));
        let held = self.needed_after.map_or(usual, |needed| usual.min(needed));
        held.max(self.before_held.unwrap_or(0)).min(self.snapshot)
    }
}

/// The members that are sent a snapshot, or have just received one.
#[derive(Default)]
pub(crate) struct Holds {
    holds: Mutex<BTreeMap<NodeId, Hold>>,
}

/// What a member needs.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// The entries after this one.
    after: u64,
    /// When it got so far; `None` while it is still being sent the snapshot.
    since: Option<Instant>,
}

/// A snapshot on its way; what comes after it is held until this is dropped, and beyond if it has arrived.
pub(crate) struct Sending<'a> {
    holds: &'a Holds,
    peer: NodeId,
}

impl Holds {
    /// A snapshot up to the entry `after` is on its way to `peer`.
    pub(crate) fn begin(&self, peer: NodeId, after: u64) -> Sending<'_> {
        self.holds.lock().insert(peer, Hold { after, since: None });
        Sending { holds: self, peer }
    }

    /// The entry after which everything must stay, if there is one. `matched`: how far a peer is; `None` if this member does not lead.
    fn needed_after(&self, matched: Option<impl Fn(NodeId) -> u64>, caught_up: u64, now: Instant) -> Option<u64> {
        let mut holds = self.holds.lock();
        match matched {
            None => holds.retain(|_, hold| hold.since.is_none()),
            Some(matched) => holds.retain(|peer, hold| hold.goes_on(matched(*peer), caught_up, now)),
        }
        holds.values().map(|hold| hold.after).min()
    }
}

impl Hold {
    /// Looks how far the member is; whether it is still to be waited for. `caught_up`: as far as others are, more or less.
    fn goes_on(&mut self, matched: u64, caught_up: u64, now: Instant) -> bool {
        let Some(since) = self.since else { return true };
        if matched > self.after {
            *self = Self { after: matched, since: Some(now) };
            return matched < caught_up;
        }
        now.saturating_duration_since(since) < HOLD_PATIENCE
    }
}

impl Sending<'_> {
    /// It has arrived: the member goes on from there.
    pub(crate) fn arrived(self) {
        if let Some(hold) = self.holds.holds.lock().get_mut(&self.peer) {
            hold.since = Some(clock::now());
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let mut holds = self.holds.holds.lock();
        if holds.get(&self.peer).is_some_and(|hold| hold.since.is_none()) {
            holds.remove(&self.peer);
        }
    }
}

impl Core {
    /// How many entries before a snapshot are kept.
    pub(crate) fn entries_kept(&self) -> u64 {
        self.config.snapshot_after_entries / 2
    }

    /// How many bytes of newest entries are kept.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.config.log_bytes_max / KEPT_SHARE
    }

    /// Purges what need not be kept of the log.
    pub(crate) async fn purge(&self) {
        let metrics = self.metrics();
        let Some(snapshot) = metrics.snapshot.map(|id| id.index()) else { return };
        let entries_kept = self.entries_kept();
        let matched = metrics.replication.as_ref().map(|peers| |id| peers.get(&id).copied().flatten().map_or(0, |id| id.index()));
        let caught_up = metrics.last_log_index.unwrap_or(0).saturating_sub(entries_kept);
        // on a full disk nobody is waited for
        let is_full = self.disk_full.lock().is_some();
        let needed_after = self.peers.holds.needed_after(matched, caught_up, clock::now()).filter(|_| !is_full);
        let held_bytes = self.config.log_bytes_max.saturating_mul(HELD_TIMES);
        let extent = Extent {
            snapshot,
            entries_kept,
            before_kept: self.log.before_newest(self.kept_bytes()),
            needed_after,
            before_held: needed_after.and_then(|_| self.log.before_newest(held_bytes)),
        };
        let upto = extent.upto();
        if upto > metrics.purged.map_or(0, |id| id.index()) {
            // between two cores of raft there is nobody to ask
            drop(self.raft().trigger().purge_log(upto).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After 1,000 entries in a snapshot, of which 100 are kept.
    fn check(before_kept: Option<u64>, needed_after: Option<u64>, before_held: Option<u64>, expected: u64) {
        let extent = Extent { snapshot: 1000, entries_kept: 100, before_kept, needed_after, before_held };
        assert_eq!(extent.upto(), expected, "{extent:?}");
    }

    #[test]
    fn the_log_is_bounded_by_entries_bytes_and_what_is_needed() {
        check(None, None, None, 900);
        check(Some(850), None, None, 900);
        check(Some(950), None, None, 950);
        // what no snapshot holds stays
        check(Some(1200), None, None, 1000);
        // a snapshot up to 700 is on its way
        check(None, Some(700), None, 700);
        check(Some(950), Some(700), None, 700);
        check(None, Some(2000), None, 900);
        // but there is an end to it
        check(None, Some(700), Some(800), 800);
        check(None, Some(700), Some(5000), 1000);
    }

    fn needed(holds: &Holds, matched: u64, now: Instant) -> Option<u64> {
        holds.needed_after(Some(|_| matched), 500, now)
    }

    #[test]
    fn what_a_member_needs_is_held_until_it_has_caught_up() {
        let (holds, start) = (Holds::default(), clock::now());
        let sending = holds.begin(2, 100);
        let later = start + HOLD_PATIENCE * 10;
        assert_eq!(needed(&holds, 0, later), Some(100), "a snapshot takes as long as it takes");
        sending.arrived();
        let now = clock::now();
        assert_eq!(needed(&holds, 100, now), Some(100));
        assert_eq!(needed(&holds, 400, now), Some(400));
        assert_eq!(needed(&holds, 400, now + HOLD_PATIENCE / 2), Some(400));
        assert_eq!(needed(&holds, 500, now), None);
        assert_eq!(needed(&holds, 0, now), None);
    }

    #[test]
    fn nobody_is_waited_for_who_gets_nowhere() {
        let holds = Holds::default();
        drop(holds.begin(2, 100));
        assert_eq!(needed(&holds, 0, clock::now()), None, "it never arrived");
        holds.begin(2, 100).arrived();
        let now = clock::now();
        assert_eq!(needed(&holds, 100, now), Some(100));
        assert_eq!(needed(&holds, 100, now + HOLD_PATIENCE), None, "it stands still");
        holds.begin(2, 100).arrived();
        assert_eq!(holds.needed_after(None::<fn(NodeId) -> u64>, 500, now), None, "somebody else leads");
        // the second of two that need something
        let (first, _second) = (holds.begin(2, 100), holds.begin(3, 300));
        assert_eq!(needed(&holds, 0, now), Some(100));
        drop(first);
        assert_eq!(needed(&holds, 0, now), Some(300));
    }
}
