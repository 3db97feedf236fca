//! The adapter between openraft and the pure [`crate::apply`]: it decodes committed entries, hands the rows of what was decided to `state/`,
//! which may write them later, and shows it to readers: first the view, then the watchers, then whoever proposed it.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use parking_lot::RwLock;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::apply::{self, Decision, Position, State, Write};
use crate::command::{Command, NodeId, Outcome, Revision};
use crate::environment::{Environment, Observation};
use crate::gaps::{self, Gaps};
use crate::raft_types::{self, Entry, EntryPayload, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::records::{self, StateMeta, StoredMembershipRecord};
use crate::snapshot::{SnapshotBuilder, SnapshotFiles};
use crate::state_db::{Forgotten, Rows, StateDb, Urgency};
use crate::store::Committed;
use crate::view::View;
use crate::watch::{Event, Hub};

/// Entries and bytes of changes that are shown and answered together.
const BATCH_ENTRIES_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 2 << 20;
/// How long to wait for a flush before writing again.
const WRITE_PAUSE: Duration = Duration::from_millis(2);

/// How far apply has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Index of the last applied entry; 0 also when there is none.
    pub(crate) index: u64,
    /// Revision of the view.
    pub(crate) revision: Revision,
}

/// What the state machine shows to the rest of the store.
pub(crate) struct Shared {
    db: RwLock<Option<Arc<StateDb>>>,
    view: RwLock<View>,
    hub: Hub,
    compacted: AtomicU64,
    forgotten_index: AtomicU64,
    history_bytes: AtomicU64,
    removed: RwLock<BTreeSet<NodeId>>,
    gaps: RwLock<Gaps>,
    applied: watch::Sender<Applied>,
    /// The machine it runs on.
    pub(crate) environment: Environment,
    /// The store closes.
    pub(crate) closing: CancellationToken,
}

impl Shared {
    /// The current generation of `state/`.
    ///
    /// # Errors
    /// The store is closed.
    pub(crate) fn db(&self) -> io::Result<Arc<StateDb>> {
        self.db.read().clone().ok_or_else(|| io::Error::other("the store is closed"))
    }

    /// The current snapshot.
    pub(crate) fn view(&self) -> View {
        self.view.read().clone()
    }

    /// Where watchers attach.
    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// History holds the changes after this revision.
    pub(crate) fn compacted(&self) -> Revision {
        self.compacted.load(Ordering::Acquire)
    }

    /// From where on there is history for somebody who has seen everything up to `revision`, if that is later: it was compacted, or a power cut
    /// has taken what he has seen.
    pub(crate) fn oldest_beyond(&self, revision: Revision) -> Option<Revision> {
        let compacted = self.compacted();
        if revision < compacted { Some(compacted) } else { self.end_of_gap(revision) }
    }

    /// Where the gap ends in which `revision` lies, if it does.
    pub(crate) fn end_of_gap(&self, revision: Revision) -> Option<Revision> {
        self.gaps.read().end_of(revision)
    }

    /// Transactions in entries at or below this index are no longer remembered.
    pub(crate) fn forgotten_index(&self) -> u64 {
        self.forgotten_index.load(Ordering::Acquire)
    }

    /// How many bytes the history takes.
    pub(crate) fn history_bytes(&self) -> u64 {
        self.history_bytes.load(Ordering::Acquire)
    }

    /// Whether this member was removed from the group.
    pub(crate) fn is_removed(&self, id: NodeId) -> bool {
        self.removed.read().contains(&id)
    }

    /// Follows how far apply has come.
    pub(crate) fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// Writes what was applied and not written yet, waiting for room if need be.
    ///
    /// # Errors
    /// Of the disk, and when the store closes.
    pub(crate) async fn settle(&self, db: &Arc<StateDb>) -> io::Result<()> {
        let attempt = || async {
            let db = Arc::clone(db);
            self.environment.blocking(move || db.settle()).await?
        };
        self.until_written(attempt).await
    }

    /// As [`Shared::settle`], on this thread.
    async fn settle_here(&self, db: &StateDb) -> io::Result<()> {
        self.until_written(|| std::future::ready(db.settle())).await
    }

    /// Tries until RocksDB takes it, or the store closes.
    async fn until_written<F: Future<Output = io::Result<()>>>(&self, attempt: impl Fn() -> F) -> io::Result<()> {
        loop {
            match attempt().await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.closing.is_cancelled() => {
                    tokio::time::sleep(WRITE_PAUSE).await;
                }
                result => return result,
            }
        }
    }

    /// Tells a simulation what readers see now.
    fn observe_shown(&self) {
        self.environment.observe_shown(self.applied.borrow().index, &self.view.read(), self.compacted());
    }

    /// Ends watches and lets the database close.
    pub(crate) fn close(&self) {
        self.hub.close();
        *self.db.write() = None;
    }
}

/// openraft's state machine.
pub(crate) struct StateMachine {
    shared: Arc<Shared>,
    state: State,
    meta: StateMeta,
    /// Holds built, received and incoming snapshots.
    snapshots_dir: PathBuf,
    snapshot: Arc<parking_lot::Mutex<Option<Snapshot>>>,
    /// What openraft's core knows to be applied, once it runs: a snapshot must not run ahead of that.
    core_applied: watch::Receiver<Option<u64>>,
    /// Gets it back when openraft lets go of it.
    lender: Option<oneshot::Sender<Self>>,
}

impl Drop for StateMachine {
    fn drop(&mut self) {
        let Some(lender) = self.lender.take() else { return };
        let returned = Self {
            shared: Arc::clone(&self.shared),
            state: std::mem::take(&mut self.state),
            meta: std::mem::take(&mut self.meta),
            snapshots_dir: self.snapshots_dir.clone(),
            snapshot: Arc::clone(&self.snapshot),
            core_applied: self.core_applied.clone(),
            lender: None,
        };
        // a store that closes wants nothing back
        lender.send(returned).ok();
    }
}

/// What is collected until the next write.
#[derive(Default)]
struct Batch {
    rows: Rows,
    events: Vec<Arc<Event>>,
    answers: Vec<(ApplyResponder<TypeConfig>, Outcome)>,
    entries: usize,
    /// It begins with a gap in the revisions: a watcher may be inside of it.
    left_gap: bool,
}

impl StateMachine {
    /// The state machine over an opened `state/`.
    ///
    /// # Errors
    /// Damaged rows.
    #[cfg(test)]
    pub(crate) fn new(db: StateDb, snapshots_dir: PathBuf, core_applied: watch::Receiver<Option<u64>>) -> io::Result<Self> {
        let loaded = db.load()?;
        Ok(Self::with_loaded(db, loaded, snapshots_dir, Environment::default(), core_applied))
    }

    /// The state machine over an opened `state/` and what was loaded from it.
    pub(crate) fn with_loaded(
        db: StateDb,
        (state, meta): (State, StateMeta),
        snapshots_dir: PathBuf,
        environment: Environment,
        core_applied: watch::Receiver<Option<u64>>,
    ) -> Self {
        let applied = Applied { index: meta.applied.map_or(0, |id| id.index), revision: meta.revision };
        let shared = Shared {
            db: RwLock::new(Some(Arc::new(db))),
            view: RwLock::new(state.view.clone()),
            hub: Hub::new(meta.revision),
            compacted: AtomicU64::new(meta.compacted),
            forgotten_index: AtomicU64::new(meta.forgotten_index),
            history_bytes: AtomicU64::new(meta.history_bytes),
            removed: RwLock::new(state.removed.clone()),
            gaps: RwLock::new(state.gaps.clone()),
            applied: watch::Sender::new(applied),
            environment,
            closing: CancellationToken::new(),
        };
        shared.observe_shown();
        Self { shared: Arc::new(shared), state, meta, snapshots_dir, snapshot: Arc::default(), core_applied, lender: None }
    }

    /// The state machine for openraft, and what becomes ready, as it is then, when openraft lets go of it.
    pub(crate) fn lend(mut self) -> (Self, oneshot::Receiver<Self>) {
        let (lender, returned) = oneshot::channel();
        self.lender = Some(lender);
        (self, returned)
    }

    /// What it shows.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    async fn apply_entry(&mut self, db: &Arc<StateDb>, batch: &mut Batch, entry: Entry) -> io::Result<Outcome> {
        let at = Position { term: **entry.log_id.committed_leader_id(), index: entry.log_id.index() };
        let command = match &entry.payload {
            EntryPayload::Normal(payload) => Some(records::decode_shared::<Command>(&payload.0)?),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        };
        let forgets_upto = match &command {
            Some(Command::Compact { upto }) => Some(self.meta.revision.min(*upto)),
            Some(Command::Skip { .. }) => Some(self.meta.revision),
            _ => None,
        };
        if forgets_upto.is_some_and(|upto| !db.has_written(upto)) {
            // what to look at must be readable; what becomes of it is written in one step with this entry's position
            self.commit(db, std::mem::take(batch)).await?;
            self.shared.settle(db).await?;
        }
        self.leave_gap(db, batch, at).await?;
        let events_before = batch.events.len();
        let mut applied_txn = None;
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.change_membership(batch, StoredMembershipRecord { log_id: Some(entry.log_id.into()), membership: membership.into() });
        }
        let outcome = match command {
            None => Outcome::Nothing,
            Some(Command::Txn { txn, after_index, time_unix_ms } | Command::Volatile { txn, after_index, time_unix_ms }) => {
                let decision = apply::decide(&self.state, at, &txn, after_index);
                for write in State::writes(&decision, at, &txn.cause, time_unix_ms) {
                    if let Write::PutHistory(change) = &write {
                        self.meta.history_bytes += change.size_bytes();
                    }
                    batch.rows.stage(write);
                }
                self.absorb(batch, &decision, at);
                applied_txn = Some(txn);
                decision.outcome
            }
            Some(Command::Compact { upto }) => {
                self.compact(db, batch, upto)?;
                Outcome::Nothing
            }
            Some(Command::Skip { revisions }) => {
                self.compact(db, batch, self.meta.revision)?;
                self.skip(revisions);
                Outcome::Nothing
            }
        };
        self.meta.applied = Some(entry.log_id.into());
        batch.entries += 1;
        self.shared.environment.observe(|| Observation::Applied {
            term: at.term,
            index: at.index,
            command: raft_types::command(&entry),
            revision: self.meta.revision,
            volatile: Command::is_volatile(raft_types::command(&entry)),
            voters: matches!(entry.payload, EntryPayload::Membership(_)).then_some(self.meta.membership.membership.voters.as_slice()),
            txn: applied_txn.as_ref(),
            outcome: committed(&outcome),
            events: batch.events.get(events_before..).unwrap_or_default(),
        });
        Ok(outcome)
    }

    /// Takes a membership in, and remembers for ever who is not in it any more.
    fn change_membership(&mut self, batch: &mut Batch, next: StoredMembershipRecord) {
        let gone = self.meta.membership.membership.members.keys().filter(|id| !next.membership.members.contains_key(id));
        let before = self.state.removed.len();
        self.state.removed.extend(gone);
        if self.state.removed.len() > before {
            batch.rows.stage_removed_members(&self.state.removed);
            self.shared.removed.write().clone_from(&self.state.removed);
        }
        self.meta.membership = next;
    }

    fn absorb(&mut self, batch: &mut Batch, decision: &Decision, at: Position) {
        batch.events.extend(decision.events());
        if let Some(index) = self.state.absorb(decision, at) {
            batch.rows.stage(Write::DeleteOutcome { index });
        }
        self.meta.revision = self.state.view.revision();
        self.meta.forgotten_index = self.state.outcomes.forgotten_index();
    }

    fn compact(&mut self, db: &StateDb, batch: &mut Batch, upto: Revision) -> io::Result<()> {
        let upto = upto.min(self.meta.revision);
        if upto <= self.meta.compacted {
            return Ok(());
        }
        let Forgotten { changes, rows_of_heads } = db.forgotten(self.meta.compacted, upto)?;
        let forgotten_bytes: u64 = changes.iter().map(|change| change.size_bytes).sum();
        self.meta.history_bytes = self.meta.history_bytes.saturating_sub(forgotten_bytes);
        self.meta.compacted = upto;
        self.state.compacted = upto;
        // before the rows go: a reader that finds some missing looks here afterwards
        self.shared.compacted.store(upto, Ordering::Release);
        batch.rows.stage_removed(apply::compaction(&changes));
        batch.rows.stage_removed_heads(rows_of_heads);
        self.state.gaps.forget(upto);
        batch.rows.stage_gaps(&self.state.gaps);
        self.shared.gaps.write().clone_from(&self.state.gaps);
        Ok(())
    }

    /// Leaves out the revisions that the leaders before may have given to what a power cut has taken, if this entry is the first of its term.
    async fn leave_gap(&mut self, db: &Arc<StateDb>, batch: &mut Batch, at: Position) -> io::Result<()> {
        #[cfg(feature = "planted")]
        if crate::planted::is_planted(crate::planted::Bug::LeaveNoGap) {
            return Ok(());
        }
        let revision = self.meta.revision;
        let last_term = self.meta.applied.map(|applied| applied.term);
        let Some(upto) = gaps::revision_after(revision, last_term, at.term) else { return Ok(()) };
        // what comes before belongs to the revisions before
        self.commit(db, std::mem::take(batch)).await?;
        self.state.gaps.add(revision, upto);
        batch.rows.stage_gaps(&self.state.gaps);
        self.shared.gaps.write().clone_from(&self.state.gaps);
        self.state.view.set_revision(upto);
        self.meta.revision = upto;
        batch.left_gap = true;
        Ok(())
    }

    /// Lets the next revision be `revisions` later, and those before it belong to a past that nobody can watch.
    fn skip(&mut self, revisions: u64) {
        self.meta.revision = self.meta.revision.saturating_add(revisions);
        self.meta.compacted = self.meta.revision;
        self.state.compacted = self.meta.revision;
        self.state.view.set_revision(self.meta.revision);
        self.shared.compacted.store(self.meta.revision, Ordering::Release);
        self.shared.hub.jump(self.meta.revision);
    }

    /// Shows what was collected, and has it written, waiting for room if need be.
    async fn commit(&self, db: &Arc<StateDb>, batch: Batch) -> io::Result<()> {
        match db.write_later(batch.rows, &self.meta, batch.entries)? {
            Urgency::None => {}
            Urgency::Due => db.settle_soon(),
            Urgency::Now => self.shared.settle_here(db).await?,
            Urgency::Full => self.shared.settle(db).await?,
        }
        *self.shared.view.write() = self.state.view.clone();
        let applied = Applied { index: self.meta.applied.map_or(0, |id| id.index), revision: self.meta.revision };
        self.shared.forgotten_index.store(self.meta.forgotten_index, Ordering::Release);
        self.shared.history_bytes.store(self.meta.history_bytes, Ordering::Release);
        self.shared.applied.send_replace(applied);
        self.shared.observe_shown();
        self.shared.hub.publish(&batch.events, self.meta.revision);
        if batch.left_gap {
            self.shared.hub.wake_all();
        }
        for (responder, outcome) in batch.answers {
            responder.send(outcome);
        }
        Ok(())
    }
}

fn committed(outcome: &Outcome) -> Option<Committed> {
    match outcome {
        Outcome::At(revision) => Some(Committed::At(*revision)),
        Outcome::Refused(refusal) => Some(Committed::Refused(refusal.clone())),
        Outcome::Forgotten | Outcome::Nothing => None,
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.meta.applied.map(Into::into), self.meta.membership.clone().into_stored()?))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let db = self.shared.db()?;
        let mut batch = Batch::default();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let outcome = self.apply_entry(&db, &mut batch, entry).await?;
            if let Some(responder) = responder {
                batch.answers.push((responder, outcome));
            }
            if batch.entries >= BATCH_ENTRIES_MAX || batch.rows.size_bytes() >= BATCH_BYTES_MAX {
                self.commit(&db, std::mem::take(&mut batch)).await?;
            }
        }
        if batch.entries > 0 {
            self.commit(&db, batch).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder::new(Arc::clone(&self.shared), self.snapshots_dir.clone(), Arc::clone(&self.snapshot), self.core_applied.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFiles) -> io::Result<()> {
        let (old, snapshots_dir) = (self.shared.db()?, self.snapshots_dir.clone());
        let installing = move || -> io::Result<_> {
            let db = old.replace_by(&snapshot.take_for_install(&snapshots_dir)?)?;
            let loaded = db.load()?;
            Ok((db, loaded))
        };
        let (db, (state, loaded)) = self.shared.environment.blocking(installing).await??;
        if loaded.applied.map(LogId::from) != meta.last_log_id {
            let message = format!("the snapshot holds {:?} instead of {:?}", loaded.applied, meta.last_log_id);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        (self.state, self.meta) = (state, loaded);
        *self.shared.db.write() = Some(Arc::new(db));
        self.shared.compacted.store(self.meta.compacted, Ordering::Release);
        self.shared.forgotten_index.store(self.meta.forgotten_index, Ordering::Release);
        self.shared.history_bytes.store(self.meta.history_bytes, Ordering::Release);
        self.shared.removed.write().clone_from(&self.state.removed);
        self.shared.gaps.write().clone_from(&self.state.gaps);
        *self.shared.view.write() = self.state.view.clone();
        self.shared.hub.jump(self.meta.revision);
        let applied = Applied { index: self.meta.applied.map_or(0, |id| id.index), revision: self.meta.revision };
        self.shared.applied.send_replace(applied);
        self.shared.observe_shown();
        // openraft wants the installed snapshot to be the current one
        let mut builder = self.get_snapshot_builder().await;
        builder.build_without_waiting().await?;
        tracing::info!(raft_index = applied.index, revision = applied.revision, "Installed a snapshot");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshot.lock().clone())
    }
}

#[cfg(test)]
mod tests;
