//! What processes have used so far, from `/proc`.

use std::path::PathBuf;

use anyhow::Context as _;

/// `Spec:` proc_pid_stat(5): times are in clock ticks, a hundred per second on every Linux that runs this.
const TICKS_PER_SECOND: f64 = 100.0;

/// The sum over some processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Bytes that were sent to the disk.
    pub written_bytes: u64,
    /// Resident memory.
    pub resident_bytes: u64,
}

impl Usage {
    /// What the processes have used since they started.
    ///
    /// # Errors
    /// One of them has ended.
    pub fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let file = |name: &str| {
                let path = PathBuf::from(format!("/proc/{pid}/{name}"));
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}; has the process ended?", path.display()))
            };
            sum.cpu_seconds += cpu_seconds(&file("stat")?).context("unreadable stat")?;
            sum.written_bytes += number(&file("io")?, "write_bytes:").context("unreadable io")?;
            sum.resident_bytes += number(&file("status")?, "VmRSS:").context("unreadable status")? * 1024;
        }
        Ok(sum)
    }

    /// What was used between `earlier` and this; memory as it is now.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            resident_bytes: self.resident_bytes,
        }
    }
}

/// The program's name may hold spaces and parentheses; what follows the last one does not.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_any_name() {
        let stat = "7 (a b) c)) S 1 7 7 0 -1 4194560 5 0 0 0 150 50 0 0 20 0 3 0 99 0 0";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[test]
    fn numbers_are_found_by_name() {
        assert_eq!(number("wchar: 5\nwrite_bytes: 42\n", "write_bytes:"), Some(42));
        assert_eq!(number("VmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
    }

    #[test]
    fn this_process_uses_something() {
        let used = Usage::of(&[std::process::id()]).unwrap();
        assert!(used.resident_bytes > 0);
        assert!(Usage::of(&[u32::MAX]).is_err());
    }
}
