//! The page: what the parts brought, targets first.

use std::fmt::Write as _;
use std::time::Duration;

use super::away::Return;
use super::history::History;
use super::idle::{Groups, Idle};
use super::install::Join;
use super::sizes::{ROWS, Size};
use super::writing::Writes;
use crate::report::thousands;

/// What was measured; parts that were left out are absent.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Machine, versions, date, command: one paragraph.
    pub about: String,
    /// By number of objects.
    pub sizes: Vec<Size>,
    /// A new member that received much.
    pub install: Option<(Writes, Join)>,
    /// A long history.
    pub history: Option<History>,
    /// A member that was away.
    pub away: Option<Return>,
    /// Groups that had nothing to do.
    pub idle: Option<Groups>,
}

impl Page {
    /// As Markdown.
    pub fn text(&self) -> String {
        let mut text = format!("# The store as it grows\n\n{}\n", self.about);
        self.targets(&mut text);
        self.sizes(&mut text);
        self.writes(&mut text);
        text.push_str(NOTES);
        text
    }

    fn targets(&self, text: &mut String) {
        text.push_str("\n| what | target | measured |\n|---|---|---|\n");
        let mut line = |what: &str, target: &str, measured: &str| {
            let _infallible = writeln!(text, "| {what} | {target} | {measured} |");
        };
        if let Some(history) = &self.history {
            let what =
                format!("start of a member with {} revisions of {} objects", thousands(history.revisions), thousands(history.objects));
            let measured = format!("{} stopped orderly, {} killed", seconds(history.stopped), seconds(history.killed));
            line(&what, "5 s", &measured);
            let (quiet, forgetting) = (history.quiet.p99_ms, history.forgetting.p99_ms);
            let measured = format!(
                "{forgetting:.1} ms, longest {:.1} ms; {quiet:.1} ms and {:.1} ms without; {} changes forgotten per second, {}",
                history.forgetting.longest_ms,
                history.quiet.longest_ms,
                whole(history.forgotten_per_second),
                elections(history.elections)
            );
            line("p99 of writes while all of that history is compacted", "no write stalls", &measured);
        }
        if let Some((_, join)) = &self.install {
            let what = format!("a new member receives a state of {} while clients write", mib(join.state_bytes));
            let measured = format!(
                "{} until it answers; {} acknowledged writes, all there; {}; longest write {:.0} ms",
                seconds(join.current),
                thousands(join.writes.acknowledged),
                elections(join.elections),
                join.writes.longest_ms
            );
            line(&what, "nothing lost, no election", &measured);
        }
        if let Some(away) = &self.away {
            let what = format!("a member that missed {} entries is back", thousands(away.missed));
            line(&what, "5 s", &format!("{}; while clients write {}", seconds(away.quiet), seconds(away.busy)));
        }
        if let Some(idle) = &self.idle {
            let minutes = idle.time.as_secs_f64() / 60.0;
            let written = idle.ours.iter().map(|one| one.written_bytes).sum();
            let measured = format!("{} syncs, {} bytes", idle.log_syncs, thousands(written));
            line(&format!("nothing to do for {minutes:.1} minutes: syncs of the log, bytes written by all members"), "none", &measured);
            let cpu = |members: &[Idle]| {
                let each = members.iter().map(|one| format!("{:.2} %{}", one.cpu_percent, if one.leads { " (leader)" } else { "" }));
                each.collect::<Vec<_>>().join(", ")
            };
            line("meanwhile, CPU of each member", "0.2 % of a core", &cpu(&idle.ours));
            if !idle.etcd.is_empty() {
                line("CPU of each member of etcd with nothing to do for as long afterwards", "", &cpu(&idle.etcd));
            }
        }
    }

    fn sizes(&self, text: &mut String) {
        if self.sizes.is_empty() {
            return;
        }
        let heads: Vec<String> = self.sizes.iter().map(|size| thousands(size.objects)).collect();
        let _infallible = writeln!(text, "\n## By the number of objects (1 KiB each)\n\n| what | {} |", heads.join(" | "));
        let _infallible = writeln!(text, "|---|{}", "---|".repeat(heads.len()));
        let mut line = |what: &str, cell: &dyn Fn(&Size) -> String| {
            let cells: Vec<String> = self.sizes.iter().map(cell).collect();
            let _infallible = writeln!(text, "| {what} | {} |", cells.join(" | "));
        };
        line("created per second", &|size| whole(size.created_per_second));
        line("memory of a member per object, bytes", &|size| whole(size.bytes_per_object));
        for (place, name) in ROWS.iter().enumerate() {
            line(&format!("{name}: per second; p99"), &|size| {
                let cell = size.rows.get(place).map(|round| format!("{}; {:.1} ms", whole(round.per_second), round.p99_ms));
                cell.unwrap_or_default()
            });
        }
        line("a follower that was stopped answers again after", &|size| seconds(size.stopped));
        line("one that was killed", &|size| seconds(size.killed));
        line("a new member receives", &|size| mib(size.join.state_bytes));
        line("it answers after", &|size| seconds(size.join.current));
        line("it votes after", &|size| seconds(size.join.votes));
        line("elections meanwhile", &|size| size.join.elections.to_string());
    }

    fn writes(&self, text: &mut String) {
        let heads = ["writes while", "in flight", "per second", "p50 ms", "p99 ms", "longest ms"];
        let _infallible = writeln!(text, "\n## Writes meanwhile\n\n| {} |\n|---|---|---|---|---|---|", heads.join(" | "));
        let mut line = |what: &str, in_flight: usize, writes: &Writes| {
            let _infallible = writeln!(
                text,
                "| {what} | {in_flight} | {} | {:.1} | {:.1} | {:.1} |",
                whole(writes.per_second),
                writes.p50_ms,
                writes.p99_ms,
                writes.longest_ms
            );
        };
        let mut joined = |what: &str, quiet: &Writes, join: &Join| {
            line(&format!("nothing else happens, {what}"), super::install::IN_FLIGHT, quiet);
            line(&format!("a new member receives {}", mib(join.state_bytes)), super::install::IN_FLIGHT, &join.writes);
        };
        for size in &self.sizes {
            joined(&format!("{} objects", thousands(size.objects)), &size.quiet, &size.join);
        }
        if let Some((quiet, join)) = &self.install {
            joined("objects of 16 KiB", quiet, join);
        }
        if let Some(history) = &self.history {
            line("nothing is forgotten, long history", super::history::IN_FLIGHT, &history.quiet);
            line("all of it is forgotten", super::history::IN_FLIGHT, &history.forgetting);
        }
        if let Some(away) = &self.away {
            line("a member catches up", super::install::IN_FLIGHT, &away.writes);
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", thousands(bytes >> 20))
}

fn elections(number: u64) -> String {
    match number {
        0 => "no election".to_owned(),
        1 => "1 election".to_owned(),
        more => format!("{more} elections"),
    }
}

fn whole(figure: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is positive and small")]
    thousands(figure.round() as u64)
}

const NOTES: &str = "
## How to read it

- Three members on one machine, on loopback with TLS and client certificates, each with a process and a directory of its own; the client
  shares the cores. All sync to the same disk.
- A start is measured from the start of the process to the first answer to a linearizable read, TLS connection included. The files of one that
  was stopped come from the disk (what is flushed goes past the system's cache), of one that was killed afterwards from memory.
- A new member has an empty directory and a new id. It answers linearizable reads as soon as it has everything. Afterwards all members are
  asked for a hash of keys, revisions and values of everything: it must be the same; and the number of keys that were added
  meanwhile must be the number of acknowledged writes.
- The history is compacted in one go: the group was started again with a limit of 1 MiB, so that everything before is forgotten. The store
  pauses between two steps, for the sake of writes.
- A member that was away was killed; it has everything again when it has applied what the leader had applied when both were asked last.
- Memory per object is resident memory of a member, less what it had before the first object, by the number of objects.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_were_measured_are_shown() {
        let idle = |leads, cpu_percent| Idle { leads, cpu_percent, written_bytes: 0 };
        let page = Page {
            about: "a machine".into(),
            away: Some(Return {
                missed: 100_000,
                quiet: Duration::from_millis(1500),
                busy: Duration::from_secs(2),
                writes: Writes { acknowledged: 10, per_second: 1234.0, p50_ms: 1.0, p99_ms: 2.0, longest_ms: 3.0 },
            }),
            idle: Some(Groups {
                time: Duration::from_secs(600),
                ours: vec![idle(true, 0.125), idle(false, 0.1)],
                log_syncs: 0,
                etcd: vec![idle(false, 1.5), idle(true, 2.25)],
            }),
            ..Page::default()
        };
        let text = page.text();
        for line in [
            "| a member that missed 100,000 entries is back | 5 s | 1.50 s; while clients write 2.00 s |",
            "| nothing to do for 10.0 minutes: syncs of the log, bytes written by all members | none | 0 syncs, 0 bytes |",
            "| meanwhile, CPU of each member | 0.2 % of a core | 0.12 % (leader), 0.10 % |",
            "| CPU of each member of etcd with nothing to do for as long afterwards |  | 1.50 %, 2.25 % (leader) |",
            "| a member catches up | 16 | 1,234 | 1.0 | 2.0 | 3.0 |",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("By the number of objects") && !text.contains("new member receives a state"));
    }
}
