//! What happens to a member, as it happens: elections, leaders, the log, peers that fall silent, experiments. For people who watch.
//!
//! Most of it is found by comparing what raft says of itself, and only while somebody watches. What raft does not say (who asked whom for a
//! vote, and what the answer was) is told where it happens; with nobody there, that costs one relaxed load.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::command::{NodeId, Term};
use crate::experiment::{Fault, Timers};

mod announcer;
mod changes;

pub(crate) use announcer::Announcer;
pub use announcer::Happenings;
pub(crate) use changes::follow;

/// Something that happened. Fields under the names that older programs gave them are read, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Happening {
    /// Milliseconds, with fractions, by a clock that never goes back. It was set by the time of day when the member was opened, so that
    /// the happenings of several members on one machine can be put in order.
    pub at_ms: f64,
    /// Milliseconds since the Unix epoch, as the machine's clock shows them.
    #[serde(alias = "time_unix_ms")]
    pub time_unix_ms: i64,
    /// On which member.
    #[serde(alias = "node_id")]
    pub node_id: NodeId,
    /// In which term.
    pub term: Term,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    /// How things were when the watching began, or the member's part has changed.
    Role {
        /// `leader`, `follower`, `candidate`, `learner` or `shutdown`.
        role: String,
    },
    /// The member asks a peer for its vote.
    VoteAsked {
        /// Whom.
        peer: NodeId,
        /// Only whether it would vote for this member; nobody's term rises.
        pre_vote: bool,
    },
    /// A peer has answered that.
    VoteAnswered {
        /// Who.
        peer: NodeId,
        /// See [`Event::VoteAsked`].
        pre_vote: bool,
        /// It votes, or would vote, for this member.
        granted: bool,
        /// Why not, if so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The member was asked for its vote, and has answered.
    VoteCast {
        /// Who asked.
        candidate: NodeId,
        /// See [`Event::VoteAsked`].
        pre_vote: bool,
        /// It votes, or would vote, for the candidate.
        granted: bool,
        /// Why not, if so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The member's vote has changed.
    Vote {
        /// For whom.
        candidate: NodeId,
        /// A quorum has granted it.
        granted: bool,
    },
    /// Another member leads, or nobody.
    Leader {
        /// Who.
        leader: Option<NodeId>,
    },
    /// The members have changed.
    Members {
        /// Those that vote.
        voters: BTreeSet<NodeId>,
        /// The others.
        learners: BTreeSet<NodeId>,
    },
    /// The log has grown.
    Append {
        /// Index of its last entry.
        last: u64,
        /// Term of that.
        last_term: Term,
    },
    /// Entries that another leader has written were cut off: the log had gone a way of its own.
    Truncate {
        /// Index of the last entry that stays.
        kept: u64,
        /// Index of the last entry before.
        last: u64,
    },
    /// More is committed, as far as this member knows.
    Commit {
        /// Index of the last committed entry.
        committed: u64,
    },
    /// The member has a new snapshot of its state.
    Snapshot {
        /// Index of the last entry in it.
        index: u64,
    },
    /// The leader has sent its state, because entries that this member lacks are gone there.
    SnapshotReceived {
        /// Index of the last entry in it.
        index: u64,
    },
    /// On the leader: a peer has answered no heartbeat for a while. On a follower: the leader has sent none.
    HeartbeatMissed {
        /// Who is silent.
        peer: NodeId,
    },
    /// The leader's process has gone, as a quorum sees: its connections have ended, and its address refuses new ones. Somebody stands for
    /// election at once.
    LeaderGone {
        /// Who led.
        leader: NodeId,
    },
    /// It is heard again.
    HeartbeatHeard {
        /// Who.
        peer: NodeId,
    },
    /// An experiment: something goes wrong from now on.
    FaultBegan {
        /// What.
        fault: Fault,
        /// Who wanted it.
        by: String,
    },
    /// It goes right again.
    FaultEnded {
        /// What.
        fault: Fault,
        /// Its time is over, or somebody has ended it.
        why: String,
    },
    /// An experiment: other timers are in force, or the configured ones again.
    TimersChanged {
        /// Which.
        timers: Timers,
        /// Who wanted it, or that their time is over.
        why: String,
    },
    /// Whoever watches was too slow: the oldest happenings that waited were lost.
    Lost {
        /// How many.
        count: u64,
    },
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn its_fields_are_named_alike_and_older_names_are_read() {
        let happening = Happening { at_ms: 1.5, time_unix_ms: 2, node_id: 3, term: 4, event: Event::VoteAsked { peer: 1, pre_vote: true } };
        let written = json!({"atMs": 1.5, "timeUnixMs": 2, "nodeId": 3, "term": 4, "event": "vote-asked", "peer": 1, "preVote": true});
        assert_eq!(serde_json::to_value(&happening).unwrap(), written);
        let older = json!({"atMs": 1.5, "time_unix_ms": 2, "node_id": 3, "term": 4, "event": "vote-asked", "peer": 1, "preVote": true});
        for json in [written, older] {
            assert_eq!(serde_json::from_value::<Happening>(json).unwrap(), happening);
        }
    }
}
