//! What the group has decided: the committed entries in their order, as the first member that applied each one told, and the states that
//! follow from them.

use std::collections::BTreeMap;

use bytes::Bytes;
use trierarch_raft::{NodeId, Revision, Term, TxnId};

use crate::event::{AppliedTxn, Change, Event, digest_of_state};

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its term.
    pub term: Term,
    /// Digest of its command.
    pub digest: u64,
    /// The transaction in it.
    pub txn: Option<AppliedTxn>,
    /// What it changed.
    pub changes: Vec<Change>,
}

/// The decided history.
#[derive(Default)]
pub struct History {
    entries: BTreeMap<u64, Entry>,
    /// The state after the last entry.
    state: BTreeMap<Bytes, (Revision, Bytes)>,
    revision: Revision,
    digests: BTreeMap<Revision, u64>,
    changes: BTreeMap<Revision, Vec<Change>>,
    versions: BTreeMap<Bytes, Vec<(Revision, bool)>>,
    applied: BTreeMap<TxnId, (u64, Revision)>,
    shown: BTreeMap<NodeId, u64>,
}

impl History {
    /// Takes note of an event.
    ///
    /// # Errors
    /// An entry was applied whose predecessor nobody has applied.
    pub fn see(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Applied { member, term, index, digest, txn, changes } => {
                if self.entries.contains_key(index) {
                    return Ok(());
                }
                if let Some(last) = self.last_index()
                    && *index != last + 1
                {
                    return Err(format!("member {member} applied entry {index} first, but entry {} was never applied", last + 1));
                }
                self.add(*index, Entry { term: *term, digest: *digest, txn: txn.clone(), changes: changes.clone() });
            }
            Event::Shown { member, index, .. } => {
                self.shown.insert(*member, *index);
            }
            Event::Stopped { member, .. } => {
                self.shown.remove(member);
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, index: u64, entry: Entry) {
        for change in &entry.changes {
            match &change.value {
                Some(value) => self.state.insert(change.key.clone(), (change.revision, value.clone())),
                None => self.state.remove(&change.key),
            };
            self.versions.entry(change.key.clone()).or_default().push((change.revision, change.value.is_some()));
        }
        if let Some(first) = entry.changes.first() {
            self.revision = first.revision;
            let digest = digest_of_state(self.state.iter().map(|(key, (revision, value))| (&key[..], *revision, &value[..])));
            self.digests.insert(self.revision, digest);
            self.changes.insert(self.revision, entry.changes.clone());
            if let Some(txn) = &entry.txn {
                self.applied.entry(txn.id).or_insert((index, first.revision));
            }
        }
        self.entries.insert(index, entry);
    }

    /// The committed entry at an index.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(&index)
    }

    /// The index of the last committed entry that anybody has applied.
    pub fn last_index(&self) -> Option<u64> {
        self.entries.last_key_value().map(|(index, _)| *index)
    }

    /// The revision after it.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The digest of the state at a revision.
    pub fn digest(&self, revision: Revision) -> Option<u64> {
        if revision == 0 { Some(digest_of_state(std::iter::empty())) } else { self.digests.get(&revision).copied() }
    }

    /// The changes in `(after, upto]` below a prefix, in order.
    pub fn changes<'a>(&'a self, prefix: &'a [u8], after: Revision, upto: Revision) -> impl Iterator<Item = &'a Change> + 'a {
        let upto = upto.max(after);
        let changes = self.changes.range((std::ops::Bound::Excluded(after), std::ops::Bound::Included(upto)));
        changes.flat_map(|(_, changes)| changes).filter(move |change| change.key.starts_with(prefix))
    }

    /// Where, and at which revision, a transaction changed something.
    pub fn applied(&self, id: TxnId) -> Option<(u64, Revision)> {
        self.applied.get(&id).copied()
    }

    /// Whether the key's revision was `actual` at some time between two revisions of the store.
    pub fn had_revision(&self, key: &[u8], actual: Option<Revision>, from: Revision, upto: Revision) -> bool {
        let versions = self.versions.get(key).map_or(&[][..], Vec::as_slice);
        let starts = std::iter::once((0, None)).chain(versions.iter().map(|(revision, exists)| (*revision, exists.then_some(*revision))));
        let ends = versions.iter().map(|(revision, _)| *revision).chain(std::iter::once(Revision::MAX));
        starts.zip(ends).any(|((start, version), end)| version == actual && start <= upto && end > from)
    }

    /// What the readers of each running member see: up to which entry.
    pub fn shown(&self, member: NodeId) -> Option<u64> {
        self.shown.get(&member).copied()
    }
}
