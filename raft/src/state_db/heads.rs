//! What forgetting looks at of the history, in rows of their own: the changes themselves are large, long out of every cache, and every member
//! would read them once more only to remove them. `docs/decisions/0017-what-forgetting-reads.md` says what that saves.

use std::io;

use rocksdb::{Direction, IteratorMode, WriteBatch, WriteOptions};

use super::StateDb;
use super::row::Row;
use crate::columns::StateColumn;
use crate::command::{Key, Revision};
use crate::keys;
use crate::records::{self, HistoryHead};

/// A row has about so many heads.
const ROW_HEADS: usize = 256;

/// A part of the history that should be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ToForget {
    /// The last revision in it.
    pub(crate) upto: Revision,
    /// Of its rows; 0 if there is nothing to forget.
    pub(crate) bytes: u64,
    /// There is more after it.
    pub(crate) more: bool,
}

impl ToForget {
    /// Nothing after `upto`.
    pub(crate) const fn nothing(upto: Revision) -> Self {
        Self { upto, bytes: 0, more: false }
    }
}

/// A part of the history that is forgotten.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// Its changes, in order.
    pub(crate) changes: Vec<HistoryHead>,
    /// The rows of heads of which nothing is left, by the last revision in each.
    pub(crate) rows_of_heads: Vec<Revision>,
}

/// Puts heads into rows, whole transactions each. They are in order.
pub(super) fn write(mut heads: &[HistoryHead], mut put: impl FnMut([u8; 8], Vec<u8>)) {
    while let Some(last) = heads.get(..heads.len().min(ROW_HEADS)).and_then(<[_]>::last) {
        let (row, rest) = heads.split_at(heads.partition_point(|head| head.revision <= last.revision));
        put(keys::index(last.revision), records::encode(&row));
        heads = rest;
    }
}

impl StateDb {
    /// What should be forgotten of the changes after `after`: those made before `before_unix_ms`, and those that belong to the first `excess_bytes` of
    /// the history's rows, but no more than `changes_max` and the rest of a transaction. What waits is looked at when nothing else would be left.
    ///
    /// # Errors
    /// `InvalidData` for damaged rows.
    pub(crate) fn to_forget(&self, after: Revision, before_unix_ms: i64, excess_bytes: u64, changes_max: usize) -> io::Result<ToForget> {
        let look = || {
            let (mut found, mut changes, mut is_all) = (ToForget::nothing(after), 0, true);
            self.visit_heads(after, |_, head| {
                // the rest of a transaction goes with its beginning
                if head.revision != found.upto {
                    let goes = head.time_unix_ms < before_unix_ms || found.bytes < excess_bytes;
                    found.more = goes && changes >= changes_max;
                    if !goes || found.more {
                        is_all = false;
                        return false;
                    }
                }
                changes += 1;
                found.bytes += head.size_bytes;
                found.upto = head.revision;
                true
            })?;
            io::Result::Ok((found, is_all))
        };
        let (found, is_all) = look()?;
        if !is_all {
            return Ok(found);
        }
        self.settle_to_read()?;
        Ok(look()?.0)
    }

    /// What is forgotten when everything in `(after, upto]` is.
    ///
    /// # Errors
    /// `InvalidData` for damaged rows.
    pub(crate) fn forgotten(&self, after: Revision, upto: Revision) -> io::Result<Forgotten> {
        if !self.has_written(upto) {
            self.settle_to_read()?;
        }
        let (mut changes, mut rows_of_heads) = (Vec::new(), Vec::new());
        self.visit_heads(after, |last, head| {
            if head.revision > upto {
                return false;
            }
            if head.revision == last && rows_of_heads.last() != Some(&last) {
                rows_of_heads.push(last);
            }
            changes.push(head);
            true
        })?;
        Ok(Forgotten { changes, rows_of_heads })
    }

    /// Calls `visit` with the last revision of its row for each head after `after`, in order, until it answers `false`.
    fn visit_heads(&self, after: Revision, mut visit: impl FnMut(Revision, HistoryHead) -> bool) -> io::Result<()> {
        let Some(first) = after.checked_add(1) else { return Ok(()) };
        let key = keys::index(first);
        for row in self.db.iterator_cf(self.column(StateColumn::Heads), IteratorMode::From(&key, Direction::Forward)) {
            let (key, row) = row.map_err(|error| self.error(error))?;
            let last = keys::parse_index(&key).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "damaged key of heads"))?;
            for head in records::decode::<Vec<HistoryHead>>(&row)? {
                if head.revision >= first && !visit(last, head) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Gives the changes that may be forgotten one day their heads, if this is a state of a program that wrote none. The newest come first, so that
    /// after an interruption the oldest change has none, and all of it begins anew.
    ///
    /// # Errors
    /// Of RocksDB, and damaged rows.
    pub(super) fn complete_heads(&self) -> io::Result<()> {
        let Some(first) = self.meta()?.compacted.checked_add(1) else { return Ok(()) };
        let key = keys::index(first);
        let history = self.column(StateColumn::History);
        let Some(oldest) = self.db.iterator_cf(history, IteratorMode::From(&key, Direction::Forward)).next() else { return Ok(()) };
        let (key, bytes) = oldest.map_err(|error| self.error(error))?;
        let (oldest, mut known) = (Row::new(&key, &bytes)?.revision, None);
        self.visit_heads(first - 1, |_, head| {
            known = Some(head.revision);
            false
        })?;
        if known == Some(oldest) {
            return Ok(());
        }
        tracing::info!("Listing the history for what forgets it");
        let mut heads: Vec<HistoryHead> = Vec::new();
        for row in self.db.iterator_cf(history, IteratorMode::End) {
            let (key, bytes) = row.map_err(|error| self.error(error))?;
            let head = Row::new(&key, &bytes)?.head()?;
            if head.revision < first {
                break;
            }
            if heads.len() >= ROW_HEADS && heads.last().is_some_and(|later| later.revision != head.revision) {
                self.write_heads(std::mem::take(&mut heads))?;
            }
            heads.push(head);
        }
        self.write_heads(heads)?;
        self.flush()
    }

    /// What forgetting would look at of each row of the history, those among them that waited.
    #[cfg(test)]
    pub(crate) fn listed(&self) -> io::Result<Vec<HistoryHead>> {
        self.settle_to_read()?;
        let rows = self.db.iterator_cf(self.column(StateColumn::History), IteratorMode::Start);
        rows.map(|row| row.map_err(|error| self.error(error)).and_then(|(key, bytes)| Row::new(&key, &bytes)?.head())).collect()
    }

    /// Writes heads that have the newest first.
    fn write_heads(&self, mut heads: Vec<HistoryHead>) -> io::Result<()> {
        heads.reverse();
        let mut batch = WriteBatch::default();
        write(&heads, |key, row| batch.put_cf(self.column(StateColumn::Heads), key, row));
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|error| self.error(error))
    }
}

impl Row<'_> {
    /// What forgetting looks at of it.
    ///
    /// # Errors
    /// `InvalidData` for a damaged row.
    fn head(&self) -> io::Result<HistoryHead> {
        let change = self.change()?;
        Ok(HistoryHead {
            revision: self.revision,
            key: Key::copy_from_slice(self.key),
            is_delete: change.version.is_none(),
            previous: change.previous,
            time_unix_ms: change.time_unix_ms,
            size_bytes: self.size_bytes(),
        })
    }
}
