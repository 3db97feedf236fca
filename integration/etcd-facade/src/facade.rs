//! What all services share: the store, and the header of every answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use trierarch_raft::{Cause, Revision, Store, Term};

use crate::leases::Leases;
use crate::messages::ResponseHeader;
use crate::versions::signed;

/// How long a request may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// All groups of these tests have the same id.
const CLUSTER_ID: u64 = 0x7472_6965_7261_7263;

/// A member as its services see it. Cheap to clone.
#[derive(Clone)]
pub struct Facade {
    /// The member.
    pub store: Store,
    /// When leases end.
    pub leases: Arc<Leases>,
    /// Holds the store.
    pub data_dir: PathBuf,
}

impl Facade {
    /// The header of an answer at `revision`.
    pub fn header(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader { cluster_id: CLUSTER_ID, member_id: self.store.node_id(), revision: signed(revision), raft_term: self.term() }
    }

    /// The header of an answer about now.
    pub fn header_now(&self) -> ResponseHeader {
        self.header(self.store.view().revision())
    }

    fn term(&self) -> Term {
        self.store.leadership().borrow().term
    }
}

/// What the history says of changes made here.
pub fn cause(verb: &str) -> Cause {
    Cause { agent: "etcd-facade".to_owned(), verb: verb.to_owned(), ..Cause::default() }
}
