//! Members that have applied the same entries show the same state, and it is the one that follows from the changes.

use std::collections::BTreeMap;

use trierarch_raft::Revision;

use super::{
    Invariant,
    history::{History, Lost},
};
use crate::event::Event;

/// The rule, and the states so far by index.
#[derive(Default)]
pub(super) struct EqualState {
    states: BTreeMap<u64, (Revision, u64)>,
}

impl Invariant for EqualState {
    fn name(&self) -> &'static str {
        "equal state at equal index"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        let Event::Shown { member, index, revision, digest } = event else { return Ok(()) };
        if history.digest(*revision) != Some(*digest) {
            return Err(format!("what member {member} shows at revision {revision} does not follow from the changes up to there"));
        }
        // a member that does not know yet what was lost
        if history.was_lost_at(*index, *revision) {
            return Ok(());
        }
        let known = *self.states.entry(*index).or_insert((*revision, *digest));
        if known == (*revision, *digest) {
            return Ok(());
        }
        Err(format!("after entry {index} member {member} is at revision {revision}, another one was at {}", known.0))
    }

    fn lose(&mut self, lost: &Lost, _history: &History) -> Result<(), String> {
        self.states.retain(|index, _| *index < lost.from_index());
        Ok(())
    }
}
