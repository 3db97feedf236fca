//! What a committed command does: a pure function of the state before it, its place in the log and its bytes. Every member runs it on the
//! same entries and must arrive at the same state, so there is no clock, no configuration and no unordered map here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use crate::command::{Cause, Guard, Key, NodeId, Op, Outcome, Refusal, Revision, Term, Txn, TxnId};
use crate::gaps::Gaps;
#[cfg(feature = "planted")]
use crate::planted;
use crate::records::{HistoryChange, HistoryHead, HistoryRow, HistoryVersion};
use crate::view::{Record, View};
use crate::watch::{Event, EventKind};

/// How many recent transactions are remembered, so that a retry is answered instead of applied again.
pub(crate) const OUTCOMES_KEPT: usize = 32_768;

/// Where an entry stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Term of the leader that proposed it.
    pub(crate) term: Term,
    /// Its index.
    pub(crate) index: u64,
}

/// Everything that deciding a command depends on.
#[derive(Clone, Default)]
pub(crate) struct State {
    /// The current records.
    pub(crate) view: View,
    /// The recent transactions.
    pub(crate) outcomes: Outcomes,
    /// History holds the changes after this revision.
    pub(crate) compacted: Revision,
    /// The members that were removed: their ids are never used again.
    pub(crate) removed: BTreeSet<NodeId>,
    /// The revisions that were left out.
    pub(crate) gaps: Gaps,
}

/// The window of recent transactions: by id to answer retries, by index to forget the oldest.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Outcomes {
    by_id: BTreeMap<TxnId, Outcome>,
    by_index: BTreeMap<u64, TxnId>,
    forgotten_index: u64,
}

/// One key's change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) before: Option<Arc<Record>>,
    pub(crate) after: Option<Arc<Record>>,
}

/// What a command does.
#[derive(Debug)]
pub(crate) struct Decision {
    /// The answer to whoever proposed it.
    pub(crate) outcome: Outcome,
    /// The changed keys in key order, all at `revision`. Empty when nothing changes.
    pub(crate) changes: Vec<Change>,
    /// The store's revision afterwards.
    pub(crate) revision: Revision,
    /// The id under which to remember the outcome.
    pub(crate) remember: Option<TxnId>,
}

/// A row to write to or remove from `state/`.
pub(crate) enum Write {
    PutHistory(HistoryChange),
    PutOutcome { index: u64, id: TxnId, outcome: Outcome },
    DeleteOutcome { index: u64 },
}

/// What `txn` does at this place of the log.
pub(crate) fn decide(state: &State, at: Position, txn: &Txn, after_index: u64) -> Decision {
    let revision = state.view.revision();
    let unchanged = |outcome, remember| Decision { outcome, changes: Vec::new(), revision, remember };
    let known = state.outcomes.get(txn.id);
    #[cfg(feature = "planted")]
    let known = known.filter(|_| !planted::is_planted(planted::Bug::ApplyTwice));
    if let Some(outcome) = known {
        return unchanged(outcome.clone(), None);
    }
    if after_index < state.outcomes.forgotten_index() {
        return unchanged(Outcome::Forgotten, None);
    }
    if let Some(refusal) = first_refusal(&state.view, at.term, &txn.guards) {
        return unchanged(Outcome::Refused(refusal), Some(txn.id));
    }
    let next = revision + 1;
    #[cfg(feature = "planted")]
    let only_deletes = txn.ops.iter().all(|op| matches!(op, Op::Delete { .. }));
    #[cfg(feature = "planted")]
    let next = if only_deletes && planted::is_planted(planted::Bug::ReuseRevision) { revision } else { next };
    let changes = changes(&state.view, &txn.ops, next);
    if changes.is_empty() {
        return unchanged(Outcome::At(revision), Some(txn.id));
    }
    Decision { outcome: Outcome::At(next), changes, revision: next, remember: Some(txn.id) }
}

/// Whether a guard holds for a key's actual revision and the expected one.
type Holds = fn(Option<Revision>, Revision) -> bool;

/// The first guard that does not hold.
fn first_refusal(view: &View, term: Term, guards: &[Guard]) -> Option<Refusal> {
    guards.iter().zip(0_u32..).find_map(|(guard, number)| {
        let (key, holds): (&Key, Holds) = match guard {
            #[cfg(feature = "planted")]
            Guard::Term(_) if planted::is_planted(planted::Bug::IgnoreFence) => return None,
            Guard::Term(expected) => return (*expected != term).then_some(Refusal { guard: number, actual: None }),
            Guard::Revision { key, .. } => (key, |actual, expected| actual == Some(expected)),
            Guard::Absent { key } => (key, |actual, _| actual.is_none()),
            Guard::Present { key } => (key, |actual, _| actual.is_some()),
        };
        let expected = if let Guard::Revision { revision, .. } = guard { *revision } else { 0 };
        let actual = view.get(key).map(|record| record.revision);
        (!holds(actual, expected)).then_some(Refusal { guard: number, actual })
    })
}

/// The changes in key order; of several operations on one key the last counts.
fn changes(view: &View, ops: &[Op], revision: Revision) -> Vec<Change> {
    let by_key: BTreeMap<&Key, &Op> = ops.iter().map(|op| (op.key(), op)).collect();
    by_key
        .into_iter()
        .filter_map(|(key, op)| {
            let before = view.get(key);
            let after = match op {
                Op::Put { key, value, split, terms } => Some(Arc::new(Record {
                    key: key.clone(),
                    value: value.clone(),
                    split: *split,
                    terms: terms.clone(),
                    revision,
                    create_revision: before.as_ref().map_or(revision, |record| record.create_revision),
                    parsed: OnceLock::new(),
                })),
                Op::Delete { .. } => None,
            };
            (before.is_some() || after.is_some()).then(|| Change { key: key.clone(), before, after })
        })
        .collect()
}

impl Op {
    fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

impl State {
    /// The rows that make a decision durable.
    pub(crate) fn writes(decision: &Decision, at: Position, cause: &Cause, time_unix_ms: i64) -> Vec<Write> {
        let mut writes = Vec::with_capacity(decision.changes.len() + 1);
        for change in &decision.changes {
            writes.push(Write::PutHistory(HistoryChange {
                key: change.key.clone(),
                revision: decision.revision,
                row: HistoryRow {
                    version: change.after.as_deref().map(HistoryVersion::from),
                    previous: change.before.as_ref().map(|before| before.revision),
                    cause: cause.clone(),
                    time_unix_ms,
                },
            }));
        }
        if let Some(id) = decision.remember {
            writes.push(Write::PutOutcome { index: at.index, id, outcome: decision.outcome.clone() });
        }
        writes
    }

    /// Makes the decision part of the state; returns the index of the outcome that had to be forgotten for it.
    pub(crate) fn absorb(&mut self, decision: &Decision, at: Position) -> Option<u64> {
        for change in &decision.changes {
            match &change.after {
                Some(record) => self.view.insert(Arc::clone(record)),
                None => self.view.remove(&change.key),
            }
        }
        self.view.set_revision(decision.revision);
        decision.remember.and_then(|id| self.outcomes.remember(at.index, id, decision.outcome.clone()))
    }
}

impl Outcomes {
    /// What was answered to this transaction, if it is remembered.
    pub(crate) fn get(&self, id: TxnId) -> Option<&Outcome> {
        self.by_id.get(&id)
    }

    /// Transactions in entries at or below this index are forgotten.
    pub(crate) fn forgotten_index(&self) -> u64 {
        self.forgotten_index
    }

    /// Remembers an outcome; returns the index of the one that had to go.
    pub(crate) fn remember(&mut self, index: u64, id: TxnId, outcome: Outcome) -> Option<u64> {
        self.by_id.insert(id, outcome);
        self.by_index.insert(index, id);
        if self.by_index.len() <= OUTCOMES_KEPT {
            return None;
        }
        let (index, id) = self.by_index.pop_first()?;
        self.by_id.remove(&id);
        self.forgotten_index = index;
        Some(index)
    }

    /// Sets what a restart found on disk.
    pub(crate) fn set_forgotten_index(&mut self, index: u64) {
        self.forgotten_index = index;
    }
}

impl Decision {
    /// What watchers are told.
    pub(crate) fn events(&self) -> impl Iterator<Item = Arc<Event>> + '_ {
        self.changes.iter().filter_map(|change| {
            let (kind, record) = match (&change.after, &change.before) {
                (Some(record), _) => (EventKind::Put, record),
                (None, Some(record)) => (EventKind::Delete, record),
                (None, None) => return None,
            };
            Some(Arc::new(Event {
                kind,
                revision: self.revision,
                record: Arc::clone(record),
                previous: change.before.clone(),
                encoded: parking_lot::Mutex::default(),
            }))
        })
    }
}

/// The history rows to remove when everything up to the last of `rows` is compacted; `rows` are all rows since the last compaction.
/// The version before each change goes, as nobody may ask for it any more, and so does a delete itself. The last version of a key stays
/// for as long as it is the current one.
pub(crate) fn compaction(rows: &[HistoryHead]) -> Vec<(Revision, Key)> {
    let mut removed = Vec::with_capacity(rows.len());
    for row in rows {
        removed.extend(row.previous.map(|previous| (previous, row.key.clone())));
        if row.is_delete {
            removed.push((row.revision, row.key.clone()));
        }
    }
    removed
}

impl From<&Record> for HistoryVersion {
    fn from(record: &Record) -> Self {
        Self { create_revision: record.create_revision, split: record.split, terms: record.terms.clone(), value: record.value.clone() }
    }
}

#[cfg(test)]
pub(crate) mod tests;
