//! The file: a group, a load, what goes wrong and when, and what is predicted.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use trierarch_raft::experiment::{Direction, FOR_MS_MAX, FaultKind, Timers, TimersChange};

use crate::measure::Measure;
use crate::span::Span;
use crate::target::{self, Target};

/// An experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Experiment {
    /// What it shows, in a few words.
    pub title: String,
    /// What it asks, in a sentence or two.
    #[serde(default)]
    pub question: String,
    /// How many members: 1, 3 or 5.
    pub members: u64,
    /// The members' timers; what is left out is as in any cluster.
    #[serde(default)]
    pub timers: TimersChange,
    /// A snapshot is taken, and the log before it purged, after so many entries.
    #[serde(default)]
    pub snapshot_after_entries: Option<u64>,
    /// Who writes meanwhile.
    #[serde(default)]
    pub load: Load,
    /// How often the timeline is carried out.
    #[serde(default = "once")]
    pub repetitions: u32,
    /// How long one repetition is watched.
    pub duration: Span,
    /// What is done, one step after the other.
    pub timeline: Vec<Step>,
    /// What the report's table shows; everything if left out.
    #[serde(default)]
    pub measure: Vec<Measure>,
    /// What is predicted.
    #[serde(default)]
    pub expect: Vec<Expectation>,
}

fn once() -> u32 {
    1
}

/// Clients, each of which writes one thing after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Load {
    /// How many.
    pub clients: u32,
    /// Writes a second that each of them aims for.
    pub rate: u32,
    /// Bytes of each write.
    pub size: u32,
    /// How long each waits for an answer.
    pub patience: Span,
    /// A client stays with its member, whatever that answers; otherwise it goes to the next one after an error.
    pub stay: bool,
}

impl Default for Load {
    fn default() -> Self {
        Self { clients: 3, rate: 50, size: 128, patience: Span { ms: 1000 }, stay: false }
    }
}

/// A step of the timeline. It is due at a time, or after an event, and never before the step above it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// What predictions and the report call it.
    #[serde(default)]
    pub name: Option<String>,
    /// Due so long after the beginning.
    #[serde(default)]
    pub at: Option<Span>,
    /// Due when this happens after the step before.
    #[serde(default)]
    pub on: Option<Trigger>,
    /// Due so long after `on`, or after the step before.
    #[serde(default)]
    pub after: Option<Span>,
    /// What is done.
    #[serde(rename = "do")]
    pub verb: Verb,
    /// To whom.
    #[serde(default)]
    pub target: Option<Target>,
    /// `transfer`: who shall lead.
    #[serde(default)]
    pub to: Option<Target>,
    /// What the target is called from now on.
    #[serde(default, rename = "as")]
    pub called: Option<String>,
    /// `fault`: which.
    #[serde(default)]
    pub fault: Option<FaultWish>,
    /// `timers`: which.
    #[serde(default)]
    pub timers: Option<TimersChange>,
    /// `fault`, `partition`, `timers`: how long, if not until `clear` or `heal`.
    #[serde(default, rename = "for")]
    pub lasting: Option<Span>,
}

/// What is done in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// The process is killed.
    Kill,
    /// A killed process is started again.
    Restart,
    /// The process is stopped where it is.
    Stop,
    /// A stopped process goes on.
    Continue,
    /// The leader hands over.
    Transfer,
    /// A member begins an election.
    Campaign,
    /// A fault of the network or the disk begins.
    Fault,
    /// A member's faults end.
    Clear,
    /// The targets are cut off from all others, in both directions.
    Partition,
    /// All faults end.
    Heal,
    /// A member gets other timers.
    Timers,
    /// Nothing is done: the moment has a name.
    Mark,
}

/// What a step may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// A member has won an election.
    LeaderElected,
    /// A follower hears nothing of its leader, or a leader nothing of a follower.
    HeartbeatMissed,
    /// A member stands for election.
    Candidacy,
    /// All running members hold what is committed.
    CaughtUp,
}

/// A fault as a step describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultWish {
    /// Of which kind.
    pub kind: FaultKind,
    /// Traffic with this member only.
    #[serde(default)]
    pub peer: Option<Target>,
    /// Which way; both if left out.
    #[serde(default)]
    pub direction: Option<Direction>,
    /// How likely for each frame: `drop`, `duplicate`, `reorder`.
    #[serde(default)]
    pub probability: Option<f64>,
    /// How long: `delay`, `reorder`, `slowSync`.
    #[serde(default)]
    pub delay_ms: Option<u64>,
    /// By how much that varies.
    #[serde(default)]
    pub jitter_ms: Option<u64>,
}

/// A prediction: of a measure, in every repetition or of its distribution over all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expectation {
    /// Of what.
    pub measure: Measure,
    /// Counted from this step on.
    #[serde(default)]
    pub since: Option<String>,
    /// Counted until this step.
    #[serde(default)]
    pub until: Option<String>,
    /// Of the distribution over all repetitions; if left out, it must hold in each.
    #[serde(default)]
    pub of: Option<Statistic>,
    /// No less.
    #[serde(default)]
    pub at_least: Option<u64>,
    /// No more.
    #[serde(default)]
    pub at_most: Option<u64>,
    /// `leader`: one of these.
    #[serde(default)]
    pub one_of: Vec<String>,
    /// `leader`: none of these.
    #[serde(default)]
    pub none_of: Vec<String>,
    /// Why it is predicted.
    pub because: String,
}

/// A figure of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistic {
    /// The least.
    Min,
    /// Half are no more.
    P50,
    /// 99 in a hundred are no more.
    P99,
    /// The most.
    Max,
}

/// A file that is no experiment, with the path of what is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(String);

/// The timers of a cluster that nobody experiments with.
const USUAL: Timers = Timers { heartbeat_ms: 100, election_min_ms: 150, election_max_ms: 300, pre_vote: true };

/// The timers that a change makes of others.
fn changed(change: TimersChange, from: Timers) -> Timers {
    Timers {
        heartbeat_ms: change.heartbeat_ms.unwrap_or(from.heartbeat_ms),
        election_min_ms: change.election_min_ms.unwrap_or(from.election_min_ms),
        election_max_ms: change.election_max_ms.unwrap_or(from.election_max_ms),
        pre_vote: change.pre_vote.unwrap_or(from.pre_vote),
    }
}

impl Experiment {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`FormatError`] with the path of the first thing that is wrong.
    pub fn read(text: &str) -> Result<Self, FormatError> {
        let experiment: Self = serde_yaml::from_str(text).map_err(|error| FormatError(error.to_string()))?;
        experiment.check()?;
        Ok(experiment)
    }

    /// The members' timers.
    pub fn timers(&self) -> Timers {
        changed(self.timers, USUAL)
    }

    /// The position of the step with this name.
    pub fn step(&self, name: &str) -> Option<usize> {
        self.timeline.iter().position(|step| step.name.as_deref() == Some(name))
    }

    fn check(&self) -> Result<(), FormatError> {
        let wrong = |path: &str, what: String| Err(FormatError(format!("{path}: {what}")));
        if ![1, 3, 5].contains(&self.members) {
            return wrong("members", format!("{}: use 1, 3 or 5", self.members));
        }
        if self.repetitions == 0 || self.duration.ms == 0 || self.duration.ms > FOR_MS_MAX {
            return wrong("repetitions, duration", "at least one repetition, of 1ms to 600s".to_owned());
        }
        check_timers("timers", self.timers())?;
        if self.load.clients > 0 && !(1..=1000).contains(&self.load.rate) {
            return wrong("load.rate", format!("{}: use 1 to 1000 writes a second", self.load.rate));
        }
        let mut names = BTreeSet::new();
        for (index, step) in self.timeline.iter().enumerate() {
            let path = format!("timeline[{index}]");
            step.check(&path, self, &names)?;
            names.extend(step.called.as_deref());
        }
        for (index, expectation) in self.expect.iter().enumerate() {
            expectation.check(&format!("expect[{index}]"), self, &names)?;
        }
        Ok(())
    }
}

fn check_timers(path: &str, timers: Timers) -> Result<(), FormatError> {
    let Timers { heartbeat_ms, election_min_ms, election_max_ms, .. } = timers;
    if heartbeat_ms > 0 && heartbeat_ms < election_min_ms && election_min_ms < election_max_ms {
        return Ok(());
    }
    Err(FormatError(format!(
        "{path}: heartbeatMs {heartbeat_ms}, electionMinMs {election_min_ms} and electionMaxMs {election_max_ms} must grow in this order"
    )))
}

impl Step {
    fn check(&self, path: &str, experiment: &Experiment, names: &BTreeSet<&str>) -> Result<(), FormatError> {
        let wrong = |field: &str, what: &str| Err(FormatError(format!("{path}.{field}: {what}")));
        match (self.at, self.on, self.after) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => return wrong("at", "a step is due at a time, or after something, not both"),
            (None, None, None) => return wrong("at", "missing: say when, with `at`, `on` or `after`"),
            (Some(at), ..) if at > experiment.duration => return wrong("at", "later than the experiment's `duration`"),
            _ => {}
        }
        let aimed = !matches!(self.verb, Verb::Heal | Verb::Transfer | Verb::Mark);
        if aimed && self.target.is_none() {
            return wrong("target", "missing: say to whom this is done");
        }
        if matches!(self.verb, Verb::Fault) != self.fault.is_some() {
            return wrong("fault", "belongs to `do: fault`, and to nothing else");
        }
        if matches!(self.verb, Verb::Timers) != self.timers.is_some() {
            return wrong("timers", "belongs to `do: timers`, and to nothing else");
        }
        if self.to.is_some() && self.verb != Verb::Transfer {
            return wrong("to", "belongs to `do: transfer`, and to nothing else");
        }
        if self.lasting.is_some() && !matches!(self.verb, Verb::Fault | Verb::Partition | Verb::Timers) {
            return wrong("for", "belongs to `do: fault`, `partition` and `timers`, and to nothing else");
        }
        if let Some(change) = self.timers {
            check_timers(&format!("{path}.timers"), changed(change, experiment.timers()))?;
            if change.for_ms != 0 {
                return wrong("timers.forMs", "say `for` beside `timers`");
            }
        }
        let peer = self.fault.as_ref().and_then(|fault| fault.peer.as_ref());
        for (field, target) in [("target", self.target.as_ref()), ("to", self.to.as_ref()), ("fault.peer", peer)] {
            let problem =
                target.and_then(|target| target.words().into_iter().find_map(|word| target::problem(word, experiment.members, names)));
            if let Some(problem) = problem {
                return wrong(field, &problem);
            }
        }
        match self.called.as_deref().and_then(target::name_problem) {
            Some(problem) => wrong("as", &problem),
            None => Ok(()),
        }
    }
}

impl Expectation {
    fn check(&self, path: &str, experiment: &Experiment, names: &BTreeSet<&str>) -> Result<(), FormatError> {
        let wrong = |field: &str, what: String| Err(FormatError(format!("{path}.{field}: {what}")));
        for (field, step) in [("since", &self.since), ("until", &self.until)] {
            if let Some(step) = step.as_deref().filter(|step| experiment.step(step).is_none()) {
                return wrong(field, format!("no step has the name {step:?}"));
            }
        }
        let about_leader = self.measure == Measure::Leader;
        let (bounded, listed) = (self.at_least.is_some() || self.at_most.is_some(), !self.one_of.is_empty() || !self.none_of.is_empty());
        if about_leader && (bounded || !listed || self.of.is_some()) {
            return wrong("measure", "a prediction of the leader needs `oneOf` or `noneOf`, and no bounds".to_owned());
        }
        if !about_leader && (!bounded || listed) {
            return wrong("measure", "a prediction of a number needs `atLeast` or `atMost`, and no names".to_owned());
        }
        let words = self.one_of.iter().chain(&self.none_of);
        match words.into_iter().find_map(|word| target::problem(word, experiment.members, names)) {
            Some(problem) => wrong("oneOf, noneOf", problem),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRASH: &str = "
title: A leader dies
members: 3
duration: 6s
repetitions: 5
timeline:
  - {name: crash, at: 2s, do: kill, target: leader, as: victim}
  - {on: leader-elected, after: 1s, do: restart, target: victim}
expect:
  - {measure: leaderChanges, atLeast: 1, atMost: 1, because: one election is enough}
  - {measure: writeGapMs, of: p99, atMost: 1000, because: it is replaced after 450 to 600 ms}
  - {measure: leader, since: crash, noneOf: [victim], because: it is dead}
";

    #[test]
    fn an_experiment_is_read_with_what_is_usual() {
        let experiment = Experiment::read(CRASH).unwrap();
        assert_eq!((experiment.timers(), experiment.load), (USUAL, Load::default()));
        assert_eq!(experiment.step("crash"), Some(0));
        assert_eq!(experiment.timeline[1].on, Some(Trigger::LeaderElected));
        assert_eq!(experiment.expect[1].of, Some(Statistic::P99));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        for (from, to, expected) in [
            ("members: 3", "members: 4", "members: 4: use 1, 3 or 5"),
            ("members: 3", "members: 3\nspeed: 7", "unknown field `speed`"),
            ("at: 2s", "at: 2m", "timeline[0]: \"2m\" is no length of time"),
            ("at: 2s", "at: 7s", "timeline[0].at: later than the experiment's `duration`"),
            ("at: 2s, ", "", "timeline[0].at: missing"),
            ("target: leader", "target: boss", "timeline[0].target: \"boss\" is nobody"),
            ("target: leader, ", "", "timeline[0].target: missing"),
            ("do: kill", "do: shoot", "timeline[0].do: unknown variant `shoot`"),
            ("do: kill", "do: fault", "timeline[0].fault: belongs to"),
            ("as: victim", "as: m2", "timeline[0].as: \"m2\" cannot be given"),
            ("atMost: 1,", "atmost: 1,", "expect[0]: unknown field `atmost`"),
            ("since: crash", "since: crush", "expect[2].since: no step has the name \"crush\""),
            ("noneOf: [victim]", "atMost: 1", "expect[2].measure: a prediction of the leader"),
        ] {
            let text = CRASH.replacen(from, to, 1);
            assert_ne!(text, CRASH, "{from}");
            let error = Experiment::read(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
