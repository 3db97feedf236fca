//! What a cluster could leave behind on a machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

/// Everything of one cluster below `/var/tmp/trierarch-test` that the machine shows; others may come and go meanwhile.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    links: Vec<String>,
    mounts: Vec<String>,
    namespaces: Vec<String>,
    cgroups: Vec<String>,
    tables: Vec<String>,
    processes: Vec<String>,
}

fn names(path: &str) -> Vec<String> {
    let mut found: Vec<String> =
        std::fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    found.sort();
    found
}

fn read(path: String) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

impl Traces {
    /// What there is of the cluster `name`.
    pub fn of(name: &str) -> Self {
        let folder = format!("/trierarch-test/{name}/");
        let cgroup = format!("trierarch/{name}");
        let own = format!("tri-{name}");
        let is_own = |name: &str| name == own || name.starts_with(&format!("{own}-"));
        let pids: Vec<String> = names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect();
        // a mount, or a namespace that a file holds, in any mount namespace
        let mut mounts = Vec::new();
        for pid in &pids {
            mounts.extend(read(format!("/proc/{pid}/mountinfo")).lines().filter(|line| line.contains(&folder)).map(str::to_owned));
        }
        let processes = pids.iter().filter(|pid| {
            read(format!("/proc/{pid}/cmdline")).contains(folder.trim_end_matches('/'))
                || read(format!("/proc/{pid}/cgroup")).contains(&cgroup)
        });
        let roots = names("/sys/fs/cgroup").into_iter().map(|name| format!("/sys/fs/cgroup/{name}/{cgroup}"));
        let tables = Command::new("nft").args(["list", "tables"]).output().map(|output| output.stdout).unwrap_or_default();
        Self {
            links: names("/sys/class/net").into_iter().filter(|name| is_own(name)).collect(),
            mounts,
            namespaces: names("/run/netns").into_iter().filter(|name| is_own(name)).collect(),
            cgroups: roots.chain([format!("/sys/fs/cgroup/{cgroup}")]).filter(|path| Path::new(path).exists()).collect(),
            tables: String::from_utf8_lossy(&tables).lines().filter(|line| line.ends_with(&own)).map(str::to_owned).collect(),
            processes: processes.map(|pid| format!("{pid} {}", read(format!("/proc/{pid}/cmdline")).replace('\0', " "))).collect(),
        }
    }

    /// Checks that there is no more and no less than before.
    ///
    /// # Errors
    /// With both.
    pub fn compare(&self, after: &Self) -> Result<()> {
        ensure!(self == after, "before: {self:#?}\nafter: {after:#?}");
        Ok(())
    }
}
