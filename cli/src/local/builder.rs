//! The container runtime of one build: made for it, gone with it. What a killed build left is removed by the next one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use trierarch_images::build::{RunStep, RuntimeRunner};
use trierarch_runtime::{Runtime, RuntimeConfig};

use crate::cluster::cgroup;
use crate::cluster::process::Remembered;

/// A runtime of its own. Dropping it ends what runs in it and removes everything that it made.
pub struct Builder {
    runtime: Arc<Runtime>,
    dir: PathBuf,
}

/// Where a build's runtime keeps its state: `OWNER` names the process, so that others can tell whether it still lives.
fn owner(dir: &Path) -> PathBuf {
    dir.join("owner")
}

fn runtime(dir: &Path) -> anyhow::Result<Runtime> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let config =
        RuntimeConfig { root_dir: dir.join("runtime"), cgroup_parent: format!("trierarch/{name}"), sys: trierarch_runtime::sys::linux() };
    Runtime::new(config).context("cannot start the container runtime")
}

/// Ends and removes the runtime in `dir`.
fn remove(runtime: &Runtime, dir: &Path) -> anyhow::Result<()> {
    runtime.purge().with_context(|| format!("cannot end the containers in {}", dir.display()))?;
    std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    for parent in cgroup::empty_parents() {
        // it is every cluster's and build's: whoever leaves last takes it along
        let _still_used = std::fs::remove_dir(parent);
    }
    Ok(())
}

/// The directories of builds whose process is no more.
fn abandoned(base: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("build-")))
        .filter(|path| !Remembered::load(&owner(path)).is_some_and(|process| process.is_alive()))
        .collect()
}

impl Builder {
    /// A fresh runtime below `data_dir`.
    ///
    /// # Errors
    /// When its directory or cgroups cannot be made.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        let base = data_dir.join("builds");
        std::fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
        // between the directory and the name of its owner it looks abandoned
        let lock = File::create(base.join("lock")).and_then(|file| file.lock().map(|()| file));
        let _one_at_a_time = lock.with_context(|| format!("cannot lock {}", base.display()))?;
        for dir in abandoned(&base) {
            let removed = runtime(&dir).and_then(|runtime| remove(&runtime, &dir));
            if let Err(error) = removed {
                tracing::warn!(error = format!("{error:#}"), "Could not remove what a killed build left");
            }
        }
        let me = std::process::id();
        let dir = base.join(format!("build-{me}"));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Remembered::of(me).context("cannot read /proc")?.save(&owner(&dir))?;
        Ok(Self { runtime: Arc::new(runtime(&dir)?), dir })
    }

    /// What executes RUN.
    pub fn runner(&self) -> Arc<dyn RunStep> {
        Arc::new(RuntimeRunner::new(Arc::clone(&self.runtime), self.dir.join("output")))
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.runtime, &self.dir) {
            tracing::warn!(error = format!("{error:#}"), "Could not remove a build's runtime");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_builds_of_dead_processes_are_abandoned() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let me = Remembered::of(std::process::id()).expect("this process lives");
        for (name, process) in [("build-1", Some(me)), ("build-2", Some(Remembered { started: me.started + 1, ..me })), ("build-3", None)] {
            let dir = base.path().join(name);
            std::fs::create_dir(&dir).expect("created");
            if let Some(process) = process {
                process.save(&owner(&dir)).expect("written");
            }
        }
        std::fs::create_dir(base.path().join("other")).expect("created");
        let mut found = abandoned(base.path());
        found.sort();
        assert_eq!(found, [base.path().join("build-2"), base.path().join("build-3")]);
    }
}
