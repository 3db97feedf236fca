//! When raft's clock ticks. A tick is a look at raft's timers: is a heartbeat due, is the leader silent for too long? Raft would look five times per
//! heartbeat, and each time wake a process that has nothing to do.
//!
//! So the clock of a member that hears its leader rests until an election is possible at all, and a leader's rests, too: it is told when
//! a heartbeat is due. Neither changes when anything happens, but that heartbeats are on time instead of up to a tick late.
//!
//! A member that wakes up much too late has not been listening: its machine stood still, or gave its cores to others, and what its leader said
//! meanwhile may be waiting for it. So it listens for the time of a heartbeat before its clock ticks, once.

use std::sync::Arc;
use std::time::Duration;

use crate::alarm::Alarm;
use crate::clock;
use crate::core::Core;
use crate::experiment::Timers;

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
/// comes. No election begins before the shortest time-out has passed in silence, whatever is left of the leader's lease.
fn step(leads: bool, silence: Duration, late: Duration, timers: Timers) -> (Act, Duration) {
    let heartbeat = Duration::from_millis(timers.heartbeat_ms);
    let rest = Duration::from_millis(timers.election_min_ms).saturating_sub(silence);
    match (leads, rest.is_zero()) {
        (true, _) => (Act::Beat, heartbeat),
        (false, false) => (Act::Rest, rest),
        (false, true) if late >= heartbeat / 2 => (Act::Listen, heartbeat),
        (false, true) => (Act::Tick, heartbeat),
    }
}

/// Has raft's clock tick, or gives the beat, as it is needed, until the store closes.
pub(crate) async fn keep_time(core: Arc<Core>) {
    let mut leadership = core.leadership.clone();
    let alarm = Alarm::new(&core.config.environment);
    let mut late = Duration::ZERO;
    loop {
        let leader = leadership.borrow_and_update().leader;
        // whom a member without a leader heard last is no sign of one
        let silence = if leader.is_some() { clock::since(*core.heard.lock()) } else { Duration::MAX };
        let (act, pause) = step(leader == Some(core.config.node_id), silence, late, core.seat.timers());
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

#[cfg(test)]
mod tests {
    use super::*;

    const TIMERS: Timers = Timers { heartbeat_ms: 100, election_min_ms: 150, election_max_ms: 300, pre_vote: true };

    fn check(leads: bool, silence_ms: u64, late_ms: u64, act: Act, pause_ms: u64) {
        let found = step(leads, Duration::from_millis(silence_ms), Duration::from_millis(late_ms), TIMERS);
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
}
