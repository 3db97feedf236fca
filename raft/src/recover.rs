//! A cluster that has lost its quorum for good goes on with one survivor. Only for a member whose process has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use crate::command::{Command, NodeId, Revision};
use crate::environment::Environment;
use crate::log_store::{LogStore, damage};
use crate::records::{self, EntryRecord, LogIdRecord, LogOwner, MembershipRecord, PayloadRecord};
use crate::restore::skip;
use crate::state_db::StateDb;
use crate::store::OpenError;

/// What a survivor has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// Of which cluster.
    pub cluster_id: String,
    /// Its id.
    pub node_id: NodeId,
    /// Term and index of its last log entry.
    pub last: (u64, u64),
    /// Revision of its state, before the entries that are not applied yet.
    pub revision: Revision,
    /// Entries of its log that are not applied yet. They are kept: a quorum may have acknowledged them.
    pub unapplied: u64,
    /// When the last change that it has was made.
    pub last_change_unix_ms: Option<i64>,
    /// The other members, with their addresses: they must never start again.
    pub lost: BTreeMap<NodeId, String>,
}

struct Opened {
    log: LogStore,
    survivor: Survivor,
    membership: MembershipRecord,
}

/// Says what would be kept. Changes nothing.
///
/// # Errors
/// Another process uses the store, it holds no member, or it is damaged.
pub fn look(store_dir: &Path) -> Result<Survivor, OpenError> {
    open(store_dir).map(|opened| opened.survivor)
}

/// Makes the member in `store_dir` the only one of a cluster that is named `cluster_id` from now on, so that the lost ones cannot talk with
/// it any more. Its log is kept whole, and revisions go on [`crate::restore::REVISIONS_SKIPPED`] later.
///
/// # Errors
/// As [`look`], and of the disk; nothing is changed then.
pub fn recover(store_dir: &Path, cluster_id: &str) -> Result<Survivor, OpenError> {
    let Opened { log, survivor, mut membership } = open(store_dir)?;
    let id = survivor.node_id;
    membership.members.retain(|member, _| *member == id);
    membership.voters = vec![BTreeSet::from([id])];
    let (term, last) = (log.newest_term() + 1, survivor.last.1);
    let alone = EntryRecord { log_id: LogIdRecord { term, index: last + 1 }, payload: PayloadRecord::Membership(membership) };
    let owner = LogOwner { cluster_id: cluster_id.to_owned(), node_id: id };
    log.found(&owner, None, &[alone, skip(LogIdRecord { term, index: last + 2 })])
        .map_err(|error| OpenError { path: store_dir.to_owned(), reason: error.to_string() })?;
    Ok(survivor)
}

fn open(store_dir: &Path) -> Result<Opened, OpenError> {
    let failed = |reason: String| OpenError { path: store_dir.to_owned(), reason };
    let unreadable = |error: io::Error| failed(damage(&error.to_string()));
    let no_member = || failed("it holds no member of a cluster".to_owned());
    let log_dir = store_dir.join("log");
    if !fs::exists(&log_dir).map_err(|error| failed(error.to_string()))? {
        return Err(no_member());
    }
    let log = LogStore::open(&log_dir, &Environment::default(), None)?;
    let owner = log.owner().map_err(unreadable)?.ok_or_else(no_member)?;
    let state = StateDb::open_current(&store_dir.join("state"), None)?;
    let (loaded, meta) = state.load().map_err(unreadable)?;
    let applied = meta.applied.unwrap_or_default();
    let entries = log.entries_after(meta.applied.map(|applied| applied.index)).map_err(unreadable)?;
    let mut membership = meta.membership.membership;
    let mut last_change_unix_ms = state.last_change_unix_ms().map_err(unreadable)?;
    for entry in &entries {
        match &entry.payload {
            PayloadRecord::Membership(newer) => membership = newer.clone(),
            PayloadRecord::Command(bytes) => {
                if let Command::Txn { time_unix_ms, .. } | Command::Volatile { time_unix_ms, .. } =
                    records::decode(bytes).map_err(unreadable)?
                {
                    last_change_unix_ms = last_change_unix_ms.max(Some(time_unix_ms));
                }
            }
            PayloadRecord::Blank => {}
        }
    }
    if !membership.members.contains_key(&owner.node_id) || loaded.removed.contains(&owner.node_id) {
        return Err(failed(format!("member {} was not in its cluster any more, as far as it knows", owner.node_id)));
    }
    let last = entries.last().map_or(applied, |entry| entry.log_id);
    let others = membership.members.iter().filter(|(id, _)| **id != owner.node_id);
    let survivor = Survivor {
        cluster_id: owner.cluster_id,
        node_id: owner.node_id,
        last: (last.term, last.index),
        revision: meta.revision,
        unapplied: entries.len() as u64,
        last_change_unix_ms,
        lost: others.map(|(id, member)| (*id, member.peer_address.clone())).collect(),
    };
    Ok(Opened { log, survivor, membership })
}
