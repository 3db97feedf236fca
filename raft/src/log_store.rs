//! `log/`: entries, vote and committed position in one RocksDB whose WAL is synced by one thread, once for everything that was queued
//! while the last sync ran. An append is acknowledged, and a vote returned, only after that.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, entry::RaftEntry as _};
use parking_lot::Mutex;
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, WriteBatch};
use tokio::sync::oneshot;

use crate::columns::LogColumn;
use crate::command::{Command, Durability};
use crate::environment::{Environment, Observation, Simulation};
use crate::keys;
#[cfg(feature = "planted")]
use crate::planted;
use crate::raft_types::{self, Entry, EntryPayload, LogId, TypeConfig, Vote};
use crate::records::{self, EntryRecord, LogIdRecord, LogOwner, RunRecord, VoteRecord};
use crate::store::OpenError;

/// The newest entries stay in memory, so that replication and apply do not read what was just written.
const TAIL_BYTES_MAX: usize = 4 << 20;
const TAIL_ENTRIES_MAX: usize = 8192;
/// About how many bytes of entries are read at once.
const READ_BYTES_MAX: usize = 1 << 20;
/// How many entries `entries_stream` reads at once.
const STREAM_ENTRIES: u64 = 512;

/// The log of one member. Cheap to clone; all clones are one log.
#[derive(Clone)]
pub(crate) struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    tail: Mutex<Tail>,
    appended_bytes: Arc<AtomicU64>,
    syncs: Arc<AtomicU64>,
    queue: Option<Queue>,
    syncer: Option<std::thread::JoinHandle<()>>,
    environment: Environment,
    db: Arc<DB>,
    path: PathBuf,
    /// What is noted about this run, once it has begun.
    run: Mutex<Option<RunRecord>>,
    /// Told when everything above is closed.
    _closed: Option<crate::drop_signal::DropSignal>,
}

/// What is known without reading the disk.
#[derive(Default)]
struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

/// Where syncs are asked for: a thread of the log's own, or a task of a simulation.
enum Queue {
    Thread(mpsc::Sender<SyncRequest>),
    Task(tokio::sync::mpsc::UnboundedSender<SyncRequest>),
}

enum SyncRequest {
    Append { flushed: IOFlushed<TypeConfig>, durability: Durability },
    Vote(oneshot::Sender<io::Result<()>>),
}

impl SyncRequest {
    fn durability(&self) -> Durability {
        match self {
            Self::Append { durability, .. } => *durability,
            Self::Vote(_) => Durability::Disk,
        }
    }
}

impl LogStore {
    /// Opens or creates the log in `path`.
    ///
    /// # Errors
    /// The directory is locked, not writable or damaged; the reason says what to do.
    pub(crate) fn open(path: &Path, environment: &Environment, closed: Option<crate::drop_signal::DropSignal>) -> Result<Self, OpenError> {
        let failed = |reason: String| OpenError { path: path.to_owned(), reason };
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_manual_wal_flush(true);
        // an unfinished write at the very end is what a crash leaves; anything else is damage
        options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_max_total_wal_size(64 << 20);
        options.set_db_write_buffer_size(16 << 20);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options.set_stats_dump_period_sec(0);
        options.set_max_open_files(256);
        let families = LogColumn::ALL.map(|column| {
            let mut options = rocksdb::Options::default();
            options.set_write_buffer_size(16 << 20);
            options.set_compression_type(rocksdb::DBCompressionType::Lz4);
            rocksdb::ColumnFamilyDescriptor::new(column.name(), options)
        });
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| failed(open_failure(&error)))?;
        let db = Arc::new(db);
        let tail = load_tail(&db).map_err(|error| failed(damage(&error.to_string())))?;
        let syncs = Arc::new(AtomicU64::new(0));
        let (queue, syncer) = match environment.simulation() {
            None => {
                let (queue, requests) = mpsc::channel();
                let (db, syncs) = (Arc::clone(&db), Arc::clone(&syncs));
                let syncer = std::thread::Builder::new()
                    .name("raft-log-sync".into())
                    .spawn(move || sync_loop(&db, &requests, &syncs))
                    .map_err(|error| failed(format!("cannot start the sync thread: {error}")))?;
                (Queue::Thread(queue), Some(syncer))
            }
            Some(simulation) => {
                let (queue, requests) = tokio::sync::mpsc::unbounded_channel();
                tokio::spawn(sync_simulated(Arc::clone(&db), path.to_owned(), requests, Arc::clone(&syncs), Arc::clone(simulation)));
                (Queue::Task(queue), None)
            }
        };
        let inner = Inner {
            tail: Mutex::new(tail),
            appended_bytes: Arc::default(),
            syncs,
            queue: Some(queue),
            syncer,
            environment: environment.clone(),
            db,
            path: path.to_owned(),
            run: Mutex::default(),
            _closed: closed,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes this log `owner`'s, or checks that it is.
    ///
    /// # Errors
    /// It is another member's, or another cluster's; or the disk fails.
    pub(crate) fn claim(&self, owner: &LogOwner) -> Result<(), OpenError> {
        let failed = |reason: String| OpenError { path: self.inner.path.clone(), reason };
        let inner = &self.inner;
        let known = inner.db.get_cf(inner.column(LogColumn::Meta), keys::LOG_OWNER).map_err(|error| failed(open_failure(&error)))?;
        let Some(known) = known else {
            inner.put_meta(keys::LOG_OWNER, &records::encode(owner)).map_err(|error| failed(error.to_string()))?;
            return inner.db.flush_wal(true).map_err(|error| failed(open_failure(&error)));
        };
        let known: LogOwner = records::decode(&known).map_err(|error| failed(damage(&error.to_string())))?;
        if known == *owner {
            return Ok(());
        }
        Err(failed(format!(
            "it belongs to member {} of cluster {:?}, but this is member {} of cluster {:?}; use the right directory, or an empty one",
            known.node_id, known.cluster_id, owner.node_id, owner.cluster_id
        )))
    }

    /// Whether the log still holds everything from its beginning.
    pub(crate) fn is_complete(&self) -> bool {
        self.inner.tail.lock().purged.is_none()
    }

    /// Bytes appended since the program started, for deciding when to take a snapshot.
    pub(crate) fn appended_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.inner.appended_bytes)
    }

    /// How many times the WAL was synced, for tests and metrics.
    pub(crate) fn syncs(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.inner.syncs)
    }
}

impl Inner {
    fn column(&self, column: LogColumn) -> &ColumnFamily {
        self.db.cf_handle(column.name()).expect("every family was opened")
    }

    fn error(&self, error: rocksdb::Error) -> io::Error {
        io::Error::other(format!("{}: {}", self.path.display(), error.into_string()))
    }

    fn put_meta(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.db.put_cf(self.column(LogColumn::Meta), key, value).map_err(|error| self.error(error))
    }

    fn meta_record<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> io::Result<Option<T>> {
        let bytes = self.db.get_cf(self.column(LogColumn::Meta), key).map_err(|error| self.error(error))?;
        bytes.map(|bytes| records::decode(&bytes)).transpose()
    }

    fn request_sync(&self, request: SyncRequest) -> io::Result<()> {
        let queue = self.queue.as_ref().expect("present until drop");
        let sent = match queue {
            Queue::Thread(queue) => queue.send(request).is_ok(),
            Queue::Task(queue) => queue.send(request).is_ok(),
        };
        if sent { Ok(()) } else { Err(io::Error::other("the log's sync thread has ended")) }
    }

    /// Entries in `start..end` that exist, stopping after about `bytes_max`, but never before the first.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        {
            let tail = self.tail.lock();
            if let Some(first) = tail.entries.front().map(|entry| entry.log_id.index())
                && start >= first
            {
                let skip = usize::try_from(start - first).unwrap_or(usize::MAX);
                for entry in tail.entries.iter().skip(skip).take_while(|entry| entry.log_id.index() < end) {
                    bytes += EntryRecord::size_bytes(entry);
                    if bytes > bytes_max && !entries.is_empty() {
                        break;
                    }
                    entries.push(entry.clone());
                }
                return Ok(entries);
            }
        }
        let column = self.column(LogColumn::Entries);
        let mut options = rocksdb::ReadOptions::default();
        options.set_iterate_upper_bound(keys::index(end));
        let from = keys::index(start);
        for row in self.db.iterator_cf_opt(column, options, IteratorMode::From(&from, Direction::Forward)) {
            let (_, value) = row.map_err(|error| self.error(error))?;
            let entry = records::decode::<EntryRecord>(&value)?.into_entry()?;
            bytes += value.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(syncer) = self.syncer.take()
            && syncer.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "The log's sync thread panicked");
        }
        self.end_run();
        // what nobody waited for (volatile entries, the committed position) reaches the disk on an orderly stop
        if let Err(error) = self.db.flush_wal(true) {
            tracing::warn!(path = %self.path.display(), %error, "Could not flush the log");
        }
    }
}

/// Flushes once for all requests that are queued, then answers them in their order: to the disk if one of them must be there, otherwise
/// to the operating system, where the end of this process cannot harm them. Ends when the log is dropped.
fn sync_loop(db: &DB, requests: &mpsc::Receiver<SyncRequest>, syncs: &AtomicU64) {
    let mut failed = None;
    while let Ok(first) = requests.recv() {
        let batch: Vec<SyncRequest> = std::iter::once(first).chain(requests.try_iter()).collect();
        let to_disk = batch.iter().any(|request| request.durability() == Durability::Disk);
        let result = unless_failed(&mut failed, || db.flush_wal(to_disk).map_err(rocksdb::Error::into_string));
        syncs.fetch_add(u64::from(to_disk), Ordering::Relaxed);
        answer(batch, &result);
    }
}

/// As [`sync_loop`], on a simulated disk that takes its time and may fail.
async fn sync_simulated(
    db: Arc<DB>,
    path: PathBuf,
    mut requests: tokio::sync::mpsc::UnboundedReceiver<SyncRequest>,
    syncs: Arc<AtomicU64>,
    simulation: Arc<dyn Simulation>,
) {
    let mut failed = None;
    while let Some(first) = requests.recv().await {
        let batch: Vec<SyncRequest> = std::iter::once(first).chain(std::iter::from_fn(|| requests.try_recv().ok())).collect();
        let to_disk = batch.iter().any(|request| request.durability() == Durability::Disk);
        #[cfg(feature = "planted")]
        let to_disk = to_disk && !planted::is_planted(planted::Bug::AcknowledgeBeforeSync);
        let ready = if to_disk { simulation.before_sync(&path).await } else { Ok(()) };
        let flush = || ready.map_err(|error| error.to_string()).and_then(|()| db.flush_wal(to_disk).map_err(rocksdb::Error::into_string));
        let result = unless_failed(&mut failed, flush);
        syncs.fetch_add(u64::from(to_disk), Ordering::Relaxed);
        if to_disk && result.is_ok() {
            simulation.after_sync(&path);
        }
        answer(batch, &result);
    }
}

/// After the first failure nobody knows what the disk holds, whatever it says later: every further sync fails, too.
fn unless_failed(failed: &mut Option<String>, sync: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    if let Some(error) = failed {
        return Err(error.clone());
    }
    sync().inspect_err(|error| *failed = Some(error.clone()))
}

fn answer(batch: Vec<SyncRequest>, result: &Result<(), String>) {
    for request in batch {
        let result = result.clone().map_err(io::Error::other);
        match request {
            SyncRequest::Append { flushed, .. } => flushed.io_completed(result),
            // whoever asked has gone away
            SyncRequest::Vote(done) => drop(done.send(result)),
        }
    }
}

fn load_tail(db: &DB) -> io::Result<Tail> {
    let column = |column: LogColumn| db.cf_handle(column.name()).expect("every family was opened");
    let meta = |key: &[u8]| db.get_cf(column(LogColumn::Meta), key).map_err(io::Error::other);
    let vote = meta(keys::LOG_VOTE)?.map(|bytes| records::decode::<VoteRecord>(&bytes)).transpose()?;
    let purged = meta(keys::LOG_PURGED)?.map(|bytes| records::decode::<LogIdRecord>(&bytes)).transpose()?;
    let mut expected = purged.map(|purged| purged.index + 1);
    let mut last = None;
    let from = keys::index(expected.unwrap_or(0));
    let entries = column(LogColumn::Entries);
    for row in db.iterator_cf(entries, IteratorMode::From(&from, Direction::Forward)) {
        let (key, value) = row.map_err(io::Error::other)?;
        let index = keys::parse_index(&key)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("a key of {} bytes is no log index", key.len())))?;
        if expected.is_some_and(|expected| expected != index) {
            let message = format!("entry {} is missing, the next one is {index}", expected.unwrap_or_default());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        expected = Some(index + 1);
        last = Some(value);
    }
    let last = last.map(|value| records::decode::<EntryRecord>(&value)).transpose()?.map(|entry| entry.log_id);
    let purged = purged.map(LogId::from);
    Ok(Tail { last: last.map(LogId::from).or(purged), purged, vote: vote.map(Vote::from), ..Tail::default() })
}

/// Why RocksDB did not open, and what to do about it.
pub(crate) fn open_failure(error: &rocksdb::Error) -> String {
    let text = error.as_ref();
    if text.contains("While lock file") || text.contains("lock hold by current process") {
        format!("another process uses it ({text}); stop that one first")
    } else if error.kind() == rocksdb::ErrorKind::Corruption {
        damage(text)
    } else {
        text.to_owned()
    }
}

/// How the text of damage begins.
const DAMAGE: &str = "the data is damaged";

/// Whether it did not open because it is damaged.
pub(crate) fn is_damage(error: &OpenError) -> bool {
    error.reason.starts_with(DAMAGE)
}

/// What to do about a damaged member. What a newer program wrote is no damage: it stays as it is.
pub(crate) fn damage(text: &str) -> String {
    if text.contains(records::UNKNOWN_VERSION) {
        return text.to_owned();
    }
    format!(
        "{DAMAGE} ({text}); keep a copy of the directory, remove this member from the cluster, and add it again with an empty directory and a new id"
    )
}

impl Tail {
    fn push(&mut self, entry: Entry) {
        self.last = Some(entry.log_id);
        self.bytes += EntryRecord::size_bytes(&entry);
        self.entries.push_back(entry);
        while self.bytes > TAIL_BYTES_MAX || self.entries.len() > TAIL_ENTRIES_MAX {
            let Some(entry) = self.entries.pop_front() else { break };
            self.bytes -= EntryRecord::size_bytes(&entry);
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(&mut self, range: RB) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds(&range);
        self.inner.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.inner.tail.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.inner.read(start, end, READ_BYTES_MAX)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl futures::Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let inner = Arc::clone(&self.inner);
        let chunks = futures::stream::unfold(Some(start), move |next| {
            let inner = Arc::clone(&inner);
            async move {
                let start = next.filter(|start| *start < end)?;
                match inner.read(start, end.min(start.saturating_add(STREAM_ENTRIES)), READ_BYTES_MAX) {
                    Ok(entries) => {
                        let next = entries.last().map(|entry| entry.log_id.index() + 1);
                        Some((entries.into_iter().map(Ok).collect::<Vec<_>>(), next))
                    }
                    Err(error) => Some((vec![Err(error)], None)),
                }
            }
        });
        futures::StreamExt::flat_map(chunks, futures::stream::iter)
    }
}

/// What an append of these entries needs: everything but volatile transactions belongs on disk.
fn durability(entries: &[Entry]) -> Durability {
    let volatile = |entry: &Entry| matches!(&entry.payload, EntryPayload::Normal(payload) if Command::is_volatile(&payload.0));
    if entries.iter().all(volatile) { Durability::Memory } else { Durability::Disk }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.inner.tail.lock();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        #[cfg(feature = "planted")]
        if planted::is_planted(planted::Bug::VoteTwice) {
            // remembered until the next start only
            let VoteRecord { term, voted_for, committed } = VoteRecord::from(vote);
            self.inner.environment.observe(|| Observation::Voted { term, voted_for, committed });
            self.inner.tail.lock().vote = Some(*vote);
            return Ok(());
        }
        self.inner.put_meta(keys::LOG_VOTE, &records::encode(&VoteRecord::from(vote)))?;
        let (done, synced) = oneshot::channel();
        self.inner.request_sync(SyncRequest::Vote(done))?;
        synced.await.map_err(io::Error::other)??;
        let VoteRecord { term, voted_for, committed } = VoteRecord::from(vote);
        self.inner.environment.observe(|| Observation::Voted { term, voted_for, committed });
        self.inner.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        match committed {
            Some(committed) => self.inner.put_meta(keys::LOG_COMMITTED, &records::encode(&LogIdRecord::from(committed))),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let bytes =
            self.inner.db.get_cf(self.inner.column(LogColumn::Meta), keys::LOG_COMMITTED).map_err(|error| self.inner.error(error))?;
        Ok(bytes.map(|bytes| records::decode::<LogIdRecord>(&bytes)).transpose()?.map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let column = self.inner.column(LogColumn::Entries);
        let mut batch = WriteBatch::default();
        let entries: Vec<Entry> = entries.into_iter().collect();
        let durability = durability(&entries);
        for entry in &entries {
            batch.put_cf(column, keys::index(entry.index()), records::encode(&EntryRecord::from(entry)));
        }
        self.inner.appended_bytes.fetch_add(batch.size_in_bytes() as u64, Ordering::Relaxed);
        self.inner.db.write(batch).map_err(|error| self.inner.error(error))?;
        {
            let mut tail = self.inner.tail.lock();
            for entry in entries {
                self.inner.environment.observe(|| Observation::Appended {
                    previous_term: tail.last.map(|last| **last.committed_leader_id()),
                    term: **entry.log_id.committed_leader_id(),
                    index: entry.index(),
                    command: raft_types::command(&entry),
                });
                tail.push(entry);
            }
        }
        self.inner.request_sync(SyncRequest::Append { flushed: callback, durability })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index() + 1);
        let column = self.inner.column(LogColumn::Entries);
        self.inner.db.delete_range_cf(column, keys::index(from), keys::index(u64::MAX)).map_err(|error| self.inner.error(error))?;
        let mut tail = self.inner.tail.lock();
        while tail.entries.back().is_some_and(|entry| entry.index() >= from) {
            if let Some(entry) = tail.entries.pop_back() {
                tail.bytes -= EntryRecord::size_bytes(&entry);
            }
        }
        if tail.last.is_some_and(|known| known.index() >= from) {
            tail.last = last.or(tail.purged);
        }
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let column = self.inner.column(LogColumn::Entries);
        let from = self.inner.tail.lock().purged.map_or(0, |purged| purged.index() + 1);
        let mut batch = WriteBatch::default();
        batch.put_cf(self.inner.column(LogColumn::Meta), keys::LOG_PURGED, records::encode(&LogIdRecord::from(log_id)));
        batch.delete_range_cf(column, keys::index(from), keys::index(log_id.index() + 1));
        self.inner.db.write(batch).map_err(|error| self.inner.error(error))?;
        let mut tail = self.inner.tail.lock();
        while tail.entries.front().is_some_and(|entry| entry.index() <= log_id.index()) {
            if let Some(entry) = tail.entries.pop_front() {
                tail.bytes -= EntryRecord::size_bytes(&entry);
            }
        }
        tail.purged = tail.purged.max(Some(log_id));
        tail.last = tail.last.max(Some(log_id));
        Ok(())
    }
}

mod found;
mod identity;
mod run;
#[cfg(test)]
mod tests;

pub(crate) use run::LogHandle;
