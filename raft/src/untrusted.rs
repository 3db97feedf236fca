//! Everything that reads bytes which this process has not written itself: from peers, from the disk, from a file that somebody calls a backup.
//! One list, so that whoever throws garbage at it (`raft/fuzz`) misses nothing.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use futures::FutureExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backup;
use crate::command::{Command, NodeId};
use crate::gaps::Gaps;
use crate::log_store::Frame;
use crate::network::frame::{self, FRAME_BYTES_MAX};
use crate::network::messages::{Hello, HelloReply, Request, Response};
use crate::records::{self, EntryRecord, HistoryRow, LogIdRecord, LogOwner, ObjectRow, OutcomeRow, RunRecord, StateMeta, VoteRecord};

/// Something that reads such bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reader {
    /// The first frame of a connection, from a peer that nobody knows yet.
    Hello,
    /// The answer to it.
    HelloReply,
    /// A peer's request, in its frame.
    Request,
    /// A peer's response, in its frame.
    Response,
    /// What a log entry asks for, as a proposer has sent it.
    Command,
    /// `log/`: what a frame of the journal says.
    JournalFrame,
    /// `log/` in its first layout: an entry.
    LogEntry,
    /// `log/`: the vote.
    LogVote,
    /// `log/` in its first layout: a position.
    LogPosition,
    /// `log/`: whose it is.
    LogOwner,
    /// `log/`: the last run on it.
    LogRun,
    /// `log/`: the number of a log, its own or a peer's.
    LogIdentity,
    /// `state/` in its first layout: the current version of a key.
    Object,
    /// `state/`: a change of a key.
    History,
    /// `state/`: a recent transaction.
    Outcome,
    /// `state/`: the position of it all.
    StateMeta,
    /// `state/`: the members that were removed.
    Removed,
    /// `state/`: the revisions that were left out.
    Gaps,
}

impl Reader {
    /// All of them but [`backup_file`], which needs a file.
    pub const ALL: [Self; 18] = [
        Self::Hello,
        Self::HelloReply,
        Self::Request,
        Self::Response,
        Self::Command,
        Self::JournalFrame,
        Self::LogEntry,
        Self::LogVote,
        Self::LogPosition,
        Self::LogOwner,
        Self::LogRun,
        Self::LogIdentity,
        Self::Object,
        Self::History,
        Self::Outcome,
        Self::StateMeta,
        Self::Removed,
        Self::Gaps,
    ];

    /// Who reads the row under `key` in a column family of a member's database `log` or `state`.
    pub fn of_row(database: &str, family: &str, key: &[u8]) -> Option<Self> {
        Some(match (database, family, key) {
            ("log", "meta", b"vote") => Self::LogVote,
            ("log", "meta", b"owner") => Self::LogOwner,
            ("log", "meta", b"run") => Self::LogRun,
            ("log", "meta", b"identity") => Self::LogIdentity,
            ("state", "history", _) => Self::History,
            ("state", "outcomes", _) => Self::Outcome,
            ("state", "meta", b"state") => Self::StateMeta,
            ("state", "meta", b"removed members") => Self::Removed,
            ("state", "meta", b"gaps") => Self::Gaps,
            _ => return None,
        })
    }

    /// Reads `bytes` as this program does, and returns what it has understood, written again.
    ///
    /// # Errors
    /// The bytes are refused.
    pub fn read(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Hello => greeting::<Hello>(bytes),
            Self::HelloReply => greeting::<HelloReply>(bytes),
            Self::Request => message::<Request>(bytes),
            Self::Response => message::<Response>(bytes),
            Self::Command => record::<Command>(bytes),
            Self::JournalFrame => record::<Frame>(bytes),
            Self::LogEntry => {
                let entry = records::decode::<EntryRecord>(bytes)?.into_entry()?;
                Ok(records::encode(&EntryRecord::from(&entry)))
            }
            Self::LogVote => record::<VoteRecord>(bytes),
            Self::LogPosition => record::<LogIdRecord>(bytes),
            Self::LogOwner => record::<LogOwner>(bytes),
            Self::LogRun => record::<RunRecord>(bytes),
            Self::LogIdentity => record::<u128>(bytes),
            Self::Object => record::<ObjectRow>(bytes),
            Self::History => record::<HistoryRow>(bytes),
            Self::Outcome => record::<OutcomeRow>(bytes),
            Self::StateMeta => {
                let meta = records::decode::<StateMeta>(bytes)?;
                // openraft gets it when the member starts
                meta.membership.clone().into_stored()?;
                Ok(records::encode(&meta))
            }
            Self::Removed => record::<BTreeSet<NodeId>>(bytes),
            Self::Gaps => record::<Gaps>(bytes),
        }
    }
}

/// Reads a file as a backup.
///
/// # Errors
/// It is none, or damaged.
pub fn backup_file(path: &Path) -> Result<(), backup::BackupError> {
    backup::verify(path, &mut |_, _| {}).map(drop)
}

fn record<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> io::Result<Vec<u8>> {
    records::decode::<T>(bytes).map(|record| records::encode(&record))
}

fn message<T: Serialize + DeserializeOwned>(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let read = frame::read::<T>(&mut bytes, FRAME_BYTES_MAX).now_or_never();
    let (id, message) = read.transpose()?.flatten().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok(frame::encode(id, &message))
}

fn greeting<T: Serialize + DeserializeOwned>(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let read = frame::read_greeting::<T>(&mut bytes).now_or_never();
    let greeting = read.transpose()?.flatten().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok(frame::encode(0, &greeting))
}
