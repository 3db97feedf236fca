//! What this kernel and our rights allow.

use std::path::Path;

use crate::cgroup::Cgroups;

/// Version of the control group hierarchy in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupMode {
    /// Controllers are mounted one by one; a `unified` mount may exist beside them.
    V1,
    /// One hierarchy.
    V2,
    /// No usable hierarchy: limits and OOM detection are missing.
    None,
}

/// What this kernel and our rights allow. Everything missing is worked around with a warning, never by failing containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFeatures {
    /// Hierarchy in use.
    pub cgroup: CgroupMode,
    /// Controllers that limits can be set with.
    pub controllers: Vec<String>,
    /// User namespaces can be made.
    pub user_namespaces: bool,
    /// System call filters can be installed.
    pub seccomp: bool,
    /// `oom_score_adj` can be lowered and hard limits raised.
    pub sys_resource: bool,
    /// One sentence per thing missing, for the log and for `trierarch` to show.
    pub warnings: Vec<String>,
}

/// Looks around below `proc` (`/proc` outside tests).
pub(crate) fn probe(proc: &Path, cgroups: &Cgroups, capabilities: u64) -> KernelFeatures {
    const SYS_RESOURCE: u64 = 1 << 24;
    let read = |path: &str| std::fs::read_to_string(proc.join(path)).unwrap_or_default();
    let controllers = cgroups.controllers();
    let mut features = KernelFeatures {
        cgroup: cgroups.mode,
        user_namespaces: proc.join("self/ns/user").exists() && read("sys/user/max_user_namespaces").trim() != "0",
        seccomp: read("sys/kernel/seccomp/actions_avail").contains("errno"),
        sys_resource: capabilities & SYS_RESOURCE != 0,
        warnings: Vec::new(),
        controllers,
    };
    let mut warn = |missing: bool, text: &str| {
        if missing {
            features.warnings.push(text.to_owned());
        }
    };
    warn(features.cgroup == CgroupMode::None, "No control groups are mounted: limits, usage and OOM detection are missing");
    for wanted in ["cpu", "memory", "pids", "cpuset", "hugetlb"] {
        let missing = features.cgroup != CgroupMode::None && !features.controllers.iter().any(|name| name == wanted);
        warn(missing, &format!("The {wanted} controller is missing: its limits are not enforced"));
    }
    warn(!features.user_namespaces, "User namespaces can not be made");
    warn(!features.seccomp, "System call filters can not be installed: containers run unconfined");
    warn(!features.sys_resource, "CAP_SYS_RESOURCE is missing: oom_score_adj is not lowered and hard limits are clamped");
    features
}
