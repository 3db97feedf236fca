//! The picture of a repetition: a lane for each member, what was done above, writes below.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use trierarch_raft::NodeId;

use super::markup::{Scale, escape, time};
use crate::experiment::Verb;
use crate::recording::{Mark, Outcome};
use crate::report::Chapter;
use crate::target::name;

/// Width of the picture.
const WIDTH: f64 = 1120.0;
/// Where lanes begin, right of the members' names.
const LEFT: f64 = 56.0;
/// Height of a lane.
const LANE: f64 = 30.0;
/// From the top of a lane to that of the next one.
const PITCH: f64 = 46.0;
/// Height of a row of labels above the lanes.
const LABEL: f64 = 17.0;
/// About how wide a letter of a label is.
const LETTER: f64 = 6.6;
/// Height of the writes below.
const WRITES: f64 = 46.0;
/// Width of a bar of writes.
const BIN: f64 = 4.0;

/// How much a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// Everything.
    Full,
    /// Lanes only, for many beside each other.
    Small,
}

/// Draws a part of a repetition.
pub(super) fn draw(chapter: &Chapter, from_ms: u64, to_ms: u64, detail: Detail) -> String {
    let mut svg = String::new();
    // writing into a string succeeds
    let _written = match detail {
        Detail::Full => full(chapter, from_ms, to_ms, &mut svg),
        Detail::Small => small(chapter, from_ms, to_ms, &mut svg),
    };
    svg
}

fn small(chapter: &Chapter, from_ms: u64, to_ms: u64, svg: &mut String) -> std::fmt::Result {
    let scale = Scale { from: from_ms, to: to_ms, left: 0.0, right: 320.0 };
    let height = 9.0 * count(chapter.story.lanes.len());
    write!(svg, r#"<svg class="small" viewBox="0 0 320 {height:.0}" role="img">"#)?;
    for (index, parts) in chapter.story.lanes.values().enumerate() {
        for part in parts {
            let (x, y) = (scale.x(part.from_ms), 9.0 * count(index));
            write!(svg, r#"<rect class="role {}" x="{x:.1}" y="{y:.0}" width="{:.1}" height="7"/>"#, part.role, scale.x(part.to_ms) - x)?;
        }
    }
    for mark in chapter.run.marks.iter().filter(|mark| mark.verb != Verb::Mark) {
        let x = scale.x(mark.at_ms);
        write!(svg, r#"<path class="cause" d="M{x:.1} 0V{height:.0}"/>"#)?;
    }
    svg.push_str("</svg>");
    Ok(())
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn full(chapter: &Chapter, from_ms: u64, to_ms: u64, svg: &mut String) -> std::fmt::Result {
    let scale = Scale { from: from_ms, to: to_ms, left: LEFT, right: WIDTH - 8.0 };
    let marks: Vec<&Mark> = chapter.run.marks.iter().filter(|mark| scale.holds(mark.at_ms)).collect();
    let rows = label_rows(&marks, scale);
    let top = 10.0 + LABEL * count(rows.iter().max().map_or(0, |row| row + 1));
    let lanes: BTreeMap<NodeId, f64> =
        chapter.story.lanes.keys().enumerate().map(|(index, member)| (*member, top + 12.0 + PITCH * count(index))).collect();
    let bottom = top + 4.0 + PITCH * count(lanes.len());
    let axis = bottom + WRITES + 8.0;
    write!(svg, r#"<svg class="timeline" viewBox="0 0 {WIDTH:.0} {:.0}" role="img">"#, axis + 24.0)?;
    draw_axis(scale, top, axis, svg)?;
    for (member, y) in &lanes {
        let middle = y + LANE / 2.0 + 4.0;
        write!(svg, r#"<text class="name" x="{:.0}" y="{middle:.1}">{}</text>"#, LEFT - 10.0, name(*member))?;
    }
    draw_faults(chapter, scale, &lanes, svg)?;
    draw_lanes(chapter, scale, &lanes, svg)?;
    draw_marks(&marks, &rows, scale, bottom, svg)?;
    draw_votes(chapter, scale, &lanes, svg)?;
    draw_repairs(chapter, scale, &lanes, svg)?;
    draw_writes(chapter, scale, bottom, svg)?;
    svg.push_str("</svg>");
    Ok(())
}

fn draw_axis(scale: Scale, top: f64, axis: f64, svg: &mut String) -> std::fmt::Result {
    for tick in scale.ticks(9) {
        let x = scale.x(tick);
        write!(svg, r#"<path class="grid" d="M{x:.1} {top:.0}V{axis:.0}"/>"#)?;
        write!(svg, r#"<text class="tick" x="{x:.1}" y="{:.0}">{}</text>"#, axis + 15.0, time(tick))?;
    }
    Ok(())
}

fn draw_lanes(chapter: &Chapter, scale: Scale, lanes: &BTreeMap<NodeId, f64>, svg: &mut String) -> std::fmt::Result {
    for (member, parts) in &chapter.story.lanes {
        let Some(y) = lanes.get(member) else { continue };
        let mut shown_term = 0;
        for part in parts.iter().filter(|part| part.to_ms > scale.from && part.from_ms < scale.to) {
            let (x, right) = (scale.x(part.from_ms), scale.x(part.to_ms));
            let (role, term, width) = (&part.role, part.term, (right - x).max(1.5));
            let title = format!("{} {role} in term {term}, {} to {}", name(*member), time(part.from_ms), time(part.to_ms));
            write!(
                svg,
                r#"<rect class="role {role}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{LANE:.0}" rx="3"><title>{title}</title></rect>"#
            )?;
            let text = if role == "leader" { format!("leads, term {term}") } else { format!("term {term}") };
            let needed = LETTER * count(text.len()) + 8.0;
            if role == "leader" && width > needed {
                write!(svg, r#"<text class="on-leader" x="{:.1}" y="{:.1}">{text}</text>"#, x + 6.0, y + LANE / 2.0 + 4.0)?;
            } else if term != shown_term && role != "down" && role != "stopped" && width > needed {
                write!(svg, r#"<text class="on-lane {role}" x="{:.1}" y="{:.1}">{text}</text>"#, x + 6.0, y + LANE / 2.0 + 4.0)?;
            }
            shown_term = term;
        }
    }
    for candidacy in chapter.story.candidacies.iter().filter(|candidacy| scale.holds(candidacy.at_ms)) {
        let Some(y) = lanes.get(&candidacy.member) else { continue };
        let x = scale.x(candidacy.at_ms);
        let (member, term, at) = (name(candidacy.member), candidacy.term, time(candidacy.at_ms));
        let (class, title) = match candidacy.pre {
            true => ("asks", format!("{member} asks whether it would win, {at}")),
            false => ("stands", format!("{member} begins an election in term {term}, {at}")),
        };
        write!(svg, r#"<path class="{class}" d="M{x:.1} {:.1}l-5 -9h10z"><title>{title}</title></path>"#, y - 1.0)?;
    }
    Ok(())
}

/// In which row each mark's label stands so that no two overlap.
fn label_rows(marks: &[&Mark], scale: Scale) -> Vec<usize> {
    let mut ends: Vec<f64> = Vec::new();
    let mut rows = Vec::new();
    for mark in marks {
        let (left, right) = label_extent(mark, scale);
        let row = ends.iter().position(|end| *end + 10.0 < left).unwrap_or(ends.len());
        match ends.get_mut(row) {
            Some(end) => *end = right,
            None => ends.push(right),
        }
        rows.push(row);
    }
    rows
}

/// Where a mark's label begins and ends: right of its line, left of it near the edge.
fn label_extent(mark: &Mark, scale: Scale) -> (f64, f64) {
    let (x, width) = (scale.x(mark.at_ms), LETTER * count(mark.text.len()));
    let left = if x + width + 6.0 > scale.right { (x - width).max(scale.left) } else { x + 4.0 };
    (left, left + width)
}

/// Frames around the lanes of members for as long as something is wrong with them.
fn draw_faults(chapter: &Chapter, scale: Scale, lanes: &BTreeMap<NodeId, f64>, svg: &mut String) -> std::fmt::Result {
    for mark in chapter.run.marks.iter().filter(|mark| mark.until_ms.is_some_and(|until_ms| until_ms > scale.from)) {
        let healed = chapter.run.marks.iter().filter(|later| later.step > mark.step && ends(later, mark)).map(|later| later.at_ms).min();
        let until_ms = mark.until_ms.unwrap_or(mark.at_ms).min(healed.unwrap_or(u64::MAX));
        for y in mark.members.iter().filter_map(|member| lanes.get(member)) {
            let (x, title) = (scale.x(mark.at_ms), escape(&format!("{}, {} to {}", mark.text, time(mark.at_ms), time(until_ms))));
            write!(
                svg,
                r#"<rect class="fault" x="{x:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="4"><title>{title}</title></rect>"#,
                y - 5.0,
                (scale.x(until_ms) - x).max(0.0),
                LANE + 10.0
            )?;
        }
    }
    Ok(())
}

fn draw_marks(marks: &[&Mark], rows: &[usize], scale: Scale, bottom: f64, svg: &mut String) -> std::fmt::Result {
    for (mark, row) in marks.iter().zip(rows) {
        let (x, y) = (scale.x(mark.at_ms), 12.0 + LABEL * count(*row));
        let (left, _) = label_extent(mark, scale);
        let class = if mark.verb == Verb::Mark { "named" } else { "done" };
        write!(svg, r#"<g class="{class}"><path class="cause" d="M{x:.1} {:.1}V{bottom:.0}"/>"#, y - 9.0)?;
        write!(svg, r#"<text class="label" x="{left:.1}" y="{y:.1}">{}</text></g>"#, escape(&mark.text))?;
    }
    Ok(())
}

/// Whether what a later step did ends an earlier one.
fn ends(later: &Mark, earlier: &Mark) -> bool {
    matches!(later.verb, Verb::Heal) || (later.verb == Verb::Clear && later.members.is_superset(&earlier.members))
}

fn draw_votes(chapter: &Chapter, scale: Scale, lanes: &BTreeMap<NodeId, f64>, svg: &mut String) -> std::fmt::Result {
    let drawn = chapter.story.votes.iter().filter(|vote| vote.voter != vote.candidate && scale.holds(vote.at_ms));
    for vote in drawn {
        let (Some(voter), Some(candidate)) = (lanes.get(&vote.voter), lanes.get(&vote.candidate)) else { continue };
        let x = scale.x(vote.at_ms);
        let (from, to) = if voter < candidate { (voter + LANE, *candidate) } else { (*voter, candidate + LANE) };
        let class = match (&vote.refused, vote.pre) {
            (Some(_), _) => "vote refused",
            (None, true) => "vote pre",
            (None, false) => "vote",
        };
        let why = vote.refused.as_ref().map_or_else(|| "votes for".to_owned(), |why| format!("refuses ({why})"));
        let title = format!("{} {why} {} in term {}, {}", name(vote.voter), name(vote.candidate), vote.term, time(vote.at_ms));
        write!(
            svg,
            r#"<g class="{class}"><title>{}</title><path d="M{x:.1} {from:.1}V{to:.1}"/><circle cx="{x:.1}" cy="{from:.1}" r="3.2"/>{}</g>"#,
            escape(&title),
            arrow(x, from, to)
        )?;
    }
    Ok(())
}

fn arrow(x: f64, from: f64, to: f64) -> String {
    let back = if from < to { to - 7.0 } else { to + 7.0 };
    format!(r#"<path class="head" d="M{x:.1} {to:.1}L{:.1} {back:.1}H{:.1}z"/>"#, x - 4.5, x + 4.5)
}

fn draw_repairs(chapter: &Chapter, scale: Scale, lanes: &BTreeMap<NodeId, f64>, svg: &mut String) -> std::fmt::Result {
    for repair in chapter.story.repairs.iter().filter(|repair| scale.holds(repair.at_ms)) {
        let Some(y) = lanes.get(&repair.member) else { continue };
        let text = match repair.entries() {
            1 => "\u{2212}1 entry".to_owned(),
            entries => format!("\u{2212}{entries} entries"),
        };
        write!(svg, r#"<text class="repair" x="{:.1}" y="{:.1}">{text}</text>"#, scale.x(repair.at_ms) + 3.0, y + LANE + 11.0)?;
    }
    for (at_ms, member) in chapter.story.snapshots.iter().filter(|(at_ms, _)| scale.holds(*at_ms)) {
        let Some(y) = lanes.get(member) else { continue };
        write!(svg, r#"<text class="repair" x="{:.1}" y="{:.1}">snapshot</text>"#, scale.x(*at_ms) + 3.0, y + LANE + 11.0)?;
    }
    Ok(())
}

/// Acknowledged writes upwards, others downwards.
fn draw_writes(chapter: &Chapter, scale: Scale, top: f64, svg: &mut String) -> std::fmt::Result {
    let mut bins: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for write in chapter.run.writes.iter().filter(|write| scale.holds(write.answered_ms)) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a pixel of the picture")]
        let bin = ((scale.x(write.answered_ms) - scale.left) / BIN) as u64;
        let (acknowledged, others) = bins.entry(bin).or_default();
        *(if write.outcome == Outcome::Acknowledged { acknowledged } else { others }) += 1;
    }
    let most = f64::from(bins.values().map(|(acknowledged, others)| *acknowledged.max(others)).max().unwrap_or(1).max(1));
    let base = top + WRITES * 0.68;
    write!(svg, r#"<text class="name" x="{:.0}" y="{:.1}">writes</text>"#, LEFT - 10.0, base - 4.0)?;
    write!(svg, r#"<path class="grid" d="M{LEFT} {base:.1}H{:.0}"/>"#, scale.right)?;
    for (bin, (acknowledged, others)) in bins {
        #[expect(clippy::cast_precision_loss, reason = "pixels")]
        let x = scale.left + BIN * bin as f64;
        let (up, down) = (f64::from(acknowledged) / most * WRITES * 0.62, f64::from(others) / most * WRITES * 0.3);
        if acknowledged > 0 {
            write!(svg, r#"<rect class="acknowledged" x="{x:.1}" y="{:.1}" width="3.2" height="{up:.1}"/>"#, base - up)?;
        }
        if others > 0 {
            let down = down.max(2.0);
            write!(svg, r#"<rect class="refused" x="{x:.1}" y="{:.1}" width="3.2" height="{down:.1}"/>"#, base + 1.0)?;
        }
    }
    Ok(())
}
