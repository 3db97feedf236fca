//! What clients were told, and what that forbids: the checker of [`crate::load`]. Pure, so that it can be shown to notice each fault.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// An answer to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It took effect.
    Done(T),
    /// 409, the name is taken.
    Exists(String),
    /// 409, the object is another one by now.
    Conflict(String),
    /// It did not take effect and never will.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

impl<T> Answer<T> {
    /// Whether the client has to begin again.
    pub fn failed(&self) -> bool {
        !matches!(self, Self::Done(_))
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A new object under a name that was sent once.
    Create {
        /// Its name.
        name: String,
    },
    /// The client's own counter.
    Own {
        /// Its value.
        value: u64,
    },
    /// The counter that all clients share.
    Shared {
        /// Its value.
        total: u64,
        /// The client's part of it.
        value: u64,
    },
}

/// What one client knows of a counter that only it changes.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    known: u64,
    /// A write of unknown outcome is on its way: it may take effect at any time, until a later one was acknowledged. As each names the
    /// version that it was decided on, no more than one of several can.
    in_limbo: bool,
}

impl Counter {
    fn acknowledged(&mut self, value: u64) {
        *self = Self { known: value, in_limbo: false };
    }

    /// Whether a read may show `found`; what is known then.
    fn shows(&mut self, found: u64) -> bool {
        if self.in_limbo && found == self.known + 1 {
            self.acknowledged(found);
        }
        found == self.known
    }
}

#[derive(Debug, Default)]
struct Client {
    own: Counter,
    shared: Counter,
    acknowledged: Vec<Instant>,
}

/// Everything that the clients of a run were told.
#[derive(Debug, Default)]
pub struct History {
    clients: Vec<Client>,
    created: BTreeSet<String>,
    refused: BTreeMap<String, String>,
    total: u64,
    unknown: usize,
    refusals: BTreeMap<String, usize>,
    violations: Vec<String>,
}

impl History {
    /// Nothing has happened yet.
    pub fn new(clients: usize) -> Self {
        Self { clients: (0..clients).map(|_| Client::default()).collect(), ..Self::default() }
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Notes an answer.
    pub fn record<T>(&mut self, id: usize, write: Write, answer: &Answer<T>, answered: Instant) {
        match answer {
            Answer::Done(_) => self.clients[id].acknowledged.push(answered),
            Answer::Unknown(_) => self.unknown += 1,
            Answer::Refused(why) => *self.refusals.entry(why.clone()).or_default() += 1,
            Answer::Exists(_) | Answer::Conflict(_) => {}
        }
        let client = &mut self.clients[id];
        match (write, answer) {
            (Write::Create { name }, Answer::Done(_)) => drop(self.created.insert(name)),
            (Write::Create { name }, Answer::Refused(why)) => drop(self.refused.insert(name, why.clone())),
            (Write::Create { name }, Answer::Exists(why) | Answer::Conflict(why)) => {
                self.violations.push(format!("client {id} sent the create of {name} once and was told: {why}"));
            }
            (Write::Own { value }, Answer::Done(_)) => client.own.acknowledged(value),
            (Write::Own { .. }, Answer::Unknown(_)) => client.own.in_limbo = true,
            (Write::Own { .. }, Answer::Conflict(_)) if client.own.in_limbo => {}
            (Write::Own { value }, Answer::Exists(why) | Answer::Conflict(why)) => {
                self.violations.push(format!("client {id} is alone on its object, wrote {value} once and was told: {why}"));
            }
            (Write::Shared { total, value }, Answer::Done(_)) => {
                client.shared.acknowledged(value);
                self.total = self.total.max(total);
            }
            (Write::Shared { .. }, Answer::Unknown(_)) => client.shared.in_limbo = true,
            // others write it, too
            (Write::Shared { .. }, Answer::Exists(_) | Answer::Conflict(_)) => {}
            (Write::Create { .. }, Answer::Unknown(_)) | (Write::Own { .. } | Write::Shared { .. }, Answer::Refused(_)) => {}
        }
    }

    /// The highest total that anybody was told; a read that begins now must not show less.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// A read of the shared counter that began when `floor` was the total.
    pub fn found_total(&mut self, floor: u64, found: u64) {
        if found < floor {
            self.violations.push(format!("a read showed the total {found} after {floor} was acknowledged"));
        }
    }

    /// A client has read its own counter.
    pub fn found_own(&mut self, id: usize, found: u64) {
        let counter = &mut self.clients[id].own;
        if !counter.shows(found) {
            self.violations.push(format!("the counter of client {id} is {found} after {counter:?}"));
        }
    }

    /// A client has read its part of the shared counter.
    pub fn found_shared(&mut self, id: usize, found: u64) {
        let counter = &mut self.clients[id].shared;
        if !counter.shows(found) {
            self.violations.push(format!("the part of client {id} in the shared counter is {found} after {counter:?}"));
        }
    }

    /// All names that are stored in the end.
    pub fn found_names(&mut self, names: &BTreeSet<String>) {
        for lost in self.created.difference(names) {
            self.violations.push(format!("{lost} was acknowledged and is not there"));
        }
        for (name, why) in &self.refused {
            if names.contains(name) {
                self.violations.push(format!("{name} was refused ({why}) and is there"));
            }
        }
    }

    /// A client's counters in the end; `None`: the object is gone.
    pub fn ended_with(&mut self, id: usize, own: Option<u64>, shared: Option<u64>) {
        match (own, shared) {
            (Some(own), Some(shared)) => {
                self.found_own(id, own);
                self.found_shared(id, shared);
            }
            _ => self.violations.push(format!("a counter of client {id} is gone")),
        }
    }

    /// The shared total in the end; the clients' parts are known by then.
    pub fn ended_with_total(&mut self, total: Option<u64>) {
        let parts: u64 = self.clients.iter().map(|client| client.shared.known).sum();
        if total != Some(parts) {
            self.violations.push(format!("the shared total is {total:?}, its parts make {parts}"));
        }
    }

    /// How many writes were acknowledged to the client that got the fewest since `since`.
    pub fn acknowledged_since(&self, since: Instant) -> usize {
        let counts = self.clients.iter().map(|client| client.acknowledged.iter().rev().take_while(|at| **at > since).count());
        counts.min().unwrap_or(0)
    }

    /// The longest time between two acknowledged writes of one client that overlaps `[from, to]`.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let gaps = self.clients.iter().flat_map(|client| client.acknowledged.windows(2));
        gaps.filter(|pair| pair[1] >= from && pair[0] <= to).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// What should not have happened.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Names that were acknowledged.
    pub fn created(&self) -> &BTreeSet<String> {
        &self.created
    }

    /// The run in one line.
    pub fn summary(&self) -> String {
        let acknowledged: usize = self.clients.iter().map(|client| client.acknowledged.len()).sum();
        let refused: usize = self.refusals.values().sum();
        let mut text = format!("{acknowledged} writes acknowledged, {} of unknown outcome, {refused} refused", self.unknown);
        for (why, count) in self.refusals.iter().take(3) {
            text.push_str(&format!("; {count} x {why}"));
        }
        text
    }
}

/// The value below which `percent` of the sorted values lie.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).or_else(|| sorted.last()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::now;

    const DONE: Answer<()> = Answer::Done(());

    fn unknown() -> Answer<()> {
        Answer::Unknown("lost".to_owned())
    }

    fn check(run: impl FnOnce(&mut History), expected: Option<&str>) {
        let mut history = History::new(2);
        run(&mut history);
        match expected {
            None => assert!(history.violations().is_empty(), "{:?}", history.violations()),
            Some(part) => assert!(history.violations().iter().any(|found| found.contains(part)), "{:?}", history.violations()),
        }
    }

    fn create(history: &mut History, name: &str, answer: &Answer<()>) {
        history.record(0, Write::Create { name: name.to_owned() }, answer, now());
    }

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_what_was_refused_must_not() {
        check(
            |history| {
                create(history, "a", &DONE);
                create(history, "b", &unknown());
                history.found_names(&names(&["a", "b"]));
            },
            None,
        );
        check(
            |history| {
                create(history, "a", &DONE);
                history.found_names(&names(&[]));
            },
            Some("a was acknowledged and is not there"),
        );
        check(
            |history| {
                create(history, "a", &Answer::Refused("503".to_owned()));
                history.found_names(&names(&["a"]));
            },
            Some("was refused (503) and is there"),
        );
        check(|history| create(history, "a", &Answer::Exists("already exists".to_owned())), Some("sent the create of a once"));
    }

    #[test]
    fn a_write_counts_once_or_not_at_all() {
        let own = |history: &mut History, value, answer: &Answer<()>| history.record(1, Write::Own { value }, answer, now());
        for (found, expected) in [(1, None), (2, None), (0, Some("is 0 after")), (3, Some("is 3 after"))] {
            check(
                |history| {
                    own(history, 1, &DONE);
                    own(history, 2, &unknown());
                    history.found_own(1, found);
                },
                expected,
            );
        }
        let conflict = Answer::Conflict("modified".to_owned());
        check(|history| own(history, 1, &conflict), Some("is alone on its object"));
        // a write that nobody knew of may come late, but not after the next was acknowledged
        check(
            |history| {
                own(history, 1, &unknown());
                history.found_own(1, 0);
                own(history, 1, &conflict);
                history.found_own(1, 1);
            },
            None,
        );
        check(
            |history| {
                own(history, 1, &unknown());
                own(history, 1, &DONE);
                history.found_own(1, 2);
            },
            Some("is 2 after"),
        );
    }

    #[test]
    fn a_total_never_goes_back_and_is_the_sum_of_its_parts() {
        let shared = |history: &mut History, id, total| history.record(id, Write::Shared { total, value: 1 }, &DONE, now());
        check(
            |history| {
                shared(history, 0, 1);
                shared(history, 1, 2);
                history.found_total(history.total(), 2);
                history.ended_with(0, Some(0), Some(1));
                history.ended_with(1, Some(0), Some(1));
                history.ended_with_total(Some(2));
            },
            None,
        );
        check(
            |history| {
                shared(history, 0, 1);
                history.found_total(history.total(), 0);
            },
            Some("showed the total 0 after 1"),
        );
        check(
            |history| {
                shared(history, 0, 1);
                history.ended_with_total(Some(2));
            },
            Some("its parts make 1"),
        );
    }

    #[test]
    fn gaps_are_those_of_one_client_around_a_moment() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut history = History::new(2);
        for (client, ms) in [(0, 0), (0, 10), (0, 500), (1, 100), (1, 300), (1, 900)] {
            history.record(client, Write::Own { value: 1 }, &DONE, at(ms));
        }
        assert_eq!(history.longest_gap(at(0), at(90)), Duration::from_millis(490));
        assert_eq!(history.longest_gap(at(310), at(1000)), Duration::from_millis(600));
        assert_eq!(history.acknowledged_since(at(200)), 1);
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&sorted, percent).as_millis()), [100, 198, 200]);
    }
}
