//! The whole store behaves as if there were one copy of it: revisions are an order of all writes, in which every answer is right, and which
//! respects what was over before something else began.

use std::collections::BTreeMap;

use trierarch_raft::{Revision, TxnId};

use super::{Invariant, history::History};
use crate::event::{Answer, Condition, Event, Question, Write};

/// The rule, and what clients know.
#[derive(Default)]
pub(super) struct Linearizable {
    /// The greatest revision that any answer has shown.
    known: Revision,
    /// Questions on their way, and what was known when they were asked.
    asked: BTreeMap<u64, (Question, Revision)>,
    /// The same for the first proposal of a write.
    proposed: BTreeMap<TxnId, Revision>,
}

impl Invariant for Linearizable {
    fn name(&self) -> &'static str {
        "histories are linearizable"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        match event {
            Event::Asked { question, what, .. } => {
                let known = match what {
                    Question::Write(write) => *self.proposed.entry(write.id).or_insert(self.known),
                    _ => self.known,
                };
                self.asked.insert(*question, (what.clone(), known));
            }
            Event::Answered { question, answer } => {
                let Some((what, known)) = self.asked.remove(question) else { return Ok(()) };
                check(&what, answer, known, history).map_err(|how| format!("question {question}: {how}"))?;
                match (&what, answer) {
                    (Question::Write(_), Answer::Written(revision)) | (Question::LinearizableRead, Answer::Read { revision, .. }) => {
                        self.known = self.known.max(*revision)
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn check(what: &Question, answer: &Answer, known: Revision, history: &History) -> Result<(), String> {
    match (what, answer) {
        (Question::LinearizableRead, Answer::Read { revision, digest }) => {
            if *revision < known {
                return Err(format!("read revision {revision}, but {known} was known before it was asked"));
            }
            shows(*revision, *digest, history)
        }
        (Question::LocalRead | Question::PastRead { .. }, Answer::Read { revision, digest }) => shows(*revision, *digest, history),
        (Question::Write(write), Answer::Written(revision)) => {
            let changed = history.applied(write.id).is_some();
            if *revision < known || (changed && *revision == known) {
                return Err(format!("written at {revision}, but {known} was known before it was asked"));
            }
            if history.applied(write.id).is_some_and(|(_, applied)| applied == *revision) {
                held(write, *revision, history)
            } else {
                Ok(())
            }
        }
        (Question::Write(write), Answer::Refused(actual)) => refused(write, *actual, known, history),
        _ => Ok(()),
    }
}

fn shows(revision: Revision, digest: u64, history: &History) -> Result<(), String> {
    if history.digest(revision) == Some(digest) { Ok(()) } else { Err(format!("what was read at {revision} was never the state")) }
}

/// Whether the condition of a write that applied did hold.
fn held(write: &Write, revision: Revision, history: &History) -> Result<(), String> {
    let Some((key, _)) = write.changes.first() else { return Ok(()) };
    let actual = history.version_before(key, revision);
    let right = match write.condition {
        Condition::Revision(expected) => actual == Some(expected),
        Condition::Absent => actual.is_none(),
        // the entry tells, and another rule looks at it
        Condition::None | Condition::Term(_) => true,
    };
    if right { Ok(()) } else { Err(format!("written at {revision} although {key:?} was at {actual:?}: {:?}", write.condition)) }
}

fn refused(write: &Write, actual: Option<Revision>, known: Revision, history: &History) -> Result<(), String> {
    let Some((key, _)) = write.changes.first() else { return Ok(()) };
    let right = match write.condition {
        Condition::None => return Err("refused without a condition".into()),
        Condition::Revision(revision) => actual != Some(revision),
        Condition::Absent => actual.is_some(),
        // the entry tells, and another rule looks at it
        Condition::Term(_) => return Ok(()),
    };
    if right && history.had_revision(key, actual, known, history.revision()) {
        return Ok(());
    }
    Err(format!("refused because {key:?} was at {actual:?}, which it was not since {known}"))
}
