//! The picture of the gaps: how many repetitions had one of which length.

use std::fmt::Write as _;

use super::markup::{Scale, time};
use crate::report::Gaps;

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 190.0;
const BASE: f64 = 158.0;

/// Draws the histogram, with lines at the median and at 99 in a hundred.
pub(super) fn draw(gaps: &Gaps) -> String {
    let mut svg = String::new();
    // writing into a string succeeds
    let _written = write(gaps, &mut svg);
    svg
}

fn write(gaps: &Gaps, svg: &mut String) -> std::fmt::Result {
    let to = gaps.histogram.last().map_or(1, |bar| bar.to);
    let scale = Scale { from: 0, to, left: 56.0, right: WIDTH - 24.0 };
    let most = gaps.histogram.iter().map(|bar| bar.count).max().unwrap_or(1).max(1);
    write!(svg, r#"<svg class="gaps" viewBox="0 0 {WIDTH:.0} {HEIGHT:.0}" role="img">"#)?;
    for tick in scale.ticks(10) {
        write!(svg, r#"<text class="tick" x="{:.1}" y="{:.0}">{}</text>"#, scale.x(tick), BASE + 18.0, time(tick))?;
    }
    write!(svg, r#"<path class="grid" d="M56 {BASE:.0}H{:.0}"/>"#, scale.right)?;
    for bar in gaps.histogram.iter().filter(|bar| bar.count > 0) {
        let (x, right) = (scale.x(bar.from), scale.x(bar.to));
        #[expect(clippy::cast_precision_loss, reason = "pixels")]
        let height = 108.0 * bar.count as f64 / most as f64;
        let (width, y) = ((right - x - 2.0).max(2.0), BASE - height);
        let title = format!("{} of them between {} and {} ms", bar.count, bar.from, bar.to);
        write!(
            svg,
            r#"<rect class="bar" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2"><title>{title}</title></rect>"#
        )?;
        write!(svg, r#"<text class="count" x="{:.1}" y="{:.1}">{}</text>"#, x + width / 2.0, y - 5.0, bar.count)?;
    }
    let figures = &gaps.distribution;
    for (index, (word, figure)) in [("p50", figures.p50), ("p99", figures.p99)].into_iter().enumerate() {
        let (x, y) = (scale.x(figure), if index == 0 { 14.0 } else { 30.0 });
        let anchor = if x > WIDTH * 0.8 { ("end", x - 5.0) } else { ("start", x + 5.0) };
        write!(svg, r#"<path class="figure" d="M{x:.1} {:.0}V{BASE:.0}"/>"#, y - 10.0)?;
        write!(svg, r#"<text class="figure" text-anchor="{}" x="{:.1}" y="{y:.0}">{word} {figure} ms</text>"#, anchor.0, anchor.1)?;
    }
    svg.push_str("</svg>");
    Ok(())
}
