//! The report as text.

use std::fmt::Write as _;

use super::chronicle;
use crate::measure::{Measure, Value};
use crate::report::{Chapter, Report, Row};
use crate::target::name;

/// Columns of a lane.
const LANE_COLUMNS: u64 = 72;
/// Columns of the longest bar.
const BAR_COLUMNS: u64 = 40;
/// Lines of the chronicle.
const LINES_MAX: usize = 40;

/// The whole report, with a line end.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    // writing into a string succeeds
    let _written = write(report, &mut text);
    text
}

fn write(report: &Report, out: &mut String) -> std::fmt::Result {
    let experiment = &report.experiment;
    writeln!(out, "{}", experiment.title)?;
    let (members, times, duration) = (experiment.members, report.runs.len(), experiment.duration);
    writeln!(out, "{members} members, {times} x {duration}, {}", report.stage_text())?;
    if !experiment.question.is_empty() {
        writeln!(out, "\n{}", experiment.question.trim_end())?;
    }
    writeln!(out, "\nPredictions: {}", if report.held { "all held" } else { "NOT ALL HELD" })?;
    for verdict in &report.predictions {
        let word = if verdict.held { "held" } else { "NOT HELD" };
        writeln!(out, "  {word:<9} {}; found {}", verdict.predicted, verdict.found)?;
        writeln!(out, "            because {}", verdict.because)?;
    }
    writeln!(out, "\n{:<38}{:>8}{:>8}{:>8}{:>8}", "Measured in each repetition", "LEAST", "P50", "P99", "MOST")?;
    for row in &report.measures {
        write_row(row, out)?;
    }
    if let Some(gaps) = report.gaps.as_ref().filter(|_| report.runs.len() > 1) {
        writeln!(out, "\nLongest gap of a writing client, ms: how many repetitions")?;
        let most = gaps.histogram.iter().map(|bar| bar.count).max().unwrap_or(1).max(1);
        for bar in gaps.histogram.iter().skip_while(|bar| bar.count == 0) {
            let columns = usize::try_from((bar.count * BAR_COLUMNS).div_ceil(most)).unwrap_or(0);
            writeln!(out, "  {:>6} to {:<6} {:>4} {}", bar.from, bar.to, bar.count, "#".repeat(columns))?;
        }
    }
    if let Some((index, chapter)) = report.typical() {
        writeln!(out, "\nRepetition {} of {times}", index + 1)?;
        write_lanes(chapter, out)?;
        let lines = chronicle::lines(chapter);
        for line in lines.iter().take(LINES_MAX) {
            writeln!(out, "  {:>7} ms  {}{}", line.at_ms, if line.cause { "* " } else { "  " }, line.text)?;
        }
        if lines.len() > LINES_MAX {
            writeln!(out, "  ... and {} more", lines.len() - LINES_MAX)?;
        }
    }
    Ok(())
}

fn write_row(row: &Row, out: &mut String) -> std::fmt::Result {
    if row.measure == Measure::Leader {
        let led: Vec<String> = row.members.iter().map(|(member, times)| format!("{member} {times}x")).collect();
        return writeln!(out, "  {:<36}  {}", row.title, led.join(", "));
    }
    match &row.numbers {
        None => writeln!(out, "  {:<36}{:>8}", row.title, "-"),
        Some(numbers) => {
            let missing = if row.missing == 0 { String::new() } else { format!("   not in {}", row.missing) };
            let (min, p50, p99, max) = (numbers.min, numbers.p50, numbers.p99, numbers.max);
            writeln!(out, "  {:<36}{min:>8}{p50:>8}{p99:>8}{max:>8}{missing}", row.title)
        }
    }
}

/// A line for each member, a letter for each slice of time: who stood how.
fn write_lanes(chapter: &Chapter, out: &mut String) -> std::fmt::Result {
    let end_ms = chapter.run.ended_ms.max(1);
    for (member, parts) in &chapter.story.lanes {
        let letter = |column: u64| {
            let (from, to) = (column * end_ms / LANE_COLUMNS, (column + 1) * end_ms / LANE_COLUMNS);
            let inside = parts.iter().filter(|part| part.from_ms < to && part.to_ms > from);
            // what is rare must not vanish between what is long
            inside.map(|part| letter(&part.role)).max_by_key(|letter| "-.=xLC".find(*letter)).unwrap_or(' ')
        };
        writeln!(out, "  {:<4}{}", name(*member), (0..LANE_COLUMNS).map(letter).collect::<String>())?;
    }
    let gap = chapter.values.get(&Measure::WriteGapMs);
    let gap = if let Some(Value::Number(Some(gap))) = gap { format!("; longest gap {gap} ms") } else { String::new() };
    writeln!(out, "      L leads, . follows, C candidate, x down, = stopped; {end_ms} ms{gap}")
}

fn letter(role: &str) -> char {
    match role {
        "leader" => 'L',
        "follower" => '.',
        "candidate" => 'C',
        "down" => 'x',
        "stopped" => '=',
        _ => '-',
    }
}
