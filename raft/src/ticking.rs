//! When raft's clock ticks. A tick is a look at raft's timers: is a heartbeat due, is the leader silent for too long? Raft would look five times per
//! heartbeat, and each time wake a process that has nothing to do.
//!
//! So the clock of a member that hears its leader rests until an election is possible at all, and a leader's rests, too: it is told when
//! a heartbeat is due. Neither changes when anything happens, but that heartbeats are on time instead of up to a tick late.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::core::Core;
use crate::experiment::Timers;

/// What is to be done now, and until when that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    /// Raft looks at its timers.
    ticks: bool,
    /// A heartbeat is due.
    beats: bool,
    /// The next step comes so much later.
    pause: Duration,
}

/// The next step of a member that leads, or last heard a leader `silence` ago. No election begins before the shortest time-out has passed in silence,
/// whatever is left of the leader's lease.
fn step(leads: bool, silence: Duration, timers: Timers) -> Step {
    let heartbeat = Duration::from_millis(timers.heartbeat_ms);
    let rest = Duration::from_millis(timers.election_min_ms).saturating_sub(silence);
    match (leads, rest.is_zero()) {
        (true, _) => Step { ticks: false, beats: true, pause: heartbeat },
        (false, true) => Step { ticks: true, beats: false, pause: heartbeat },
        (false, false) => Step { ticks: false, beats: false, pause: rest },
    }
}

/// Has raft's clock tick, or gives the beat, as it is needed, until the store closes.
pub(crate) async fn keep_time(core: Arc<Core>) {
    let mut leadership = core.leadership.clone();
    loop {
        let leader = leadership.borrow_and_update().leader;
        // whom a member without a leader heard last is no sign of one
        let silence = if leader.is_some() { clock::since(*core.heard.lock()) } else { Duration::MAX };
        let step = step(leader == Some(core.config.node_id), silence, core.seat.timers());
        core.let_tick(step.ticks);
        if step.beats && !core.faults().is_paused() {
            // between two cores of raft nobody leads
            drop(core.raft().trigger().heartbeat().await);
        }
        tokio::select! {
            () = tokio::time::sleep(step.pause) => {}
            changed = leadership.changed() => if changed.is_err() {
                return;
            },
            () = core.closing.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMERS: Timers = Timers { heartbeat_ms: 100, election_min_ms: 150, election_max_ms: 300, pre_vote: true };

    fn check(leads: bool, silence_ms: u64, ticks: bool, beats: bool, pause_ms: u64) {
        let expected = Step { ticks, beats, pause: Duration::from_millis(pause_ms) };
        assert_eq!(step(leads, Duration::from_millis(silence_ms), TIMERS), expected, "leads: {leads}, silence: {silence_ms} ms");
    }

    #[test]
    fn a_clock_rests_while_nothing_can_be_due() {
        check(false, 0, false, false, 150);
        check(false, 100, false, false, 50);
        check(false, 149, false, false, 1);
        check(false, 150, true, false, 100);
        check(false, 10_000, true, false, 100);
    }

    #[test]
    fn a_leader_gives_the_beat_itself() {
        check(true, 0, false, true, 100);
        check(true, 10_000, false, true, 100);
    }
}
