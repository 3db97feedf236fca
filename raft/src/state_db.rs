//! `state/`: the applied state in a RocksDB without a WAL. What a crash takes from it comes back by replaying the log, which is purged
//! only up to what a checkpoint of this database has flushed.
//!
//! The database lives in a numbered directory, and the file `current` names it, so that an installed snapshot replaces it in one step.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rocksdb::{ColumnFamily, DB, WriteBatch, WriteOptions};

use crate::columns::StateColumn;
use crate::command::Revision;
use crate::disk;
use crate::drop_signal::DropSignal;
use crate::environment::Environment;
use crate::keys;
use crate::log_store::{damage, open_failure};
use crate::records::{self, StateMeta};
use crate::store::OpenError;

mod heads;
mod history;
mod legacy;
mod load;
mod row;
mod rows;
#[cfg(test)]
mod tests;
mod waiting;

pub(crate) use heads::{Forgotten, ToForget};
pub(crate) use rows::Rows;
pub(crate) use waiting::Urgency;
use waiting::Waiting;

/// Room in a batch for its header and the key of the position.
const BATCH_BYTES: usize = 64;
/// How long whoever wants to read waits until RocksDB takes rows again, which it does after a flush, and how often that is tried.
const READ_PATIENCE: Duration = Duration::from_secs(5);
const READ_PAUSE: Duration = Duration::from_millis(2);
/// Rows from this size on lie in files of their own, to which the tables refer.
const LARGE_VALUE_BYTES: u64 = 4 << 10;
/// So many bytes of rows of a family are flushed, and the other families' with them.
const FLUSH_BYTES: usize = 16 << 20;
/// So many bytes of rows are in memory in all families together, with those that are being flushed.
const MEMORY_BYTES: usize = 2 * FLUSH_BYTES;
/// Memory for rows is taken in such pieces. They count as full, and but for the history the families have little: with RocksDB's own pieces of 1 MiB
/// three empty ones and a flush under way would be enough for another flush of 5 MiB, with as many files.
const MEMORY_PIECE_BYTES: usize = 32 << 10;
/// So many tables that were flushed are merged with the rest. Beyond three and four times as many RocksDB slows writes down, and takes none.
const MERGE_TABLES: i32 = 16;
/// Names the directory in use.
const CURRENT: &str = "current";

/// One generation of the applied state.
pub(crate) struct StateDb {
    db: DB,
    path: PathBuf,
    environment: Environment,
    waiting: parking_lot::Mutex<Waiting>,
    /// The changes up to this revision do not wait any more.
    written_revision: AtomicU64,
    /// One writes at a time: what it takes comes before what the next one takes.
    writing: parking_lot::Mutex<()>,
    /// Somebody is about to write what waits.
    is_written_soon: AtomicBool,
    /// A newer generation has replaced this one.
    obsolete: AtomicBool,
    /// Told when the last generation is closed.
    closed: parking_lot::Mutex<Option<DropSignal>>,
}

impl StateDb {
    /// Opens the generation that `state_dir/current` names, or creates the first.
    ///
    /// # Errors
    /// The directory is locked, not writable or damaged; the reason says what to do.
    pub(crate) fn open_current(state_dir: &Path, closed: Option<DropSignal>) -> Result<Self, OpenError> {
        Self::open_current_on(&Environment::default(), state_dir, closed)
    }

    /// As [`StateDb::open_current`], on a machine that may be simulated.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn open_current_on(environment: &Environment, state_dir: &Path, closed: Option<DropSignal>) -> Result<Self, OpenError> {
        let failed = |error: io::Error| OpenError { path: state_dir.to_owned(), reason: error.to_string() };
        fs::create_dir_all(state_dir).map_err(failed)?;
        let name = match fs::read_to_string(state_dir.join(CURRENT)) {
            Ok(name) => name.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                set_current(state_dir, "000001").map_err(failed)?;
                "000001".to_owned()
            }
            Err(error) => return Err(failed(error)),
        };
        if name.parse::<u64>().is_err() {
            return Err(failed(io::Error::other(damage(&format!("{CURRENT} names {name:?}")))));
        }
        let db = Self::open(environment, &state_dir.join(&name), closed)?;
        // generations and half-received snapshots that nothing refers to
        for entry in fs::read_dir(state_dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() != name.as_str() && entry.file_name() != CURRENT {
                let path = entry.path();
                let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(failed)?;
            }
        }
        Ok(db)
    }

    fn open(environment: &Environment, path: &Path, closed: Option<DropSignal>) -> Result<Self, OpenError> {
        let families = StateColumn::ALL.iter().map(|column| column.name()).chain(legacy::families(path)).map(|name| {
            let mut options = family_options();
            // a simulation repeats only if no thread of RocksDB decides how many files there are
            options.set_disable_auto_compactions(environment.simulation().is_some());
            rocksdb::ColumnFamilyDescriptor::new(name, options)
        });
        let failed = |reason: String| OpenError { path: path.to_owned(), reason };
        let mut options = database_options();
        // what is flushed is not read again soon, and need not push other things out of the system's cache
        let takes_direct_writes = environment.simulation().is_none() && path.parent().is_some_and(disk::takes_direct_writes);
        options.set_use_direct_io_for_flush_and_compaction(takes_direct_writes);
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| failed(open_failure(&error)))?;
        let mut opened = Self {
            db,
            path: path.to_owned(),
            environment: environment.clone(),
            waiting: parking_lot::Mutex::default(),
            written_revision: AtomicU64::new(0),
            writing: parking_lot::Mutex::default(),
            is_written_soon: AtomicBool::new(false),
            obsolete: AtomicBool::new(false),
            closed: parking_lot::Mutex::new(closed),
        };
        let ready = opened.take_over().and_then(|()| opened.complete_heads()).and_then(|()| opened.meta());
        let meta = ready.map_err(|error| failed(damage(&error.to_string())))?;
        opened.written_revision = AtomicU64::new(meta.revision);
        Ok(opened)
    }

    /// Tells `closed` when the last generation is closed.
    pub(crate) fn tell_when_closed(&self, closed: Option<DropSignal>) {
        *self.closed.lock() = closed;
    }

    /// Moves the database in `incoming` into place as the next generation of this one, and opens it.
    ///
    /// # Errors
    /// Of the file system and of RocksDB, with the path.
    pub(crate) fn replace_by(&self, incoming: &Path) -> io::Result<Self> {
        let state_dir = self.path.parent().ok_or_else(|| io::Error::other("the state directory has no parent"))?;
        let number = self.path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok()).unwrap_or(0);
        let name = format!("{:06}", number + 1);
        let path = state_dir.join(&name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::rename(incoming, &path)?;
        fs::File::open(&path)?.sync_all()?;
        let next = Self::open(&self.environment, &path, self.closed.lock().take()).map_err(|error| io::Error::other(error.to_string()))?;
        set_current(state_dir, &name)?;
        self.obsolete.store(true, Ordering::Release);
        Ok(next)
    }

    fn meta(&self) -> io::Result<StateMeta> {
        let bytes = self.db.get_cf(self.column(StateColumn::Meta), keys::STATE_META).map_err(|error| self.error(error))?;
        bytes.map_or_else(|| Ok(StateMeta::default()), |bytes| records::decode(&bytes))
    }

    /// The position of a checkpoint.
    ///
    /// # Errors
    /// It does not open, or is damaged.
    pub(crate) fn meta_of_checkpoint(path: &Path) -> io::Result<StateMeta> {
        let families = StateColumn::ALL.map(|column| rocksdb::ColumnFamilyDescriptor::new(column.name(), family_options()));
        let mut options = database_options();
        options.create_if_missing(false);
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false)
            .map_err(|error| io::Error::other(format!("{}: {}", path.display(), error.into_string())))?;
        let checkpoint = Self {
            db,
            path: path.to_owned(),
            environment: Environment::default(),
            waiting: parking_lot::Mutex::default(),
            written_revision: AtomicU64::new(0),
            writing: parking_lot::Mutex::default(),
            is_written_soon: AtomicBool::new(false),
            obsolete: AtomicBool::new(false),
            closed: parking_lot::Mutex::default(),
        };
        let meta = checkpoint.meta();
        drop(checkpoint);
        // the read-only handle leaves an information log behind
        for entry in fs::read_dir(path)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("LOG") {
                fs::remove_file(entry.path())?;
            }
        }
        meta
    }

    /// Has rows of so many entries written later, together with their position: readable at once, written when somebody reads, or calls
    /// [`StateDb::settle`], durable with the next flush.
    ///
    /// # Errors
    /// Why rows from before could not be written.
    pub(crate) fn write_later(&self, rows: Rows, meta: &StateMeta, entries: usize) -> io::Result<Urgency> {
        self.waiting.lock().add(rows, meta, entries).map_err(io::Error::other)
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// As [`StateDb::write`]. What was not written goes on waiting.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let _turn = self.writing.lock();
        // it is out of the lock while it is written: more may come
        let taken = self.waiting.lock().take();
        let Some(taken) = taken else { return Ok(()) };
        self.write(&taken.0, &taken.1).inspect_err(|error| {
            let is_final = error.kind() != io::ErrorKind::WouldBlock;
            self.waiting.lock().put_back(taken, is_final.then(|| error.to_string()));
        })
    }

    /// As [`StateDb::settle`], with patience.
    #[expect(clippy::disallowed_methods, reason = "RocksDB does not say when a flush ends")]
    fn settle_to_read(&self) -> io::Result<()> {
        let deadline = crate::clock::deadline(READ_PATIENCE);
        loop {
            match self.settle() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && crate::clock::now() < deadline => std::thread::sleep(READ_PAUSE),
                result => return result,
            }
        }
    }

    /// Has what waits written on another thread, unless that is under way.
    pub(crate) fn settle_soon(self: &Arc<Self>) {
        if self.is_written_soon.swap(true, Ordering::AcqRel) {
            return;
        }
        let db = Arc::clone(self);
        tokio::spawn(async move {
            let environment = db.environment.clone();
            let settling = environment.blocking(move || {
                // before it takes anything: whoever adds something afterwards may come again
                db.is_written_soon.store(false, Ordering::Release);
                // tried again when more has come; whoever adds something is told what will not be better
                drop(db.settle());
            });
            drop(settling.await);
        });
    }

    /// Writes rows together with their position: readable at once, durable with the next flush.
    ///
    /// # Errors
    /// Of RocksDB. `WouldBlock`: a flush has to end first; nothing was written, the rows may be written again.
    pub(crate) fn write(&self, rows: &Rows, meta: &StateMeta) -> io::Result<()> {
        let position = records::encode_layout(meta);
        let mut batch = WriteBatch::with_capacity_bytes(rows.size_bytes() + position.len() + BATCH_BYTES);
        for row in rows.iter() {
            match &row.value {
                Some(value) => batch.put_cf(self.column(row.column), &row.key, value),
                None => batch.delete_cf(self.column(row.column), &row.key),
            }
        }
        heads::write(rows.heads(), |key, row| batch.put_cf(self.column(StateColumn::Heads), key, row));
        batch.put_cf(self.column(StateColumn::Meta), keys::STATE_META, position);
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        // on a full disk it would wait for room without end, and nobody could close it
        options.set_no_slowdown(true);
        self.db.write_opt(batch, &options).map_err(|error| match error.kind() {
            rocksdb::ErrorKind::Incomplete => io::Error::from(io::ErrorKind::WouldBlock),
            _ => self.error(error),
        })?;
        self.written_revision.store(meta.revision, Ordering::Release);
        Ok(())
    }

    /// Whether the rows of all changes up to `revision` are in the database, and not only on their way there.
    pub(crate) fn has_written(&self, revision: Revision) -> bool {
        self.written_revision.load(Ordering::Acquire) >= revision
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Of RocksDB.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.settle_to_read()?;
        let families = StateColumn::ALL.map(|column| self.column(column));
        let mut options = rocksdb::FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&families.each_ref(), &options).map_err(|error| self.error(error))
    }

    /// Makes a copy of the flushed state in `path` (hard links, so it costs little).
    ///
    /// # Errors
    /// Of RocksDB.
    pub(crate) fn checkpoint(&self, path: &Path) -> io::Result<()> {
        self.settle_to_read()?;
        let checkpoint = rocksdb::checkpoint::Checkpoint::new(&self.db).map_err(|error| self.error(error))?;
        checkpoint.create_checkpoint(path).map_err(|error| self.error(error))
    }

    fn column(&self, column: StateColumn) -> &ColumnFamily {
        self.db.cf_handle(column.name()).expect("every family was opened")
    }

    fn error(&self, error: rocksdb::Error) -> io::Error {
        io::Error::other(format!("{}: {}", self.path.display(), error.into_string()))
    }
}

impl Drop for StateDb {
    fn drop(&mut self) {
        // the files may go before RocksDB closes them: it writes nothing on closing a database without a WAL but its information log
        if self.obsolete.load(Ordering::Acquire) {
            self.db.cancel_all_background_work(true);
            if let Err(error) = fs::remove_dir_all(&self.path) {
                tracing::warn!(path = %self.path.display(), %error, "Could not remove a replaced state");
            }
        }
    }
}

fn database_options() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_db_write_buffer_size(MEMORY_BYTES);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_max_open_files(256);
    // a flush must not fill the disk's queue before the log's next sync
    options.set_bytes_per_sync(1 << 20);
    options
}

fn family_options() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.set_write_buffer_size(FLUSH_BYTES);
    options.set_arena_block_size(MEMORY_PIECE_BYTES);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    // what is forgotten lies all over what is kept, so most of it is read and written again each time: seldom, and without large values
    options.set_level_zero_file_num_compaction_trigger(MERGE_TABLES);
    options.set_level_zero_slowdown_writes_trigger(3 * MERGE_TABLES);
    options.set_level_zero_stop_writes_trigger(4 * MERGE_TABLES);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(LARGE_VALUE_BYTES);
    options.set_blob_file_size(64 << 20);
    options.set_blob_compression_type(rocksdb::DBCompressionType::Lz4);
    options.set_enable_blob_gc(true);
    options.set_blob_compaction_readahead_size(1 << 20);
    options
}

/// Names the generation in use, durably and in one step.
fn set_current(state_dir: &Path, name: &str) -> io::Result<()> {
    let temporary = state_dir.join("current.new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(name.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, state_dir.join(CURRENT))?;
    fs::File::open(state_dir)?.sync_all()
}
