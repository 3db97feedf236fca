//! Good bytes: frames that members have sent each other in a simulation, and what a member's disk holds after it has run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rocksdb::{DB, IteratorMode, Options};
use trierarch_raft::untrusted::Reader;
use trierarch_raft::{Cause, Durability, Guard, Member, MemberRole, Op, Store, StoreConfig, Txn, TxnId};

use crate::target::Target;

/// Good bytes for each target, by its name.
pub type Corpus = BTreeMap<String, Vec<Vec<u8>>>;

const PATIENCE: Duration = Duration::from_secs(30);

/// All of it; `directory` is used for a member.
///
/// # Errors
/// A recorded frame cannot be read, or the member does not run.
pub fn gather(directory: &Path) -> anyhow::Result<Corpus> {
    let mut corpus = recorded()?;
    let store_dir = directory.join("store");
    let runtime = tokio::runtime::Runtime::new()?;
    let (store, backup) = runtime.block_on(live(&store_dir))?;
    corpus.insert(Target::BackupFile.name(), vec![backup]);
    // while it runs: an orderly stop takes the note of its run away
    for (database, path) in [("log", store_dir.join("log")), ("state", store_dir.join("state/000001"))] {
        for family in DB::list_cf(&Options::default(), &path)? {
            let db = DB::open_cf_for_read_only(&Options::default(), &path, [&family], false)?;
            let column = db.cf_handle(&family).context("it was opened")?;
            for row in db.iterator_cf(column, IteratorMode::Start).take(50) {
                let (key, value) = row?;
                if let Some(reader) = Reader::of_row(database, &family, &key) {
                    corpus.entry(Target::Reader(reader).name()).or_default().push(value.into_vec());
                }
            }
        }
    }
    runtime.block_on(store.close());
    corpus.insert(Target::Reader(Reader::JournalFrame).name(), journal_frames(&store_dir.join("log/entries"))?);
    let commands: Vec<Vec<u8>> = corpus.get("LogEntry").into_iter().flatten().filter_map(|entry| command_of(entry)).collect();
    corpus.insert(Target::Reader(Reader::Command).name(), commands);
    Ok(corpus)
}

/// The frames in `corpus/`: `TARGET-NUMBER.frame`, written by `trierarch-sim --record`.
fn recorded() -> anyhow::Result<Corpus> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut corpus = Corpus::new();
    let mut files: Vec<_> = fs::read_dir(&directory)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "frame")) {
        let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.split('-').next()).context("a name")?;
        corpus.entry(name.to_owned()).or_default().push(fs::read(&path)?);
    }
    Ok(corpus)
}

/// Lets a member run until its disk holds something of everything; returns it with a backup.
async fn live(store_dir: &Path) -> anyhow::Result<(Store, Vec<u8>)> {
    let mut config = StoreConfig::new(1, store_dir);
    config.cluster_id = "fuzz".into();
    // the second run begins with a gap in the revisions
    let first = Store::open(config.clone()).await?;
    first.initialize().await?;
    write(&first, 1).await?;
    let learner = Member { id: 2, peer_address: "127.0.0.1:1".into(), api_address: String::new(), role: MemberRole::Learner };
    first.add_member(learner, PATIENCE).await?;
    first.remove_member(2, PATIENCE).await?;
    first.close().await;
    let second = Store::open(config).await?;
    write(&second, 2).await?;
    // it writes what is only in memory to the disk, too
    let pieces: Result<Vec<_>, _> = second.backup(b"beside the state".as_slice().into()).await?.collect();
    Ok((second, pieces?.concat()))
}

async fn write(store: &Store, run: u64) -> anyhow::Result<()> {
    for number in 0..8 {
        let durability = if number % 3 == 0 { Durability::Memory } else { Durability::Disk };
        store.txn_with(txn(run, number), durability, PATIENCE).await?;
    }
    Ok(())
}

fn txn(run: u64, number: u64) -> Txn {
    let key = format!("apps/deployments/ns/{}", number % 3);
    let op = match number {
        7 => Op::Delete { key: key.clone().into() },
        _ => Op::Put { key: key.clone().into(), value: format!("value {run} {number}").into(), split: 3, terms: vec!["owner".into()] },
    };
    let guards = if number == 6 { vec![Guard::Absent { key: key.into() }] } else { Vec::new() };
    let cause = Cause { user: "somebody".into(), agent: "test".into(), verb: "update".into(), time_unix_ms: 7 };
    Txn { id: TxnId::random(), guards, ops: vec![op], cause }
}

/// What the frames in a journal's files say. `Spec:` 40 bytes of header with the length of the body at byte 8, the body, a closing byte, zeros up to
/// a multiple of 8.
fn journal_frames(directory: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    const HEADER_BYTES: usize = 40;
    let mut frames = Vec::new();
    for file in fs::read_dir(directory)? {
        let bytes = fs::read(file?.path())?;
        let mut rest = bytes.as_slice();
        while let Some((header, after)) = rest.split_at_checked(HEADER_BYTES) {
            let length = header.get(8..12).and_then(|length| length.try_into().ok()).map_or(0, u32::from_le_bytes);
            let length = usize::try_from(length)?;
            let Some(body) = after.get(..length).filter(|body| !body.is_empty()) else { break };
            frames.push(body.to_vec());
            rest = after.get((length + 1).next_multiple_of(8)..).unwrap_or_default();
        }
    }
    Ok(frames)
}

/// The command in an entry: it lies at its end.
fn command_of(entry: &[u8]) -> Option<Vec<u8>> {
    (0..entry.len()).find_map(|from| {
        let bytes = entry.get(from..)?;
        let whole = Reader::Command.read(bytes).is_ok_and(|written| written == bytes);
        (whole && bytes.len() > 20).then(|| bytes.to_vec())
    })
}
