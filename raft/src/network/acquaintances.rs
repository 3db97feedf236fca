//! With which peers this member talks: those whose formats it understands, that were not removed, and that still have the log they had.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::NodeId;
use crate::format::Formats;
use crate::log_store::LogHandle;
use crate::state_machine::Shared;

/// What members tell each other of themselves before anything else. It only ever grows at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Introduction {
    /// Names the member's log.
    pub(crate) log: u128,
    /// What its program reads and writes.
    pub(crate) formats: Formats,
}

/// What this member knows of its peers.
pub(crate) struct Acquaintances {
    pub(crate) own: Introduction,
    log: LogHandle,
    shared: Arc<Shared>,
    /// The peers with which it cannot talk, and why.
    refusals: parking_lot::Mutex<BTreeMap<NodeId, String>>,
}

impl Acquaintances {
    pub(crate) fn new(own: Introduction, log: LogHandle, shared: Arc<Shared>) -> Self {
        Self { own, log, shared, refusals: parking_lot::Mutex::default() }
    }

    /// Whether this member talks with `peer`, which says this of itself.
    ///
    /// # Errors
    /// Why not, and what to do about it.
    pub(crate) fn check(&self, peer: NodeId, introduction: &Introduction) -> Result<(), String> {
        self.check_not_removed(peer)?;
        if let Some(conflict) = self.own.formats.conflict(peer, &introduction.formats) {
            return Err(conflict);
        }
        match self.log.recognises(peer, introduction.log) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!(
                "member {peer} came back with another log than it had: it has lost what it promised and must not vote under that id; \
                 remove member {peer}, and let it join with an empty directory under a new id"
            )),
            Err(error) => Err(format!("cannot look member {peer} up: {error}")),
        }
    }

    /// Whether the group still knows `peer`, or does not know it yet.
    ///
    /// # Errors
    /// It was removed, and what to do about it.
    pub(crate) fn check_not_removed(&self, peer: NodeId) -> Result<(), String> {
        if self.shared.is_removed(peer) { Err(removed(peer)) } else { Ok(()) }
    }

    /// Notes whether a connection to `peer` was refused, by whichever side.
    pub(crate) fn note<T>(&self, peer: NodeId, connected: &io::Result<T>) {
        let mut refusals = self.refusals.lock();
        match connected {
            Ok(_) => {
                refusals.remove(&peer);
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let reason = error.to_string();
                if refusals.get(&peer) != Some(&reason) {
                    tracing::warn!(peer, reason, "This member and a peer do not talk with each other");
                    refusals.insert(peer, reason);
                }
            }
            // not there at all
            Err(_) => {}
        }
    }

    /// The peers with which this member cannot talk, and why.
    pub(crate) fn refusals(&self) -> BTreeMap<NodeId, String> {
        self.refusals.lock().clone()
    }
}

/// What a removed member is told.
pub(crate) fn removed(id: NodeId) -> String {
    format!("member {id} was removed from this cluster, and ids are never used again: let it join with an empty directory")
}
