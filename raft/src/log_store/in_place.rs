//! Which appends a follower syncs on raft's own thread. Handing a sync to another thread wakes up two, which costs as much as the sync of a
//! fast disk; but whoever syncs in place does nothing else meanwhile. So that is done only by members that nobody waits for longer than for
//! the others, with appends that are small and come alone, and on disks that have been fast lately.
//!
//! A disk that becomes slow holds up such a member once: it answers no heartbeat for as long as that one sync takes, as if it had been
//! paused, and its leader goes on with the others.

use std::time::{Duration, Instant};

/// Appends that come closer together than this share the syncs of the other thread.
const ALONE: Duration = Duration::from_micros(200);
/// What is larger takes a disk longer, while more could be received.
const BYTES_MAX: usize = 4096;
/// A sync that takes longer is a slow one.
const SLOW: Duration = Duration::from_millis(5);
/// After a slow one none is made in place for so long.
const RESPITE: Duration = Duration::from_secs(10);

/// What is known of appends and of the disk.
#[derive(Debug, Default)]
pub(super) struct InPlace {
    last_append: Option<Instant>,
    last_slow: Option<Instant>,
}

impl InPlace {
    /// Notes an append of `bytes`; whether a follower whose other thread is idle syncs it in place.
    pub(super) fn suits(&mut self, bytes: usize, now: Instant) -> bool {
        let longer_ago =
            |before: Option<Instant>, than: Duration| before.is_none_or(|before| now.saturating_duration_since(before) >= than);
        let is_alone = longer_ago(self.last_append.replace(now), ALONE);
        is_alone && bytes <= BYTES_MAX && longer_ago(self.last_slow, RESPITE)
    }

    /// Notes a sync, wherever it was made, that ended `now`.
    pub(super) fn took(&mut self, duration: Duration, now: Instant) {
        if duration > SLOW {
            self.last_slow = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_appends_that_come_alone_suit() {
        let (mut in_place, start) = (InPlace::default(), crate::clock::now());
        assert!(in_place.suits(300, start));
        assert!(in_place.suits(BYTES_MAX, start + ALONE));
        assert!(!in_place.suits(BYTES_MAX + 1, start + ALONE * 2));
        assert!(!in_place.suits(300, start + ALONE * 2 + ALONE / 2));
        assert!(in_place.suits(300, start + ALONE * 4));
    }

    #[test]
    fn a_slow_disk_is_left_alone_for_a_while() {
        let (mut in_place, start) = (InPlace::default(), crate::clock::now());
        in_place.took(SLOW, start);
        assert!(in_place.suits(300, start));
        in_place.took(SLOW * 2, start);
        assert!(!in_place.suits(300, start + RESPITE / 2));
        in_place.took(SLOW / 10, start + RESPITE / 2);
        assert!(in_place.suits(300, start + RESPITE));
    }
}
