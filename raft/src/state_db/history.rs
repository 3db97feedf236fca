//! Reading the history: what changed when, and what was there before.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use rocksdb::{DBRawIterator, ReadOptions};

use super::StateDb;
use super::row::{Change, Row};
use crate::columns::StateColumn;
use crate::command::{Key, Revision};
use crate::keys;
use crate::records;
use crate::view::Record;
use crate::watch::{Event, EventKind};

/// How much is read ahead when all of it is read.
const READ_AHEAD_BYTES: usize = 2 << 20;

/// Events read from the history, and how far the reading got.
pub(crate) struct HistorySlice {
    /// In order; whole transactions.
    pub(crate) events: Vec<Arc<Event>>,
    /// All changes up to and including this revision were looked at.
    pub(crate) upto: Revision,
}

impl StateDb {
    /// When the last change in the history was made.
    ///
    /// # Errors
    /// `InvalidData` for damaged rows.
    pub(crate) fn last_change_unix_ms(&self) -> io::Result<Option<i64>> {
        let mut rows = self.rows(ReadOptions::default())?;
        rows.seek_to_last();
        let last = rows.item().map(|(key, bytes)| Row::new(key, bytes)?.change()).transpose()?;
        rows.status().map_err(|error| self.error(error))?;
        Ok(last.map(|change| change.time_unix_ms))
    }

    /// The changes below `prefix` after `after`: whole transactions, about `events_max` of them at most.
    ///
    /// # Errors
    /// `InvalidData` for damaged rows.
    pub(crate) fn events_after(&self, prefix: &[u8], after: Revision, upto: Revision, events_max: usize) -> io::Result<HistorySlice> {
        let mut slice = HistorySlice { events: Vec::new(), upto };
        self.scan(after, |row| {
            if row.revision > upto {
                return Ok(false);
            }
            if slice.events.last().is_some_and(|last| slice.events.len() >= events_max && last.revision != row.revision) {
                slice.upto = row.revision - 1;
                return Ok(false);
            }
            if row.key.starts_with(prefix) {
                slice.events.extend(self.event(row)?);
            }
            Ok(true)
        })?;
        Ok(slice)
    }

    /// The versions that keys below `prefix` had at `revision`, for those that changed after it: `None` for keys that did not exist.
    ///
    /// # Errors
    /// `InvalidData` for damaged rows.
    pub(crate) fn versions_at(&self, prefix: &[u8], revision: Revision, upto: Revision) -> io::Result<BTreeMap<Key, Option<Arc<Record>>>> {
        let mut versions = BTreeMap::new();
        self.scan(revision, |row| {
            if row.revision > upto {
                return Ok(false);
            }
            if row.key.starts_with(prefix) && !versions.contains_key(row.key) {
                let key = Key::copy_from_slice(row.key);
                let before = self.version_before(&key, &row.change()?)?;
                versions.insert(key, before);
            }
            Ok(true)
        })?;
        Ok(versions)
    }

    /// The event of a row; `None` if the row lacks what it refers to.
    fn event(&self, row: Row<'_>) -> io::Result<Option<Arc<Event>>> {
        let change = row.change()?;
        let key = Key::copy_from_slice(row.key);
        let previous = self.version_before(&key, &change)?;
        let (kind, record) = match (change.version, &previous) {
            (Some(version), _) => (EventKind::Put, Arc::new(version.record(key, row.revision))),
            (None, Some(previous)) => (EventKind::Delete, Arc::clone(previous)),
            (None, None) => return Ok(None),
        };
        let encoded = parking_lot::Mutex::default();
        Ok(Some(Arc::new(Event { kind, revision: row.revision, record, previous, encoded })))
    }

    fn version_before(&self, key: &Key, change: &Change<'_>) -> io::Result<Option<Arc<Record>>> {
        change.previous.map_or(Ok(None), |previous| self.version(key, previous))
    }

    /// The version of a key that a transaction wrote, if it is still there.
    ///
    /// # Errors
    /// `InvalidData` for a damaged row.
    pub(super) fn version(&self, key: &Key, revision: Revision) -> io::Result<Option<Arc<Record>>> {
        let row = self.db.get_pinned_cf(self.column(StateColumn::History), keys::history(revision, key));
        let Some(bytes) = row.map_err(|error| self.error(error))? else { return Ok(None) };
        let change: Change<'_> = records::decode(&bytes)?;
        Ok(change.version.map(|version| Arc::new(version.record(key.clone(), revision))))
    }

    /// Calls `visit` for the rows after `after`, in order, until it answers `false`.
    fn scan(&self, after: Revision, visit: impl FnMut(Row<'_>) -> io::Result<bool>) -> io::Result<()> {
        let Some(first) = after.checked_add(1) else { return Ok(()) };
        let mut rows = self.rows(ReadOptions::default())?;
        rows.seek(keys::index(first));
        self.visit(rows, visit)
    }

    /// Calls `visit` for all rows from `first` on, and before `end` if there is one, in order.
    pub(super) fn scan_part(
        &self,
        first: Revision,
        end: Option<Revision>,
        mut visit: impl FnMut(Row<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(READ_AHEAD_BYTES);
        // nobody needs them again
        options.fill_cache(false);
        if let Some(end) = end {
            options.set_iterate_upper_bound(keys::index(end));
        }
        let mut rows = self.rows(options)?;
        rows.seek(keys::index(first));
        self.visit(rows, |row| visit(row).map(|()| true))
    }

    /// The rows, those among them that waited.
    fn rows(&self, options: ReadOptions) -> io::Result<DBRawIterator<'_>> {
        self.settle_to_read()?;
        Ok(self.db.raw_iterator_cf_opt(self.column(StateColumn::History), options))
    }

    fn visit(&self, mut rows: DBRawIterator<'_>, mut visit: impl FnMut(Row<'_>) -> io::Result<bool>) -> io::Result<()> {
        while let Some((key, bytes)) = rows.item() {
            if !visit(Row::new(key, bytes)?)? {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|error| self.error(error))
    }
}
