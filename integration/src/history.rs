//! What clients were told about writes, and what that forbids in the end; and how long they waited. Pure, so that it can be shown to notice
//! each fault. What reads may show meanwhile is judged by [`crate::linearizability`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It took effect.
    Done(T),
    /// 409, the name is taken.
    Exists(String),
    /// 409, the object is another one by now.
    Conflict(String),
    /// 404, it is not there.
    Missing(String),
    /// It did not take effect and never will.
    Refused(String),
    /// Nobody knows.
    Unknown(String),
}

impl<T> Answer<T> {
    /// Whether the client needs another connection: nobody decided about what it asked.
    pub fn undecided(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Unknown(_))
    }
}

/// Everything that the clients of a run were told about their writes.
#[derive(Debug, Default)]
pub struct History {
    /// When each client's writes were acknowledged.
    acknowledged: Vec<Vec<Instant>>,
    created: BTreeSet<String>,
    refused: BTreeMap<String, String>,
    unknown: usize,
    refusals: BTreeMap<String, usize>,
    violations: Vec<String>,
}

impl History {
    /// Nothing has happened yet.
    pub fn new(clients: usize) -> Self {
        Self { acknowledged: vec![Vec::new(); clients], ..Self::default() }
    }

    /// Notes the answer to a write.
    pub fn note<T>(&mut self, client: usize, answer: &Answer<T>, answered: Instant) {
        match answer {
            Answer::Done(_) => self.acknowledged[client].push(answered),
            Answer::Unknown(_) => self.unknown += 1,
            Answer::Refused(why) => *self.refusals.entry(why.clone()).or_default() += 1,
            Answer::Exists(_) | Answer::Conflict(_) | Answer::Missing(_) => {}
        }
    }

    /// Notes the answer to the creation of an object under a name that was sent exactly once.
    pub fn note_creation<T>(&mut self, client: usize, name: String, answer: &Answer<T>, answered: Instant) {
        self.note(client, answer, answered);
        match answer {
            Answer::Done(_) => drop(self.created.insert(name)),
            Answer::Refused(why) => drop(self.refused.insert(name, why.clone())),
            Answer::Exists(why) | Answer::Conflict(why) | Answer::Missing(why) => {
                self.violations.push(format!("client {client} sent the create of {name} once and was told: {why}"));
            }
            Answer::Unknown(_) => {}
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

    /// How many writes were acknowledged to the client that got the fewest since `since`.
    pub fn fewest_since(&self, since: Instant) -> usize {
        self.counts_since(since).min().unwrap_or(0)
    }

    /// The same for the client that got the most.
    pub fn most_since(&self, since: Instant) -> usize {
        self.counts_since(since).max().unwrap_or(0)
    }

    fn counts_since(&self, since: Instant) -> impl Iterator<Item = usize> {
        self.acknowledged.iter().map(move |times| times.iter().rev().take_while(|at| **at > since).count())
    }

    /// The longest time between two acknowledged writes of one client that overlaps `[from, to]`.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        self.gaps(from, to).into_iter().max().unwrap_or_default()
    }

    /// The same for each client.
    pub fn gaps(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let overlaps = |pair: &&[Instant]| pair[1] >= from && pair[0] <= to;
        let longest = |times: &Vec<Instant>| times.windows(2).filter(overlaps).map(|pair| pair[1] - pair[0]).max();
        self.acknowledged.iter().map(|times| longest(times).unwrap_or_default()).collect()
    }

    /// What should not have happened.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Names whose creation was acknowledged.
    pub fn created(&self) -> &BTreeSet<String> {
        &self.created
    }

    /// The run in one line.
    pub fn summary(&self) -> String {
        let acknowledged: usize = self.acknowledged.iter().map(Vec::len).sum();
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

    /// One creation of `a` with this answer, and what is stored in the end.
    fn check(answer: &Answer<()>, stored: &[&str], expected: Option<&str>) {
        let mut history = History::new(2);
        history.note_creation(0, "a".to_owned(), answer, now());
        history.found_names(&stored.iter().map(|name| (*name).to_owned()).collect());
        match expected {
            None => assert!(history.violations().is_empty(), "{:?}", history.violations()),
            Some(part) => assert!(history.violations().iter().any(|found| found.contains(part)), "{:?}", history.violations()),
        }
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_what_was_refused_must_not() {
        let refused = Answer::Refused("503".to_owned());
        let unknown = Answer::Unknown("lost".to_owned());
        check(&DONE, &["a", "b"], None);
        check(&DONE, &["b"], Some("a was acknowledged and is not there"));
        check(&refused, &["b"], None);
        check(&refused, &["a"], Some("was refused (503) and is there"));
        check(&unknown, &["a"], None);
        check(&unknown, &[], None);
        check(&Answer::Exists("already exists".to_owned()), &["a"], Some("sent the create of a once"));
    }

    #[test]
    fn gaps_are_those_of_one_client_around_a_moment() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut history = History::new(2);
        for (client, ms) in [(0, 0), (0, 10), (0, 500), (1, 100), (1, 300), (1, 900)] {
            history.note(client, &DONE, at(ms));
        }
        assert_eq!(history.longest_gap(at(0), at(90)), Duration::from_millis(490));
        assert_eq!(history.longest_gap(at(310), at(1000)), Duration::from_millis(600));
        assert_eq!(history.gaps(at(0), at(90)), [Duration::from_millis(490), Duration::ZERO]);
        assert_eq!((history.fewest_since(at(200)), history.most_since(at(200))), (1, 2));
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&sorted, percent).as_millis()), [100, 198, 200]);
    }
}
