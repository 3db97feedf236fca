//! How far something long has come: nothing for the first second, then a line on standard error that is rewritten.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::HumanBytes;

/// What takes less time than this needs no progress.
const QUIET: Duration = Duration::from_secs(1);
/// Between two lines: on a terminal, where they replace each other, and elsewhere.
const PAUSE_TERMINAL: Duration = Duration::from_millis(100);
const PAUSE_ELSEWHERE: Duration = Duration::from_secs(5);

/// Shows it. The line ends when this is dropped.
pub struct Progress {
    what: &'static str,
    terminal: bool,
    next: Instant,
    shown: bool,
}

impl Progress {
    /// Of something that begins now.
    pub fn new(what: &'static str) -> Self {
        Self { what, terminal: std::io::stderr().is_terminal(), next: now() + QUIET, shown: false }
    }

    /// It has come so far, of so much if that is known.
    pub fn show(&mut self, done_bytes: u64, total_bytes: Option<u64>) {
        let now = now();
        if now < self.next {
            return;
        }
        let (start, pause, end) = if self.terminal { ("\r\x1b[K", PAUSE_TERMINAL, "") } else { ("", PAUSE_ELSEWHERE, "\n") };
        self.next = now + pause;
        self.shown = true;
        match total_bytes {
            Some(total) => eprint!("{start}{} {} % of {}{end}", self.what, done_bytes * 100 / total.max(1), HumanBytes(total)),
            None => eprint!("{start}{} {}{end}", self.what, HumanBytes(done_bytes)),
        }
        let _not_fatal = std::io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown && self.terminal {
            eprintln!();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell of a command: it tells its user how long things take")]
fn now() -> Instant {
    Instant::now()
}
