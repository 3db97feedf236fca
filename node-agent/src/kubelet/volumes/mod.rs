//! A pod's volumes on disk: made before its sandbox, refreshed when their sources change, removed after its last container.

pub mod atomic;
pub mod host_path;
pub mod payload;

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, Volume};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use self::payload::PayloadInput;
use super::quantity;

/// Where a pod's volumes are.
#[derive(Clone, Debug)]
pub struct VolumeDirs {
    /// On disk: `pods/UID/volumes`.
    pub disk: PathBuf,
    /// In memory: what comes from Secrets and tokens is never written to disk.
    pub memory: PathBuf,
}

impl VolumeDirs {
    /// The host path of a volume of the pod.
    pub fn path(&self, volume: &Volume) -> PathBuf {
        if let Some(host) = &volume.host_path {
            return PathBuf::from(&host.path);
        }
        let base = if in_memory(volume) { &self.memory } else { &self.disk };
        base.join(&volume.name)
    }
}

fn in_memory(volume: &Volume) -> bool {
    volume.secret.is_some() || volume.projected.is_some() || volume.downward_api.is_some()
}

/// The volume's files come from the API: read-only for containers.
pub fn from_api(volume: &Volume) -> bool {
    volume.config_map.is_some() || in_memory(volume)
}

/// A problem with one volume, as the `FailedMount` event says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeProblem {
    /// The volume's name.
    pub volume: String,
    /// What is wrong.
    pub message: String,
}

/// Whether all that was made for the pod is still there: what is kept in memory is lost with the node.
pub fn present(dirs: &VolumeDirs, pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|v| v.host_path.is_none()).all(|volume| {
        let path = dirs.path(volume);
        let memory = volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() == Some("Memory"));
        path.is_dir() && (!memory || is_mount_point(&path).unwrap_or(false))
    })
}

/// Makes or refreshes all volumes; `version` must be new each time. Returns whether files of a volume changed.
///
/// # Errors
/// Every volume that cannot be made. Repeating is fine.
pub fn set_up(dirs: &VolumeDirs, input: &PayloadInput<'_>, version: &str, memory_limit: Option<i64>) -> Result<bool, Vec<VolumeProblem>> {
    let Some(spec) = &input.pod.spec else { return Ok(false) };
    let group = fs_group(input.pod);
    let mut changed = false;
    let mut problems = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        match set_up_one(dirs, volume, input, version, group, memory_limit) {
            Ok(new) => changed |= new,
            Err(message) => problems.push(VolumeProblem { volume: volume.name.clone(), message }),
        }
    }
    if problems.is_empty() { Ok(changed) } else { Err(problems) }
}

/// Refreshes the volumes whose content comes from the API; what has vanished keeps its last content.
pub fn refresh(dirs: &VolumeDirs, input: &PayloadInput<'_>, version: &str) -> bool {
    let Some(spec) = &input.pod.spec else { return false };
    let group = fs_group(input.pod);
    let mut changed = false;
    for volume in spec.volumes.iter().flatten() {
        if let Some(Ok(files)) = payload::payload(volume, input) {
            changed |= atomic::write(&dirs.path(volume), &files, version, group).unwrap_or_else(|error| {
                tracing::warn!(volume = volume.name, %error, "Could not refresh a volume");
                false
            });
        }
    }
    changed
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

fn set_up_one(
    dirs: &VolumeDirs,
    volume: &Volume,
    input: &PayloadInput<'_>,
    version: &str,
    group: Option<u32>,
    memory_limit: Option<i64>,
) -> Result<bool, String> {
    let path = dirs.path(volume);
    if let Some(files) = payload::payload(volume, input) {
        let files = files?;
        make_dir(&path, 0o755, group).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        return atomic::write(&path, &files, version, group).map_err(|e| format!("cannot write {}: {e}", path.display()));
    }
    if let Some(host) = &volume.host_path {
        host_path::prepare(&path, host.type_.as_deref().unwrap_or_default())?;
        return Ok(false);
    }
    if let Some(empty) = &volume.empty_dir {
        let limit = empty.size_limit.as_ref().map(quantity::units).filter(|l| *l > 0);
        return empty_dir(&path, empty.medium.as_deref() == Some("Memory"), limit.into_iter().chain(memory_limit).min(), group)
            .map(|()| false)
            .map_err(|e| format!("cannot make {}: {e}", path.display()));
    }
    Err(format!("no volume plugin matched name {:?}", volume.name))
}

fn empty_dir(path: &Path, memory: bool, limit: Option<i64>, group: Option<u32>) -> io::Result<()> {
    if path.is_dir() && (!memory || is_mount_point(path)?) {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    if memory {
        let data = limit.map_or_else(|| "mode=777".to_owned(), |bytes| format!("mode=777,size={bytes}"));
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(data.as_str()))?;
    }
    chown(path, None, group)?;
    fs::set_permissions(path, fs::Permissions::from_mode(if group.is_some() { 0o2777 } else { 0o777 }))
}

/// Whether something is mounted at this very path.
///
/// # Errors
/// The path can't be looked at.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let parent = path.parent().unwrap_or(path);
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}

fn make_dir(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    if !path.is_dir() {
        fs::create_dir_all(path)?;
        chown(path, None, group)?;
        fs::set_permissions(path, fs::Permissions::from_mode(if group.is_some() { mode | 0o2020 } else { mode }))?;
    }
    Ok(())
}

/// Unmounts and removes everything of the pod's volumes.
///
/// # Errors
/// Something could not be removed; worth retrying.
pub fn tear_down(dirs: &VolumeDirs) -> io::Result<()> {
    for base in [&dirs.disk, &dirs.memory] {
        let entries = match fs::read_dir(base) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && is_mount_point(&path)? {
                umount2(&path, MntFlags::MNT_DETACH)?;
            }
        }
        fs::remove_dir_all(base)?;
    }
    Ok(())
}

/// Makes the directory that a `subPath` names if nothing is there, without following links out of the volume.
///
/// # Errors
/// A component is a link that leads elsewhere, or the file system refused.
pub fn make_sub_path(volume: &Path, sub_path: &str) -> io::Result<()> {
    let root = fs::canonicalize(volume)?;
    let mode = fs::metadata(&root)?.permissions().mode() & 0o7777;
    let mut at = root.clone();
    for part in sub_path.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "subPath leads upwards"));
        }
        let next = at.join(part);
        match fs::symlink_metadata(&next) {
            Ok(_) => {
                at = fs::canonicalize(&next)?;
                if !at.starts_with(&root) {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "subPath leads out of the volume"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&next)?;
                fs::set_permissions(&next, fs::Permissions::from_mode(mode))?;
                at = next;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_inside_their_volume() {
        let dir = tempfile::tempdir().unwrap();
        make_sub_path(dir.path(), "a/b").unwrap();
        assert!(dir.path().join("a/b").is_dir());
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        assert!(make_sub_path(dir.path(), "out/x").is_err() && make_sub_path(dir.path(), "../x").is_err());
        fs::write(dir.path().join("file"), "x").unwrap();
        make_sub_path(dir.path(), "file").unwrap();
    }

    #[test]
    fn volumes_that_were_lost_with_the_node_are_missed() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = VolumeDirs { disk: dir.path().join("disk"), memory: dir.path().join("memory") };
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [], "volumes": [
            {"name": "d", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/none"}}]}}))
        .unwrap();
        assert!(!present(&dirs, &pod));
        fs::create_dir_all(dirs.disk.join("d")).unwrap();
        fs::create_dir_all(dirs.memory.join("s")).unwrap();
        assert!(present(&dirs, &pod));
        fs::remove_dir_all(&dirs.memory).unwrap();
        assert!(!present(&dirs, &pod));
        let memory: Pod = serde_json::from_value(
            serde_json::json!({"spec": {"containers": [], "volumes": [{"name": "d", "emptyDir": {"medium": "Memory"}}]}}),
        )
        .unwrap();
        assert!(!present(&dirs, &memory), "a directory is there, but nothing is mounted on it");
    }

    #[test]
    fn an_empty_dir_is_open_to_all_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        empty_dir(&path, false, None, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o777);
        fs::write(path.join("kept"), "x").unwrap();
        empty_dir(&path, false, None, None).unwrap();
        assert!(path.join("kept").exists());
    }
}
