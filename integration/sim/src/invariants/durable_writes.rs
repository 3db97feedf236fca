//! A write that was acknowledged is in the history at the acknowledged revision, and every member has it in the end.

use std::collections::BTreeMap;

use trierarch_raft::{NodeId, TxnId};

use super::{Invariant, history::History};
use crate::event::{Answer, Event, Question};

/// The rule, the writes under way by question, and the last acknowledged entry.
#[derive(Default)]
pub(super) struct DurableWrites {
    asked: BTreeMap<u64, TxnId>,
    last_index: u64,
}

impl Invariant for DurableWrites {
    fn name(&self) -> &'static str {
        "acknowledged writes are durable"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        match event {
            Event::Asked { question, what: Question::Write(write), .. } => {
                self.asked.insert(*question, write.id);
            }
            Event::Answered { question, answer } => {
                let Some(id) = self.asked.remove(question) else { return Ok(()) };
                let Answer::Written(revision) = answer else { return Ok(()) };
                match history.applied(id) {
                    Some((index, applied)) if applied == *revision => self.last_index = self.last_index.max(index),
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

    fn end(&mut self, history: &History, members: &[NodeId]) -> Result<(), String> {
        match members.iter().find(|member| history.shown(**member).is_none_or(|shown| shown < self.last_index)) {
            Some(member) => Err(format!("member {member} lacks the acknowledged entry {} in the end", self.last_index)),
            None => Ok(()),
        }
    }
}
