//! Beginning and ending experiments on an open member.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{ExperimentError, Experiments, Fault, FaultKind, Timers, TimersChange, TimersInForce};
use crate::clock;
use crate::core::Core;
use crate::happenings::Event;
use crate::store::StoreConfig;

/// What callers are told of a member that stands still.
pub(crate) const PAUSED: &str = "this member is paused by an experiment";
/// Why most experiments end.
const TIME_OVER: &str = "its time is over";

impl Core {
    /// The experiments on this member.
    pub(crate) fn experiments(&self) -> Experiments {
        Experiments { faults: self.faults().shown(), timers: self.seat.timers_in_force() }
    }

    /// Lets a fault begin, which ends by itself.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`], [`ExperimentError::TooMany`].
    pub(crate) fn begin_fault(self: &Arc<Self>, fault: Fault, by: &str) -> Result<Fault, ExperimentError> {
        let (metrics, own_id) = (self.metrics(), self.config.node_id);
        let peers: BTreeSet<_> = metrics.membership_config.nodes().map(|(id, _)| *id).filter(|id| *id != own_id).collect();
        let fault = fault.checked(own_id, &peers).map_err(ExperimentError::Invalid)?;
        let begun = self.faults().begin(fault).ok_or(ExperimentError::TooMany)?;
        tracing::warn!(user = by, fault = %begun, for_ms = begun.for_ms, "An experiment began");
        self.config.environment.tell(metrics.current_term, || Event::FaultBegan { fault: begun.clone(), by: by.to_owned() });
        if begun.kind == FaultKind::Pause {
            self.tick_unless_paused();
        }
        let (core, id, lasts) = (Arc::clone(self), begun.id.unwrap_or_default(), Duration::from_millis(begun.for_ms));
        tokio::spawn(async move {
            let why = tokio::select! {
                () = tokio::time::sleep(lasts) => TIME_OVER,
                // whoever waits for the end of a pause must not wait for ever
                () = core.closing.cancelled() => "the member closes",
            };
            // somebody may have ended it before
            core.end_one(id, why);
        });
        Ok(begun)
    }

    /// Ends a fault before its time.
    ///
    /// # Errors
    /// [`ExperimentError::NotFound`]: it may have ended.
    pub(crate) fn end_fault(&self, id: u64, by: &str) -> Result<Fault, ExperimentError> {
        self.end_one(id, &format!("ended by {by}")).ok_or(ExperimentError::NotFound(id))
    }

    /// Ends all faults before their time: those that there were.
    pub(crate) fn end_faults(&self, by: &str) -> Vec<Fault> {
        let why = format!("ended by {by}");
        self.faults().shown().into_iter().filter_map(|fault| self.end_one(fault.id?, &why)).collect()
    }

    fn end_one(&self, id: u64, why: &str) -> Option<Fault> {
        let ended = self.faults().end(id)?;
        tracing::warn!(fault = %ended, why, "An experiment ended");
        if ended.kind == FaultKind::Pause {
            self.tick_unless_paused();
        }
        let term = self.metrics().current_term;
        self.config.environment.tell(term, || Event::FaultEnded { fault: ended.clone(), why: why.to_owned() });
        Some(ended)
    }

    /// Has raft go on with other timers for a while.
    ///
    /// # Errors
    /// [`ExperimentError::Invalid`], and what keeps raft from going on.
    pub(crate) async fn change_timers(self: &Arc<Self>, change: TimersChange, by: &str) -> Result<TimersInForce, ExperimentError> {
        let timers = change.checked(self.config.timers()).map_err(ExperimentError::Invalid)?;
        let lasts = Duration::from_millis(change.for_ms);
        let mut turn = self.seat.turn.lock().await;
        self.go_on_with(timers, Some(clock::now() + lasts)).await?;
        *turn += 1;
        let generation = *turn;
        drop(turn);
        self.tell_timers(timers, by);
        let core = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(lasts) => {}
                () = core.closing.cancelled() => return,
            }
            let turn = core.seat.turn.lock().await;
            // a later change has an end of its own
            if *turn != generation {
                return;
            }
            let configured = core.config.timers();
            match core.go_on_with(configured, None).await {
                Ok(()) => core.tell_timers(configured, TIME_OVER),
                Err(error) => tracing::error!(%error, "Could not bring the configured timers back"),
            }
        });
        Ok(self.seat.timers_in_force())
    }

    fn tell_timers(&self, timers: Timers, why: &str) {
        tracing::warn!(?timers, why, "Timers have changed");
        let term = self.metrics().current_term;
        self.config.environment.tell(term, || Event::TimersChanged { timers, why: why.to_owned() });
    }
}

impl StoreConfig {
    /// The timers that a member begins with, and comes back to.
    pub(crate) fn timers(&self) -> Timers {
        Timers {
            heartbeat_ms: super::millis(self.heartbeat),
            election_min_ms: super::millis(self.election_min),
            election_max_ms: super::millis(self.election_max),
            pre_vote: self.pre_vote,
        }
    }
}
