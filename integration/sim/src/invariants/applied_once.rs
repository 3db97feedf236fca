//! A transaction changes something at most once, however often it is proposed.

use std::collections::BTreeMap;

use trierarch_raft::TxnId;

use super::{
    Invariant,
    history::{History, Lost},
};
use crate::event::Event;

/// The rule, and where transactions changed something.
#[derive(Default)]
pub(super) struct AppliedOnce {
    changed_at: BTreeMap<TxnId, u64>,
}

impl Invariant for AppliedOnce {
    fn name(&self) -> &'static str {
        "a repeated proposal is applied once"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        let Event::Applied { term, index, txn: Some(txn), changes, .. } = event else { return Ok(()) };
        // a member that does not know yet what was lost applies it once more
        if changes.is_empty() || history.entry(*index).is_none_or(|entry| entry.term != *term) {
            return Ok(());
        }
        let first = *self.changed_at.entry(txn.id).or_insert(*index);
        if first == *index { Ok(()) } else { Err(format!("transaction {:?} was applied at entries {first} and {index}", txn.id)) }
    }

    fn lose(&mut self, lost: &Lost, _history: &History) -> Result<(), String> {
        self.changed_at.retain(|_, index| *index < lost.from_index());
        Ok(())
    }
}
