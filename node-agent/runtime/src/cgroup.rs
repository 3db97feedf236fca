//! Control groups below our own parent: made, limited, measured, emptied and removed, on v1 (hybrid too) and v2.

mod devices;
mod limits;
mod stats;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cgroups_rs::fs::hierarchies::{UNIFIED_MOUNTPOINT, V1, is_cgroup2_unified_mode};
use cgroups_rs::fs::{Cgroup, Controllers};

use crate::error::{Error, Result};
use crate::probe::CgroupMode;
use crate::protocol::CgroupJoin;
use crate::spec::{Device, Resources};
use crate::status::Stats;
use crate::sys::Sys;

/// Controllers that we use, by their v1 names. Processes are killed by the list of `pids`, so the freezer is not needed.
const V1_CONTROLLERS: [(&str, Controllers); 7] = [
    ("memory", Controllers::Mem),
    ("pids", Controllers::Pids),
    ("cpuset", Controllers::CpuSet),
    ("cpuacct", Controllers::CpuAcct),
    ("cpu", Controllers::Cpu),
    ("devices", Controllers::Devices),
    ("hugetlb", Controllers::HugeTlb),
];
const V2_CONTROLLERS: [&str; 6] = ["cpu", "memory", "pids", "cpuset", "hugetlb", "io"];

/// Our part of the hierarchies.
pub(crate) struct Cgroups {
    pub(crate) mode: CgroupMode,
    /// Controller and the directory that our parent path begins in; v2 has the one entry "".
    mounts: Vec<(&'static str, PathBuf)>,
    parent: String,
    v1: V1,
    sys: Arc<dyn Sys>,
}

/// v1 controllers that a cgroup is made in only when its limits need them: each costs a move of every process.
const RARE: [&str; 2] = ["cpuset", "hugetlb"];

fn needs(resources: &Resources, controller: &str) -> bool {
    match controller {
        "cpuset" => resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some(),
        "hugetlb" => !resources.hugepage_limits.is_empty(),
        _ => true,
    }
}

fn failed(path: &str, reason: impl std::fmt::Display) -> Error {
    Error::Cgroup { path: path.to_owned(), reason: reason.to_string() }
}

impl Cgroups {
    /// What is mounted here. Without any hierarchy everything is a no-op.
    pub(crate) fn find(parent: &str, sys: Arc<dyn Sys>) -> Cgroups {
        let parent = parent.trim_matches('/').to_owned();
        if is_cgroup2_unified_mode() {
            return Cgroups::v2_at(Path::new(UNIFIED_MOUNTPOINT), &parent, sys);
        }
        let v1 = V1::new();
        let mounts: Vec<_> = V1_CONTROLLERS
            .into_iter()
            .filter_map(|(name, controller)| v1.get_mount_point(controller).map(|(mount_point, _)| (name, mount_point)))
            .filter(|(_, dir)| dir.is_dir())
            .collect();
        let mode = if mounts.is_empty() { CgroupMode::None } else { CgroupMode::V1 };
        Cgroups { mode, mounts, parent, v1, sys }
    }

    /// The v2 hierarchy mounted there.
    pub(crate) fn v2_at(mount: &Path, parent: &str, sys: Arc<dyn Sys>) -> Cgroups {
        let mounts = vec![("", mount.to_path_buf())];
        Cgroups { mode: CgroupMode::V2, mounts, parent: parent.trim_matches('/').to_owned(), v1: V1::default(), sys }
    }

    fn v2_root(&self) -> PathBuf {
        self.mounts.first().map(|(_, mount)| mount.clone()).unwrap_or_default()
    }

    /// Names of the controllers that limits can be set with.
    pub(crate) fn controllers(&self) -> Vec<String> {
        match self.mode {
            CgroupMode::V2 => std::fs::read_to_string(self.v2_root().join("cgroup.controllers"))
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            _ => self.mounts.iter().map(|(name, _)| (*name).to_owned()).collect(),
        }
    }

    /// Mount points of the v1 controllers, for a container's `/sys/fs/cgroup`.
    pub(crate) fn v1_mounts(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.mounts.iter().map(|(name, dir)| (*name, dir.as_path())).filter(|_| self.mode == CgroupMode::V1)
    }

    fn full(&self, path: &str) -> String {
        format!("{}/{}", self.parent, path.trim_matches('/'))
    }

    fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let wanted = if self.mode == CgroupMode::V2 { "" } else { controller };
        self.mounts.iter().find(|(name, _)| *name == wanted).map(|(_, mount)| mount.join(self.full(path)))
    }

    /// Every directory of a cgroup, one per hierarchy.
    fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = self.mounts.iter().map(|(_, mount)| mount.join(self.full(path))).collect();
        dirs.sort();
        dirs.dedup();
        dirs
    }

    /// Makes a cgroup with its parents, fit for these limits; an existing one is fine.
    pub(crate) fn create(&self, path: &str, resources: &Resources) -> Result<()> {
        let full = self.full(path);
        match self.mode {
            CgroupMode::None => Ok(()),
            CgroupMode::V1 => {
                let names = self.mounts.iter().filter(|(name, _)| needs(resources, name)).map(|(name, _)| (*name).to_owned()).collect();
                Cgroup::new_with_specified_controllers(Box::new(self.v1.clone()), &full, Some(names))
                    .map(drop)
                    .map_err(|error| failed(&full, error))
            }
            CgroupMode::V2 => {
                let mut dir = self.v2_root();
                for part in full.split('/').filter(|part| !part.is_empty()) {
                    // One by one: a controller that is missing or in use elsewhere must not keep the others away.
                    for controller in V2_CONTROLLERS {
                        let _ = self.sys.write_cgroup(&dir.join("cgroup.subtree_control"), &format!("+{controller}"));
                    }
                    dir.push(part);
                    match std::fs::create_dir(&dir) {
                        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(&full, error)),
                        _ => {}
                    }
                }
                Ok(())
            }
        }
    }

    /// Sets limits; what the kernel has no controller for is skipped.
    ///
    /// # Errors
    /// A value that the kernel refuses.
    pub(crate) fn apply(&self, path: &str, resources: &Resources) -> Result<()> {
        self.extend(path, resources)?;
        let writes = match self.mode {
            CgroupMode::None => return Ok(()),
            CgroupMode::V1 => limits::v1(resources),
            CgroupMode::V2 => limits::v2(resources),
        };
        for write in writes {
            let Some(file) = self.dir(write.controller, path).map(|dir| dir.join(&write.file)) else { continue };
            if !file.exists() {
                continue;
            }
            let result = self.sys.write_cgroup(&file, &write.value).or_else(|error| {
                // On v1 quota and period check each other, and so do memory and memory+swap: a second pass below settles the order.
                if write.retry { Ok(()) } else { Err(error) }
            });
            result.map_err(|error| failed(&self.full(path), format_args!("writing {:?} to {}: {error}", write.value, write.file)))?;
        }
        Ok(())
    }

    /// Brings a living v1 cgroup into hierarchies that its new limits need.
    fn extend(&self, path: &str, resources: &Resources) -> Result<()> {
        if self.mode != CgroupMode::V1 {
            return Ok(());
        }
        let missing = |controller: &&str| needs(resources, controller) && self.dir(controller, path).is_some_and(|dir| !dir.exists());
        let missing: Vec<&str> = RARE.iter().copied().filter(missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.create(path, resources)?;
        let Some(list) = self.dir("pids", path).map(|dir| dir.join("cgroup.procs")) else { return Ok(()) };
        for pid in std::fs::read_to_string(list).unwrap_or_default().lines() {
            for dir in missing.iter().filter_map(|controller| self.dir(controller, path)) {
                // It may have ended meanwhile.
                let _ = self.sys.write_cgroup(&dir.join("cgroup.procs"), pid);
            }
        }
        Ok(())
    }

    /// Refuses all devices but the usual ones and `devices`; a warning when the kernel can't.
    pub(crate) fn restrict_devices(&self, path: &str, devices: &[(char, u32, u32, String)]) {
        if self.mode == CgroupMode::V2 {
            let Some(dir) = self.dir("", path) else { return };
            let program = devices::program(&devices::rules(devices));
            if let Err(error) = self.sys.attach_device_filter(&dir, &program) {
                tracing::warn!(path, %error, "Device access was not restricted");
            }
            return;
        }
        let (CgroupMode::V1, Some(dir)) = (self.mode, self.dir("devices", path)) else { return };
        let _ = self.sys.write_cgroup(&dir.join("devices.deny"), "a");
        for rule in devices::rules(devices) {
            let _ = self.sys.write_cgroup(&dir.join("devices.allow"), &rule.to_string());
        }
    }

    /// How a process gets into the cgroup.
    pub(crate) fn join(&self, path: &str) -> CgroupJoin {
        match self.mode {
            CgroupMode::None => CgroupJoin::default(),
            CgroupMode::V1 => {
                let procs = self.dirs(path).iter().map(|dir| dir.join("cgroup.procs")).filter(|file| file.exists()).collect();
                CgroupJoin { procs, v2_dir: None }
            }
            CgroupMode::V2 => CgroupJoin { procs: Vec::new(), v2_dir: self.dirs(path).pop() },
        }
    }

    /// The file with the `oom_kill` counter.
    pub(crate) fn oom_file(&self, path: &str) -> Option<PathBuf> {
        let name = if self.mode == CgroupMode::V2 { "memory.events" } else { "memory.oom_control" };
        self.dir("memory", path).map(|dir| dir.join(name))
    }

    /// What the shim kills leftovers by: `cgroup.kill` on v2, otherwise the list of processes.
    pub(crate) fn kill_file(&self, path: &str) -> Option<PathBuf> {
        match self.mode {
            CgroupMode::None => None,
            CgroupMode::V2 => self.dir("", path).map(|dir| dir.join("cgroup.kill")),
            CgroupMode::V1 => self.dir("pids", path).or_else(|| self.dir("memory", path)).map(|dir| dir.join("cgroup.procs")),
        }
    }

    /// Resource use.
    pub(crate) fn stats(&self, path: &str) -> Stats {
        match self.mode {
            CgroupMode::None => Stats::default(),
            CgroupMode::V1 => stats::v1(|controller| self.dir(controller, path)),
            CgroupMode::V2 => self.dir("", path).map(|dir| stats::v2(&dir)).unwrap_or_default(),
        }
    }

    /// Kills everything in the cgroup and below it. Processes may still be ending on return.
    pub(crate) fn kill(&self, path: &str) {
        for dir in self.dirs(path) {
            kill_tree(&dir);
        }
    }

    /// Removes the cgroup and everything below it, killing what is left inside.
    ///
    /// # Errors
    /// When processes do not end within 10 s.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        let deadline = self.sys.now() + Duration::from_secs(10);
        for dir in self.dirs(path) {
            let mut pause = Duration::from_micros(200);
            while let Err(error) = remove_tree(&dir) {
                kill_tree(&dir);
                if self.sys.now() >= deadline {
                    return Err(failed(&self.full(path), error));
                }
                // A cgroup is busy until the kernel has taken the last process down; nothing tells when.
                let _ = self.sys.readable(&[], Some(pause));
                pause = (pause * 2).min(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for child in children(dir) {
        remove_tree(&child)?;
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn kill_tree(dir: &Path) {
    if std::fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for child in children(dir) {
        kill_tree(&child);
    }
    let Ok(text) = std::fs::read_to_string(dir.join("cgroup.procs")) else { return };
    for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|&pid| pid > 1) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Kind, major, minor and access of host devices.
pub(crate) fn device_rules(devices: &[Device]) -> Vec<(char, u32, u32, String)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let rule = |device: &Device| {
        let meta = std::fs::metadata(&device.host_path).ok()?;
        let kind = if meta.file_type().is_block_device() { 'b' } else { 'c' };
        let number = |part: u64| u32::try_from(part).ok();
        let access = if device.permissions.is_empty() { "rwm".to_owned() } else { device.permissions.clone() };
        Some((kind, number(nix::sys::stat::major(meta.rdev()))?, number(nix::sys::stat::minor(meta.rdev()))?, access))
    };
    devices.iter().filter_map(rule).collect()
}
