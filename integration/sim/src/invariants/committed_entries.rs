//! A committed entry is never lost or replaced: whoever applies an index applies the same entry, with the same result.

use super::{Invariant, history::Entry, history::History};
use crate::event::Event;

/// The rule.
pub(super) struct CommittedEntries;

impl Invariant for CommittedEntries {
    fn name(&self) -> &'static str {
        "committed entries stay"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        let Event::Applied { member, term, index, digest, txn, changes } = event else { return Ok(()) };
        let here = Entry { term: *term, digest: *digest, txn: txn.clone(), changes: changes.clone() };
        match history.entry(*index) {
            Some(known) if *known == here => Ok(()),
            Some(known) => Err(format!("member {member} applied {here:?} at index {index}, but {known:?} was committed there")),
            None => Err(format!("member {member} applied entry {index}, which the history lacks")),
        }
    }
}
