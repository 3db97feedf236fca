//! What power cuts may take: volatile writes at the end of the history, which no majority had synced, and only if a machine lost its power after
//! they were written. A durable write, and a volatile one that a later sync has taken along, is never lost.

use std::collections::{BTreeMap, BTreeSet};

use trierarch_raft::{NodeId, Term};

use super::{
    Invariant,
    history::{History, Lost},
};
use crate::event::Event;

/// The rule, what each member has written, and when it lost its power last.
#[derive(Default)]
pub(super) struct LostWrites {
    logs: BTreeMap<NodeId, Log>,
    /// When each entry was first written, by index and term.
    written_ms: BTreeMap<(u64, Term), u64>,
}

#[derive(Default)]
struct Log {
    unsynced: BTreeSet<(u64, Term)>,
    synced: BTreeSet<(u64, Term)>,
    cut_ms: Option<u64>,
}

impl Invariant for LostWrites {
    fn name(&self) -> &'static str {
        "only volatile writes that were not synced are lost"
    }

    fn see(&mut self, event: &Event, history: &History) -> Result<(), String> {
        match event {
            Event::Appended { member, term, index, .. } => {
                self.written_ms.entry((*index, *term)).or_insert(history.now_ms());
                self.logs.entry(*member).or_default().unsynced.insert((*index, *term));
            }
            Event::Synced { member } => {
                let log = self.logs.entry(*member).or_default();
                log.synced.append(&mut log.unsynced);
            }
            Event::Stopped { member, how, .. } if how.starts_with("power cut") => {
                let log = self.logs.entry(*member).or_default();
                log.unsynced.clear();
                log.cut_ms = Some(history.now_ms());
            }
            _ => {}
        }
        Ok(())
    }

    fn lose(&mut self, lost: &Lost, history: &History) -> Result<(), String> {
        let voters = history.voters_at(lost.from_index());
        for (index, entry) in &lost.entries {
            let id = (*index, entry.term);
            let what = format!("entry {index} of term {} was committed and is lost", entry.term);
            if !entry.volatile {
                return Err(format!("{what}, but it is not volatile"));
            }
            let has = |voter: &&NodeId| self.logs.get(*voter).is_some_and(|log| log.synced.contains(&id));
            if !voters.is_empty() && voters.iter().all(|set| set.iter().filter(has).count() > set.len() / 2) {
                return Err(format!("{what}, but a majority of {voters:?} had it on disk"));
            }
            let written_ms = self.written_ms.get(&id).copied().unwrap_or(0);
            if !self.logs.values().any(|log| log.cut_ms.is_some_and(|cut_ms| cut_ms >= written_ms)) {
                return Err(format!("{what}, but no machine has lost its power since it was written"));
            }
        }
        Ok(())
    }
}
