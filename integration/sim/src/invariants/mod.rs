//! What must hold whatever happens: one rule a file, each a pure function of the events.

use trierarch_raft::NodeId;

use crate::event::Event;

mod applied_once;
mod backups;
mod committed_entries;
mod durable_writes;
mod equal_state;
mod failed_disk;
mod fences;
mod full_disk;
pub mod history;
mod linearizable;
mod log_matching;
mod lost_writes;
mod one_leader;
mod one_vote;
mod orderly_stops;
mod refused_writes;
mod revisions;
mod watches;

use history::{History, Lost};

/// A rule.
pub trait Invariant: Send {
    /// What to call it.
    fn name(&self) -> &'static str;

    /// Looks at the next event; `history` contains it already.
    ///
    /// # Errors
    /// How the rule is broken.
    fn see(&mut self, event: &Event, history: &History) -> Result<(), String>;

    /// Looks at what the group has gone on without; `history` contains what came instead.
    ///
    /// # Errors
    /// How the rule is broken.
    fn lose(&mut self, _lost: &Lost, _history: &History) -> Result<(), String> {
        Ok(())
    }

    /// Looks at the end, when `members` have had time to agree.
    ///
    /// # Errors
    /// How the rule is broken.
    fn end(&mut self, _history: &History, _members: &[NodeId]) -> Result<(), String> {
        Ok(())
    }
}

/// All rules, and the history that they share.
pub struct Invariants {
    history: History,
    rules: Vec<Box<dyn Invariant>>,
}

impl Default for Invariants {
    fn default() -> Self {
        let rules: Vec<Box<dyn Invariant>> = vec![
            Box::new(one_vote::OneVote::default()),
            Box::new(one_leader::OneLeader::default()),
            Box::new(log_matching::LogMatching::default()),
            Box::new(committed_entries::CommittedEntries),
            Box::new(revisions::Revisions::default()),
            Box::new(equal_state::EqualState::default()),
            Box::new(applied_once::AppliedOnce::default()),
            Box::new(fences::Fences),
            Box::new(durable_writes::DurableWrites::default()),
            Box::new(refused_writes::RefusedWrites::default()),
            Box::new(linearizable::Linearizable::default()),
            Box::new(watches::Watches::default()),
            Box::new(failed_disk::FailedDisk::default()),
            Box::new(full_disk::FullDisk::default()),
            Box::new(lost_writes::LostWrites::default()),
            Box::new(orderly_stops::OrderlyStops::default()),
            Box::new(backups::Backups::default()),
        ];
        Self { history: History::default(), rules }
    }
}

impl Invariants {
    /// Looks at the next event.
    ///
    /// # Errors
    /// Which rule is broken, and how.
    pub fn see(&mut self, now_ms: u64, event: &Event) -> Result<(), String> {
        if let Some(lost) = self.history.see(now_ms, event)? {
            for rule in &mut self.rules {
                rule.lose(&lost, &self.history).map_err(|how| format!("{}: {how}", rule.name()))?;
            }
        }
        for rule in &mut self.rules {
            rule.see(event, &self.history).map_err(|how| format!("{}: {how}", rule.name()))?;
        }
        Ok(())
    }

    /// Looks at the end.
    ///
    /// # Errors
    /// As [`Invariants::see`].
    pub fn end(&mut self, members: &[NodeId]) -> Result<(), String> {
        for rule in &mut self.rules {
            rule.end(&self.history, members).map_err(|how| format!("{}: {how}", rule.name()))?;
        }
        Ok(())
    }

    /// What has happened.
    pub fn history(&self) -> &History {
        &self.history
    }
}
