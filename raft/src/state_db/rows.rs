//! Rows of the state that are written together. RocksDB takes a batch away with each attempt to write it, and moves what is in it while it
//! grows; so the batch is made of them when it is written, in one piece.

use std::collections::BTreeSet;

use crate::apply::Write;
use crate::columns::StateColumn;
use crate::command::{Key, NodeId, Revision};
use crate::gaps::Gaps;
use crate::keys;
use crate::records::{self, HistoryChange, HistoryHead, HistoryRow, OutcomeRow};

/// RocksDB's own bytes of a row: what is done with it, the family, two lengths.
const ROW_BYTES: usize = 16;
/// A head without its key, about.
const HEAD_BYTES: usize = 24;

/// What is written to the state in one step, together with its position.
#[derive(Default)]
pub(crate) struct Rows {
    rows: Vec<Row>,
    /// Of those of the history that may be forgotten one day, in order.
    heads: Vec<HistoryHead>,
    size_bytes: usize,
}

/// What becomes of the row with a key.
pub(super) struct Row {
    pub(super) column: StateColumn,
    pub(super) key: Vec<u8>,
    /// `None`: it is removed.
    pub(super) value: Option<Vec<u8>>,
}

impl Rows {
    /// Adds what was decided.
    pub(crate) fn stage(&mut self, write: Write) {
        match write {
            Write::PutHistory(change) => self.put_history(change),
            Write::PutOutcome { index, id, outcome } => {
                self.add(StateColumn::Outcomes, keys::index(index), Some(records::encode(&OutcomeRow { id, outcome })));
            }
            Write::DeleteOutcome { index } => self.add(StateColumn::Outcomes, keys::index(index), None),
        }
    }

    /// Adds the version of a key that nobody has changed since the history was forgotten.
    pub(super) fn stage_kept(&mut self, change: &HistoryChange) {
        self.add(StateColumn::History, keys::history(change.revision, &change.key), Some(records::encode(&change.row)));
    }

    /// Adds the ids of removed members.
    pub(crate) fn stage_removed_members(&mut self, removed: &BTreeSet<NodeId>) {
        self.add(StateColumn::Meta, keys::STATE_REMOVED, Some(records::encode(removed)));
    }

    /// Adds the revisions that were left out.
    pub(crate) fn stage_gaps(&mut self, gaps: &Gaps) {
        self.add(StateColumn::Meta, keys::STATE_GAPS, Some(records::encode(gaps)));
    }

    /// Adds the removal of history.
    pub(crate) fn stage_removed(&mut self, rows: Vec<(Revision, Key)>) {
        for (revision, key) in rows {
            self.add(StateColumn::History, keys::history(revision, &key), None);
        }
    }

    /// Adds the removal of rows of heads, by the last revision in each.
    pub(crate) fn stage_removed_heads(&mut self, rows: Vec<Revision>) {
        for last in rows {
            self.add(StateColumn::Heads, keys::index(last), None);
        }
    }

    /// Adds what is to be written after them.
    pub(super) fn append(&mut self, mut later: Self) {
        self.rows.append(&mut later.rows);
        self.heads.append(&mut later.heads);
        self.size_bytes += later.size_bytes;
    }

    /// About how many bytes they take in RocksDB's batch.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    pub(super) fn heads(&self) -> &[HistoryHead] {
        &self.heads
    }

    fn put_history(&mut self, change: HistoryChange) {
        let HistoryChange { key, revision, row } = change;
        let (on_disk, value) = (keys::history(revision, &key), records::encode(&row));
        let size_bytes = (on_disk.len() + value.len()) as u64;
        self.size_bytes += key.len() + HEAD_BYTES;
        let HistoryRow { version, previous, time_unix_ms, .. } = row;
        self.heads.push(HistoryHead { revision, key, is_delete: version.is_none(), previous, time_unix_ms, size_bytes });
        self.add(StateColumn::History, on_disk, Some(value));
    }

    fn add(&mut self, column: StateColumn, key: impl Into<Vec<u8>>, value: Option<Vec<u8>>) {
        let row = Row { column, key: key.into(), value };
        self.size_bytes += row.key.len() + row.value.as_ref().map_or(0, Vec::len) + ROW_BYTES;
        self.rows.push(row);
    }
}

#[cfg(test)]
mod tests {
    use crate::apply::Write;
    use crate::command::{Cause, TxnId};
    use crate::records::{HistoryVersion, StateMeta};
    use crate::state_db::StateDb;

    use super::*;

    fn change(revision: Revision, value_bytes: usize) -> Write {
        let version = HistoryVersion { create_revision: 1, split: 0, terms: Vec::new(), value: vec![7; value_bytes].into() };
        let row = HistoryRow { version: Some(version), previous: None, cause: Cause::default(), time_unix_ms: 7 };
        Write::PutHistory(HistoryChange { key: "key".into(), revision, row })
    }

    #[test]
    fn what_was_not_written_may_be_written_again_and_the_last_row_of_a_key_counts() {
        let directory = tempfile::tempdir().unwrap();
        let db = StateDb::open_current(directory.path(), None).unwrap();
        let mut rows = Rows::default();
        assert_eq!(rows.size_bytes(), 0);
        rows.stage(change(1, 10_000));
        assert!((10_000..10_200).contains(&rows.size_bytes()), "{}", rows.size_bytes());
        rows.stage(Write::PutOutcome { index: 5, id: TxnId(3), outcome: crate::command::Outcome::At(1) });
        rows.stage(Write::DeleteOutcome { index: 5 });
        rows.stage(change(2, 1));
        rows.stage_removed(vec![(1, "key".into())]);
        let meta = StateMeta { revision: 2, ..StateMeta::default() };
        for _ in 0..2 {
            db.write(&rows, &meta).unwrap();
            let (state, found) = db.load().unwrap();
            assert_eq!(found, meta);
            assert_eq!(state.view.get(b"key").map(|record| record.revision), Some(2));
            assert!(db.version(&"key".into(), 1).unwrap().is_none());
        }
    }
}
