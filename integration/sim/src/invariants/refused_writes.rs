//! A write that was refused, or that the store said would never apply, is absent for ever.

use std::collections::{BTreeMap, BTreeSet};

use trierarch_raft::TxnId;

use super::{
    Invariant,
    history::{History, Lost},
};
use crate::event::{Answer, Event, Question};

/// The rule, and what is known of writes.
#[derive(Default)]
pub(super) struct RefusedWrites {
    asked: BTreeMap<u64, TxnId>,
    /// Somebody may still be proposing it, or has done so without learning the outcome.
    open: BTreeMap<TxnId, u64>,
    denied: BTreeSet<TxnId>,
}

impl Invariant for RefusedWrites {
    fn name(&self) -> &'static str {
        "refused writes are absent"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        match event {
            Event::Asked { question, what: Question::Write(write), .. } => {
                self.asked.insert(*question, write.id);
                *self.open.entry(write.id).or_default() += 1;
                self.denied.remove(&write.id);
            }
            Event::Answered { question, answer } => {
                let Some(id) = self.asked.remove(question) else { return Ok(()) };
                let open = self.open.entry(id).or_default();
                match answer {
                    // the first outcome is the outcome
                    Answer::Refused(_) => *open = 0,
                    Answer::Unavailable(_) => *open = open.saturating_sub(1),
                    _ => return Ok(()),
                }
                if *open == 0 {
                    self.denied.insert(id);
                    if let Some((index, _)) = history.applied(id) {
                        return Err(format!("question {question} was answered {answer:?}, but entry {index} applied it"));
                    }
                }
            }
            Event::Applied { index, txn: Some(txn), changes, .. } if !changes.is_empty() && self.denied.contains(&txn.id) => {
                return Err(format!("entry {index} applied {:?} after its client was told that it never would be", txn.id));
            }
            _ => {}
        }
        Ok(())
    }

    fn lose(&mut self, lost: &Lost, _history: &History) -> Result<(), String> {
        // that it was refused is forgotten with the entry that refused it
        for txn in lost.entries.values().filter_map(|entry| entry.txn.as_ref()) {
            self.denied.remove(&txn.id);
        }
        Ok(())
    }
}
