//! A committed entry is never replaced: whoever applies an index applies the same entry, with the same result. What a power cut of a majority
//! may take is another rule's matter.

use super::{Invariant, history::Entry, history::History};
use crate::event::Event;

/// The rule.
pub(super) struct CommittedEntries;

impl Invariant for CommittedEntries {
    fn name(&self) -> &'static str {
        "committed entries stay"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        let Event::Applied { member, index, .. } = event else { return Ok(()) };
        let Some(here) = Entry::applied(event) else { return Ok(()) };
        match history.entry(*index) {
            Some(known) if *known == here => Ok(()),
            _ if history.was_lost(*index, &here) => Ok(()),
            Some(known) => Err(format!("member {member} applied {here:?} at index {index}, but {known:?} was committed there")),
            None => Err(format!("member {member} applied entry {index}, which the history lacks")),
        }
    }
}
