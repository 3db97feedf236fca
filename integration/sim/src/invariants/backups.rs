//! A backup holds a state of the history, and a complete one everything that was known when it was asked for; restored, it is that state again,
//! and goes on beyond every revision that was given out.

use std::collections::BTreeMap;

use trierarch_raft::Revision;

use super::{Invariant, history::History};
use crate::event::{Answer, Event, Question};

/// The rule, the greatest revision that any answer has shown, and what it was when each backup was asked for.
#[derive(Default)]
pub(super) struct Backups {
    known: Revision,
    asked: BTreeMap<u64, Revision>,
}

impl Invariant for Backups {
    fn name(&self) -> &'static str {
        "backups hold what they say"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        match event {
            Event::Asked { question, what: Question::Backup, .. } => {
                self.asked.insert(*question, self.known);
            }
            Event::Answered { answer: Answer::Written(revision), .. } => self.known = self.known.max(*revision),
            Event::BackedUp { question, revision, complete } => {
                let known = self.asked.get(question).copied().unwrap_or(0);
                if *complete && *revision < known {
                    return Err(format!("backup {question} says that it is complete at revision {revision}, but {known} was known before"));
                }
            }
            Event::Restored { question, revision, digest, next } => {
                if history.digest(*revision) != Some(*digest) {
                    return Err(format!("backup {question} of revision {revision} holds another state"));
                }
                if *next <= history.revision() {
                    return Err(format!("after backup {question} was restored, revision {next} was given out again"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
