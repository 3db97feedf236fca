//! Aligned columns: cells end in tabs, and a column reaches over the neighbouring lines that have a cell in it.
//!
//! `Spec:` the elastic tab stops of Go's `text/tabwriter` with blanks as padding, which every text of kubectl goes through.

/// The text with its tabs turned into blanks. Each cell takes its width and `padding` blanks, at least `width_min` together.
pub fn align(text: &str, width_min: usize, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut out = String::with_capacity(text.len() * 2);
    let mut state = Aligner { lines: &lines, width_min, padding, widths: Vec::new() };
    state.format(0, lines.len(), &mut out);
    // `split` made one line too many
    out.pop();
    out
}

/// As descriptions are aligned.
pub fn describe(text: &str) -> String {
    align(text, 0, 2)
}

struct Aligner<'a> {
    lines: &'a [Vec<&'a str>],
    width_min: usize,
    padding: usize,
    widths: Vec<usize>,
}

impl Aligner<'_> {
    fn format(&mut self, start: usize, end: usize, out: &mut String) {
        let column = self.widths.len();
        let (mut written, mut at) = (start, start);
        while at < end {
            // the last cell of a line is no part of a column
            if column + 1 >= self.lines[at].len() {
                at += 1;
                continue;
            }
            self.write(written, at, out);
            written = at;
            let mut width = self.width_min;
            while at < end && column + 1 < self.lines[at].len() {
                width = width.max(self.lines[at][column].chars().count() + self.padding);
                at += 1;
            }
            self.widths.push(width);
            self.format(written, at, out);
            self.widths.pop();
            written = at;
        }
        self.write(written, end, out);
    }

    fn write(&self, start: usize, end: usize, out: &mut String) {
        for line in &self.lines[start..end] {
            for (column, cell) in line.iter().enumerate() {
                out.push_str(cell);
                if let Some(width) = self.widths.get(column)
                    && column + 1 < line.len()
                {
                    out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
                }
            }
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_its_widest_cell() {
        assert_eq!(align("NAME\tAGE\nlonger\t1s\n", 6, 3), "NAME     AGE\nlonger   1s\n");
        assert_eq!(align("a\tb\n", 6, 3), "a     b\n");
        assert_eq!(align("a\t\tc\n", 0, 2), "a    c\n");
    }

    #[test]
    fn a_line_without_a_cell_ends_the_column() {
        assert_eq!(describe("Name:\tx\nLabels:\n  a:\tb\nLonger:\tz\n"), "Name:  x\nLabels:\n  a:     b\nLonger:  z\n");
        assert_eq!(describe("no tabs\n\nat all\n"), "no tabs\n\nat all\n");
        assert_eq!(describe("open"), "open");
    }
}
