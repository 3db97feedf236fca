//! The faults of a member as its network, its log and its raft meet them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::table::{Dice, Fate, Table};
use super::{Direction, Fault};
use crate::clock;
use crate::command::NodeId;

/// Shared by all parts of a member.
pub(crate) struct Faults {
    /// How many faults there are and how many messages they still hold back: zero for everybody who does not experiment.
    active: AtomicUsize,
    state: Mutex<State>,
    /// Told when a fault ends, for the thread that syncs the log.
    ended: Condvar,
    paused: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    table: Table,
    /// Made with the first fault: from the machine's entropy, or a simulation's.
    dice: Option<Dice>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            active: AtomicUsize::new(0),
            state: Mutex::new(State { table: Table::default(), dice: None }),
            ended: Condvar::new(),
            paused: watch::Sender::new(false),
        }
    }
}

/// A message that is held back.
pub(super) struct Held(Arc<Faults>);

impl Held {
    pub(super) fn new(faults: &Arc<Faults>) -> Self {
        faults.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(faults))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Faults {
    /// Whether there is anything to ask about.
    pub(crate) fn any(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    /// Lets a checked fault begin; `None` when there are too many. Somebody must end it in its time.
    pub(super) fn begin(&self, fault: Fault) -> Option<Fault> {
        let mut state = self.state.lock();
        let begun = state.table.begin(fault, clock::now())?;
        state.dice.get_or_insert_with(|| Dice::new(uuid::Uuid::new_v4().as_u64_pair().0));
        self.active.fetch_add(1, Ordering::Relaxed);
        self.tell_pause(&state);
        Some(begun)
    }

    /// Ends a fault, if it has not ended.
    pub(super) fn end(&self, id: u64) -> Option<Fault> {
        let mut state = self.state.lock();
        let ended = state.table.end(id)?;
        self.active.fetch_sub(1, Ordering::Relaxed);
        self.tell_pause(&state);
        self.ended.notify_all();
        Some(ended)
    }

    fn tell_pause(&self, state: &State) {
        let now = state.table.paused_until(clock::now()).is_some();
        self.paused.send_if_modified(|paused| std::mem::replace(paused, now) != now);
    }

    /// Those that there are.
    pub(super) fn shown(&self) -> Vec<Fault> {
        self.state.lock().table.shown(clock::now())
    }

    /// Whether the member stands still.
    pub(crate) fn is_paused(&self) -> bool {
        self.any() && *self.paused.borrow()
    }

    /// Returns when the member does not stand still, at once if it does not.
    pub(crate) async fn unpaused(&self) {
        if self.is_paused() {
            // the sender lives as long as this
            drop(self.paused.subscribe().wait_for(|paused| !paused).await);
        }
    }

    /// As [`Faults::unpaused`], but no longer than until `deadline`: whether the member goes on.
    pub(crate) async fn unpaused_before(&self, deadline: Instant) -> bool {
        !self.is_paused() || tokio::time::timeout_at(deadline.into(), self.unpaused()).await.is_ok()
    }

    /// What happens to a message.
    pub(super) fn fate(&self, peer: NodeId, direction: Direction) -> Fate {
        let mut state = self.state.lock();
        let State { table, dice } = &mut *state;
        let Some(dice) = dice else { return Fate::UNTOUCHED };
        table.fate(peer, direction, clock::now(), || dice.throw())
    }

    /// Lets one message of a conversation that has just begun pass: returns when it has arrived, never if it is lost.
    pub(crate) async fn cross(&self, peer: NodeId, direction: Direction) {
        if !self.any() {
            return;
        }
        self.unpaused().await;
        match self.fate(peer, direction) {
            Fate::Lost => std::future::pending().await,
            Fate::Arrives { after, .. } => tokio::time::sleep(after).await,
        }
    }

    /// How much longer a sync of the log takes now.
    pub(crate) fn sync_delay(&self) -> Duration {
        if self.any() { self.state.lock().table.sync_delay(clock::now()) } else { Duration::ZERO }
    }

    /// Blocks for as much longer as a sync of the log takes now; shorter if the fault ends meanwhile.
    pub(crate) fn slow_sync(&self) {
        if !self.any() {
            return;
        }
        let begun = clock::now();
        let mut state = self.state.lock();
        loop {
            let until = begun + state.table.sync_delay(clock::now());
            if until <= clock::now() {
                return;
            }
            self.ended.wait_until(&mut state, until);
        }
    }
}
