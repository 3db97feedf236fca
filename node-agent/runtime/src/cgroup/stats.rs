//! Resource use, read from the files of a cgroup.

use std::path::{Path, PathBuf};

use crate::status::Stats;

fn text(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap_or_default()
}

fn number(dir: &Path, file: &str) -> u64 {
    text(dir, file).trim().parse().unwrap_or(0)
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

/// Numbers beyond this are v1's way of saying "no limit".
const UNLIMITED: u64 = 1 << 60;

pub(super) fn v1(dir: impl Fn(&str) -> Option<PathBuf>) -> Stats {
    let mut stats = Stats::default();
    if let Some(dir) = dir("cpuacct") {
        stats.cpu_usage_ns = number(&dir, "cpuacct.usage");
    }
    if let Some(dir) = dir("memory") {
        let detail = text(&dir, "memory.stat");
        stats.memory_usage_bytes = number(&dir, "memory.usage_in_bytes");
        stats.memory_working_set_bytes = stats.memory_usage_bytes.saturating_sub(field(&detail, "total_inactive_file"));
        stats.memory_rss_bytes = field(&detail, "total_rss");
        stats.memory_page_faults = field(&detail, "total_pgfault");
        stats.memory_major_page_faults = field(&detail, "total_pgmajfault");
        stats.memory_limit_bytes = Some(number(&dir, "memory.limit_in_bytes")).filter(|&limit| limit > 0 && limit < UNLIMITED);
    }
    if let Some(dir) = dir("pids") {
        stats.pids = number(&dir, "pids.current");
    }
    stats
}

pub(super) fn v2(dir: &Path) -> Stats {
    let detail = text(dir, "memory.stat");
    let usage = number(dir, "memory.current");
    Stats {
        cpu_usage_ns: field(&text(dir, "cpu.stat"), "usage_usec") * 1000,
        memory_usage_bytes: usage,
        memory_working_set_bytes: usage.saturating_sub(field(&detail, "inactive_file")),
        memory_rss_bytes: field(&detail, "anon"),
        memory_limit_bytes: text(dir, "memory.max").trim().parse().ok(),
        memory_page_faults: field(&detail, "pgfault"),
        memory_major_page_faults: field(&detail, "pgmajfault"),
        pids: number(dir, "pids.current"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 300\nfile 700\ninactive_file 400\npgfault 7\n"),
            ("memory.max", "max\n"),
            ("cpu.stat", "usage_usec 12\nuser_usec 3\n"),
            ("pids.current", "2\n"),
        ] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        let stats = v2(dir.path());
        assert_eq!((stats.cpu_usage_ns, stats.memory_working_set_bytes, stats.memory_limit_bytes, stats.pids), (12_000, 600, None, 2));
    }
}
