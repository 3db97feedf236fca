//! From what a caller asks for to what the shim does, step by step: a decision without I/O.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::capabilities;
use crate::error::{Error, Result};
use crate::probe::CgroupMode;
use crate::protocol::{CgroupJoin, ContainerPlan, ExecPlan, ProcessPlan, Root, Step, attr, bind};
use crate::seccomp;
use crate::spec::{ContainerSpec, ExecSpec, Mount, MountFlags, MountKind, Propagation, ReadOnly, RootfsSource, SandboxSpec, Seccomp};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];
const MASKED_SYS: [&str; 2] = ["/sys/firmware", "/sys/devices/virtual/powercap"];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Facts about the system that plans depend on.
pub(crate) struct Facts<'a> {
    pub(crate) cgroup_mode: CgroupMode,
    /// Names of the v1 controllers' directories below `/sys/fs/cgroup` and the options that mount them.
    pub(crate) v1_mounts: Vec<(&'static str, PathBuf)>,
    pub(crate) capabilities: u64,
    pub(crate) seccomp: bool,
    /// The agent's own, which the shim's is not.
    pub(crate) oom_score_adj: i32,
    /// Host devices for privileged containers: path, kind, major, minor, mode.
    pub(crate) host_devices: Vec<HostDevice>,
    pub(crate) sandbox: &'a SandboxSpec,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostDevice {
    pub(crate) host: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) kind: u8,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Where a container's things are.
pub(crate) struct Places {
    pub(crate) dir: PathBuf,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) cgroup: CgroupJoin,
    pub(crate) oom_file: Option<PathBuf>,
    pub(crate) kill_file: Option<PathBuf>,
}

fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
    Error::InvalidSpec { field, reason: reason.into() }
}

/// The container's plan.
pub(crate) fn container(spec: &ContainerSpec, facts: &Facts<'_>, places: Places) -> Result<ContainerPlan> {
    let root = match &spec.rootfs.source {
        RootfsSource::Directory(path) => Root::Directory { path: path.clone() },
        RootfsSource::Overlay { lower, upper, work } => Root::Overlay { lower: lower.clone(), upper: upper.clone(), work: work.clone() },
    };
    let sandbox = facts.sandbox;
    Ok(ContainerPlan {
        id: spec.id.clone(),
        root_mountpoint: places.dir.join("rootfs"),
        dir: places.dir,
        cgroup: places.cgroup,
        oom_file: places.oom_file,
        kill_file: places.kill_file,
        new_pid: !sandbox.host_pid && !sandbox.share_process_namespace && spec.processes_of.is_none(),
        cgroup_namespace: facts.cgroup_mode != CgroupMode::None && !(spec.privileged && facts.cgroup_mode == CgroupMode::V1),
        root,
        root_read_only: spec.rootfs.read_only,
        steps: steps(spec, facts)?,
        process: process(spec, facts)?,
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        log_path: places.log_path,
        log_max_size_bytes: spec.log_rotation.max_size_bytes,
        log_max_files: spec.log_rotation.max_files,
        processes_of: spec.processes_of.clone(),
    })
}

fn filesystem(kind: &str, dest: &str, options: &[(&str, &str)], attrs: u64) -> Step {
    let options = options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    Step::Filesystem { kind: kind.to_owned(), dest: PathBuf::from(dest), options, attrs, optional: false }
}

fn optional(step: Step) -> Step {
    match step {
        Step::Filesystem { kind, dest, options, attrs, .. } => Step::Filesystem { kind, dest, options, attrs, optional: true },
        other => other,
    }
}

fn device(path: &str, major: u32, minor: u32) -> Step {
    Step::Device { path: path.into(), kind: b'c', major, minor, mode: 0o666, uid: 0, gid: 0, host: path.into() }
}

/// The standard mounts, then the caller's by depth, then what hides.
fn steps(spec: &ContainerSpec, facts: &Facts<'_>) -> Result<Vec<Step>> {
    const CAREFUL: u64 = attr::NOSUID | attr::NOEXEC | attr::NODEV;
    let replaced = |dest: &str| spec.mounts.iter().any(|mount| mount.destination == Path::new(dest));
    let mut out = Vec::new();
    if !replaced("/proc") {
        out.push(filesystem("proc", "/proc", &[], CAREFUL));
    }
    if !replaced("/dev") {
        out.push(filesystem("tmpfs", "/dev", &[("mode", "0755"), ("size", "64k")], attr::NOSUID));
        for (path, major, minor) in [
            ("/dev/null", 1, 3),
            ("/dev/zero", 1, 5),
            ("/dev/full", 1, 7),
            ("/dev/random", 1, 8),
            ("/dev/urandom", 1, 9),
            ("/dev/tty", 5, 0),
        ] {
            out.push(device(path, major, minor));
        }
        for (target, path) in [
            ("pts/ptmx", "/dev/ptmx"),
            ("/proc/self/fd", "/dev/fd"),
            ("/proc/self/fd/0", "/dev/stdin"),
            ("/proc/self/fd/1", "/dev/stdout"),
            ("/proc/self/fd/2", "/dev/stderr"),
            ("/proc/kcore", "/dev/core"),
        ] {
            out.push(Step::Symlink { target: target.into(), path: path.into() });
        }
        out.push(filesystem(
            "devpts",
            "/dev/pts",
            &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
            attr::NOSUID | attr::NOEXEC,
        ));
        if !replaced("/dev/mqueue") {
            out.push(optional(filesystem("mqueue", "/dev/mqueue", &[], CAREFUL)));
        }
        if !replaced("/dev/shm") {
            out.push(if facts.sandbox.host_ipc {
                Step::Bind {
                    source: "/dev/shm".into(),
                    subpath: None,
                    dest: "/dev/shm".into(),
                    recursive: false,
                    read_only: bind::WRITABLE,
                    propagation: bind::PRIVATE,
                    attrs: 0,
                }
            } else {
                Step::SandboxShm { dest: "/dev/shm".into() }
            });
        }
    }
    if !replaced("/sys") {
        out.push(filesystem("sysfs", "/sys", &[], CAREFUL | if spec.privileged { 0 } else { attr::RDONLY }));
        if !replaced("/sys/fs/cgroup") {
            cgroup_steps(spec, facts, &mut out);
        }
    }
    let mut mounts: Vec<&Mount> = spec.mounts.iter().collect();
    mounts.sort_by_key(|mount| mount.destination.components().count());
    for mount in mounts {
        out.push(mount_step(mount)?);
    }
    let devices = spec.devices.iter().filter_map(|device| HostDevice::find(&device.host_path, &device.container_path));
    let all = facts.host_devices.iter().filter(|_| spec.privileged).cloned();
    for found in all.chain(devices) {
        out.push(found.step());
    }
    let defaults = |paths: &[&str]| if spec.privileged { Vec::new() } else { paths.iter().map(|&path| path.to_owned()).collect() };
    let masked = spec.masked_paths.clone().unwrap_or_else(|| defaults(&[&MASKED[..], &MASKED_SYS[..]].concat()));
    let read_only = spec.readonly_paths.clone().unwrap_or_else(|| defaults(&READ_ONLY));
    out.extend(masked.into_iter().map(|path| Step::Mask { path: path.into() }));
    out.extend(read_only.into_iter().map(|path| Step::ReadOnly { path: path.into() }));
    Ok(out)
}

fn cgroup_steps(spec: &ContainerSpec, facts: &Facts<'_>, out: &mut Vec<Step>) {
    const CAREFUL: u64 = attr::NOSUID | attr::NOEXEC | attr::NODEV;
    let read_only = if spec.privileged { 0 } else { attr::RDONLY };
    match facts.cgroup_mode {
        CgroupMode::None => {}
        CgroupMode::V2 => out.push(optional(filesystem("cgroup2", "/sys/fs/cgroup", &[], CAREFUL | read_only))),
        CgroupMode::V1 => {
            out.push(filesystem("tmpfs", "/sys/fs/cgroup", &[("mode", "0755"), ("size", "16k")], CAREFUL));
            for (controller, mount) in &facts.v1_mounts {
                let Some(name) = mount.file_name() else { continue };
                let dest = Path::new("/sys/fs/cgroup").join(name);
                let options: Vec<(&str, &str)> =
                    facts.v1_mounts.iter().filter(|(_, other)| other == mount).map(|(controller, _)| (*controller, "")).collect();
                // Controllers mounted together are mounted once.
                if options.first().is_some_and(|(first, _)| first == controller) {
                    out.push(optional(filesystem("cgroup", &dest.to_string_lossy(), &options, CAREFUL | read_only)));
                }
                if name.to_str() != Some(controller) {
                    let path = Path::new("/sys/fs/cgroup").join(controller);
                    out.push(Step::Symlink { target: PathBuf::from(name), path });
                }
            }
            if read_only != 0 {
                out.push(Step::ReadOnly { path: "/sys/fs/cgroup".into() });
            }
        }
    }
}

impl HostDevice {
    fn step(self) -> Step {
        let HostDevice { host, path, kind, major, minor, mode, uid, gid } = self;
        Step::Device { path, kind, major, minor, mode, uid, gid, host }
    }

    /// Reads a node of the host; `None` when it is no device.
    pub(crate) fn find(host: &Path, path: &Path) -> Option<HostDevice> {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let meta = std::fs::metadata(host).ok()?;
        let kind = if meta.file_type().is_block_device() {
            b'b'
        } else if meta.file_type().is_char_device() {
            b'c'
        } else {
            return None;
        };
        let part = |number: u64| u32::try_from(number).ok();
        Some(HostDevice {
            host: host.to_path_buf(),
            path: if path.as_os_str().is_empty() { host.to_path_buf() } else { path.to_path_buf() },
            kind,
            major: part(nix::sys::stat::major(meta.rdev()))?,
            minor: part(nix::sys::stat::minor(meta.rdev()))?,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
        })
    }
}

fn flags(flags: MountFlags) -> u64 {
    let bit = |wanted: bool, bit: u64| if wanted { bit } else { 0 };
    bit(flags.nosuid, attr::NOSUID) | bit(flags.nodev, attr::NODEV) | bit(flags.noexec, attr::NOEXEC)
}

fn mount_step(mount: &Mount) -> Result<Step> {
    let dest = mount.destination.clone();
    if !dest.is_absolute() {
        return Err(invalid("mounts", format!("destination {:?} is not absolute", dest.display())));
    }
    Ok(match &mount.kind {
        MountKind::Bind { source, subpath, recursive, read_only, propagation, flags: own } => {
            if !source.is_absolute() {
                return Err(invalid("mounts", format!("source {:?} is not absolute", source.display())));
            }
            Step::Bind {
                source: source.clone(),
                subpath: subpath.clone().filter(|path| !path.as_os_str().is_empty()),
                dest,
                recursive: *recursive,
                read_only: match read_only {
                    ReadOnly::No => bind::WRITABLE,
                    ReadOnly::Yes => bind::READ_ONLY,
                    ReadOnly::Recursive => bind::READ_ONLY_RECURSIVE,
                },
                propagation: match propagation {
                    Propagation::Private => bind::PRIVATE,
                    Propagation::HostToContainer => bind::SLAVE,
                    Propagation::Bidirectional => bind::SHARED,
                },
                attrs: flags(*own),
            }
        }
        MountKind::Tmpfs { size_bytes, mode, read_only, flags: own } => {
            let mut options = vec![("mode".to_owned(), format!("{:o}", mode.unwrap_or(0o1777)))];
            options.extend(size_bytes.map(|size| ("size".to_owned(), size.to_string())));
            let attrs = flags(*own) | if *read_only { attr::RDONLY } else { 0 };
            Step::Filesystem { kind: "tmpfs".to_owned(), dest, options, attrs, optional: false }
        }
    })
}

/// The environment; the shim adds `HOME` from the container's own `/etc/passwd`.
fn env_with_defaults(env: &[String], hostname: &str) -> Vec<OsString> {
    let has = |name: &str| env.iter().any(|entry| entry.split('=').next() == Some(name));
    let mut out: Vec<OsString> = Vec::new();
    if !has("PATH") {
        out.push(format!("PATH={DEFAULT_PATH}").into());
    }
    if !has("HOSTNAME") && !hostname.is_empty() {
        out.push(format!("HOSTNAME={hostname}").into());
    }
    // A later value wins, and is put where the name came first.
    let mut seen: Vec<&str> = Vec::new();
    for entry in env {
        let name = entry.split('=').next().unwrap_or(entry);
        if !seen.contains(&name) {
            seen.push(name);
            let last = env.iter().rev().find(|other| other.split('=').next() == Some(name)).unwrap_or(entry);
            out.push(last.into());
        }
    }
    out
}

/// The number of a limit by name.
fn rlimit(kind: &str) -> Result<u32> {
    let name = kind.to_ascii_uppercase();
    let number = match name.strip_prefix("RLIMIT_").unwrap_or(&name) {
        "CPU" => 0,
        "FSIZE" => 1,
        "DATA" => 2,
        "STACK" => 3,
        "CORE" => 4,
        "RSS" => 5,
        "NPROC" => 6,
        "NOFILE" => 7,
        "MEMLOCK" => 8,
        "AS" => 9,
        "LOCKS" => 10,
        "SIGPENDING" => 11,
        "MSGQUEUE" => 12,
        "NICE" => 13,
        "RTPRIO" => 14,
        "RTTIME" => 15,
        _ => return Err(invalid("rlimits", format!("unknown limit {kind:?}"))),
    };
    Ok(number)
}

fn process(spec: &ContainerSpec, facts: &Facts<'_>) -> Result<ProcessPlan> {
    if spec.args.is_empty() {
        return Err(invalid("args", "must not be empty"));
    }
    let masks = capabilities::masks(spec, spec.user.uid, facts.capabilities)?;
    let filter = if spec.privileged || !facts.seccomp { &Seccomp::Unconfined } else { &spec.seccomp };
    let mut env = env_with_defaults(&spec.env, &facts.sandbox.hostname);
    if spec.tty && !spec.env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    Ok(ProcessPlan {
        args: spec.args.iter().map(OsString::from).collect(),
        env,
        cwd: PathBuf::from(&spec.cwd),
        uid: spec.user.uid,
        gid: spec.user.gid,
        groups: spec.user.additional_gids.clone(),
        bounding: masks.bounding,
        effective: masks.effective,
        permitted: masks.permitted,
        inheritable: masks.inheritable,
        ambient: masks.ambient,
        no_new_privileges: spec.no_new_privileges,
        seccomp: seccomp::compile(filter, masks.bounding)?,
        rlimits: spec.rlimits.iter().map(|limit| Ok((rlimit(&limit.kind)?, limit.soft, limit.hard))).collect::<Result<_>>()?,
        oom_score_adj: spec.oom_score_adj.or(Some(facts.oom_score_adj)),
        umask: spec.umask.unwrap_or(0o022),
        tty: spec.tty,
        tty_size: None,
    })
}

/// The plan of a further process in a container.
pub(crate) fn exec(spec: &ExecSpec, container: &ContainerSpec, facts: &Facts<'_>, cgroup: CgroupJoin) -> Result<ExecPlan> {
    let user = spec.user.clone().unwrap_or_else(|| container.user.clone());
    // The sets follow from the user: an exec as root has what the container's root would have.
    let merged = ContainerSpec {
        args: spec.args.clone(),
        env: [container.env.clone(), spec.env.clone()].concat(),
        cwd: spec.cwd.clone().unwrap_or_else(|| container.cwd.clone()),
        user,
        tty: spec.tty,
        ..container.clone()
    };
    let mut process = process(&merged, facts)?;
    process.tty_size = spec.terminal_size.map(|size| (size.width, size.height));
    let streams = if spec.tty { (false, false, false) } else { (spec.stdin, spec.stdout, spec.stderr) };
    Ok(ExecPlan { container_id: container.id.clone(), cgroup, process, streams })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(sandbox: &SandboxSpec) -> Facts<'_> {
        Facts {
            cgroup_mode: CgroupMode::V1,
            v1_mounts: vec![("cpuacct", "/sys/fs/cgroup/cpu,cpuacct".into()), ("cpu", "/sys/fs/cgroup/cpu,cpuacct".into())],
            capabilities: u64::MAX >> 23,
            seccomp: true,
            oom_score_adj: 0,
            host_devices: Vec::new(),
            sandbox,
        }
    }

    #[test]
    fn later_values_of_a_variable_win() {
        let env = ["A=1", "PATH=/bin", "A=2", "HOME=/"].map(str::to_owned);
        assert_eq!(env_with_defaults(&env, ""), ["A=2", "PATH=/bin", "HOME=/"].map(OsString::from));
        assert_eq!(env_with_defaults(&[], "box")[1], "HOSTNAME=box");
    }

    #[test]
    fn shallow_mounts_come_first_and_masks_last() {
        let spec = ContainerSpec {
            args: vec!["x".into()],
            mounts: vec![Mount::bind("/a", "/data/deep"), Mount::bind("/b", "/data")],
            ..ContainerSpec::default()
        };
        let sandbox = SandboxSpec::default();
        let steps = steps(&spec, &facts(&sandbox)).unwrap();
        let at = |wanted: &str| steps.iter().position(|step| matches!(step, Step::Bind { dest, .. } if dest == Path::new(wanted))).unwrap();
        assert!(at("/data") < at("/data/deep"));
        assert!(matches!(steps.last(), Some(Step::ReadOnly { .. })));
        assert_eq!(steps.iter().filter(|step| matches!(step, Step::Filesystem { kind, .. } if kind == "cgroup")).count(), 1);
        assert_eq!(steps.iter().filter(|step| matches!(step, Step::Symlink { path, .. } if path.starts_with("/sys"))).count(), 2);
    }

    #[test]
    fn a_mount_over_a_standard_one_replaces_it() {
        let spec = ContainerSpec { args: vec!["x".into()], mounts: vec![Mount::bind("/dev/shm", "/dev/shm")], ..ContainerSpec::default() };
        let sandbox = SandboxSpec::default();
        assert!(!steps(&spec, &facts(&sandbox)).unwrap().iter().any(|step| matches!(step, Step::SandboxShm { .. })));
    }

    #[test]
    fn wrong_specs_are_refused() {
        let sandbox = SandboxSpec::default();
        let facts = facts(&sandbox);
        assert!(process(&ContainerSpec::default(), &facts).is_err());
        assert!(mount_step(&Mount::bind("relative", "/x")).is_err());
        assert!(rlimit("RLIMIT_NONSENSE").is_err());
        assert_eq!(rlimit("nofile").unwrap(), 7);
    }
}
