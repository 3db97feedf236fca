//! Opening the files of a log, also of one that an older program has written: in format 1, RocksDB held the entries, too.

use std::fs;
use std::io;
use std::path::Path;

use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, WriteBatch};
use serde::de::DeserializeOwned;

use super::frame::Frame;
use super::journal::Journal;
use super::sync::Files;
use super::{damage, open_failure};
use crate::columns::LogColumn;
use crate::keys;
use crate::records::{self, EntryRecord, LogIdRecord, LogOwner};

/// The family of entries in format 1.
const ENTRIES: &str = "entries";
/// Where the journal is, in the log's directory.
const JOURNAL: &str = "entries";

/// Opens or creates the log in `path`; entries in format 1 move to the journal.
///
/// # Errors
/// The directory is locked, not writable or damaged; the text says what to do.
pub(super) fn open(path: &Path, makes_room: bool) -> Result<Files, String> {
    let options = options();
    let is_new = !path.join("CURRENT").exists();
    let on_disk = if is_new { Vec::new() } else { DB::list_cf(&options, path).map_err(|error| open_failure(&error))? };
    let is_legacy = on_disk.iter().any(|family| family == ENTRIES);
    let families = std::iter::once(LogColumn::Meta.name()).chain(is_legacy.then_some(ENTRIES));
    let families = families.map(|name| rocksdb::ColumnFamilyDescriptor::new(name, rocksdb::Options::default()));
    let db = DB::open_cf_descriptors(&options, path, families).map_err(|error| open_failure(&error))?;
    open_journal(db, &path.join(JOURNAL), makes_room).map_err(|error| damage(&error.to_string()))
}

fn options() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_manual_wal_flush(true);
    // an unfinished write at the very end is what a crash leaves; anything else is damage
    options.set_wal_recovery_mode(rocksdb::DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(1 << 20);
    options.set_db_write_buffer_size(1 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_max_open_files(64);
    options
}

fn open_journal(mut db: DB, directory: &Path, makes_room: bool) -> io::Result<Files> {
    if is_in_journal(&db)? {
        if !directory.exists() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is missing", directory.display())));
        }
    } else {
        // whatever is there belongs to a move that did not end
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        fs::create_dir(directory)?;
        move_to_journal(&db, &Journal::open(directory, makes_room)?)?;
    }
    if db.cf_handle(ENTRIES).is_some() {
        db.drop_cf(ENTRIES).map_err(io::Error::other)?;
    }
    let journal = Journal::open(directory, makes_room)?;
    Ok(Files { journal, db })
}

fn meta(db: &DB) -> &ColumnFamily {
    db.cf_handle(LogColumn::Meta.name()).expect("it was opened")
}

fn is_in_journal(db: &DB) -> io::Result<bool> {
    Ok(db.get_cf(meta(db), keys::LOG_JOURNAL).map_err(io::Error::other)?.is_some())
}

/// Moves the entries that the database has to the journal, and notes that they are there.
fn move_to_journal(db: &DB, journal: &Journal) -> io::Result<()> {
    if let Some(entries) = db.cf_handle(ENTRIES) {
        let purged = record::<LogIdRecord>(db, keys::LOG_PURGED)?;
        if let Some(purged) = purged {
            journal.append(&Frame::Purged(purged))?;
        }
        let from = keys::index(purged.map_or(0, |purged| purged.index + 1));
        for row in db.iterator_cf(entries, IteratorMode::From(&from, Direction::Forward)) {
            let (_, value) = row.map_err(io::Error::other)?;
            journal.append(&Frame::Entry(records::decode::<EntryRecord>(&value)?))?;
        }
        if let Some(committed) = record::<LogIdRecord>(db, keys::LOG_COMMITTED)? {
            journal.append(&Frame::Committed(committed))?;
        }
        journal.write(true)?;
    }
    let mut batch = WriteBatch::default();
    batch.put_cf(meta(db), keys::LOG_JOURNAL, records::encode(&()));
    // a program that knows no journal must not take this for a log without entries
    if let Some(owner) = record::<LogOwner>(db, keys::LOG_OWNER)? {
        batch.put_cf(meta(db), keys::LOG_OWNER, records::encode_layout(&owner));
    }
    db.write(batch).and_then(|()| db.flush_wal(true)).map_err(io::Error::other)
}

fn record<T: DeserializeOwned>(db: &DB, key: &[u8]) -> io::Result<Option<T>> {
    let bytes = db.get_cf(meta(db), key).map_err(io::Error::other)?;
    bytes.map(|bytes| records::decode(&bytes)).transpose()
}
