//! Which log this is, and which logs the peers had: a member that comes back under its old id with another log has lost what it promised.

use std::io;
use std::sync::Arc;

use super::{Inner, LogHandle, LogStore};
use crate::command::NodeId;
use crate::keys;
use crate::records::{self, LogOwner};

impl LogStore {
    /// Whether this directory has held no log before.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn is_new(&self) -> io::Result<bool> {
        Ok(self.inner.meta_record::<LogOwner>(keys::LOG_OWNER)?.is_none())
    }

    /// The number that names this log for ever; drawn when it is asked for the first time.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn identity(&self) -> io::Result<u128> {
        if let Some(known) = self.inner.meta_record(keys::LOG_IDENTITY)? {
            return Ok(known);
        }
        let identity = uuid::Uuid::new_v4().as_u128();
        self.inner.keep(keys::LOG_IDENTITY, identity)?;
        Ok(identity)
    }
}

impl LogHandle {
    /// Remembers the log of a peer that is met for the first time, and recognises it ever after: `false` if the peer has another one.
    ///
    /// # Errors
    /// Of the disk, and when the log is closed.
    pub(crate) fn recognises(&self, peer: NodeId, identity: u128) -> io::Result<bool> {
        let inner: Arc<Inner> = self.inner.upgrade().ok_or_else(|| io::Error::other("the log is closed"))?;
        let key = keys::log_peer(peer);
        match inner.meta_record::<u128>(&key)? {
            Some(known) => Ok(known == identity),
            None => inner.keep(&key, identity).map(|()| true),
        }
    }
}

impl Inner {
    fn keep(&self, key: &[u8], identity: u128) -> io::Result<()> {
        self.put_meta(key, &records::encode(&identity))?;
        self.db().flush_wal(true).map_err(|error| self.error(error))
    }
}
