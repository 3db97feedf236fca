//! Raft's core on this member. It can be taken out and put in again with other timers, which openraft cannot change while it runs; the log,
//! the state, readers and connections stay.
//!
//! For the group this is a member that was started again, only in milliseconds and without having lost anything: whatever was in flight
//! ends as it does when a leader dies, and is retried by the same rules. A leader hands leadership over before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver as _;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{OptionalSend, OptionalSync, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::clock;
use crate::core::Core;
use crate::experiment::{Timers, TimersInForce, millis};
use crate::log_store::LogStore;
use crate::lull::{self, Activity};
use crate::network::client::ClientFactory;
use crate::raft_types::{Metrics, Raft, ServerMetrics, TypeConfig};
use crate::state_machine::StateMachine;
use crate::store::{StoreConfig, StoreError};

/// How many entries one append request holds at most.
const APPEND_ENTRIES_MAX: u64 = 1024;
/// How long the old core may take to let go of the state.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where raft's core sits.
pub(crate) struct Seat {
    raft: watch::Sender<Raft>,
    /// Set between two cores.
    is_vacant: AtomicBool,
    /// What an old core lets go of.
    state_machine: Mutex<oneshot::Receiver<StateMachine>>,
    core_applied: watch::Sender<Option<u64>>,
    snapshot: watch::Sender<u64>,
    timers: Mutex<(Timers, Option<Instant>)>,
    /// Raft has to look at its timers; [`crate::ticking`] says when.
    ticks: AtomicBool,
    /// Held by whoever exchanges the core, or closes the member.
    pub(crate) turn: tokio::sync::Mutex<u64>,
}

impl Seat {
    /// The seat of a member's first core.
    pub(crate) fn new(
        raft: Raft,
        timers: Timers,
        state_machine: oneshot::Receiver<StateMachine>,
        core_applied: watch::Sender<Option<u64>>,
    ) -> Self {
        Self {
            raft: watch::Sender::new(raft),
            is_vacant: AtomicBool::new(false),
            state_machine: Mutex::new(state_machine),
            core_applied,
            snapshot: watch::Sender::new(0),
            timers: Mutex::new((timers, None)),
            ticks: AtomicBool::new(true),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Raft, as it is at the moment.
    pub(crate) fn raft(&self) -> Raft {
        self.raft.borrow().clone()
    }

    /// Raft's account of itself, over all cores to come.
    pub(crate) fn account(self: &Arc<Self>) -> Account<Metrics> {
        self.account_of(Raft::metrics)
    }

    /// As [`Seat::account`], of nothing but roles and members: entries and heartbeats are no news there.
    pub(crate) fn account_of_members(self: &Arc<Self>) -> Account<ServerMetrics> {
        self.account_of(Raft::server_metrics)
    }

    fn account_of<T: OptionalSend + OptionalSync>(self: &Arc<Self>, ask: fn(&Raft) -> WatchReceiverOf<TypeConfig, T>) -> Account<T> {
        let mut rafts = self.raft.subscribe();
        let told = ask(&rafts.borrow_and_update());
        Account { seat: Arc::clone(self), rafts, ask, told }
    }

    /// The timers in force.
    pub(crate) fn timers(&self) -> Timers {
        self.timers.lock().0
    }

    /// The timers in force, and how long they are.
    pub(crate) fn timers_in_force(&self) -> TimersInForce {
        let (timers, ends) = *self.timers.lock();
        let left = ends.map(|ends| ends.saturating_duration_since(clock::now()));
        TimersInForce { timers, ends_in_ms: left.map(millis) }
    }

    /// Says what the core knows to be applied, and to be in a snapshot.
    pub(crate) fn note_applied(&self, index: u64, snapshot: u64) {
        self.core_applied.send_replace(Some(index));
        self.snapshot.send_if_modified(|known| std::mem::replace(known, snapshot) != snapshot);
    }

    /// Follows up to which entry the core has a snapshot.
    pub(crate) fn snapshot(&self) -> watch::Receiver<u64> {
        self.snapshot.subscribe()
    }

    /// Whether raft's clock ticks.
    #[cfg(test)]
    pub(crate) fn ticks(&self) -> bool {
        self.ticks.load(Ordering::Relaxed)
    }

    fn is_vacant(&self) -> bool {
        self.is_vacant.load(Ordering::Acquire)
    }
}

/// Raft's account of itself, or of a part. It goes on when the core is exchanged.
pub(crate) struct Account<T: OptionalSend + OptionalSync> {
    seat: Arc<Seat>,
    rafts: watch::Receiver<Raft>,
    ask: fn(&Raft) -> WatchReceiverOf<TypeConfig, T>,
    told: WatchReceiverOf<TypeConfig, T>,
}

impl<T: OptionalSend + OptionalSync> Account<T> {
    /// Looks at it as it is.
    pub(crate) fn look<U>(&mut self, look: impl FnOnce(&T) -> U) -> U {
        look(&self.told.borrow_watched())
    }

    /// Returns when it has changed; `false` when raft has ended for good.
    pub(crate) async fn changed(&mut self) -> bool {
        self.told.changed().await.is_ok() || self.succeeded().await
    }

    /// Returns when another core has taken the seat; `false` when none will.
    pub(crate) async fn succeeded(&mut self) -> bool {
        // in this order: a successor sits before the seat counts as taken
        let is_vacant = self.seat.is_vacant();
        if !is_vacant && !self.rafts.has_changed().unwrap_or(false) {
            return false;
        }
        if self.rafts.changed().await.is_err() {
            return false;
        }
        self.told = (self.ask)(&self.rafts.borrow_and_update());
        true
    }
}

impl Core {
    /// Has raft go on with these timers, until `ends`. Returns when they are in force. The caller has the turn.
    ///
    /// # Errors
    /// [`StoreError::Closed`]; [`StoreError::ReadOnly`] when raft had stopped before, or could not be started again.
    pub(crate) async fn go_on_with(self: &Arc<Self>, timers: Timers, ends: Option<Instant>) -> Result<(), StoreError> {
        let before = self.seat.timers();
        if before != (Timers { pre_vote: before.pre_vote, ..timers }) {
            self.exchange(timers).await?;
        }
        self.raft().runtime_config().pre_vote(timers.pre_vote);
        *self.seat.timers.lock() = (timers, ends);
        Ok(())
    }

    async fn exchange(self: &Arc<Self>, timers: Timers) -> Result<(), StoreError> {
        if let Some(reason) = self.read_only.lock().clone() {
            return Err(StoreError::ReadOnly(reason));
        }
        if self.leadership.borrow().leader == Some(self.config.node_id) {
            // without anybody to hand over to, the others elect somebody, as after a crash
            let handed_over = self.transfer_as_leader(None).await;
            tracing::debug!(?handed_over, "Raft is about to be started again with other timers");
        }
        let log = self.log.open().filter(|_| !self.closing.is_cancelled()).ok_or(StoreError::Closed)?;
        self.seat.is_vacant.store(true, Ordering::Release);
        let seated = self.seat_another(timers, log).await;
        match &seated {
            Ok(raft) => {
                self.seat.raft.send_replace(raft.clone());
            }
            Err(reason) => {
                self.read_only.lock().get_or_insert_with(|| reason.clone());
                // whoever waits for a successor learns that there is none
                self.seat.raft.send_modify(|_| {});
            }
        }
        self.seat.is_vacant.store(false, Ordering::Release);
        seated.map_err(StoreError::ReadOnly)?;
        self.tick_unless_paused();
        tokio::spawn(Arc::clone(self).elect_after_listening(timers, clock::now()));
        Ok(())
    }

    /// Ends the core, waits until it has let go of everything, and starts another one, which does not ask for votes yet.
    async fn seat_another(&self, timers: Timers, log: LogStore) -> Result<Raft, String> {
        let failed = |error: &dyn std::fmt::Display| format!("raft could not be started again with other timers: {error}");
        self.raft().shutdown().await.map_err(|error| failed(&error))?;
        let returned = std::mem::replace(&mut *self.seat.state_machine.lock(), oneshot::channel().1);
        let returned = tokio::time::timeout(PATIENCE, returned).await.map_err(|_elapsed| failed(&"the state is still in use"))?;
        let (state_machine, next) = returned.map_err(|error| failed(&error))?.lend();
        // the next core takes everything in the log for durable
        log.settle().await.map_err(|error| failed(&error))?;
        self.seat.core_applied.send_replace(None);
        *self.seat.state_machine.lock() = next;
        let config = raft_config(&self.config, timers, false).map_err(|error| failed(&error))?;
        let factory = ClientFactory { peers: Arc::clone(&self.peers) };
        Raft::new(self.config.node_id, Arc::new(config), factory, log, state_machine).await.map_err(|error| failed(&error))
    }

    /// A core that was started knows of no lease: without listening first, it would stand against a living leader.
    async fn elect_after_listening(self: Arc<Self>, timers: Timers, since: Instant) {
        let heartbeat = Duration::from_millis(timers.heartbeat_ms);
        let patience = Duration::from_millis(timers.election_max_ms * 2).max(lull::missed_after(timers, Activity::Quiet));
        let is_alone = self.metrics().membership_config.membership().voter_ids().all(|id| id == self.config.node_id);
        let hearing = async {
            while !is_alone && *self.heard.lock() <= since {
                tokio::time::sleep(heartbeat).await;
            }
        };
        tokio::select! {
            _heard = tokio::time::timeout(patience, hearing) => {}
            () = self.closing.cancelled() => return,
        }
        self.let_elect();
    }

    /// Lets raft ask for votes, as far as this member's doubt allows.
    pub(crate) fn let_elect(&self) {
        let may_stand = self.suffrage.lock().allows(self.log.last());
        self.raft().runtime_config().elect(may_stand);
    }

    /// Raft's clock stands still while the member does.
    pub(crate) fn tick_unless_paused(&self) {
        // two that come at once must not undo each other
        let _timers = self.seat.timers.lock();
        let ticks = self.seat.ticks.load(Ordering::Relaxed) && !self.faults().is_paused();
        self.raft().runtime_config().tick(ticks);
    }

    /// Lets raft's clock tick, or rest.
    pub(crate) fn let_tick(&self, ticks: bool) {
        if self.seat.ticks.swap(ticks, Ordering::Relaxed) != ticks {
            self.tick_unless_paused();
        }
    }
}

/// openraft's view of a member's configuration. `elects`: it may ask for votes at once.
///
/// # Errors
/// The timers contradict each other.
pub(crate) fn raft_config(config: &StoreConfig, timers: Timers, elects: bool) -> Result<openraft::Config, openraft::ConfigError> {
    openraft::Config {
        cluster_name: config.cluster_id.clone(),
        heartbeat_interval: timers.heartbeat_ms,
        election_timeout_min: timers.election_min_ms,
        election_timeout_max: timers.election_max_ms,
        install_snapshot_timeout: 60_000,
        max_payload_entries: APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_after_entries),
        // `purging` decides
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: config.snapshot_after_entries,
        enable_pre_vote: Some(timers.pre_vote),
        enable_leader_restore: Some(false),
        enable_elect: elects,
        // a machine that lost its power has lost volatile entries
        allow_log_reversion: Some(true),
        ..openraft::Config::default()
    }
    .validate()
}
