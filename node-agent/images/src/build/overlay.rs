//! An overlay mount that only one thread sees: it lives in a mount namespace of its own and goes with the thread, whatever happens.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::layers::RootfsLayers;

/// What is mounted for a step.
pub(crate) struct Views<'a> {
    /// The image so far, writable: changes go to `upper`.
    pub(crate) merged: &'a Path,
    /// Another stage or image, read-only.
    pub(crate) source: Option<&'a Path>,
}

/// Where a step's changes are collected: three directories side by side on one file system.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    merged: PathBuf,
    source: PathBuf,
}

impl Workspace {
    pub(crate) fn create(base: &Path) -> io::Result<Self> {
        let place = |name: &str| base.join(name);
        let workspace = Self { upper: place("upper"), work: place("work"), merged: place("merged"), source: place("source") };
        for directory in [&workspace.upper, &workspace.work, &workspace.merged, &workspace.source] {
            std::fs::create_dir(directory)?;
        }
        Ok(workspace)
    }
}

/// Runs `work` on a thread of its own with the layers mounted.
pub(crate) fn with_mounts<T: Send>(
    lower: &RootfsLayers,
    source: Option<&RootfsLayers>,
    workspace: &Workspace,
    work: impl FnOnce(Views<'_>) -> T + Send,
) -> io::Result<T> {
    let body = || {
        // After this, mounts and the working directory are the thread's own.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        let upper = format!(",upperdir={},workdir={}", workspace.upper.display(), workspace.work.display());
        mount_overlay(lower, &upper, MsFlags::empty(), &workspace.merged)?;
        if let Some(source) = source {
            mount_overlay(source, "", MsFlags::MS_RDONLY, &workspace.source)?;
        }
        Ok(work(Views { merged: &workspace.merged, source: source.map(|_| workspace.source.as_path()) }))
    };
    std::thread::scope(|scope| match scope.spawn(body).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Layers are named relative to their directory, because the kernel reads one page of options.
fn mount_overlay(layers: &RootfsLayers, upper: &str, flags: MsFlags, target: &Path) -> io::Result<()> {
    nix::unistd::chdir(&layers.base)?;
    let mut lower = layers.ids.clone();
    if upper.is_empty() && lower.len() == 1 {
        // overlayfs wants two layers where nothing is writable.
        lower.push("empty".to_owned());
    }
    // Without these options an upper directory is a plain difference: no renamed directories, no content left below.
    let options = format!("lowerdir={}{upper},redirect_dir=off,metacopy=off,index=off", lower.join(":"));
    Ok(mount(Some("overlay"), target, Some("overlay"), flags, Some(options.as_str()))?)
}
