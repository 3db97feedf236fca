//! Every transaction that changes something gets the next revision, and no other does.

use trierarch_raft::{Committed, Revision};

use super::{Invariant, history::History};
use crate::event::Event;

/// The rule, and how far it was checked.
#[derive(Default)]
pub(super) struct Revisions {
    index: Option<u64>,
    revision: Revision,
}

impl Invariant for Revisions {
    fn name(&self) -> &'static str {
        "revisions increase and are never reused"
    }

    fn see(&mut self, event: &Event, _history: &History) -> Result<(), String> {
        let Event::Applied { index, txn, changes, .. } = event else { return Ok(()) };
        // later members repeat what the first one did
        if self.index.is_some_and(|last| *index <= last) {
            return Ok(());
        }
        self.index = Some(*index);
        if changes.is_empty() {
            return Ok(());
        }
        let expected = self.revision + 1;
        if let Some(wrong) = changes.iter().find(|change| change.revision != expected) {
            return Err(format!("entry {index} changed {:?} at revision {}, expected {expected}", wrong.key, wrong.revision));
        }
        self.revision = expected;
        match txn.as_ref().and_then(|txn| txn.outcome.as_ref()) {
            Some(Committed::At(revision)) if *revision == expected => Ok(()),
            other => Err(format!("entry {index} changed something at revision {expected}, but was answered {other:?}")),
        }
    }
}
