//! An orderly stop leaves nothing to doubt, even if the machine is off afterwards.

use std::collections::BTreeSet;

use trierarch_raft::NodeId;

use super::{Invariant, history::History};
use crate::event::Event;

/// The rule, and the members that are stopped and were sure of their log.
#[derive(Default)]
pub(super) struct OrderlyStops {
    sure: BTreeSet<NodeId>,
}

impl Invariant for OrderlyStops {
    fn name(&self) -> &'static str {
        "an orderly stop leaves no doubt"
    }

    fn see(&mut self, event: &Event, _history: &History) -> Result<(), String> {
        match event {
            Event::Stopped { member, how: "closed", doubtful: false } => {
                self.sure.insert(*member);
            }
            Event::Started { member, doubtful } if self.sure.remove(member) && *doubtful => {
                return Err(format!("member {member} was stopped orderly, and doubts its log"));
            }
            _ => {}
        }
        Ok(())
    }
}
