//! What members tell, gathered with the time at which it was told.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use trierarch_lab::recording::{Sight, Standing};
use trierarch_raft::NodeId;
use trierarch_raft::happenings::Happening;

use crate::member::Member;

/// The listeners of all members that run.
#[derive(Default)]
pub(super) struct Listeners {
    told: BTreeMap<NodeId, Arc<Mutex<Vec<Happening>>>>,
    standings: BTreeMap<NodeId, Standing>,
    heard: Vec<Sight>,
}

impl Listeners {
    /// Listens to a member for as long as it runs.
    pub(super) fn listen(&mut self, member: &Member) {
        let Some(store) = member.store() else { return };
        let told = Arc::new(Mutex::new(Vec::new()));
        let (ear, store) = (Arc::clone(&told), store.clone());
        member.spawn(async move {
            let mut happenings = store.happenings();
            drop(store);
            while let Some(happening) = happenings.recv().await {
                ear.lock().push(happening);
            }
        });
        self.told.insert(member.id(), told);
    }

    /// A member is gone.
    pub(super) fn forget(&mut self, member: NodeId) {
        self.told.remove(&member);
        if let Some(standing) = self.standings.get_mut(&member) {
            "down".clone_into(&mut standing.role);
        }
    }

    /// Takes what was told since the last time.
    pub(super) fn take(&mut self, now_ms: u64) {
        for (member, told) in &self.told {
            for happening in std::mem::take(&mut *told.lock()) {
                self.standings.entry(*member).or_insert_with(Standing::unknown).see(happening.term, &happening.event);
                self.heard.push(Sight { at_ms: now_ms, member: *member, term: happening.term, event: happening.event });
            }
        }
    }

    /// What was told since the last call.
    pub(super) fn heard(&mut self) -> Vec<Sight> {
        std::mem::take(&mut self.heard)
    }

    /// How members stand.
    pub(super) fn standings(&self) -> BTreeMap<NodeId, Standing> {
        self.standings.clone()
    }

    /// All of them have told how they stand, and one leads.
    pub(super) fn all_know(&self) -> bool {
        let leaders = self.standings.values().filter(|standing| standing.role == "leader").count();
        leaders == 1 && self.told.keys().all(|member| self.standings.contains_key(member))
    }
}
