//! Which keys to look at, and when: deduplicated, delayed, backed off. Pure: the time is an argument.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use trierarch_api::ObjectKey;

const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A queue in which a key waits at most once and is never worked on twice at the same time.
#[derive(Default)]
pub struct WorkQueue {
    ready: VecDeque<ObjectKey>,
    /// Keys that wait in `ready`, or that became dirty while they were worked on.
    dirty: HashSet<ObjectKey>,
    busy: HashSet<ObjectKey>,
    later: BTreeSet<(Timestamp, ObjectKey)>,
    due: HashMap<ObjectKey, Timestamp>,
    failures: HashMap<ObjectKey, u32>,
}

impl WorkQueue {
    /// Look at this key as soon as possible.
    pub fn add(&mut self, key: ObjectKey) {
        if self.dirty.insert(key.clone()) && !self.busy.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// Look at this key at a time, or earlier if that was asked for before.
    pub fn add_at(&mut self, key: ObjectKey, at: Timestamp) {
        match self.due.get(&key) {
            Some(before) if *before <= at => return,
            Some(before) => {
                self.later.remove(&(*before, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.later.insert((at, key));
    }

    /// Look at this key after a delay that doubles with each failure in a row.
    pub fn add_backed_off(&mut self, key: ObjectKey, now: Timestamp) {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = BACKOFF_FIRST.saturating_mul(1_u32 << (*failures).min(20)).min(BACKOFF_MAX);
        *failures = failures.saturating_add(1);
        self.add_at(key, now.saturating_add(delay).unwrap_or(now));
    }

    /// How often this key has failed in a row.
    pub fn failures(&self, key: &ObjectKey) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    /// Forgets a key's failures.
    pub fn succeeded(&mut self, key: &ObjectKey) {
        self.failures.remove(key);
    }

    /// The next key to work on. The caller says [`WorkQueue::done`] afterwards.
    pub fn take(&mut self, now: Timestamp) -> Option<ObjectKey> {
        while let Some((at, _)) = self.later.first()
            && *at <= now
            && let Some((_, key)) = self.later.pop_first()
        {
            self.due.remove(&key);
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    /// The work on a key has ended.
    pub fn done(&mut self, key: &ObjectKey) {
        self.busy.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
    }

    /// When the next delayed key is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Whether nothing waits, is delayed or worked on.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.busy.is_empty() && self.later.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trierarch_api::GroupResource;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(GroupResource::new("", "pods"), "default", name)
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn a_key_waits_once_and_is_not_worked_on_twice() {
        let mut queue = WorkQueue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.take(at(0)), Some(key("a")));
        queue.add(key("a"));
        assert_eq!(queue.take(at(0)), None, "it is being worked on");
        queue.done(&key("a"));
        assert_eq!(queue.take(at(0)), Some(key("a")), "it became dirty meanwhile");
        queue.done(&key("a"));
        assert_eq!(queue.take(at(0)), None);
        assert!(queue.is_idle());
    }

    #[test]
    fn the_earliest_delay_wins() {
        let mut queue = WorkQueue::default();
        queue.add_at(key("a"), at(100));
        queue.add_at(key("a"), at(50));
        queue.add_at(key("a"), at(200));
        assert_eq!(queue.next_due(), Some(at(50)));
        assert_eq!(queue.take(at(49)), None);
        assert_eq!(queue.take(at(50)), Some(key("a")));
        queue.done(&key("a"));
        assert!(queue.is_idle());
    }

    #[test]
    fn delays_double_until_success() {
        let mut queue = WorkQueue::default();
        for expected in [5, 10, 20, 40] {
            queue.add_backed_off(key("a"), at(0));
            assert_eq!(queue.next_due(), Some(at(expected)));
            queue.take(at(expected));
            queue.done(&key("a"));
        }
        queue.succeeded(&key("a"));
        queue.add_backed_off(key("a"), at(0));
        assert_eq!(queue.next_due(), Some(at(5)));
    }
}
