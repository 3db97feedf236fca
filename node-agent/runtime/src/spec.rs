//! What callers ask for: plain, serialisable descriptions of sandboxes, containers and execs. No behaviour beyond small constructors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Describes a pod's shared part: its network, IPC and UTS namespaces, its cgroup, its `/dev/shm`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// Unique among all sandboxes of this runtime; used as a directory name (`[A-Za-z0-9._-]`, at most 128 bytes).
    pub id: String,
    /// Empty: keep the host's name (host network) or the kernel's default.
    pub hostname: String,
    /// NIS domain name; empty leaves it alone.
    pub domainname: String,
    /// Whether the pod has a network namespace of its own.
    pub network: NetworkMode,
    /// One PID namespace for all containers, with a pause process as PID 1.
    pub share_process_namespace: bool,
    /// Containers live in the host's PID namespace.
    pub host_pid: bool,
    /// Containers use the host's IPC namespace and `/dev/shm`.
    pub host_ipc: bool,
    /// Runs the pod's processes in a user namespace of their own.
    pub user_namespace: Option<UserNamespace>,
    /// Written below `/proc/sys` inside the new namespaces, keys with dots (`net.ipv4.ip_forward`).
    pub sysctls: BTreeMap<String, String>,
    /// Path below `RuntimeConfig::cgroup_parent`, e.g. `burstable/pod1234`; empty means `pods/<id>`.
    pub cgroup: String,
    /// Limits of the pod as a whole.
    pub resources: Resources,
    /// Where relative `ContainerSpec::log_path`s are.
    pub log_dir: PathBuf,
    /// Size of the pod's `/dev/shm`; 64 MiB when unset.
    pub shm_size_bytes: Option<u64>,
    /// Opaque; kept on disk and given back.
    pub labels: BTreeMap<String, String>,
    /// Opaque; kept on disk and given back.
    pub annotations: BTreeMap<String, String>,
}

/// Whether a sandbox gets a network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The network namespace of the agent.
    Host,
    /// A new one, held open by the shim; `SandboxStatus::netns_path` names it.
    #[default]
    New,
}

/// Mappings of a user namespace (`uid_map`, `gid_map`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User ids.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids.
    pub gid_mappings: Vec<IdMapping>,
}

/// One line of a uid or gid map.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id inside.
    pub container_id: u32,
    /// First id outside.
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// Describes one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// Unique within the runtime; used as a directory name (`[A-Za-z0-9._-]`, at most 128 bytes).
    pub id: String,
    /// For people; opaque.
    pub name: String,
    /// What `/` is.
    pub rootfs: RootfsSpec,
    /// Mounts beside the standard ones (`/proc`, `/dev`, `/dev/pts`, `/dev/shm`, `/dev/mqueue`, `/sys`, `/sys/fs/cgroup`), in order of
    /// destination depth as given. A mount whose destination is one of the standard ones replaces it.
    pub mounts: Vec<Mount>,
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `KEY=value`, in order. `PATH` defaults to the usual one, `HOSTNAME` to the sandbox', `HOME` to the user's directory in `/etc/passwd`.
    pub env: Vec<String>,
    /// Working directory, created when missing; empty means `/`.
    pub cwd: String,
    /// Who the process is.
    pub user: User,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// Sets `no_new_privs`.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// Paths hidden from the container; `None` means the usual list (nothing when privileged).
    pub masked_paths: Option<Vec<String>>,
    /// Paths made read-only; `None` means the usual list (nothing when privileged).
    pub readonly_paths: Option<Vec<String>>,
    /// All capabilities, all host devices, no filter, `/sys` and cgroups writable.
    pub privileged: bool,
    /// Host devices to make available.
    pub devices: Vec<Device>,
    /// Resource limits of the process (`setrlimit`).
    pub rlimits: Vec<Rlimit>,
    /// `oom_score_adj` of the process; unset leaves the agent's.
    pub oom_score_adj: Option<i32>,
    /// Cgroup limits.
    pub resources: Resources,
    /// Gives the process a terminal.
    pub tty: bool,
    /// Keeps standard input open for attach; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Closes standard input when the first attach ends.
    pub stdin_once: bool,
    /// The log file; relative to the sandbox' `log_dir`; empty means no log.
    pub log_path: PathBuf,
    /// When the shim rotates the log.
    pub log_rotation: LogRotation,
    /// File mode creation mask; 0o022 when unset.
    pub umask: Option<u32>,
    /// Signal that `Runtime::stop_container` sends first; SIGTERM when unset.
    pub stop_signal: Option<i32>,
    /// Id of a running container of the same sandbox whose processes this one shares; unset gives it what the sandbox says.
    pub processes_of: Option<String>,
    /// Opaque; kept on disk and given back.
    pub labels: BTreeMap<String, String>,
    /// Opaque; kept on disk and given back.
    pub annotations: BTreeMap<String, String>,
}

/// What a container's `/` is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootfsSpec {
    /// Where the file tree comes from.
    pub source: RootfsSource,
    /// Makes `/` read-only after all mounts are in place.
    pub read_only: bool,
}

/// Origin of a container's file tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootfsSource {
    /// An overlay mount made inside the container's own mount namespace; nothing is mounted on the host.
    Overlay {
        /// Topmost layer first, as overlayfs wants them.
        lower: Vec<PathBuf>,
        /// Writable layer; created when missing.
        upper: PathBuf,
        /// overlayfs' work directory, on the same file system as `upper`; created when missing.
        work: PathBuf,
    },
    /// A directory that is used as it is.
    Directory(PathBuf),
}

impl Default for RootfsSource {
    fn default() -> Self {
        RootfsSource::Directory(PathBuf::new())
    }
}

impl RootfsSpec {
    /// A plain directory as root file system.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        RootfsSpec { source: RootfsSource::Directory(path.into()), read_only: false }
    }

    /// An overlay of `lower` (topmost first) with a writable layer.
    pub fn overlay(lower: Vec<PathBuf>, upper: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Self {
        RootfsSpec { source: RootfsSource::Overlay { lower, upper: upper.into(), work: work.into() }, read_only: false }
    }
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the container; missing parents and the mount point are made, links are followed inside the root only.
    pub destination: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// Absolute host path.
        source: PathBuf,
        /// Relative path below `source`, opened so that links can not lead out of it.
        subpath: Option<PathBuf>,
        /// Takes mounts below the source along.
        recursive: bool,
        /// Refuses writes.
        read_only: ReadOnly,
        /// What mounts made later do.
        propagation: Propagation,
        /// Mount options of the new mount.
        flags: MountFlags,
    },
    /// A new tmpfs.
    Tmpfs {
        /// Size limit.
        size_bytes: Option<u64>,
        /// Mode of its root; 0o1777 when unset.
        mode: Option<u32>,
        /// Refuses writes.
        read_only: bool,
        /// Mount options of the new mount.
        flags: MountFlags,
    },
}

/// `nosuid`, `nodev` and `noexec` of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountFlags {
    /// Ignores set-user-ID bits.
    pub nosuid: bool,
    /// Ignores device nodes.
    pub nodev: bool,
    /// Refuses to execute.
    pub noexec: bool,
}

/// How far a read-only bind mount goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadOnly {
    /// Writable.
    #[default]
    No,
    /// The mount itself, not the mounts below it.
    Yes,
    /// The mount and everything below it.
    Recursive,
}

/// How mounts travel between host and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Neither way.
    #[default]
    Private,
    /// Mounts made on the host later appear in the container.
    HostToContainer,
    /// Both ways; the host's mount must be shared.
    Bidirectional,
}

impl Mount {
    /// A writable, recursive bind mount without propagation.
    pub fn bind(source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        Mount {
            destination: destination.into(),
            kind: MountKind::Bind {
                source: source.into(),
                subpath: None,
                recursive: true,
                read_only: ReadOnly::No,
                propagation: Propagation::Private,
                flags: MountFlags::default(),
            },
        }
    }

    /// The same, read-only (not recursively).
    pub fn bind_read_only(source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Self {
        let mut mount = Mount::bind(source, destination);
        if let MountKind::Bind { read_only, .. } = &mut mount.kind {
            *read_only = ReadOnly::Yes;
        }
        mount
    }

    /// The same mount of a path below the source.
    pub fn with_subpath(mut self, path: impl AsRef<Path>) -> Self {
        if let MountKind::Bind { subpath, .. } = &mut self.kind {
            *subpath = Some(path.as_ref().to_path_buf());
        }
        self
    }

    /// A tmpfs.
    pub fn tmpfs(destination: impl Into<PathBuf>, size_bytes: Option<u64>) -> Self {
        Mount {
            destination: destination.into(),
            kind: MountKind::Tmpfs {
                size_bytes,
                mode: None,
                read_only: false,
                flags: MountFlags { nosuid: true, nodev: true, noexec: false },
            },
        }
    }
}

/// Identity of a process. Names are resolved beforehand, see `users::resolve`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// User id inside the container.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All supplementary groups, nothing is added to them.
    pub additional_gids: Vec<u32>,
}

/// Which capabilities a process has. Names with or without `CAP_`, in any case; `ALL` is every one the kernel knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capabilities {
    /// The default set of containerd and docker with names added and dropped, for a root or non-root user as Kubernetes does it
    /// (bounding, permitted, effective; nothing inheritable, nothing ambient).
    Default {
        /// Given in addition; `ALL` is allowed.
        add: Vec<String>,
        /// Taken away; `ALL` is allowed, `add` wins over it.
        drop: Vec<String>,
    },
    /// Every set spelled out.
    Exact {
        /// Upper bound for all descendants.
        bounding: Vec<String>,
        /// In force.
        effective: Vec<String>,
        /// May be put in force.
        permitted: Vec<String>,
        /// Kept over exec of files with inheritable capabilities.
        inheritable: Vec<String>,
        /// Kept over any exec.
        ambient: Vec<String>,
    },
}

impl Default for Capabilities {
    fn default() -> Self {
        Capabilities::Default { add: Vec::new(), drop: Vec::new() }
    }
}

/// System call filter of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// None.
    #[default]
    Unconfined,
    /// The runtime's default profile.
    RuntimeDefault,
    /// An OCI seccomp profile (`linux.seccomp`, or docker's form with `includes`/`excludes`) as JSON.
    Profile(String),
}

/// A device node made available in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Path on the host.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: PathBuf,
    /// A subset of `rwm`.
    pub permissions: String,
}

/// One `setrlimit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE`, `nofile`, ...
    pub kind: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit; clamped with a warning when the kernel refuses to raise it.
    pub hard: u64,
}

/// Cgroup limits; an unset field is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// cgroup v1 `cpu.shares` (2..=262144); converted to `cpu.weight` on v2.
    pub cpu_shares: Option<u64>,
    /// CFS quota in microseconds per period; negative is unlimited.
    pub cpu_quota_us: Option<i64>,
    /// CFS period; 100000 when unset.
    pub cpu_period_us: Option<u64>,
    /// Memory limit; negative is unlimited.
    pub memory_limit_bytes: Option<i64>,
    /// v2 `memory.min` (v1: ignored).
    pub memory_min_bytes: Option<u64>,
    /// v2 `memory.high` (v1: ignored).
    pub memory_high_bytes: Option<u64>,
    /// Swap allowed beyond the memory limit; unset together with a memory limit means none.
    pub swap_limit_bytes: Option<i64>,
    /// v2 `memory.oom.group`: an OOM kill takes all processes of the container (v1: ignored).
    pub memory_oom_group: bool,
    /// Most processes; negative is unlimited.
    pub pids_limit: Option<i64>,
    /// `cpuset.cpus`.
    pub cpuset_cpus: Option<String>,
    /// `cpuset.mems`.
    pub cpuset_mems: Option<String>,
    /// `("2MB", bytes)`.
    pub hugepage_limits: Vec<(String, u64)>,
    /// v2 files written as they are, e.g. `("memory.high", "max")`.
    pub unified: BTreeMap<String, String>,
}

/// When a log is rotated, and how many files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRotation {
    /// Zero: never.
    pub max_size_bytes: u64,
    /// Files kept, the current one included.
    pub max_files: u32,
}

impl Default for LogRotation {
    fn default() -> Self {
        LogRotation { max_size_bytes: 10 * 1024 * 1024, max_files: 5 }
    }
}

/// A further process in a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Added after the container's own environment, so a name given here wins.
    pub env: Vec<String>,
    /// Unset: the container's.
    pub cwd: Option<String>,
    /// Unset: the container's.
    pub user: Option<User>,
    /// Gives the process a terminal.
    pub tty: bool,
    /// Connects standard input; otherwise it is `/dev/null`.
    pub stdin: bool,
    /// Connects standard output (ignored with `tty`).
    pub stdout: bool,
    /// Connects standard error (ignored with `tty`).
    pub stderr: bool,
    /// Size of a new terminal.
    pub terminal_size: Option<TerminalSize>,
}

impl ExecSpec {
    /// A process with `stdout` and `stderr` connected and the container's user, directory and environment.
    pub fn command<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Self {
        ExecSpec { args: args.into_iter().map(Into::into).collect(), stdout: true, stderr: true, ..ExecSpec::default() }
    }
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}
