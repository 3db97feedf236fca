//! Loading what is kept in memory. The history is read in parts at the same time; what the newest change of a key is comes out in the end.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread;

use rocksdb::IteratorMode;

use super::StateDb;
use crate::apply::State;
use crate::columns::StateColumn;
use crate::command::{Key, Revision};
use crate::keys;
use crate::records::{self, OutcomeRow, StateMeta};
use crate::view::Record;

/// The history is read in no more parts than this.
const PARTS_MAX: usize = 4;
/// A part has about so many rows at least.
const PART_ROWS_MIN: u64 = 10_000;

/// What the newest change of each key has left; nothing if it was a delete.
type Newest = HashMap<Key, Option<Arc<Record>>>;

/// A file of the database: the first revision in it, and how many rows it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stretch {
    first: Revision,
    rows: u64,
}

impl StateDb {
    /// Everything that is kept in memory, and the position of it.
    ///
    /// # Errors
    /// `InvalidData` for damaged rows.
    pub(crate) fn load(&self) -> io::Result<(State, StateMeta)> {
        self.settle_to_read()?;
        let meta = self.meta()?;
        let mut state = State { compacted: meta.compacted, ..State::default() };
        for record in self.current_records()? {
            state.view.insert(record);
        }
        state.view.set_revision(meta.revision);
        for row in self.db.iterator_cf(self.column(StateColumn::Outcomes), IteratorMode::Start) {
            let (key, value) = row.map_err(|error| self.error(error))?;
            let index = keys::parse_index(&key).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "damaged key of an outcome"))?;
            let row: OutcomeRow = records::decode(&value)?;
            state.outcomes.remember(index, row.id, row.outcome);
        }
        state.outcomes.set_forgotten_index(meta.forgotten_index);
        if let Some(removed) = self.db.get_cf(self.column(StateColumn::Meta), keys::STATE_REMOVED).map_err(|error| self.error(error))? {
            state.removed = records::decode(&removed)?;
        }
        if let Some(gaps) = self.db.get_cf(self.column(StateColumn::Meta), keys::STATE_GAPS).map_err(|error| self.error(error))? {
            state.gaps = records::decode(&gaps)?;
        }
        Ok((state, meta))
    }

    /// The newest version of each key that has not been deleted since, in key order.
    fn current_records(&self) -> io::Result<Vec<Arc<Record>>> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let cuts = cuts(&self.stretches()?, processors.min(PARTS_MAX));
        let begins: Vec<Revision> = std::iter::once(0).chain(cuts).collect();
        let parts: Vec<io::Result<Newest>> = thread::scope(|scope| {
            let begin = |(number, first): (usize, &Revision)| {
                let (first, end) = (*first, begins.get(number + 1).copied());
                scope.spawn(move || self.newest(first, end))
            };
            let reading: Vec<_> = begins.iter().enumerate().map(begin).collect();
            let ended = reading.into_iter().map(thread::ScopedJoinHandle::join);
            ended.map(|part| part.unwrap_or_else(|_panic| Err(io::Error::other("reading the history panicked")))).collect()
        });
        let parts = parts.into_iter().collect::<io::Result<Vec<_>>>()?;
        let mut current: Vec<Arc<Record>> = together(parts).into_values().flatten().collect();
        current.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(current)
    }

    /// What the changes from `first` on and before `end` have left.
    fn newest(&self, first: Revision, end: Option<Revision>) -> io::Result<Newest> {
        let mut newest = Newest::new();
        self.scan_part(first, end, |row| {
            let key = newest.get_key_value(row.key).map_or_else(|| Key::copy_from_slice(row.key), |(key, _)| key.clone());
            let left = row.change()?.version.map(|version| Arc::new(version.record(key.clone(), row.revision)));
            newest.insert(key, left);
            Ok(())
        })?;
        Ok(newest)
    }

    /// The files of the history.
    fn stretches(&self) -> io::Result<Vec<Stretch>> {
        let files = self.db.live_files().map_err(|error| self.error(error))?;
        let history = files.into_iter().filter(|file| file.column_family_name == StateColumn::History.name());
        let stretch = |file: rocksdb::LiveFile| {
            let first = u64::from_be_bytes(*file.start_key.as_deref()?.first_chunk::<8>()?);
            Some(Stretch { first, rows: file.num_entries })
        };
        Ok(history.filter_map(stretch).collect())
    }
}

/// Where to cut the history into about equal parts, no more than `parts_max` of them, none of which is tiny.
fn cuts(stretches: &[Stretch], parts_max: usize) -> Vec<Revision> {
    let mut stretches = stretches.to_vec();
    stretches.sort_unstable();
    let total: u64 = stretches.iter().map(|stretch| stretch.rows).sum();
    let parts = u64::try_from(parts_max).unwrap_or(u64::MAX).min(total / PART_ROWS_MIN).max(1);
    let (mut cuts, mut before) = (Vec::new(), 0);
    let mut newest = stretches.first().map_or(0, |stretch| stretch.first);
    for stretch in stretches {
        // files may overlap
        if before * parts >= total * (cuts.len() as u64 + 1) && newest < stretch.first {
            newest = stretch.first;
            cuts.push(newest);
        }
        before += stretch.rows;
    }
    cuts
}

/// What all parts have left, of which each comes after those before it.
fn together(mut parts: Vec<Newest>) -> Newest {
    let mut newest = parts.pop().unwrap_or_default();
    while let Some(before) = parts.pop() {
        newest.reserve(before.len());
        for (key, left) in before {
            newest.entry(key).or_insert(left);
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stretches: &[(Revision, u64)], parts_max: usize, expected: &[Revision]) {
        let stretches: Vec<Stretch> = stretches.iter().map(|(first, rows)| Stretch { first: *first, rows: rows * 1000 }).collect();
        assert_eq!(cuts(&stretches, parts_max), expected, "{stretches:?} in {parts_max}");
    }

    #[test]
    fn the_history_is_cut_by_size_whatever_the_revisions() {
        check(&[], 4, &[]);
        check(&[(1, 100)], 4, &[]);
        check(&[(1, 20), (50, 20), (1 << 20, 20), (1 << 21, 20)], 2, &[1 << 20]);
        check(&[(1 << 21, 20), (50, 20), (1, 20), (1 << 20, 20)], 4, &[50, 1 << 20, 1 << 21]);
        check(&[(1, 60), (2, 10), (3, 10)], 2, &[2]);
        // not worth a thread
        check(&[(1, 4), (2, 4), (3, 4)], 4, &[]);
        check(&[(1, 20), (1, 20), (1, 20)], 3, &[]);
    }

    #[test]
    fn what_comes_later_counts() {
        let key = |name: &str| Key::copy_from_slice(name.as_bytes());
        let record = |revision| {
            let parsed = std::sync::OnceLock::new();
            let record = Record { key: key("k"), value: key(""), split: 0, terms: Vec::new(), revision, create_revision: 1, parsed };
            Some(Arc::new(record))
        };
        let first = Newest::from([(key("a"), record(1)), (key("b"), record(2)), (key("c"), record(3))]);
        let second = Newest::from([(key("b"), None), (key("c"), record(5)), (key("d"), record(6))]);
        let found = together(vec![first, second]);
        let revision = |name: &str| found.get(name.as_bytes()).and_then(|left| left.as_ref().map(|record| record.revision));
        assert_eq!([revision("a"), revision("b"), revision("c"), revision("d")], [Some(1), None, Some(5), Some(6)]);
    }
}
