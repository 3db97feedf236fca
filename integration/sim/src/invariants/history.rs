//! What the group has decided: the committed entries in their order, as the first member that applied each one told, and the states that
//! follow from them. A power cut of a majority may take the end of it; what was lost is kept beside it, as some have seen it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

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
    /// The revision after it.
    pub revision: Revision,
    /// It was acknowledged before it was on disk.
    pub volatile: bool,
    /// The sets of voters that it brings.
    pub voters: Option<Vec<BTreeSet<NodeId>>>,
    /// The transaction in it.
    pub txn: Option<AppliedTxn>,
    /// What it changed.
    pub changes: Vec<Change>,
}

impl Entry {
    /// The entry that a member applied, if that is what happened.
    pub fn applied(event: &Event) -> Option<Self> {
        let Event::Applied { term, digest, revision, volatile, voters, txn, changes, .. } = event else { return None };
        Some(Self {
            term: *term,
            digest: *digest,
            revision: *revision,
            volatile: *volatile,
            voters: voters.clone(),
            txn: txn.clone(),
            changes: changes.clone(),
        })
    }
}

/// The decided history.
#[derive(Default)]
pub struct History {
    now_ms: u64,
    entries: BTreeMap<u64, Entry>,
    /// The state after the last entry.
    state: BTreeMap<Bytes, (Revision, Bytes)>,
    revision: Revision,
    digests: BTreeMap<Revision, u64>,
    changes: BTreeMap<Revision, Vec<Change>>,
    versions: BTreeMap<Bytes, Vec<(Revision, bool)>>,
    applied: BTreeMap<TxnId, (u64, Revision)>,
    shown: BTreeMap<NodeId, u64>,
    lost: Vec<Lost>,
}

/// The end of a history that the group has gone on without.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Its entries.
    pub entries: BTreeMap<u64, Entry>,
    /// The revision before it.
    after: Revision,
    /// The revision at its end.
    last: Revision,
    digests: BTreeMap<Revision, u64>,
    changes: BTreeMap<Revision, Vec<Change>>,
}

impl Lost {
    /// The index of its first entry.
    pub fn from_index(&self) -> u64 {
        self.entries.first_key_value().map_or(u64::MAX, |(index, _)| *index)
    }
}

impl History {
    /// Takes note of an event; returns what the group has gone on without, if the event shows that it has.
    ///
    /// # Errors
    /// An entry was applied whose predecessor nobody has applied.
    pub fn see(&mut self, now_ms: u64, event: &Event) -> Result<Option<Lost>, String> {
        self.now_ms = now_ms;
        match event {
            Event::Applied { member, index, .. } => match Entry::applied(event) {
                Some(entry) => self.see_applied(*member, *index, entry),
                None => Ok(None),
            },
            Event::Shown { member, index, .. } => {
                self.shown.insert(*member, *index);
                Ok(None)
            }
            Event::Stopped { member, .. } => {
                self.shown.remove(member);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn see_applied(&mut self, member: NodeId, index: u64, entry: Entry) -> Result<Option<Lost>, String> {
        // a member that knows no better yet
        if self.was_lost(index, &entry) {
            return Ok(None);
        }
        let lost = match self.entries.get(&index) {
            // whether this is right is for a rule to say
            Some(known) if known.term >= entry.term => return Ok(None),
            Some(_) => Some(self.lose_from(index)),
            None => None,
        };
        if let Some(last) = self.last_index()
            && index != last + 1
        {
            return Err(format!("member {member} applied entry {index} first, but entry {} was never applied", last + 1));
        }
        self.add(index, entry);
        Ok(lost)
    }

    fn lose_from(&mut self, index: u64) -> Lost {
        let mut old = std::mem::take(self);
        let entries = old.entries.split_off(&index);
        (self.now_ms, self.shown, self.lost) = (old.now_ms, old.shown, old.lost);
        for (index, entry) in old.entries {
            self.add(index, entry);
        }
        let after = self.revision;
        let beyond = (Bound::Excluded(after), Bound::Unbounded);
        let lost = Lost {
            entries,
            after,
            last: old.revision,
            digests: old.digests.range(beyond).map(|(revision, digest)| (*revision, *digest)).collect(),
            changes: old.changes.range(beyond).map(|(revision, changes)| (*revision, changes.clone())).collect(),
        };
        self.lost.push(lost.clone());
        lost
    }

    fn add(&mut self, index: u64, entry: Entry) {
        for change in &entry.changes {
            match &change.value {
                Some(value) => self.state.insert(change.key.clone(), (change.revision, value.clone())),
                None => self.state.remove(&change.key),
            };
            self.versions.entry(change.key.clone()).or_default().push((change.revision, change.value.is_some()));
        }
        if entry.revision != self.revision {
            let digest = digest_of_state(self.state.iter().map(|(key, (revision, value))| (&key[..], *revision, &value[..])));
            self.digests.insert(entry.revision, digest);
        }
        self.revision = entry.revision;
        if let Some(first) = entry.changes.first() {
            self.changes.insert(first.revision, entry.changes.clone());
            if let Some(txn) = &entry.txn {
                self.applied.entry(txn.id).or_insert((index, first.revision));
            }
        }
        self.entries.insert(index, entry);
    }

    /// Milliseconds since the beginning of the run.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
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

    /// The sets of voters up to and including an entry.
    pub fn voters_at(&self, index: u64) -> &[BTreeSet<NodeId>] {
        self.entries.range(..=index).rev().find_map(|(_, entry)| entry.voters.as_deref()).unwrap_or_default()
    }

    /// Whether this was the entry at an index until the group went on without it.
    pub fn was_lost(&self, index: u64, entry: &Entry) -> bool {
        self.lost.iter().any(|lost| lost.entries.get(&index) == Some(entry))
    }

    /// Whether the store was at this revision after the entry at `index`, in what was lost.
    pub fn was_lost_at(&self, index: u64, revision: Revision) -> bool {
        self.lost.iter().any(|lost| lost.entries.get(&index).is_some_and(|entry| entry.revision == revision))
    }

    /// What was lost together with this revision.
    fn lost_with(&self, revision: Revision) -> Option<&Lost> {
        self.lost.iter().find(|lost| lost.after < revision && revision <= lost.last)
    }

    /// How many entries were lost.
    pub fn lost_entries(&self) -> u64 {
        self.lost.iter().map(|lost| lost.entries.len() as u64).sum()
    }

    /// Whether this revision was lost.
    pub fn is_lost(&self, revision: Revision) -> bool {
        self.lost_with(revision).is_some()
    }

    /// The digest of the state at a revision, also at one that was lost.
    pub fn digest(&self, revision: Revision) -> Option<u64> {
        if revision == 0 {
            return Some(digest_of_state(std::iter::empty()));
        }
        let known = self.digests.get(&revision).or_else(|| self.lost_with(revision)?.digests.get(&revision));
        known.copied()
    }

    /// The changes in `(after, upto]` below a prefix, in order; those that were lost if `upto` was.
    pub fn changes(&self, prefix: &[u8], after: Revision, upto: Revision) -> Vec<&Change> {
        let lost = self.lost_with(upto);
        let kept_upto = lost.map_or(upto, |lost| lost.after).max(after);
        let kept = self.changes.range((Bound::Excluded(after), Bound::Included(kept_upto)));
        let lost = lost.into_iter().flat_map(|lost| lost.changes.range((Bound::Excluded(after), Bound::Included(upto.max(after)))));
        kept.chain(lost).flat_map(|(_, changes)| changes).filter(|change| change.key.starts_with(prefix)).collect()
    }

    /// Where, and at which revision, a transaction changed something.
    pub fn applied(&self, id: TxnId) -> Option<(u64, Revision)> {
        self.applied.get(&id).copied()
    }

    /// Whether a transaction changed something at this revision, which was lost.
    pub fn was_applied(&self, id: TxnId, revision: Revision) -> bool {
        let entries = self.lost.iter().flat_map(|lost| lost.entries.values());
        entries.filter(|entry| entry.revision == revision).any(|entry| entry.txn.as_ref().is_some_and(|txn| txn.id == id))
    }

    /// Whether the key's revision was `actual` at some time between two revisions of the store.
    pub fn had_revision(&self, key: &[u8], actual: Option<Revision>, from: Revision, upto: Revision) -> bool {
        let versions = self.versions.get(key).map_or(&[][..], Vec::as_slice);
        let starts = std::iter::once((0, None)).chain(versions.iter().map(|(revision, exists)| (*revision, exists.then_some(*revision))));
        let ends = versions.iter().map(|(revision, _)| *revision).chain(std::iter::once(Revision::MAX));
        starts.zip(ends).any(|((start, version), end)| version == actual && start <= upto && end > from)
    }

    /// The key's revision just before `revision` changed it.
    pub fn version_before(&self, key: &[u8], revision: Revision) -> Option<Revision> {
        let versions = self.versions.get(key).map_or(&[][..], Vec::as_slice);
        let before = versions.iter().rev().find(|(changed, _)| *changed < revision);
        before.and_then(|(changed, exists)| exists.then_some(*changed))
    }

    /// What the readers of each running member see: up to which entry.
    pub fn shown(&self, member: NodeId) -> Option<u64> {
        self.shown.get(&member).copied()
    }
}
