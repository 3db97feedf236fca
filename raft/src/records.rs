//! Everything that is written to disk or sent to a peer, as plain structs of our own behind a version byte, so that a newer openraft
//! cannot strand a cluster. Conversions from and to openraft's types are here and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bincode::Options as _;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::command::{Cause, Key, NodeId, Outcome, Revision, Term, TxnId};
use crate::doubt::Doubt;
use crate::format::Formats;
use crate::raft_types;
use crate::shared;

/// The first byte of every record.
const VERSION: u8 = Formats::OURS.written;
/// Since this version the log's entries are in a journal, and the state keeps every version of an object once, in its history.
const LAYOUT: u8 = 2;
/// How the text about a record of another program begins.
pub(crate) const UNKNOWN_VERSION: &str = "this program cannot read format version";

/// No record is longer than this; a longer one is damage or an attack.
pub(crate) const RECORD_BYTES_MAX: u64 = 64 << 20;

/// The bytes of a record, version first.
pub(crate) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(&mut bytes, record);
    bytes
}

/// As [`encode`], at the end of `bytes`.
pub(crate) fn encode_into<T: Serialize>(bytes: &mut Vec<u8>, record: &T) {
    // growing while a large value is written would move what is there
    bytes.reserve(usize::try_from(size_bytes(record)).unwrap_or(0));
    bytes.push(VERSION);
    bincode::DefaultOptions::new().serialize_into(bytes, record).expect("plain structs always serialize into memory");
}

/// As [`encode`], for a record that no program may pass over that does not know how this one lays out its directories.
pub(crate) fn encode_layout<T: Serialize>(record: &T) -> Vec<u8> {
    let mut bytes = encode(record);
    bytes[0] = LAYOUT;
    bytes
}

/// How many bytes [`encode`] makes of a record.
pub(crate) fn size_bytes<T: Serialize>(record: &T) -> u64 {
    1 + bincode::DefaultOptions::new().serialized_size(record).expect("plain structs have a size")
}

/// The record in bytes made by [`encode`].
///
/// # Errors
/// `Unsupported` for an unknown version, `InvalidData` for damaged or trailing bytes.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> io::Result<T> {
    bincode::DefaultOptions::new().with_limit(RECORD_BYTES_MAX).deserialize(body(bytes)?).map_err(|error| damaged(&error))
}

/// As [`decode`], but a large value that is most of `bytes` is not copied out of them (see [`shared::large_value`]).
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_shared<T: DeserializeOwned>(bytes: &Bytes) -> io::Result<T> {
    shared::out_of(bytes, || decode(bytes))
}

/// The greeting in bytes made by [`encode`], by any program: of a newer one, what is known here is taken and the rest left.
///
/// # Errors
/// `InvalidData` for damaged bytes.
pub(crate) fn decode_greeting<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let (_any_version, body) = bytes.split_first().ok_or_else(empty)?;
    bincode::DefaultOptions::new().with_limit(RECORD_BYTES_MAX).allow_trailing_bytes().deserialize(body).map_err(|error| damaged(&error))
}

/// What follows the version of a record.
///
/// # Errors
/// `Unsupported` for a version that this program does not read.
pub(crate) fn body(bytes: &[u8]) -> io::Result<&[u8]> {
    let Formats { oldest, newest, .. } = Formats::OURS;
    match bytes.split_first() {
        Some((&version, body)) if Formats::OURS.reads(version) => Ok(body),
        Some((&version, _)) => {
            let text = format!("{UNKNOWN_VERSION} {version}, only {oldest} to {newest}: nothing was changed, start a newer one");
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        }
        None => Err(empty()),
    }
}

fn empty() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "empty record")
}

fn damaged(error: &bincode::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged record: {error}"))
}

/// Whose log it is: a directory that was put in the wrong place must not speak for another member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogOwner {
    pub(crate) cluster_id: String,
    pub(crate) node_id: NodeId,
}

/// A run of a member on its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// The boot of the machine that it runs on.
    pub(crate) boot_id: String,
    /// What it may have lost before, as long as it has not learnt better.
    pub(crate) doubt: Option<Doubt>,
    /// The group has gone on with other entries than it had applied.
    pub(crate) diverged: bool,
}

/// What a log begins with that goes on alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoundingRecord {
    /// The state holds everything up to there.
    pub(crate) purged: Option<LogIdRecord>,
    /// What is added.
    pub(crate) entries: Vec<EntryRecord>,
}

/// A position in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LogIdRecord {
    pub(crate) term: Term,
    pub(crate) index: u64,
}

/// A vote: for whom in which term, and whether a quorum granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteRecord {
    pub(crate) term: Term,
    pub(crate) voted_for: NodeId,
    pub(crate) committed: bool,
}

/// A member's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    pub(crate) peer_address: String,
    pub(crate) api_address: String,
    pub(crate) wants_vote: bool,
}

/// Who is in the group: one set of voters, or two while they change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipRecord {
    pub(crate) voters: Vec<BTreeSet<NodeId>>,
    pub(crate) members: BTreeMap<NodeId, MemberRecord>,
}

/// A membership and the entry that brought it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredMembershipRecord {
    pub(crate) log_id: Option<LogIdRecord>,
    pub(crate) membership: MembershipRecord,
}

/// What a log entry holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PayloadRecord {
    /// A new leader's first entry.
    Blank,
    /// An encoded `Command`.
    Command(#[serde(deserialize_with = "shared::large_value")] Bytes),
    /// A change of members.
    Membership(MembershipRecord),
}

/// A log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryRecord {
    pub(crate) log_id: LogIdRecord,
    pub(crate) payload: PayloadRecord,
}

/// The current version of a key, in format 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectRow {
    pub(crate) revision: Revision,
    pub(crate) create_revision: Revision,
    pub(crate) split: u32,
    pub(crate) terms: Vec<Bytes>,
    pub(crate) value: Bytes,
}

/// One change of a key: the version it made, or `None` for a delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HistoryRow {
    pub(crate) version: Option<HistoryVersion>,
    /// Revision of the version before, whose row (same key) is kept as long as this one is.
    pub(crate) previous: Option<Revision>,
    pub(crate) cause: Cause,
    pub(crate) time_unix_ms: i64,
}

/// What a put wrote; its revision is that of the row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HistoryVersion {
    pub(crate) create_revision: Revision,
    pub(crate) split: u32,
    pub(crate) terms: Vec<Bytes>,
    pub(crate) value: Bytes,
}

/// What forgetting looks at of a history row, which may be large.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HistoryHead {
    pub(crate) revision: Revision,
    pub(crate) key: Key,
    pub(crate) is_delete: bool,
    pub(crate) previous: Option<Revision>,
    pub(crate) time_unix_ms: i64,
    /// Of its key and its row, as they are written.
    pub(crate) size_bytes: u64,
}

/// A recent transaction and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutcomeRow {
    pub(crate) id: TxnId,
    pub(crate) outcome: Outcome,
}

/// The position of `state/`, written with every change of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateMeta {
    pub(crate) applied: Option<LogIdRecord>,
    pub(crate) membership: StoredMembershipRecord,
    pub(crate) revision: Revision,
    /// History holds the changes after this revision.
    pub(crate) compacted: Revision,
    /// Bytes of the rows of those changes.
    pub(crate) history_bytes: u64,
    /// Ids of transactions in entries at or below this index are forgotten.
    pub(crate) forgotten_index: u64,
}

/// A change of one key, as the history keeps it.
pub(crate) struct HistoryChange {
    pub(crate) key: Key,
    pub(crate) revision: Revision,
    pub(crate) row: HistoryRow,
}

impl HistoryChange {
    /// Bytes of its key and its row, as they are written.
    pub(crate) fn size_bytes(&self) -> u64 {
        (size_of::<Revision>() + self.key.len()) as u64 + size_bytes(&self.row)
    }
}

impl From<raft_types::LogId> for LogIdRecord {
    fn from(id: raft_types::LogId) -> Self {
        Self { term: **id.committed_leader_id(), index: id.index() }
    }
}

impl From<LogIdRecord> for raft_types::LogId {
    fn from(record: LogIdRecord) -> Self {
        Self::new_term_index(record.term, record.index)
    }
}

impl From<&raft_types::Vote> for VoteRecord {
    fn from(vote: &raft_types::Vote) -> Self {
        Self { term: vote.leader_id.term, voted_for: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<VoteRecord> for raft_types::Vote {
    fn from(record: VoteRecord) -> Self {
        if record.committed { Self::new_committed(record.term, record.voted_for) } else { Self::new(record.term, record.voted_for) }
    }
}

impl From<&raft_types::Membership> for MembershipRecord {
    fn from(membership: &raft_types::Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            members: membership
                .nodes()
                .map(|(id, info)| {
                    let record = MemberRecord {
                        peer_address: info.peer_address.clone(),
                        api_address: info.api_address.clone(),
                        wants_vote: info.wants_vote,
                    };
                    (*id, record)
                })
                .collect(),
        }
    }
}

impl MembershipRecord {
    /// The membership as openraft wants it.
    ///
    /// # Errors
    /// `InvalidData` when a voter has no address.
    pub(crate) fn into_membership(self) -> io::Result<raft_types::Membership> {
        if self.voters.is_empty() && self.members.is_empty() {
            return Ok(raft_types::Membership::default());
        }
        let members: BTreeMap<NodeId, raft_types::MemberInfo> = self
            .members
            .into_iter()
            .map(|(id, record)| {
                let info = raft_types::MemberInfo {
                    peer_address: record.peer_address,
                    api_address: record.api_address,
                    wants_vote: record.wants_vote,
                };
                (id, info)
            })
            .collect();
        raft_types::Membership::new(self.voters, members)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("impossible membership: {error}")))
    }
}

impl From<&raft_types::StoredMembership> for StoredMembershipRecord {
    fn from(stored: &raft_types::StoredMembership) -> Self {
        Self { log_id: stored.log_id().map(Into::into), membership: stored.membership().into() }
    }
}

impl StoredMembershipRecord {
    /// The membership as openraft wants it.
    ///
    /// # Errors
    /// As [`MembershipRecord::into_membership`].
    pub(crate) fn into_stored(self) -> io::Result<raft_types::StoredMembership> {
        Ok(raft_types::StoredMembership::new(self.log_id.map(Into::into), self.membership.into_membership()?))
    }
}

impl From<&raft_types::Entry> for EntryRecord {
    fn from(entry: &raft_types::Entry) -> Self {
        let payload = match &entry.payload {
            raft_types::EntryPayload::Blank => PayloadRecord::Blank,
            raft_types::EntryPayload::Normal(payload) => PayloadRecord::Command(payload.0.clone()),
            raft_types::EntryPayload::Membership(membership) => PayloadRecord::Membership(membership.into()),
        };
        Self { log_id: entry.log_id.into(), payload }
    }
}

impl EntryRecord {
    /// The entry as openraft wants it.
    ///
    /// # Errors
    /// As [`MembershipRecord::into_membership`]; `Unsupported` for a command of a newer program.
    pub(crate) fn into_entry(self) -> io::Result<raft_types::Entry> {
        let payload = match self.payload {
            PayloadRecord::Blank => raft_types::EntryPayload::Blank,
            PayloadRecord::Command(bytes) => {
                // what this member could not apply must not enter its log
                body(&bytes)?;
                raft_types::EntryPayload::Normal(raft_types::Payload(bytes))
            }
            PayloadRecord::Membership(record) => raft_types::EntryPayload::Membership(record.into_membership()?),
        };
        Ok(raft_types::Entry { log_id: self.log_id.into(), payload })
    }

    /// Bytes it takes in memory and on the wire, about.
    pub(crate) fn size_bytes(entry: &raft_types::Entry) -> usize {
        match &entry.payload {
            raft_types::EntryPayload::Normal(payload) => 32 + payload.0.len(),
            raft_types::EntryPayload::Blank => 32,
            raft_types::EntryPayload::Membership(_) => 1024,
        }
    }
}
