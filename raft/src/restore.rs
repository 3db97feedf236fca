//! A new cluster of one member from a backup.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::backup::{self, BackupError, BackupHeader};
use crate::command::Command;
use crate::environment::Environment;
use crate::log_store::LogStore;
use crate::records::{self, EntryRecord, LogIdRecord, LogOwner, MemberRecord, MembershipRecord, PayloadRecord, StoredMembershipRecord};
use crate::state_db::{Rows, StateDb};

/// How many revisions a cluster skips that goes on from an earlier state: those that were given out after that state are never given out
/// again with another meaning, unless there were more of them.
pub const REVISIONS_SKIPPED: u64 = 1_000_000_000;

/// Makes the store in `store_dir` from a backup: that of a cluster named `cluster_id`, whose only member is the one that the backup was taken
/// from. All objects keep their revisions; the next one is [`REVISIONS_SKIPPED`] later, and watches from before it begin anew.
///
/// # Errors
/// [`BackupError`]; `store_dir` is not there then.
pub fn restore(path: &Path, store_dir: &Path, cluster_id: &str, progress: &mut dyn FnMut(u64, u64)) -> Result<BackupHeader, BackupError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| BackupError::File { path, source }
    };
    if fs::read_dir(store_dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(BackupError::Occupied(store_dir.to_owned()));
    }
    let building = building_dir(store_dir);
    if building.exists() {
        fs::remove_dir_all(&building).map_err(at(&building))?;
    }
    let state_dir = building.join("state");
    let generation = state_dir.join("000001");
    fs::create_dir_all(&generation).map_err(at(&generation))?;
    let restored = backup::read(path, Some(&generation), progress).and_then(|header| {
        let damaged = |reason: String| BackupError::Damaged { path: path.to_owned(), reason };
        let state = StateDb::open_current(&state_dir, None).map_err(|error| damaged(error.to_string()))?;
        let last = found_state(&state, &header).map_err(|error| damaged(error.to_string()))?;
        let log = LogStore::open(&building.join("log"), &Environment::default(), None)
            .map_err(|error| BackupError::File { path: building.clone(), source: io::Error::other(error.to_string()) })?;
        let owner = LogOwner { cluster_id: cluster_id.to_owned(), node_id: header.node_id };
        log.found(&owner, Some(last), &[skip(LogIdRecord { term: last.term + 1, index: last.index + 1 })]).map_err(at(&building))?;
        Ok(header)
    });
    let finished = restored.and_then(|header| {
        if store_dir.exists() {
            fs::remove_dir(store_dir).map_err(at(store_dir))?;
        }
        fs::rename(&building, store_dir).map_err(at(store_dir))?;
        let parent = store_dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(at(parent))?;
        Ok(header)
    });
    if finished.is_err() && building.exists() {
        fs::remove_dir_all(&building).map_err(at(&building))?;
    }
    finished
}

fn building_dir(store_dir: &Path) -> PathBuf {
    let mut name = store_dir.as_os_str().to_owned();
    name.push(".restoring");
    name.into()
}

/// Makes the state that of a group of one; returns its position in the log.
fn found_state(state: &StateDb, header: &BackupHeader) -> io::Result<LogIdRecord> {
    let (loaded, mut meta) = state.load()?;
    let position = LogIdRecord { term: header.term, index: header.index };
    if meta.applied != Some(position) || meta.revision != header.revision {
        return Err(io::Error::other(format!("it holds revision {} instead of {}", meta.revision, header.revision)));
    }
    let mut removed: BTreeSet<_> = loaded.removed;
    removed.extend(meta.membership.membership.members.keys().filter(|id| **id != header.node_id));
    let own = MemberRecord { peer_address: String::new(), api_address: String::new(), wants_vote: true };
    let membership = MembershipRecord { voters: vec![BTreeSet::from([header.node_id])], members: BTreeMap::from([(header.node_id, own)]) };
    meta.membership = StoredMembershipRecord { log_id: Some(position), membership };
    let mut rows = Rows::default();
    rows.stage_removed_members(&removed);
    state.write(&rows, &meta)?;
    state.flush()?;
    Ok(position)
}

/// The entry after which revisions go on far beyond those that may have been given out.
pub(crate) fn skip(log_id: LogIdRecord) -> EntryRecord {
    let command = records::encode(&Command::Skip { revisions: REVISIONS_SKIPPED });
    EntryRecord { log_id, payload: PayloadRecord::Command(command.into()) }
}
