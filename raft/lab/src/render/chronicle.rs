//! What happened in one repetition, one line each, in the order of time.

use crate::report::Chapter;
use crate::target::name;

/// A line.
pub(super) struct Line {
    /// When.
    pub(super) at_ms: u64,
    /// It was done on purpose; everything else follows from it.
    pub(super) cause: bool,
    /// What happened.
    pub(super) text: String,
}

/// The lines of a repetition.
pub(super) fn lines(chapter: &Chapter) -> Vec<Line> {
    let (run, story) = (&chapter.run, &chapter.story);
    let mut lines: Vec<Line> = Vec::new();
    let mut add = |at_ms: u64, cause: bool, text: String| lines.push(Line { at_ms, cause, text });
    for mark in &run.marks {
        let problem = mark.problem.as_ref().map_or_else(String::new, |why| format!(" (did not work: {why})"));
        add(mark.at_ms, true, format!("{}{problem}", mark.text));
    }
    for departure in &story.departures {
        add(departure.at_ms, false, format!("{} sees that {} has gone", name(departure.member), name(departure.leader)));
    }
    for candidacy in &story.candidacies {
        let (member, term) = (name(candidacy.member), candidacy.term);
        add(
            candidacy.at_ms,
            false,
            match candidacy.pre {
                true => format!("{member} asks whether it would win"),
                false => format!("{member} begins an election in term {term}"),
            },
        );
    }
    for vote in story.votes.iter().filter(|vote| vote.voter != vote.candidate) {
        let (voter, candidate, term) = (name(vote.voter), name(vote.candidate), vote.term);
        let pre = if vote.pre { "would vote" } else { "votes" };
        add(
            vote.at_ms,
            false,
            match &vote.refused {
                None => format!("{voter} {pre} for {candidate} in term {term}"),
                Some(why) if vote.pre => format!("{voter} would not vote for {candidate}: {why}"),
                Some(why) => format!("{voter} refuses {candidate} its vote in term {term}: {why}"),
            },
        );
    }
    for reign in story.reigns.iter().filter(|reign| !reign.from_before) {
        add(reign.from_ms, false, format!("{} leads in term {}", name(reign.member), reign.term));
    }
    for reign in story.reigns.iter().filter(|reign| reign.to_ms < run.ended_ms) {
        add(reign.to_ms, false, format!("{} leads no more in term {}", name(reign.member), reign.term));
    }
    for repair in &story.repairs {
        let (member, from, to) = (name(repair.member), repair.from, repair.to);
        add(
            repair.at_ms,
            false,
            match repair.entries() {
                1 => format!("{member} takes back entry {from} of its log"),
                entries => format!("{member} takes back {entries} entries of its log, {from} to {to}"),
            },
        );
    }
    for (at_ms, member) in &story.snapshots {
        add(*at_ms, false, format!("{} receives a snapshot", name(*member)));
    }
    if let Some(settled_ms) = run.settled_ms {
        add(settled_ms, false, "all members hold the same".to_owned());
    }
    lines.sort_by_key(|line| (line.at_ms, !line.cause));
    lines
}
