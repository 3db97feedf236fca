//! A member whose disk is full says so soon after it has written again, and no longer than the disk is full.

use std::collections::BTreeMap;

use trierarch_raft::NodeId;

use super::{Invariant, history::History};
use crate::event::Event;

/// A disk that is written to is looked at so often; the rest is for the look itself.
const NOTICED_MS: u64 = 1_200;

/// The rule, and what is known of the disks that were full once since their member started.
#[derive(Default)]
pub(super) struct FullDisk {
    disks: BTreeMap<NodeId, Disk>,
}

struct Disk {
    full: bool,
    /// Since when the member must know of it.
    known_ms: Option<u64>,
}

impl Invariant for FullDisk {
    fn name(&self) -> &'static str {
        "a full disk is noticed, and so is room"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        let soon_ms = history.now_ms() + NOTICED_MS;
        match event {
            Event::DiskFull { member } => {
                self.disks.insert(*member, Disk { full: true, known_ms: None });
            }
            Event::DiskHasRoom { member } => {
                self.disks.insert(*member, Disk { full: false, known_ms: Some(soon_ms) });
            }
            Event::Appended { member, .. } => {
                if let Some(disk) = self.disks.get_mut(member) {
                    disk.known_ms.get_or_insert(soon_ms);
                }
            }
            Event::Stopped { member, .. } => {
                self.disks.remove(member);
            }
            Event::Condition { member, read_only } => {
                let known = self.disks.get(member).filter(|disk| disk.known_ms.is_some_and(|known_ms| history.now_ms() >= known_ms));
                let Some(disk) = known else { return Ok(()) };
                if disk.full && read_only.is_none() {
                    return Err(format!("member {member} does not say that its disk is full"));
                }
                if !disk.full && read_only.as_ref().is_some_and(|reason| reason.contains("make room")) {
                    return Err(format!("member {member} still says that its disk is full: {read_only:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
