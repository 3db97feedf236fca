//! The runs of a member on its log: how the last one ended decides what the log may have lost.

use std::io;
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::frame::Frame;
use super::queue::Hears;
use super::tail::Tail;
use super::{Inner, LogStore, SyncRequest};
use crate::doubt::Doubt;
use crate::keys;
use crate::records::{self, LogIdRecord, RunRecord, VoteRecord};
use crate::store::OpenError;

impl LogStore {
    /// Whether what this member had applied is of no use to the group: its state must be set aside before the next run.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn must_start_over(&self) -> Result<bool, OpenError> {
        Ok(self.last_run()?.is_some_and(|last| last.diverged))
    }

    /// Notes that a run begins on the machine's boot `boot_id`, and says what the log may have lost since the last one. A run that ended
    /// orderly has synced everything; one that was killed has left it to the operating system, unless that has ended, too.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn begin_run(&self, boot_id: &str) -> Result<Option<Doubt>, OpenError> {
        let doubt = match self.last_run()? {
            None => None,
            Some(last) if last.diverged => {
                self.forget_entries().map_err(|error| self.open_error(&error))?;
                Some(Doubt::Everything)
            }
            Some(last) if last.boot_id == boot_id => last.doubt,
            Some(last) => last.doubt.max(Some(Doubt::Tail)),
        };
        let run = RunRecord { boot_id: boot_id.to_owned(), doubt, diverged: false };
        self.inner.note_run(run).map_err(|error| self.open_error(&error))?;
        Ok(doubt)
    }

    /// A handle that does not keep the log open.
    pub(crate) fn handle(&self) -> LogHandle {
        LogHandle { inner: Arc::downgrade(&self.inner) }
    }

    /// Returns when everything in the log is on disk, whoever wrote it.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) async fn settle(&self) -> io::Result<()> {
        let (done, synced) = oneshot::channel();
        self.inner.syncer.request(SyncRequest::Vote(done), Hears::Now)?;
        synced.await.map_err(io::Error::other)?
    }

    fn last_run(&self) -> Result<Option<RunRecord>, OpenError> {
        self.inner.meta_record(keys::LOG_RUN).map_err(|error| self.open_error(&error))
    }

    /// Forgets all entries, but neither vote nor owner.
    fn forget_entries(&self) -> io::Result<()> {
        let inner = &self.inner;
        inner.journal().append(&Frame::Forgotten)?;
        inner.journal().write(true)?;
        let vote = inner.tail.lock().vote;
        *inner.tail.lock() = Tail::new(None, None, vote);
        Ok(())
    }

    fn open_error(&self, error: &io::Error) -> OpenError {
        OpenError { path: self.inner.path.clone(), reason: error.to_string() }
    }
}

impl Inner {
    fn note_run(&self, run: RunRecord) -> io::Result<()> {
        self.put_meta(keys::LOG_RUN, &records::encode(&run))?;
        *self.run.lock() = Some(run);
        self.db().flush_wal(true).map_err(|error| self.error(error))
    }

    fn change_run(&self, change: impl FnOnce(&mut RunRecord)) -> io::Result<()> {
        let Some(mut run) = self.run.lock().clone() else { return Ok(()) };
        change(&mut run);
        self.note_run(run)
    }

    /// The run ends orderly: nothing is left to doubt, if nothing is doubted now.
    pub(super) fn end_run(&mut self) {
        let sure = self.run.get_mut().as_ref().is_some_and(|run| run.doubt.is_none() && !run.diverged);
        if sure && let Err(error) = self.db().delete_cf(self.meta(), keys::LOG_RUN) {
            tracing::warn!(path = %self.path.display(), %error, "Could not note the end of this run");
        }
    }
}

/// The log of an open member, for questions from outside of raft. It does not keep the log open.
pub(crate) struct LogHandle {
    pub(super) inner: Weak<Inner>,
}

impl LogHandle {
    /// The log itself, which stays open with it; `None` once it is closed.
    pub(crate) fn open(&self) -> Option<LogStore> {
        self.inner.upgrade().map(|inner| LogStore { inner })
    }

    /// The last entry.
    pub(crate) fn last(&self) -> Option<LogIdRecord> {
        self.inner.upgrade()?.tail.lock().last.map(LogIdRecord::from)
    }

    /// The vote, as it is on disk.
    pub(crate) fn vote(&self) -> Option<VoteRecord> {
        self.inner.upgrade()?.tail.lock().vote.as_ref().map(VoteRecord::from)
    }

    /// The term of the entry at `index`, if it is here.
    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        let entries = self.inner.upgrade()?.read(index, index + 1, usize::MAX).ok()?;
        entries.first().map(|entry| **entry.log_id.committed_leader_id())
    }

    /// The last entry before the newest ones that have `bytes` together, if there is one.
    pub(crate) fn before_newest(&self, bytes: u64) -> Option<u64> {
        self.inner.upgrade()?.journal().before_newest(bytes)
    }

    /// The member knows again what the group has committed.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn end_doubt(&self) -> io::Result<()> {
        self.inner.upgrade().map_or(Ok(()), |inner| inner.change_run(|run| run.doubt = None))
    }

    /// The group has gone on with other entries than this member has applied: the next run starts with nothing.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn note_diverged(&self) -> io::Result<()> {
        self.inner.upgrade().map_or(Ok(()), |inner| inner.change_run(|run| run.diverged = true))
    }
}
