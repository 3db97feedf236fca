//! A segment of the journal while it is written, from front to back.
//!
//! What must be on disk goes past the system's cache where that is possible: a sync then only has the disk itself to wait for. Such writes are
//! whole blocks, so what was in the last one, which was not full, is written again with the next ones, as the cache would do.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::chunk::{BLOCK_BYTES, Chunk};
use crate::disk;

/// By so many zeros a segment grows.
const ROOM_BYTES: usize = 256 << 10;
/// Writes from this size on are written behind the zeros: the size of the file, which the file system then notes at each sync, costs little
/// beside them.
const LARGE_WRITE_BYTES: usize = 64 << 10;

/// Zeros that begin where a block may.
#[repr(align(4096))]
struct Room([u8; ROOM_BYTES]);

static ROOM: Room = Room([0; ROOM_BYTES]);

/// An open segment.
pub(super) struct Output {
    file: Arc<File>,
    /// The same file, past the system's cache.
    past_cache: Option<File>,
    makes_room: bool,
    /// Length of the file.
    length: u64,
    /// Something was written since the last sync.
    is_dirty: bool,
}

impl Output {
    /// Makes a new segment. `makes_room`: it grows by [`ROOM_BYTES`] and past the cache; otherwise it is as long as what was written to it,
    /// which a simulated disk wants to know.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn create(path: &Path, makes_room: bool) -> io::Result<Self> {
        let file = Arc::new(File::options().read(true).write(true).create_new(true).open(path)?);
        let past_cache = if makes_room { open_past_cache(path) } else { None };
        Ok(Self { file, past_cache, makes_room, length: 0, is_dirty: false })
    }

    /// The file, for readers.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Writes what comes next: on its way to the disk at once if that is where it must go.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn write(&mut self, chunk: &Chunk, to_disk: bool) -> io::Result<()> {
        self.is_dirty = true;
        match self.past_cache.as_ref().filter(|_| to_disk) {
            Some(past_cache) => past_cache.write_all_at(chunk.blocks(), chunk.blocks_offset())?,
            None => self.file.write_all_at(chunk.bytes(), chunk.at().offset)?,
        }
        let end = chunk.end_offset();
        if self.makes_room && end > self.length && chunk.bytes().len() < LARGE_WRITE_BYTES {
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
        if let Some(file) = &self.past_cache {
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

/// `None` where there is no such way. Some file systems open what they do not write then, or want larger blocks, so it is tried with zeros, of
/// which a segment consists anyway.
fn open_past_cache(path: &Path) -> Option<File> {
    let file = File::options().write(true).custom_flags(disk::past_cache()).open(path).ok()?;
    file.write_all_at(&ROOM.0[..BLOCK_BYTES], 0).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log_store::chunk::Spare;
    use crate::log_store::frame::Place;

    /// A place that is no memory, where writes may go past the cache.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/var/tmp").unwrap()
    }

    #[derive(Clone, Debug)]
    struct Write {
        bytes: usize,
        /// It ends so many bytes after the end of a block.
        beside: Option<isize>,
        to_disk: bool,
    }

    fn any_write() -> impl Strategy<Value = Write> {
        // the last are more than other chunks have
        let bytes = prop_oneof![8 => 1..600_usize, 8 => 4000..4200_usize, 8 => 60_000..70_000_usize, 1 => (1_usize << 20)..(5 << 18)];
        (bytes, prop::option::of(-1..2_isize), any::<bool>()).prop_map(|(bytes, beside, to_disk)| Write { bytes, beside, to_disk })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_file_holds_what_was_written_and_zeros(
            writes in prop::collection::vec(any_write(), 1..24),
            makes_room: bool,
        ) {
            let directory = directory();
            let path = directory.path().join("1");
            let mut output = Output::create(&path, makes_room).unwrap();
            let (mut expected, mut last_block, mut spare) = (Vec::new(), Vec::new(), Spare::default());
            for (number, Write { bytes, beside, to_disk }) in (1..).zip(writes) {
                let end = expected.len() + bytes;
                let end = beside.map_or(end, |beside| end.next_multiple_of(BLOCK_BYTES).saturating_add_signed(beside));
                let count = end.saturating_sub(expected.len()).max(1);
                let at = Place { segment: 1, offset: expected.len() as u64 };
                let mut chunk = Chunk::begin(at, &last_block, count, &mut spare);
                chunk.add(|memory| memory.resize(memory.len() + count, number));
                let chunk = chunk.complete();
                output.write(&chunk, to_disk).unwrap();
                last_block = chunk.last_block().to_vec();
                spare.keep(chunk);
                expected.resize(expected.len() + count, number);
                if to_disk {
                    output.sync().unwrap();
                }
                // readers see it at once
                let mut seen = vec![0; count];
                output.file().read_exact_at(&mut seen, at.offset).unwrap();
                prop_assert!(seen.iter().all(|byte| *byte == number));
            }
            let found = std::fs::read(&path).unwrap();
            let (written, room) = found.split_at(expected.len());
            prop_assert!(written == expected);
            prop_assert!(room.iter().all(|byte| *byte == 0));
            prop_assert!(makes_room || room.is_empty());
        }
    }
}
