//! A state in format 1 is taken over: it had the current versions in a family of their own, and those whose change was compacted only there.

use std::io;
use std::path::Path;

use rocksdb::{DB, IteratorMode, Options};

use super::{Rows, StateDb};
use crate::command::{Cause, Key};
use crate::records::{self, HistoryChange, HistoryRow, HistoryVersion, ObjectRow};

/// The family of current versions in format 1.
const OBJECTS: &str = "objects";
/// How many bytes are written and flushed at once.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// The families that a database in `path` has beside those of today.
pub(super) fn families(path: &Path) -> Option<&'static str> {
    let on_disk = if path.join("CURRENT").exists() { DB::list_cf(&Options::default(), path) } else { Ok(Vec::new()) };
    // whatever is wrong shows when it is opened
    on_disk.unwrap_or_default().iter().any(|family| family == OBJECTS).then_some(OBJECTS)
}

impl StateDb {
    /// Gives every current version its row in the history, if this is a state in format 1. An interrupted take-over begins anew.
    ///
    /// # Errors
    /// Of RocksDB, and damaged rows.
    pub(super) fn take_over(&mut self) -> io::Result<()> {
        let Some(objects) = self.db.cf_handle(OBJECTS) else { return Ok(()) };
        let meta = self.meta()?;
        let mut rows = Rows::default();
        for row in self.db.iterator_cf(objects, IteratorMode::Start) {
            let (key, value) = row.map_err(|error| self.error(error))?;
            let (key, row) = (Key::from(key.into_vec()), records::decode::<ObjectRow>(&value)?);
            if self.version(&key, row.revision)?.is_some() {
                continue;
            }
            let ObjectRow { revision, create_revision, split, terms, value } = row;
            let version = Some(HistoryVersion { create_revision, split, terms, value });
            let row = HistoryRow { version, previous: None, cause: Cause::default(), time_unix_ms: 0 };
            rows.stage_kept(&HistoryChange { key, revision, row });
            if rows.size_bytes() >= BATCH_BYTES_MAX {
                self.write(&std::mem::take(&mut rows), &meta)?;
                self.flush()?;
            }
        }
        self.write(&rows, &meta)?;
        self.flush()?;
        self.db.drop_cf(OBJECTS).map_err(|error| io::Error::other(error.into_string()))
    }
}
