//! What a run comes to, as numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trierarch_raft::NodeId;

use crate::recording::{Outcome, Run};
use crate::story::Story;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Measure {
    /// Members that took the lead.
    LeaderChanges,
    /// By how much the highest term grew.
    TermsRaised,
    /// Elections begun.
    Candidacies,
    /// Questions whether an election would be won.
    PreVotes,
    /// Terms in which somebody stood and nobody won.
    SplitVotes,
    /// Votes refused.
    VotesRefused,
    /// Milliseconds until somebody took the lead.
    ElectionMs,
    /// The longest time in which a client had no write acknowledged, in milliseconds.
    WriteGapMs,
    /// Writes acknowledged.
    AcknowledgedWrites,
    /// Writes refused: not done, and never will be.
    RefusedWrites,
    /// Writes of which the client does not know what became.
    UnclearWrites,
    /// Acknowledged writes that were gone in the end. Of the whole run.
    LostWrites,
    /// Refused writes that were there in the end. Of the whole run.
    ResurrectedWrites,
    /// Entries taken out of logs.
    TruncatedEntries,
    /// Snapshots received.
    Snapshots,
    /// Milliseconds until all members held the same, after the end.
    SettlingMs,
    /// Members that at some moment believed to lead, at most.
    LeadersAtOnce,
    /// Who led last.
    Leader,
}

/// What a measure is in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A number; `None`: it did not happen.
    Number(Option<u64>),
    /// A member; `None`: nobody.
    Member {
        /// Who.
        member: Option<NodeId>,
    },
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// From when.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
}

impl Window {
    /// The whole run.
    pub fn whole(run: &Run) -> Self {
        Self { from_ms: 0, to_ms: run.ended_ms }
    }

    /// From one step to another; `None` if one of them was never done.
    pub fn between(run: &Run, since: Option<usize>, until: Option<usize>) -> Option<Self> {
        let at = |step: usize| run.marks.iter().find(|mark| mark.step == step).map(|mark| mark.at_ms);
        let whole = Self::whole(run);
        let from_ms = since.map_or(Some(whole.from_ms), at)?;
        let to_ms = until.map_or(Some(whole.to_ms), at)?;
        Some(Self { from_ms, to_ms })
    }

    fn holds(self, at_ms: u64) -> bool {
        (self.from_ms..=self.to_ms).contains(&at_ms)
    }
}

impl Measure {
    /// All of them, as a report's table shows them.
    pub const ALL: [Self; 18] = [
        Self::Leader,
        Self::LeaderChanges,
        Self::TermsRaised,
        Self::PreVotes,
        Self::Candidacies,
        Self::SplitVotes,
        Self::VotesRefused,
        Self::LeadersAtOnce,
        Self::ElectionMs,
        Self::WriteGapMs,
        Self::AcknowledgedWrites,
        Self::RefusedWrites,
        Self::UnclearWrites,
        Self::LostWrites,
        Self::ResurrectedWrites,
        Self::TruncatedEntries,
        Self::Snapshots,
        Self::SettlingMs,
    ];

    /// What people call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::LeaderChanges => "changes of leader",
            Self::TermsRaised => "terms passed",
            Self::Candidacies => "elections begun",
            Self::PreVotes => "questions whether one would win",
            Self::SplitVotes => "terms that nobody won",
            Self::VotesRefused => "votes refused",
            Self::ElectionMs => "until somebody led, ms",
            Self::WriteGapMs => "longest gap of a writing client, ms",
            Self::AcknowledgedWrites => "writes acknowledged",
            Self::RefusedWrites => "writes refused",
            Self::UnclearWrites => "writes with unknown outcome",
            Self::LostWrites => "acknowledged writes lost",
            Self::ResurrectedWrites => "refused writes that were done",
            Self::TruncatedEntries => "log entries taken back",
            Self::Snapshots => "snapshots received",
            Self::SettlingMs => "until all held the same, ms",
            Self::LeadersAtOnce => "leaders at once, at most",
            Self::Leader => "who led last",
        }
    }

    /// Measures a part of a run.
    pub fn of(self, run: &Run, story: &Story, window: Window) -> Value {
        let count = |moments: &mut dyn Iterator<Item = u64>| Some(moments.filter(|at_ms| window.holds(*at_ms)).count() as u64);
        let elections = || story.candidacies.iter().filter(|candidacy| !candidacy.pre);
        let begun = || story.reigns.iter().filter(|reign| !reign.from_before && window.holds(reign.from_ms));
        let answered =
            |outcome: Outcome| count(&mut run.writes.iter().filter(|write| write.outcome == outcome).map(|write| write.answered_ms));
        Value::Number(match self {
            Self::Leader => {
                let last = story.reigns.iter().filter(|reign| reign.from_ms <= window.to_ms && reign.to_ms > window.from_ms);
                return Value::Member { member: last.max_by_key(|reign| (reign.term, reign.from_ms)).map(|reign| reign.member) };
            }
            Self::LeaderChanges => Some(begun().count() as u64),
            Self::TermsRaised => Some(terms_raised(story, window)),
            Self::Candidacies => count(&mut elections().map(|candidacy| candidacy.at_ms)),
            Self::PreVotes => count(&mut story.candidacies.iter().filter(|candidacy| candidacy.pre).map(|candidacy| candidacy.at_ms)),
            Self::SplitVotes => {
                let stood: BTreeSet<u64> =
                    elections().filter(|candidacy| window.holds(candidacy.at_ms)).map(|candidacy| candidacy.term).collect();
                let won: BTreeSet<u64> = story.reigns.iter().map(|reign| reign.term).collect();
                Some(stood.difference(&won).count() as u64)
            }
            Self::VotesRefused => count(&mut story.votes.iter().filter(|vote| vote.refused.is_some()).map(|vote| vote.at_ms)),
            Self::ElectionMs => begun().map(|reign| reign.from_ms - window.from_ms).min(),
            Self::WriteGapMs => longest_gap(run, window),
            Self::AcknowledgedWrites => answered(Outcome::Acknowledged),
            Self::RefusedWrites => answered(Outcome::Refused),
            Self::UnclearWrites => answered(Outcome::Unknown),
            Self::LostWrites => Some(run.lost.len() as u64),
            Self::ResurrectedWrites => Some(run.resurrected.len() as u64),
            Self::TruncatedEntries => {
                Some(story.repairs.iter().filter(|repair| window.holds(repair.at_ms)).map(crate::story::Repair::entries).sum())
            }
            Self::Snapshots => count(&mut story.snapshots.iter().map(|(at_ms, _)| *at_ms)),
            Self::SettlingMs => run.settled_ms.map(|settled_ms| settled_ms.saturating_sub(run.ended_ms)),
            Self::LeadersAtOnce => Some(leaders_at_once(story, window)),
        })
    }
}

/// By how much the highest term of any member grew.
fn terms_raised(story: &Story, window: Window) -> u64 {
    let parts = || story.lanes.values().flatten();
    let highest = |at_ms: u64| parts().filter(|part| part.from_ms <= at_ms).map(|part| part.term).max().unwrap_or(0);
    highest(window.to_ms).saturating_sub(highest(window.from_ms))
}

/// The longest time in which one client had no write acknowledged; `None` without clients. The edges of the window count as
/// acknowledgements.
fn longest_gap(run: &Run, window: Window) -> Option<u64> {
    let mut last: BTreeMap<u32, u64> = run.writes.iter().map(|write| (write.client, window.from_ms)).collect();
    let mut longest = None;
    let acknowledged = run.writes.iter().filter(|write| write.outcome == Outcome::Acknowledged && window.holds(write.answered_ms));
    for write in acknowledged {
        let before = last.insert(write.client, write.answered_ms).unwrap_or(window.from_ms);
        longest = longest.max(Some(write.answered_ms.saturating_sub(before)));
    }
    last.values().map(|last| window.to_ms.saturating_sub(*last)).max().max(longest)
}

fn leaders_at_once(story: &Story, window: Window) -> u64 {
    let reigns = || story.reigns.iter().filter(|reign| reign.to_ms > window.from_ms && reign.from_ms <= window.to_ms);
    // the most at once are there when one of them begins
    let at = |at_ms: u64| {
        let leading = reigns().filter(|reign| reign.from_ms <= at_ms && at_ms < reign.to_ms);
        leading.map(|reign| reign.member).collect::<BTreeSet<_>>().len() as u64
    };
    reigns().map(|reign| at(reign.from_ms.max(window.from_ms))).max().unwrap_or(0)
}
