//! Changes in the order of their revisions, from a given revision on, without gaps or repeats.

use std::sync::Arc;

use crate::command::Revision;
use crate::view::Record;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was created or replaced.
    Put,
    /// It was removed.
    Delete,
}

/// One change of one key. Shared by all watchers.
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When: the revision of the transaction.
    pub revision: Revision,
    /// The new version; for a delete, the last one.
    pub record: Arc<Record>,
    /// The version before, if there was one.
    pub previous: Option<Arc<Record>>,
    /// Whatever a reader encoded out of this event, by encoding, at most once per process.
    pub encoded: parking_lot::Mutex<Vec<(u32, bytes::Bytes)>>,
}

/// Why a watch ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The history no longer holds the changes after the asked revision: list again.
    #[error("revision {asked} is compacted; the oldest one kept is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// What is there.
        oldest: Revision,
    },
    /// The store is closing.
    #[error("the store is shutting down")]
    Closed,
}

/// A position in the stream of changes below a key prefix.
pub struct Watcher {}

impl Watcher {
    /// The next changes below the prefix, all events of at least one transaction, in order; waits until there are some.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when the watcher fell behind what the history keeps.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, WatchError> {
        unimplemented!()
    }

    /// Everything up to and including this revision has been returned by [`Watcher::next`] (grows also when other prefixes change):
    /// what a bookmark may claim.
    pub fn progress(&self) -> Revision {
        unimplemented!()
    }
}
