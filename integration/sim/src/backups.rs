//! Backups at any moment, and what becomes of them: a file that is whole is restored as a group of its own, one that is not is refused.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use trierarch_raft::backup::{self, BackupError, BackupHeader};
use trierarch_raft::{Committed, NodeId, Revision, Store, restore};

use crate::clients::txn;
use crate::disk::Disk;
use crate::event::{Event, Question, Write, digest_of_view};
use crate::machine::Machine;
use crate::member::Member;
use crate::network::{Network, Weather};
use crate::trace::Recorder;
use crate::world::{TICK_MS, World};

/// A restored group gives its first answer within this time.
const RESTORED_MAX_MS: u64 = 10_000;
/// Between two pieces of a backup, so that something may happen meanwhile.
const PIECE_PAUSE: Duration = Duration::from_millis(3);

/// A backup that is being taken.
pub struct Taking {
    question: u64,
    path: PathBuf,
    /// What its member says of it, once the whole file is written.
    header: Arc<Mutex<Option<BackupHeader>>>,
    token: Arc<()>,
}

impl Taking {
    /// Begins to take one from a member, into the file at `path`.
    pub fn begin(world: &World, member: NodeId, question: u64, path: PathBuf) -> Option<Self> {
        let running = world.members.get(&member)?;
        let store = running.store()?.clone();
        world.recorder.record(Event::Asked { question, member, what: Question::Backup });
        let (header, token) = (Arc::new(Mutex::new(None)), Arc::new(()));
        let (slot, task_token, file) = (Arc::clone(&header), Arc::clone(&token), path.clone());
        running.spawn(async move {
            let _token = task_token;
            // a member without quorum takes one, too, and says that it is not complete
            if let Ok(taken) = take(&store, &file).await {
                *slot.lock() = Some(taken);
            }
        });
        Some(Self { question, path, header, token })
    }

    /// Whether it is over, in one way or the other.
    pub fn is_over(&self) -> bool {
        Arc::strong_count(&self.token) == 1
    }

    /// Checks the file, and restores it if it is whole.
    ///
    /// # Errors
    /// A whole backup does not verify or cannot be restored, or a torn one is taken for a whole one.
    pub fn check(self, world: &World, write: Write) -> anyhow::Result<()> {
        let verified = backup::verify(&self.path, &mut |_, _| {});
        let header = self.header.lock().take();
        match (header, verified) {
            // its member may have died when the file was whole, and nobody had been told yet
            (told, Ok(header)) => {
                if told.is_some_and(|told| told != header) {
                    bail!("backup {} says that it is {header:?}, which is not what its member said", self.question);
                }
                world.recorder.record(Event::BackedUp { question: self.question, revision: header.revision, complete: header.complete });
                self.restore(world, &header, write)
            }
            (Some(_), Err(error)) => Err(error).with_context(|| format!("backup {} does not verify", self.question)),
            (None, Err(BackupError::Damaged { .. } | BackupError::Foreign(_) | BackupError::File { .. })) => {
                world.note(format!("backup {} was not finished, and is refused", self.question));
                Ok(())
            }
            (None, Err(error)) => Err(error).with_context(|| format!("backup {} was not finished", self.question)),
        }
    }

    fn restore(self, world: &World, header: &BackupHeader, write: Write) -> anyhow::Result<()> {
        let id = header.node_id;
        let root = self.path.with_extension("restored");
        // nothing of what it does is part of the run's story
        let recorder = Recorder::default();
        let mut dice = crate::dice::Dice::new(self.question);
        let network = Network::new(dice.split(), Weather::usual(&world.plan));
        let machine = Arc::new(Machine::new(id, network.clone(), Arc::new(Disk::new(dice.split(), 1)), recorder.clone()));
        let mut member = Member::new(id, &root, machine, network, recorder.clone(), world.plan.clone());
        let store_dir = member.directory();
        std::fs::create_dir_all(store_dir.parent().context("it has a parent")?)?;
        let restored = restore::restore(&self.path, &store_dir, crate::member::CLUSTER, &mut |_, _| {});
        restored.with_context(|| format!("backup {} cannot be restored", self.question))?;
        member.start()?;
        let (shown, next) = ask(&mut member, &recorder, write)?;
        world.recorder.record(Event::Restored { question: self.question, revision: header.revision, digest: shown, next });
        Ok(())
    }
}

/// What a restored member shows, and the revision of the first write.
fn ask(member: &mut Member, recorder: &Recorder, write: Write) -> anyhow::Result<(u64, Revision)> {
    let store = member.store().context("it runs")?.clone();
    let answer = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&answer);
    member.spawn(async move {
        let patience = Duration::from_millis(RESTORED_MAX_MS);
        let shown = store.linearizable_view(patience).await.map(|view| digest_of_view(&view));
        let written = store.txn(txn(&write), patience).await;
        *slot.lock() = Some((shown, written));
    });
    for _ in 0..RESTORED_MAX_MS / TICK_MS {
        recorder.set_now_ms(recorder.now_ms() + TICK_MS);
        member.run_for(Duration::from_millis(TICK_MS));
        recorder.take();
        if let Some((shown, written)) = answer.lock().take() {
            return match (shown?, written?) {
                (shown, Committed::At(revision)) => Ok((shown, revision)),
                (_, refused) => bail!("a restored group answered {refused:?}"),
            };
        }
    }
    bail!("a restored group gave no answer")
}

async fn take(store: &Store, path: &Path) -> anyhow::Result<BackupHeader> {
    let taking = store.backup(bytes::Bytes::from_static(b"beside the state")).await?;
    let header = taking.header().clone();
    let mut file = std::fs::File::create(path)?;
    for piece in taking {
        file.write_all(&piece?)?;
        tokio::time::sleep(PIECE_PAUSE).await;
    }
    file.sync_all()?;
    Ok(header)
}
