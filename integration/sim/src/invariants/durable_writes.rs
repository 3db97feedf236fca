//! A write that was acknowledged is in the history at the acknowledged revision, and every member has it in the end. Only a volatile one may be
//! lost (see `lost_writes`).

use std::collections::BTreeMap;

use trierarch_raft::{NodeId, TxnId};

use super::{
    Invariant,
    history::{History, Lost},
};
use crate::event::{Answer, Event, Question};

/// The rule, the writes under way by question, and the acknowledged entries that may not be lost any more, by whether they may be lost at all.
#[derive(Default)]
pub(super) struct DurableWrites {
    asked: BTreeMap<u64, (TxnId, bool)>,
    last_durable: u64,
    last_volatile: u64,
}

impl Invariant for DurableWrites {
    fn name(&self) -> &'static str {
        "acknowledged writes are durable"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        match event {
            Event::Asked { question, what: Question::Write(write), .. } => {
                self.asked.insert(*question, (write.id, write.volatile));
            }
            Event::Answered { question, answer } => {
                let Some((id, volatile)) = self.asked.remove(question) else { return Ok(()) };
                let Answer::Written(revision) = answer else { return Ok(()) };
                match history.applied(id) {
                    Some((index, applied)) if applied == *revision => {
                        let last = if volatile { &mut self.last_volatile } else { &mut self.last_durable };
                        *last = index.max(*last);
                    }
                    _ if volatile && history.was_applied(id, *revision) => {}
                    Some((_, applied)) => return Err(format!("question {question} was answered {revision}, but applied at {applied}")),
                    // it had nothing to change
                    None if *revision <= history.revision() => {}
                    None => return Err(format!("question {question} was answered {revision}, but never applied")),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn lose(&mut self, lost: &Lost, _history: &History) -> Result<(), String> {
        if self.last_durable >= lost.from_index() {
            return Err(format!("entry {} was acknowledged as durable, and lost", self.last_durable));
        }
        self.last_volatile = self.last_volatile.min(lost.from_index().saturating_sub(1));
        Ok(())
    }

    fn end(&mut self, history: &History, members: &[NodeId]) -> Result<(), String> {
        let last_index = self.last_durable.max(self.last_volatile);
        match members.iter().find(|member| history.shown(**member).is_none_or(|shown| shown < last_index)) {
            Some(member) => Err(format!("member {member} lacks the acknowledged entry {last_index} in the end")),
            None => Ok(()),
        }
    }
}
