//! `log/entries/`: the entries, in numbered files ("segments") that are written once, from front to back, and removed when all that they hold
//! is purged. Nothing is ever written a second time, and a sync has nothing to note but the bytes themselves: a segment grows by zeros that
//! are synced together with the first bytes before them.
//!
//! Every run begins a segment of its own, when it writes first: what a crash has left at the end of an older one is never written over.
//!
//! [`Journal::append`] takes a frame into memory, where it is readable at once; [`Journal::write`] hands everything taken so far to the
//! operating system or the disk. The former never waits for the latter.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::chunk::{Chunk, Spare};
use super::contents::{Contents, EntryPlace};
use super::frame::{self, Found, Frame, Place};
use super::output::Output;
use crate::records::{self, EntryRecord, LogIdRecord};

/// A segment is full when it is longer than this.
const SEGMENT_BYTES: u64 = 16 << 20;

/// The entries of one log.
pub(super) struct Journal {
    directory: PathBuf,
    /// See [`Output::create`].
    makes_room: bool,
    state: Mutex<State>,
    writer: Mutex<Writer>,
}

#[derive(Default)]
struct State {
    contents: Contents,
    segments: BTreeMap<u64, Segment>,
    /// Where the next frame goes, once this run has begun a segment.
    end: Option<Place>,
    /// Where the last segment of earlier runs ends.
    previous_end: u64,
    /// Everything before this is on disk.
    synced: Place,
    /// What is purged according to the disk.
    purged_on_disk: Option<LogIdRecord>,
    /// What is being written, then what waits for the next [`Journal::write`].
    unwritten: VecDeque<Arc<Chunk>>,
    waiting: Option<Chunk>,
    /// What stands before the next chunk in the block in which that begins.
    last_block: Vec<u8>,
    spare: Spare,
}

/// A file of the journal.
struct Segment {
    /// The last entry before it.
    before: Option<LogIdRecord>,
    /// `None` until it is written.
    file: Option<Arc<File>>,
}

#[derive(Default)]
struct Writer {
    /// The segment that is being written.
    current: Option<(u64, Output)>,
    /// A write has failed: nobody knows what the disk holds.
    has_failed: bool,
}

impl Journal {
    /// Opens the journal in `directory`, or what will become one with the first write.
    ///
    /// # Errors
    /// Of the file system; `InvalidData` for damage, with what it is, and `Unsupported` for what a newer program has written.
    pub(super) fn open(directory: &Path, makes_room: bool) -> io::Result<Self> {
        let mut state = State::default();
        let numbers = segment_numbers(directory)?;
        for (position, number) in numbers.iter().enumerate() {
            state.replay(directory, *number, numbers.get(position + 1).is_none())?;
        }
        state.contents.check().map_err(damaged)?;
        Ok(Self { directory: directory.to_owned(), makes_room, state: Mutex::new(state), writer: Mutex::default() })
    }

    /// The last entry, the last purged one and the last one that is known to be committed.
    pub(super) fn positions(&self) -> [Option<LogIdRecord>; 3] {
        let Contents { last, purged, committed, .. } = self.state.lock().contents;
        [last, purged, committed]
    }

    /// The last entry before the newest ones that have `bytes` together; none if all have no more.
    pub(super) fn before_newest(&self, bytes: u64) -> Option<u64> {
        self.state.lock().contents.before_newest(bytes)
    }

    /// Takes a frame; returns how many bytes it has.
    ///
    /// # Errors
    /// It does not follow what is there.
    pub(super) fn append(&self, frame: &Frame) -> io::Result<usize> {
        self.state.lock().append(frame).map_err(damaged)
    }

    /// Writes what was taken so far: to the disk, or to the operating system, where the end of this process cannot harm it.
    ///
    /// # Errors
    /// Of the disk. Nobody knows then what it holds, so every later write fails, too.
    pub(super) fn write(&self, to_disk: bool) -> io::Result<()> {
        let mut writer = self.writer.lock();
        if writer.has_failed {
            return Err(io::Error::other("an earlier write has failed"));
        }
        let written = self.try_write(&mut writer, to_disk);
        writer.has_failed = written.is_err();
        written
    }

    fn try_write(&self, writer: &mut Writer, to_disk: bool) -> io::Result<()> {
        let (count, end, purged) = {
            let mut state = self.state.lock();
            state.complete_waiting();
            state.spare.shrink();
            (state.unwritten.len(), state.end, state.contents.purged)
        };
        for _ in 0..count {
            let Some(chunk) = self.state.lock().unwritten.front().cloned() else { break };
            self.output(writer, chunk.at().segment)?.write(&chunk, to_disk)?;
            let mut state = self.state.lock();
            state.unwritten.pop_front();
            state.spare.keep(chunk);
        }
        let Some(end) = end.filter(|_| to_disk) else { return Ok(()) };
        if let Some((_, output)) = &mut writer.current {
            output.sync()?;
        }
        let mut state = self.state.lock();
        (state.synced, state.purged_on_disk) = (end, purged);
        Ok(())
    }

    /// Notes that this run ends orderly and everything is on disk, if it has written anything.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn close(&self) -> io::Result<()> {
        if self.state.lock().end.is_none() {
            return Ok(());
        }
        self.write(true)?;
        self.append(&Frame::End)?;
        self.write(true)
    }

    /// Removes the segments that hold nothing any more, as the disk knows.
    ///
    /// # Errors
    /// Of the file system; a segment that is left does no harm.
    pub(super) fn remove_purged(&self) -> io::Result<()> {
        loop {
            let number = {
                let mut state = self.state.lock();
                let purged = state.purged_on_disk;
                let mut segments = state.segments.iter();
                match (segments.next(), segments.next()) {
                    (Some((number, _)), Some((next, segment)))
                        if *next <= state.synced.segment && index(segment.before) <= index(purged) =>
                    {
                        let number = *number;
                        state.segments.remove(&number);
                        number
                    }
                    _ => return Ok(()),
                }
            };
            fs::remove_file(path(&self.directory, number))?;
        }
    }

    /// Entries of `start..end` that are here, with their bytes, stopping after about `bytes_max`, but never before the first.
    ///
    /// # Errors
    /// Of the disk, and damaged entries.
    pub(super) fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<EntryRecord>> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut next = start;
        while next < end {
            // without the lock while the disk is read: a segment that is removed meanwhile stays readable
            let place = self.state.lock().contents.places(next, end).next();
            let Some(place) = place else { break };
            bytes += place.bytes as usize;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            let entry = self.entry(place)?;
            next = entry.log_id.index + 1;
            entries.push(entry);
        }
        Ok(entries)
    }

    fn entry(&self, place: EntryPlace) -> io::Result<EntryRecord> {
        let mut bytes = vec![0; place.bytes as usize];
        let file = {
            let state = self.state.lock();
            let in_memory =
                state.unwritten.iter().map(Arc::as_ref).chain(&state.waiting).find_map(|chunk| chunk.share(place.at, bytes.len()));
            match in_memory {
                Some(share) => {
                    bytes.copy_from_slice(share);
                    None
                }
                None => state.segments.get(&place.at.segment).and_then(|segment| segment.file.clone()),
            }
        };
        if let Some(file) = file {
            file.read_exact_at(&mut bytes, place.at.offset)?;
        }
        match frame::body(&bytes, place.at).map(records::decode::<Frame>) {
            Some(Ok(Frame::Entry(entry))) => Ok(entry),
            Some(Err(error)) => Err(error),
            _ => Err(damaged(format!("{} has no entry at {}", path(&self.directory, place.at.segment).display(), place.at.offset))),
        }
    }

    /// The segment with that number, made if need be. Whatever is in the one before it is synced first.
    fn output<'a>(&self, writer: &'a mut Writer, number: u64) -> io::Result<&'a mut Output> {
        let is_current = writer.current.as_ref().is_some_and(|(current, _)| *current == number);
        if let Some((_, output)) = writer.current.as_mut().filter(|_| !is_current) {
            output.sync()?;
        }
        let (_, output) = match writer.current.take().filter(|_| is_current) {
            Some(current) => writer.current.insert(current),
            None => writer.current.insert((number, self.begin(number)?)),
        };
        Ok(output)
    }

    fn begin(&self, number: u64) -> io::Result<Output> {
        if !self.directory.exists() {
            fs::create_dir(&self.directory)?;
            sync_parent(&self.directory)?;
        }
        let path = path(&self.directory, number);
        let output = Output::create(&path, self.makes_room)?;
        sync_parent(&path)?;
        if let Some(segment) = self.state.lock().segments.get_mut(&number) {
            segment.file = Some(Arc::clone(output.file()));
        }
        Ok(output)
    }
}

impl State {
    fn append(&mut self, frame: &Frame) -> Result<usize, String> {
        if self.end.is_none_or(|end| end.offset >= SEGMENT_BYTES) {
            self.begin_segment()?;
        }
        self.put(frame)
    }

    fn begin_segment(&mut self) -> Result<(), String> {
        let newest = self.segments.last_key_value().map_or(0, |(number, _)| *number);
        let previous_end = self.end.map_or(self.previous_end, |end| end.offset);
        let Contents { last, purged, committed, .. } = self.contents;
        self.segments.insert(newest + 1, Segment { before: last, file: None });
        self.end = Some(Place { segment: newest + 1, offset: 0 });
        self.complete_waiting();
        self.last_block.clear();
        self.put(&Frame::Begin { previous_end, last, purged, committed }).map(|_| ())
    }

    fn put(&mut self, frame: &Frame) -> Result<usize, String> {
        let Some(at) = self.end else { return Err("no segment was begun".into()) };
        let synced = if self.synced.segment == at.segment { self.synced.offset } else { 0 };
        let bytes = frame::size_bytes(frame);
        let place = EntryPlace { at, bytes: u32::try_from(bytes).map_err(|_too_long| "a frame is too long")? };
        if self.waiting.as_ref().is_some_and(|chunk| !chunk.has_room(bytes)) {
            self.complete_waiting();
        }
        let Self { waiting, last_block, spare, .. } = self;
        let waiting = waiting.get_or_insert_with(|| Chunk::begin(at, last_block, bytes, spare));
        waiting.add(|memory| frame::put(memory, at, synced, frame));
        self.end = Some(Place { offset: at.offset + bytes as u64, ..at });
        self.contents.take(frame, place).map(|()| bytes)
    }

    /// Lets the next frame begin another chunk.
    fn complete_waiting(&mut self) {
        if let Some(chunk) = self.waiting.take() {
            self.last_block.clear();
            self.last_block.extend_from_slice(chunk.last_block());
            self.unwritten.push_back(chunk.complete());
        }
    }

    /// Reads a segment of an earlier run.
    fn replay(&mut self, directory: &Path, number: u64, is_last: bool) -> io::Result<()> {
        let path = path(directory, number);
        let bad = |what: String| damaged(format!("{}: {what}", path.display()));
        let (bytes, mut at) = (fs::read(&path)?, Place { segment: number, offset: 0 });
        let newest = self.segments.last_key_value().map(|(number, _)| *number);
        if newest.is_some_and(|newest| newest + 1 != number) {
            return Err(bad("the one before it is missing".into()));
        }
        loop {
            match frame::at(&bytes, at) {
                Found::Intact(found) => {
                    let frame: Frame = records::decode(found.body)?;
                    // a crash may have left less of it than the zeros at its end
                    let end = found.next.min(bytes.len() as u64);
                    let bytes = u32::try_from(end - at.offset).unwrap_or(u32::MAX);
                    match (&frame, at.offset) {
                        (Frame::Begin { last, .. }, 0) => {
                            self.segments.insert(number, Segment { before: *last, file: Some(Arc::new(File::open(&path)?)) });
                            if newest.is_none() {
                                self.contents.begin(&frame);
                            }
                        }
                        (_, 0) => return Err(bad("it does not begin as it should".into())),
                        _ => {}
                    }
                    if let (Frame::Begin { previous_end, .. }, Some(_)) = (&frame, newest)
                        && *previous_end != self.previous_end
                    {
                        return Err(bad(format!("the one before it ends at {} instead of {previous_end}", self.previous_end)));
                    }
                    self.contents.take(&frame, EntryPlace { at, bytes }).map_err(bad)?;
                    at.offset = found.next;
                }
                Found::Damaged => return Err(bad(format!("checksum mismatch at {}", at.offset))),
                Found::Unfinished if frame::was_synced(&bytes, at) => return Err(bad(format!("bytes are missing at {}", at.offset))),
                Found::Unfinished if at.offset == 0 && !is_last => return Err(bad("it is empty".into())),
                Found::Unfinished => break,
            }
        }
        // a crash may come before a new segment has its first bytes: its number is used again then
        if at.offset == 0 {
            return fs::remove_file(&path);
        }
        if is_last {
            settle(&path, &bytes, at.offset)?;
        }
        self.previous_end = at.offset;
        Ok(())
    }
}

/// Writes what was found in a segment once more and syncs it. The run before may have ended before its last sync, or because that failed:
/// what is shown then may be in the system's cache alone, and a sync that has failed once leaves it there without another word.
fn settle(path: &Path, bytes: &[u8], end: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    let end = usize::try_from(end).unwrap_or(usize::MAX).min(bytes.len());
    file.write_all_at(&bytes[..end], 0)?;
    file.sync_data()
}

/// The numbers of the segments in `directory`, in order; none if it is not there.
fn segment_numbers(directory: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:012}.log"))
}

fn index(id: Option<LogIdRecord>) -> Option<u64> {
    id.map(|id| id.index)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests;
