//! What the agent and the shim say to each other. This file is compiled into both.
//!
//! A message on the unix stream socket is a little-endian `u32` length and that many bytes; descriptors travel with the length. A shim may be
//! older than the agent that talks to it: it says its `VERSION` when the agent subscribes, and plans only ever grow at their end.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Spoken by this build; the shim says it in `Ready`.
pub(crate) const VERSION: u16 = 1;
/// Longest message either side accepts.
pub(crate) const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Bytes being read; every read fails softly at the end.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }
}

/// A value with a byte form.
pub(crate) trait Wire: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn get(from: &mut Reader<'_>) -> Option<Self>;
}

/// The bytes of a value.
pub(crate) fn encode<T: Wire>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    value.put(&mut out);
    out
}

/// The value of bytes.
pub(crate) fn decode<T: Wire>(bytes: &[u8]) -> Option<T> {
    T::get(&mut Reader(bytes))
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(from: &mut Reader<'_>) -> Option<Self> {
                Some(<$type>::from_le_bytes(from.take(size_of::<$type>())?.try_into().ok()?))
            }
        }
    )*};
}
numbers!(u8 u16 u32 u64 i32 i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(from: &mut Reader<'_>) -> Option<Self> {
        Some(u8::get(from)? != 0)
    }
}

impl Wire for OsString {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).unwrap_or(u32::MAX).put(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn get(from: &mut Reader<'_>) -> Option<Self> {
        let count = usize::try_from(u32::get(from)?).ok()?;
        Some(OsStr::from_bytes(from.take(count)?).to_owned())
    }
}

impl Wire for PathBuf {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_os_str().to_owned().put(out);
    }
    fn get(from: &mut Reader<'_>) -> Option<Self> {
        Some(PathBuf::from(OsString::get(from)?))
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        OsString::from(self).put(out);
    }
    fn get(from: &mut Reader<'_>) -> Option<Self> {
        String::from_utf8(OsString::get(from)?.into_vec()).ok()
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).unwrap_or(u32::MAX).put(out);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(from: &mut Reader<'_>) -> Option<Self> {
        (0..u32::get(from)?).map(|_| T::get(from)).collect()
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(from: &mut Reader<'_>) -> Option<Self> {
        if bool::get(from)? { Some(Some(T::get(from)?)) } else { Some(None) }
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Option<Self> {
        Some((A::get(from)?, B::get(from)?))
    }
}

impl<A: Wire, B: Wire, C: Wire> Wire for (A, B, C) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
        self.2.put(out);
    }
    fn get(from: &mut Reader<'_>) -> Option<Self> {
        Some((A::get(from)?, B::get(from)?, C::get(from)?))
    }
}

/// Declares structs with their byte form: the fields in order.
macro_rules! wire_structs {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub(crate) struct $name { $($(#[$field_meta])* pub(crate) $field: $type,)* }
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) { $(self.$field.put(out);)* }
            fn get(from: &mut Reader<'_>) -> Option<Self> { Some($name { $($field: Wire::get(from)?,)* }) }
        }
    )*};
}

/// Declares enums with their byte form: a tag, then the fields in order.
macro_rules! wire_enums {
    ($($(#[$meta:meta])* enum $name:ident { $($(#[$variant_meta:meta])* $tag:literal $variant:ident { $($field:ident: $type:ty),* },)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "messages live for one call")]
        pub(crate) enum $name { $($(#[$variant_meta])* $variant { $($field: $type),* },)* }
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self { $($name::$variant { $($field),* } => { out.push($tag); $($field.put(out);)* })* }
            }
            fn get(from: &mut Reader<'_>) -> Option<Self> {
                match u8::get(from)? { $($tag => Some($name::$variant { $($field: Wire::get(from)?),* }),)* _ => None }
            }
        }
    )*};
}

wire_structs! {
    /// How a process gets into its cgroup.
    struct CgroupJoin {
        /// cgroup v1: `cgroup.procs` files that the process writes itself to.
        procs: Vec<PathBuf>,
        /// cgroup v2: the directory that the process is cloned into.
        v2_dir: Option<PathBuf>,
    }

    /// The pod's shared part.
    struct SandboxPlan {
        new_network: bool,
        new_ipc: bool,
        new_uts: bool,
        hostname: String,
        domainname: String,
        sysctls: Vec<(String, String)>,
        /// Size of the pod's `/dev/shm`; zero: none (host IPC).
        shm_size_bytes: u64,
        /// An empty directory to build it on.
        scratch_dir: PathBuf,
        /// Start a pause process as PID 1 of a shared PID namespace.
        share_pid: bool,
        /// (inside, outside, count) for users and groups; empty: no user namespace.
        uid_map: Vec<(u32, u32, u32)>,
        gid_map: Vec<(u32, u32, u32)>,
        cgroup: CgroupJoin,
        /// Where the shim writes `pause` and container records.
        state_dir: PathBuf,
    }

    /// A process, from identity to exec.
    struct ProcessPlan {
        args: Vec<OsString>,
        env: Vec<OsString>,
        cwd: PathBuf,
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
        bounding: u64,
        effective: u64,
        permitted: u64,
        inheritable: u64,
        ambient: u64,
        no_new_privileges: bool,
        /// Compiled filters, installed in order.
        seccomp: Vec<Vec<u64>>,
        /// (resource, soft, hard)
        rlimits: Vec<(u32, u64, u64)>,
        oom_score_adj: Option<i32>,
        umask: u32,
        tty: bool,
        /// Columns and rows of a new terminal.
        tty_size: Option<(u16, u16)>,
    }

    /// A container, from namespaces to log.
    struct ContainerPlan {
        id: String,
        /// The container's state directory; records are written there.
        dir: PathBuf,
        cgroup: CgroupJoin,
        /// File with an `oom_kill` counter.
        oom_file: Option<PathBuf>,
        /// `cgroup.kill` (v2) or `cgroup.procs` (v1) of the container.
        kill_file: Option<PathBuf>,
        /// A PID namespace of its own; otherwise the sandbox' or the host's.
        new_pid: bool,
        cgroup_namespace: bool,
        root: Root,
        root_read_only: bool,
        /// An empty directory that the root is mounted on (in the container's own mount namespace).
        root_mountpoint: PathBuf,
        steps: Vec<Step>,
        process: ProcessPlan,
        stdin: bool,
        stdin_once: bool,
        log_path: Option<PathBuf>,
        log_max_size_bytes: u64,
        log_max_files: u32,
        /// Joins the PID namespace of this container.
        processes_of: Option<String>,
    }

    /// A further process in a container.
    struct ExecPlan {
        container_id: String,
        cgroup: CgroupJoin,
        process: ProcessPlan,
        /// Which of standard input, output and error come as descriptors with the request, in that order.
        streams: (bool, bool, bool),
    }

    /// Why a process could not be made.
    struct Failure {
        step: String,
        errno: i32,
        message: String,
    }

    /// How a process ended.
    struct Exit {
        /// Exit code, or 128 + signal.
        code: i32,
        /// Zero: none.
        signal: i32,
        oom_killed: bool,
        /// Nanoseconds since 1970.
        finished_at_ns: u64,
    }
}

impl Default for Root {
    fn default() -> Self {
        Root::Directory { path: PathBuf::new() }
    }
}

/// `mount_setattr` bits used in plans; the kernel's numbers.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
}

/// How far a read-only bind mount goes, and how mounts travel.
pub(crate) mod bind {
    pub(crate) const WRITABLE: u8 = 0;
    pub(crate) const READ_ONLY: u8 = 1;
    pub(crate) const READ_ONLY_RECURSIVE: u8 = 2;
    pub(crate) const PRIVATE: u8 = 0;
    pub(crate) const SLAVE: u8 = 1;
    pub(crate) const SHARED: u8 = 2;
}

wire_enums! {
    /// What a container's `/` is.
    enum Root {
        0 Directory { path: PathBuf },
        1 Overlay { lower: Vec<PathBuf>, upper: PathBuf, work: PathBuf },
    }

    /// One thing to do to a container's file tree, in order. Paths are inside the container's root.
    enum Step {
        /// Shows a host file or directory.
        0 Bind { source: PathBuf, subpath: Option<PathBuf>, dest: PathBuf, recursive: bool, read_only: u8, propagation: u8, attrs: u64 },
        /// Mounts a new file system. An `optional` one that the kernel refuses is skipped with a warning.
        1 Filesystem { kind: String, dest: PathBuf, options: Vec<(String, String)>, attrs: u64, optional: bool },
        /// Shows the pod's `/dev/shm`.
        2 SandboxShm { dest: PathBuf },
        3 Symlink { target: PathBuf, path: PathBuf },
        /// `kind` is `c`, `b` or `p`. `host` is bound instead where nodes can't be made.
        4 Device { path: PathBuf, kind: u8, major: u32, minor: u32, mode: u32, uid: u32, gid: u32, host: PathBuf },
        /// Hides a file or directory, if it exists.
        5 Mask { path: PathBuf },
        /// Makes a file or directory read-only, if it exists.
        6 ReadOnly { path: PathBuf },
        7 Directory { path: PathBuf, mode: u32 },
    }

    /// From the agent.
    enum Request {
        /// Makes the namespaces. Answered by `Ready`.
        0 Setup { plan: SandboxPlan },
        /// Answered by `Started` or `Failed`.
        1 Start { plan: ContainerPlan },
        /// Descriptors: standard input, output, error as far as `streams` says. Answered by `Started` (with the terminal's master
        /// descriptor) or `Failed`, later by `Exited` on the same connection, which then takes `ExecKill`.
        2 Exec { plan: ExecPlan },
        /// Answered by `Done` (also when the process is gone) or `Failed` (no such container).
        3 Kill { container_id: String, signal: i32, all: bool },
        /// To the exec of this connection. Not answered.
        4 ExecKill { signal: i32 },
        /// Descriptors as in `streams` (input, output, error). Answered by `Done` or `Failed`.
        5 Attach { container_id: String, streams: (bool, bool, bool) },
        6 Resize { container_id: String, columns: u16, rows: u16 },
        7 ReopenLog { container_id: String },
        /// Forgets an ended container.
        8 Forget { container_id: String },
        /// This connection gets `ContainerExited` from now on. Answered by `Ready`.
        9 Subscribe {},
        /// The network namespace as a descriptor. Answered by `Done`.
        10 Network {},
        /// Kills everything, answers `Done` when nothing is left, and ends.
        11 Shutdown {},
    }

    /// From the shim.
    enum Reply {
        0 Done {},
        1 Failed { failure: Failure },
        /// The number of the network namespace's descriptor in the shim; negative: host network.
        2 Ready { version: u16, network_fd: i32, warnings: Vec<String> },
        3 Started { pid: u32, started_at_ns: u64, warnings: Vec<String> },
        4 Exited { exit: Exit },
        5 ContainerExited { container_id: String, exit: Exit },
    }
}
