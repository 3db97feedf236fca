//! Text in markup, and the scale of pictures.

/// Text as it may stand in HTML and SVG, in attributes, too.
pub(super) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, letter| {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            letter => out.push(letter),
        }
        out
    })
}

/// From milliseconds, or any number, to pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// The number at the left edge.
    pub(super) from: u64,
    /// The number at the right edge.
    pub(super) to: u64,
    /// The left edge in pixels.
    pub(super) left: f64,
    /// The right edge in pixels.
    pub(super) right: f64,
}

impl Scale {
    /// The pixel of a number, within the edges.
    #[expect(clippy::cast_precision_loss, reason = "pixels")]
    pub(super) fn x(&self, number: u64) -> f64 {
        let inside = number.clamp(self.from, self.to) - self.from;
        self.left + (self.right - self.left) * inside as f64 / (self.to - self.from).max(1) as f64
    }

    /// Whether a number is within the edges.
    pub(super) fn holds(&self, number: u64) -> bool {
        (self.from..=self.to).contains(&number)
    }

    /// Round numbers between the edges, about `count` of them.
    pub(super) fn ticks(&self, count: u64) -> Vec<u64> {
        let least = (self.to - self.from).max(1).div_ceil(count.max(1));
        let mut unit = 1;
        let step = loop {
            if let Some(step) = [1, 2, 5].map(|factor| factor * unit).into_iter().find(|step| *step >= least) {
                break step;
            }
            unit *= 10;
        };
        (self.from.div_ceil(step)..=self.to / step).map(|tick| tick * step).collect()
    }
}

/// Milliseconds for people.
pub(super) fn time(ms: u64) -> String {
    match ms {
        0 => "0".to_owned(),
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms if ms >= 1000 => format!("{}.{} s", ms / 1000, format!("{:03}", ms % 1000).trim_end_matches('0')),
        ms => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_text_only() {
        assert_eq!(escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
    }

    #[test]
    fn a_scale_has_round_ticks() {
        let scale = Scale { from: 1800, to: 3100, left: 100.0, right: 200.0 };
        assert_eq!(scale.ticks(6), [2000, 2500, 3000]);
        assert!((scale.x(1800) - 100.0).abs() < 1e-9 && (scale.x(9999) - 200.0).abs() < 1e-9);
        assert_eq!([0, 250, 2000, 1250].map(time), ["0", "250 ms", "2 s", "1.25 s"]);
    }
}
