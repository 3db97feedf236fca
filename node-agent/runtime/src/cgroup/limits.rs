//! Which files get which values: a decision, for v1 and v2.

use crate::spec::Resources;

/// One value for one file of one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) controller: &'static str,
    pub(super) file: String,
    pub(super) value: String,
    /// Written again later, so a refusal now is not final.
    pub(super) retry: bool,
}

fn write(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Write {
    Write { controller, file: file.into(), value: value.to_string(), retry: false }
}

fn twice(list: Vec<Write>, out: &mut Vec<Write>) {
    out.extend(list.iter().map(|write| Write { retry: true, ..write.clone() }));
    out.extend(list);
}

fn cpuset(resources: &Resources, out: &mut Vec<Write>) {
    out.extend(resources.cpuset_cpus.as_ref().filter(|cpus| !cpus.is_empty()).map(|cpus| write("cpuset", "cpuset.cpus", cpus)));
    out.extend(resources.cpuset_mems.as_ref().filter(|mems| !mems.is_empty()).map(|mems| write("cpuset", "cpuset.mems", mems)));
}

/// Spec: kernel cgroup-v1.
pub(super) fn v1(resources: &Resources) -> Vec<Write> {
    let mut out = Vec::new();
    out.extend(resources.cpu_shares.map(|shares| write("cpu", "cpu.shares", shares.clamp(2, 262_144))));
    let mut cfs = Vec::new();
    cfs.extend(resources.cpu_period_us.map(|period| write("cpu", "cpu.cfs_period_us", period)));
    cfs.extend(resources.cpu_quota_us.map(|quota| write("cpu", "cpu.cfs_quota_us", if quota <= 0 { -1 } else { quota })));
    if cfs.len() == 2 {
        twice(cfs, &mut out)
    } else {
        out.extend(cfs)
    }
    if let Some(limit) = resources.memory_limit_bytes {
        let swap = match (limit, resources.swap_limit_bytes) {
            (limit, _) if limit < 0 => -1,
            (_, Some(swap)) if swap < 0 => -1,
            (limit, swap) => limit.saturating_add(swap.unwrap_or(0)),
        };
        let limits = vec![write("memory", "memory.limit_in_bytes", limit.max(-1)), write("memory", "memory.memsw.limit_in_bytes", swap)];
        twice(limits, &mut out);
    }
    out.extend(resources.pids_limit.map(|limit| write("pids", "pids.max", if limit <= 0 { "max".to_owned() } else { limit.to_string() })));
    cpuset(resources, &mut out);
    out.extend(resources.hugepage_limits.iter().map(|(size, bytes)| write("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), bytes)));
    out
}

/// `cpu.weight` of v1 shares: 2 is 1, 262144 is 10000, linear between.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// Spec: kernel cgroup-v2.
pub(super) fn v2(resources: &Resources) -> Vec<Write> {
    let mut out = Vec::new();
    out.extend(resources.cpu_shares.map(|shares| write("cpu", "cpu.weight", weight(shares))));
    match (resources.cpu_quota_us, resources.cpu_period_us) {
        (Some(quota), period) => {
            let quota = if quota <= 0 { "max".to_owned() } else { quota.to_string() };
            out.push(write("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
        }
        (None, Some(period)) => out.push(write("cpu", "cpu.max", format!("max {period}"))),
        (None, None) => {}
    }
    if let Some(limit) = resources.memory_limit_bytes {
        let swap = resources.swap_limit_bytes.unwrap_or(if limit < 0 { -1 } else { 0 });
        out.push(write("memory", "memory.swap.max", or_max(swap)));
        out.push(write("memory", "memory.max", or_max(limit)));
    }
    out.extend(resources.memory_min_bytes.map(|bytes| write("memory", "memory.min", bytes)));
    out.extend(resources.memory_high_bytes.map(|bytes| write("memory", "memory.high", bytes)));
    if resources.memory_oom_group {
        out.push(write("memory", "memory.oom.group", 1));
    }
    out.extend(resources.pids_limit.map(|limit| write("pids", "pids.max", if limit <= 0 { "max".to_owned() } else { limit.to_string() })));
    cpuset(resources, &mut out);
    out.extend(resources.hugepage_limits.iter().map(|(size, bytes)| write("hugetlb", format!("hugetlb.{size}.max"), bytes)));
    out.extend(resources.unified.iter().map(|(file, value)| write("", file.clone(), value)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(writes: &[Write]) -> Vec<String> {
        writes.iter().filter(|write| !write.retry).map(|write| format!("{}={}", write.file, write.value)).collect()
    }

    #[test]
    fn limits_become_files() {
        let resources = Resources {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_limit_bytes: Some(64 << 20),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        assert_eq!(
            lines(&v1(&resources)),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=67108864",
                "pids.max=max"
            ]
        );
        assert_eq!(
            lines(&v2(&resources)),
            ["cpu.weight=39", "cpu.max=50000 100000", "memory.swap.max=0", "memory.max=67108864", "pids.max=max"]
        );
        assert!(v1(&Resources::default()).is_empty() && v2(&Resources::default()).is_empty());
    }

    #[test]
    fn shares_cover_all_weights() {
        assert_eq!((weight(0), weight(2), weight(262_144), weight(u64::MAX)), (1, 1, 10_000, 10_000));
    }
}
