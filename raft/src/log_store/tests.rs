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
    // more than the tail holds
    for start in (0..64).step_by(16) {
        append(&mut log, (start..start + 16).map(|index| entry(index, 200 << 10))).await;
    }
    for start in [0, 40, 63] {
        let got = log.limited_get_log_entries(start, 64).await.unwrap();
        assert_eq!(got.first().map(|entry| entry.log_id.index()), Some(start));
        assert!(got.len() <= 6, "{} entries of 200 KiB from {start}", got.len());
    }
    let stream = log.entries_stream(0..64).await;
    let all: Vec<_> = futures::StreamExt::collect(stream).await;
    let all: Vec<_> = all.into_iter().map(|entry: io::Result<Entry>| entry.unwrap().log_id.index()).collect();
    assert_eq!(all, (0..64).collect::<Vec<_>>());
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

/// The newest WAL file.
fn wal(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

#[tokio::test]
async fn an_unfinished_write_at_the_end_is_dropped() {
    let dir = TempDir::new().unwrap();
    {
        let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
        for index in 0..10 {
            append(&mut log, [entry(index, 1000)]).await;
        }
    }
    let path = wal(dir.path());
    let length = std::fs::metadata(&path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 300).unwrap();
    let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
    assert_eq!(indexes(&mut log).await, (0..9).collect::<Vec<_>>());
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
    let path = wal(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let error = LogStore::open(dir.path(), &Environment::default(), None).err().unwrap();
    assert_eq!(error.path, dir.path());
    assert!(error.reason.contains("damaged") && error.reason.contains("remove this member"), "{error}");
}

#[tokio::test]
async fn a_missing_entry_is_damage() {
    let dir = TempDir::new().unwrap();
    {
        let mut log = LogStore::open(dir.path(), &Environment::default(), None).unwrap();
        append(&mut log, (0..10).map(|index| entry(index, 10))).await;
        log.inner.db.delete_cf(log.inner.column(LogColumn::Entries), keys::index(5)).unwrap();
    }
    let error = LogStore::open(dir.path(), &Environment::default(), None).err().unwrap();
    assert!(error.reason.contains("entry 5 is missing"), "{error}");
}

#[tokio::test]
async fn a_flipped_bit_is_never_served() {
    let dir = TempDir::new().unwrap();
    let whole = dir.path().join("whole");
    {
        let mut log = LogStore::open(&whole, &Environment::default(), None).unwrap();
        for index in 0..20 {
            append(&mut log, [entry(index, 500)]).await;
        }
    }
    let bytes = std::fs::read(wal(&whole)).unwrap();
    let mut refused = 0;
    for offset in (0..bytes.len()).step_by(bytes.len() / 97) {
        let damaged = dir.path().join(offset.to_string());
        std::fs::create_dir(&damaged).unwrap();
        for file in std::fs::read_dir(&whole).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), damaged.join(file.file_name())).unwrap();
        }
        let mut changed = bytes.clone();
        changed[offset] ^= 0x10;
        std::fs::write(wal(&damaged), changed).unwrap();
        match LogStore::open(&damaged, &Environment::default(), None) {
            Err(error) => {
                assert!(error.reason.contains("damaged"), "{error}");
                refused += 1;
            }
            Ok(mut log) => {
                let found = log.try_get_log_entries(..).await.unwrap();
                // only the very end may look like a write that a crash has cut off
                assert!(found.len() >= 19, "{} entries are left after damage at {offset} of {}", found.len(), bytes.len());
                assert!((0..).zip(&found).all(|(index, found)| *found == entry(index, 500)), "damage at {offset} was served");
            }
        }
    }
    assert!(refused > 60, "{refused} of 98 were noticed");
}
