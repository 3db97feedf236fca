//! A term has one leader.

use std::collections::BTreeMap;

use trierarch_raft::{NodeId, Term};

use super::{Invariant, history::History};
use crate::event::Event;

/// The rule, and the leaders so far.
#[derive(Default)]
pub(super) struct OneLeader {
    leaders: BTreeMap<Term, NodeId>,
}

impl Invariant for OneLeader {
    fn name(&self) -> &'static str {
        "one leader per term"
    }

    fn see(&mut self, event: &Event, _history: &History) -> Result<(), String> {
        let Event::Voted { member, term, voted_for, committed: true } = event else { return Ok(()) };
        let first = *self.leaders.entry(*term).or_insert(*voted_for);
        if first == *voted_for {
            return Ok(());
        }
        Err(format!("member {member} knows {voted_for} as the leader of term {term}, but {first} is"))
    }
}
