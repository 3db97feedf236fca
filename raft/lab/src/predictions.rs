//! Whether what was predicted came true.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use trierarch_raft::NodeId;

use crate::distribution::Distribution;
use crate::experiment::{Expectation, Experiment, Statistic};
use crate::measure::{Measure, Value, Window};
use crate::recording::Run;
use crate::story::Story;
use crate::target;

/// A prediction and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// What was predicted.
    pub predicted: String,
    /// Why.
    pub because: String,
    /// What came of it.
    pub found: String,
    /// It came true.
    pub held: bool,
}

/// Compares a prediction with what happened.
pub fn check(experiment: &Experiment, expectation: &Expectation, runs: &[(&Run, &Story)]) -> Verdict {
    let (since, until) = (expectation.since.as_deref(), expectation.until.as_deref());
    let position = |name: Option<&str>| name.and_then(|name| experiment.step(name));
    let values: Vec<(&Run, Option<Value>)> = runs
        .iter()
        .map(|(run, story)| {
            let window = Window::between(run, position(since), position(until));
            (*run, window.map(|window| expectation.measure.of(run, story, window)))
        })
        .collect();
    let (found, held) = match expectation.measure {
        Measure::Leader => check_leader(expectation, &values),
        _ => check_number(expectation, &values),
    };
    Verdict { predicted: describe(expectation), because: expectation.because.clone(), found, held: held && !runs.is_empty() }
}

/// Every repetition must have carried out all steps, without problems: otherwise its predictions are about something else.
pub fn check_steps(experiment: &Experiment, runs: &[(&Run, &Story)]) -> Option<Verdict> {
    let mut problems = Vec::new();
    for (index, (run, _)) in runs.iter().enumerate() {
        let never = run.skipped.iter().map(|step| format!("step {} was never due", step + 1));
        let failed = run.marks.iter().filter_map(|mark| mark.problem.as_ref().map(|why| format!("{}: {why}", mark.text)));
        let unsettled = run.settled_ms.is_none().then(|| "the members did not come to agree afterwards".to_owned());
        problems.extend(never.chain(failed).chain(unsettled).map(|problem| format!("repetition {}: {problem}", index + 1)));
    }
    if runs.len() < usize::try_from(experiment.repetitions).unwrap_or(usize::MAX) {
        problems.push(format!("{} of {} repetitions", runs.len(), experiment.repetitions));
    }
    (!problems.is_empty()).then(|| Verdict {
        predicted: "the timeline is carried out".to_owned(),
        because: "predictions are about what the file says".to_owned(),
        found: problems.join("; "),
        held: false,
    })
}

fn check_number(expectation: &Expectation, values: &[(&Run, Option<Value>)]) -> (String, bool) {
    let numbers: Vec<Option<u64>> =
        values.iter().map(|(_, value)| if let Some(Value::Number(number)) = value { *number } else { None }).collect();
    let missing = numbers.iter().filter(|number| number.is_none()).count();
    let (least, most) = (expectation.at_least.unwrap_or(0), expectation.at_most.unwrap_or(u64::MAX));
    let holds = |number: u64| (least..=most).contains(&number);
    let Some(distribution) = Distribution::of(numbers.iter().flatten().copied()) else {
        return ("it did not happen".to_owned(), false);
    };
    let (found, held) = match expectation.of {
        Some(statistic) => {
            let figure = distribution.figure(statistic);
            (figure.to_string(), holds(figure))
        }
        None => {
            let (min, max) = (distribution.min, distribution.max);
            (if min == max { min.to_string() } else { format!("{min} to {max}") }, holds(min) && holds(max))
        }
    };
    match missing {
        0 => (found, held),
        _ => (format!("{found}, and in {missing} of {} repetitions it did not happen", values.len()), false),
    }
}

fn check_leader(expectation: &Expectation, values: &[(&Run, Option<Value>)]) -> (String, bool) {
    let mut found: Vec<String> = Vec::new();
    let mut held = true;
    for (run, value) in values {
        let member = if let Some(Value::Member { member }) = value { *member } else { None };
        let meant = |words: &[String]| words.iter().flat_map(|word| meant(word, run)).collect::<BTreeSet<NodeId>>();
        held &= member.is_some_and(|member| {
            (expectation.one_of.is_empty() || meant(&expectation.one_of).contains(&member))
                && !meant(&expectation.none_of).contains(&member)
        });
        let name = member.map_or_else(|| "nobody".to_owned(), target::name);
        if !found.contains(&name) {
            found.push(name);
        }
    }
    (found.join(", "), held)
}

/// The members that a word stands for when a run is over.
fn meant(word: &str, run: &Run) -> BTreeSet<NodeId> {
    match run.names.get(word) {
        Some(members) => members.clone(),
        None => target::member(word).into_iter().collect(),
    }
}

fn describe(expectation: &Expectation) -> String {
    let statistic = match expectation.of {
        Some(Statistic::Min) => ", least",
        Some(Statistic::P50) => ", p50",
        Some(Statistic::P99) => ", p99",
        Some(Statistic::Max) => ", most",
        None => "",
    };
    let bounds = match (expectation.at_least, expectation.at_most) {
        (Some(least), Some(most)) if least == most => format!(": {least}"),
        (Some(least), Some(most)) => format!(": {least} to {most}"),
        (Some(least), None) => format!(": at least {least}"),
        (None, Some(most)) => format!(": at most {most}"),
        (None, None) => String::new(),
    };
    let one_of = if expectation.one_of.is_empty() { String::new() } else { format!(": one of {}", expectation.one_of.join(", ")) };
    let none_of = if expectation.none_of.is_empty() { String::new() } else { format!(": not {}", expectation.none_of.join(", ")) };
    let window = match (&expectation.since, &expectation.until) {
        (Some(since), Some(until)) => format!(" (from {since} to {until})"),
        (Some(since), None) => format!(" (since {since})"),
        (None, Some(until)) => format!(" (until {until})"),
        (None, None) => String::new(),
    };
    format!("{}{statistic}{bounds}{one_of}{none_of}{window}", expectation.measure.title())
}
