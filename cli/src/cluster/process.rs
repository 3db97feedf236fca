//! Processes that we started, remembered by id and start time, so that nobody else's is ever ended.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process as a pid file remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`proc(5)`: field 22 of `/proc/PID/stat`): ids are used again, this pair is not.
    pub started: u64,
}

/// Reads field 22 of `/proc/PID/stat`; the command in field 2 may hold spaces and parentheses.
fn parse_start(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn parse_state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.split_whitespace().next()?.chars().next()
}

impl Remembered {
    /// A living process.
    pub fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, started: parse_start(&stat)? })
    }

    /// Writes the pid file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, format!("{} {}\n", self.pid, self.started))
    }

    /// Reads a pid file.
    pub fn load(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut words = text.split_whitespace();
        Some(Self { pid: words.next()?.parse().ok()?, started: words.next()?.parse().ok()? })
    }

    /// Whether it still runs (a zombie does not).
    pub fn is_alive(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| parse_start(&stat) == Some(self.started) && parse_state(&stat) != Some('Z'))
    }

    /// Sends a signal if it still runs.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // it may end in between: then there is nobody to signal
            let _gone = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Asks it to end, waits, then ends it.
    pub async fn end(&self, patience: Duration) {
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(patience, self.gone()).await.is_err() {
            self.signal(Signal::SIGKILL);
            self.gone().await;
        }
    }

    /// Returns when it has ended.
    pub async fn gone(&self) {
        // /proc offers no notification to a process that is not the parent
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        while self.is_alive() {
            ticks.tick().await;
        }
    }
}

/// Where a part's pid file is.
pub fn pid_file(run_dir: &Path, part: &str) -> PathBuf {
    run_dir.join("pids").join(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_confuse() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(parse_start(stat), Some(98765));
        assert_eq!(parse_state(stat), Some('S'));
    }

    #[test]
    fn another_process_with_the_same_id_is_not_ours() {
        let me = Remembered::of(std::process::id()).expect("this process lives");
        assert!(me.is_alive());
        assert!(!Remembered { started: me.started + 1, ..me }.is_alive());
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = pid_file(folder.path(), "m1");
        me.save(&path).expect("written");
        assert_eq!(Remembered::load(&path), Some(me));
    }
}
