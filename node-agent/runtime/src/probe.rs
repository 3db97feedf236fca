//! What this kernel and our rights allow.

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
