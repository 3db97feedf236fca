//! What a run means: who stood how and when, who led in which term, who voted for whom, whose log was cut back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trierarch_raft::happenings::Event;
use trierarch_raft::{NodeId, Term};

use crate::experiment::Verb;
use crate::recording::{Run, Sight, Standing};

/// Peers that are asked within so many milliseconds belong to one question.
const ROUND_MS: u64 = 40;

/// A run, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    /// How each member stood, without gaps.
    pub lanes: BTreeMap<NodeId, Vec<Part>>,
    /// Who led, in the order of time.
    pub reigns: Vec<Reign>,
    /// Who asked for votes.
    pub candidacies: Vec<Candidacy>,
    /// Who voted, and how.
    pub votes: Vec<Ballot>,
    /// Whose log was cut back.
    pub repairs: Vec<Repair>,
    /// Who received a snapshot.
    pub snapshots: Vec<(u64, NodeId)>,
    /// Who saw that a leader's process had gone.
    pub departures: Vec<Departure>,
}

/// A time in which a member stood in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// From when.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
    /// `leader`, `follower`, `candidate`, `learner`, `down` or `stopped`.
    pub role: String,
    /// Its term.
    pub term: Term,
}

/// A time in which a member led.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reign {
    /// Who.
    pub member: NodeId,
    /// In which term.
    pub term: Term,
    /// From when; 0 if it led at the beginning.
    pub from_ms: u64,
    /// Until it knew that it did not lead any more.
    pub to_ms: u64,
    /// It led when the run began.
    pub from_before: bool,
}

/// The beginning of an election, or of the question whether one would be won.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidacy {
    /// When.
    pub at_ms: u64,
    /// Who.
    pub member: NodeId,
    /// In which term.
    pub term: Term,
    /// It asks only whether it would win; nobody's term rises.
    pub pre: bool,
}

/// A vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ballot {
    /// When.
    pub at_ms: u64,
    /// Who voted.
    pub voter: NodeId,
    /// For whom, or against whom.
    pub candidate: NodeId,
    /// In which term.
    pub term: Term,
    /// It was asked only whether it would.
    pub pre: bool,
    /// Why it refused; `None` if it voted for the candidate.
    pub refused: Option<String>,
}

/// Entries that were taken out of a log because a leader has others there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// When.
    pub at_ms: u64,
    /// Whose log.
    pub member: NodeId,
    /// In which term.
    pub term: Term,
    /// The first entry taken out.
    pub from: u64,
    /// The last one.
    pub to: u64,
}

/// A leader whose process had gone, as another member saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    /// When.
    pub at_ms: u64,
    /// Who saw it.
    pub member: NodeId,
    /// Who had led.
    pub leader: NodeId,
}

impl Repair {
    /// How many entries.
    pub fn entries(&self) -> u64 {
        (self.to + 1).saturating_sub(self.from)
    }
}

/// Understands a run.
pub fn tell(run: &Run) -> Story {
    let mut story = Story::default();
    let mut lanes: BTreeMap<NodeId, Lane> = run.start.iter().map(|(member, standing)| (*member, Lane::begin(standing.clone()))).collect();
    for moment in moments(run) {
        match moment {
            Moment::Told(sight) => {
                let Some(lane) = lanes.get_mut(&sight.member) else { continue };
                story.see(sight);
                lane.see(sight.at_ms, sight.term, &sight.event);
            }
            Moment::Done { at_ms, member, verb } => {
                let Some(lane) = lanes.get_mut(&member) else { continue };
                match verb {
                    Verb::Kill => lane.change(at_ms, Some("down")),
                    Verb::Stop => lane.change(at_ms, Some("stopped")),
                    Verb::Continue => lane.go_on(at_ms),
                    _ => {}
                }
            }
        }
    }
    for (member, lane) in lanes {
        story.lanes.insert(member, lane.end(run.ended_ms));
    }
    let reigns = story.lanes.iter().flat_map(|(member, parts)| {
        parts.iter().filter(|part| part.role == "leader").map(|part| Reign {
            member: *member,
            term: part.term,
            from_ms: part.from_ms,
            to_ms: part.to_ms,
            from_before: part.from_ms == 0,
        })
    });
    story.reigns = joined(reigns.collect());
    story
}

/// A leader that was stopped for a while leads on in the same term: that is one reign.
fn joined(mut reigns: Vec<Reign>) -> Vec<Reign> {
    reigns.sort_by_key(|reign| (reign.term, reign.member, reign.from_ms));
    let mut joined: Vec<Reign> = Vec::new();
    for reign in reigns {
        match joined.last_mut() {
            Some(last) if (last.term, last.member) == (reign.term, reign.member) => last.to_ms = reign.to_ms,
            _ => joined.push(reign),
        }
    }
    joined.sort_by_key(|reign| (reign.from_ms, reign.term));
    joined
}

enum Moment<'a> {
    Told(&'a Sight),
    Done { at_ms: u64, member: NodeId, verb: Verb },
}

impl Moment<'_> {
    fn at_ms(&self) -> u64 {
        match self {
            Self::Told(sight) => sight.at_ms,
            Self::Done { at_ms, .. } => *at_ms,
        }
    }
}

/// What was told and what was done, in the order of time; what was done first, as it is the cause.
fn moments(run: &Run) -> Vec<Moment<'_>> {
    let done = run
        .marks
        .iter()
        .flat_map(|mark| mark.members.iter().map(|member| Moment::Done { at_ms: mark.at_ms, member: *member, verb: mark.verb }));
    let mut moments: Vec<Moment<'_>> = done.chain(run.sights.iter().map(Moment::Told)).collect();
    moments.sort_by_key(Moment::at_ms);
    moments
}

impl Story {
    fn see(&mut self, sight: &Sight) {
        let (at_ms, member, term) = (sight.at_ms, sight.member, sight.term);
        match &sight.event {
            Event::VoteAsked { pre_vote: pre, .. } => {
                let same = |other: &Candidacy| (other.member, other.pre) == (member, *pre);
                let last = self.candidacies.iter().rev().find(|other| same(other));
                // every peer is asked, and a question whether it would win is asked again and again
                let is_new = last.is_none_or(|last| if *pre { at_ms > last.at_ms + ROUND_MS } else { last.term != term });
                if is_new {
                    self.candidacies.push(Candidacy { at_ms, member, term, pre: *pre });
                }
            }
            Event::VoteCast { candidate, pre_vote, granted, why } => {
                let refused = (!granted).then(|| why.clone().unwrap_or_default());
                self.votes.push(Ballot { at_ms, voter: member, candidate: *candidate, term, pre: *pre_vote, refused });
            }
            Event::Truncate { kept, last } => self.repairs.push(Repair { at_ms, member, term, from: kept + 1, to: *last }),
            Event::SnapshotReceived { .. } => self.snapshots.push((at_ms, member)),
            Event::LeaderGone { leader } => self.departures.push(Departure { at_ms, member, leader: *leader }),
            _ => {}
        }
    }
}

/// A member's parts so far.
struct Lane {
    parts: Vec<Part>,
    standing: Standing,
    from_ms: u64,
    /// What is shown instead of its role.
    instead: Option<&'static str>,
}

impl Lane {
    fn begin(standing: Standing) -> Self {
        Self { parts: Vec::new(), standing, from_ms: 0, instead: None }
    }

    fn shown(&self) -> (String, Term) {
        (self.instead.map_or_else(|| self.standing.role.clone(), str::to_owned), self.standing.term)
    }

    fn close(&mut self, at_ms: u64, (role, term): (String, Term)) {
        if at_ms > self.from_ms {
            self.parts.push(Part { from_ms: self.from_ms, to_ms: at_ms, role, term });
        }
        self.from_ms = at_ms;
    }

    fn change(&mut self, at_ms: u64, instead: Option<&'static str>) {
        let before = self.shown();
        self.instead = instead;
        if self.shown() != before {
            self.close(at_ms, before);
        }
    }

    fn go_on(&mut self, at_ms: u64) {
        if self.instead == Some("stopped") {
            self.change(at_ms, None);
        }
    }

    fn see(&mut self, at_ms: u64, term: Term, event: &Event) {
        let before = self.shown();
        // a process that was killed tells nothing: this is its successor
        if self.instead == Some("down") && matches!(event, Event::Role { .. }) {
            self.instead = None;
        }
        self.standing.see(term, event);
        if self.shown() != before {
            self.close(at_ms, before);
        }
    }

    fn end(mut self, at_ms: u64) -> Vec<Part> {
        let shown = self.shown();
        self.close(at_ms, shown);
        self.parts
    }
}
