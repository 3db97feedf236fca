//! What is known of a log without reading the disk.

use std::collections::VecDeque;

use openraft::entry::RaftEntry as _;

use crate::raft_types::{Entry, LogId, Vote};
use crate::records::EntryRecord;

/// The newest entries stay in memory, so that replication and apply do not read what was just written.
const USUAL: Limits = Limits { bytes: 4 << 20, entries: 8192 };
/// Those that apply has not taken yet stay, too, since it is about to read them; the end is where they would take too much.
const MOST: Limits = Limits { bytes: 64 << 20, entries: 128 << 10 };

struct Limits {
    bytes: usize,
    entries: usize,
}

/// The newest entries, and where the log begins and ends.
#[derive(Default)]
pub(super) struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    /// Index of the last entry that apply has taken in this run.
    taken: Option<u64>,
}

impl Tail {
    /// Of a log of which no entries are in memory.
    pub(super) fn new(last: Option<LogId>, purged: Option<LogId>, vote: Option<Vote>) -> Self {
        Self { last, purged, vote, ..Self::default() }
    }

    /// Adds an entry at the end.
    pub(super) fn push(&mut self, entry: Entry) {
        self.last = Some(entry.log_id);
        self.bytes += EntryRecord::size_bytes(&entry);
        self.entries.push_back(entry);
        self.drop_oldest();
    }

    /// Notes that apply has taken the entries up to this one.
    pub(super) fn take(&mut self, upto: u64) {
        self.taken = self.taken.max(Some(upto));
        self.drop_oldest();
    }

    /// Drops what comes after `last`.
    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        let from = last.map_or(0, |last| last.index() + 1);
        while self.entries.back().is_some_and(|entry| entry.index() >= from) {
            let dropped = self.entries.pop_back();
            self.bytes -= dropped.as_ref().map_or(0, EntryRecord::size_bytes);
        }
        if self.last.is_some_and(|known| known.index() >= from) {
            self.last = last.or(self.purged);
        }
    }

    /// Drops everything up to `upto`.
    pub(super) fn purge(&mut self, upto: LogId) {
        while self.entries.front().is_some_and(|entry| entry.index() <= upto.index()) {
            self.drop_first();
        }
        self.purged = self.purged.max(Some(upto));
        self.last = self.last.max(Some(upto));
    }

    /// Entries in `start..end`, stopping after about `bytes_max`, but never before the first; `None` if the first is not in memory.
    pub(super) fn read(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let skipped = start.checked_sub(self.entries.front()?.index())?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in self.entries.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX)).take_while(|entry| entry.index() < end) {
            bytes += EntryRecord::size_bytes(entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }

    fn drop_oldest(&mut self) {
        while self.entries.front().is_some_and(|first| self.has_too_much(first.index())) {
            self.drop_first();
        }
    }

    /// Whether it has too much for an entry with that index to stay.
    fn has_too_much(&self, first: u64) -> bool {
        let limits = if Some(first) > self.taken { MOST } else { USUAL };
        self.bytes > limits.bytes || self.entries.len() > limits.entries
    }

    fn drop_first(&mut self) {
        let dropped = self.entries.pop_front();
        self.bytes -= dropped.as_ref().map_or(0, EntryRecord::size_bytes);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::raft_types::{EntryPayload, Payload};

    const MIB: usize = 1 << 20;

    fn id(index: u64) -> LogId {
        LogId::new_term_index(1, index)
    }

    /// One with entries from 1 on that take so many bytes each.
    fn tail(count: u64, entry_bytes: usize) -> Tail {
        let mut tail = Tail::default();
        push(&mut tail, 1..=count, entry_bytes);
        tail
    }

    fn push(tail: &mut Tail, indexes: impl IntoIterator<Item = u64>, entry_bytes: usize) {
        let of_one_byte = Entry { log_id: id(0), payload: EntryPayload::Normal(Payload(Bytes::from_static(&[0]))) };
        let command = Bytes::from(vec![0; entry_bytes + 1 - EntryRecord::size_bytes(&of_one_byte)]);
        for index in indexes {
            tail.push(Entry { log_id: id(index), payload: EntryPayload::Normal(Payload(command.clone())) });
        }
    }

    /// The first and the last entry in memory; what is counted must be what is there.
    fn range(tail: &Tail) -> Option<(u64, u64)> {
        assert_eq!(tail.bytes, tail.entries.iter().map(EntryRecord::size_bytes).sum::<usize>());
        Some((tail.entries.front()?.index(), tail.entries.back()?.index()))
    }

    #[test]
    fn what_apply_has_not_taken_stays_in_memory() {
        let mut tail = tail(20, MIB);
        assert_eq!(range(&tail), Some((1, 20)));
        tail.take(3);
        assert_eq!(range(&tail), Some((4, 20)));
        push(&mut tail, [21], MIB);
        assert_eq!(range(&tail), Some((4, 21)));
        // it may begin again where it was
        tail.take(2);
        assert_eq!(range(&tail), Some((4, 21)));
        // the newest stay in any case
        tail.take(21);
        assert_eq!(range(&tail), Some((18, 21)));
        push(&mut tail, [22], MIB);
        assert_eq!(range(&tail), Some((19, 22)));
    }

    #[test]
    fn there_is_an_end_to_what_stays() {
        let mut bytes = tail(70, MIB);
        assert_eq!(range(&bytes), Some((7, 70)));
        push(&mut bytes, [71], 80 * MIB);
        assert_eq!((range(&bytes), bytes.last), (None, Some(id(71))));
        let count = MOST.entries as u64 + 5;
        let entries = tail(count, 64);
        assert_eq!(range(&entries), Some((6, count)));
    }

    #[test]
    fn small_entries_are_counted() {
        let count = USUAL.entries as u64 + 5;
        let mut tail = tail(count, 64);
        tail.take(3);
        assert_eq!(range(&tail), Some((4, count)));
        tail.take(count);
        assert_eq!(range(&tail), Some((6, count)));
    }

    #[test]
    fn both_ends_are_cut() {
        let mut tail = tail(9, MIB);
        tail.purge(id(2));
        tail.truncate(Some(id(6)));
        assert_eq!((range(&tail), tail.purged, tail.last), (Some((3, 6)), Some(id(2)), Some(id(6))));
        tail.truncate(None);
        assert_eq!((range(&tail), tail.last), (None, Some(id(2))));
        tail.purge(id(8));
        assert_eq!((range(&tail), tail.purged, tail.last), (None, Some(id(8)), Some(id(8))));
    }

    #[test]
    fn reads_begin_in_memory_or_not_at_all() {
        let mut tail = tail(9, MIB);
        tail.purge(id(2));
        let indexes = |start, end, bytes_max| Some(tail.read(start, end, bytes_max)?.iter().map(|entry| entry.index()).collect::<Vec<_>>());
        assert_eq!(indexes(2, 5, usize::MAX), None);
        assert_eq!(indexes(3, 5, usize::MAX), Some(vec![3, 4]));
        assert_eq!(indexes(3, 99, 2 * MIB), Some(vec![3, 4]));
        assert_eq!(indexes(8, 99, 0), Some(vec![8]));
        assert_eq!(indexes(10, 99, usize::MAX), Some(vec![]));
        assert!(Tail::default().read(0, 1, usize::MAX).is_none());
    }
}
