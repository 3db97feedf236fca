//! How the journal's files are written: frame after frame, each with checksums and with how much of its file was safe when it was written.
//!
//! A crash may leave what was not synced in any state, with later frames in place and earlier ones missing. So a frame that cannot be read is
//! the end of what counts, unless something shows that it was whole once: a later frame that was written after it had been synced, or a
//! whole frame's worth of bytes without a hole. Then it is damage.
//!
//! Shape, numbers little-endian: CRC-32 of the rest of the header (4 bytes), CRC-32 of the body (4), length of the body (4), zero (4), offset
//! of the frame (8), synced bytes of the segment (8), number of the segment (8, not zero); the body, a record; [`CLOSING`]; zeros up to a
//! multiple of 8.

use serde::{Deserialize, Serialize};

use crate::records::{self, EntryRecord, LogIdRecord};

/// Bytes before the body.
const HEADER_BYTES: usize = 40;
/// The last of them.
const SEGMENT_NUMBER_BYTES: usize = 8;
/// Every frame begins at a multiple of this.
const ALIGNMENT: usize = 8;
/// Ends every frame, so that no sector's share of one is all zeros because of how it ends.
const CLOSING: u8 = 0xff;
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Frame {
    /// A segment begins; the segment before it is synced, and ends at `previous_end`.
    Begin {
        previous_end: u64,
        /// The last entry then.
        last: Option<LogIdRecord>,
        purged: Option<LogIdRecord>,
        committed: Option<LogIdRecord>,
    },
    /// An entry after the last one.
    Entry(EntryRecord),
    /// The entries after `last` are gone.
    Truncated { last: Option<LogIdRecord> },
    /// The entries up to this one are gone, and if there are none after it, it is the last.
    Purged(LogIdRecord),
    /// The entries up to this one are committed.
    Committed(LogIdRecord),
    /// There is nothing any more.
    Forgotten,
    /// The run ended orderly.
    End,
}

/// Where something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// A frame that is as it was written.
#[derive(Debug)]
pub(super) struct Intact<'a> {
    /// The encoded [`Frame`].
    pub(super) body: &'a [u8],
    /// Where the next one begins.
    pub(super) next: u64,
}

/// What is at an offset.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Intact(Intact<'a>),
    /// Nothing, or what a crash has left of it.
    Unfinished,
    /// It was whole once.
    Damaged,
}

/// How many bytes [`put`] adds for a frame.
pub(super) fn size_bytes(frame: &Frame) -> usize {
    frame_bytes(usize::try_from(records::size_bytes(frame)).expect("no record is that long"))
}

/// Adds a frame that will stand at `place`; its length is a multiple of the alignment.
pub(super) fn put(out: &mut Vec<u8>, place: Place, synced: u64, frame: &Frame) {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    records::encode_into(out, frame);
    let body_bytes = out.len() - start - HEADER_BYTES;
    out.push(CLOSING);
    out.resize(start + frame_bytes(body_bytes), 0);
    let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
    let length = u32::try_from(body_bytes).expect("no record is that long");
    header[4..8].copy_from_slice(&crc32fast::hash(&body[..body_bytes]).to_le_bytes());
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[16..24].copy_from_slice(&place.offset.to_le_bytes());
    header[24..32].copy_from_slice(&synced.to_le_bytes());
    header[32..40].copy_from_slice(&place.segment.to_le_bytes());
    let sum = crc32fast::hash(&header[4..]);
    header[..4].copy_from_slice(&sum.to_le_bytes());
}

/// What is at `place` in a segment that holds `bytes`.
pub(super) fn at(bytes: &[u8], place: Place) -> Found<'_> {
    let start = usize::try_from(place.offset).unwrap_or(usize::MAX);
    if bytes.get(start..).is_none_or(|rest| rest.iter().take(HEADER_BYTES).all(|byte| *byte == 0)) {
        return Found::Unfinished;
    }
    if let Some(found) = intact(bytes, start, place) {
        return Found::Intact(found);
    }
    // a write ends with a byte that is not zero, or was cut off before it
    let (end, ending_bytes) = match header(bytes, start, place) {
        Some((length, _)) if start + frame_bytes(length) > bytes.len() => return Found::Unfinished,
        Some((length, _)) => (start + HEADER_BYTES + length + 1, 1),
        None => (start + HEADER_BYTES, SEGMENT_NUMBER_BYTES),
    };
    let is_cut_off = bytes.get(end - ending_bytes..end).is_none_or(|ending| ending.iter().all(|byte| *byte == 0));
    if is_cut_off || has_hole(bytes, start, end) { Found::Unfinished } else { Found::Damaged }
}

/// The body of the frame at `place`, which begins with `bytes`, if it is intact.
pub(super) fn body(bytes: &[u8], place: Place) -> Option<&[u8]> {
    intact(bytes, 0, place).map(|found| found.body)
}

fn intact(bytes: &[u8], start: usize, place: Place) -> Option<Intact<'_>> {
    let (length, _) = header(bytes, start, place)?;
    let frame = bytes.get(start..start + frame_bytes(length))?;
    let body = frame.get(HEADER_BYTES..HEADER_BYTES + length)?;
    (crc32fast::hash(body) == word(frame, 4)).then_some(Intact { body, next: place.offset + frame.len() as u64 })
}

/// Whether a frame after `place` was written when more than that was synced: then what is at `place` was there.
pub(super) fn was_synced(bytes: &[u8], place: Place) -> bool {
    let first = usize::try_from(place.offset).unwrap_or(usize::MAX).next_multiple_of(ALIGNMENT);
    (first..bytes.len()).step_by(ALIGNMENT).any(|offset| {
        let later = Place { segment: place.segment, offset: offset as u64 };
        header(bytes, offset, later).is_some_and(|(_, synced)| synced > place.offset)
    })
}

/// Length of the body and synced bytes, if there is the intact header of a frame that belongs here.
fn header(bytes: &[u8], start: usize, place: Place) -> Option<(usize, u64)> {
    let header = bytes.get(start..start.checked_add(HEADER_BYTES)?)?;
    let long = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
    // cheaper than the sum, which would be asked of every place otherwise
    if long(32)? != place.segment || long(16)? != place.offset || word(header, 0) != crc32fast::hash(&header[4..]) {
        return None;
    }
    Some((usize::try_from(word(header, 8)).ok()?, long(24)?))
}

/// Bytes of a frame, by those of its body.
fn frame_bytes(body_bytes: usize) -> usize {
    HEADER_BYTES + (body_bytes + 1).next_multiple_of(ALIGNMENT)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Whether a sector's share of `start..end` was never written.
fn has_hole(bytes: &[u8], start: usize, end: usize) -> bool {
    let Some(frame) = bytes.get(start..end) else { return true };
    let (first, rest) = frame.split_at((SECTOR_BYTES - start % SECTOR_BYTES).min(frame.len()));
    std::iter::once(first).chain(rest.chunks(SECTOR_BYTES)).any(|share| share.iter().all(|byte| *byte == 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::PayloadRecord;

    const SEGMENT: u64 = 7;

    fn entry(index: u64, bytes: usize) -> Frame {
        let payload = PayloadRecord::Command(vec![0xa5; bytes].into());
        Frame::Entry(EntryRecord { log_id: LogIdRecord { term: 1, index }, payload })
    }

    /// Frames of these sizes, each synced before the next is written, and where they begin.
    fn written(sizes: &[usize]) -> (Vec<u8>, Vec<u64>) {
        let (mut bytes, mut starts) = (Vec::new(), Vec::new());
        for (index, size) in (0..).zip(sizes) {
            let offset = bytes.len() as u64;
            starts.push(offset);
            let frame = entry(index, *size);
            put(&mut bytes, Place { segment: SEGMENT, offset }, offset, &frame);
            assert_eq!(bytes.len() as u64 - offset, size_bytes(&frame) as u64);
        }
        (bytes, starts)
    }

    fn place(offset: u64) -> Place {
        Place { segment: SEGMENT, offset }
    }

    fn is_unfinished(bytes: &[u8], offset: u64) -> bool {
        matches!(at(bytes, place(offset)), Found::Unfinished) && !was_synced(bytes, place(offset))
    }

    proptest! {
        #[test]
        fn frames_are_found_as_they_were_written(sizes in proptest::collection::vec(0..3000_usize, 1..8)) {
            let (bytes, starts) = written(&sizes);
            for (index, start) in (0..).zip(&starts) {
                let Found::Intact(found) = at(&bytes, place(*start)) else { panic!("nothing at {start}") };
                let size = sizes[usize::try_from(index).unwrap()];
                prop_assert_eq!(records::decode::<Frame>(found.body).unwrap(), entry(index, size));
                let (_, synced) = header(&bytes, usize::try_from(*start).unwrap(), place(*start)).unwrap();
                prop_assert_eq!(synced, *start);
                prop_assert_eq!(found.next, starts.get(usize::try_from(index).unwrap() + 1).copied().unwrap_or(bytes.len() as u64));
            }
            prop_assert!(is_unfinished(&bytes, bytes.len() as u64));
        }

        #[test]
        fn a_frame_that_is_cut_off_is_unfinished(size in 0..3000_usize, cut in 1..4000_usize, zeros in any::<bool>()) {
            let (mut bytes, starts) = written(&[10, size]);
            let length = bytes.len();
            let (start, padding_bytes) = (usize::try_from(starts[1]).unwrap(), if zeros { ALIGNMENT } else { 0 });
            let kept = length.saturating_sub(cut + padding_bytes).max(start);
            if zeros {
                // what a disk has written ends with a sector, what some file systems have written anywhere
                let kept = if cut % 2 == 0 { (kept / SECTOR_BYTES * SECTOR_BYTES).max(start) } else { kept };
                bytes[kept..].fill(0);
            } else {
                bytes.truncate(kept);
            }
            prop_assert!(is_unfinished(&bytes, starts[1]));
        }

        #[test]
        fn a_flipped_bit_is_damage(size in 1..3000_usize, at_byte in 0..4000_usize, bit in 0..8_u8) {
            let (mut bytes, starts) = written(&[10, size, 10]);
            // all but the zeros between frames and the closing byte
            let damaged = usize::try_from(starts[1]).unwrap() + at_byte % (HEADER_BYTES + size);
            bytes[damaged] ^= 1 << bit;
            let there = place(starts[1]);
            match at(&bytes, there) {
                Found::Intact(_) => prop_assert!(false, "byte {damaged} was not noticed"),
                Found::Unfinished => prop_assert!(was_synced(&bytes, there)),
                Found::Damaged => {}
            }
        }
    }

    #[test]
    fn a_frame_of_another_segment_or_place_is_not_taken() {
        let (bytes, _) = written(&[10]);
        assert!(matches!(at(&bytes, Place { segment: SEGMENT + 1, offset: 0 }), Found::Damaged));
        let moved = [vec![0; 64], bytes].concat();
        assert!(matches!(at(&moved, place(64)), Found::Damaged));
    }

    #[test]
    fn what_came_after_a_hole_without_being_synced_does_not_count() {
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for index in 0..3 {
            let offset = bytes.len() as u64;
            starts.push(usize::try_from(offset).unwrap());
            put(&mut bytes, place(offset), 0, &entry(index, 2000));
        }
        // of one write the disk has kept the beginning and the end
        bytes[starts[1]..starts[2]].fill(0);
        assert!(is_unfinished(&bytes, starts[1] as u64));
        assert!(matches!(at(&bytes, place(starts[2] as u64)), Found::Intact(_)));
    }
}
