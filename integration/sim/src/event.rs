//! What happens in a run, in one order: what members did, what clients asked and were told, and what went wrong.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use trierarch_raft::{Committed, EventKind, NodeId, Revision, Term, TxnId, View};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A vote of a member is on disk.
    Voted { member: NodeId, term: Term, voted_for: NodeId, committed: bool },
    /// An entry was added to a member's log.
    Appended { member: NodeId, previous_term: Option<Term>, term: Term, index: u64, digest: u64 },
    /// A member applied a committed entry.
    Applied {
        member: NodeId,
        term: Term,
        index: u64,
        digest: u64,
        /// The store's revision afterwards.
        revision: Revision,
        volatile: bool,
        voters: Option<Vec<BTreeSet<NodeId>>>,
        txn: Option<AppliedTxn>,
        changes: Vec<Change>,
    },
    /// Readers of a member see the state after an entry.
    Shown { member: NodeId, index: u64, revision: Revision, digest: u64 },
    /// A member's log was synced.
    Synced { member: NodeId },
    /// A member's disk refused to sync.
    SyncFailed { member: NodeId },
    /// A member's disk is full from now on.
    DiskFull { member: NodeId },
    /// It has room again.
    DiskHasRoom { member: NodeId },
    /// Why a member whose disk is or was full says that it takes no writes, if it does.
    Condition { member: NodeId, read_only: Option<String> },
    /// A member (re)started; `doubtful`: it does not know whether its log is whole.
    Started { member: NodeId, doubtful: bool },
    /// A member stopped: how; `doubtful` as in `Started`.
    Stopped { member: NodeId, how: &'static str, doubtful: bool },
    /// A client asked for something, at a member.
    Asked { question: u64, member: NodeId, what: Question },
    /// A client was answered, or learned that it will not be.
    Answered { question: u64, answer: Answer },
    /// A backup was taken.
    BackedUp { question: u64, revision: Revision, complete: bool },
    /// A backup was restored: what the new group shows, and the first revision that it gave out.
    Restored { question: u64, revision: Revision, digest: u64, next: Revision },
    /// A watch began.
    Watching { watch: u64, member: NodeId, prefix: Bytes, after: Revision },
    /// A watch brought changes; none when it only says how far it has come.
    Watched { watch: u64, changes: Vec<Change>, progress: Revision },
    /// Something in the world changed.
    World(String),
}

/// The transaction of an applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedTxn {
    /// Its id.
    pub id: TxnId,
    /// The term in which alone it may apply.
    pub fence: Option<Term>,
    /// What was answered; `None` when it was forgotten.
    pub outcome: Option<Committed>,
}

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub revision: Revision,
    /// Of which key.
    pub key: Bytes,
    /// Its new value; `None` when it was removed.
    pub value: Option<Bytes>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A transaction. A repeated one has the id of an earlier question.
    Write(Write),
    /// Everything, no older than any answer given before.
    LinearizableRead,
    /// Everything as the member has it.
    LocalRead,
    /// Everything as it was so many revisions ago, from the history.
    PastRead { back: u64 },
    /// A copy of everything.
    Backup,
    /// A change of members or leaders.
    Administer(String),
}

/// A client's transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its id.
    pub id: TxnId,
    /// What it changes: keys and their new values.
    pub changes: Vec<(Bytes, Option<Bytes>)>,
    /// What must hold.
    pub condition: Condition,
    /// It is acknowledged before it is on disk.
    pub volatile: bool,
}

/// What must hold for a write to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// The key of the first change has this revision.
    Revision(Revision),
    /// The key of the first change is absent.
    Absent,
    /// The entry's term.
    Term(Term),
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The write applied.
    Written(Revision),
    /// A condition did not hold; the revision that the key had.
    Refused(Option<Revision>),
    /// It was not applied and never will be.
    Unavailable(String),
    /// Nobody knows, or the member went away.
    Unknown,
    /// What was read: at which revision, and a digest of everything.
    Read { revision: Revision, digest: u64 },
    /// A change of members or leaders is done.
    Done,
}

/// A digest of bytes; the same in every run.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// A digest of keys with their revisions and values, in key order.
pub fn digest_of_state<'a>(records: impl Iterator<Item = (&'a [u8], Revision, &'a [u8])>) -> u64 {
    let mut hasher = DefaultHasher::new();
    records.for_each(|record| record.hash(&mut hasher));
    hasher.finish()
}

/// A digest of everything that a view shows.
pub fn digest_of_view(view: &View) -> u64 {
    digest_of_state(view.range(b"", None).map(|record| (&record.key[..], record.revision, &record.value[..])))
}

impl From<&trierarch_raft::Event> for Change {
    fn from(event: &trierarch_raft::Event) -> Self {
        let value = (event.kind == EventKind::Put).then(|| event.record.value.clone());
        Self { revision: event.revision, key: event.record.key.clone(), value }
    }
}
