//! Log matching: entries with the same index and term are the same, and so are all before them. The latter follows if the entry before has
//! the same term everywhere.

use std::collections::BTreeMap;

use trierarch_raft::Term;

use super::{Invariant, history::History};
use crate::event::Event;

/// The rule, and the entries so far: digest and term of the one before, by index and term.
#[derive(Default)]
pub(super) struct LogMatching {
    entries: BTreeMap<(u64, Term), (u64, Option<Term>)>,
}

impl Invariant for LogMatching {
    fn name(&self) -> &'static str {
        "log matching"
    }

    fn see(&mut self, event: &Event, _history: &History) -> Result<(), String> {
        let Event::Appended { member, previous_term, term, index, digest } = event else { return Ok(()) };
        let (known, known_previous) = *self.entries.entry((*index, *term)).or_insert((*digest, *previous_term));
        if known != *digest {
            return Err(format!("entry {index} of term {term} at member {member} differs from another member's"));
        }
        if known_previous != *previous_term {
            return Err(format!(
                "entry {index} of term {term} at member {member} follows one of term {previous_term:?}, elsewhere one of {known_previous:?}"
            ));
        }
        Ok(())
    }
}
