//! A log that is made or gone through while no member runs on it.

use std::io;

use rocksdb::WriteBatch;

use super::LogStore;
use super::frame::Frame;
use super::sync::Files;
use crate::keys;
use crate::records::{self, EntryRecord, FoundingRecord, LogIdRecord, LogOwner, VoteRecord};

impl LogStore {
    /// Whose log it is, if it is somebody's.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn owner(&self) -> io::Result<Option<LogOwner>> {
        self.inner.meta_record(keys::LOG_OWNER)
    }

    /// The newest term that it knows of.
    pub(crate) fn newest_term(&self) -> u64 {
        let tail = self.inner.tail.lock();
        let voted = tail.vote.as_ref().map_or(0, |vote| VoteRecord::from(vote).term);
        let last = tail.last.map_or(0, |last| LogIdRecord::from(last).term);
        voted.max(last)
    }

    /// The entries after `index`, or all.
    ///
    /// # Errors
    /// Of the disk, and damaged entries.
    pub(crate) fn entries_after(&self, index: Option<u64>) -> io::Result<Vec<EntryRecord>> {
        let entries = self.inner.read(index.map_or(0, |index| index + 1), u64::MAX, usize::MAX)?;
        Ok(entries.iter().map(EntryRecord::from).collect())
    }

    /// Gives the log to `owner`, who leads alone: adds `entries`, all of one new term in which it has voted for itself, and drops what is
    /// noted of a run that may have lost something. `purged`: the state holds everything up to there, and the log begins after it.
    ///
    /// # Errors
    /// Of the disk; nothing is changed then.
    pub(crate) fn found(&self, owner: &LogOwner, purged: Option<LogIdRecord>, entries: &[EntryRecord]) -> io::Result<()> {
        let inner = &self.inner;
        let mut batch = WriteBatch::default();
        batch.put_cf(inner.meta(), keys::LOG_OWNER, records::encode_layout(owner));
        batch.delete_cf(inner.meta(), keys::LOG_RUN);
        if let Some(last) = entries.last() {
            let vote = VoteRecord { term: last.log_id.term, voted_for: owner.node_id, committed: true };
            batch.put_cf(inner.meta(), keys::LOG_VOTE, records::encode(&vote));
        }
        let founding = FoundingRecord { purged, entries: entries.to_vec() };
        batch.put_cf(inner.meta(), keys::LOG_FOUNDING, records::encode(&founding));
        inner.db().write(batch).and_then(|()| inner.db().flush_wal(true)).map_err(|error| inner.error(error))?;
        finish(&inner.files)
    }
}

/// Adds the entries of a founding that is decided: at once, or with the next start if this one is interrupted.
///
/// # Errors
/// Of the disk.
pub(super) fn finish(files: &Files) -> io::Result<()> {
    let Some(FoundingRecord { purged, entries }) = files.record(keys::LOG_FOUNDING)? else { return Ok(()) };
    if let Some(purged) = purged {
        files.journal.append(&Frame::Purged(purged))?;
        files.journal.append(&Frame::Committed(purged))?;
    }
    let [last, _, _] = files.journal.positions();
    for entry in entries.into_iter().filter(|entry| last.is_none_or(|last| last < entry.log_id)) {
        files.journal.append(&Frame::Entry(entry))?;
    }
    files.journal.write(true)?;
    files.db.delete_cf(files.meta(), keys::LOG_FOUNDING).and_then(|()| files.db.flush_wal(true)).map_err(io::Error::other)
}
