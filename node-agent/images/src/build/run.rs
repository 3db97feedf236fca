//! RUN: the command in a container of our own runtime, with the host's network.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use trierarch_runtime::spec::{Mount, NetworkMode, RootfsSpec};
use trierarch_runtime::{ContainerSpec, Runtime, SandboxSpec, users};

use super::{RunRequest, RunStep};
use crate::error::chain;

/// Executes RUN by a container runtime.
pub struct RuntimeRunner {
    runtime: Arc<Runtime>,
    /// For the containers' logs.
    directory: PathBuf,
}

/// How long output may wait to be shown.
const POLL: Duration = Duration::from_millis(100);
/// Files of the host that a command with the host's network needs.
const HOST_FILES: &[&str] = &["etc/resolv.conf", "etc/hosts"];
/// Where the runtime mounts something.
const MOUNT_POINTS: &[&str] = &["etc/resolv.conf", "etc/hosts", "etc", "proc", "dev", "sys"];

impl RuntimeRunner {
    /// A runner with this runtime; `directory` receives the output until it is passed on.
    pub fn new(runtime: Arc<Runtime>, directory: PathBuf) -> Self {
        Self { runtime, directory }
    }

    fn run_in(&self, sandbox: &str, logs: &Path, request: &RunRequest, output: &mut dyn FnMut(&[u8])) -> trierarch_runtime::Result<i32> {
        let rootfs = RootfsSpec::overlay(request.lower.lowerdirs(), &request.upper, &request.work);
        let user = users::resolve(&rootfs, &request.user)?.user;
        self.runtime.create_sandbox(SandboxSpec {
            id: sandbox.to_owned(),
            network: NetworkMode::Host,
            log_dir: logs.to_owned(),
            ..SandboxSpec::default()
        })?;
        let host_files = HOST_FILES.iter().map(|file| Path::new("/").join(file)).filter(|path| path.exists());
        self.runtime.create_container(
            sandbox,
            ContainerSpec {
                id: format!("{sandbox}-run"),
                rootfs,
                mounts: host_files.map(|path| Mount::bind_read_only(&path, &path)).collect(),
                args: request.args.clone(),
                env: request.env.clone(),
                cwd: request.cwd.clone(),
                user,
                log_path: "output".into(),
                ..ContainerSpec::default()
            },
        )?;
        let id = format!("{sandbox}-run");
        self.runtime.start_container(&id)?;
        let mut log = Log { path: logs.join("output"), position: 0, rest: Vec::new() };
        loop {
            let exit = self.runtime.wait_container(&id, Some(POLL))?;
            log.pass_on(output);
            if let Some(exit) = exit {
                return Ok(exit.code);
            }
        }
    }
}

impl RunStep for RuntimeRunner {
    fn run(&self, request: &RunRequest, output: &mut dyn FnMut(&[u8])) -> Result<i32, String> {
        fs::create_dir_all(&self.directory).map_err(|error| format!("create {}: {error}", self.directory.display()))?;
        let logs = tempfile::Builder::new().prefix("build-").tempdir_in(&self.directory).map_err(|error| error.to_string())?;
        let sandbox = logs.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mount_points: Vec<&str> =
            MOUNT_POINTS.iter().copied().filter(|point| !exists_below(&request.lower.lowerdirs(), point)).collect();
        let outcome = self.run_in(&sandbox, logs.path(), request, output).map_err(|error| chain(&error));
        if let Err(error) = self.runtime.remove_sandbox(&sandbox) {
            tracing::warn!(error = chain(&error), "Could not remove a build's container");
        }
        remove_mount_points(&request.upper, &request.lower.lowerdirs(), &mount_points);
        outcome
    }
}

/// The container's log, read as it grows. Each line is `TIME STREAM TAG TEXT`; tag `P` means that the line goes on.
struct Log {
    path: PathBuf,
    position: u64,
    rest: Vec<u8>,
}

impl Log {
    fn pass_on(&mut self, output: &mut dyn FnMut(&[u8])) {
        let mut fresh = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.position))?;
            file.read_to_end(&mut fresh)
        });
        // Not there yet: nothing was written.
        let Ok(count) = read else { return };
        self.position += count as u64;
        self.rest.extend(fresh);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return };
        let rest = self.rest.split_off(end + 1);
        let mut text = Vec::new();
        for line in std::mem::replace(&mut self.rest, rest).split_inclusive(|byte| *byte == b'\n') {
            let mut fields = line.splitn(4, |byte| *byte == b' ');
            let (tag, content) = (fields.nth(2).unwrap_or_default(), fields.next().unwrap_or_default());
            text.extend_from_slice(if tag.starts_with(b"P") { content.strip_suffix(b"\n").unwrap_or(content) } else { content });
        }
        output(&text);
    }
}

/// Whether the layers hold this path; a whiteout in an upper one hides it.
fn exists_below(lower: &[PathBuf], path: &str) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let found = lower.iter().find_map(|layer| fs::symlink_metadata(layer.join(path)).ok());
    found.is_some_and(|meta| !(meta.file_type().is_char_device() && meta.rdev() == 0))
}

/// Empty files and directories that were made only to mount something there are no part of the layer.
fn remove_mount_points(upper: &Path, lower: &[PathBuf], made: &[&str]) {
    use std::os::unix::fs::MetadataExt;
    for point in made {
        let path = upper.join(point);
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        // What has content was put there by the command; a directory that is not empty stays by itself.
        let _not_empty = match meta.is_dir() {
            true => fs::remove_dir(&path),
            false if meta.len() == 0 => fs::remove_file(&path),
            false => Ok(()),
        };
    }
    // Copied up for the mount points in it, and unchanged.
    let path = upper.join("etc");
    if let (Ok(now), Some(before)) =
        (fs::symlink_metadata(&path), lower.iter().find_map(|layer| fs::symlink_metadata(layer.join("etc")).ok()))
        && now.is_dir()
        && before.is_dir()
        && (now.mode(), now.uid(), now.gid()) == (before.mode(), before.uid(), before.gid())
    {
        let _not_empty = fs::remove_dir(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_taken_from_the_log_as_it_grows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output");
        let mut log = Log { path: path.clone(), position: 0, rest: Vec::new() };
        let mut seen = Vec::new();
        log.pass_on(&mut |bytes| seen.extend_from_slice(bytes));
        fs::write(&path, "t stdout F one  two\nt stderr P thr").unwrap();
        log.pass_on(&mut |bytes| seen.extend_from_slice(bytes));
        assert_eq!(seen, b"one  two\n");
        fs::write(&path, "t stdout F one  two\nt stderr P three \nt stderr F four\nt stdout F \n").unwrap();
        log.pass_on(&mut |bytes| seen.extend_from_slice(bytes));
        assert_eq!(String::from_utf8(seen).unwrap(), "one  two\nthree four\n\n");
    }
}
