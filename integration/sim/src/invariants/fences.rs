//! A write that is only good in one term applies in an entry of that term or not at all.

use trierarch_raft::Committed;

use super::{Invariant, history::History};
use crate::event::{AppliedTxn, Event};

/// The rule.
pub(super) struct Fences;

impl Invariant for Fences {
    fn name(&self) -> &'static str {
        "fenced writes are refused in other terms"
    }

    fn see(&mut self, event: &Event, _history: &History) -> Result<(), String> {
        let Event::Applied { term, index, txn: Some(AppliedTxn { fence: Some(fence), outcome, .. }), changes, .. } = event else {
            return Ok(());
        };
        if fence != term && !changes.is_empty() {
            return Err(format!("entry {index} of term {term} changed something for a component of term {fence}"));
        }
        if fence == term && matches!(outcome, Some(Committed::Refused(_))) {
            return Err(format!("entry {index} of term {term} was refused to a component of that term"));
        }
        Ok(())
    }
}
