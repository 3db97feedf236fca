//! What happened when an experiment was carried out: the raw material of a report, the same from processes and from the simulation.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trierarch_raft::happenings::Event;
use trierarch_raft::{NodeId, Term};

use crate::experiment::Verb;

/// All repetitions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    /// Where it was carried out.
    pub stage: Stage,
    /// One for each repetition.
    pub runs: Vec<Run>,
}

/// Where an experiment is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Stage {
    /// On real processes in network namespaces of this machine.
    Processes,
    /// In the simulation.
    Simulation {
        /// Everything random comes from it.
        seed: u64,
    },
}

/// One repetition. Times are milliseconds since its beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// How each member stood at the beginning.
    pub start: BTreeMap<NodeId, Standing>,
    /// When the watching ended.
    pub ended_ms: u64,
    /// When everything had healed and all members held the same; `None` if that did not come about.
    pub settled_ms: Option<u64>,
    /// What members told, in the order of time.
    pub sights: Vec<Sight>,
    /// What was done.
    pub marks: Vec<Mark>,
    /// The names that steps gave.
    pub names: BTreeMap<String, BTreeSet<NodeId>>,
    /// Steps that were never due, by their positions.
    pub skipped: Vec<usize>,
    /// What clients asked for, in the order of answers.
    pub writes: Vec<Write>,
    /// Keys of acknowledged writes that were gone in the end.
    pub lost: Vec<String>,
    /// Keys of refused writes that were there in the end.
    pub resurrected: Vec<String>,
}

/// How a member stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// `leader`, `follower`, `candidate`, `learner` or `down`.
    pub role: String,
    /// Its term.
    pub term: Term,
    /// Index of its last log entry.
    pub last: u64,
    /// Index of the last entry that it knows to be committed.
    pub committed: u64,
}

impl Standing {
    /// Of a member that has told nothing yet.
    pub fn unknown() -> Self {
        Self { role: "down".to_owned(), term: 0, last: 0, committed: 0 }
    }

    /// Takes notice of what the member told.
    pub fn see(&mut self, term: Term, event: &Event) {
        // questions for votes, and answers, name the term that the candidate is after
        if !matches!(event, Event::VoteAsked { .. } | Event::VoteAnswered { .. } | Event::VoteCast { .. }) {
            // a leader that knows a higher term leads no more, even before it says so
            if term > self.term && self.role == "leader" {
                "follower".clone_into(&mut self.role);
            }
            self.term = term;
        }
        match event {
            Event::Role { role } => self.role.clone_from(role),
            Event::Append { last, .. } => self.last = *last,
            Event::Truncate { kept, .. } => self.last = *kept,
            Event::Commit { committed } => self.committed = *committed,
            _ => {}
        }
    }
}

/// Something that a member told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sight {
    /// When.
    pub at_ms: u64,
    /// Which member.
    pub member: NodeId,
    /// In which term.
    pub term: Term,
    /// What.
    pub event: Event,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The position of the step.
    pub step: usize,
    /// When.
    pub at_ms: u64,
    /// Until when, if it ends by itself.
    pub until_ms: Option<u64>,
    /// What kind of step.
    pub verb: Verb,
    /// To whom.
    pub members: BTreeSet<NodeId>,
    /// In a few words.
    pub text: String,
    /// What went wrong with it, if anything.
    pub problem: Option<String>,
}

/// A client's write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// Which client.
    pub client: u32,
    /// Through which member.
    pub member: NodeId,
    /// When it was sent.
    pub asked_ms: u64,
    /// When it was answered, or given up.
    pub answered_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a write, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is done, for good.
    Acknowledged,
    /// It was not done and will not be.
    Refused,
    /// It may be done or not.
    Unknown,
}
