//! What is on its way to a segment, in memory that is written as it is, also past the system's cache: it begins where a block of the file does,
//! with what the file has there already, and ends with zeros up to the end of its last block. It never grows, since what grows is moved.

use std::sync::Arc;

use super::frame::Place;

/// What the system's cache and writes past it deal in.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Memory of a chunk, unless the first that is added needs more.
const CHUNK_BYTES: usize = 1 << 20;
/// Memory of so many chunks is kept, if that many are needed again and again.
const SPARE_CHUNKS_MAX: usize = 4;

/// Bytes of one segment that are written at once.
pub(super) struct Chunk {
    /// Where they stand.
    at: Place,
    /// Anything up to `start`, what the file has in the first block before them, the bytes, zeros once it is complete.
    memory: Vec<u8>,
    /// Where the first block begins in `memory`.
    start: usize,
    /// Where the bytes begin in `memory`.
    first: usize,
    /// Where they end there.
    end: usize,
}

/// Memory of chunks that are written, for the next ones.
#[derive(Default)]
pub(super) struct Spare(Vec<Vec<u8>>);

impl Chunk {
    /// An empty one, with room for `bytes` at least, for what comes at `at` in a file that has `before` in the same block before it.
    pub(super) fn begin(at: Place, before: &[u8], bytes: usize, spare: &mut Spare) -> Self {
        debug_assert_eq!(before.len() as u64, at.offset % BLOCK_BYTES as u64, "the block begins elsewhere");
        let wanted = BLOCK_BYTES + (before.len() + bytes).next_multiple_of(BLOCK_BYTES);
        let mut memory = if wanted <= CHUNK_BYTES { spare.take() } else { Vec::with_capacity(wanted) };
        let address = memory.as_ptr().addr();
        let start = address.next_multiple_of(BLOCK_BYTES) - address;
        memory.resize(start, 0);
        memory.extend_from_slice(before);
        let first = memory.len();
        Self { at, memory, start, first, end: first }
    }

    /// Whether so many more bytes find room.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.start + (self.end + bytes - self.start).next_multiple_of(BLOCK_BYTES) <= self.memory.capacity()
    }

    /// Adds what `put` appends, for which there must be room.
    pub(super) fn add(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let capacity = self.memory.capacity();
        put(&mut self.memory);
        self.end = self.memory.len();
        debug_assert!(self.has_room(0) && self.memory.capacity() == capacity, "there was no room");
    }

    /// As it is written: nothing is added any more.
    pub(super) fn complete(mut self) -> Arc<Self> {
        let blocks_end = self.start + (self.end - self.start).next_multiple_of(BLOCK_BYTES);
        self.memory.resize(blocks_end, 0);
        Arc::new(self)
    }

    /// Where its bytes begin.
    pub(super) fn at(&self) -> Place {
        self.at
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.first..self.end]
    }

    /// Where its bytes end in the segment.
    pub(super) fn end_offset(&self) -> u64 {
        self.at.offset + self.bytes().len() as u64
    }

    /// The blocks in which its bytes are, whole once it is complete.
    pub(super) fn blocks(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    /// Where the blocks begin in the segment.
    pub(super) fn blocks_offset(&self) -> u64 {
        self.at.offset - (self.first - self.start) as u64
    }

    /// What the last block has, as long as that is not full.
    pub(super) fn last_block(&self) -> &[u8] {
        let bytes = (self.end - self.start) % BLOCK_BYTES;
        &self.memory[self.end - bytes..self.end]
    }

    /// So many bytes at a place, if they are here.
    pub(super) fn share(&self, at: Place, bytes: usize) -> Option<&[u8]> {
        let start = at.offset.checked_sub(self.at.offset).filter(|_| at.segment == self.at.segment)?;
        let start = usize::try_from(start).ok()?;
        self.bytes().get(start..start.checked_add(bytes)?)
    }
}

impl Spare {
    /// Keeps the memory of a chunk that nobody needs any more, unless it is larger than others.
    pub(super) fn keep(&mut self, chunk: Arc<Chunk>) {
        if self.0.len() < SPARE_CHUNKS_MAX
            && let Some(Chunk { memory, .. }) = Arc::into_inner(chunk)
            && memory.capacity() <= CHUNK_BYTES
        {
            self.0.push(memory);
        }
    }

    /// Gives some back if more than one was not needed for what is written next.
    pub(super) fn shrink(&mut self) {
        if self.0.len() > 1 {
            self.0.remove(0);
        }
    }

    /// The newest first, which is more likely to be in a processor's cache, and leaves the others untouched while little is written.
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = BLOCK_BYTES as u64;

    fn at(offset: u64) -> Place {
        Place { segment: 3, offset }
    }

    /// A complete chunk with `bytes` that follow `before` in their block.
    fn chunk(before: &[u8], bytes: &[u8], spare: &mut Spare) -> Arc<Chunk> {
        let mut chunk = Chunk::begin(at(5 * BLOCK + before.len() as u64), before, bytes.len(), spare);
        chunk.add(|memory| memory.extend_from_slice(bytes));
        chunk.complete()
    }

    fn check_blocks(chunk: &Chunk, before: &[u8], bytes: &[u8]) {
        let blocks = chunk.blocks();
        assert_eq!((blocks.as_ptr().addr() % BLOCK_BYTES, blocks.len() % BLOCK_BYTES, chunk.blocks_offset()), (0, 0, 5 * BLOCK));
        let (used, zeros) = blocks.split_at(before.len() + bytes.len());
        assert!(used == [before, bytes].concat() && zeros.len() < BLOCK_BYTES && zeros.iter().all(|byte| *byte == 0));
        assert!(chunk.bytes() == bytes && chunk.at() == at(5 * BLOCK + before.len() as u64));
        assert_eq!(chunk.end_offset(), 5 * BLOCK + used.len() as u64);
        assert_eq!(chunk.last_block(), &used[used.len() / BLOCK_BYTES * BLOCK_BYTES..]);
    }

    proptest! {
        #[test]
        fn blocks_begin_where_a_disk_wants_it(chunks in prop::collection::vec((0..BLOCK_BYTES, 1..20_000_usize), 1..8)) {
            // always the same memory, which holds what was there before
            let mut spare = Spare::default();
            for (number, (before, bytes)) in (1..).zip(chunks) {
                let (before, bytes) = (vec![number; before], vec![number + 100; bytes]);
                let chunk = chunk(&before, &bytes, &mut spare);
                check_blocks(&chunk, &before, &bytes);
                spare.keep(chunk);
                prop_assert_eq!(spare.0.len(), 1);
            }
        }
    }

    #[test]
    fn it_may_end_at_the_end_of_a_block_or_beside_it() {
        for before in [0, 1, BLOCK_BYTES - 1] {
            for blocks in [1, 2, 256, 257] {
                for end in [blocks * BLOCK_BYTES - 1, blocks * BLOCK_BYTES, blocks * BLOCK_BYTES + 1] {
                    let Some(bytes) = end.checked_sub(before).filter(|bytes| *bytes > 0) else { continue };
                    let (before, bytes) = (vec![1; before], vec![2; bytes]);
                    check_blocks(&chunk(&before, &bytes, &mut Spare::default()), &before, &bytes);
                }
            }
        }
    }

    #[test]
    fn it_takes_what_finds_room_and_stays_where_it_is() {
        let mut chunk = Chunk::begin(at(7), &[1; 7], 1, &mut Spare::default());
        let (memory, mut count) = (chunk.memory.as_ptr(), 0);
        while chunk.has_room(1000) {
            chunk.add(|memory| memory.extend_from_slice(&[2; 1000]));
            count += 1000;
        }
        // but for what its place in memory costs, and the last bytes
        assert!((CHUNK_BYTES - BLOCK_BYTES - 1000 - 7..CHUNK_BYTES).contains(&count), "{count}");
        let rest = (0..1000).rev().find(|bytes| chunk.has_room(*bytes)).unwrap();
        chunk.add(|memory| memory.extend_from_slice(&vec![3; rest]));
        assert!(!chunk.has_room(1) && chunk.last_block().is_empty());
        let chunk = chunk.complete();
        assert_eq!(chunk.memory.as_ptr(), memory);
        assert_eq!(chunk.blocks().len(), 7 + count + rest);
    }

    #[test]
    fn a_share_is_what_stands_at_its_place() {
        let mut chunk = Chunk::begin(at(10), &[9; 10], 4, &mut Spare::default());
        chunk.add(|memory| memory.extend_from_slice(&[1, 2, 3, 4]));
        let chunk = chunk.complete();
        assert_eq!(chunk.share(at(10), 4), Some(&[1, 2, 3, 4][..]));
        assert_eq!(chunk.share(at(12), 2), Some(&[3, 4][..]));
        // neither what the block had before nor the zeros
        let beside = [(at(9), 2), (at(13), 2), (at(14), 1), (Place { segment: 2, offset: 10 }, 1)];
        assert!(beside.into_iter().all(|(at, bytes)| chunk.share(at, bytes).is_none()));
    }

    #[test]
    fn memory_is_used_again_but_not_much_is_kept() {
        let mut spare = Spare::default();
        let mut seen = Vec::new();
        for _ in 0..5 {
            let [older, newer] = [(); 2].map(|()| chunk(&[], &[1; 300], &mut spare));
            seen.extend([older.memory.as_ptr(), newer.memory.as_ptr()]);
            for chunk in [older, newer] {
                spare.keep(chunk);
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 2);
        let many = [(); SPARE_CHUNKS_MAX + 3].map(|()| chunk(&[], &[1; 300], &mut spare));
        for chunk in many {
            spare.keep(chunk);
        }
        assert_eq!(spare.0.len(), SPARE_CHUNKS_MAX);
        // nothing needs it
        for _ in 0..SPARE_CHUNKS_MAX {
            spare.shrink();
        }
        assert_eq!(spare.0.len(), 1);
        let large = chunk(&[], &vec![1; CHUNK_BYTES], &mut spare);
        assert!(large.memory.capacity() <= CHUNK_BYTES + BLOCK_BYTES);
        spare.keep(large);
        assert_eq!(spare.0.iter().map(Vec::capacity).collect::<Vec<_>>(), [CHUNK_BYTES]);
    }
}
