//! The page: figures of a run as Markdown tables, one for each system beside etcd.

use std::fmt::Write as _;

use crate::floor::Floor;
use crate::relay::Ways;
use crate::rounds::{Round, median};
use crate::usage::Usage;

/// What a column is called that the others are compared with.
pub const PEER: &str = "etcd";

/// The figures of one row: by system, all rounds.
#[derive(Clone, Debug)]
pub struct Line {
    /// The row's name.
    pub name: String,
    /// The systems' names and rounds.
    pub systems: Vec<(&'static str, Vec<Round>)>,
}

/// What making the objects brought, by system.
#[derive(Clone, Debug)]
pub struct Filled {
    /// The system.
    pub system: &'static str,
    /// Objects made per second.
    pub per_second: f64,
    /// What the processes used when the objects were there.
    pub used: Usage,
}

/// All that a page says.
#[derive(Clone, Debug)]
pub struct Page {
    /// Machine, versions, date, command: one paragraph.
    pub about: String,
    /// The disk, before and after the rows.
    pub floor: [Floor; 2],
    /// A call, before and after the rows.
    pub ways: [Ways; 2],
    /// How many objects there were.
    pub objects: u64,
    /// By system.
    pub filled: Vec<Filled>,
    /// In the table's order.
    pub lines: Vec<Line>,
}

impl Page {
    /// As Markdown.
    pub fn text(&self) -> String {
        let mut text = String::from("# The store beside etcd\n\n");
        let _infallible = writeln!(
            text,
            "{}\n\nThe floor. Of the disk: one thread that writes 4 KiB and calls fdatasync. Of one call in flight: from a client to a leader, \
             from there to one follower, and back, over TLS, by three threads that do nothing else; for a put leader and follower call fdatasync at the same time.\n\n| floor | per second | p50 us | p99 us |\n|---|---|---|---|",
            self.about
        );
        for (when, floor) in ["before", "after"].iter().zip(&self.floor) {
            for (how, syncs) in [("appended to a growing file", floor.append), ("inside a file of its final length", floor.overwrite)] {
                let _infallible =
                    writeln!(text, "| {how}, {when} the rows | {:.0} | {} | {} |", syncs.per_second, syncs.p50_us, syncs.p99_us);
            }
        }
        for (when, ways) in ["before", "after"].iter().zip(&self.ways) {
            for (what, way) in [("a put of 256 B", ways.put), ("a put of 16 KiB", ways.large_put), ("a get", ways.get)] {
                let _infallible =
                    writeln!(text, "| the way of {what}, {when} the rows | {:.0} | {} | {} |", way.per_second, way.p50_us, way.p99_us);
            }
        }
        text.push('\n');
        self.memory(&mut text);
        for system in self.systems() {
            self.table(&mut text, system);
        }
        text.push_str(NOTES);
        text
    }

    /// The systems that are compared with the peer.
    fn systems(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = Vec::new();
        for (name, _) in self.lines.iter().flat_map(|line| &line.systems) {
            if *name != PEER && !names.contains(name) {
                names.push(name);
            }
        }
        names
    }

    fn memory(&self, text: &mut String) {
        let _infallible = writeln!(
            text,
            "## {} objects of 1 KiB\n\n| system | created per second | RSS of the three processes, MiB | written to disk, bytes per byte |\n|---|---|---|---|",
            thousands(self.objects)
        );
        for filled in &self.filled {
            #[expect(clippy::cast_precision_loss, reason = "bytes of memory and disk are below 2^52")]
            let (resident, written) = (filled.used.resident_bytes as f64, filled.used.written_bytes as f64);
            #[expect(clippy::cast_precision_loss, reason = "a count of objects")]
            let payload = self.objects as f64 * 1024.0;
            let _infallible = writeln!(
                text,
                "| {} | {:.0} | {:.0} | {:.1} |",
                filled.system,
                filled.per_second,
                resident / f64::from(1 << 20),
                written / payload.max(1.0)
            );
        }
    }

    fn table(&self, text: &mut String, system: &str) {
        let _infallible = writeln!(
            text,
            "\n## {system} and {PEER}\n\n| row | {system}, per second (least to most) | {PEER} | ratio | p50 ms | p99 ms | server CPU s per 1,000 | \
             CPU ratio | client CPU s per 1,000 | bytes to disk per byte |\n|---|---|---|---|---|---|---|---|---|---|"
        );
        for line in &self.lines {
            let rounds = |name: &str| line.systems.iter().find(|(known, _)| *known == name).map(|(_, rounds)| rounds.as_slice());
            let Some(ours) = rounds(system) else { continue };
            let peer = rounds(PEER).unwrap_or_default();
            let _infallible = writeln!(text, "| {} | {} |", line.name, cells(ours, peer).join(" | "));
        }
    }
}

fn cells(ours: &[Round], peer: &[Round]) -> Vec<String> {
    let both = |pick: fn(&Round) -> f64, digits: usize| {
        let of = |rounds: &[Round]| format!("{:.digits$}", median(rounds.iter().map(pick)));
        if peer.is_empty() { of(ours) } else { format!("{} / {}", of(ours), of(peer)) }
    };
    let ratio = |upper: f64, lower: f64| if lower > 0.0 { format!("{:.2}x", upper / lower) } else { "-".to_owned() };
    let middle = |rounds: &[Round], pick: fn(&Round) -> f64| median(rounds.iter().map(pick));
    let refused = middle(ours, |round| round.refused_percent);
    let mut ours_rate = rate(ours);
    if refused > 0.0 {
        let _infallible = write!(ours_rate, ", {refused:.0} % refused; {PEER} {:.0} %", middle(peer, |round| round.refused_percent));
    }
    vec![
        ours_rate,
        rate(peer),
        ratio(middle(ours, |round| round.per_second), middle(peer, |round| round.per_second)),
        both(|round| round.p50_ms, 2),
        both(|round| round.p99_ms, 2),
        both(|round| round.cpu_seconds, 3),
        ratio(middle(peer, |round| round.cpu_seconds), middle(ours, |round| round.cpu_seconds)),
        both(|round| round.client_cpu_seconds, 3),
        both(|round| round.written_ratio, 1),
    ]
}

/// Median and spread.
fn rate(rounds: &[Round]) -> String {
    if rounds.is_empty() {
        return "-".to_owned();
    }
    let rates = || rounds.iter().map(|round| round.per_second);
    let (least, most) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
    format!("{} ({} to {})", whole(median(rates())), whole(least), whole(most))
}

fn whole(figure: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and small")]
    thousands(figure.round() as u64)
}

/// With commas.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && place % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const NOTES: &str = "
## How to read it

- Rows are medians over the rounds; the systems take turns within each row, the first one changing from round to round. Both groups run all the
  time, three processes each, on the same cores as the client; nobody else is asked while one is measured.
- Calls are a closed loop over at most 16 connections with TLS 1.3 and client certificates. The client is one process for all systems: pure
  codecs on the same loop, keys, values and connections; its own CPU per operation is in the table.
- Ours is the store behind a small server with a length-prefixed binary protocol, as the API server has it in its own process; \"by etcd's
  API\" is the same store behind the gRPC facade, spoken to by the very client that speaks to etcd.
- Puts replace one of 4,096 keys. Gets and ranges read the objects of the second table. Durable means durable: every write is on the disk of a
  majority (fsync) before it is answered, in all systems. None forgets history within a row: etcd is compacted after each one, ours keeps
  16 GiB here. With `--history-bytes` both keep so much and no more: ours by itself, etcd is compacted once a second while it is asked.
- The CPU ratio is the peer's seconds over ours: above 2 is at most half the CPU. Written bytes are those of all three members per byte of keys
  and values, within the window: what is written later in the background is in another row's window or in none.
- Events are counted per watcher; delay is from before the write until a watcher has the event. The writer is at most 16 writes ahead.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_row_compares_medians() {
        let round = |per_second, cpu_seconds| Round { per_second, cpu_seconds, ..Round::default() };
        let cells = cells(&[round(300.0, 1.0), round(100.0, 1.0), round(200.0, 1.0)], &[round(100.0, 3.0)]);
        assert_eq!(cells[..3], ["200 (100 to 300)", "100 (100 to 100)", "2.00x"]);
        assert_eq!(cells[5..7], ["1.000 / 3.000", "3.00x"]);
    }
}
