//! What enters the log: a transaction of guards and operations, decided by the proposer down to the last byte.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::shared;

/// A position in the history of the whole store; every committed transaction gets the next one. Starts at 1; 0 means "none".
pub type Revision = u64;
/// A raft term.
pub type Term = u64;
/// A member of the raft group. Never reused for a member with an empty log.
pub type NodeId = u64;
/// A key; keys are ordered bytewise.
pub type Key = Bytes;

/// Names a transaction so that a retry of it is answered with the first outcome instead of being applied again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TxnId(pub u128);

impl TxnId {
    /// A fresh, random id.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u128())
    }
}

/// Who asked for a change, by which program and verb, and when; kept in the history beside each version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The authenticated user name.
    pub user: String,
    /// The client program (`User-Agent`).
    pub agent: String,
    /// The request verb (`create`, `update`, `patch`, `delete`, ...).
    pub verb: String,
    /// Milliseconds since the Unix epoch, read by the proposer.
    pub time_unix_ms: i64,
}

/// A condition under which a transaction applies; all guards must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard {
    /// The key exists and its last change has this revision.
    Revision {
        /// Which key.
        key: Key,
        /// Its expected `Record::revision`.
        revision: Revision,
    },
    /// The key does not exist.
    Absent {
        /// Which key.
        key: Key,
    },
    /// The key exists, at any revision.
    Present {
        /// Which key.
        key: Key,
    },
    /// The entry is committed in this raft term: the fence of leader-only components.
    Term(Term),
}

/// One change of a transaction. A key appears in at most one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Creates or replaces.
    Put {
        /// Which key.
        key: Key,
        /// Opaque value, stored as it is.
        #[serde(deserialize_with = "shared::large_value")]
        value: Bytes,
        /// Opaque to the store: where the writer's reader splices the revision into `value`.
        split: u32,
        /// Under which index terms the key is found (see [`crate::View::by_term`]); replaces earlier ones.
        terms: Vec<Bytes>,
    },
    /// Removes; absent keys are no error.
    Delete {
        /// Which key.
        key: Key,
    },
}

/// What a client proposes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// Makes a retry safe.
    pub id: TxnId,
    /// All must hold, or nothing is changed.
    pub guards: Vec<Guard>,
    /// Applied together, at one revision.
    pub ops: Vec<Op>,
    /// For the history.
    pub cause: Cause,
}

/// When a committed transaction is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once a majority has it on disk: it survives everything that leaves a majority of disks.
    #[default]
    Disk,
    /// Once a majority has handed it to its operating system: it survives the death of any processes, and is lost only if a majority of
    /// machines stop without warning within the seconds until it is written, or until the next transaction that goes to disk.
    Memory,
}

/// Which guard failed, and what it met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Index into [`Txn::guards`].
    pub guard: u32,
    /// The key's revision at that moment; `None` when it is absent (or for a term guard).
    pub actual: Option<Revision>,
}

/// What one log entry asks for. Encoded once by the proposer; every member decodes it when it is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// A client's transaction.
    Txn {
        /// The transaction.
        txn: Txn,
        /// The transaction was first proposed after this log index was applied: an entry at or below it cannot hold it. If the
        /// window of remembered ids no longer reaches back that far, nobody can tell whether it was applied before.
        after_index: u64,
        /// The proposer's clock, for the age of history.
        time_unix_ms: i64,
    },
    /// Forget history up to and including this revision.
    Compact {
        /// The new oldest position of watches and reads of the past.
        upto: Revision,
    },
    /// As `Txn`, but acknowledged before it is on disk ([`Durability::Memory`]).
    Volatile {
        /// As in `Txn`.
        txn: Txn,
        /// As in `Txn`.
        after_index: u64,
        /// As in `Txn`.
        time_unix_ms: i64,
    },
    /// Give out none of the next revisions, and forget the history: the cluster goes on from an earlier state, and some of them may have
    /// been given out already.
    Skip {
        /// How many.
        revisions: u64,
    },
}

/// Where a record holds the number of the enum's variant: after the version.
const VARIANT_AT: usize = 1;
/// The number of [`Command::Volatile`].
const VOLATILE: u8 = 2;

impl Command {
    /// The command that a client's transaction becomes.
    pub(crate) fn new(txn: Txn, durability: Durability, after_index: u64, time_unix_ms: i64) -> Self {
        match durability {
            Durability::Disk => Self::Txn { txn, after_index, time_unix_ms },
            Durability::Memory => Self::Volatile { txn, after_index, time_unix_ms },
        }
    }

    /// Whether the encoded command may be acknowledged before it is on disk. Looks at one byte.
    pub(crate) fn is_volatile(encoded: &[u8]) -> bool {
        encoded.get(VARIANT_AT) == Some(&VOLATILE)
    }
}

/// What applying an entry answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Applied (perhaps by an earlier entry with the same id) at this revision.
    At(Revision),
    /// A guard failed.
    Refused(Refusal),
    /// The id is older than what is remembered: it may have been applied long ago.
    Forgotten,
    /// Not a transaction.
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records;

    #[test]
    fn volatile_commands_are_recognised_without_decoding() {
        let txn = Txn { id: TxnId::random(), guards: Vec::new(), ops: Vec::new(), cause: Cause::default() };
        let volatile = |command: &Command| Command::is_volatile(&records::encode(command));
        assert!(volatile(&Command::new(txn.clone(), Durability::Memory, 7, 8)));
        assert!(!volatile(&Command::new(txn, Durability::Disk, 7, 8)));
        assert!(!volatile(&Command::Compact { upto: 2 }));
        assert!(!Command::is_volatile(&[]));
    }
}
