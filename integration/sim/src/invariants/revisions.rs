//! Every transaction that changes something gets the next revision, and no other does; a new term goes on beyond every revision that anybody
//! has ever seen.

use trierarch_raft::{Committed, Revision, Term};

use super::{
    Invariant,
    history::{History, Lost},
};
use crate::event::Event;

/// The rule, and how far it was checked.
#[derive(Default)]
pub(super) struct Revisions {
    index: Option<u64>,
    term: Term,
    revision: Revision,
    /// The greatest that was ever given out, even if it was lost.
    highest: Revision,
}

impl Invariant for Revisions {
    fn name(&self) -> &'static str {
        "revisions increase and are never reused"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        let Event::Applied { term, index, revision, txn, changes, .. } = event else { return Ok(()) };
        // later members repeat what the first one did, and some do not know yet what was lost
        let is_repeated = self.index.is_some_and(|last| *index <= last);
        if is_repeated || history.entry(*index).is_none_or(|entry| entry.term != *term) {
            return Ok(());
        }
        let new_term = *term > self.term && self.term > 0;
        let expected = self.revision + u64::from(!changes.is_empty());
        if !new_term && *revision != expected {
            return Err(format!("after entry {index} the revision is {revision}, expected {expected}"));
        }
        if new_term && *revision <= self.highest {
            return Err(format!("term {term} goes on at revision {revision}, but {} was given out before", self.highest));
        }
        if let Some(wrong) = changes.iter().find(|change| change.revision != *revision) {
            return Err(format!("entry {index} changed {:?} at revision {}, expected {revision}", wrong.key, wrong.revision));
        }
        (self.index, self.term, self.revision) = (Some(*index), *term, *revision);
        self.highest = self.highest.max(*revision);
        match txn.as_ref().and_then(|txn| txn.outcome.as_ref()) {
            _ if changes.is_empty() => Ok(()),
            Some(Committed::At(answered)) if answered == revision => Ok(()),
            other => Err(format!("entry {index} changed something at revision {revision}, but was answered {other:?}")),
        }
    }

    fn lose(&mut self, lost: &Lost, history: &History) -> Result<(), String> {
        let last = lost.from_index().saturating_sub(1);
        self.index = Some(last);
        if let Some(entry) = history.entry(last) {
            (self.term, self.revision) = (entry.term, entry.revision);
        }
        Ok(())
    }
}
