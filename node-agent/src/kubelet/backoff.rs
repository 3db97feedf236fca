//! Waiting longer after each failure: crashed containers, failed pulls.

use std::collections::HashMap;
use std::hash::Hash;

use jiff::{SignedDuration, Timestamp};

/// How long the waits get.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// After the first failure.
    pub first: SignedDuration,
    /// Never longer than this.
    pub most: SignedDuration,
}

/// Crashed containers and pulls: 10 s, doubling, at most 5 minutes.
pub const KUBELET: Limits = Limits { first: SignedDuration::from_secs(10), most: SignedDuration::from_secs(300) };

/// What is remembered of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The present length.
    pub length: SignedDuration,
    /// When the failure was recorded.
    pub since: Timestamp,
}

/// Waits by key.
#[derive(Clone, Debug)]
pub struct Backoff<K> {
    limits: Limits,
    waits: HashMap<K, Wait>,
}

impl<K: Eq + Hash + Clone> Backoff<K> {
    /// Nothing has failed yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, waits: HashMap::new() }
    }

    /// Records a failure at `now` and says when to try again. A key that behaved for twice the longest wait starts afresh.
    pub fn failed(&mut self, key: K, now: Timestamp) -> Timestamp {
        let limits = self.limits;
        let wait = self
            .waits
            .entry(key)
            .and_modify(|wait| {
                let calm = now.duration_since(wait.since) > limits.most * 2;
                wait.length = if calm { limits.first } else { (wait.length * 2).min(limits.most) };
                wait.since = now;
            })
            .or_insert(Wait { length: limits.first, since: now });
        now + wait.length
    }

    /// The wait that still holds at `now`, if any, measured from `event` (for containers: when the last one finished).
    pub fn holds(&self, key: &K, event: Timestamp, now: Timestamp) -> Option<Wait> {
        self.waits.get(key).copied().filter(|wait| now < event + wait.length)
    }

    /// What is remembered of a key.
    pub fn get(&self, key: &K) -> Option<Wait> {
        self.waits.get(key).copied()
    }

    /// Forgets a key.
    pub fn succeeded(&mut self, key: &K) {
        self.waits.remove(key);
    }
}

/// A wait as users read it: `10s`, `1m20s`, `5m0s`.
pub fn print(length: SignedDuration) -> String {
    let seconds = length.as_secs();
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes_and_reset_after_calm() {
        let mut backoff = Backoff::new(KUBELET);
        let mut now = Timestamp::UNIX_EPOCH;
        let mut lengths = Vec::new();
        for _ in 0..7 {
            let next = backoff.failed("c", now);
            lengths.push(next.duration_since(now).as_secs());
            now = next;
        }
        assert_eq!(lengths, [10, 20, 40, 80, 160, 300, 300]);
        now += SignedDuration::from_secs(601);
        assert_eq!(backoff.failed("c", now).duration_since(now).as_secs(), 10);
    }

    #[test]
    fn a_wait_is_measured_from_the_event() {
        let mut backoff = Backoff::new(KUBELET);
        let start = Timestamp::UNIX_EPOCH;
        backoff.failed("c", start);
        assert!(backoff.holds(&"c", start, start + SignedDuration::from_secs(9)).is_some());
        assert!(backoff.holds(&"c", start, start + SignedDuration::from_secs(10)).is_none());
        backoff.succeeded(&"c");
        assert!(backoff.holds(&"c", start, start).is_none());
    }

    #[test]
    fn waits_read_as_people_write_them() {
        for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s")] {
            assert_eq!(print(SignedDuration::from_secs(seconds)), text);
        }
    }
}
