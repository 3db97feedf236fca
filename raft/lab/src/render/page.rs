//! The report as one page that needs nothing else: no script, no network, light or dark as the reader has it.

use std::fmt::Write as _;

use super::chronicle;
use super::curves;
use super::markup::{escape, time};
use super::timeline::{self, Detail};
use crate::experiment::Verb;
use crate::measure::{Measure, Value};
use crate::report::{Chapter, Report, Row};

const STYLE: &str = include_str!("page.css");
/// Repetitions that are drawn small.
const SMALL_MAX: usize = 60;
/// Lines of the chronicle.
const LINES_MAX: usize = 120;
/// What the close-up shows before and after the first change of leader.
const CLOSE_UP_MS: (u64, u64) = (150, 250);
/// A close-up that shows nearly everything is none.
const CLOSE_UP_SHARE: u64 = 2;

/// The whole page. `source`: the experiment's file, shown at the end.
pub fn render(report: &Report, source: &str) -> String {
    let mut html = String::new();
    // writing into a string succeeds
    let _written = write(report, source, &mut html);
    html
}

fn write(report: &Report, source: &str, out: &mut String) -> std::fmt::Result {
    let title = escape(&report.experiment.title);
    write!(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")?;
    write!(out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n")?;
    write!(out, "<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n")?;
    write_head(report, &title, out)?;
    write_predictions(report, out)?;
    if let Some((index, chapter)) = report.typical() {
        write_typical(report, index, chapter, out)?;
    }
    write_gaps(report, out)?;
    write_measures(report, out)?;
    write_small(report, out)?;
    if let Some((_, chapter)) = report.typical() {
        write_chronicle(chapter, out)?;
    }
    write!(out, "<h2>The experiment</h2>\n<div class=\"card\"><pre>{}</pre></div>\n", escape(source.trim_end()))?;
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(())
}

fn write_head(report: &Report, title: &str, out: &mut String) -> std::fmt::Result {
    let experiment = &report.experiment;
    let (class, word) = if report.held { ("verdict", "as predicted") } else { ("verdict broken", "not as predicted") };
    let load = experiment.load;
    writeln!(out, "<header><div><h1>{title}</h1>")?;
    writeln!(
        out,
        "<p class=\"stage\">{} members, {} \u{d7} {}, {} clients of {} writes a second; {}</p></div>",
        experiment.members,
        report.runs.len(),
        experiment.duration,
        load.clients,
        load.rate,
        report.stage_text()
    )?;
    writeln!(out, "<span class=\"{class}\">{word}</span></header>")?;
    if !experiment.question.is_empty() {
        writeln!(out, "<p class=\"question\">{}</p>", escape(experiment.question.trim()))?;
    }
    Ok(())
}

fn write_predictions(report: &Report, out: &mut String) -> std::fmt::Result {
    if report.predictions.is_empty() {
        return Ok(());
    }
    write!(out, "<h2>What was predicted</h2>\n<div class=\"card\"><ul class=\"predictions\">\n")?;
    for verdict in &report.predictions {
        let class = if verdict.held { "held" } else { "broken" };
        let (predicted, found, because) = (escape(&verdict.predicted), escape(&verdict.found), escape(&verdict.because));
        writeln!(
            out,
            "<li class=\"{class}\"><b>{predicted}</b> \u{2014} <span class=\"found\">found {found}</span><small>{because}</small></li>"
        )?;
    }
    out.push_str("</ul></div>\n");
    Ok(())
}

fn write_typical(report: &Report, index: usize, chapter: &Chapter, out: &mut String) -> std::fmt::Result {
    let of = if report.runs.len() > 1 { format!(" (repetition {}, the one in the middle)", index + 1) } else { String::new() };
    let whole = timeline::draw(chapter, 0, chapter.run.ended_ms, Detail::Full);
    write!(out, "<h2>What happened{of}</h2>\n<div class=\"card\"><div class=\"scroll\">{whole}</div>")?;
    out.push_str("<p class=\"legend\">");
    for (colour, word) in
        [("leader", "leads"), ("follower", "follows"), ("candidate", "stands for election"), ("stopped", "stopped"), ("down", "down")]
    {
        write!(out, "<span><i style=\"--c: var(--{colour})\"></i>{word}</span>")?;
    }
    for (colour, word) in [("fault", "what was done"), ("vote", "a vote"), ("write", "writes acknowledged"), ("bad", "refused or unclear")]
    {
        write!(out, "<span><i style=\"--c: var(--{colour})\"></i>{word}</span>")?;
    }
    out.push_str("</p></div>\n");
    if let Some((from_ms, to_ms)) = close_up(chapter) {
        let near = timeline::draw(chapter, from_ms, to_ms, Detail::Full);
        write!(out, "<h2>The change of leader, close up</h2>\n<div class=\"card\"><div class=\"scroll\">{near}</div></div>\n")?;
    }
    Ok(())
}

/// From a little before what made the first new leader stand to a little after it led.
fn close_up(chapter: &Chapter) -> Option<(u64, u64)> {
    let reign = chapter.story.reigns.iter().find(|reign| !reign.from_before)?;
    let stood = chapter.story.candidacies.iter().map(|candidacy| candidacy.at_ms).find(|at_ms| *at_ms <= reign.from_ms);
    let stood_ms = stood.unwrap_or(reign.from_ms);
    let causes = chapter.run.marks.iter().filter(|mark| mark.verb != Verb::Mark && mark.at_ms <= stood_ms);
    let cause_ms = causes.map(|mark| mark.at_ms).max().unwrap_or(stood_ms);
    let ended_ms = chapter.run.ended_ms;
    let (from_ms, to_ms) = (cause_ms.saturating_sub(CLOSE_UP_MS.0), (reign.from_ms + CLOSE_UP_MS.1).min(ended_ms));
    ((to_ms - from_ms) * CLOSE_UP_SHARE < ended_ms).then_some((from_ms, to_ms))
}

fn write_gaps(report: &Report, out: &mut String) -> std::fmt::Result {
    let Some(gaps) = report.gaps.as_ref().filter(|_| report.runs.len() > 1) else { return Ok(()) };
    let picture = curves::draw(gaps);
    writeln!(out, "<h2>The longest time in which a client could not write, over {} repetitions</h2>", report.runs.len())?;
    writeln!(out, "<div class=\"card\"><div class=\"scroll\">{picture}</div></div>")
}

fn write_measures(report: &Report, out: &mut String) -> std::fmt::Result {
    write!(out, "<h2>What was measured</h2>\n<div class=\"card\"><table>\n")?;
    out.push_str("<tr><th>in each repetition</th><th>least</th><th>p50</th><th>p99</th><th>most</th></tr>\n");
    for row in &report.measures {
        write_row(row, out)?;
    }
    out.push_str("</table></div>\n");
    Ok(())
}

fn write_row(row: &Row, out: &mut String) -> std::fmt::Result {
    if row.measure == Measure::Leader {
        let led: Vec<String> = row.members.iter().map(|(member, times)| format!("{member} {times}\u{d7}")).collect();
        return writeln!(out, "<tr><td>{}</td><td colspan=\"4\">{}</td></tr>", row.title, led.join(", "));
    }
    match &row.numbers {
        None => writeln!(out, "<tr><td>{}</td><td colspan=\"4\">\u{2014}</td></tr>", row.title),
        Some(numbers) => {
            let (min, p50, p99, max) = (numbers.min, numbers.p50, numbers.p99, numbers.max);
            writeln!(out, "<tr><td>{}</td><td>{min}</td><td>{p50}</td><td>{p99}</td><td>{max}</td></tr>", row.title)
        }
    }
}

fn write_small(report: &Report, out: &mut String) -> std::fmt::Result {
    if report.runs.len() < 2 {
        return Ok(());
    }
    write!(out, "<h2>All repetitions</h2>\n<div class=\"card grid-of-runs\">\n")?;
    for (index, chapter) in report.runs.iter().enumerate().take(SMALL_MAX) {
        let picture = timeline::draw(chapter, 0, chapter.run.ended_ms, Detail::Small);
        let gap = match chapter.values.get(&Measure::WriteGapMs) {
            Some(Value::Number(Some(gap))) => format!(", gap {}", time(*gap)),
            _ => String::new(),
        };
        writeln!(out, "<figure>{picture}<figcaption>{}{gap}</figcaption></figure>", index + 1)?;
    }
    out.push_str("</div>\n");
    Ok(())
}

fn write_chronicle(chapter: &Chapter, out: &mut String) -> std::fmt::Result {
    write!(out, "<h2>Step by step</h2>\n<div class=\"card\"><ol class=\"chronicle\">\n")?;
    let lines = chronicle::lines(chapter);
    for line in lines.iter().take(LINES_MAX) {
        let class = if line.cause { " class=\"done\"" } else { "" };
        writeln!(out, "<li><time>{} ms</time><span{class}>{}</span></li>", line.at_ms, escape(&line.text))?;
    }
    if lines.len() > LINES_MAX {
        writeln!(out, "<li><time></time><span>and {} more</span></li>", lines.len() - LINES_MAX)?;
    }
    out.push_str("</ol></div>\n");
    Ok(())
}
