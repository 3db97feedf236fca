//! A snapshot is a checkpoint of `state/` alone: a directory of files that other members receive one after the other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::RaftSnapshotBuilder;
use tokio::sync::watch;

use crate::raft_types::{Snapshot, SnapshotMeta, TypeConfig};
use crate::records::StateMeta;
use crate::state_db::StateDb;
use crate::state_machine::Shared;

/// Numbers the directories of one process.
static NEXT_DIRECTORY: AtomicU64 = AtomicU64::new(1);

/// The files of a snapshot. The directory is removed with the last reference to it.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFiles {
    directory: Arc<Directory>,
}

#[derive(Debug)]
struct Directory {
    path: PathBuf,
}

impl Drop for Directory {
    fn drop(&mut self) {
        // an installed snapshot has moved away
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "Could not remove a snapshot");
        }
    }
}

impl SnapshotFiles {
    /// A fresh, empty directory below `snapshots_dir` for files that are about to be received.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn receive_into(snapshots_dir: &Path) -> io::Result<Self> {
        let path = fresh_path(snapshots_dir)?;
        fs::create_dir(&path)?;
        Ok(Self { directory: Arc::new(Directory { path }) })
    }

    /// A checkpoint of `state/` below `snapshots_dir`, and its position.
    ///
    /// # Errors
    /// Of the file system and of RocksDB.
    pub(crate) fn checkpoint(db: &StateDb, snapshots_dir: &Path) -> io::Result<(Self, StateMeta)> {
        let path = fresh_path(snapshots_dir)?;
        let files = Self { directory: Arc::new(Directory { path }) };
        db.checkpoint(files.path())?;
        // the checkpoint itself says where it stands: entries may have been applied since it was asked for
        let meta = StateDb::meta_of_checkpoint(files.path())?;
        Ok((files, meta))
    }

    /// Whether a file of a snapshot may have this name: nothing that leads elsewhere.
    pub(crate) fn is_plain_name(name: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)
    }

    /// Where the files are.
    pub(crate) fn path(&self) -> &Path {
        &self.directory.path
    }

    /// The names and sizes of the files, in a stable order.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.path())? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| io::Error::other(format!("odd file name {name:?}")))?;
            files.push((name, entry.metadata()?.len()));
        }
        files.sort();
        Ok(files)
    }

    /// A directory with the same files that may be moved away.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn take_for_install(&self, snapshots_dir: &Path) -> io::Result<PathBuf> {
        let path = fresh_path(snapshots_dir)?;
        fs::create_dir(&path)?;
        for (name, _) in self.list()? {
            let from = self.path().join(&name);
            // sorted tables and large values never change and may be shared; what RocksDB appends to must not be
            if name.ends_with(".sst") || name.ends_with(".blob") {
                fs::hard_link(&from, path.join(&name))?;
            } else {
                fs::copy(&from, path.join(&name))?;
                fs::File::open(path.join(&name))?.sync_all()?;
            }
        }
        fs::File::open(&path)?.sync_all()?;
        Ok(path)
    }
}

fn fresh_path(snapshots_dir: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(snapshots_dir)?;
    Ok(snapshots_dir.join(format!("{:06}", NEXT_DIRECTORY.fetch_add(1, Ordering::Relaxed))))
}

/// Builds checkpoints.
pub(crate) struct SnapshotBuilder {
    shared: Arc<Shared>,
    snapshots_dir: PathBuf,
    current: Arc<parking_lot::Mutex<Option<Snapshot>>>,
    core_applied: watch::Receiver<Option<u64>>,
}

impl SnapshotBuilder {
    pub(crate) fn new(
        shared: Arc<Shared>,
        snapshots_dir: PathBuf,
        current: Arc<parking_lot::Mutex<Option<Snapshot>>>,
        core_applied: watch::Receiver<Option<u64>>,
    ) -> Self {
        Self { shared, snapshots_dir, current, core_applied }
    }

    /// Builds a snapshot and makes it the current one.
    ///
    /// # Errors
    /// Of the file system and of RocksDB.
    pub(crate) async fn build_without_waiting(&mut self) -> io::Result<Snapshot> {
        let (db, snapshots_dir) = (self.shared.db()?, self.snapshots_dir.clone());
        let build = move || SnapshotFiles::checkpoint(&db, &snapshots_dir);
        let (files, meta) = self.shared.environment.blocking(build).await??;
        let meta = SnapshotMeta { last_log_id: meta.applied.map(Into::into), last_membership: meta.membership.into_stored()? };
        let snapshot = Snapshot { meta, snapshot: files };
        *self.current.lock() = Some(snapshot.clone());
        Ok(snapshot)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshot = self.build_without_waiting().await?;
        let index = snapshot.meta.last_log_id.map(|id| id.index());
        // before the core runs there is nobody to run ahead of; afterwards its account of what is applied must come first
        if self.core_applied.borrow().is_some() {
            let caught_up = self.core_applied.wait_for(|applied| *applied >= index).await;
            drop(caught_up.map_err(|_closed| io::Error::other("the store is closing"))?);
        }
        Ok(snapshot)
    }
}
