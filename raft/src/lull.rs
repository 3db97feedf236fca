//! While nothing is written, a leader speaks less often, and the others wait longer for it, by as much. Pure.
//!
//! Each member sees for itself whether anything is written: by its log, and a leader by what its peers have. So nobody has to be told. They need not agree on when a
//! lull begins or ends, as those who wait go on for as long as a leader may take to notice its end.
//! `docs/decisions/0020-fewer-beats-while-nothing-is-written.md` says what it saves and costs.

use std::time::{Duration, Instant};

use crate::experiment::Timers;
use crate::records::LogIdRecord;

/// Nothing was written for so many intervals of heartbeats: a lull has begun.
const QUIET_HEARTBEATS: u32 = 10;
/// A leader's heartbeats are so much further apart in a lull.
const SELDOM: u32 = 5;
/// So many may get lost, or be late, before the leader counts as silent, whatever the time between them.
const SPARE_HEARTBEATS: u32 = 2;

/// What tells a member that something is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The last entry in its log.
    pub(crate) last: Option<LogIdRecord>,
    /// The entries that a leader's peers have, in all: to those who catch up, something is written.
    pub(crate) on_peers: u64,
}

/// Whether anything is written, as a member sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Something is, or was just now.
    Busy,
    /// Something is, for the first time after a lull. A leader may not have seen it yet.
    Stirring,
    /// A lull lasts.
    Quiet,
}

/// When a member last saw that something was written.
#[derive(Debug)]
pub(crate) struct Lull {
    written: Written,
    changed: Option<Instant>,
    ended: Option<Instant>,
}

impl Lull {
    /// A lull that lasts until something is written. A member that was just started knows of nothing, and may be late.
    pub(crate) fn new(written: Written) -> Self {
        Self { written, changed: None, ended: None }
    }

    /// Whether anything is written, now that so much is.
    pub(crate) fn look(&mut self, written: Written, now: Instant, timers: Timers) -> Activity {
        let since = |then: Instant| now.saturating_duration_since(then);
        let was_quiet = self.changed.is_none_or(|changed| since(changed) >= heartbeat(timers) * QUIET_HEARTBEATS);
        if self.written == written && was_quiet {
            return Activity::Quiet;
        }
        if self.written != written {
            (self.written, self.changed) = (written, Some(now));
            self.ended = if was_quiet { Some(now) } else { self.ended };
        }
        let may_be_unseen = self.ended.is_some_and(|ended| since(ended) < missed_after(timers, Activity::Quiet));
        if may_be_unseen { Activity::Stirring } else { Activity::Busy }
    }
}

/// How often a leader speaks.
pub(crate) fn beat(timers: Timers, activity: Activity) -> Duration {
    match activity {
        Activity::Busy | Activity::Stirring => heartbeat(timers),
        Activity::Quiet => heartbeat(timers) * SELDOM,
    }
}

/// After how long a silence a leader, or a follower, is one that was missed.
pub(crate) fn missed_after(timers: Timers, activity: Activity) -> Duration {
    longest_beat(timers, activity) + heartbeat(timers) * SPARE_HEARTBEATS
}

/// Whether a member that knew `silence` ago that its leader lives refuses all candidates for its sake. Otherwise raft's lease says so, which may end
/// before a leader in a lull speaks again.
pub(crate) fn counts_on_leader(silence: Duration, timers: Timers, activity: Activity) -> bool {
    activity != Activity::Busy && silence < missed_after(timers, activity)
}

/// After how long a silence of its leader raft's clock may tick. In a lull, that is when a member that drew this time-out would stand, and
/// then as much later as the leader may speak later: what may get lost, or be late, is the same. Otherwise raft itself counts from its shortest time-out.
pub(crate) fn patience(timers: Timers, drawn_in_lull: Option<Duration>) -> Duration {
    match drawn_in_lull {
        Some(drawn) => lease(timers) + drawn + beat(timers, Activity::Quiet).saturating_sub(heartbeat(timers)),
        None => Duration::from_millis(timers.election_min_ms),
    }
}

/// How far apart two heartbeats of a leader may be that sees as little as this member.
fn longest_beat(timers: Timers, activity: Activity) -> Duration {
    match activity {
        Activity::Busy => heartbeat(timers),
        Activity::Stirring | Activity::Quiet => beat(timers, Activity::Quiet),
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

    fn written(index: u64, on_peers: u64) -> Written {
        Written { last: (index > 0).then_some(LogIdRecord { term: 1, index }), on_peers }
    }

    #[test]
    fn a_lull_begins_a_while_after_an_entry_and_ends_with_the_next_one() {
        let begun = clock::now();
        let mut lull = Lull::new(written(0, 0));
        let mut check = |after_ms: u64, index: u64, on_peers: u64, expected: Activity| {
            let activity = lull.look(written(index, on_peers), begun + ms(after_ms), TIMERS);
            assert_eq!(activity, expected, "entry {index}, {on_peers} on peers, after {after_ms} ms");
        };
        check(0, 0, 0, Activity::Quiet);
        check(9, 0, 0, Activity::Quiet);
        // a leader may see it 500 ms later, and its next heartbeat may be late
        check(1000, 7, 0, Activity::Stirring);
        check(1699, 8, 0, Activity::Stirring);
        check(1700, 8, 0, Activity::Busy);
        check(2698, 8, 0, Activity::Busy);
        check(2699, 8, 0, Activity::Quiet);
        check(9000, 8, 0, Activity::Quiet);
        // what a new leader takes back is written as well, and so is what a peer was given that had been away
        check(9001, 6, 0, Activity::Stirring);
        check(9801, 6, 0, Activity::Busy);
        check(9901, 6, 3, Activity::Busy);
        check(10_900, 6, 3, Activity::Busy);
        check(10_901, 6, 3, Activity::Quiet);
    }

    #[test]
    fn the_usual_timers() {
        let all = |what: fn(Timers, Activity) -> Duration| {
            [Activity::Busy, Activity::Stirring, Activity::Quiet].map(|activity| what(TIMERS, activity))
        };
        assert_eq!(all(beat), [ms(100), ms(100), ms(500)]);
        assert_eq!(all(missed_after), [ms(300), ms(700), ms(700)]);
        assert_eq!(patience(TIMERS, None), ms(150));
        assert_eq!((patience(TIMERS, Some(ms(150))), patience(TIMERS, Some(ms(299)))), (ms(850), ms(999)));
    }

    #[test]
    fn a_member_counts_on_a_leader_that_may_speak_seldom_for_longer_than_raft_does() {
        let check =
            |silence_ms, activity, expected| assert_eq!(counts_on_leader(ms(silence_ms), TIMERS, activity), expected, "{activity:?}");
        check(0, Activity::Busy, false);
        check(699, Activity::Stirring, true);
        check(699, Activity::Quiet, true);
        check(700, Activity::Quiet, false);
    }

    proptest! {
        /// In a lull nobody stands earlier than usual after the beat that it misses, with any timers that raft takes.
        #[test]
        fn a_lull_takes_no_margin_away(timers in timers(), drawn in 0_u64..2000) {
            let drawn = ms((timers.election_min_ms + drawn).min(timers.election_max_ms));
            let rare = beat(timers, Activity::Quiet);
            let usual = lease(timers) + drawn - heartbeat(timers);
            prop_assert_eq!(patience(timers, Some(drawn)) - rare, usual);
        }

        /// A follower that counts as usual hears as usual, whenever something is written and whenever it looks at its log besides. The leader looks at its own
        /// when it speaks; what it says and writes arrives `delay` later.
        #[test]
        fn nobody_is_impatient_with_a_leader_that_has_not_seen_the_end_of_a_lull(
            timers in timers(),
            delay in 0_u64..500,
            writes in prop::collection::vec(0_u64..100_000, 1..9),
            looks in prop::collection::vec(0_u64..100_000, 0..50),
        ) {
            let begun = clock::now();
            let written_by = |at: u64| written(writes.iter().filter(|written| **written <= at).count() as u64, 0);
            let mut leader = Lull::new(written(0, 0));
            let (mut at, mut beats) = (0, Vec::new());
            while at < 100_000 {
                let pause = beat(timers, leader.look(written_by(at), begun + ms(at), timers));
                beats.push((at + delay, pause));
                at += crate::experiment::millis(pause);
            }
            let looks_at_beats = beats.iter().flat_map(|(heard, _)| [*heard, heard + timers.election_min_ms]);
            let mut looks: Vec<u64> = looks_at_beats.chain(looks.iter().map(|at| at + delay)).collect();
            looks.sort_unstable();
            let mut follower = Lull::new(written(0, 0));
            for at in looks {
                let activity = follower.look(written_by(at - delay), begun + ms(at), timers);
                let (heard, pause) = beats[beats.partition_point(|(heard, _)| *heard <= at) - 1];
                if activity == Activity::Busy && at >= heard + timers.election_min_ms {
                    prop_assert_eq!(pause, heartbeat(timers), "at {} ms", at);
                }
            }
        }
    }

    /// Any that raft takes.
    fn timers() -> impl Strategy<Value = Timers> {
        (5_u64..2000, 1_u64..2000, 1_u64..2000).prop_map(|(heartbeat_ms, above, range)| Timers {
            heartbeat_ms,
            election_min_ms: heartbeat_ms + above,
            election_max_ms: heartbeat_ms + above + range,
            pre_vote: true,
        })
    }
}
