//! A member gives one vote in a term, whatever happens to it meanwhile.

use std::collections::BTreeMap;

use trierarch_raft::{NodeId, Term};

use super::{Invariant, history::History};
use crate::event::Event;

/// The rule, and the votes so far.
#[derive(Default)]
pub(super) struct OneVote {
    votes: BTreeMap<(NodeId, Term), NodeId>,
}

impl Invariant for OneVote {
    fn name(&self) -> &'static str {
        "one vote per member and term"
    }

    fn see(&mut self, event: &Event, _history: &History) -> Result<(), String> {
        // following a leader whom others elected is no vote
        let Event::Voted { member, term, voted_for, committed: false } = event else { return Ok(()) };
        let first = *self.votes.entry((*member, *term)).or_insert(*voted_for);
        if first == *voted_for {
            return Ok(());
        }
        Err(format!("member {member} voted for {first} and for {voted_for} in term {term}"))
    }
}
