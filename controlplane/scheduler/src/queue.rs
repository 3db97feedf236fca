//! Pods that wait for a node: those to try now, those that back off, and those that wait for something to change.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::filters::Refusal;
use crate::pod::PodInfo;

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod is tried again after this time even if nothing seems to have changed.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// What happened that may let a waiting pod in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    /// A node came, or offers more or other things than before.
    Node,
    /// A pod left a node.
    PodLeft,
    /// A pod came to a node, or its labels changed.
    PodCame,
}

impl Hope {
    fn may_help(self, kinds: &[Refusal]) -> bool {
        // without a reason (an error, or no node at all) anything may help
        kinds.is_empty()
            || kinds.iter().any(|kind| match self {
                Self::Node => true,
                Self::PodLeft => kind.preemption_may_help(),
                Self::PodCame => matches!(kind, Refusal::Affinity | Refusal::Spread),
            })
    }
}

/// Sorted by priority, then by who came first.
type Order = (Reverse<i32>, u64, String);

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Active(Order),
    Backoff(Timestamp),
    Waiting {
        kinds: Vec<Refusal>,
        since: Timestamp,
    },
    Gated,
    /// Taken by the scheduler; hopes that arise meanwhile are kept.
    Trying {
        hopes: Vec<Hope>,
    },
}

struct Entry {
    pod: Arc<PodInfo>,
    arrival: u64,
    attempts: u32,
    tried_at: Timestamp,
    place: Place,
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeSet<Order>,
    backoff: BTreeSet<(Timestamp, String)>,
    arrivals: u64,
}

impl Queue {
    /// A pod without a node was created or changed.
    pub fn upsert(&mut self, pod: Arc<PodInfo>, now: Timestamp) {
        let uid = pod.id.uid.clone();
        let Some(entry) = self.entries.get_mut(&uid) else {
            self.arrivals += 1;
            let place = Place::Gated;
            self.entries.insert(uid.clone(), Entry { pod, arrival: self.arrivals, attempts: 0, tried_at: now, place });
            self.activate(&uid);
            return;
        };
        let worth_a_try = changes_chances(&entry.pod, &pod);
        entry.pod = pod;
        match &mut entry.place {
            // its priority is part of the order
            Place::Active(_) | Place::Gated => self.activate(&uid),
            Place::Waiting { .. } if worth_a_try => self.retry(&uid, now),
            Place::Trying { hopes } if worth_a_try => hopes.push(Hope::Node),
            _ => {}
        }
    }

    /// A pod has a node, or is gone.
    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.entries.remove(uid);
    }

    /// The next pod to try, with the number of tries before. [`Queue::refused`], [`Queue::failed`] or [`Queue::remove`] follows.
    pub fn pop(&mut self, now: Timestamp) -> Option<(Arc<PodInfo>, u32)> {
        self.wake_due(now);
        let (_, _, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::Trying { hopes: Vec::new() };
        entry.attempts += 1;
        entry.tried_at = now;
        Some((Arc::clone(&entry.pod), entry.attempts - 1))
    }

    /// No node could take the pod: it waits for a change.
    pub fn refused(&mut self, uid: &str, kinds: Vec<Refusal>, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let Place::Trying { hopes } = &entry.place else { return };
        let hope = hopes.iter().any(|hope| hope.may_help(&kinds));
        entry.place = Place::Waiting { kinds, since: now };
        if hope {
            self.retry(uid, now);
        }
    }

    /// Something went wrong on the way: try again after a while.
    pub fn failed(&mut self, uid: &str, now: Timestamp) {
        if self.entries.get(uid).is_some_and(|entry| matches!(entry.place, Place::Trying { .. })) {
            self.retry(uid, now);
        }
    }

    /// Something happened: whoever it may help is tried again.
    pub fn hope(&mut self, hope: Hope, now: Timestamp) {
        let mut helped = Vec::new();
        for (uid, entry) in &mut self.entries {
            match &mut entry.place {
                Place::Waiting { kinds, .. } if hope.may_help(kinds) => helped.push(uid.clone()),
                Place::Trying { hopes } if !hopes.contains(&hope) => hopes.push(hope),
                _ => {}
            }
        }
        for uid in helped {
            self.retry(&uid, now);
        }
    }

    /// When a pod is due that nothing else wakes.
    pub fn next_due(&self) -> Option<Timestamp> {
        let forgotten = self.entries.values().filter_map(|entry| match &entry.place {
            Place::Waiting { since, .. } => since.saturating_add(FORGOTTEN).ok(),
            _ => None,
        });
        self.backoff.first().map(|(at, _)| *at).into_iter().chain(forgotten).min()
    }

    /// Whether a pod can be tried now.
    pub fn is_ready(&self) -> bool {
        !self.active.is_empty()
    }

    /// How many pods wait, gated ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Moves to the active ones what has waited long enough.
    pub fn wake_due(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.backoff.first()
            && *at <= now
            && let Some((_, uid)) = self.backoff.pop_first()
        {
            self.activate(&uid);
        }
        let is_forgotten = |entry: &Entry| matches!(&entry.place, Place::Waiting { since, .. } if since.saturating_add(FORGOTTEN).is_ok_and(|at| at <= now));
        if self.active.is_empty() {
            let forgotten: Vec<String> = self.entries.iter().filter(|(_, entry)| is_forgotten(entry)).map(|(uid, _)| uid.clone()).collect();
            for uid in forgotten {
                self.activate(&uid);
            }
        }
    }

    fn leave(&mut self, uid: &str) {
        let Some(entry) = self.entries.get(uid) else { return };
        match &entry.place {
            Place::Active(order) => {
                self.active.remove(order);
            }
            Place::Backoff(at) => {
                self.backoff.remove(&(*at, uid.to_owned()));
            }
            _ => {}
        }
    }

    fn activate(&mut self, uid: &str) {
        self.leave(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.pod.gated {
            entry.place = Place::Gated;
            return;
        }
        let order = (Reverse(entry.pod.priority), entry.arrival, uid.to_owned());
        entry.place = Place::Active(order.clone());
        self.active.insert(order);
    }

    /// Active at once if its back-off is over already.
    fn retry(&mut self, uid: &str, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let delay = BACKOFF_FIRST.saturating_mul(1 << entry.attempts.saturating_sub(1).min(10)).min(BACKOFF_MAX);
        let at = entry.tried_at.saturating_add(delay).unwrap_or(now);
        if at <= now {
            self.activate(uid);
        } else {
            entry.place = Place::Backoff(at);
            self.backoff.insert((at, uid.to_owned()));
        }
    }
}

/// Whether a change of the pod itself may let it in.
fn changes_chances(old: &PodInfo, new: &PodInfo) -> bool {
    old.gated != new.gated
        || old.labels != new.labels
        || old.request != new.request
        || old.tolerations != new.tolerations
        || old.node_selector != new.node_selector
        || old.node_required != new.node_required
}
