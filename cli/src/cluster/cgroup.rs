//! A node's share of the machine: a cgroup whose limits hold for everything in the node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use cgroups_rs::CgroupPid;
use cgroups_rs::fs::cgroup::Cgroup;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::hierarchies;
use cgroups_rs::fs::memory::MemController;

/// The controllers of a node on cgroup v1. Naming them keeps cgroups-rs out of hierarchies that are not ours, such as systemd's.
const V1: [&str; 8] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio"];
/// Those on cgroup v2 (`Spec:` cgroup-v2, "Controllers"); a kernel may lack some.
const V2: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// CFS period in microseconds (`Spec:` kernel "CFS Bandwidth Control").
const PERIOD_US: u64 = 100_000;

/// The controllers that a node's cgroup uses. `v2` is the root's `cgroup.controllers` where there is only cgroup v2.
fn controllers(v2: Option<&str>) -> Vec<String> {
    match v2 {
        None => V1.map(str::to_owned).to_vec(),
        Some(offered) => offered.split_whitespace().filter(|name| V2.contains(name)).map(str::to_owned).collect(),
    }
}

fn own_controllers() -> Vec<String> {
    let v2 =
        hierarchies::is_cgroup2_unified_mode().then(|| std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default());
    controllers(v2.as_deref())
}

/// Makes the cgroup of a node and limits it.
///
/// # Errors
/// When the kernel refuses a limit.
pub fn create(path: &str, cpu_millis: u64, memory_bytes: u64) -> anyhow::Result<()> {
    let cgroup = Cgroup::new_with_specified_controllers(hierarchies::auto(), path, Some(own_controllers()))
        .with_context(|| format!("cannot make cgroup {path}"))?;
    if let Some(cpu) = cgroup.controller_of::<CpuController>() {
        let quota = i64::try_from(cpu_millis * PERIOD_US / 1000).unwrap_or(i64::MAX);
        cpu.set_cfs_quota_and_period(Some(quota), Some(PERIOD_US)).with_context(|| format!("cannot limit CPU of cgroup {path}"))?;
    }
    if let Some(memory) = cgroup.controller_of::<MemController>() {
        memory
            .set_limit(i64::try_from(memory_bytes).unwrap_or(i64::MAX))
            .with_context(|| format!("cannot limit memory of cgroup {path}"))?;
    }
    Ok(())
}

/// Moves a process into a leaf below a node's cgroup (on cgroup v2 only leaves hold processes).
///
/// # Errors
/// When the kernel refuses.
pub fn enter(path: &str, pid: u32) -> anyhow::Result<()> {
    let leaf = format!("{path}/init");
    let cgroup = Cgroup::new_with_specified_controllers(hierarchies::auto(), &leaf, Some(own_controllers()))
        .with_context(|| format!("cannot make cgroup {leaf}"))?;
    cgroup.add_task_by_tgid(CgroupPid::from(u64::from(pid))).with_context(|| format!("cannot enter cgroup {leaf}"))
}

/// The directories of a cgroup in every hierarchy that is mounted below `root`, deepest first.
fn directories(root: &Path, path: &str) -> Vec<PathBuf> {
    fn walk(directory: PathBuf, found: &mut Vec<PathBuf>) {
        let children = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        for child in children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            walk(child.path(), found);
        }
        found.push(directory);
    }
    let mut found = Vec::new();
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for candidate in hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(path)).filter(|path| path.is_dir()) {
        walk(candidate, &mut found);
    }
    found
}

/// Removes a cgroup with everything below it, waiting for processes that are just ending.
///
/// # Errors
/// Naming the first directory that stays after `patience`.
pub async fn remove(path: &str, patience: Duration) -> anyhow::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let removed = async {
        // the kernel lets go of an ended process a moment after its parent has seen it
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            let left = directories(root, path);
            if left.is_empty() {
                return;
            }
            for directory in left {
                let _busy = std::fs::remove_dir(directory);
            }
        }
    };
    if tokio::time::timeout(patience, removed).await.is_err() {
        let left = directories(root, path);
        anyhow::bail!("cgroup {} is still in use", left.first().map_or_else(|| path.to_owned(), |dir| dir.display().to_string()));
    }
    Ok(())
}

/// The directories of all clusters' common parent, for whoever leaves last.
pub fn empty_parents() -> Vec<PathBuf> {
    directories(Path::new("/sys/fs/cgroup"), "trierarch").into_iter().filter(|path| path.ends_with("trierarch")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_controllers_that_are_there_are_asked_for() {
        assert_eq!(controllers(None), V1);
        assert_eq!(controllers(Some("cpuset cpu io memory hugetlb pids rdma misc\n")), ["cpuset", "cpu", "io", "memory", "pids"]);
        assert_eq!(controllers(Some("memory")), ["memory"]);
    }

    #[test]
    fn directories_come_deepest_first_from_every_hierarchy() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for path in ["cpu/tri/n1/init", "memory/tri/n1", "tri/n1/pods"] {
            std::fs::create_dir_all(root.path().join(path)).expect("created");
        }
        let found = directories(root.path(), "tri");
        assert_eq!(found.len(), 3 + 2 + 3);
        for (index, directory) in found.iter().enumerate() {
            assert!(found[..index].iter().all(|earlier| !directory.starts_with(earlier)), "{directory:?} comes after its parent");
        }
    }
}
