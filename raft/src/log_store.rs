//! `log/`: the entries in a [`journal`], and vote, owner and the like in a small RocksDB. One thread syncs both, once for everything that was
//! queued while the last sync ran. An append is acknowledged, and a vote returned, only after that.
//! `docs/decisions/0009-a-journal-of-entries.md` says why the entries are not in RocksDB, too.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, entry::RaftEntry as _};
use parking_lot::Mutex;
use rocksdb::{ColumnFamily, DB};
use tokio::sync::oneshot;

use crate::command::{Command, Durability};
use crate::environment::{Environment, Observation};
use crate::gaps::VOLATILE_WAITING_MAX;
use crate::happenings::Event;
use crate::keys;
#[cfg(feature = "planted")]
use crate::planted;
use crate::raft_types::{self, Entry, EntryPayload, LogId, TypeConfig, Vote};
use crate::records::{self, EntryRecord, LogOwner, RunRecord, VoteRecord};
use crate::store::OpenError;

mod chunk;
mod contents;
mod found;
mod frame;
mod identity;
mod journal;
mod legacy;
mod output;
mod queue;
mod run;
mod sync;
mod tail;
#[cfg(test)]
mod tests;

pub(crate) use frame::Frame;
use journal::Journal;
use queue::Hears;
pub(crate) use run::LogHandle;
use sync::{Files, SyncRequest, Syncer};
use tail::Tail;

/// About how many bytes of entries apply reads at once.
const READ_BYTES_MAX: usize = 1 << 20;
/// About how many bytes of entries are sent at once: they are copied into a message, encrypted and handed to the system, and should still be in a
/// core's own cache then.
pub(crate) const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// How many entries `entries_stream` reads at once.
const STREAM_ENTRIES: u64 = 512;

/// The log of one member. Cheap to clone; all clones are one log.
#[derive(Clone)]
pub(crate) struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    tail: Mutex<Tail>,
    /// Volatile entries since the last append that went to the disk.
    volatile_waiting: AtomicU64,
    appended_bytes: Arc<AtomicU64>,
    syncs: Arc<AtomicU64>,
    syncer: Syncer,
    /// Whose log it is; 0 before that is known.
    own_id: AtomicU64,
    environment: Environment,
    files: Arc<Files>,
    path: PathBuf,
    /// What is noted about this run, once it has begun.
    run: Mutex<Option<RunRecord>>,
    /// Told when everything above is closed.
    _closed: Option<crate::drop_signal::DropSignal>,
}

impl LogStore {
    /// Opens or creates the log in `path`.
    ///
    /// # Errors
    /// The directory is locked, not writable or damaged; the reason says what to do.
    pub(crate) fn open(path: &Path, environment: &Environment, closed: Option<crate::drop_signal::DropSignal>) -> Result<Self, OpenError> {
        let failed = |reason: String| OpenError { path: path.to_owned(), reason };
        let files = legacy::open(path, environment.simulation().is_none()).map_err(failed)?;
        let files = Arc::new(files);
        found::finish(&files).map_err(|error| failed(damage(&error.to_string())))?;
        let tail = load_tail(&files).map_err(|error| failed(damage(&error.to_string())))?;
        let syncs = Arc::new(AtomicU64::new(0));
        let syncer = Syncer::start(&files, path, environment, &syncs).map_err(|error| failed(format!("cannot start syncing: {error}")))?;
        let inner = Inner {
            tail: Mutex::new(tail),
            volatile_waiting: AtomicU64::new(0),
            appended_bytes: Arc::default(),
            syncs,
            syncer,
            own_id: AtomicU64::new(0),
            environment: environment.clone(),
            files,
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
        inner.own_id.store(owner.node_id, Ordering::Relaxed);
        let Some(known) = self.owner().map_err(|error| failed(damage(&error.to_string())))? else {
            inner.put_meta(keys::LOG_OWNER, &records::encode_layout(owner)).map_err(|error| failed(error.to_string()))?;
            return inner.db().flush_wal(true).map_err(|error| failed(open_failure(&error)));
        };
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
    /// The durability of an append of `count` entries, so that never more than [`VOLATILE_WAITING_MAX`] wait for the disk.
    fn bound_volatile(&self, durability: Durability, count: usize) -> Durability {
        let waiting = self.volatile_waiting.load(Ordering::Relaxed) + count as u64;
        let durability = if waiting > VOLATILE_WAITING_MAX { Durability::Disk } else { durability };
        self.volatile_waiting.store(if durability == Durability::Disk { 0 } else { waiting }, Ordering::Relaxed);
        durability
    }

    /// Whether this member leads, as far as its own vote says.
    fn leads(&self, tail: &Tail) -> bool {
        let own_id = self.own_id.load(Ordering::Relaxed);
        tail.vote.as_ref().map(VoteRecord::from).is_some_and(|vote| vote.committed && vote.voted_for == own_id)
    }

    fn db(&self) -> &DB {
        &self.files.db
    }

    fn journal(&self) -> &Journal {
        &self.files.journal
    }

    fn meta(&self) -> &ColumnFamily {
        self.files.meta()
    }

    fn error(&self, error: rocksdb::Error) -> io::Error {
        io::Error::other(format!("{}: {}", self.path.display(), error.into_string()))
    }

    fn put_meta(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.db().put_cf(self.meta(), key, value).map_err(|error| self.error(error))
    }

    fn meta_record<T: serde::de::DeserializeOwned>(&self, key: &[u8]) -> io::Result<Option<T>> {
        self.files.record(key)
    }

    /// Entries in `start..end` that exist, stopping after about `bytes_max`, but never before the first.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.tail.lock().read(start, end, bytes_max) {
            return Ok(entries);
        }
        let entries = self.journal().read(start, end, bytes_max)?;
        entries.into_iter().map(EntryRecord::into_entry).collect()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.syncer.end();
        self.end_run();
        // what nobody waited for (volatile entries, the committed position) reaches the disk on an orderly stop
        let closed = self.journal().close().and_then(|()| self.db().flush_wal(true).map_err(|error| self.error(error)));
        if let Err(error) = closed {
            tracing::warn!(path = %self.path.display(), %error, "Could not flush the log");
        }
    }
}

fn load_tail(files: &Files) -> io::Result<Tail> {
    let vote = files.record::<VoteRecord>(keys::LOG_VOTE)?;
    let [last, purged, _] = files.journal.positions();
    Ok(Tail::new(last.map(LogId::from), purged.map(LogId::from), vote.map(Vote::from)))
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

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(&mut self, range: RB) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds(&range);
        self.inner.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.inner.tail.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.inner.read(start, end, MESSAGE_BYTES_MAX)
    }

    /// Apply alone reads so.
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
                        let last = entries.last().map(|entry| entry.log_id.index());
                        if let Some(last) = last {
                            inner.tail.lock().take(last);
                        }
                        let next = last.map(|last| last + 1);
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
        self.inner.syncer.request(SyncRequest::Vote(done), Hears::Now)?;
        synced.await.map_err(io::Error::other)??;
        let VoteRecord { term, voted_for, committed } = VoteRecord::from(vote);
        self.inner.environment.observe(|| Observation::Voted { term, voted_for, committed });
        self.inner.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        // on its way with the next append
        self.inner.journal().append(&Frame::Committed(committed.into())).map(|_bytes| ())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let [_, _, committed] = self.inner.journal().positions();
        Ok(committed.map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let durability = self.inner.bound_volatile(durability(&entries), entries.len());
        for entry in &entries {
            let bytes = self.inner.journal().append(&Frame::Entry(EntryRecord::from(entry)))?;
            self.inner.appended_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        let hears = {
            let mut tail = self.inner.tail.lock();
            // a leader's entries are on their way to its followers then, whose syncs take as long as its own
            let hears = if self.inner.leads(&tail) { Hears::Soon } else { Hears::Now };
            for entry in entries {
                self.inner.environment.observe(|| Observation::Appended {
                    previous_term: tail.last.map(|last| **last.committed_leader_id()),
                    term: **entry.log_id.committed_leader_id(),
                    index: entry.index(),
                    command: raft_types::command(&entry),
                });
                tail.push(entry);
            }
            hears
        };
        self.inner.syncer.request(SyncRequest::Append { flushed: callback, durability }, hears)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index() + 1);
        let mut tail = self.inner.tail.lock();
        if let Some(end) = tail.last.map(|end| end.index()).filter(|end| *end >= from) {
            self.inner.journal().append(&Frame::Truncated { last: last.map(Into::into) })?;
            let term = tail.vote.map_or(0, |vote| vote.leader_id.term);
            self.inner.environment.tell(term, || Event::Truncate { kept: from.saturating_sub(1), last: end });
        }
        tail.truncate(last);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.inner.journal().append(&Frame::Purged(log_id.into()))?;
        self.inner.tail.lock().purge(log_id);
        Ok(())
    }
}
