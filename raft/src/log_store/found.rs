//! A log that is made or gone through while no member runs on it.

use std::io;

use rocksdb::WriteBatch;

use super::LogStore;
use crate::columns::LogColumn;
use crate::keys;
use crate::records::{self, EntryRecord, LogIdRecord, LogOwner, VoteRecord};

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
        let (meta, rows) = (inner.column(LogColumn::Meta), inner.column(LogColumn::Entries));
        let mut batch = WriteBatch::default();
        batch.put_cf(meta, keys::LOG_OWNER, records::encode(owner));
        batch.delete_cf(meta, keys::LOG_RUN);
        if let Some(purged) = purged {
            batch.put_cf(meta, keys::LOG_PURGED, records::encode(&purged));
            batch.put_cf(meta, keys::LOG_COMMITTED, records::encode(&purged));
        }
        for entry in entries {
            let vote = VoteRecord { term: entry.log_id.term, voted_for: owner.node_id, committed: true };
            batch.put_cf(meta, keys::LOG_VOTE, records::encode(&vote));
            batch.put_cf(rows, keys::index(entry.log_id.index), records::encode(entry));
        }
        inner.db.write(batch).map_err(|error| inner.error(error))?;
        inner.db.flush_wal(true).map_err(|error| inner.error(error))
    }
}
