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

/// So many parts for every processor: some wait for the disk.
const PARTS_PER_PROCESSOR: usize = 2;
/// The history is read in no more parts than this.
const PARTS_MAX: usize = 8;
/// A part has about so many bytes at least.
const PART_BYTES_MIN: usize = 4 << 20;

/// What the newest change of each key has left, in key order; nothing if it was a delete.
type Newest = Vec<(Key, Option<Arc<Record>>)>;

/// A table of the history: the first revision in it, and how large it is. How many rows a table has RocksDB knows only when it has looked into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stretch {
    first: Revision,
    bytes: usize,
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
        let begins = self.parts((processors * PARTS_PER_PROCESSOR).min(PARTS_MAX))?;
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
        Ok(together(parts).into_iter().filter_map(|(_, left)| left).collect())
    }

    /// What the changes from `first` on and before `end` have left.
    fn newest(&self, first: Revision, end: Option<Revision>) -> io::Result<Newest> {
        let mut newest = HashMap::new();
        self.scan_part(first, end, |row| {
            let key = newest.get_key_value(row.key).map_or_else(|| Key::copy_from_slice(row.key), |(key, _): (&Key, _)| key.clone());
            let left = row.change()?.version.map(|version| Arc::new(version.record(key.clone(), row.revision)));
            newest.insert(key, left);
            Ok(())
        })?;
        let mut newest = Newest::from_iter(newest);
        newest.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(newest)
    }

    /// Where about equal parts of the history begin, no more than `parts_max` of them.
    pub(super) fn parts(&self, parts_max: usize) -> io::Result<Vec<Revision>> {
        Ok(std::iter::once(0).chain(cuts(&self.stretches()?, parts_max)).collect())
    }

    /// The files of the history.
    fn stretches(&self) -> io::Result<Vec<Stretch>> {
        let files = self.db.live_files().map_err(|error| self.error(error))?;
        let history = files.into_iter().filter(|file| file.column_family_name == StateColumn::History.name());
        let stretch = |file: rocksdb::LiveFile| {
            let first = u64::from_be_bytes(*file.start_key.as_deref()?.first_chunk::<8>()?);
            Some(Stretch { first, bytes: file.size })
        };
        Ok(history.filter_map(stretch).collect())
    }
}

/// Where to cut the history into about equal parts, no more than `parts_max` of them, none of which is tiny.
fn cuts(stretches: &[Stretch], parts_max: usize) -> Vec<Revision> {
    let mut stretches = stretches.to_vec();
    stretches.sort_unstable();
    let total: usize = stretches.iter().map(|stretch| stretch.bytes).sum();
    let parts = parts_max.min(total / PART_BYTES_MIN).max(1);
    let (mut cuts, mut before) = (Vec::new(), 0);
    let mut newest = stretches.first().map_or(0, |stretch| stretch.first);
    for stretch in stretches {
        // files may overlap
        if before * parts >= total * (cuts.len() + 1) && newest < stretch.first {
            newest = stretch.first;
            cuts.push(newest);
        }
        before += stretch.bytes;
    }
    cuts
}

/// What all parts have left, of which each comes after those before it.
fn together(parts: Vec<Newest>) -> Newest {
    let mut newest: Newest = parts.into_iter().rev().flatten().collect();
    // stable: of a key's changes the newest stays the first. It finds the sorted parts, and merges them
    newest.sort_by(|(a, _), (b, _)| a.cmp(b));
    newest.dedup_by(|(older, _), (key, _)| older == key);
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stretches: &[(Revision, usize)], parts_max: usize, expected: &[Revision]) {
        let stretches: Vec<Stretch> = stretches.iter().map(|(first, size)| Stretch { first: *first, bytes: size << 19 }).collect();
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
        let third = Newest::from([(key("c"), record(7))]);
        let found = together(vec![first, second, third]);
        let found: Vec<_> = found.iter().map(|(key, left)| (key.as_ref(), left.as_ref().map(|record| record.revision))).collect();
        assert_eq!(found, [(&b"a"[..], Some(1)), (b"b", None), (b"c", Some(7)), (b"d", Some(6))]);
    }
}
