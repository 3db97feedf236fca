//! The concrete types that openraft is instantiated with. Nothing outside this crate names them.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use serde::{Deserialize, Serialize};

use crate::command::{NodeId, Outcome};

/// An encoded [`crate::command::Command`]: encoded once by the proposer, copied by log and network, decoded by apply.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the membership knows of a member beside its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberInfo {
    /// Where peers reach it.
    pub(crate) peer_address: String,
    /// Where clients reach its API.
    pub(crate) api_address: String,
    /// It becomes a voter once it has caught up.
    pub(crate) wants_vote: bool,
}

openraft::declare_raft_types!(
    /// One leader per term (`leader_id_std`): a term alone fences a deposed leader.
    pub(crate) TypeConfig:
        D = Payload,
        R = Outcome,
        NodeId = NodeId,
        Node = MemberInfo,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,

);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type EntryPayload = openraft::type_config::alias::PayloadOf<TypeConfig>;
/// The encoded command of an entry; empty for one that holds none.
pub(crate) fn command(entry: &Entry) -> &[u8] {
    match &entry.payload {
        EntryPayload::Normal(payload) => &payload.0,
        EntryPayload::Blank | EntryPayload::Membership(_) => &[],
    }
}

pub(crate) type Membership = openraft::Membership<NodeId, MemberInfo>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, crate::snapshot::SnapshotFiles>;
pub(crate) type Raft = openraft::Raft<TypeConfig, crate::state_machine::StateMachine>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;
pub(crate) type ServerMetrics = openraft::metrics::RaftServerMetrics<TypeConfig>;
