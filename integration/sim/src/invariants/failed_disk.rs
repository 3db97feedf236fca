//! A member whose disk has refused to sync does not go on: nobody knows what the disk holds.

use std::collections::BTreeSet;

use trierarch_raft::NodeId;

use super::{Invariant, history::History};
use crate::event::Event;

/// The rule, and the members that must stand still.
#[derive(Default)]
pub(super) struct FailedDisk {
    failed: BTreeSet<NodeId>,
}

impl Invariant for FailedDisk {
    fn name(&self) -> &'static str {
        "a member stops when its disk fails"
    }

    fn see(&mut self, event: &Event, _history: &History) -> Result<(), String> {
        match event {
            Event::SyncFailed { member } => {
                self.failed.insert(*member);
            }
            Event::Stopped { member, .. } | Event::Started { member, .. } => {
                self.failed.remove(member);
            }
            Event::Synced { member } | Event::Voted { member, .. } if self.failed.contains(member) => {
                return Err(format!("member {member} went on after a failed sync"));
            }
            _ => {}
        }
        Ok(())
    }
}
