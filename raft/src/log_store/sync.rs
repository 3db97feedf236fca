//! Making the log durable: one thread, or a task of a simulation, that syncs once for everything that was asked for while the last sync ran.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::storage::IOFlushed;
use rocksdb::{ColumnFamily, DB};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::journal::Journal;
use super::queue::{Hears, Receiver, Sender, queue};
use crate::columns::LogColumn;
use crate::command::Durability;
use crate::disk;
use crate::environment::{Environment, Simulation};
use crate::experiment::faults::Faults;
use crate::own_runtime;
#[cfg(feature = "planted")]
use crate::planted;
use crate::raft_types::TypeConfig;
use crate::records;

/// What a log consists of on disk.
pub(super) struct Files {
    pub(super) journal: Journal,
    pub(super) db: DB,
}

/// What shall be durable.
pub(super) enum SyncRequest {
    /// What was appended.
    Append { flushed: IOFlushed<TypeConfig>, durability: Durability },
    /// What was put into the database.
    Vote(oneshot::Sender<io::Result<()>>),
}

/// Where syncs are asked for.
pub(super) struct Syncer {
    queue: Option<Queue>,
    thread: Option<std::thread::JoinHandle<()>>,
}

enum Queue {
    Thread(Sender<SyncRequest>),
    Task(tokio::sync::mpsc::UnboundedSender<SyncRequest>),
}

/// How far a batch of requests must go.
#[derive(Clone, Copy)]
struct Wanted {
    /// To the disk if one of them must be there, otherwise to the operating system, where the end of this process cannot harm them.
    to_disk: bool,
    /// The database, too.
    database: bool,
}

impl Files {
    /// The family of the database.
    pub(super) fn meta(&self) -> &ColumnFamily {
        self.db.cf_handle(LogColumn::Meta.name()).expect("it was opened")
    }

    /// A record of the database.
    ///
    /// # Errors
    /// Of the disk, and damaged records.
    pub(super) fn record<T: DeserializeOwned>(&self, key: &[u8]) -> io::Result<Option<T>> {
        let bytes = self.db.get_cf(self.meta(), key).map_err(io::Error::other)?;
        bytes.map(|bytes| records::decode(&bytes)).transpose()
    }

    fn flush(&self, wanted: Wanted) -> Result<(), String> {
        if wanted.database {
            self.db.flush_wal(wanted.to_disk).map_err(rocksdb::Error::into_string)?;
        }
        self.journal.write(wanted.to_disk).map_err(|error| disk::write_failure(&error))
    }

    fn tidy(&self) {
        if let Err(error) = self.journal.remove_purged() {
            tracing::warn!(%error, "Could not remove purged entries");
        }
    }
}

impl Syncer {
    /// Starts it for the log in `path`; `syncs` counts how often something went to the disk.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(files: &Arc<Files>, path: &Path, environment: &Environment, syncs: &Arc<AtomicU64>) -> io::Result<Self> {
        let (files, syncs, faults) = (Arc::clone(files), Arc::clone(syncs), Arc::clone(environment.faults()));
        if let Some(simulation) = environment.simulation() {
            let (queue, requests) = tokio::sync::mpsc::unbounded_channel();
            tokio::spawn(sync_simulated(files, path.to_owned(), requests, syncs, Arc::clone(simulation), faults));
            return Ok(Self { queue: Some(Queue::Task(queue)), thread: None });
        }
        let (queue, requests) = queue();
        let syncing = move || {
            own_runtime::raise_priority();
            sync_loop(&files, &requests, &syncs, &faults);
        };
        let thread = std::thread::Builder::new().name("raft-log-sync".into()).spawn(syncing)?;
        Ok(Self { queue: Some(Queue::Thread(queue)), thread: Some(thread) })
    }

    /// Asks for a sync. A simulation hears of it at once.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn request(&self, request: SyncRequest, hears: Hears) -> io::Result<()> {
        let sent = match &self.queue {
            Some(Queue::Thread(queue)) => queue.send(request, hears),
            Some(Queue::Task(queue)) => queue.send(request).is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { Err(io::Error::other("the log's sync thread has ended")) }
    }

    /// Ends it when all that was asked for is answered.
    pub(super) fn end(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The log's sync thread panicked");
        }
    }
}

/// Flushes once for all requests that are queued, then answers them. Ends when the log is dropped.
fn sync_loop(files: &Files, requests: &Receiver<SyncRequest>, syncs: &AtomicU64, faults: &Faults) {
    let mut failed = None;
    while let Some(batch) = requests.receive() {
        let wanted = wanted(&batch);
        if wanted.to_disk {
            faults.slow_sync();
        }
        let result = unless_failed(&mut failed, || files.flush(wanted));
        syncs.fetch_add(u64::from(wanted.to_disk), Ordering::Relaxed);
        answer(batch, &result);
        files.tidy();
    }
}

/// As [`sync_loop`], on a simulated disk that takes its time and may fail.
async fn sync_simulated(
    files: Arc<Files>,
    path: PathBuf,
    mut requests: tokio::sync::mpsc::UnboundedReceiver<SyncRequest>,
    syncs: Arc<AtomicU64>,
    simulation: Arc<dyn Simulation>,
    faults: Arc<Faults>,
) {
    let mut failed = None;
    while let Some(first) = requests.recv().await {
        let batch: Vec<SyncRequest> = std::iter::once(first).chain(std::iter::from_fn(|| requests.try_recv().ok())).collect();
        let wanted = wanted(&batch);
        #[cfg(feature = "planted")]
        let wanted = Wanted { to_disk: wanted.to_disk && !planted::is_planted(planted::Bug::AcknowledgeBeforeSync), ..wanted };
        let slower = if wanted.to_disk { faults.sync_delay() } else { Duration::ZERO };
        if !slower.is_zero() {
            tokio::time::sleep(slower).await;
        }
        let ready = if wanted.to_disk { simulation.before_sync(&path).await } else { Ok(()) };
        let flush = || ready.map_err(|error| error.to_string()).and_then(|()| files.flush(wanted));
        let result = unless_failed(&mut failed, flush);
        syncs.fetch_add(u64::from(wanted.to_disk), Ordering::Relaxed);
        if wanted.to_disk && result.is_ok() {
            simulation.after_sync(&path);
        }
        answer(batch, &result);
        files.tidy();
    }
}

fn wanted(batch: &[SyncRequest]) -> Wanted {
    let is_vote = |request: &SyncRequest| matches!(request, SyncRequest::Vote(_));
    let to_disk =
        |request: &SyncRequest| matches!(request, SyncRequest::Vote(_) | SyncRequest::Append { durability: Durability::Disk, .. });
    Wanted { to_disk: batch.iter().any(to_disk), database: batch.iter().any(is_vote) }
}

/// After the first failure nobody knows what the disk holds, whatever it says later: every further sync fails, too.
fn unless_failed(failed: &mut Option<String>, sync: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    if let Some(error) = failed {
        return Err(error.clone());
    }
    sync().inspect_err(|error| *failed = Some(error.clone()))
}

/// The newest append first: what it says of itself holds for those before it, which then need not wake raft once more.
fn answer(batch: Vec<SyncRequest>, result: &Result<(), String>) {
    for request in batch.into_iter().rev() {
        let result = result.clone().map_err(io::Error::other);
        match request {
            SyncRequest::Append { flushed, .. } => flushed.io_completed(result),
            // whoever asked has gone away
            SyncRequest::Vote(done) => drop(done.send(result)),
        }
    }
}
