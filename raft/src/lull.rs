//! While nothing is written, a leader speaks less often, and its followers wait longer for it, by as much. Pure.
//!
//! Each member sees for itself whether anything is written: by its log. So nobody has to be told, and they need not agree: followers whose
//! lease a leader renews in time do not stand, whichever pace they believe to be in force. The first entry ends it everywhere.
//! `docs/decisions/0020-fewer-beats-while-nothing-is-written.md` says what it saves and costs.

use std::time::{Duration, Instant};

use crate::experiment::Timers;
use crate::records::LogIdRecord;

/// Nothing was written for so many intervals of heartbeats: a lull has begun.
const QUIET_HEARTBEATS: u32 = 10;
/// So many may get lost, or be late, before the leader counts as silent, whatever the time between them.
const SPARE_HEARTBEATS: u32 = 2;

/// What a member knows of the last entry in its log.
#[derive(Debug)]
pub(crate) struct Lull {
    last: Option<LogIdRecord>,
    since: Instant,
}

impl Lull {
    /// Nothing is known yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { last: None, since: now }
    }

    /// Whether a lull lasts, now that the log ends with `last`.
    pub(crate) fn lasts(&mut self, last: Option<LogIdRecord>, now: Instant, timers: Timers) -> bool {
        if self.last != last {
            *self = Self { last, since: now };
        }
        now.saturating_duration_since(self.since) >= heartbeat(timers) * QUIET_HEARTBEATS
    }
}

/// How often a leader speaks. In a lull still before its lease ends, as whoever hears it grants nobody a vote until then.
pub(crate) fn beat(timers: Timers, in_lull: bool) -> Duration {
    let heartbeat = heartbeat(timers);
    if in_lull { (heartbeat * 5 / 2).min(lease(timers) * 5 / 6).max(heartbeat) } else { heartbeat }
}

/// After how long a silence a leader, or a follower, is one that was missed.
pub(crate) fn missed_after(timers: Timers, in_lull: bool) -> Duration {
    beat(timers, in_lull) + heartbeat(timers) * SPARE_HEARTBEATS
}

/// After how long a silence of its leader raft's clock may tick. In a lull, that is when a member that drew this time-out would stand, and
/// then as much later as the leader may speak later: what may get lost, or be late, is the same. Otherwise raft itself counts from its shortest time-out.
pub(crate) fn patience(timers: Timers, drawn_in_lull: Option<Duration>) -> Duration {
    match drawn_in_lull {
        Some(drawn) => lease(timers) + drawn + beat(timers, true).saturating_sub(heartbeat(timers)),
        None => Duration::from_millis(timers.election_min_ms),
    }
}

fn heartbeat(timers: Timers) -> Duration {
    Duration::from_millis(timers.heartbeat_ms)
}

fn lease(timers: Timers) -> Duration {
    Duration::from_millis(timers.election_max_ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    const TIMERS: Timers = Timers { heartbeat_ms: 100, election_min_ms: 150, election_max_ms: 300, pre_vote: true };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_lull_begins_a_while_after_an_entry_and_ends_with_the_next_one() {
        let begun = clock::now();
        let mut lull = Lull::new(begun);
        let mut check = |after_ms: u64, index: u64, expected: bool| {
            let lasts = lull.lasts((index > 0).then_some(LogIdRecord { term: 1, index }), begun + ms(after_ms), TIMERS);
            assert_eq!(lasts, expected, "entry {index} after {after_ms} ms");
        };
        check(999, 0, false);
        check(1000, 0, true);
        check(1001, 7, false);
        check(2000, 7, false);
        check(2001, 7, true);
        check(9000, 7, true);
        // what a new leader takes back is a change as well
        check(9001, 6, false);
    }

    #[test]
    fn the_usual_timers() {
        assert_eq!((beat(TIMERS, false), beat(TIMERS, true)), (ms(100), ms(250)));
        assert_eq!((missed_after(TIMERS, false), missed_after(TIMERS, true)), (ms(300), ms(450)));
        assert_eq!(patience(TIMERS, None), ms(150));
        assert_eq!((patience(TIMERS, Some(ms(150))), patience(TIMERS, Some(ms(299)))), (ms(600), ms(749)));
    }

    proptest! {
        /// In a lull, a leader renews its lease before that ends and nobody stands earlier than usual after the beat that it misses, with any timers that
        /// raft takes.
        #[test]
        fn a_lull_takes_no_margin_away(heartbeat_ms in 5_u64..2000, above in 1_u64..2000, range in 1_u64..2000, drawn in 0_u64..2000) {
            let election_min_ms = heartbeat_ms + above;
            let timers = Timers { heartbeat_ms, election_min_ms, election_max_ms: election_min_ms + range, pre_vote: true };
            let drawn = ms(election_min_ms + drawn.min(range));
            let rare = beat(timers, true);
            prop_assert!(rare >= beat(timers, false) && rare < lease(timers));
            let usual = lease(timers) + drawn - beat(timers, false);
            prop_assert_eq!(patience(timers, Some(drawn)) - rare, usual);
            // one that still counts as if it were none waits for long enough, too
            prop_assert!(lease(timers) + ms(election_min_ms) > rare);
        }
    }
}
