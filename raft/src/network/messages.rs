//! What peers say to each other. Plain structs, like everything that leaves the process.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::acquaintances::Introduction;
use crate::command::{NodeId, Outcome};
use crate::doubt::Standing;
use crate::records::{EntryRecord, LogIdRecord, StoredMembershipRecord, VoteRecord};
use crate::store::Member;
use crate::succession::Reign;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Purpose {
    /// Log entries, in order.
    Replication,
    /// Heartbeats and votes.
    Heartbeat,
    /// One snapshot.
    Snapshot,
    /// Proposals, read indexes and membership changes for the leader.
    Request,
}

/// The first message on a connection. Programs of all versions read it, so it only ever grows at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) cluster_id: String,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) purpose: Purpose,
    pub(crate) introduction: Introduction,
}

/// The answer to it, read by programs of all versions, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HelloReply {
    Welcome(Introduction),
    Refused(String),
}

/// Entries to append after `previous`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) vote: VoteRecord,
    pub(crate) previous: Option<LogIdRecord>,
    pub(crate) entries: Vec<EntryRecord>,
    pub(crate) committed: Option<LogIdRecord>,
}

/// A request to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// One of a pipeline: after a failure the rest of the same session is not tried.
    AppendNext {
        session: u64,
        append: Append,
    },
    AppendOne(Append),
    Vote {
        vote: VoteRecord,
        last: Option<LogIdRecord>,
        transfer: bool,
    },
    PreVote {
        vote: VoteRecord,
        last: Option<LogIdRecord>,
    },
    Transfer {
        from: VoteRecord,
        to: NodeId,
        last: Option<LogIdRecord>,
    },
    SnapshotBegin {
        vote: VoteRecord,
        last: Option<LogIdRecord>,
        membership: StoredMembershipRecord,
        files: Vec<(String, u64)>,
    },
    /// The next bytes of the files, one file after the other.
    SnapshotBytes(Bytes),
    SnapshotEnd,
    /// An encoded command. `fresh`: it was never sent before, so the leader may say after which entry it comes.
    Propose {
        command: Bytes,
        after_index: u64,
        fresh: bool,
    },
    ReadIndex,
    AddMember(Member),
    RemoveMember(NodeId),
    TransferLeadership(Option<NodeId>),
    /// Whether this member's disk has room.
    TakesWrites,
    /// What this member has of the log, and whether it may have lost some.
    Standing,
    /// Whether this member sees that a leader's process has gone, too: then its standing, otherwise why not.
    LeaderGone(Reign),
}

/// The answer of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    Appended(Option<LogIdRecord>),
    AppendConflict(LogIdRecord),
    HigherVote(VoteRecord),
    Voted {
        vote: VoteRecord,
        last: Option<LogIdRecord>,
        granted: bool,
    },
    Transferred,
    TransferVoteChanged {
        expected: VoteRecord,
        actual: VoteRecord,
    },
    TransferLogNotFlushed {
        expected: Option<LogIdRecord>,
        actual: Option<LogIdRecord>,
    },
    SnapshotContinue,
    SnapshotInstalled(VoteRecord),
    Proposed {
        index: u64,
        outcome: Outcome,
    },
    ReadIndex(u64),
    Done,
    /// This member does not lead (any more). `maybe_proposed`: the command may have entered the log.
    NotLeader {
        maybe_proposed: bool,
    },
    /// What must not be done, or is not so.
    Refused(String),
    /// This member cannot do it now.
    Failed(String),
    Standing(Standing),
}
