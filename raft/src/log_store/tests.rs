//! openraft's own storage suite over both stores, and what it does not ask: restarts, damage, crashes.

use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;
use tempfile::TempDir;

use super::*;
use crate::environment::Environment;
use crate::raft_types::{EntryPayload, Payload};
use crate::state_db::StateDb;
use crate::state_machine::StateMachine;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let log = LogStore::open(&dir.path().join("log"), &Environment::default(), None).unwrap();
        let state = StateDb::open_current(&dir.path().join("state"), None).unwrap();
        let (_, core_applied) = tokio::sync::watch::channel(None);
        let state_machine = StateMachine::new(state, dir.path().join("snapshots"), core_applied).unwrap();
        Ok((dir, log, state_machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_accepts_the_stores() {
    Suite::test_all(Builder).await.unwrap();
}

fn entry(index: u64, bytes: usize) -> Entry {
    // begins like a record of this program
    let payload = Payload(Bytes::from(vec![records::encode(&())[0]; bytes]));
    Entry { log_id: LogId::new_term_index(1, index), payload: EntryPayload::Normal(payload) }
}

/// Appends and waits until it is durable.
async fn append(log: &mut LogStore, entries: impl IntoIterator<Item = Entry> + Send) {
    let (done, flushed) = TypeConfig::oneshot();
    let entries: Vec<Entry> = entries.into_iter().collect();
    log.append(entries, IOFlushed::signal(done)).await.unwrap();
    flushed.await.unwrap().unwrap();
}

async fn indexes(log: &mut LogStore) -> Vec<u64> {
    log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id.index()).collect()
}

#[tokio::test]
async fn a_restart_finds_entries_vote_and_positions() {
    let dir = TempDir::new().unwrap();
    let vote = Vote::new_committed(4, 2);
    {
        let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
        append(&mut log, (0..50).map(|index| entry(index, 100))).await;
        log.save_vote(&vote).await.unwrap();
        log.save_committed(Some(LogId::new_term_index(1, 30))).await.unwrap();
        log.purge(LogId::new_term_index(1, 9)).await.unwrap();
        log.truncate_after(Some(LogId::new_term_index(1, 39))).await.unwrap();
        append(&mut log, [entry(40, 1)]).await;
    }
    let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
    assert_eq!(indexes(&mut log).await, (10..=40).collect::<Vec<_>>());
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(LogId::new_term_index(1, 30)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(LogId::new_term_index(1, 9)));
    assert_eq!(state.last_log_id, Some(LogId::new_term_index(1, 40)));
}

#[tokio::test]
async fn reads_are_bounded_in_bytes_and_cross_from_disk_to_memory() {
    let dir = TempDir::new().unwrap();
    let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
    append(&mut log, (0..256).map(|index| entry(index, 50 << 10))).await;
    apply(&mut log, 0..256).await;
    let is_in_memory = |index| log.inner.tail.lock().read(index, index + 1, usize::MAX).is_some();
    assert!(!is_in_memory(160) && is_in_memory(252));
    for start in [0, 160, 252] {
        let got = log.limited_get_log_entries(start, 256).await.unwrap();
        let indexes: Vec<u64> = got.iter().map(|entry| entry.log_id.index()).collect();
        assert_eq!(indexes, [start, start + 1], "of 50 KiB each");
    }
    // the first part is on disk, the rest in memory
    assert_eq!(apply(&mut log, 100..256).await, (100..256).collect::<Vec<_>>());
}

/// The indexes of what is read as apply does.
async fn apply(log: &mut LogStore, range: std::ops::Range<u64>) -> Vec<u64> {
    let entries: Vec<io::Result<Entry>> = futures::StreamExt::collect(log.entries_stream(range).await).await;
    entries.into_iter().map(|entry| entry.unwrap().log_id.index()).collect()
}

#[tokio::test]
async fn what_apply_has_not_taken_is_read_from_memory() {
    let dir = TempDir::new().unwrap();
    let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
    append(&mut log, (0..64).map(|index| entry(index, 200 << 10))).await;
    let first_in_memory = |log: &LogStore| (0..64).find(|index| log.inner.tail.lock().read(*index, 64, 0).is_some());
    assert_eq!(first_in_memory(&log), Some(0));
    // apply may be far behind what is committed
    for committed in [9, 29, 59] {
        log.save_committed(Some(LogId::new_term_index(1, committed))).await.unwrap();
    }
    assert_eq!(first_in_memory(&log), Some(0));
    for end in [10, 30] {
        apply(&mut log, 0..end).await;
        assert_eq!(first_in_memory(&log), Some(end), "apply has taken what is before {end}");
    }
}

#[tokio::test]
async fn many_appends_share_a_sync() {
    let dir = TempDir::new().unwrap();
    let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
    let mut waiting = Vec::new();
    for index in 0..500 {
        let (done, flushed) = TypeConfig::oneshot();
        log.append([entry(index, 10)], IOFlushed::signal(done)).await.unwrap();
        waiting.push(flushed);
    }
    for flushed in waiting {
        flushed.await.unwrap().unwrap();
    }
    let syncs = log.syncs().load(Ordering::Relaxed);
    assert!((1..500).contains(&syncs), "{syncs} syncs for 500 appends");
}

/// The newest file of entries.
fn newest_segment(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir.join("entries")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

/// How many bytes of a file were written, without the room behind them.
fn used_bytes(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        if file.path().is_dir() {
            copy(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn an_unfinished_write_at_the_end_is_dropped() {
    let dir = TempDir::new().unwrap();
    let (running, killed) = (dir.path().join("running"), dir.path().join("killed"));
    let mut log = LogStore::open(&running, &Environment::default(), None).unwrap();
    for index in 0..10 {
        append(&mut log, [entry(index, 1000)]).await;
    }
    copy(&running, &killed);
    let path = newest_segment(&killed);
    let length = used_bytes(&std::fs::read(&path).unwrap());
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length as u64 - 300).unwrap();
    let mut log = LogStore::open(&killed, &Environment::default(), None).unwrap();
    assert_eq!(indexes(&mut log).await, (0..9).collect::<Vec<_>>());
    // and what comes after it does not touch what is left of it
    append(&mut log, [entry(9, 1)]).await;
    drop(log);
    let mut log = LogStore::open(&killed, &Environment::default(), None).unwrap();
    assert_eq!(indexes(&mut log).await, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn damage_is_refused_with_path_and_advice() {
    let dir = TempDir::new().unwrap();
    {
        let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
        for index in 0..100 {
            append(&mut log, [entry(index, 1000)]).await;
        }
    }
    let path = newest_segment(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = used_bytes(&bytes) / 2;
    bytes[middle..middle + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(&path, bytes).unwrap();
    let error = LogStore::open(dir.path(), &Environment::default(), None).err().unwrap();
    assert_eq!(error.path, dir.path());
    assert!(error.reason.contains("damaged") && error.reason.contains("remove this member"), "{error}");
}

#[tokio::test]
async fn a_missing_file_is_damage() {
    let dir = TempDir::new().unwrap();
    let mut files = Vec::new();
    for run in 0..3 {
        let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
        append(&mut log, (run * 10..run * 10 + 10).map(|index| entry(index, 10))).await;
        drop(log);
        files.push(newest_segment(dir.path()));
    }
    for (missing, reason) in [(0, "entry 0 is missing, and all up to 9"), (1, "the one before it is missing")] {
        let aside = dir.path().join("aside");
        std::fs::rename(&files[missing], &aside).unwrap();
        let error = LogStore::open(dir.path(), &Environment::default(), None).err().unwrap();
        assert!(error.reason.contains("damaged") && error.reason.contains(reason), "{error}");
        std::fs::rename(&aside, &files[missing]).unwrap();
    }
    std::fs::rename(dir.path().join("entries"), dir.path().join("elsewhere")).unwrap();
    let error = LogStore::open(dir.path(), &Environment::default(), None).err().unwrap();
    assert!(error.reason.contains("entries is missing"), "{error}");
}

#[tokio::test]
async fn a_flipped_bit_is_never_served() {
    let dir = TempDir::new().unwrap();
    let (running, killed) = (dir.path().join("running"), dir.path().join("killed"));
    let mut log = LogStore::open(&running, &Environment::default(), None).unwrap();
    for index in 0..20 {
        append(&mut log, [entry(index, 500)]).await;
    }
    copy(&running, &killed);
    let bytes = std::fs::read(newest_segment(&killed)).unwrap();
    let used = used_bytes(&bytes);
    let mut refused = 0;
    for offset in (0..used).step_by(used / 97) {
        let damaged = dir.path().join(offset.to_string());
        copy(&killed, &damaged);
        let mut changed = bytes.clone();
        changed[offset] ^= 0x10;
        std::fs::write(newest_segment(&damaged), changed).unwrap();
        match LogStore::open(&damaged, &Environment::default(), None) {
            Err(error) => {
                assert!(error.reason.contains("damaged"), "{error}");
                refused += 1;
            }
            Ok(mut log) => {
                let found = log.try_get_log_entries(..).await.unwrap();
                // zeros between frames mean nothing
                assert_eq!(found.len(), 20, "after damage at {offset} of {used}");
                assert!((0..).zip(&found).all(|(index, found)| *found == entry(index, 500)), "damage at {offset} was served");
            }
        }
    }
    assert!(refused > 90, "{refused} of 98 were noticed");
}

#[tokio::test]
async fn what_is_purged_leaves_the_disk() {
    let dir = TempDir::new().unwrap();
    let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
    let segments = || std::fs::read_dir(dir.path().join("entries")).unwrap().count();
    for index in 0..80 {
        append(&mut log, [entry(index, 1 << 20)]).await;
    }
    assert!(segments() > 4, "{} segments", segments());
    log.purge(LogId::new_term_index(1, 78)).await.unwrap();
    append(&mut log, [entry(80, 1)]).await;
    drop(log);
    assert!(segments() <= 2, "{} segments", segments());
    let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
    assert_eq!(indexes(&mut log).await, [79, 80]);
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(LogId::new_term_index(1, 78)));
}

/// A log as a program of format 1 has left it.
fn legacy_log(dir: &Path) {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let db = DB::open_cf(&options, dir, ["entries", "meta"]).unwrap();
    let (entries, meta) = (db.cf_handle("entries").unwrap(), db.cf_handle("meta").unwrap());
    for index in 3..30 {
        db.put_cf(entries, keys::index(index), records::encode(&EntryRecord::from(&entry(index, 100)))).unwrap();
    }
    let position = |index| records::encode(&crate::records::LogIdRecord { term: 1, index });
    db.put_cf(meta, keys::LOG_PURGED, position(2)).unwrap();
    db.put_cf(meta, keys::LOG_COMMITTED, position(20)).unwrap();
    db.put_cf(meta, keys::LOG_VOTE, records::encode(&VoteRecord::from(&Vote::new_committed(4, 2)))).unwrap();
    db.put_cf(meta, keys::LOG_OWNER, records::encode(&LogOwner { cluster_id: "old".into(), node_id: 2 })).unwrap();
}

#[tokio::test]
async fn a_log_of_format_1_is_taken_over_and_then_closed_to_its_program() {
    let dir = TempDir::new().unwrap();
    legacy_log(dir.path());
    // an earlier attempt was interrupted
    std::fs::create_dir(dir.path().join("entries")).unwrap();
    std::fs::write(dir.path().join("entries/000000000001.log"), "half of it").unwrap();
    for _ in 0..2 {
        let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
        assert_eq!(indexes(&mut log).await, (3..30).collect::<Vec<_>>());
        assert_eq!(log.read_committed().await.unwrap(), Some(LogId::new_term_index(1, 20)));
        assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(4, 2)));
        assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(LogId::new_term_index(1, 2)));
        log.claim(&LogOwner { cluster_id: "old".into(), node_id: 2 }).unwrap();
    }
    assert_eq!(DB::list_cf(&rocksdb::Options::default(), dir.path()).unwrap(), ["default", "meta"]);
    let db = DB::open_cf(&rocksdb::Options::default(), dir.path(), ["meta"]).unwrap();
    assert_eq!(db.get_cf(db.cf_handle("meta").unwrap(), keys::LOG_OWNER).unwrap().unwrap()[0], 2);
}

#[tokio::test]
async fn an_interrupted_founding_is_finished_with_the_next_start() {
    let dir = TempDir::new().unwrap();
    let owner = LogOwner { cluster_id: "new".into(), node_id: 1 };
    let id = |index| crate::records::LogIdRecord { term: 5, index };
    let blank = |index| EntryRecord { log_id: id(index), payload: crate::records::PayloadRecord::Blank };
    {
        let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
        append(&mut log, [entry(0, 10)]).await;
        let founding = crate::records::FoundingRecord { purged: None, entries: vec![blank(1), blank(2)] };
        log.inner.put_meta(keys::LOG_FOUNDING, &records::encode(&founding)).unwrap();
    }
    for _ in 0..2 {
        let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
        assert_eq!(indexes(&mut log).await, [0, 1, 2]);
    }
    let log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
    log.found(&owner, Some(id(2)), &[blank(3)]).unwrap();
    drop(log);
    let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
    assert_eq!((indexes(&mut log).await, log.newest_term(), log.owner().unwrap()), (vec![3], 5, Some(owner)));
}

#[tokio::test]
async fn only_so_many_volatile_entries_wait_for_the_disk() {
    let dir = TempDir::new().unwrap();
    let log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
    let most = usize::try_from(VOLATILE_WAITING_MAX).unwrap();
    let bound = |durability, count| log.inner.bound_volatile(durability, count);
    assert_eq!(bound(Durability::Memory, most), Durability::Memory);
    assert_eq!(bound(Durability::Memory, 1), Durability::Disk);
    // that one took all others along
    assert_eq!(bound(Durability::Memory, most - 1), Durability::Memory);
    assert_eq!(bound(Durability::Disk, 1), Durability::Disk);
    assert_eq!(bound(Durability::Memory, most), Durability::Memory);
}
