//! A segment of the journal while it is written, from front to back.
//!
//! What must be on disk goes past the system's cache where that is possible: a sync then only has the disk itself to wait for. Such writes are
//! whole blocks, so the bytes of the last one, which is not full yet, are kept and written again with the next ones, as the cache would do.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use crate::disk;

/// By so many zeros a segment grows.
const ROOM_BYTES: usize = 256 << 10;
/// What the system's cache and writes past it deal in.
const BLOCK_BYTES: usize = 4096;
/// Writes from this size on are written behind the zeros: the size of the file costs little beside them.
const LARGE_WRITE_BYTES: usize = 16 << 10;
/// Buffers of one large write are not kept for the next one.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Zeros that begin where a block may.
#[repr(align(4096))]
struct Room([u8; ROOM_BYTES]);

static ROOM: Room = Room([0; ROOM_BYTES]);

/// An open segment.
pub(super) struct Output {
    file: Arc<File>,
    past_cache: Option<PastCache>,
    makes_room: bool,
    /// Length of the file.
    length: u64,
    /// Something was written since the last sync.
    is_dirty: bool,
}

/// The way past the system's cache.
struct PastCache {
    file: File,
    /// What is in the last block so far, followed by room for what is written with it.
    blocks: Blocks,
}

/// Bytes in memory that begin where a block may.
#[derive(Default)]
struct Blocks {
    memory: Vec<u8>,
    /// Where they begin in `memory`.
    start: usize,
    bytes: usize,
}

impl Output {
    /// Makes a new segment. `makes_room`: it grows by [`ROOM_BYTES`] and past the cache; otherwise it is as long as what was written to it,
    /// which a simulated disk wants to know.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn create(path: &Path, makes_room: bool) -> io::Result<Self> {
        let file = Arc::new(File::options().read(true).write(true).create_new(true).open(path)?);
        let past_cache = if makes_room { PastCache::open(path) } else { None };
        Ok(Self { file, past_cache, makes_room, length: 0, is_dirty: false })
    }

    /// The file, for readers.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Writes what comes next, which begins at `offset`: on its way to the disk at once if that is where it must go.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn write(&mut self, bytes: &[u8], offset: u64, to_disk: bool) -> io::Result<()> {
        self.is_dirty = true;
        let end = offset + bytes.len() as u64;
        match &mut self.past_cache {
            None => self.file.write_all_at(bytes, offset)?,
            Some(past_cache) => {
                past_cache.blocks.push(bytes);
                if to_disk {
                    past_cache.write(end)?
                } else {
                    self.file.write_all_at(bytes, offset)?
                }
                past_cache.blocks.keep_from(end);
            }
        }
        if self.makes_room && end > self.length && bytes.len() < LARGE_WRITE_BYTES {
            self.make_room(end)?;
        }
        self.length = self.length.max(end);
        Ok(())
    }

    /// Waits until everything that was written is on disk.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.file.sync_data()?;
        }
        self.is_dirty = false;
        Ok(())
    }

    /// Writes zeros after `end`.
    fn make_room(&mut self, end: u64) -> io::Result<()> {
        let room_end = (end / ROOM_BYTES as u64 + 1) * ROOM_BYTES as u64;
        if let Some(PastCache { file, .. }) = &self.past_cache {
            let from = end.next_multiple_of(BLOCK_BYTES as u64);
            file.write_all_at(&ROOM.0[..usize::try_from(room_end - from).unwrap_or(0)], from)?;
        } else {
            // what is written at once may stay one piece in the system's cache, of which the smallest change counts as a change of all
            let mut from = end;
            while from < room_end {
                let next = (from + 1).next_multiple_of(BLOCK_BYTES as u64);
                self.file.write_all_at(&ROOM.0[..usize::try_from(next - from).unwrap_or(0)], from)?;
                from = next;
            }
        }
        self.length = room_end;
        Ok(())
    }
}

impl PastCache {
    /// `None` where there is no such way. Some file systems open what they do not write then, or want larger blocks, so it is tried with zeros, of
    /// which a segment consists anyway.
    fn open(path: &Path) -> Option<Self> {
        let file = File::options().write(true).custom_flags(disk::past_cache()).open(path).ok()?;
        file.write_all_at(&ROOM.0[..BLOCK_BYTES], 0).ok()?;
        Some(Self { file, blocks: Blocks::default() })
    }

    /// Writes the blocks, which end at `end`, and zeros up to the end of the last one.
    fn write(&mut self, end: u64) -> io::Result<()> {
        let start = end - self.blocks.bytes as u64;
        self.file.write_all_at(self.blocks.whole(), start)
    }
}

impl Blocks {
    fn push(&mut self, bytes: &[u8]) {
        let wanted = (self.bytes + bytes.len()).next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES;
        if self.memory.len() < wanted {
            let mut memory = vec![0; wanted.next_power_of_two()];
            let start = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
            memory[start..start + self.bytes].copy_from_slice(&self.memory[self.start..self.start + self.bytes]);
            (self.memory, self.start) = (memory, start);
        }
        let end = self.start + self.bytes;
        self.memory[end..end + bytes.len()].copy_from_slice(bytes);
        self.bytes += bytes.len();
    }

    /// The bytes, and zeros up to the end of the last block.
    fn whole(&mut self) -> &[u8] {
        let padded = self.bytes.next_multiple_of(BLOCK_BYTES);
        let (end, padded_end) = (self.start + self.bytes, self.start + padded);
        self.memory[end..padded_end].fill(0);
        &self.memory[self.start..padded_end]
    }

    /// Keeps what is in the last block, which is not full, of bytes that end at `end` in the file.
    fn keep_from(&mut self, end: u64) {
        let kept = usize::try_from(end % BLOCK_BYTES as u64).unwrap_or(0);
        let from = self.start + self.bytes - kept;
        self.memory.copy_within(from..from + kept, self.start);
        self.bytes = kept;
        if self.memory.len() > KEPT_BYTES_MAX {
            let last = self.memory[self.start..self.start + kept].to_vec();
            *self = Self::default();
            self.push(&last);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A place that is no memory, where writes may go past the cache.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/var/tmp").unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_file_holds_what_was_written_and_zeros(
            writes in prop::collection::vec((prop_oneof![1..600_usize, 4000..4200_usize, 60_000..70_000_usize], any::<bool>()), 1..24),
            makes_room: bool,
        ) {
            let directory = directory();
            let path = directory.path().join("1");
            let mut output = Output::create(&path, makes_room).unwrap();
            let mut expected = Vec::new();
            for (number, (count, to_disk)) in (1..).zip(writes) {
                let bytes = vec![number; count];
                output.write(&bytes, expected.len() as u64, to_disk).unwrap();
                expected.extend(bytes);
                if to_disk {
                    output.sync().unwrap();
                }
                // readers see it at once
                let mut seen = vec![0; count];
                output.file().read_exact_at(&mut seen, (expected.len() - count) as u64).unwrap();
                prop_assert!(seen.iter().all(|byte| *byte == number));
            }
            let found = std::fs::read(&path).unwrap();
            let (written, room) = found.split_at(expected.len());
            prop_assert_eq!(written, &expected);
            prop_assert!(room.iter().all(|byte| *byte == 0));
            prop_assert!(makes_room || room.is_empty());
        }

        #[test]
        fn blocks_begin_where_a_disk_wants_it(pushes in prop::collection::vec(1..20_000_usize, 1..12)) {
            let (mut blocks, mut end) = (Blocks::default(), 0_u64);
            for (number, count) in (1..).zip(pushes) {
                blocks.push(&vec![number; count]);
                end += count as u64;
                let whole = blocks.whole();
                prop_assert_eq!((whole.as_ptr().addr() % BLOCK_BYTES, whole.len() % BLOCK_BYTES), (0, 0));
                blocks.keep_from(end);
                prop_assert_eq!(blocks.bytes as u64, end % BLOCK_BYTES as u64);
                let last = blocks.bytes.checked_sub(1).map(|last| blocks.memory[blocks.start + last]);
                prop_assert!(last.is_none_or(|last| last == number));
            }
        }
    }

    #[test]
    fn a_large_write_leaves_no_large_buffer() {
        let mut blocks = Blocks::default();
        blocks.push(&vec![7; 3 << 20]);
        blocks.keep_from((3 << 20) + 5);
        assert!(blocks.memory.len() <= KEPT_BYTES_MAX && blocks.whole()[..5] == [7; 5]);
    }
}
