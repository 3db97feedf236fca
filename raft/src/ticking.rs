//! When raft's clock ticks. A tick is a look at raft's timers: is a heartbeat due, is the leader silent for too long? Raft would look five times per
//! heartbeat, and each time wake a process that has nothing to do.
//!
//! So the clock of a member that hears its leader rests until an election is possible at all, and a leader's rests, too: it is told when
//! a heartbeat is due. Neither changes when anything happens, but that heartbeats are on time instead of up to a tick late. While nothing is written,
//! both take their time: [`crate::lull`].
//!
//! A member that wakes up much too late has not been listening: its machine stood still, or gave its cores to others, and what its leader said
//! meanwhile may be waiting for it. So it listens for the time of a heartbeat before its clock ticks, once.

use std::sync::Arc;
use std::time::Duration;

use openraft::type_config::alias::AsyncRuntimeOf;

use crate::alarm::Alarm;
use crate::clock;
use crate::core::Core;
use crate::lull::{self, Activity, Lull};
use crate::raft_types::TypeConfig;

/// How often a leader speaks, and for how long its silence is nothing to look at.
#[derive(Clone, Copy, Debug)]
struct Pace {
    heartbeat: Duration,
    beat: Duration,
    patience: Duration,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Nothing can be due.
    Rest,
    /// Something may be due, but this member has not listened.
    Listen,
    /// Raft looks at its timers.
    Tick,
    /// A heartbeat is due.
    Beat,
}

/// The next step of a member that leads, or last heard a leader `silence` ago, and woke up so `late`: what to do, and how much later the one after it
/// comes. No election begins before `patience` has passed in silence, whatever is left of the leader's lease.
fn step(leads: bool, silence: Duration, late: Duration, pace: Pace) -> (Act, Duration) {
    let Pace { heartbeat, beat, patience } = pace;
    let rest = patience.saturating_sub(silence);
    match (leads, rest.is_zero()) {
        (true, _) => (Act::Beat, beat),
        (false, false) => (Act::Rest, rest),
        (false, true) if late >= heartbeat / 2 => (Act::Listen, beat),
        (false, true) => (Act::Tick, heartbeat),
    }
}

/// Has raft's clock tick, or gives the beat, as it is needed, until the store closes.
pub(crate) async fn keep_time(core: Arc<Core>) {
    let mut leadership = core.leadership.clone();
    let alarm = Alarm::new(&core.config.environment);
    let mut late = Duration::ZERO;
    let mut lull = Lull::new(core.written());
    let mut drawn_in_lull = None;
    loop {
        let leader = leadership.borrow_and_update().leader;
        // whom a member without a leader heard last is no sign of one
        let silence = if leader.is_some() { clock::since(*core.heard.lock()) } else { Duration::MAX };
        let timers = core.seat.timers();
        let activity = lull.look(core.written(), clock::now(), timers);
        *core.activity.lock() = activity;
        drawn_in_lull = (activity != Activity::Busy).then(|| drawn_in_lull.unwrap_or_else(|| draw_time_out(&core)));
        let pace = Pace {
            heartbeat: lull::beat(timers, Activity::Busy),
            beat: lull::beat(timers, activity),
            patience: lull::patience(timers, drawn_in_lull),
        };
        let (act, pause) = step(leader == Some(core.config.node_id), silence, late, pace);
        core.let_tick(act == Act::Tick);
        if act == Act::Beat && !core.faults().is_paused() {
            // between two cores of raft nobody leads
            drop(core.raft().trigger().heartbeat().await);
        }
        let begun = clock::now();
        tokio::select! {
            () = alarm.after(pause) => {}
            // the rest begins anew, so that its end wakes nobody up while the leader speaks; a leader does not beat for one that was deposed
            () = core.beat.notified(), if act != Act::Beat => {}
            changed = leadership.changed() => if changed.is_err() {
                return;
            },
            () = core.closing.cancelled() => return,
        }
        // never twice in a row: a machine may be slow for ever
        late = if act == Act::Listen { Duration::ZERO } else { clock::since(begun).saturating_sub(pause) };
    }
}

/// A random time-out between raft's bounds.
fn draw_time_out(core: &Core) -> Duration {
    Duration::from_millis(core.raft().config().new_rand_election_timeout::<AsyncRuntimeOf<TypeConfig>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Pace = pace(100, 150);
    const IN_LULL: Pace = pace(500, 870);

    const fn pace(beat_ms: u64, patience_ms: u64) -> Pace {
        let [heartbeat, beat, patience] = [Duration::from_millis(100), Duration::from_millis(beat_ms), Duration::from_millis(patience_ms)];
        Pace { heartbeat, beat, patience }
    }

    fn check(leads: bool, silence_ms: u64, late_ms: u64, act: Act, pause_ms: u64) {
        check_at(USUAL, leads, silence_ms, late_ms, act, pause_ms);
    }

    fn check_at(pace: Pace, leads: bool, silence_ms: u64, late_ms: u64, act: Act, pause_ms: u64) {
        let found = step(leads, Duration::from_millis(silence_ms), Duration::from_millis(late_ms), pace);
        assert_eq!(found, (act, Duration::from_millis(pause_ms)), "leads: {leads}, silence: {silence_ms} ms, late: {late_ms} ms");
    }

    #[test]
    fn a_clock_rests_while_nothing_can_be_due() {
        check(false, 0, 0, Act::Rest, 150);
        check(false, 100, 0, Act::Rest, 50);
        check(false, 149, 0, Act::Rest, 1);
        check(false, 150, 0, Act::Tick, 100);
        check(false, 10_000, 0, Act::Tick, 100);
    }

    #[test]
    fn whoever_wakes_up_late_listens_first() {
        check(false, 900, 750, Act::Listen, 100);
        check(false, 200, 50, Act::Listen, 100);
        check(false, 900, 49, Act::Tick, 100);
        check(false, 100, 750, Act::Rest, 50);
    }

    #[test]
    fn a_leader_gives_the_beat_itself() {
        check(true, 0, 0, Act::Beat, 100);
        check(true, 10_000, 0, Act::Beat, 100);
        check(true, 10_000, 9_000, Act::Beat, 100);
    }
    #[test]
    fn in_a_lull_everybody_takes_their_time_but_one_who_looks_at_its_timers() {
        check_at(IN_LULL, true, 0, 0, Act::Beat, 500);
        check_at(IN_LULL, false, 150, 0, Act::Rest, 720);
        check_at(IN_LULL, false, 869, 0, Act::Rest, 1);
        check_at(IN_LULL, false, 870, 0, Act::Tick, 100);
        // the next beat may be as far away
        check_at(IN_LULL, false, 870, 50, Act::Listen, 500);
    }
}
