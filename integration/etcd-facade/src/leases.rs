//! When leases end: every member watches their records and notes when each was granted or renewed last, by its own clock; a new leader gives
//! all of them their whole time again. Pure but for a lock.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The deadlines, by lease.
#[derive(Default)]
pub struct Leases {
    known: Mutex<HashMap<i64, Lease>>,
}

#[derive(Clone, Copy)]
struct Lease {
    granted: Duration,
    ends: Instant,
}

impl Leases {
    /// It was granted or renewed.
    pub fn renewed(&self, id: i64, granted: Duration, now: Instant) {
        self.lock().insert(id, Lease { granted, ends: now + granted });
    }

    /// It has ended.
    pub fn ended(&self, id: i64) {
        self.lock().remove(&id);
    }

    /// All get their whole time again.
    pub fn restart(&self, now: Instant) {
        self.lock().values_mut().for_each(|lease| lease.ends = now + lease.granted);
    }

    /// For how long it was granted, and how much of that is left.
    pub fn left(&self, id: i64, now: Instant) -> Option<(Duration, Duration)> {
        self.lock().get(&id).map(|lease| (lease.granted, lease.ends.saturating_duration_since(now)))
    }

    /// Those whose time is over.
    pub fn overdue(&self, now: Instant) -> Vec<i64> {
        let mut ids: Vec<i64> = self.lock().iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// When the next one ends.
    pub fn next_end(&self) -> Option<Instant> {
        self.lock().values().map(|lease| lease.ends).min()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Lease>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_lease_ends_unless_it_is_renewed() {
        let (leases, start) = (Leases::default(), clock::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        leases.renewed(1, Duration::from_secs(10), start);
        leases.renewed(2, Duration::from_secs(20), start);
        assert_eq!((leases.next_end(), leases.overdue(at(9))), (Some(at(10)), vec![]));
        assert_eq!(leases.overdue(at(10)), [1]);
        leases.renewed(1, Duration::from_secs(10), at(9));
        assert_eq!(leases.overdue(at(18)), []);
        assert_eq!(leases.left(1, at(15)), Some((Duration::from_secs(10), Duration::from_secs(4))));
        leases.restart(at(18));
        assert_eq!(leases.overdue(at(27)), []);
        leases.ended(1);
        assert_eq!(leases.overdue(at(60)), [2]);
        assert_eq!(leases.left(1, at(60)), None);
    }
}
