//! What the journal holds, as its frames tell one after the other.

use std::collections::VecDeque;

use super::frame::{Frame, Place};
use crate::records::LogIdRecord;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryPlace {
    pub(super) at: Place,
    /// Bytes from there to the next frame.
    pub(super) bytes: u32,
}

/// Which entries there are, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Index of the first of `places`.
    first: u64,
    places: VecDeque<EntryPlace>,
    /// The last entry before the first segment that is left.
    before: Option<LogIdRecord>,
    pub(super) last: Option<LogIdRecord>,
    pub(super) purged: Option<LogIdRecord>,
    pub(super) committed: Option<LogIdRecord>,
}

impl Contents {
    /// Takes in what a frame says that stands at `place`.
    ///
    /// # Errors
    /// It does not follow what was there before, with what is missing.
    pub(super) fn take(&mut self, frame: &Frame, place: EntryPlace) -> Result<(), String> {
        match frame {
            Frame::Begin { last, purged, committed, .. } => {
                if (*last, *purged) != (self.last, self.purged) {
                    return Err(format!("a segment begins after {last:?}, but the one before it ends with {:?}", self.last));
                }
                self.committed = *committed;
            }
            Frame::Entry(entry) => {
                let index = entry.log_id.index;
                if let Some(last) = self.last.filter(|last| last.index.checked_add(1) != Some(index)) {
                    return Err(format!("entry {} is missing, the next one is {index}", last.index.saturating_add(1)));
                }
                if self.places.is_empty() {
                    self.first = index;
                }
                self.places.push_back(place);
                self.last = Some(entry.log_id);
            }
            Frame::Truncated { last } => {
                let kept = last.map_or(0, |last| (last.index + 1).saturating_sub(self.first));
                self.places.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
                self.last = (*last).max(self.purged);
            }
            Frame::Purged(upto) => {
                while !self.places.is_empty() && self.first <= upto.index {
                    self.places.pop_front();
                    self.first += 1;
                }
                self.purged = self.purged.max(Some(*upto));
                self.last = self.last.max(Some(*upto));
            }
            Frame::Committed(upto) => self.committed = Some(*upto),
            Frame::Forgotten => *self = Self::default(),
            Frame::End => {}
        }
        Ok(())
    }

    /// Begins with what the first segment that is left says of those before it.
    pub(super) fn begin(&mut self, frame: &Frame) {
        if let Frame::Begin { last, purged, committed, .. } = frame {
            *self = Self { before: *last, last: *last, purged: *purged, committed: *committed, ..Self::default() };
        }
    }

    /// Checks that nothing is missing between what is purged and what is there.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn check(&self) -> Result<(), String> {
        let wanted = self.purged.map(|purged| purged.index + 1);
        if let Some(before) = self.before.filter(|before| wanted.is_none_or(|wanted| wanted <= before.index)) {
            return Err(format!("entry {} is missing, and all up to {}", wanted.unwrap_or(0), before.index));
        }
        match wanted.filter(|wanted| !self.places.is_empty() && *wanted < self.first) {
            Some(wanted) => Err(format!("entry {wanted} is missing, the next one is {}", self.first)),
            None => Ok(()),
        }
    }

    /// The last entry before the newest ones that have `bytes` together; none if all have no more.
    pub(super) fn before_newest(&self, bytes: u64) -> Option<u64> {
        let mut left = bytes;
        let mut newest_first = self.places.iter().enumerate().rev();
        let (position, _) = newest_first.find(|(_, place)| match left.checked_sub(u64::from(place.bytes)) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })?;
        Some(self.first + position as u64)
    }

    /// The entries of `start..end` that are here.
    pub(super) fn places(&self, start: u64, end: u64) -> impl Iterator<Item = EntryPlace> + '_ {
        let position = |index: u64| usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.places.len());
        let (start, end) = (position(start), position(end));
        self.places.range(start..end.max(start)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{EntryRecord, PayloadRecord};

    fn id(index: u64) -> LogIdRecord {
        LogIdRecord { term: 1, index }
    }

    fn entry(index: u64) -> Frame {
        Frame::Entry(EntryRecord { log_id: id(index), payload: PayloadRecord::Blank })
    }

    fn place(offset: u64) -> EntryPlace {
        EntryPlace { at: Place { segment: 1, offset }, bytes: 8 }
    }

    fn contents(frames: &[Frame]) -> Result<Contents, String> {
        let mut contents = Contents::default();
        for (offset, frame) in (0..).zip(frames) {
            contents.take(frame, place(offset))?;
        }
        contents.check().map(|()| contents)
    }

    fn offsets(contents: &Contents, start: u64, end: u64) -> Vec<u64> {
        contents.places(start, end).map(|place| place.at.offset).collect()
    }

    #[test]
    fn the_newest_frame_about_an_index_counts() {
        let frames = [entry(5), entry(6), entry(7), Frame::Truncated { last: Some(id(5)) }, entry(6)];
        let contents = contents(&frames).unwrap();
        assert_eq!((offsets(&contents, 0, 99), contents.last), (vec![0, 4], Some(id(6))));
        assert_eq!(offsets(&contents, 6, 7), [4]);
        assert_eq!(offsets(&contents, 7, 99), [0_u64; 0]);
    }

    #[test]
    fn purging_moves_the_beginning_even_beyond_the_end() {
        let some = contents(&[entry(0), entry(1), entry(2), Frame::Purged(id(1)), entry(3)]).unwrap();
        assert_eq!((offsets(&some, 0, 99), some.purged, some.last), (vec![2, 4], Some(id(1)), Some(id(3))));
        let all = contents(&[entry(0), Frame::Purged(id(9)), entry(10)]).unwrap();
        assert_eq!((offsets(&all, 0, 99), all.last), (vec![2], Some(id(10))));
        let none = contents(&[entry(0), entry(1), Frame::Truncated { last: None }]).unwrap();
        assert_eq!((offsets(&none, 0, 99), none.last), (vec![], None));
        assert_eq!(contents(&[entry(0), Frame::Purged(id(0)), Frame::Forgotten]).unwrap(), Contents::default());
    }

    #[test]
    fn the_newest_are_counted_by_their_bytes() {
        // of 8 bytes each
        let contents = contents(&[entry(5), entry(6), entry(7), entry(8)]).unwrap();
        let before = [0, 7, 8, 20, 31, 32, 100].map(|bytes| contents.before_newest(bytes));
        assert_eq!(before, [Some(8), Some(8), Some(7), Some(6), Some(5), None, None]);
        assert_eq!(Contents::default().before_newest(0), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(contents(&[entry(0), entry(2)]).unwrap_err(), "entry 1 is missing, the next one is 2");
        assert_eq!(contents(&[Frame::Purged(id(3)), entry(5)]).unwrap_err(), "entry 4 is missing, the next one is 5");
        // the segments with entries 4 to 8 are gone
        let mut later = Contents::default();
        later.begin(&Frame::Begin { previous_end: 1, last: Some(id(8)), purged: Some(id(3)), committed: None });
        later.take(&entry(9), place(0)).unwrap();
        assert_eq!(later.check().unwrap_err(), "entry 4 is missing, and all up to 8");
        later.take(&Frame::Purged(id(8)), place(1)).unwrap();
        later.check().unwrap();
        let mismatch = Frame::Begin { previous_end: 0, last: Some(id(8)), purged: None, committed: None };
        assert!(contents(&[entry(0), mismatch]).unwrap_err().contains("begins after"));
    }
}
