//! Rows that are written later, many at once: RocksDB takes about as long for a few as for one, and nothing is durable before a flush anyway.
//! `docs/decisions/0015-rows-that-wait.md` says what it saves.

use crate::records::StateMeta;

use super::Rows;

/// From so many entries or bytes on, somebody should write them.
const MANY_ENTRIES: usize = 256;
const MANY_BYTES: usize = 256 << 10;
/// Where entries are this large, the bytes are what a write costs: memory that waits is colder by then, and another thread's to free.
const LARGE_BYTES: usize = 4 << 10;
/// With so many, nothing may be added before they are written.
const FULL_ENTRIES: usize = 16 * MANY_ENTRIES;
const FULL_BYTES: usize = 16 * MANY_BYTES;

/// How urgent it is that the rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// There is time, unless somebody wants to read them.
    None,
    /// Now is the time, on any thread.
    Due,
    /// Whoever has added them should write them at once.
    Now,
    /// Nothing may be added before.
    Full,
}

/// What was applied and is not written yet: the rows in order, and the position after all of them.
#[derive(Default)]
pub(super) struct Waiting {
    rows: Rows,
    position: Option<StateMeta>,
    entries: usize,
    /// Why the last attempt to write them failed for good.
    failure: Option<String>,
}

impl Waiting {
    /// Adds rows of so many entries.
    ///
    /// # Errors
    /// Why what waits cannot be written, if that has been tried and will not be better next time.
    pub(super) fn add(&mut self, rows: Rows, position: &StateMeta, entries: usize) -> Result<Urgency, String> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let are_large = rows.size_bytes() >= LARGE_BYTES.saturating_mul(entries.max(1));
        self.rows.append(rows);
        self.position = Some(position.clone());
        self.entries += entries;
        Ok(if are_large { self.urgency().max(Urgency::Now) } else { self.urgency() })
    }

    /// Takes all of them away to be written.
    pub(super) fn take(&mut self) -> Option<(Rows, StateMeta, usize)> {
        let position = self.position.take()?;
        Some((std::mem::take(&mut self.rows), position, std::mem::take(&mut self.entries)))
    }

    /// Puts those back that could not be written, before those that have come since. `failure`: it will not be better next time.
    pub(super) fn put_back(&mut self, (mut rows, position, entries): (Rows, StateMeta, usize), failure: Option<String>) {
        rows.append(std::mem::take(&mut self.rows));
        self.rows = rows;
        self.position.get_or_insert(position);
        self.entries += entries;
        // the first one counts: what comes of another attempt does not take it back
        self.failure = self.failure.take().or(failure);
    }

    fn urgency(&self) -> Urgency {
        let is_beyond = |entries, bytes| self.entries >= entries || self.rows.size_bytes() >= bytes;
        if is_beyond(FULL_ENTRIES, FULL_BYTES) {
            Urgency::Full
        } else if is_beyond(MANY_ENTRIES, MANY_BYTES) {
            Urgency::Due
        } else {
            Urgency::None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::apply::Write;

    fn rows(index: u64) -> Rows {
        let mut rows = Rows::default();
        rows.stage(Write::DeleteOutcome { index });
        rows
    }

    fn position(revision: u64) -> StateMeta {
        StateMeta { revision, ..StateMeta::default() }
    }

    fn keys(rows: &Rows) -> Vec<Vec<u8>> {
        rows.iter().map(|row| row.key.clone()).collect()
    }

    #[test]
    fn they_are_due_before_they_are_too_many() {
        let mut waiting = Waiting::default();
        let urgencies: Vec<Urgency> =
            (0..FULL_ENTRIES as u64).map(|number| waiting.add(rows(number), &position(number), 1).unwrap()).collect();
        assert!(urgencies.is_sorted());
        let first = |urgency| urgencies.iter().position(|of| *of == urgency).map(|before| before + 1);
        assert_eq!([first(Urgency::Due), first(Urgency::Full)], [Some(MANY_ENTRIES), Some(FULL_ENTRIES)]);
        waiting.take().unwrap();
        assert_eq!(waiting.add(rows(1), &position(1), 1), Ok(Urgency::None));
        assert_eq!(waiting.add(rows(2), &position(2), MANY_ENTRIES), Ok(Urgency::Due));
    }

    #[test]
    fn large_rows_do_not_wait() {
        let large = |bytes: usize| {
            let mut rows = Rows::default();
            rows.stage_removed(vec![(1, vec![7; bytes].into())]);
            rows
        };
        let mut waiting = Waiting::default();
        assert_eq!(waiting.add(large(LARGE_BYTES), &position(1), 1), Ok(Urgency::Now));
        assert_eq!(waiting.add(large(LARGE_BYTES), &position(2), 2), Ok(Urgency::None));
        assert_eq!(waiting.add(large(FULL_BYTES), &position(3), 1), Ok(Urgency::Full));
    }

    #[test]
    fn nothing_is_added_once_the_disk_has_failed() {
        let mut waiting = Waiting::default();
        waiting.add(rows(1), &position(1), 1).unwrap();
        let taken = waiting.take().unwrap();
        waiting.put_back(taken, Some("broken".into()));
        assert_eq!(waiting.add(rows(2), &position(2), 1), Err("broken".into()));
        // a reader tried once more
        let taken = waiting.take().unwrap();
        waiting.put_back(taken, None);
        assert_eq!(waiting.add(rows(2), &position(2), 1), Err("broken".into()));
    }

    proptest! {
        /// Whatever fails and is tried again: everything is written once and in order, and with the position of the last of it.
        #[test]
        fn what_could_not_be_written_stays_before_what_came_later(steps in prop::collection::vec((0_u64..4, any::<bool>()), 1..40)) {
            let (mut waiting, mut written, mut added) = (Waiting::default(), Vec::new(), 0);
            for (count, fails) in steps {
                let taken = waiting.take();
                for _ in 0..count {
                    added += 1;
                    waiting.add(rows(added), &position(added), 1).unwrap();
                }
                match taken {
                    Some(taken) if fails => waiting.put_back(taken, None),
                    Some((rows, position, entries)) => {
                        written.extend(keys(&rows));
                        prop_assert_eq!(position.revision, written.len() as u64);
                        prop_assert_eq!(entries, rows.iter().count());
                    }
                    None => {}
                }
            }
            if let Some((rows, position, _)) = waiting.take() {
                written.extend(keys(&rows));
                prop_assert_eq!(position.revision, added);
            }
            let expected: Vec<Vec<u8>> = (1..=added).flat_map(|number| keys(&rows(number))).collect();
            prop_assert_eq!(written, expected);
        }
    }
}
