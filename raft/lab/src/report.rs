//! The report: one model, from which text, JSON and the page are made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::distribution::{Bar, Distribution};
use crate::experiment::Experiment;
use crate::measure::{Measure, Value, Window};
use crate::predictions::{self, Verdict};
use crate::recording::{Recording, Run, Stage};
use crate::story::{self, Story};
use crate::target;

/// Bars of the histogram of gaps, at most.
const BARS_MAX: u64 = 24;

/// What came of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was asked.
    pub experiment: Experiment,
    /// Where it was carried out.
    pub stage: Stage,
    /// Every prediction came true.
    pub held: bool,
    /// Each prediction.
    pub predictions: Vec<Verdict>,
    /// Each measure over all repetitions.
    pub measures: Vec<Row>,
    /// The longest gap of a writing client, of all repetitions.
    pub gaps: Option<Gaps>,
    /// Each repetition.
    pub runs: Vec<Chapter>,
}

/// A measure over all repetitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Which.
    pub measure: Measure,
    /// What people call it.
    pub title: String,
    /// Its numbers; `None` if it never happened, or is none.
    pub numbers: Option<Distribution>,
    /// In how many repetitions it did not happen.
    pub missing: usize,
    /// For [`Measure::Leader`]: how often each member led last.
    pub members: BTreeMap<String, u64>,
}

/// Gaps of writing clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gaps {
    /// In milliseconds, one for each repetition.
    pub distribution: Distribution,
    /// The same as bars.
    pub histogram: Vec<Bar>,
}

/// A repetition: what happened, and what it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chapter {
    /// What happened.
    pub run: Run,
    /// What it means.
    pub story: Story,
    /// Each measure of it.
    pub values: BTreeMap<Measure, Value>,
}

impl Report {
    /// Of an experiment and what happened.
    pub fn new(experiment: Experiment, recording: Recording) -> Self {
        let runs: Vec<Chapter> = recording.runs.into_iter().map(chapter).collect();
        let pairs: Vec<(&Run, &Story)> = runs.iter().map(|chapter| (&chapter.run, &chapter.story)).collect();
        let mut predictions: Vec<Verdict> = predictions::check_steps(&experiment, &pairs).into_iter().collect();
        predictions.extend(experiment.expect.iter().map(|expectation| predictions::check(&experiment, expectation, &pairs)));
        let shown: &[Measure] = if experiment.measure.is_empty() { &Measure::ALL } else { &experiment.measure };
        let measures = shown.iter().map(|measure| row(*measure, &runs)).collect();
        let gaps = row(Measure::WriteGapMs, &runs).numbers;
        let gaps = gaps.map(|distribution| Gaps { histogram: distribution.histogram(BARS_MAX), distribution });
        Self { held: predictions.iter().all(|verdict| verdict.held), predictions, measures, gaps, runs, stage: recording.stage, experiment }
    }

    /// Where it was carried out, for people.
    pub fn stage_text(&self) -> String {
        match self.stage {
            Stage::Processes => "real processes in network namespaces".to_owned(),
            Stage::Simulation { seed } => format!("simulated, seed {seed}"),
        }
    }

    /// The repetition that stands for all: that with the median gap.
    pub fn typical(&self) -> Option<(usize, &Chapter)> {
        let gap = |chapter: &Chapter| match chapter.values.get(&Measure::WriteGapMs) {
            Some(Value::Number(gap)) => *gap,
            _ => None,
        };
        let mut order: Vec<(usize, &Chapter)> = self.runs.iter().enumerate().collect();
        order.sort_by_key(|(index, chapter)| (gap(chapter), *index));
        let middle = order.len().saturating_sub(1) / 2;
        order.get(middle).copied()
    }
}

fn chapter(run: Run) -> Chapter {
    let story = story::tell(&run);
    let values = Measure::ALL.into_iter().map(|measure| (measure, measure.of(&run, &story, Window::whole(&run)))).collect();
    Chapter { run, story, values }
}

fn row(measure: Measure, runs: &[Chapter]) -> Row {
    let (mut numbers, mut missing, mut members) = (Vec::new(), 0, BTreeMap::new());
    for chapter in runs {
        match chapter.values.get(&measure) {
            Some(Value::Number(Some(number))) => numbers.push(*number),
            Some(Value::Member { member: Some(member) }) => *members.entry(target::name(*member)).or_insert(0) += 1,
            _ => missing += 1,
        }
    }
    Row { measure, title: measure.title().to_owned(), numbers: Distribution::of(numbers), missing, members }
}

#[cfg(test)]
mod tests;
