use std::collections::{BTreeMap, BTreeSet};

use trierarch_raft::happenings::Event;

use super::*;
use crate::experiment::Verb;
use crate::recording::{Mark, Outcome, Sight, Standing, Write};
use crate::render;
use crate::story::{Candidacy, Reign};

const CRASH: &str = "
title: A leader dies <&>
question: How long?
members: 3
duration: 2s
repetitions: 2
timeline:
  - {name: crash, at: 500ms, do: kill, target: leader, as: victim}
expect:
  - {measure: leaderChanges, atLeast: 1, atMost: 1, because: one election is enough}
  - {measure: writeGapMs, of: max, atMost: 600, because: it is replaced in 450 to 600 ms}
  - {measure: leader, since: crash, noneOf: [victim], because: it is dead}
  - {measure: truncatedEntries, atMost: 3, because: little was on its way}
  - {measure: lostWrites, atMost: 0, because: a majority has them}
";

fn role(role: &str) -> Event {
    Event::Role { role: role.to_owned() }
}

/// m1 leads in term 3 and is killed at 500; m2 stands at 900 and wins with m3's vote after `late_ms`; m1 would have had three entries too many.
fn run(late_ms: u64) -> Run {
    let standing = |role: &str| Standing { role: role.to_owned(), term: 3, last: 10, committed: 10 };
    let sight = |at_ms, member, term, event| Sight { at_ms, member, term, event };
    let write = |answered_ms, outcome| Write { client: 0, member: 1, asked_ms: answered_ms - 4, answered_ms, outcome };
    let elected_ms = 900 + late_ms;
    Run {
        start: BTreeMap::from([(1, standing("leader")), (2, standing("follower")), (3, standing("follower"))]),
        ended_ms: 2000,
        settled_ms: Some(2100),
        sights: vec![
            sight(900, 2, 4, role("candidate")),
            sight(900, 2, 4, Event::VoteAsked { peer: 1, pre_vote: false }),
            sight(900, 2, 4, Event::VoteAsked { peer: 3, pre_vote: false }),
            sight(903, 3, 4, Event::VoteCast { candidate: 2, pre_vote: false, granted: true, why: None }),
            sight(elected_ms, 2, 4, role("leader")),
            sight(elected_ms + 50, 3, 4, Event::Truncate { kept: 8, last: 10 }),
        ],
        marks: vec![Mark {
            step: 0,
            at_ms: 500,
            until_ms: None,
            verb: Verb::Kill,
            members: BTreeSet::from([1]),
            text: "m1 killed".to_owned(),
            problem: None,
        }],
        names: BTreeMap::from([("victim".to_owned(), BTreeSet::from([1]))]),
        writes: vec![
            write(490, Outcome::Acknowledged),
            write(520, Outcome::Refused),
            write(elected_ms + 10, Outcome::Acknowledged),
            write(1700, Outcome::Unknown),
            write(1980, Outcome::Acknowledged),
        ],
        ..Run::default()
    }
}

fn report(runs: Vec<Run>) -> Report {
    Report::new(Experiment::read(CRASH).unwrap(), Recording { stage: Stage::Simulation { seed: 7 }, runs })
}

#[test]
fn a_run_is_understood() {
    let story = crate::story::tell(&run(6));
    let parts: Vec<(u64, u64, &str, u64)> =
        story.lanes[&2].iter().map(|part| (part.from_ms, part.to_ms, part.role.as_str(), part.term)).collect();
    assert_eq!(parts, [(0, 900, "follower", 3), (900, 906, "candidate", 4), (906, 2000, "leader", 4)]);
    assert_eq!(story.lanes[&1].last().map(|part| part.role.as_str()), Some("down"));
    assert_eq!(story.candidacies, [Candidacy { at_ms: 900, member: 2, term: 4, pre: false }]);
    assert_eq!(
        story.reigns,
        [
            Reign { member: 1, term: 3, from_ms: 0, to_ms: 500, from_before: true },
            Reign { member: 2, term: 4, from_ms: 906, to_ms: 2000, from_before: false },
        ]
    );
    assert_eq!((story.votes.len(), story.repairs[0].entries()), (1, 2));
}

#[test]
fn a_leader_that_adopts_a_higher_term_does_not_lead_in_it() {
    let mut handed = run(6);
    handed.marks.clear();
    // m1 votes in term 4 and says a little later that it follows
    let vote = Event::Vote { candidate: 2, granted: false };
    handed.sights.insert(3, Sight { at_ms: 901, member: 1, term: 4, event: vote });
    handed.sights.insert(4, Sight { at_ms: 902, member: 1, term: 4, event: role("follower") });
    let reigns: Vec<_> = crate::story::tell(&handed).reigns.iter().map(|reign| (reign.member, reign.term, reign.to_ms)).collect();
    assert_eq!(reigns, [(1, 3, 901), (2, 4, 2000)]);
}

#[test]
fn a_run_is_measured_as_a_whole_and_in_parts() {
    let run = run(6);
    let story = crate::story::tell(&run);
    let since = Window::between(&run, Some(0), None).unwrap();
    for (measure, whole, part) in [
        (Measure::LeaderChanges, Some(1), Some(1)),
        (Measure::TermsRaised, Some(1), Some(1)),
        (Measure::Candidacies, Some(1), Some(1)),
        (Measure::SplitVotes, Some(0), Some(0)),
        (Measure::ElectionMs, Some(906), Some(406)),
        // from 916 to 1980, and from the crash to 916 only
        (Measure::WriteGapMs, Some(1064), Some(1064)),
        (Measure::AcknowledgedWrites, Some(3), Some(2)),
        (Measure::RefusedWrites, Some(1), Some(1)),
        (Measure::UnclearWrites, Some(1), Some(1)),
        (Measure::TruncatedEntries, Some(2), Some(2)),
        (Measure::SettlingMs, Some(100), Some(100)),
        (Measure::LeadersAtOnce, Some(1), Some(1)),
    ] {
        assert_eq!(measure.of(&run, &story, Window::whole(&run)), Value::Number(whole), "{measure:?}");
        assert_eq!(measure.of(&run, &story, since), Value::Number(part), "{measure:?} since the crash");
    }
    assert_eq!(Measure::Leader.of(&run, &story, since), Value::Member { member: Some(2) });
    assert_eq!(Window::between(&run, Some(1), None), None, "a step that was never done");
}

#[test]
fn predictions_hold_or_do_not() {
    let held = |report: &Report| report.predictions.iter().map(|verdict| verdict.held).collect::<Vec<_>>();
    let late = report(vec![run(6), run(6)]);
    assert_eq!(held(&late), [true, false, true, true, true], "the gap is longer than predicted");
    assert!(!late.held && late.predictions[1].found.contains("1064"));
    let lost = report(vec![run(6), Run { lost: vec!["k".to_owned()], ..run(6) }]);
    assert_eq!(lost.predictions.last().map(|verdict| (verdict.held, verdict.found.as_str())), Some((false, "0 to 1")));
    // a repetition that did not do what the file says proves nothing
    let short = report(vec![run(6)]);
    assert!(!short.predictions[0].held && short.predictions[0].found.contains("1 of 2 repetitions"));
    let skipped = report(vec![run(6), Run { skipped: vec![0], ..run(6) }]);
    assert!(!skipped.predictions[0].held && skipped.predictions[0].found.contains("step 1 was never due"));
    assert!(!report(Vec::new()).held);
}

#[test]
fn the_same_recording_gives_the_same_text_and_page() {
    let report = report(vec![run(6), run(90)]);
    let text = render::text::render(&report);
    for expected in
        ["A leader dies <&>", "NOT HELD", "m1 killed", "m2 begins an election in term 4", "m3 votes for m2", "takes back 2 entries"]
    {
        assert!(text.contains(expected), "{expected}:\n{text}");
    }
    assert!(text.lines().any(|line| line.starts_with("  m1  LLLL") && line.ends_with("xxxx")), "{text}");
    let page = render::page::render(&report, CRASH);
    assert!(page.contains("A leader dies &lt;&amp;&gt;") && page.contains("leads, term 4") && page.contains("close up"));
    for resource in ["http://", "https://", "<script", "url("] {
        assert!(!page.contains(resource), "the page needs {resource}");
    }
    let again = super::Report::new(report.experiment.clone(), Recording { stage: report.stage.clone(), runs: vec![run(6), run(90)] });
    assert_eq!((render::text::render(&again), render::page::render(&again, CRASH)), (text, page));
    let json: serde_json::Value = serde_json::from_str(&render::json(&report).unwrap()).unwrap();
    assert_eq!(json["predictions"][1]["held"], false);
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}
