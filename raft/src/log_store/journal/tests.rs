//! The journal against a plain model, through restarts, and power cuts that leave any of what was not synced.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::records::PayloadRecord;

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug)]
enum Step {
    Append {
        bytes: usize,
    },
    /// Drops so many entries at the end.
    Truncate {
        count: u64,
    },
    /// Drops so many at the beginning.
    Purge {
        count: u64,
    },
    Commit,
    Write {
        to_disk: bool,
    },
    Restart {
        orderly: bool,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop_oneof![0..200_usize, 400..3000_usize, 20_000..40_000_usize].prop_map(|bytes| Step::Append { bytes }),
        1 => (1..4_u64).prop_map(|count| Step::Truncate { count }),
        1 => (1..4_u64).prop_map(|count| Step::Purge { count }),
        1 => Just(Step::Commit),
        6 => any::<bool>().prop_map(|to_disk| Step::Write { to_disk }),
        1 => any::<bool>().prop_map(|orderly| Step::Restart { orderly }),
    ]
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    entries: BTreeMap<u64, EntryRecord>,
    last: Option<LogIdRecord>,
    purged: Option<LogIdRecord>,
    committed: Option<LogIdRecord>,
}

impl Model {
    fn of(journal: &Journal) -> Self {
        let [last, purged, committed] = journal.positions();
        let entries = journal.read(0, u64::MAX, usize::MAX).unwrap();
        Self { entries: entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect(), last, purged, committed }
    }

    /// The frame for a step, if there is one now.
    fn frame(&self, step: &Step, number: u8) -> Option<Frame> {
        match step {
            Step::Append { bytes } => {
                let log_id = LogIdRecord { term: u64::from(number), index: self.last.map_or(0, |last| last.index + 1) };
                let payload = PayloadRecord::Command(vec![number; *bytes].into());
                Some(Frame::Entry(EntryRecord { log_id, payload }))
            }
            Step::Truncate { count } => {
                let kept = self.entries.len().checked_sub(usize::try_from(*count).unwrap())?;
                let last = kept.checked_sub(1).and_then(|last| self.entries.values().nth(last)).map(|entry| entry.log_id);
                Some(Frame::Truncated { last: last.or(self.purged) })
            }
            Step::Purge { count } => {
                let upto = self.entries.values().nth(usize::try_from(*count).unwrap() - 1)?;
                Some(Frame::Purged(upto.log_id))
            }
            Step::Commit => self.last.map(Frame::Committed),
            Step::Write { .. } | Step::Restart { .. } => None,
        }
    }

    fn take(&mut self, frame: &Frame) {
        match frame {
            Frame::Entry(entry) => {
                self.entries.insert(entry.log_id.index, entry.clone());
                self.last = Some(entry.log_id);
            }
            Frame::Truncated { last } => {
                self.entries.retain(|index, _| last.is_some_and(|last| *index <= last.index));
                self.last = *last;
            }
            Frame::Purged(upto) => {
                self.entries.retain(|index, _| *index > upto.index);
                self.purged = Some(*upto);
            }
            Frame::Committed(upto) => self.committed = Some(*upto),
            Frame::Begin { .. } | Frame::Forgotten | Frame::End => {}
        }
    }
}

/// Lets the power go: of what was not synced, each sector is left or not, and each file may be shorter.
fn cut_power(directory: &Path, synced: Place, dice: &[bool]) {
    let mut dice = dice.iter().copied().cycle();
    for number in segment_numbers(directory).unwrap() {
        let path = path(directory, number);
        let mut bytes = fs::read(&path).unwrap();
        let safe = match number.cmp(&synced.segment) {
            std::cmp::Ordering::Less => continue,
            std::cmp::Ordering::Equal => usize::try_from(synced.offset).unwrap(),
            std::cmp::Ordering::Greater => 0,
        };
        let mut sector = safe;
        while sector < bytes.len() {
            let end = (sector / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let end = end.min(bytes.len());
            match (dice.next(), dice.next()) {
                (Some(true), _) => {}
                (_, Some(true)) => bytes[sector..end].fill(0),
                _ => {
                    bytes.truncate(sector);
                }
            }
            sector = end;
        }
        fs::write(&path, bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_power_cut_takes_nothing_that_was_synced(
        steps in proptest::collection::vec(any_step(), 1..60),
        makes_room: bool,
        dice in proptest::collection::vec(proptest::bool::weighted(0.9), 7..50),
    ) {
        let dir = TempDir::new().unwrap();
        let mut journal = Journal::open(dir.path(), makes_room).unwrap();
        // all states since the last sync, that one first
        let (mut states, mut synced) = (vec![Model::default()], Place::default());
        for (number, step) in (1..).zip(&steps) {
            let mut model = states.last().unwrap().clone();
            if let Some(frame) = model.frame(step, number) {
                journal.append(&frame).unwrap();
                model.take(&frame);
                states.push(model);
            } else {
                match step {
                    Step::Write { to_disk } => journal.write(*to_disk).unwrap(),
                    Step::Restart { orderly: true } => {
                        journal.close().unwrap();
                        drop(journal);
                        journal = Journal::open(dir.path(), makes_room).unwrap();
                    }
                    Step::Restart { orderly: false } => {
                        journal.write(false).unwrap();
                        drop(journal);
                        journal = Journal::open(dir.path(), makes_room).unwrap();
                    }
                    _ => {}
                }
                if matches!(step, Step::Write { to_disk: true } | Step::Restart { .. }) {
                    states.drain(..states.len() - 1);
                    synced = journal.state.lock().synced.max(synced);
                    if matches!(step, Step::Restart { .. }) {
                        synced = Place { segment: u64::MAX, offset: 0 };
                        synced.segment = segment_numbers(dir.path()).unwrap().last().map_or(0, |number| number + 1);
                    }
                }
                journal.remove_purged().unwrap();
            }
            prop_assert_eq!(&Model::of(&journal), states.last().unwrap());
        }
        drop(journal);
        cut_power(dir.path(), synced, &dice);
        let found = Model::of(&Journal::open(dir.path(), makes_room).unwrap());
        prop_assert!(states.contains(&found), "{:?} is none of {} states", found, states.len());
        // and it goes on from there
        let journal = Journal::open(dir.path(), makes_room).unwrap();
        let frame = found.frame(&Step::Append { bytes: 9 }, 250).unwrap();
        journal.append(&frame).unwrap();
        journal.close().unwrap();
        let mut expected = found;
        expected.take(&frame);
        prop_assert_eq!(Model::of(&Journal::open(dir.path(), makes_room).unwrap()), expected);
    }
}

#[test]
fn a_failed_write_is_not_forgotten() {
    let dir = TempDir::new().unwrap();
    let directory = dir.path().join("entries");
    let journal = Journal::open(&directory, true).unwrap();
    journal.append(&Frame::Forgotten).unwrap();
    // something else is in the way
    fs::create_dir(&directory).unwrap();
    fs::write(path(&directory, 1), "").unwrap();
    assert!(journal.write(true).is_err());
    fs::remove_file(path(&directory, 1)).unwrap();
    assert!(journal.write(true).unwrap_err().to_string().contains("an earlier write has failed"));
    assert!(journal.close().is_err());
}

#[test]
fn a_file_that_was_cut_within_the_zeros_of_its_last_frame_has_that_entry() {
    let dir = TempDir::new().unwrap();
    let entry = |index, bytes| {
        let payload = PayloadRecord::Command(vec![7; bytes].into());
        EntryRecord { log_id: LogIdRecord { term: 1, index }, payload }
    };
    // of whatever length: somewhere there are zeros
    for bytes in 10..26 {
        let directory = dir.path().join(bytes.to_string());
        let journal = Journal::open(&directory, false).unwrap();
        for index in 0..2 {
            journal.append(&Frame::Entry(entry(index, bytes))).unwrap();
        }
        journal.write(true).unwrap();
        drop(journal);
        let path = path(&directory, 1);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        let journal = Journal::open(&directory, false).unwrap();
        let entries = journal.read(0, u64::MAX, usize::MAX).unwrap();
        assert_eq!(entries.last(), Some(&entry(u64::from(entries.len() == 2), bytes)), "{bytes} bytes");
    }
}

/// Appends entries of these sizes, two at a time, some of them through the cache, and writes each two.
fn write_entries(journal: &Journal, sizes: &[usize]) -> Model {
    let mut model = Model::default();
    for (number, sizes) in (1..).zip(sizes.chunks(2)) {
        for bytes in sizes {
            let frame = model.frame(&Step::Append { bytes: *bytes }, number).unwrap();
            journal.append(&frame).unwrap();
            model.take(&frame);
        }
        assert!(Model::of(journal) == model, "{number}: not as it was taken");
        journal.write(number % 3 != 0).unwrap();
        assert!(Model::of(journal) == model, "{number}: not as it was written");
    }
    model
}

#[test]
fn entries_fill_chunks_and_segments_in_the_same_way_past_the_cache_and_through_it() {
    // no memory, so that writes may go past the cache
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (past, through) = (dir.path().join("past"), dir.path().join("through"));
    // together more than a segment has; some do not fit into a chunk, or not any more
    let sizes = [300, 700_000, 700_000, 3 << 20, 1 << 20, 9, 1_040_000, 9, 70_000, 400_000].repeat(3);
    let models = [(&past, true), (&through, false)].map(|(directory, makes_room)| {
        let journal = Journal::open(directory, makes_room).unwrap();
        let model = write_entries(&journal, &sizes);
        journal.close().unwrap();
        model
    });
    assert!(models[0] == models[1]);
    assert_eq!(segment_numbers(&past).unwrap(), [1, 2]);
    for number in [1, 2] {
        let [past, through] = [&past, &through].map(|directory| fs::read(path(directory, number)).unwrap());
        let (written, room) = past.split_at(through.len());
        assert!(written == through && room.iter().all(|byte| *byte == 0), "segment {number}");
    }
    assert!(Model::of(&Journal::open(&past, true).unwrap()) == models[0]);
}

#[test]
fn small_writes_use_the_same_memory_again() {
    let dir = TempDir::new().unwrap();
    let journal = Journal::open(dir.path(), true).unwrap();
    let mut others = Vec::new();
    let seen = (0..10).map(|number| {
        journal.append(&Frame::Forgotten).unwrap();
        let memory = journal.state.lock().waiting.as_ref().unwrap().blocks().as_ptr().addr();
        journal.write(number % 2 == 0).unwrap();
        // what is given back goes to somebody else
        others.push(Vec::<u8>::with_capacity(1 << 20));
        memory
    });
    assert_eq!(seen.collect::<BTreeSet<_>>().len(), 1);
}
